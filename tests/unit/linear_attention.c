/* linear_attention against the plain recurrence in double: S = lambda S + k v^T, out = scale q S. */
#include "tests/unit/attention.h"

/* Outputs of one head over all tokens of an f32 text. */
static void recurrence(const struct text *text, const struct layer_options *options, int32_t head,
                       double slope, double *out)
{
    int32_t hd = options->head_dim, columns = options->heads * hd;
    double *state = must_allocate((size_t)(hd * hd) * sizeof *state);
    for (int32_t t = 0; t < text->n; t++) {
        size_t row = (size_t)t * (size_t)columns + (size_t)(head * hd);
        const float *q = (const float *)text->q + row, *k = (const float *)text->k + row,
                    *v = (const float *)text->v + row;
        for (int32_t d = 0; d < hd; d++)
            for (int32_t c = 0; c < hd; c++)
                state[d * hd + c] = exp(-slope) * state[d * hd + c] + (double)k[d] * (double)v[c];
        for (int32_t c = 0; c < hd; c++) {
            double sum = 0;
            for (int32_t d = 0; d < hd; d++)
                sum += (double)q[d] * state[d * hd + c];
            out[(size_t)t * (size_t)columns + (size_t)(head * hd + c)] = sum / sqrt(hd);
        }
    }
    free(state);
}

/* One text of n tokens in calls of at most `most` tokens; one slope per head. */
static void compare(struct rondo_device *device, int32_t n, int32_t most, int32_t head_dim,
                    const double *slopes, int32_t n_slopes, double tolerance)
{
    struct layer_options options = {n_slopes, 1, head_dim, 1, n, 1, RONDO_F32, false};
    struct layers layers = make_layers(device, &options, slopes);
    struct text text = make_text(&options, n, 1);
    size_t columns = (size_t)(n_slopes * head_dim), size = (size_t)n * columns;
    float *out = must_allocate(size * sizeof *out), *got = must_allocate(size * sizeof *got);
    double *want = must_allocate(size * sizeof *want),
           *expected = must_allocate(size * sizeof *want);
    for (int32_t first = 0, count; first < n; first += count) {
        count = random_range(1, most);
        count = count < n - first ? count : n - first;
        struct feed part = {&text, 0, first, first, count, NULL, NULL, NULL};
        struct call call = make_call(&layers, &part, 1);
        run_linear(&layers, &call, out + (size_t)first * columns);
        free_call(&call);
    }
    for (int32_t h = 0; h < n_slopes; h++) {
        recurrence(&text, &options, h, slopes[h], want);
        size_t i = 0;
        for (size_t t = 0; t < (size_t)n; t++)
            for (size_t c = 0; c < (size_t)head_dim; c++, i++) {
                got[i] = out[t * columns + (size_t)(h * head_dim) + c];
                expected[i] = want[t * columns + (size_t)(h * head_dim) + c];
            }
        double error = nmse(got, expected, i);
        EXPECT(error <= tolerance, "%s: %d tokens, calls of up to %d, hd %d, slope %g: error %.3g",
               rondo_device_description(device), n, most, head_dim, slopes[h], error);
    }
    free(out);
    free(got);
    free(want);
    free(expected);
    free_text(&text);
    free_layers(&layers);
}

static void test_level(struct rondo_device *device)
{
    static const double slopes[] = {0, 0x1p-8, 0x1p-5, 0.1, 0.3, 0.85, 20};
    /* An output only knows the tokens before it: one call of 300 tokens is lengths 1 to 300. */
    compare(device, 300, 300, 32, slopes, 7, 1e-11);
    compare(device, 300, 5, 32, slopes, 7, 1e-11);
    compare(device, 300, 150, 20, slopes, 7, 1e-11);
    for (int32_t n = 1; n <= 300; n += n < 70 ? 1 : 23)
        compare(device, n, n, 16, slopes + 1, 2, 1e-11);
    compare(device, 65536, 2048, 16, (const double[]){0x1p-8, 0.003}, 2, 1e-11);
    /* Without decay the state keeps every rounding of it, one per token: errors of 2^-25 or so walk at random
     * to sqrt(n / 2) of that, 1.5e-11 squared. */
    compare(device, 65536, 2048, 16, (const double[]){0}, 1, 4e-11);
}

int main(void)
{
    for_each_level(test_level);
    return test_result();
}
