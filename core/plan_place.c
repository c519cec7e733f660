/* The plan in a device's memory: the arena laid out from the lives of values, constants, bindings. */
#include "core/plan.h"
#include "core/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* RoPE rows that are made at a time. */
#define ROPE_ROWS 1024

static size_t round_up(size_t size)
{
    return (size + 255) & ~(size_t)255;
}

int64_t rondo_plan_rows(const struct rondo_plan *plan, enum rondo_rows rows, int32_t tokens,
                        int32_t logit_rows)
{
    switch (rows) {
    case RONDO_ROWS_TOKENS:
        return tokens;
    case RONDO_ROWS_ROUTED:
        return (int64_t)tokens * plan->config->num_experts_per_tok;
    case RONDO_ROWS_EXPERTS:
        return (int64_t)tokens * (plan->config->num_experts_per_tok + 1);
    case RONDO_ROWS_LOGITS:
        return logit_rows;
    case RONDO_ROWS_OFFSETS:
        return 1;
    }
    return 0;
}

/* ---- arena ------------------------------------------------------------------------------------ */

static size_t scale_columns(const struct rondo_value *value)
{
    return value->dtype == RONDO_F8_E4M3
               ? (size_t)((value->columns + RONDO_BLOCK - 1) / RONDO_BLOCK)
               : 0;
}

/* Where scales begin in a value. */
static size_t data_size(const struct rondo_plan *plan, const struct rondo_value *value)
{
    int64_t rows = rondo_plan_rows(plan, value->rows, plan->limits.tokens, plan->logit_rows);
    return round_up((size_t)rows * (size_t)value->columns * rondo_dtype_size(value->dtype));
}

static bool overlap_in_time(const struct rondo_value *a, const struct rondo_value *b)
{
    return a->first <= b->last && b->first <= a->last;
}

/* First fit: each value goes to the lowest place that no value alive with it covers. */
static void layout(struct rondo_plan *plan)
{
    plan->arena_size = 0;
    for (int32_t i = 0; i < plan->n_values; i++) {
        struct rondo_value *value = &plan->values[i];
        int64_t rows = rondo_plan_rows(plan, value->rows, plan->limits.tokens, plan->logit_rows);
        value->size =
            data_size(plan, value) + round_up((size_t)rows * scale_columns(value) * sizeof(float));
        value->offset = 0;
        for (bool moved = true; moved;) {
            moved = false;
            for (int32_t j = 0; j < i; j++) {
                const struct rondo_value *other = &plan->values[j];
                if (overlap_in_time(value, other) && value->offset < other->offset + other->size &&
                    other->offset < value->offset + value->size) {
                    value->offset = other->offset + other->size;
                    moved = true;
                }
            }
        }
        if (value->offset + value->size > plan->arena_size)
            plan->arena_size = value->offset + value->size;
    }
}

static size_t decay_size(const struct rondo_plan *plan)
{
    return (size_t)plan->config->num_attention_heads * (RONDO_CHUNK + 1) * sizeof(float);
}

static int32_t linear_layers(const struct rondo_plan *plan)
{
    int32_t count = 0;
    for (int32_t l = 0; l < plan->config->num_hidden_layers; l++)
        count += rondo_config_attention(plan->config, l) == RONDO_ATTENTION_LINEAR;
    return count;
}

static size_t rope_size(const struct rondo_plan *plan)
{
    return (size_t)plan->limits.context * (size_t)(plan->config->rotary_dim / 2) * sizeof(float);
}

uint64_t rondo_plan_bytes(const struct rondo_plan *plan)
{
    struct rondo_plan copy =
        *plan; /* layout writes the values, which any later layout overwrites alike */
    layout(&copy);
    return copy.arena_size + 2 * round_up(rope_size(plan)) +
           round_up(decay_size(plan) * (size_t)linear_layers(plan));
}

/* ---- bindings --------------------------------------------------------------------------------- */

