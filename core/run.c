/* One run of a context: the batch is filled on the host, goes to the device in one copy, and the steps of the
 * plan run over it. Decoding, where every sequence has one token, is recorded where the device can, and
 * replayed: the layers and, where the host reads nothing of the logits but what is chosen from them, their tail. */
#include "core/context.h"
#include "core/error.h"
#include "core/sampler.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- layout of the batch ------------------------------------------------------------------------- */

/* Byte offsets of the batch's arrays, for T tokens, B sequences, `stride` pages each and N rows of logits. */
struct layout {
    size_t sequences, page_table, token, position, sequence_of, parent, logit_row, size;
};

static size_t round_up(size_t size)
{
    return (size + 15) & ~(size_t)15;
}

static struct layout lay_out(size_t T, size_t B, size_t stride, size_t N)
{
    struct layout layout;
    layout.sequences = 0;
    layout.page_table = round_up(B * sizeof(struct rondo_batch_sequence));
    layout.token = layout.page_table + round_up(B * stride * sizeof(int32_t));
    layout.position = layout.token + round_up(T * sizeof(int32_t));
    layout.sequence_of = layout.position + round_up(T * sizeof(int32_t));
    layout.parent = layout.sequence_of + round_up(T * sizeof(int32_t));
    layout.logit_row = layout.parent + round_up(T * sizeof(int32_t));
    layout.size = layout.logit_row + round_up(N * sizeof(int32_t));
    return layout;
}

size_t rondo_run_bytes(const struct rondo_context_options *settings)
{
    size_t pages = ((size_t)settings->max_context + RONDO_CHUNK - 1) / RONDO_CHUNK;
    size_t T = (size_t)settings->max_batch_tokens;
    return lay_out(T, (size_t)settings->max_sessions, pages, T).size;
}

/* ---- filling ------------------------------------------------------------------------------------- */

void rondo_run_begin(struct rondo_context *context)
{
    context->run.n_tokens = context->run.n_sequences = context->run.n_logits = 0;
}

void rondo_run_add(struct rondo_context *context, struct rondo_session *session,
                   const int32_t *tokens, const int32_t *parents, int32_t n, int32_t n_logits)
{
    int32_t first = context->run.n_tokens, sequence = context->run.n_sequences++;
    context->run.sequences[sequence] = (struct rondo_batch_sequence){.first_token = first,
                                                                     .n_tokens = n,
                                                                     .start = session->length,
                                                                     .slot = session->slot,
                                                                     .is_draft = parents != NULL};
    for (int32_t i = 0; i < n; i++) {
        int32_t position = session->length + i;
        if (parents)
            position =
                parents[i] < 0 ? session->length : context->run.position[first + parents[i]] + 1;
        context->run.token[first + i] = tokens[i];
        context->run.position[first + i] = position;
        context->run.sequence_of[first + i] = sequence;
        context->run.parent[first + i] = parents ? parents[i] : -1;
    }
    for (int32_t i = n - n_logits; i < n; i++)
        context->run.logit_row[context->run.n_logits++] = first + i;
    context->run.n_tokens += n;
    context->run.page_rows[sequence] = session->page_table;
    context->run.n_pages[sequence] = session->n_pages;
}

/* What the arrays of the batch hold at most. */
static void set_bounds(struct rondo_context *context)
{
    struct rondo_batch *batch = &context->plan.batch;
    batch->max_sequence_tokens = batch->max_length = batch->n_drafts = 0;
    for (int32_t s = 0; s < context->run.n_sequences; s++) {
        const struct rondo_batch_sequence *sequence = &context->run.sequences[s];
        int32_t n = sequence->n_tokens, length = sequence->start + n;
        if (n > batch->max_sequence_tokens)
            batch->max_sequence_tokens = n;
        if (length > batch->max_length)
            batch->max_length = length;
        batch->n_drafts += sequence->is_draft;
    }
    if (batch->max_length > context->plan.limits.context)
        batch->max_length =
            context->plan.limits.context; /* nodes of a tree that are side by side */
}

/* ---- classes of decoding runs -------------------------------------------------------------------- */

/* Sizes that share a recording: the padding that brings a run to its class is at most a quarter of it. */
static int32_t class_of_rows(int32_t n)
{
    int32_t unit = n <= 16 ? 1 : n <= 64 ? 4 : n <= 256 ? 16 : 64;
    return (n + unit - 1) / unit * unit;
}

