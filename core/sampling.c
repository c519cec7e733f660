/* Choosing from rows of logits where they are: the ids of the largest, and picks of samplers, which take the largest
 * few hundred of a row from the device and rarely the row. */
#include "core/context.h"
#include "core/sampler.h"

#include <string.h>

int32_t rondo_seen_capacity(const struct rondo_context_options *settings)
{
    return settings->max_context < RONDO_SEEN_MAX ? settings->max_context : RONDO_SEEN_MAX;
}

size_t rondo_sampling_bytes(const struct rondo_context_options *settings)
{
    size_t T = (size_t)settings->max_batch_tokens, B = (size_t)settings->max_sessions;
    size_t sampled = T < B ? T : B; /* one row of a session at most */
    return T * sizeof(struct rondo_sampling) +
           sampled * (size_t)rondo_seen_capacity(settings) * sizeof(int32_t);
}

void rondo_sampling_upload(struct rondo_context *context, int32_t n, int32_t n_rows,
                           const struct rondo_logit_target *targets)
{
    struct rondo_plan *plan = &context->plan;
    struct rondo_sampling *rows = context->sampling.rows;
    int32_t *seen = (int32_t *)(rows + n_rows), capacity = context->sampling.seen_capacity;
    int32_t n_seen = 0, max_seen = 0, sampled = 0;
    for (int32_t i = 0; i < n; i++) {
        const struct rondo_logit_target *target = &targets[i];
        rows[i] = (struct rondo_sampling){.wanted = 0, .penalty = 1};
        if (!target->sampler)
            continue;
        sampled++;
        int32_t count = rondo_sampler_seen(target->sampler, target->history, target->n_history,
                                           seen + n_seen, capacity);
        if (count < 0)
            continue; /* the row will be read */
        rows[i] = rondo_sampler_sampling(target->sampler);
        rows[i].first_seen = n_seen;
        rows[i].n_seen = count;
        n_seen += count;
        max_seen = count > max_seen ? count : max_seen;
    }
    plan->steps[plan->penalize_step].args.penalize.max_seen = max_seen;
    if (!sampled)
        return;
    for (int32_t i = n; i < n_rows; i++)
        rows[i] = (struct rondo_sampling){.wanted = 0, .penalty = 1};
    char *memory = context->sampling.memory;
    size_t head = (size_t)n_rows * sizeof *rows;
    context->device->write(context->device, memory, rows, head + (size_t)n_seen * sizeof *seen);
    plan->sampling = (const struct rondo_sampling *)memory;
    plan->seen = (const int32_t *)(memory + head);
}

unsigned rondo_sampling_parts(const struct rondo_context *context, int32_t first, int32_t rows,
                              const struct rondo_logit_target *targets)
{
    const struct rondo_plan *plan = &context->plan;
    unsigned parts = 0;
    for (int32_t i = 0; i < rows; i++) {
        if (targets[i].best && !targets[i].sampler)
            parts |= RONDO_RUN_BEST;
        if (targets[i].sampler && context->sampling.rows[first + i].wanted)
            parts |= RONDO_RUN_CANDIDATES;
    }
    if (parts & RONDO_RUN_CANDIDATES && plan->steps[plan->penalize_step].args.penalize.max_seen)
        parts |= RONDO_RUN_PENALIZE;
    return parts;
}

void rondo_sampling_run(struct rondo_context *context, int32_t first, unsigned parts)
{
    struct rondo_plan *plan = &context->plan;
    struct rondo_op_penalize *penalize = &plan->steps[plan->penalize_step].args.penalize;
    if (parts & RONDO_RUN_BEST)
        rondo_run_steps(context, plan->argmax_step, plan->argmax_step + 1);
    if (parts & RONDO_RUN_PENALIZE) {
        penalize->sampling = plan->sampling + first;
        penalize->seen = plan->seen;
        rondo_run_steps(context, plan->penalize_step, plan->penalize_step + 1);
    }
    if (parts & RONDO_RUN_CANDIDATES) {
        plan->steps[plan->candidates_step].args.candidates.sampling = plan->sampling + first;
        rondo_run_steps(context, plan->candidates_step, plan->candidates_step + 1);
    }
}

/* One row's pick, from the candidates if they decide. What a run that has failed gave is passed over. */
static void pick(struct rondo_context *context, int32_t row, bool wanted,
                 const struct rondo_candidates *candidates, const struct rondo_logit_target *target)
{
    const struct rondo_plan *plan = &context->plan;
    struct rondo_device *device = context->device;
    struct rondo_sampler *sampler = target->sampler;
    *target->best = -1;
    if (context->checks.found.status || rondo_device_status(device, NULL) ||
        (wanted && rondo_sampler_pick_candidates(sampler, candidates, target->best)))
        return;
    size_t row_size = (size_t)plan->config->vocab_size * sizeof(float);
    const char *logits = plan->values[plan->logits].data;
    device->read(device, rondo_sampler_row(sampler), logits + (size_t)row * row_size, row_size);
    *target->best = rondo_sampler_pick_row(sampler, wanted ? NULL : target->history,
                                           wanted ? 0 : target->n_history);
}

void rondo_sampling_take(struct rondo_context *context, int32_t first, int32_t rows, unsigned parts,
                         const struct rondo_logit_target *targets)
{
    const struct rondo_plan *plan = &context->plan;
    struct rondo_device *device = context->device;
    struct rondo_candidates *candidates = context->sampling.candidates;
    int32_t ids[RONDO_LOGIT_ROWS];
    if (parts & RONDO_RUN_BEST)
        device->read(device, ids, plan->values[plan->best].data, (size_t)rows * sizeof *ids);
    if (parts & RONDO_RUN_CANDIDATES)
        device->read(device, candidates, plan->values[plan->candidates].data,
                     (size_t)rows * sizeof *candidates);
    for (int32_t i = 0; i < rows; i++) {
        if (targets[i].sampler)
            pick(context, i, context->sampling.rows[first + i].wanted, &candidates[i], &targets[i]);
        else if (targets[i].best)
            *targets[i].best = ids[i];
    }
}
