/* The search for the first NaN or infinity of a run: the results of every step are read after it. */
#include "core/context.h"
#include "core/dtype.h"
#include "core/error.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int rondo_context_check_steps(struct rondo_context *context, bool enable, struct rondo_error *error)
{
    const struct rondo_plan *plan = &context->plan;
    size_t largest = 0;
    context->checks.on = false;
    if (!enable)
        return RONDO_OK;
    for (int32_t i = 0; i < plan->n_values; i++)
        largest = plan->values[i].size > largest ? plan->values[i].size : largest;
    if (!context->checks.values)
        context->checks.values = malloc(largest);
    if (!context->checks.values)
        return rondo_fail(error, RONDO_FAILED, "out of memory for the check of steps");
    context->checks.on = true;
    return RONDO_OK;
}

/* Whose the row of a value is, for the message: "token 17 at position 3 of session slot 0". */
static void name_row(const struct rondo_context *context, const struct rondo_value *value,
                     int64_t row, char *text, size_t size)
{
    text[0] = '\0';
    if (value->rows == RONDO_ROWS_LOGITS)
        row = context->run.logit_row[context->run.first_logit + row];
    if (value->rows == RONDO_ROWS_ROUTED || value->rows == RONDO_ROWS_EXPERTS ||
        value->rows == RONDO_ROWS_OFFSETS)
        return;
    const struct rondo_batch_sequence *sequence =
        &context->run.sequences[context->run.sequence_of[row]];
    snprintf(text, size, " (token %d at position %d, session in slot %d)", context->run.token[row],
             context->run.position[row], sequence->slot);
}

/* Looks at `count` elements; gives the index of the first that is no finite number, -1: none. */
static int64_t find_bad(const void *data, enum rondo_dtype dtype, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(rondo_load(data, dtype, (size_t)i)))
            return i;
    }
    return -1;
}

static bool check_value(struct rondo_context *context, int32_t index,
                        const struct rondo_value *value, int64_t rows, int64_t first_column,
                        int64_t columns)
{
    const struct rondo_step *step = &context->plan.steps[index];
    struct rondo_device *device = context->device;
    size_t size = rondo_dtype_size(value->dtype);
    char *values = context->checks.values;
    if (value->dtype == RONDO_I32 || value->dtype == RONDO_U8)
        return false;
    device->read(device, values, value->data, (size_t)(rows * value->columns) * size);
    for (int64_t row = 0; row < rows; row++) {
        const char *at = values + (size_t)(row * value->columns + first_column) * size;
        int64_t bad = find_bad(at, value->dtype, columns);
        if (bad < 0)
            continue;
        char where[32] = "", whose[96];
        name_row(context, value, row, whose, sizeof whose);
        if (step->layer >= 0)
            snprintf(where, sizeof where, " of layer %d", step->layer);
        float found = rondo_load(at, value->dtype, (size_t)bad);
        rondo_fail(&context->checks.found, RONDO_FAILED,
                   "step %d, %s%s: %s[%lld, %lld] is %s%s on %s", index, step->label, where,
                   value->name, (long long)row, (long long)(first_column + bad),
                   isnan(found) ? "NaN" : "infinite", whose, device->description);
        return true;
    }
    return false;
}

bool rondo_run_check_step(struct rondo_context *context, int32_t index)
{
    const struct rondo_plan *plan = &context->plan;
    const struct rondo_step *step = &plan->steps[index];
    struct rondo_device *device = context->device;
    if (context->checks.found.status)
        return true;
    device->synchronize(device);
    if (rondo_device_status(device, NULL))
        return true; /* what is read now would be no result */
    for (int32_t i = 0; i < step->n_bindings; i++) {
        const struct rondo_binding *binding = &step->binding[i];
        const struct rondo_value *value = &plan->values[binding->value];
        int64_t columns = binding->columns ? binding->columns : value->columns;
        if (binding->use == RONDO_USE_IN)
            continue;
        int64_t rows = rondo_plan_rows(plan, value->rows, context->run.rows,
                                       context->run.n_logits - context->run.first_logit);
        if (value->rows == RONDO_ROWS_LOGITS && rows > plan->logit_rows)
            rows = plan->logit_rows;
        if (check_value(context, index, value, rows, binding->first_column, columns))
            return true;
    }
    return false;
}
