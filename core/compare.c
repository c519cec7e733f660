/* Compare mode: two contexts of one model run the same tokens, and what they compute is set side by side. */
#include "core/context.h"
#include "core/dtype.h"
#include "core/error.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sums over all elements of one row of the report, over all pieces of the prompt. */
struct sums {
    const char *label;
    int32_t layer;
    double error2, reference2, other2, dot, max_abs;
    int64_t count, worst;
    bool nan;
};

struct comparison {
    struct rondo_context *a, *b;
    struct rondo_session *session_a, *session_b;
    enum rondo_compare_kind kind;
    int32_t layer;
    struct sums *rows; /* [n_rows] */
    int32_t n_rows, capacity;
    float *host_a, *host_b; /* [largest value] */
    void *raw;              /* [largest value] as stored */
    uint64_t done, total;   /* layers of pieces */
};

/* ---- values on the host ----------------------------------------------------------------------- */

static int64_t value_count(const struct rondo_context *context, const struct rondo_value *value)
{
    int64_t rows = rondo_plan_rows(&context->plan, value->rows, context->run.n_tokens, 0);
    return rows * value->columns;
}

/* A value as f32, quantised ones with their scales; integers keep their value. */
static void read_value(struct comparison *c, struct rondo_context *context,
                       const struct rondo_value *value, float *out)
{
    int64_t count = value_count(context, value);
    size_t size = rondo_dtype_size(value->dtype);
    context->device->read(context->device, c->raw, value->data, (size_t)count * size);
    for (int64_t i = 0; i < count; i++) {
        if (value->dtype == RONDO_I32)
            out[i] = (float)((const int32_t *)c->raw)[i];
        else
            out[i] = rondo_load(c->raw, value->dtype, (size_t)i);
    }
    if (!value->scale)
        return;
    int64_t groups = (value->columns + RONDO_BLOCK - 1) / RONDO_BLOCK,
            rows = count / value->columns;
    context->device->read(context->device, c->raw, value->scale,
                          (size_t)(rows * groups) * sizeof(float));
    for (int64_t i = 0; i < count; i++) {
        int64_t row = i / value->columns, column = i % value->columns;
        out[i] *= ((const float *)c->raw)[row * groups + column / RONDO_BLOCK];
    }
}

/* Writes f32 numbers to a value of B, in its dtype. Quantised values are made by their own step. */
static void write_value(struct comparison *c, struct rondo_context *context,
                        const struct rondo_value *value, const float *in)
{
    int64_t count = value_count(context, value);
    for (int64_t i = 0; i < count; i++) {
        if (value->dtype == RONDO_I32)
            ((int32_t *)c->raw)[i] = (int32_t)in[i];
        else
            rondo_store(c->raw, value->dtype, (size_t)i, in[i]);
    }
    context->device->write(context->device, value->data, c->raw,
                           (size_t)count * rondo_dtype_size(value->dtype));
}

/* The value of the other plan that means the same; quantised ones do not count. */
static const struct rondo_value *same_value(const struct rondo_plan *plan,
                                            const struct rondo_value *value)
{
    for (int32_t i = 0; i < plan->n_values; i++) {
        const struct rondo_value *other = &plan->values[i];
        if (other->layer == value->layer && other->dtype != RONDO_F8_E4M3 &&
            value->dtype != RONDO_F8_E4M3 && strcmp(other->name, value->name) == 0)
            return other;
    }
    return NULL;
}

/* ---- sums ------------------------------------------------------------------------------------- */

static struct sums *find_row(struct comparison *c, const char *label, int32_t layer)
{
    for (int32_t i = 0; i < c->n_rows; i++) {
        if (c->rows[i].layer == layer && strcmp(c->rows[i].label, label) == 0)
            return &c->rows[i];
    }
    if (c->n_rows == c->capacity)
        return &c->rows[c->n_rows - 1]; /* not reached: capacity covers all labels */
    c->rows[c->n_rows] = (struct sums){.label = label, .layer = layer};
    return &c->rows[c->n_rows++];
}

