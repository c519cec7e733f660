/* Checks of the sampling family: penalize, candidates. */
#include "tests/check/internal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- penalize -------------------------------------------------------------------------------- */

/* Rows have 0 to `most` seen ids; `slack`: how much larger than the truth max_seen is. */
static void penalize_case(struct check *check, int32_t rows, int32_t n, int32_t most, int32_t slack,
                          enum check_fill fill, int32_t gap)
{
    check_case(check, "T=%d N=%d seen <= %d %s%s", rows, n, most, check_fill_name(fill),
               gap ? ", strided" : "");
    struct check_tensor *x =
        check_tensor(check, RONDO_F32, rows, n, gap, CHECK_SCALE_NONE, fill, "x");
    x->buffer->constant = false;
    struct rondo_sampling *sampling = check_allocate(check, (size_t)rows * sizeof *sampling);
    int32_t *seen = check_allocate(check, (size_t)rows * (size_t)n * sizeof *seen), total = 0;
    bool *is_seen = check_allocate(check, (size_t)rows * (size_t)n);
    int32_t max_seen = 0;
    for (int32_t row = 0; row < rows; row++) {
        int32_t count = check_random_range(check, 0, most < n ? most : n);
        sampling[row] = (struct rondo_sampling){
            .wanted = row % 2,
            .penalty = row % 3 ? (float)(0.5 + 2 * check_random_uniform(check)) : 1.1f,
            .first_seen = total,
            .n_seen = count};
        for (int32_t id = 0; id < n; id++) { /* `count` of n, in no order of the ids */
            if (check_random_range(check, 1, n - id) > count)
                continue;
            int32_t at = check_random_range(check, sampling[row].first_seen, total);
            seen[total++] = seen[at];
            seen[at] = id;
            is_seen[row * n + id] = true;
            count--;
        }
        max_seen = sampling[row].n_seen > max_seen ? sampling[row].n_seen : max_seen;
    }
    struct check_buffer *how =
        check_input(check, sampling, (size_t)rows * sizeof *sampling, "sampling");
    struct check_buffer *ids = check_input(check, seen, (size_t)total * sizeof *seen, "seen");
    struct rondo_op_penalize op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_penalize){.x = x->side[side],
                                              .sampling = how->data[side],
                                              .seen = ids->data[side],
                                              .max_seen = max_seen + slack};
    check_run(check, RONDO_OP_PENALIZE, &op[0], &op[1]);
    check_compare(check, x, NULL, 0);
    if (!check->is_reference)
        return;
    double *expected = check_allocate(check, (size_t)rows * (size_t)n * sizeof *expected);
    for (int64_t i = 0; i < (int64_t)rows * n; i++) {
        float penalty = sampling[i / n].penalty, value;
        value = (float)rondo_tensor_at(&x->host, i / n, i % n);
        expected[i] = !is_seen[i] ? value : value > 0 ? value / penalty : value * penalty;
    }
    check_compare_double(check, x, expected, NULL, 0);
}

static void check_penalize(struct check *check)
{
    static const int32_t widths[] = {1, 5, 255, 1000};
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (int i = 0; i < 6; i++)
            penalize_case(check, check_random_range(check, 0, 5), widths[w], i * i * 20,
                          i % 3 * 100, (enum check_fill)(i % 3), check_random_range(check, 0, 3));
    penalize_case(check, 66, 40, 30, 0, CHECK_NORMAL, 0);
}

/* ---- candidates ------------------------------------------------------------------------------ */

enum pattern {
    RANDOM,
    LEVELS,    /* few different values */
    EQUAL,     /* one value */
    RISING,    /* the largest come last */
    FALLING,   /* the largest come first */
    CLUSTERED, /* some stand together above all others */
    SPREAD,    /* the largest stand apart */
    NOT_ALL,   /* NaN and infinities among numbers */
    HARDLY_ANY /* numbers among NaN */
};

static float value_of(struct check *check, enum pattern pattern, int32_t i, int32_t n)
{
    float value = (float)(8 * check_random_normal(check));
    switch (pattern) {
    case RANDOM:
        return value;
    case LEVELS:
        return -(float)check_random_range(check, 0, 3) + (i % 2 ? 0.0f : -0.0f); /* -0 too */
    case EQUAL:
        return 2.5f;
    case RISING:
        return (float)i * 1e-3f;
    case FALLING:
        return (float)-i;
    case CLUSTERED:
        return i >= n / 3 && i < n / 3 + 9000 ? 100.0f + value : value;
    case SPREAD:
        return i % (n / 300 + 1) ? value : 1000.0f - (float)i * 1e-3f;
    case NOT_ALL:
        return i % 5 == 1 ? NAN : i % 7 == 3 ? -INFINITY : value;
    case HARDLY_ANY:
        return check_random_range(check, 0, 29) ? NAN : value;
    }
    return 0;
}

struct place {
    float value;
    int32_t id;
};

static int compare_places(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->value != y->value ? (x->value < y->value) - (x->value > y->value)
                                : (x->id > y->id) - (x->id < y->id);
}

