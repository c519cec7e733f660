/* Products of few rows, kernel by kernel: what the checks of whole ops see nothing of on a processor that is quick with
 * subnormal numbers, and what kernels write beside their results. */
#include "backend_cpu/gemm_internal.h"
#include "core/dtype.h"
#include "tests/unit/test.h"

#include <math.h>
#include <string.h>

enum { MOST_K = 2048, ROWS = 32, BLOCKS = MOST_K / RONDO_BLOCK, GUARD = 64 };
#define GUARD_BITS 0x7fc12345u

struct level {
    enum rondo_cpu_level level;
    const struct rondo_gemm_kernels *kernels;
};

static const struct level levels[] = {
#if defined(__x86_64__)
    {RONDO_CPU_AVX2, &rondo_gemm_kernels_avx2},
    {RONDO_CPU_AVX512, &rondo_gemm_kernels_avx512},
    {RONDO_CPU_AVX512BF16, &rondo_gemm_kernels_avx512bf16},
#elif defined(__aarch64__)
    {RONDO_CPU_NEON, &rondo_gemm_kernels_neon},
#endif
    {RONDO_CPU_REF, NULL},
};

static uint8_t codes[ROWS * MOST_K];
static float x[RONDO_GEMV_ROWS][MOST_K], scaled[RONDO_GEMV_ROWS][MOST_K], weight_scale[BLOCKS];
static uint32_t spread_x[RONDO_GEMV_ROWS][RONDO_GEMM_SPREAD(MOST_K) + GUARD];
static uint32_t spread_scaled[RONDO_GEMV_ROWS][RONDO_GEMM_SPREAD(MOST_K) + GUARD];
static uint32_t spread_pairs[RONDO_GEMV_ROWS][RONDO_GEMM_SPREAD(MOST_K) + GUARD];
static float sums[RONDO_GEMV_ROWS][ROWS * BLOCKS + 8 + GUARD];

static uint32_t next_random(void)
{
    static uint32_t state = 1;
    state = state * 1664525u + 1013904223u;
    return state >> 8;
}

/* One code in 1024 is subnormal or zero, so that many runs of codes have none and many do. */
static void fill(void)
{
    for (int i = 0; i < ROWS * MOST_K; i++) {
        uint32_t random = next_random();
        uint32_t code = random % 1024 == 0 ? random >> 10 & 7 : 8 + (random >> 10) % 119;
        codes[i] = (uint8_t)(code | (random >> 16 & 0x80));
    }
    for (int i = 0; i < RONDO_GEMV_ROWS; i++)
        for (int k = 0; k < MOST_K; k++) {
            x[i][k] =
                rondo_bf16_to_f32(rondo_f32_to_bf16(((float)(next_random() % 511) - 255) / 3));
            scaled[i][k] = x[i][k] * 0x1p120f;
        }
    for (int b = 0; b < BLOCKS; b++)
        weight_scale[b] = (float)(1 + next_random() % 1000) / 512;
}

/* Output channel n of row i in the order of core/ops.h. */
static float wanted(int i, int n, int64_t K)
{
    float y = 0;
    for (int64_t first = 0; first < K; first += RONDO_BLOCK) {
        float a[RONDO_QUARTERS] = {0};
        for (int64_t k = first; k < first + RONDO_BLOCK; k++) {
            int64_t j = k / RONDO_QUARTER_RUN % RONDO_QUARTERS;
            a[j] = fmaf(x[i][k], rondo_e4m3_to_f32(codes[n * K + k]), a[j]);
        }
        y = fmaf((a[0] + a[1]) + (a[2] + a[3]), weight_scale[first / RONDO_BLOCK], y);
    }
    return y;
}

static void guard(uint32_t *end)
{
    for (int i = 0; i < GUARD; i++)
        end[i] = GUARD_BITS;
}

static bool is_guarded(const void *end)
{
    for (int i = 0; i < GUARD; i++) {
        uint32_t bits;
        memcpy(&bits, (const char *)end + i * sizeof bits, sizeof bits);
        if (bits != GUARD_BITS)
            return false;
    }
    return true;
}