static void accumulate(struct sums *sums, const float *a, const float *b, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        double x = a[i], y = b[i], difference = fabs(x - y);
        if (isnan(x) || isnan(y) || isnan(difference)) {
            if (!sums->nan)
                sums->worst = sums->count + i;
            sums->nan = true;
            continue;
        }
        sums->error2 += difference * difference;
        sums->reference2 += x * x;
        sums->other2 += y * y;
        sums->dot += x * y;
        if (difference > sums->max_abs) {
            sums->max_abs = difference;
            if (!sums->nan)
                sums->worst = sums->count + i;
        }
    }
    sums->count += count;
}

static void compare_value(struct comparison *c, const char *label, const struct rondo_value *a,
                          const struct rondo_value *b)
{
    read_value(c, c->a, a, c->host_a);
    read_value(c, c->b, b, c->host_b);
    accumulate(find_row(c, label, c->layer), c->host_a, c->host_b, value_count(c->a, a));
}

static void compare_hidden(struct comparison *c, int32_t layer)
{
    const struct rondo_value *a = &c->a->plan.values[c->a->plan.hidden],
                             *b = &c->b->plan.values[c->b->plan.hidden];
    read_value(c, c->a, a, c->host_a);
    read_value(c, c->b, b, c->host_b);
    accumulate(find_row(c, "layer", layer), c->host_a, c->host_b, value_count(c->a, a));
}

/* ---- running ---------------------------------------------------------------------------------- */

static void synchronize(struct comparison *c)
{
    c->a->device->synchronize(c->a->device);
    c->b->device->synchronize(c->b->device);
}

static void force(struct comparison *c, const struct rondo_value *from,
                  const struct rondo_value *to)
{
    read_value(c, c->a, from, c->host_a);
    write_value(c, c->b, to, c->host_a);
}

static bool makes(const struct rondo_step *step, const struct rondo_value *value,
                  const struct rondo_plan *plan)
{
    for (int32_t i = 0; i < step->n_bindings; i++) {
        if (step->binding[i].use != RONDO_USE_IN && &plan->values[step->binding[i].value] == value)
            return true;
    }
    return false;
}

/* Runs the steps of B's layer that make `value`, with the quantisation of their inputs before them. Steps that
 * already ran for another result of the same step are marked in `done`. */
static void run_makers(struct comparison *c, const struct rondo_value *value, const char *label,
                       bool *done, int32_t first, int32_t end)
{
    const struct rondo_plan *plan = &c->b->plan;
    for (int32_t i = first; i < end; i++) {
        const struct rondo_step *step = &plan->steps[i];
        if (done[i - first] || strcmp(step->label, label) != 0 || !makes(step, value, plan))
            continue;
        for (int32_t j = 0; j < step->n_bindings; j++) {
            const struct rondo_value *input = &plan->values[step->binding[j].value];
            for (int32_t k = first; input->dtype == RONDO_F8_E4M3 && k < i; k++) {
                if (plan->steps[k].op == RONDO_OP_QUANTIZE && makes(&plan->steps[k], input, plan))
                    rondo_run_steps(c->b, k, k + 1);
            }
        }
        rondo_run_steps(c->b, i, i + 1);
        done[i - first] = true;
    }
}

/* One layer, step by step: every step of B that has a counterpart gets the inputs of A's. */
static void run_layer_steps(struct comparison *c, int32_t layer, bool *done)
{
    const struct rondo_plan *plan_a = &c->a->plan, *plan_b = &c->b->plan;
    int32_t first = plan_b->layer_first[layer], end = plan_b->layer_first[layer + 1];
    memset(done, 0, (size_t)(end - first) * sizeof *done);
    for (int32_t i = plan_a->layer_first[layer]; i < plan_a->layer_first[layer + 1]; i++) {
        const struct rondo_step *step = &plan_a->steps[i];
        for (int32_t j = 0; j < step->n_bindings; j++) {
            const struct rondo_value *from = &plan_a->values[step->binding[j].value];
            const struct rondo_value *to = same_value(plan_b, from);
            if (step->binding[j].use != RONDO_USE_OUT && to)
                force(c, from, to);
        }
        rondo_run_steps(c->a, i, i + 1);
        for (int32_t j = 0; j < step->n_bindings; j++) {
            const struct rondo_value *from = &plan_a->values[step->binding[j].value];
            const struct rondo_value *to = same_value(plan_b, from);
            if (step->binding[j].use == RONDO_USE_IN || !to)
                continue;
            run_makers(c, to, step->label, done, first, end);
            synchronize(c);
            compare_value(c, step->label, from, to);
        }
    }
}