static int32_t class_of_length(int32_t length)
{
    int32_t class = RONDO_SEGMENT;
    while (class < length && class <= INT32_MAX / 2)
        class *= 2;
    return class;
}

static bool is_decode(const struct rondo_context *context)
{
    return context->plan.batch.max_sequence_tokens == 1 && !context->plan.batch.n_drafts &&
           context->run.n_tokens == context->run.n_sequences;
}

/* Whether each sequence wants its row of logits, all fit a slice, and the host reads none of them as it is. */
static bool has_tail(const struct rondo_context *context)
{
    if (context->run.n_logits != context->run.n_sequences ||
        context->run.rows > context->plan.logit_rows)
        return false;
    for (int32_t i = 0; i < context->run.n_logits; i++) {
        if (context->run.logit_targets[i].logits)
            return false;
    }
    return true;
}

/* Fills the run up to its class with sequences that are padding, and loosens its bounds. Rows of logits that are
 * padding are made from the first token. */
static void pad(struct rondo_context *context)
{
    const struct rondo_context_options *settings = &context->settings;
    struct rondo_batch *batch = &context->plan.batch;
    int32_t most = settings->max_sessions < settings->max_batch_tokens ? settings->max_sessions
                                                                       : settings->max_batch_tokens;
    int32_t rows = class_of_rows(context->run.n_tokens);
    rows = rows < most ? rows : most;
    for (int32_t i = context->run.n_tokens; i < rows; i++) {
        context->run.sequences[i] =
            (struct rondo_batch_sequence){.first_token = i, .n_tokens = 1, .slot = -1};
        context->run.token[i] = context->run.position[i] = 0;
        context->run.sequence_of[i] = i;
        context->run.parent[i] = -1;
        context->run.n_pages[i] = 0;
    }
    context->run.rows = rows;
    context->run.has_tail = has_tail(context);
    for (int32_t i = context->run.n_logits; context->run.has_tail && i < rows; i++)
        context->run.logit_row[i] = 0;
    batch->max_length = class_of_length(batch->max_length);
    if (batch->max_length > context->plan.limits.context)
        batch->max_length = context->plan.limits.context;
}

/* ---- to the device ------------------------------------------------------------------------------- */

static void pack(struct rondo_context *context, const struct layout *layout, size_t T, size_t B,
                 size_t N)
{
    char *packed = context->run.packed;
    size_t stride = (size_t)context->plan.batch.page_stride;
    const struct {
        size_t at;
        const int32_t *from;
    } arrays[] = {
        {layout->token, context->run.token},
        {layout->position, context->run.position},
        {layout->sequence_of, context->run.sequence_of},
        {layout->parent, context->run.parent},
    };
    memcpy(packed + layout->sequences, context->run.sequences, B * sizeof *context->run.sequences);
    for (size_t s = 0; s < B; s++) {
        size_t n = (size_t)context->run.n_pages[s];
        int32_t *row = (int32_t *)(packed + layout->page_table) + s * stride;
        n = n < stride ? n : stride;
        if (n)
            memcpy(row, context->run.page_rows[s], n * sizeof *row);
        memset(row + n, 0, (stride - n) * sizeof *row);
    }
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++)
        memcpy(packed + arrays[i].at, arrays[i].from, T * sizeof(int32_t));
    memcpy(packed + layout->logit_row, context->run.logit_row, N * sizeof(int32_t));
}

static void upload(struct rondo_context *context, bool recordable)
{
    struct rondo_plan *plan = &context->plan;
    struct rondo_batch *batch = &plan->batch;
    set_bounds(context);
    rondo_plan_extend_rope(plan, batch->max_length);
    context->run.rows = context->run.n_tokens;
    context->run.recordable = recordable && is_decode(context);
    context->run.has_tail = false;
    if (context->run.recordable)
        pad(context);
    size_t T = (size_t)context->run.rows;
    size_t B = (size_t)(context->run.recordable ? context->run.rows : context->run.n_sequences);
    size_t N = (size_t)(context->run.has_tail ? context->run.rows : context->run.n_logits);
    batch->n_tokens = (int32_t)T;
    batch->n_sequences = (int32_t)B;
    batch->page_stride = (batch->max_length + RONDO_CHUNK - 1) / RONDO_CHUNK;
    struct layout layout = lay_out(T, B, (size_t)batch->page_stride, N);
    pack(context, &layout, T, B, N);
    char *memory = context->batch_memory;
    batch->sequences = (const struct rondo_batch_sequence *)(memory + layout.sequences);
    batch->page_table = (const int32_t *)(memory + layout.page_table);
    batch->token = (const int32_t *)(memory + layout.token);
    batch->position = (const int32_t *)(memory + layout.position);
    batch->sequence_of = (const int32_t *)(memory + layout.sequence_of);
    batch->parent = (const int32_t *)(memory + layout.parent);
    plan->logit_row = (const int32_t *)(memory + layout.logit_row);
    context->device->write(context->device, memory, context->run.packed, layout.size);
    rondo_plan_set_rows(plan, 0, plan->layer_first[plan->config->num_hidden_layers],
                        context->run.rows, 0);
}

