/* Fusions: single ops that do what several steps of a plan do, to the same bits. The steps stay as they are, for
 * runs that do not cover them all, for devices that can not do the fused op, and for whoever looks at every value. */
#include "core/plan.h"

#include <stddef.h>
#include <stdlib.h>

#define FIELD(member) ((uint32_t)offsetof(union rondo_op_args, member))

static struct rondo_fusion *add_fusion(struct rondo_plan *plan, int32_t first)
{
    if (plan->n_fusions == plan->fusions_capacity) {
        int32_t capacity = plan->fusions_capacity ? plan->fusions_capacity * 2 : 16;
        void *grown = realloc(plan->fusions, (size_t)capacity * sizeof *plan->fusions);
        if (!grown) {
            plan->out_of_memory = true;
            return NULL;
        }
        plan->fusions = grown;
        plan->fusions_capacity = capacity;
    }
    struct rondo_fusion *fusion = &plan->fusions[plan->n_fusions];
    *fusion = (struct rondo_fusion){.step = plan->steps[first],
                                    .steps = {first},
                                    .n_steps = 1,
                                    .next = plan->steps[first].fusion};
    plan->steps[first].fusion = plan->n_fusions++;
    return fusion;
}

static struct rondo_binding *find_binding(struct rondo_step *step, uint32_t field)
{
    for (int32_t i = 0; i < step->n_bindings; i++) {
        if (step->binding[i].field == field)
            return &step->binding[i];
    }
    return NULL;
}

static void add_output(struct rondo_step *step, uint32_t field, int32_t value)
{
    step->binding[step->n_bindings++] =
        (struct rondo_binding){.field = field, .value = value, .use = RONDO_USE_OUT};
}

/* The first step that quantises a value; -1: none. `others`: whether further steps read it. */
static int32_t find_quantize(const struct rondo_plan *plan, int32_t value, bool *others)
{
    int32_t found = -1;
    *others = false;
    for (int32_t i = plan->values[value].first; i <= plan->values[value].last; i++) {
        const struct rondo_step *step = &plan->steps[i];
        for (int32_t j = 0; j < step->n_bindings; j++) {
            if (step->binding[j].value != value || step->binding[j].use == RONDO_USE_OUT)
                continue;
            if (step->op == RONDO_OP_QUANTIZE && !step->args.quantize.power_of_two && found < 0)
                found = i;
            else
                *others = true;
        }
    }
    return found;
}

/* Codes are made earlier than by their own step: their life begins there. */
static int32_t codes_of(struct rondo_plan *plan, int32_t quantize, int32_t first)
{
    int32_t codes = find_binding(&plan->steps[quantize], FIELD(quantize.out))->value;
    if (plan->values[codes].first > first)
        plan->values[codes].first = first;
    return codes;
}

/* Step `index` makes a value that another step quantises. */
static void fuse_quantize(struct rondo_plan *plan, int32_t index)
{
    static const struct {
        enum rondo_op op;
        uint32_t out;
        bool both; /* can store the value and its codes */
    } makers[] = {
        {RONDO_OP_RMSNORM, FIELD(rmsnorm.out), true},
        {RONDO_OP_GROUP_NORM_GATE, FIELD(group_norm_gate.out), false},
        {RONDO_OP_SWIGLU, FIELD(swiglu.out), false},
    };
    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++) {
        bool others;
        if (plan->steps[index].op != makers[i].op)
            continue;
        int32_t value = find_binding(&plan->steps[index], makers[i].out)->value;
        int32_t quantize = find_quantize(plan, value, &others);
        if (quantize < 0 || (others && !makers[i].both))
            return;
        struct rondo_fusion *fusion = add_fusion(plan, index);
        if (!fusion)
            return;
        int32_t codes = codes_of(plan, quantize, index);
        if (others)
            add_output(&fusion->step, FIELD(rmsnorm.codes), codes);
        else
            find_binding(&fusion->step, makers[i].out)->value = codes;
        fusion->steps[fusion->n_steps++] = quantize;
    }
}