static void compare_logits(struct comparison *c, int32_t n)
{
    size_t V = (size_t)c->a->model->config.vocab_size;
    for (int32_t i = 0; i < n; i++) {
        float *out_a = c->host_a, *out_b = c->host_b;
        struct rondo_logit_target target_a = {.logits = out_a}, target_b = {.logits = out_b};
        rondo_run_logits(c->a, i, 1, &target_a);
        rondo_run_logits(c->b, i, 1, &target_b);
        synchronize(c);
        accumulate(find_row(c, "logits", -1), out_a, out_b, (int64_t)V);
    }
}

/* False when the caller does not want the rest. */
static bool report_progress(struct comparison *c)
{
    const struct rondo_context_options *settings = &c->a->settings;
    return !settings->progress ||
           !settings->progress(settings->progress_user, "comparing", c->done++, c->total);
}

/* False when the caller does not want the rest: the sessions are good for nothing then. */
static bool run_piece(struct comparison *c, const int32_t *tokens, int32_t n, bool *done)
{
    int32_t L = c->a->plan.config->num_hidden_layers;
    struct rondo_context *contexts[2] = {c->a, c->b};
    struct rondo_session *sessions[2] = {c->session_a, c->session_b};
    for (int i = 0; i < 2; i++) {
        rondo_session_make_room(sessions[i], n);
        rondo_run_begin(contexts[i]);
        rondo_run_add(contexts[i], sessions[i], tokens, NULL, n, n);
        rondo_run_upload(contexts[i]);
        rondo_run_steps(contexts[i], 0, contexts[i]->plan.layer_first[0]);
    }
    synchronize(c);
    for (int32_t l = 0; l < L; l++) {
        if (c->kind != RONDO_COMPARE_FREE)
            force(c, &c->a->plan.values[c->a->plan.hidden], &c->b->plan.values[c->b->plan.hidden]);
        if (!report_progress(c))
            return false;
        if (c->kind == RONDO_COMPARE_STEPS && l == c->layer) {
            run_layer_steps(c, l, done);
            continue;
        }
        for (int i = 0; i < 2; i++)
            rondo_run_steps(contexts[i], contexts[i]->plan.layer_first[l],
                            contexts[i]->plan.layer_first[l + 1]);
        synchronize(c);
        if (c->kind != RONDO_COMPARE_STEPS)
            compare_hidden(c, l);
    }
    if (c->kind != RONDO_COMPARE_STEPS) {
        if (c->kind == RONDO_COMPARE_FORCED)
            force(c, &c->a->plan.values[c->a->plan.hidden], &c->b->plan.values[c->b->plan.hidden]);
        compare_logits(c, n);
    }
    for (int i = 0; i < 2; i++)
        rondo_session_append(sessions[i], tokens, n);
    return true;
}

/* ---- the whole -------------------------------------------------------------------------------- */

static size_t largest_value(const struct rondo_plan *plan)
{
    size_t largest = 0;
    for (int32_t i = 0; i < plan->n_values; i++) {
        int64_t rows =
            rondo_plan_rows(plan, plan->values[i].rows, plan->limits.tokens, plan->logit_rows);
        size_t count = (size_t)rows * (size_t)plan->values[i].columns;
        largest = count > largest ? count : largest;
    }
    return largest;
}

static bool report(const struct comparison *c, double tolerance,
                   void (*row)(void *user, const struct rondo_compare_row *row), void *user)
{
    bool within = true;
    for (int32_t i = 0; i < c->n_rows; i++) {
        const struct sums *sums = &c->rows[i];
        struct rondo_compare_row out = {.label = sums->label,
                                        .layer = sums->layer,
                                        .max_abs = sums->max_abs,
                                        .worst = sums->worst,
                                        .tolerance = tolerance};
        out.nmse = sums->nan               ? NAN
                   : sums->error2 == 0     ? 0
                   : sums->reference2 == 0 ? INFINITY
                                           : sums->error2 / sums->reference2;
        double norms = sqrt(sums->reference2) * sqrt(sums->other2);
        out.cosine = sums->nan ? NAN : norms > 0 ? sums->dot / norms : sums->error2 == 0 ? 1 : 0;
        out.within = out.nmse <= tolerance; /* false for NaN */
        within &= out.within;
        row(user, &out);
    }
    return within;
}