static void lay_out_x(const struct rondo_gemm_kernels *kernels, int m, int64_t K)
{
    for (int i = 0; i < m; i++) {
        uint32_t bits[MOST_K], pairs[MOST_K / 2];
        guard(spread_x[i] + RONDO_GEMM_SPREAD(K));
        guard(spread_scaled[i] + RONDO_GEMM_SPREAD(K));
        guard(spread_pairs[i] + RONDO_GEMM_SPREAD(K));
        memcpy(bits, x[i], (size_t)K * sizeof *bits);
        kernels->spread(bits, K / RONDO_BLOCK, RONDO_BLOCK, spread_x[i]);
        memcpy(bits, scaled[i], (size_t)K * sizeof *bits);
        kernels->spread(bits, K / RONDO_BLOCK, RONDO_BLOCK, spread_scaled[i]);
        if (kernels->pair) {
            EXPECT(kernels->pair(x[i], K, pairs), "row %d is bf16", i);
            kernels->spread(pairs, K / RONDO_BLOCK, RONDO_BLOCK / 2, spread_pairs[i]);
        }
        EXPECT(is_guarded(spread_x[i] + RONDO_GEMM_SPREAD(K)) &&
                   is_guarded(spread_scaled[i] + RONDO_GEMM_SPREAD(K)) &&
                   is_guarded(spread_pairs[i] + RONDO_GEMM_SPREAD(K)),
               "x of %d channels is spread past its room", (int)K);
    }
}

static void expect_rows(const float *y, const float want[][ROWS], int m, int count, int stride,
                        const char *what)
{
    for (int i = 0; i < m; i++)
        for (int n = 0; n < count; n++)
            EXPECT(rondo_f32_to_bits(y[i * stride + n]) == rondo_f32_to_bits(want[i][n]),
                   "%s: row %d, channel %d: got %a, want %a", what, i, n, y[i * stride + n],
                   want[i][n]);
}

static void test_product(const struct level *level, int m, int64_t K, bool avoid, bool pairs)
{
    const struct rondo_gemm_kernels *kernels = level->kernels;
    int rows = kernels->gemv_rows;
    uint8_t fast[BLOCKS];
    float y[RONDO_GEMV_ROWS * ROWS], want[RONDO_GEMV_ROWS][ROWS];
    char what[128];
    snprintf(what, sizeof what, "%s, %d rows of %d channels%s%s",
             rondo_cpu_level_name(level->level), m, (int)K, avoid ? ", avoiding subnormals" : "",
             pairs ? ", by pairs" : "");
    EXPECT(rows <= ROWS, "%s: %d channels a tile", what, rows);
    for (int i = 0; i < m; i++)
        for (int n = 0; n < rows; n++)
            want[i][n] = wanted(i, n, K);
    memset(fast, 1, sizeof fast);
    lay_out_x(kernels, m, K);
    struct rondo_gemm_weight weight = {.data = codes,
                                       .row_bytes = K,
                                       .n = rows,
                                       .k = K,
                                       .dtype = RONDO_F8_E4M3,
                                       .scale = weight_scale};
    struct rondo_gemm_input input = {.m = m,
                                     .x = x[0],
                                     .scaled = scaled[0],
                                     .fast = fast,
                                     .spread_x = (const float *)spread_x[0],
                                     .spread_scaled = (const float *)spread_scaled[0],
                                     .spread_pairs = pairs ? spread_pairs[0] : NULL,
                                     .spread_stride = RONDO_GEMM_SPREAD(MOST_K) + GUARD,
                                     .all_fast = true,
                                     .sums = sums[0],
                                     .sums_stride = ROWS * BLOCKS + 8 + GUARD,
                                     .stride = MOST_K,
                                     .unscale = 1,
                                     .avoid_subnormals = avoid};
    for (int i = 0; i < m; i++)
        guard((uint32_t *)sums[i] + rows * (K / RONDO_BLOCK));
    memset(y, 0xff, sizeof y);
    kernels->stream(&weight, 0, &input, codes, y);
    expect_rows(y, want, m, rows, rows, what);
    for (int i = 0; i < m; i++)
        EXPECT(is_guarded(sums[i] + rows * (K / RONDO_BLOCK)), "%s: sums past their room", what);
    memset(y, 0xff, sizeof y);
    kernels->gemv(&weight, 0, rows - 1, &input, codes, y);
    expect_rows(y, want, m, rows - 1, rows, what);
}

int main(void)
{
    static const int64_t sizes[] = {128, 256, 384, 512, 640, 1152, 2048};
    bool any = false;
    fill();
    for (const struct level *level = levels; level->kernels; level++) {
        if (!rondo_cpu_has_level(level->level))
            continue;
        any = true;
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (int m = 1; m <= RONDO_GEMV_ROWS; m++)
                for (int way = 0; way < 4; way++)
                    if (way < 2 || level->kernels->pair)
                        test_product(level, m, sizes[s], way & 1, way & 2);
    }
    if (!any) {
        printf("this processor has no level with such kernels\n");
        return 77;
    }
    return test_result();
}
