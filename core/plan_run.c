/* Running a step, and a step as a line of text. */
#include "core/plan.h"

#include <stdio.h>
#include <string.h>

static const char *const op_names[RONDO_OP_COUNT] = {
    [RONDO_OP_EMBEDDING] = "embedding",
    [RONDO_OP_RMSNORM] = "rmsnorm",
    [RONDO_OP_QUANTIZE] = "quantize",
    [RONDO_OP_GEMM] = "gemm",
    [RONDO_OP_GROUPED_GEMM] = "grouped_gemm",
    [RONDO_OP_QKV] = "qkv",
    [RONDO_OP_LINEAR_ATTENTION] = "linear_attention",
    [RONDO_OP_SOFTMAX_ATTENTION] = "softmax_attention",
    [RONDO_OP_ACCEPT] = "accept",
    [RONDO_OP_GROUP_NORM_GATE] = "group_norm_gate",
    [RONDO_OP_ROUTER] = "router",
    [RONDO_OP_GEMM_ROUTER] = "gemm_router",
    [RONDO_OP_GROUP_TOKENS] = "group_tokens",
    [RONDO_OP_SWIGLU] = "swiglu",
    [RONDO_OP_COMBINE] = "combine",
    [RONDO_OP_ARGMAX] = "argmax",
    [RONDO_OP_PENALIZE] = "penalize",
    [RONDO_OP_CANDIDATES] = "candidates",
};

const char *rondo_op_name(enum rondo_op op)
{
    return (unsigned)op < RONDO_OP_COUNT ? op_names[op] : "unknown";
}

void rondo_step_run(const struct rondo_step *step, struct rondo_device *device)
{
    const union rondo_op_args *args = &step->args;
    const struct rondo_ops *ops = &device->ops;
    switch (step->op) {
    case RONDO_OP_EMBEDDING:
        ops->embedding(device, &args->embedding);
        break;
    case RONDO_OP_RMSNORM:
        ops->rmsnorm(device, &args->rmsnorm);
        break;
    case RONDO_OP_QUANTIZE:
        ops->quantize(device, &args->quantize);
        break;
    case RONDO_OP_GEMM:
        ops->gemm(device, &args->gemm);
        break;
    case RONDO_OP_GROUPED_GEMM:
        ops->grouped_gemm(device, &args->grouped_gemm);
        break;
    case RONDO_OP_QKV:
        ops->qkv(device, &args->qkv);
        break;
    case RONDO_OP_LINEAR_ATTENTION:
        ops->linear_attention(device, &args->linear_attention);
        break;
    case RONDO_OP_SOFTMAX_ATTENTION:
        ops->softmax_attention(device, &args->softmax_attention);
        break;
    case RONDO_OP_GROUP_NORM_GATE:
        ops->group_norm_gate(device, &args->group_norm_gate);
        break;
    case RONDO_OP_ROUTER:
        ops->router(device, &args->router);
        break;
    case RONDO_OP_GEMM_ROUTER:
        ops->gemm_router(device, &args->gemm_router);
        break;
    case RONDO_OP_GROUP_TOKENS:
        ops->group_tokens(device, &args->group_tokens);
        break;
    case RONDO_OP_SWIGLU:
        ops->swiglu(device, &args->swiglu);
        break;
    case RONDO_OP_COMBINE:
        ops->combine(device, &args->combine);
        break;
    case RONDO_OP_ARGMAX:
        ops->argmax(device, &args->argmax);
        break;
    case RONDO_OP_PENALIZE:
        ops->penalize(device, &args->penalize);
        break;
    case RONDO_OP_CANDIDATES:
        ops->candidates(device, &args->candidates);
        break;
    case RONDO_OP_ACCEPT: /* not a step of a plan */
    case RONDO_OP_COUNT:
        break;
    }
}

/* ---- as text ---------------------------------------------------------------------------------- */

static size_t append(char *line, size_t size, size_t at, const char *text)
{
    size_t length = strlen(text);
    if (at + length + 1 > size)
        length = at + 1 < size ? size - at - 1 : 0;
    memcpy(line + at, text, length);
    line[at + length] = '\0';
    return at + length;
}