static int check_arguments(const struct rondo_context *a, const struct rondo_context *b,
                           const int32_t *tokens, size_t n, enum rondo_compare_kind kind,
                           int32_t layer, struct rondo_error *error)
{
    if (a == b || a->model != b->model)
        return rondo_fail(error, RONDO_USAGE, "compare: want two contexts of one model");
    int32_t L = a->plan.config->num_hidden_layers;
    if (kind == RONDO_COMPARE_STEPS && (layer < 0 || layer >= L))
        return rondo_fail(error, RONDO_USAGE, "compare: layer out of range (got %d, want 0 to %d)",
                          layer, L - 1);
    int32_t room = a->settings.max_context < b->settings.max_context ? a->settings.max_context
                                                                     : b->settings.max_context;
    if (n == 0 || n > (size_t)room)
        return rondo_fail(error, RONDO_USAGE,
                          "compare: wrong number of tokens (got %zu, want 1 to %d)", n, room);
    return rondo_check_tokens(a, tokens, n, error);
}

int rondo_compare(struct rondo_context *a, struct rondo_context *b, const int32_t *tokens, size_t n,
                  enum rondo_compare_kind kind, int32_t layer, double tolerance,
                  void (*row)(void *user, const struct rondo_compare_row *row), void *user,
                  struct rondo_error *error)
{
    int status = check_arguments(a, b, tokens, n, kind, layer, error);
    if (status)
        return status;
    size_t count_a = largest_value(&a->plan), count_b = largest_value(&b->plan);
    size_t count = count_a > count_b ? count_a : count_b;
    struct comparison *c = calloc(1, sizeof *c);
    bool *done = calloc((size_t)b->plan.n_steps, sizeof *done);
    if (c) {
        *c = (struct comparison){.a = a, .b = b, .kind = kind, .layer = layer};
        c->capacity = a->plan.config->num_hidden_layers + 64;
        c->rows = calloc((size_t)c->capacity, sizeof *c->rows);
        c->host_a = calloc(count, sizeof *c->host_a);
        c->host_b = calloc(count, sizeof *c->host_b);
        c->raw = calloc(count, sizeof(float));
    }
    if (!c || !done || !c->rows || !c->host_a || !c->host_b || !c->raw) {
        status = rondo_fail(error, RONDO_FAILED, "compare: out of memory");
    } else if (!(c->session_a = rondo_session_create(a, error)) ||
               !(c->session_b = rondo_session_create(b, error)) ||
               rondo_session_pages_needed(c->session_a, (int32_t)n) > a->cache.n_free_pages ||
               rondo_session_pages_needed(c->session_b, (int32_t)n) > b->cache.n_free_pages) {
        status = c->session_a && c->session_b
                     ? rondo_fail(error, RONDO_FAILED,
                                  "compare: the KV pool has no room for %zu tokens", n)
                     : RONDO_FAILED;
    } else {
        int32_t piece = a->settings.max_batch_tokens < b->settings.max_batch_tokens
                            ? a->settings.max_batch_tokens
                            : b->settings.max_batch_tokens;
        bool wanted = true;
        c->total =
            (n + (size_t)piece - 1) / (size_t)piece * (uint64_t)a->plan.config->num_hidden_layers;
        for (size_t at = 0; at < n && wanted; at += (size_t)piece)
            wanted =
                run_piece(c, tokens + at, n - at < (size_t)piece ? (int32_t)(n - at) : piece, done);
        if (error)
            error->status = RONDO_OK;
        if (!(status = rondo_run_end(a, error)) && !(status = rondo_run_end(b, error)))
            status = !wanted ? rondo_fail(error, RONDO_FAILED, "compare: interrupted")
                     : report(c, tolerance, row, user) ? RONDO_OK
                                                       : RONDO_FAILED;
    }
    if (c) {
        rondo_session_destroy(c->session_a);
        rondo_session_destroy(c->session_b);
        free(c->rows);
        free(c->host_a);
        free(c->host_b);
        free(c->raw);
    }
    free(c);
    free(done);
    return status;
}