void rondo_run_upload(struct rondo_context *context)
{
    upload(context, false);
}

/* ---- steps --------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void run_step(struct rondo_context *context, const struct rondo_step *step)
{
    double start = context->timing ? now() : 0;
    rondo_step_run(step, context->device);
    if (context->timing) {
        context->device->synchronize(context->device);
        context->times[step->label_index].seconds += now() - start;
        context->times[step->label_index].calls++;
    }
}

/* Steps that an earlier one has done already; few at a time. */
struct done {
    int32_t steps[8];
    int32_t n;
};

static bool take_done(struct done *done, int32_t step)
{
    for (int32_t i = 0; i < done->n; i++) {
        if (done->steps[i] != step)
            continue;
        done->steps[i] = done->steps[--done->n];
        return true;
    }
    return false;
}

void rondo_run_steps(struct rondo_context *context, int32_t first, int32_t end)
{
    const struct rondo_plan *plan = &context->plan;
    struct done done = {.n = 0};
    for (int32_t i = first; i < end; i++) {
        if (take_done(&done, i))
            continue;
        const struct rondo_fusion *fusion = NULL;
        if (!context->checks.on && done.n + 2 <= (int32_t)(sizeof done.steps / sizeof *done.steps))
            fusion = rondo_plan_fusion(plan, i, end);
        run_step(context, fusion ? &fusion->step : &plan->steps[i]);
        for (int32_t j = 1; fusion && j < fusion->n_steps; j++)
            done.steps[done.n++] = fusion->steps[j];
        if (context->checks.on && rondo_run_check_step(context, i))
            return;
    }
}

/* The entry of these parts of the run's class; when all are taken, one of them makes place. */
static struct rondo_decode_class *find_class(struct rondo_context *context, unsigned parts)
{
    const struct rondo_batch *batch = &context->plan.batch;
    for (int32_t i = 0; i < context->n_classes; i++) {
        struct rondo_decode_class *class = &context->classes[i];
        if (class->rows == context->run.rows && class->max_length == batch->max_length &&
            class->parts == parts)
            return class;
    }
    struct rondo_decode_class *class;
    if (context->n_classes < RONDO_DECODE_CLASSES) {
        class = &context->classes[context->n_classes++];
    } else {
        class = &context->classes[context->next_class++ % RONDO_DECODE_CLASSES];
        context->device->record_release(context->device, class->recording);
    }
    *class = (struct rondo_decode_class){
        .rows = context->run.rows, .max_length = batch->max_length, .parts = parts};
    return class;
}

/* The logits among the parts are of the first slice, whose rows have been set. */
static void run_ops(struct rondo_context *context, unsigned parts)
{
    const struct rondo_plan *plan = &context->plan;
    int32_t first_of_logits = plan->layer_first[plan->config->num_hidden_layers];
    if (parts & RONDO_RUN_LAYERS)
        rondo_run_steps(context, 0, first_of_logits);
    if (parts & RONDO_RUN_LOGITS)
        rondo_run_steps(context, first_of_logits, plan->argmax_step);
    rondo_sampling_run(context, 0, parts);
}

/* The first run of a class calls the ops, so that whatever they set up once is there when the second records
 * them. */
static bool replay(struct rondo_context *context, unsigned parts)
{
    struct rondo_device *device = context->device;
    struct rondo_decode_class *class = find_class(context, parts);
    if (class->recording) {
        if (device->replay(device, class->recording))
            return true;
        device->record_release(device, class->recording);
        class->recording = NULL;
        class->was_run = false;
    }
    if (!class->was_run) {
        class->was_run = true;
        return false;
    }
    if (device->record_begin(device)) {
        run_ops(context, parts);
        class->recording = device->record_end(device);
    }
    if (!class->recording) {
        context->no_recordings = true; /* from now on runs have the size they have */
        rondo_log(RONDO_LOG_WARNING,
                  "decoding can not be recorded on %s: its ops are called one by one",
                  device->description);
        return false;
    }
    return device->replay(device, class->recording);
}