static size_t append_values(const struct rondo_plan *plan, const struct rondo_step *step,
                            bool outputs, char *line, size_t size, size_t at)
{
    static const char *const rows[] = {[RONDO_ROWS_TOKENS] = "T",
                                       [RONDO_ROWS_ROUTED] = "R",
                                       [RONDO_ROWS_EXPERTS] = "R+T",
                                       [RONDO_ROWS_LOGITS] = "N",
                                       [RONDO_ROWS_OFFSETS] = "1"};
    const char *separator = "";
    for (int32_t i = 0; i < step->n_bindings; i++) {
        const struct rondo_binding *binding = &step->binding[i];
        const struct rondo_value *value = &plan->values[binding->value];
        if (outputs ? binding->use == RONDO_USE_IN : binding->use != RONDO_USE_IN)
            continue;
        enum rondo_rows kind = binding->piece == RONDO_PIECE_ROUTED   ? RONDO_ROWS_ROUTED
                               : binding->piece == RONDO_PIECE_SHARED ? RONDO_ROWS_TOKENS
                                                                      : value->rows;
        char text[96];
        snprintf(text, sizeof text, "%s%s%s[%s,%lld] %s", separator,
                 binding->use == RONDO_USE_IN_OUT ? "+=" : "", value->name, rows[kind],
                 (long long)(binding->columns ? binding->columns : value->columns),
                 rondo_dtype_name(value->dtype));
        at = append(line, size, at, text);
        separator = ", ";
    }
    return at;
}

static size_t append_weights(const struct rondo_step *step, char *line, size_t size, size_t at)
{
    const struct rondo_tensor *weights[4];
    int n = 0;
    if (step->op == RONDO_OP_GEMM) {
        for (int i = 0; i < step->args.gemm.n_parts; i++)
            weights[n++] = &step->args.gemm.part[i].weight;
    } else if (step->op == RONDO_OP_GROUPED_GEMM) {
        for (int i = 0; i < step->args.grouped_gemm.n_parts; i++)
            weights[n++] = step->args.grouped_gemm.weight[i];
    }
    for (int i = 0; i < n; i++) {
        char text[96];
        bool mixed = step->op == RONDO_OP_GROUPED_GEMM && step->args.grouped_gemm.mixed;
        snprintf(text, sizeof text, "%s%s[%lld,%lld]%s", i ? " " : "  * ",
                 mixed ? "mixed" : rondo_dtype_name(weights[i]->dtype),
                 (long long)weights[i]->shape[0], (long long)weights[i]->shape[1],
                 !weights[i]->scale || mixed   ? ""
                 : weights[i]->scale_rows == 1 ? "/row"
                                               : "/block");
        at = append(line, size, at, text);
    }
    return at;
}

/* Where a step runs that is not run by itself. */
static size_t append_fusion(const struct rondo_plan *plan, int32_t index, char *line, size_t size,
                            size_t at)
{
    for (int32_t i = plan->n_fusions - 1; i >= 0; i--) { /* the one that covers most comes last */
        const struct rondo_fusion *fusion = &plan->fusions[i];
        for (int32_t j = 1; fusion->enabled && j < fusion->n_steps; j++) {
            if (fusion->steps[j] != index)
                continue;
            char text[48];
            snprintf(text, sizeof text, "  (with step %d)", fusion->steps[0]);
            return append(line, size, at, text);
        }
    }
    return at;
}

void rondo_step_print(const struct rondo_plan *plan, int32_t index, char *line, size_t size)
{
    const struct rondo_step *step = &plan->steps[index];
    char head[96];
    if (step->layer >= 0)
        snprintf(head, sizeof head, "%4d  layer %2d  %-17s ", index, step->layer, step->label);
    else
        snprintf(head, sizeof head, "%4d            %-17s ", index, step->label);
    size_t at = append(line, size, 0, head);
    at = append_values(plan, step, false, line, size, at);
    at = append_weights(step, line, size, at);
    at = append(line, size, at, " -> ");
    at = append_values(plan, step, true, line, size, at);
    at = append_fusion(plan, index, line, size, at);
    const char *path = plan->device && plan->device->path
                           ? plan->device->path(plan->device, step->op, &step->args)
                           : NULL;
    if (path) {
        at = append(line, size, at, "  by ");
        append(line, size, at, path);
    }
}