static void bind_step(struct rondo_plan *plan, struct rondo_step *step)
{
    for (int32_t i = 0; i < step->n_bindings; i++) {
        const struct rondo_binding *binding = &step->binding[i];
        const struct rondo_value *value = &plan->values[binding->value];
        char *field = (char *)&step->args + binding->field;
        if (binding->is_pointer) {
            memcpy(field, &value->data, sizeof value->data);
            continue;
        }
        struct rondo_tensor tensor = rondo_tensor_2d(
            (char *)value->data + (size_t)binding->first_column * rondo_dtype_size(value->dtype),
            value->dtype, 0, binding->columns ? binding->columns : value->columns, value->name);
        tensor.row_stride = value->columns;
        if (value->scale) {
            tensor.scale = value->scale;
            tensor.scale_stride = (int64_t)scale_columns(value);
            tensor.scale_rows = 1;
            tensor.scale_columns = RONDO_BLOCK;
        }
        memcpy(field, &tensor, sizeof tensor);
    }
}

static void bind_caches(struct rondo_plan *plan, const struct rondo_cache *cache)
{
    int32_t linear = 0;
    for (int32_t i = 0; i < plan->n_steps; i++) {
        struct rondo_step *step = &plan->steps[i];
        if (step->op == RONDO_OP_LINEAR_ATTENTION) {
            step->args.linear_attention.cache = cache->linear[step->layer];
            step->args.linear_attention.decay_power =
                plan->decay_power + (size_t)linear++ * decay_size(plan) / sizeof(float);
        } else if (step->op == RONDO_OP_SOFTMAX_ATTENTION) {
            step->args.softmax_attention.cache = cache->kv[step->layer];
        } else if (step->op == RONDO_OP_QKV) {
            step->args.qkv.rope_cos = plan->rope_cos;
            step->args.qkv.rope_sin = plan->rope_sin;
        }
    }
}

static void set_rows(const struct rondo_plan *plan, const struct rondo_binding *binding,
                     struct rondo_tensor *tensor, int32_t tokens, int32_t logit_rows)
{
    const struct rondo_value *value = &plan->values[binding->value];
    int64_t routed = rondo_plan_rows(plan, RONDO_ROWS_ROUTED, tokens, logit_rows);
    tensor->shape[0] = binding->piece == RONDO_PIECE_ROUTED ? routed
                       : binding->piece == RONDO_PIECE_SHARED
                           ? tokens
                           : rondo_plan_rows(plan, value->rows, tokens, logit_rows);
    if (binding->piece == RONDO_PIECE_SHARED)
        tensor->data = (char *)value->data +
                       (size_t)(routed * value->columns) * rondo_dtype_size(value->dtype);
}

static void set_step_rows(const struct rondo_plan *plan, struct rondo_step *step, int32_t tokens,
                          int32_t logit_rows)
{
    for (int32_t j = 0; j < step->n_bindings; j++) {
        const struct rondo_binding *binding = &step->binding[j];
        if (!binding->is_pointer)
            set_rows(plan, binding, (struct rondo_tensor *)((char *)&step->args + binding->field),
                     tokens, logit_rows);
    }
    if (step->op == RONDO_OP_RMSNORM)
        step->args.rmsnorm.n_rows = (int32_t)step->args.rmsnorm.out.shape[0];
    else if (step->op == RONDO_OP_GROUPED_GEMM)
        step->args.grouped_gemm.n_rows = (int32_t)step->args.grouped_gemm.out.shape[0];
    else if (step->op == RONDO_OP_GROUP_TOKENS)
        step->args.group_tokens.n_tokens = tokens;
    else if (step->op == RONDO_OP_GEMM_ROUTER)
        step->args.gemm_router.group.n_tokens = tokens;
}