/* Step `index` adds to the hidden state what the next one norms. */
static void fuse_norm(struct rondo_plan *plan, int32_t index)
{
    const struct rondo_step *combine = &plan->steps[index], *norm = combine + 1;
    bool others;
    if (combine->op != RONDO_OP_COMBINE || norm->op != RONDO_OP_RMSNORM || norm->layer < 0)
        return;
    struct rondo_fusion *fusion = add_fusion(plan, index);
    if (!fusion)
        return;
    int32_t out = find_binding((struct rondo_step *)norm, FIELD(rmsnorm.out))->value;
    int32_t quantize = find_quantize(plan, out, &others);
    fusion->steps[fusion->n_steps++] = index + 1;
    fusion->step.args.combine.norm_weight = norm->args.rmsnorm.weight;
    fusion->step.args.combine.norm_eps = norm->args.rmsnorm.eps;
    if (quantize >= 0) {
        int32_t codes = codes_of(plan, quantize, index);
        fusion->steps[fusion->n_steps++] = quantize;
        if (others)
            add_output(&fusion->step, FIELD(combine.norm_codes), codes);
        else
            out = codes;
    }
    add_output(&fusion->step, FIELD(combine.norm), out);
    if (plan->values[out].first > index)
        plan->values[out].first = index;
}

/* Adds a step that becomes the part at `field` of a fused op. */
static void add_part(struct rondo_plan *plan, struct rondo_fusion *fusion, int32_t index,
                     uint32_t field)
{
    const struct rondo_step *part = &plan->steps[index];
    fusion->steps[fusion->n_steps++] = index;
    for (int32_t i = 0; i < part->n_bindings; i++) {
        struct rondo_binding binding = part->binding[i];
        binding.field += field; /* its own arguments begin at 0 */
        fusion->step.binding[fusion->step.n_bindings++] = binding;
        if (binding.use == RONDO_USE_OUT && plan->values[binding.value].first > fusion->steps[0])
            plan->values[binding.value].first = fusion->steps[0];
    }
}

/* Step `index` is a product whose first part makes the logits of a later step of its layer; what that routes, the step
 * after it groups. */
static void fuse_router(struct rondo_plan *plan, int32_t index)
{
    struct rondo_step *gemm = &plan->steps[index];
    if (gemm->op != RONDO_OP_GEMM || gemm->args.gemm.residual)
        return;
    int32_t logits =
        find_binding(gemm, FIELD(gemm.part) + offsetof(struct rondo_gemm_part, out))->value;
    int32_t at = plan->values[logits].last;
    struct rondo_step *router = &plan->steps[at];
    if (router->op != RONDO_OP_ROUTER || router[1].op != RONDO_OP_GROUP_TOKENS ||
        find_binding(router, FIELD(router.logits))->value != logits)
        return;
    struct rondo_fusion *fusion = add_fusion(plan, index);
    if (!fusion)
        return;
    fusion->step.op = RONDO_OP_GEMM_ROUTER; /* its gemm comes first: bindings stay */
    fusion->step.args.gemm_router.router = router->args.router;
    fusion->step.args.gemm_router.group = router[1].args.group_tokens;
    add_part(plan, fusion, at, FIELD(gemm_router.router));
    add_part(plan, fusion, at + 1, FIELD(gemm_router.group));
}

void rondo_plan_fuse(struct rondo_plan *plan)
{
    for (int32_t i = 0; i + 1 < plan->n_steps && !plan->out_of_memory; i++) {
        fuse_quantize(plan, i);
        fuse_norm(plan, i);
        fuse_router(plan, i);
    }
}

const struct rondo_fusion *rondo_plan_fusion(const struct rondo_plan *plan, int32_t step,
                                             int32_t end)
{
    for (int32_t i = plan->steps[step].fusion; i >= 0; i = plan->fusions[i].next) {
        const struct rondo_fusion *fusion = &plan->fusions[i];
        if (fusion->enabled && fusion->steps[fusion->n_steps - 1] < end)
            return fusion;
    }
    return NULL;
}
