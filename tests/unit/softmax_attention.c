/* softmax_attention against the definition in double. */
#include "tests/unit/attention.h"

/* A row of keys or values as the cache keeps it. */
static void kept_row(const struct layer_options *options, const float *x, double *kept)
{
    float largest = 0;
    for (int32_t d = 0; d < options->head_dim; d++)
        largest = fmaxf(largest, fabsf(x[d]));
    for (int32_t d = 0; d < options->head_dim; d++) {
        float scale = largest / 448;
        kept[d] = (double)x[d];
        if (options->kv_codes)
            kept[d] = (double)rondo_e4m3_to_f32(rondo_f32_to_e4m3(x[d] / scale)) * (double)scale;
    }
}

/* One output row, head h of the token at `position`; the text's first token stands at position 0. */
static void definition(const struct text *text, const struct layer_options *options, int32_t h,
                       int32_t position, double *out)
{
    int32_t hd = options->head_dim, columns = options->heads * hd;
    int32_t kv_head = h / (options->heads / options->kv_heads);
    const float *q = (const float *)text->q + (size_t)position * (size_t)columns + (size_t)(h * hd);
    double *x = must_allocate((size_t)(position + 1) * sizeof *x), top = -INFINITY, sum = 0;
    double kept[64];
    for (int32_t j = 0; j <= position; j++) {
        const float *k =
            (const float *)text->k + (size_t)j * (size_t)columns + (size_t)(kv_head * hd);
        kept_row(options, k, kept);
        for (int32_t d = 0; d < hd; d++)
            x[j] += (double)q[d] * kept[d];
        x[j] /= sqrt(hd);
        top = fmax(top, x[j]);
    }
    memset(out, 0, (size_t)hd * sizeof *out);
    for (int32_t j = 0; j <= position; j++) {
        const float *v =
            (const float *)text->v + (size_t)j * (size_t)columns + (size_t)(kv_head * hd);
        double p = exp(x[j] - top);
        sum += p;
        kept_row(options, v, kept);
        for (int32_t c = 0; c < hd; c++)
            out[c] += p * kept[c];
    }
    for (int32_t c = 0; c < hd; c++)
        out[c] /= sum;
    free(x);
}

/* A text of n tokens: all but the last `last` in one call, then those in calls of up to 7. `q_scale` makes scores
 * large. Rounding a score of size s moves its weight by s / 2^24, so large ones allow less. */
static void compare(struct rondo_device *device, const struct layer_options *options, int32_t n,
                    int32_t last, float q_scale, double tolerance)
{
    static const double slopes[8] = {0};
    struct layers layers = make_layers(device, options, slopes);
    struct text text = make_text(options, n, q_scale);
    size_t columns = (size_t)(options->heads * options->head_dim), size = (size_t)n * columns;
    float *out = must_allocate(size * sizeof *out);
    double *want = must_allocate(size * sizeof *want);
    for (int32_t first = 0, count; first < n; first += count) {
        count = first == 0 && last < n ? n - last : random_range(1, 7);
        count = count < n - first ? count : n - first;
        struct feed part = {&text, 0, first, first, count, NULL, NULL, NULL};
        struct call call = make_call(&layers, &part, 1);
        run_softmax(&layers, &call, out + (size_t)first * columns);
        free_call(&call);
    }
    int32_t first = n > 300 ? n - 40 : 0;
    for (int32_t t = first; t < n; t++)
        for (int32_t h = 0; h < options->heads; h++)
            definition(&text, options, h, t,
                       want + (size_t)t * columns + (size_t)(h * options->head_dim));
    size_t from = (size_t)first * columns;
    double error = nmse(out + from, want + from, size - from);
    EXPECT(error <= tolerance, "%s: %d tokens, heads %d/%d of %d, q * %g: error %.3g, at most %.3g",
           rondo_device_description(device), n, options->heads, options->kv_heads,
           options->head_dim, (double)q_scale, error, tolerance);
    free(out);
    free(want);
    free_text(&text);
    free_layers(&layers);
}

static void test_codes(struct rondo_device *device, bool is_reference)
{
    struct layer_options options = {4, 2, 32, 1, 300, 1, RONDO_F32, true};
    compare(device, &options, 200, 30, 1, 1e-11);
    compare(device, &options, 200, 30, 30, 1e-10);
    options = (struct layer_options){6, 1, 20, 1, 300, 1, RONDO_F32, true};
    compare(device, &options, 130, 9, 1, 1e-11);
    options = (struct layer_options){2, 1, 16, 1, 3000, 1, RONDO_F32, true};
    compare(device, &options, is_reference ? 1040 : 2064, 30, 1, 1e-11);
}

static void test_level(struct rondo_device *device)
{
    bool is_reference = strstr(rondo_device_description(device), "(ref") != NULL;
    struct layer_options options = {4, 2, 32, 1, 300, 1, RONDO_F32, false};
    test_codes(device, is_reference);
    compare(device, &options, 200, 30, 1, 1e-11);
    compare(device, &options, 130, 130, 1, 1e-11);
    compare(device, &options, 200, 30, 30, 1e-10);
    compare(device, &options, 100, 20, 1e4f, 1e-6);
    options = (struct layer_options){6, 1, 20, 1, 300, 1, RONDO_F32, false};
    compare(device, &options, 130, 9, 1, 1e-11);
    options = (struct layer_options){2, 1, 16, 1, 3000, 1, RONDO_F32, false};
    /* The last tokens, one or a few a call, cross from one segment into the next. */
    compare(device, &options, is_reference ? 1040 : 2064, 30, 1, 1e-11);
}

int main(void)
{
    for_each_level(test_level);
    return test_result();
}