/* The reference's row against a sort of the whole row and a sum in double. */
static void check_row(struct check *check, int64_t row, const float *values, int32_t n,
                      float temperature, const struct rondo_candidates *got)
{
    struct place *places = check_allocate(check, ((size_t)n + 1) * sizeof *places);
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) {
        if (values[i] == values[i])
            places[count++] = (struct place){values[i], i};
    }
    qsort(places, (size_t)count, sizeof *places, compare_places);
    double mass = 0;
    for (int32_t i = 0; i < count && temperature > 0 && isfinite(places[0].value); i++)
        mass += exp(((double)places[i].value - places[0].value) / temperature) * 0x1p40;
    double least = mass * (1 - 1e-5) - n, most = mass * (1 + 1e-5);
    int32_t kept = count < RONDO_CANDIDATES ? count : RONDO_CANDIDATES;
    bool good = got->count == kept && got->padding == 0 && (double)got->mass >= least &&
                (double)got->mass <= most;
    for (int32_t i = 0; i < RONDO_CANDIDATES && good; i++)
        good = i < kept ? got->id[i] == places[i].id && got->value[i] == places[i].value &&
                              (got->value[i] != 0 || !signbit(got->value[i]))
                        : got->id[i] == -1 && got->value[i] == -INFINITY;
    if (!good)
        check_fail(check, "row %lld: count %d, want %d; mass %llu, want %.0f", (long long)row,
                   got->count, kept, (unsigned long long)got->mass, mass);
}

static void candidates_case(struct check *check, int32_t rows, int32_t n, enum pattern pattern,
                            int32_t gap)
{
    static const float temperatures[] = {1, 0, 0.3f, 2.5f, 1e-42f, 100};
    check_case(check, "T=%d N=%d pattern %d%s", rows, n, (int)pattern, gap ? ", strided" : "");
    struct check_tensor *x =
        check_tensor(check, RONDO_F32, rows, n, gap, CHECK_SCALE_NONE, CHECK_ZEROS, "x");
    struct rondo_sampling *sampling = check_allocate(check, (size_t)rows * sizeof *sampling);
    for (int32_t row = 0; row < rows; row++) {
        float *values = rondo_tensor_row(&x->host, row);
        for (int32_t i = 0; i < n; i++)
            values[i] = value_of(check, pattern, i, n);
        if (pattern == NOT_ALL && row % 3 == 1)
            values[check_random_range(check, 0, n - 1)] = INFINITY;
        if (pattern == HARDLY_ANY && row % 3 == 1)
            for (int32_t i = 0; i < n; i++)
                values[i] = NAN;
        sampling[row] =
            (struct rondo_sampling){.wanted = rows < 4 || row % 4 != 2,
                                    .temperature = temperatures[check_random_range(check, 0, 5)],
                                    .penalty = 1};
    }
    check_upload(check, x->buffer);
    size_t words = sizeof(struct rondo_candidates) / sizeof(int32_t);
    struct check_buffer *how =
        check_input(check, sampling, (size_t)rows * sizeof *sampling, "sampling");
    struct check_buffer *out =
        check_output(check, (size_t)rows * sizeof(struct rondo_candidates), "out");
    struct rondo_limits limits = {.tokens = rows, .max_n = n};
    struct rondo_op_candidates op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_candidates){
            .x = x->side[side], .sampling = how->data[side], .out = out->data[side]};
    check_reserve(check, &limits);
    check_run(check, RONDO_OP_CANDIDATES, &op[0], &op[1]);
    check_compare_array(check, out, RONDO_I32, (int64_t)((size_t)rows * words), NULL, 0);
    const struct rondo_candidates *got = out->result[CHECK_TESTED];
    for (int32_t row = 0; row < rows && check->is_reference; row++) {
        if (sampling[row].wanted)
            check_row(check, row, rondo_tensor_row(&x->host, row), n, sampling[row].temperature,
                      &got[row]);
    }
    if (n > 100000)
        check_bench(check, RONDO_OP_CANDIDATES, &op[1], 4.0 * rows * n, 0);
}

static void check_candidates(struct check *check)
{
    static const int32_t widths[] = {1, 3, 255, 256, 257, 1000, 8193, 20001};
    for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
        for (int pattern = RANDOM; pattern <= HARDLY_ANY; pattern++)
            candidates_case(check, widths[w] > 1000 ? 1 : check_random_range(check, 0, 5),
                            widths[w], (enum pattern)pattern,
                            check_random_range(check, 0, 1) * (pattern & 3));
    candidates_case(check, 66, 300, RANDOM, 0);
    candidates_case(check, 1, 157184, EQUAL, 0);
    candidates_case(check, 1, 157184, CLUSTERED, 0);
    candidates_case(check, 1, 157184, RANDOM, 0);
    if (check->bench)
        candidates_case(check, 64, 157184, RANDOM, 0);
}

const struct check_family check_family_sampling = {
    .name = "sampling",
    .ops = {{"penalize", check_penalize}, {"candidates", check_candidates}},
};