void rondo_plan_set_rows(struct rondo_plan *plan, int32_t first, int32_t end, int32_t tokens,
                         int32_t logit_rows)
{
    for (int32_t i = first; i < end; i++)
        set_step_rows(plan, &plan->steps[i], tokens, logit_rows);
    for (int32_t i = 0; i < plan->n_fusions; i++) {
        struct rondo_fusion *fusion = &plan->fusions[i];
        if (fusion->enabled && fusion->steps[0] >= first && fusion->steps[0] < end)
            set_step_rows(plan, &fusion->step, tokens, logit_rows);
    }
}

/* ---- constants -------------------------------------------------------------------------------- */

static int make_decays(struct rondo_plan *plan)
{
    size_t size = decay_size(plan), count = (size_t)linear_layers(plan);
    if (!count)
        return 0;
    float *host = malloc(size);
    plan->decay_power = plan->device->allocate(plan->device, size * count);
    size_t at = 0;
    for (int32_t l = 0; host && plan->decay_power && l < plan->config->num_hidden_layers; l++) {
        if (rondo_config_attention(plan->config, l) != RONDO_ATTENTION_LINEAR)
            continue;
        rondo_decay_powers(plan->config, l, host);
        plan->device->write(plan->device, (char *)plan->decay_power + at, host, size);
        at += size;
    }
    int failed = !host || !plan->decay_power;
    free(host);
    return failed;
}

static int make_rope(struct rondo_plan *plan)
{
    size_t pairs = (size_t)plan->config->rotary_dim / 2;
    plan->rope_frequency = calloc(pairs + 1, sizeof *plan->rope_frequency);
    plan->rope_staging = calloc(2 * ROPE_ROWS * pairs + 1, sizeof *plan->rope_staging);
    plan->rope_cos = plan->device->allocate(plan->device, rope_size(plan) + 1);
    plan->rope_sin = plan->device->allocate(plan->device, rope_size(plan) + 1);
    if (!plan->rope_frequency || !plan->rope_staging || !plan->rope_cos || !plan->rope_sin)
        return 1;
    rondo_rope_frequencies(plan->config, plan->rope_frequency);
    return 0;
}

void rondo_plan_extend_rope(struct rondo_plan *plan, int32_t positions)
{
    int32_t pairs = plan->config->rotary_dim / 2;
    double factor = plan->config->yarn.enabled ? plan->config->yarn.attention_factor : 1.0;
    while (plan->rope_filled < positions) {
        int32_t first = plan->rope_filled, rows = plan->limits.context - first;
        rows = rows < ROPE_ROWS ? rows : ROPE_ROWS;
        float *cosines = plan->rope_staging,
              *sines = plan->rope_staging + (size_t)ROPE_ROWS * (size_t)pairs;
        for (int32_t r = 0; r < rows; r++) {
            for (int32_t j = 0; j < pairs; j++) {
                double angle = (double)(first + r) * plan->rope_frequency[j];
                cosines[(size_t)r * (size_t)pairs + (size_t)j] = (float)(cos(angle) * factor);
                sines[(size_t)r * (size_t)pairs + (size_t)j] = (float)(sin(angle) * factor);
            }
        }
        size_t at = (size_t)first * (size_t)pairs,
               size = (size_t)rows * (size_t)pairs * sizeof(float);
        plan->device->write(plan->device, plan->rope_cos + at, cosines, size);
        plan->device->write(plan->device, plan->rope_sin + at, sines, size);
        plan->rope_filled += rows;
    }
}

/* ---- placing ---------------------------------------------------------------------------------- */

/* An op that runs elsewhere than it should is said once for all of its steps. */
static int check_fallback(const struct rondo_plan *plan, const struct rondo_step *step,
                          const char *label, bool said[RONDO_OP_COUNT], struct rondo_error *error)
{
    struct rondo_device *device = plan->device;
    const char *reason = device->fallback ? device->fallback(device, step->op, &step->args) : NULL;
    if (!reason)
        return RONDO_OK;
    if (device->strict)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: %s falls back on %s, and --strict forbids it: %s", label,
                          rondo_op_name(step->op), device->description, reason);
    if (!said[step->op])
        rondo_log(RONDO_LOG_WARNING, "%s falls back on %s: %s", rondo_op_name(step->op),
                  device->description, reason);
    said[step->op] = true;
    return RONDO_OK;
}

