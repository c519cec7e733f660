/* Fused steps change no bit: runs with them against runs of every step by itself. */
#include "core/context.h"
#include "tests/model/expect.h"
#include "tests/model/properties.h"

#include <stdlib.h>

static int32_t enabled_fusions(const struct rondo_context *context)
{
    int32_t n = 0;
    for (int32_t i = 0; i < context->plan.n_fusions; i++)
        n += context->plan.fusions[i].enabled;
    return n;
}

/* Steps that some fusion covers. */
static bool is_fused(const struct rondo_plan *plan, int32_t step)
{
    for (int32_t i = 0; i < plan->n_fusions; i++)
        for (int32_t j = 0; plan->fusions[i].enabled && j < plan->fusions[i].n_steps; j++)
            if (plan->fusions[i].steps[j] == step)
                return true;
    return false;
}

void property_fusions(struct lab *lab)
{
    int32_t tokens[90];
    size_t n = 70 + lab_random(lab, 20);
    lab_random_tokens(lab, tokens, n);
    struct rondo_context_options options = lab_options(lab);
    struct rondo_context *context = lab_context(lab, &options);
    int32_t before = enabled_fusions(context);
    for (int32_t i = 0; i < context->plan.n_fusions; i++)
        context->plan.fusions[i].enabled = false;
    struct rondo_session *session = lab_session(lab, context);
    float *want = malloc(n * lab->vocab_size * sizeof *want), *got = lab_logits(lab, tokens, n);
    lab_run(lab, context, session, tokens, n, want);
    lab_compare(lab, "with fused steps", got, want, n);

    /* Which there are: of every router and of what groups its ids; of every combine but the last layer's; of every code but the attention's of
     * softmax layers, which quantise by themselves. */
    const struct rondo_plan *plan = &lab->plain->plan;
    bool all = enabled_fusions(lab->plain) == plan->n_fusions; /* else the device has less */
    for (int32_t i = 0; i + 1 < plan->layer_first[plan->config->num_hidden_layers]; i++) {
        const struct rondo_step *step = &plan->steps[i];
        bool last = step->layer == plan->config->num_hidden_layers - 1;
        if (step->op == RONDO_OP_COMBINE && !last && all)
            EXPECT(is_fused(plan, i), "%s: step %d, combine", lab->name, i);
        if ((step->op == RONDO_OP_ROUTER || step->op == RONDO_OP_GROUP_TOKENS) && all)
            EXPECT(is_fused(plan, i), "%s: step %d, %s", lab->name, i, step->label);
        if (step->op != RONDO_OP_QUANTIZE || !all)
            continue;
        bool attention = plan->steps[i - 1].op == RONDO_OP_SOFTMAX_ATTENTION;
        EXPECT(is_fused(plan, i) == !attention, "%s: step %d, quantize", lab->name, i);
    }
    EXPECT(before == enabled_fusions(lab->plain), "%d fusions", before);
    free(got);
    free(want);
    rondo_session_destroy(session);
    rondo_context_destroy(context);
}