static void run_parts(struct rondo_context *context, unsigned parts)
{
    if (!context->run.recordable || context->no_recordings || !replay(context, parts))
        run_ops(context, parts);
}

static void set_logit_rows(struct rondo_context *context, int32_t first, int32_t rows)
{
    struct rondo_plan *plan = &context->plan;
    int32_t first_of_logits = plan->layer_first[plan->config->num_hidden_layers];
    plan->steps[first_of_logits].args.rmsnorm.rows = plan->logit_row + first;
    context->run.first_logit = first;
    rondo_plan_set_rows(plan, first_of_logits, plan->n_steps, context->run.rows, rows);
}

/* Whether ids that were seen must be found, which takes time where histories are long. */
static bool finds_seen(const struct rondo_context *context)
{
    for (int32_t i = 0; i < context->run.n_logits; i++) {
        const struct rondo_sampler *sampler = context->run.logit_targets[i].sampler;
        if (sampler && rondo_sampler_sampling(sampler).penalty != 1.0f)
            return true;
    }
    return false;
}

/* A run with a tail. Its two halves are one recording, unless the host has to find what was seen: it does so while
 * the device is at the layers. Arguments of the tail that vary take the bounds of the class. */
static void run_with_tail(struct rondo_context *context)
{
    struct rondo_plan *plan = &context->plan;
    struct rondo_op_penalize *penalize = &plan->steps[plan->penalize_step].args.penalize;
    const struct rondo_logit_target *targets = context->run.logit_targets;
    int32_t n = context->run.n_logits;
    unsigned parts = RONDO_RUN_LAYERS;
    if (finds_seen(context)) {
        run_parts(context, parts);
        parts = 0;
    }
    rondo_sampling_upload(context, n, context->run.rows, targets);
    parts |= RONDO_RUN_LOGITS | rondo_sampling_parts(context, 0, n, targets);
    penalize->max_seen = plan->batch.max_length < context->sampling.seen_capacity
                             ? plan->batch.max_length
                             : context->sampling.seen_capacity;
    set_logit_rows(context, 0, context->run.rows);
    run_parts(context, parts);
    rondo_sampling_take(context, 0, n, parts, targets);
}

void rondo_run_batch(struct rondo_context *context)
{
    upload(context, context->device->record_begin && !context->no_recordings && !context->timing &&
                        !context->checks.on);
    if (context->run.has_tail) {
        run_with_tail(context);
    } else {
        run_parts(context, RONDO_RUN_LAYERS);
        rondo_run_logits(context, 0, context->run.n_logits, context->run.logit_targets);
    }
}

void rondo_run_logits(struct rondo_context *context, int32_t first_row, int32_t n,
                      const struct rondo_logit_target *targets)
{
    struct rondo_plan *plan = &context->plan;
    struct rondo_device *device = context->device;
    size_t row_size = (size_t)plan->config->vocab_size * sizeof(float);
    const char *logits = plan->values[plan->logits].data;
    rondo_sampling_upload(context, n, n, targets);
    for (int32_t done = 0; done < n;) {
        int32_t rows = n - done < plan->logit_rows ? n - done : plan->logit_rows;
        set_logit_rows(context, first_row + done, rows);
        run_ops(context, RONDO_RUN_LOGITS);
        for (int32_t i = 0; i < rows; i++) {
            if (targets[done + i].logits)
                device->read(device, targets[done + i].logits, logits + (size_t)i * row_size,
                             row_size);
        }
        unsigned parts = rondo_sampling_parts(context, done, rows, targets + done);
        rondo_sampling_run(context, done, parts);
        rondo_sampling_take(context, done, rows, parts, targets + done);
        done += rows;
    }
}

int rondo_run_end(struct rondo_context *context, struct rondo_error *error)
{
    context->device->synchronize(context->device);
    int status = rondo_device_status(context->device, error);
    if (!status && context->checks.found.status) {
        status = context->checks.found.status;
        if (error)
            *error = context->checks.found;
        context->checks.found.status = RONDO_OK;
    }
    return status;
}

void rondo_run_release(struct rondo_context *context)
{
    for (int32_t i = 0; i < context->n_classes; i++)
        context->device->record_release(context->device, context->classes[i].recording);
    context->n_classes = 0;
}