static int check_steps(struct rondo_plan *plan, struct rondo_error *error)
{
    bool said[RONDO_OP_COUNT] = {false};
    rondo_plan_set_rows(plan, 0, plan->n_steps, plan->limits.tokens, plan->logit_rows);
    for (int32_t i = 0; i < plan->n_steps; i++) {
        const struct rondo_step *step = &plan->steps[i];
        char label[64];
        snprintf(label, sizeof label, "step %d (layer %d, %s)", i, step->layer, step->label);
        int status = rondo_op_check(step->op, &step->args, label, error);
        if (status)
            return status;
        const char *reason = plan->device->supports
                                 ? plan->device->supports(plan->device, step->op, &step->args)
                                 : NULL;
        if (reason)
            return rondo_fail(error, RONDO_FAILED, "%s: %s can not run on %s: %s", label,
                              rondo_op_name(step->op), plan->device->description, reason);
        if ((status = check_fallback(plan, step, label, said, error)))
            return status;
    }
    return RONDO_OK;
}

/* Turns on what the device can do. */
static int check_fusions(struct rondo_plan *plan, struct rondo_error *error)
{
    struct rondo_device *device = plan->device;
    for (int32_t i = 0; i < plan->n_fusions; i++) {
        struct rondo_fusion *fusion = &plan->fusions[i];
        const struct rondo_step *step = &fusion->step;
        char label[64];
        snprintf(label, sizeof label, "fusion %d (layer %d, %s)", i, step->layer, step->label);
        set_step_rows(plan, &fusion->step, plan->limits.tokens, plan->logit_rows);
        int status = rondo_op_check(step->op, &step->args, label, error);
        if (status)
            return status;
        fusion->enabled = (!device->supports || !device->supports(device, step->op, &step->args)) &&
                          (!device->fallback || !device->fallback(device, step->op, &step->args));
    }
    return RONDO_OK;
}

int rondo_plan_place(struct rondo_plan *plan, struct rondo_device *device,
                     const struct rondo_cache *cache, struct rondo_error *error)
{
    plan->device = device;
    layout(plan);
    plan->arena = device->allocate(device, plan->arena_size);
    if (!plan->arena || make_decays(plan) || make_rope(plan))
        return rondo_fail(error, RONDO_FAILED,
                          "no device memory left for activations (want %.1f MB)",
                          (double)rondo_plan_bytes(plan) / 1e6);
    for (int32_t i = 0; i < plan->n_values; i++) {
        struct rondo_value *value = &plan->values[i];
        value->data = plan->arena + value->offset;
        value->scale = scale_columns(value)
                           ? (float *)(plan->arena + value->offset + data_size(plan, value))
                           : NULL;
    }
    for (int32_t i = 0; i < plan->n_steps; i++)
        bind_step(plan, &plan->steps[i]);
    for (int32_t i = 0; i < plan->n_fusions; i++)
        bind_step(plan, &plan->fusions[i].step);
    bind_caches(plan, cache);
    int status = check_steps(plan, error);
    return status ? status : check_fusions(plan, error);
}

void rondo_plan_destroy(struct rondo_plan *plan)
{
    void *device_memory[] = {plan->arena, plan->decay_power, plan->rope_cos, plan->rope_sin};
    for (size_t i = 0; i < sizeof device_memory / sizeof *device_memory; i++) {
        if (device_memory[i])
            plan->device->release(plan->device, device_memory[i]);
    }
    free(plan->rope_frequency);
    free(plan->rope_staging);
    free(plan->values);
    free(plan->steps);
    free(plan->fusions);
    free(plan->layer_first);
    *plan = (struct rondo_plan){0};
}
