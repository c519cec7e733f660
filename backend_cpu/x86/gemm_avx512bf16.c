/* GEMM kernels for AVX-512 with VBMI and BF16: products of bf16 with E4M3 weights, and of many rows with bf16
 * weights, go by dot products of two bf16, everything else as with plain AVX-512.
 *
 * VDPBF16PS adds the product of the upper halves to the sum, rounds, adds the product of the lower halves, and
 * rounds: two fused multiply-adds in this order, because products of bf16 are exact. It takes subnormal numbers
 * for 0 and makes none. With x either 0 or from 2^-60 to 2^100 none come up: products with E4M3 are multiples of
 * 2^-76, those with bf16, if they are 0 or from 2^-52 to 2^20, multiples of 2^-126, and so are their sums.
 * Whether a processor does all that is tried before the level is used. */
#define LEVEL avx512bf16
#define HAS_PAIRS
#define TILE_USUAL 8
#include "backend_cpu/x86/gemm_avx512.h"

#include "backend_cpu/gemm_kernels.h"

#include <math.h>

/* ---- tables ---------------------------------------------------------------------------------- */

#define BYTES4(f, a, i) f(a, i), f(a, (i) + 1), f(a, (i) + 2), f(a, (i) + 3)
#define BYTES16(f, a, i)                                                                           \
    BYTES4(f, a, i), BYTES4(f, a, (i) + 4), BYTES4(f, a, (i) + 8), BYTES4(f, a, (i) + 12)
#define BYTES64(f, a, i)                                                                           \
    BYTES16(f, a, i), BYTES16(f, a, (i) + 16), BYTES16(f, a, (i) + 32), BYTES16(f, a, (i) + 48)

/* The lower and the upper byte of the bf16 of code c without its sign: subnormal codes, NaN, others. */
#define LOWER(a, c)                                                                                \
    ((c) < 8 ? (uint8_t)(0x60402000c0800000u >> 8 * ((c)&7))                                       \
             : (uint8_t)((c) == 0x7f ? 0xc0 : ((c)&15) << 4))
#define UPPER(a, c)                                                                                \
    ((c) < 8 ? (uint8_t)(0x3c3c3c3c3b3b3b00u >> 8 * ((c)&7))                                       \
             : (uint8_t)((c) == 0x7f ? 0x7f : 0x3c + ((c) >> 4)))
/* Byte b of a vector that is made from parts h and h + 2, of 16 bytes each, of two vectors, h = 0 or 1, and has in each
 * part codes 1 and 0 of every dword, then codes 3 and 2. */
#define PLACE(h, b)                                                                                \
    ((b) / 32 * 64 + ((b) / 16 % 2 * 2 + (h)) * 16 + (b) % 8 / 2 * 4 + (b) % 16 / 8 * 2 + 1 -      \
     (b) % 2)

static const uint8_t lower_bytes[128] = {BYTES64(LOWER, 0, 0), BYTES64(LOWER, 0, 64)};
static const uint8_t upper_bytes[128] = {BYTES64(UPPER, 0, 0), BYTES64(UPPER, 0, 64)};
static const uint8_t places[2][64] = {{BYTES64(PLACE, 0, 0)}, {BYTES64(PLACE, 1, 0)}};

struct tables {
    vi lower[2], upper[2], place[2], sign;
};

/* The two bf16 of every code, as PLACE has them: w[0] codes 0 (upper half) and 1 of the dwords, w[1] codes 2 and 3. */
static inline __attribute__((always_inline)) void pairs_of(vi code, const struct tables *tables,
                                                           vi w[2])
{
    vi lower = _mm512_permutex2var_epi8(tables->lower[0], code, tables->lower[1]);
    vi upper = _mm512_permutex2var_epi8(tables->upper[0], code, tables->upper[1]);
    upper = _mm512_ternarylogic_epi32(upper, code, tables->sign, 0xf8);
    w[0] = _mm512_unpacklo_epi8(lower, upper);
    w[1] = _mm512_unpackhi_epi8(lower, upper);
}

static inline struct tables load_tables(void)
{
    return (struct tables){
        .lower = {vi_load(lower_bytes), vi_load(lower_bytes + 64)},
        .upper = {vi_load(upper_bytes), vi_load(upper_bytes + 64)},
        .place = {vi_load(places[0]), vi_load(places[1])},
        .sign = held(_mm512_set1_epi8((char)0x80)),
    };
}

/* ---- stripes --------------------------------------------------------------------------------- */

enum { WINDOW = PAIR_STREAMS * VECTOR_BLOCKS };

/* The four stripes of a line of each of VECTOR_BLOCKS blocks that follow one another: codes 4j + 1, 4j, 4j + 3, 4j + 2
 * of a stripe where PLACE puts them for lane j. */
static inline __attribute__((always_inline)) void
gather_codes(const uint8_t *at, const struct tables *tables, vi to[4])
{
    vi line[VECTOR_BLOCKS], half[4];
    for (int q = 0; q < VECTOR_BLOCKS; q++)
        line[q] = vi_load(at + q * RONDO_BLOCK);
    for (int q = 0; q < 2; q++) {
        half[q] = _mm512_shuffle_i32x4(line[2 * q], line[2 * q + 1], 0x44);
        half[q + 2] = _mm512_shuffle_i32x4(line[2 * q], line[2 * q + 1], 0xee);
    }
    for (int s = 0; s < 4; s++)
        to[s] =
            _mm512_permutex2var_epi8(half[s / 2 * 2], tables->place[s % 2], half[s / 2 * 2 + 1]);
}

/* Continues the sums over four stripes of stream g; `pairs` are those of the first. Fetches as many lines. */
static inline __attribute__((always_inline)) void
add_dots(const vi codes[4], struct ahead_of_window ahead, const struct tables *tables,
         const uint32_t *pairs, int64_t stride, int m, vf sum[][MOST_STREAMS], int g)
{
#pragma GCC unroll 4
    for (int s = 0; s < 4; s++) {
        vi w[2];
        fetch_line(ahead, s);
        pairs_of(codes[s], tables, w);
#pragma GCC unroll 3
        for (int i = 0; i < m; i++)
#pragma GCC unroll 2
            for (int h = 0; h < 2; h++)
                sum[i][g] =
                    _mm512_dpbf16_ps(sum[i][g], (__m512bh)w[h],
                                     (__m512bh)vi_load(pairs + i * stride + (2 * s + h) * LANES));
    }
}

/* ---- tiles ----------------------------------------------------------------------------------- */

/* As stream_tile, of E4M3 by pairs. */
static inline __attribute__((always_inline)) void dot_tile(const struct rondo_gemm_weight *weight,
                                                           int64_t n,
                                                           const struct rondo_gemm_input *input,
                                                           const uint8_t *next, int m, float *y)
{
    struct stream stream = stream_of(weight, n, next);
    const struct tables tables = load_tables();
    for (int64_t first = 0; first < stream.blocks; first += WINDOW) {
        int64_t position = first * RONDO_BLOCK;
        struct ahead_of_window ahead = stream_ahead(&stream, position);
        const uint32_t *pairs = input->spread_pairs + stream_vector(&stream, PAIR_STREAMS) *
                                                          (RONDO_BLOCK / 2 * VECTOR_BLOCKS);
        vf sum[RONDO_GEMV_ROWS][MOST_STREAMS];
        for (int g = 0; g < PAIR_STREAMS; g++)
            for (int i = 0; i < m; i++)
                sum[i][g] = vf_zero();
        for (int half = 0; half < 2; half++)
#pragma GCC unroll 4
            for (int g = 0; g < PAIR_STREAMS; g++) {
                vi codes[4];
                gather_codes(stream.at + position + g * VECTOR_BLOCKS * RONDO_BLOCK + half * LINE,
                             &tables, codes);
                add_dots(codes, further_ahead(ahead, (half * PAIR_STREAMS + g) * 4 * LINE), &tables,
                         pairs + (2 * g + half) * (RONDO_BLOCK / 4 * VECTOR_BLOCKS),
                         input->spread_stride, m, sum, g);
            }
        stream_store(input, first, m, PAIR_STREAMS, sum);
    }
    stream_fold(&stream, input, stream_scale(weight, n), y);
}

static void stream_of_pairs(const struct rondo_gemm_weight *weight, int64_t n,
                            const struct rondo_gemm_input *input, const uint8_t *next, float *y)
{
    if (weight->dtype != RONDO_F8_E4M3 || !input->spread_pairs)
        stream(weight, n, input, next, y);
    else if (input->m == 1)
        dot_tile(weight, n, input, next, 1, y);
    else if (input->m == 2)
        dot_tile(weight, n, input, next, 2, y);
    else
        dot_tile(weight, n, input, next, 3, y);
}

/* ---- many rows ------------------------------------------------------------------------------- */

static inline vi load_rows32(const uint8_t *first, const uint8_t *second, int64_t offset)
{
    return _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(first + offset))),
        _mm256_loadu_si256((const __m256i *)(second + offset)), 1);
}

/* CHUNK codes of 16 rows as pairs: to[i][lane] are channels 2 i and 2 i + 1 of the rows. As `transpose`, but the last
 * of its shuffles puts the codes of a dword in their places, too. */
static inline __attribute__((always_inline)) void
store_codes(const uint8_t *const *row, int64_t offset, const struct tables *tables, uint32_t *to)
{
    vi low[4], high[4], t[4], u[4];
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++) {
        low[r] = load_rows32(row[r], row[r + 4], offset);
        high[r] = load_rows32(row[r + 8], row[r + 12], offset);
    }
    transpose4(low, t);
    transpose4(high, u);
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++)
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) {
            vi w[2];
            pairs_of(_mm512_permutex2var_epi8(t[q], tables->place[half], u[q]), tables, w);
            vi_store(to + (2 * (4 * half + q)) * COLUMNS, w[0]);
            vi_store(to + (2 * (4 * half + q) + 1) * COLUMNS, w[1]);
        }
}

/* CHUNK bytes of 16 rows of bf16, transposed, as pairs; the elements that are neither 0 nor from 2^-52 to 2^20. */
static inline __attribute__((always_inline)) __mmask32 store_bf16(const vi bits[CHUNK_DWORDS],
                                                                  uint32_t *to)
{
    const vi least = _mm512_set1_epi16(75 << 7), span = _mm512_set1_epi16(72 << 7);
    __mmask32 wrong = 0;
#pragma GCC unroll 8
    for (int q = 0; q < CHUNK_DWORDS; q++) {
        vi magnitude = _mm512_and_si512(bits[q], _mm512_set1_epi16(0x7fff));
        wrong |= _mm512_cmpgt_epu16_mask(_mm512_sub_epi16(magnitude, least), span) &
                 _mm512_test_epi16_mask(magnitude, magnitude);
        _mm512_storeu_si512(to + q * COLUMNS, _mm512_rol_epi32(bits[q], 16));
    }
    return wrong;
}

static bool panel_of_pairs(const struct rondo_gemm_weight *weight, int64_t n, int count, int64_t k,
                           int depth, uint32_t *to)
{
    const struct tables tables = load_tables();
    const int size = (int)rondo_dtype_size(weight->dtype), channels = CHUNK / size;
    const uint8_t *row[COLUMNS];
    __mmask32 wrong = 0;
    panel_rows(weight, n, count, row);
    for (int g = 0; g < PANEL_GROUPS; g++)
        for (int i = 0; i < depth; i += channels) {
            uint32_t *at = to + i / 2 * COLUMNS + g * LANES;
            if (weight->dtype == RONDO_F8_E4M3) {
                store_codes(row + g * LANES, k + i, &tables, at);
            } else {
                vi bits[CHUNK_DWORDS];
                transpose(row + g * LANES, (k + i) * size, bits);
                wrong |= store_bf16(bits, at);
            }
        }
    return wrong == 0;
}

/* As tile_channel, of a pair of channels. */
static inline __attribute__((always_inline)) void
tile_pair(int m, const uint32_t *a, int64_t a_stride, const uint32_t *b, tile_sums sum)
{
    __m512bh w[PANEL_GROUPS];
#pragma GCC unroll 4
    for (int g = 0; g < PANEL_GROUPS; g++)
        w[g] = (__m512bh)vi_load(b + g * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        __m512bh x = (__m512bh)vi_set1((int)a[i * a_stride]);
#pragma GCC unroll 4
        for (int g = 0; g < PANEL_GROUPS; g++)
            sum[i][g] = _mm512_dpbf16_ps(sum[i][g], x, w[g]);
    }
}

static inline __attribute__((always_inline)) void
dots_of(int m, const uint32_t *a, int64_t a_stride, const uint32_t *b, int depth,
        const float *a_scale, int64_t a_scale_stride, const float *b_scale, float *y,
        int64_t y_stride, struct rondo_gemm_fetch *fetch)
{
    struct waiting before;
    clear_sums(m, before.first_two);
    clear_sums(m, before.third);
    for (int first = 0, block = 0; first < depth; first += RONDO_BLOCK, block++) {
        tile_sums sum;
#pragma GCC unroll 1
        for (int quarter = 0; quarter < RONDO_QUARTERS; quarter++) {
            const int run = RONDO_QUARTER_RUN / 2, stripe = STRIPE / 2;
            int begin = first / 2 + quarter * run, end = begin + RONDO_BLOCK / 2;
            clear_sums(m, sum);
            for (int k = begin; k < end; k += stripe)
#pragma GCC unroll 2
                for (int i = k; i < k + run; i++) {
                    rondo_gemm_fetch_line(fetch);
                    tile_pair(m, a + i, a_stride, b + i * COLUMNS, sum);
                }
            add_quarter(m, quarter, &before, sum);
        }
        add_block(m, sum, block, a_scale, a_scale_stride, b_scale, y, y_stride);
    }
}

#define DOTS(M)                                                                                    \
    static void dots_##M(const uint32_t *a, int64_t a_stride, const uint32_t *b, int depth,        \
                         const float *a_scale, int64_t a_scale_stride, const float *b_scale,       \
                         float *y, int64_t y_stride, struct rondo_gemm_fetch *fetch)               \
    {                                                                                              \
        dots_of(M, a, a_stride, b, depth, a_scale, a_scale_stride, b_scale, y, y_stride, fetch);   \
    }
TILES(DOTS)

static void tile_of_pairs(int m, const uint32_t *a, int64_t a_stride, const uint32_t *b, int depth,
                          const float *a_scale, int64_t a_scale_stride, const float *b_scale,
                          float *y, int64_t y_stride, struct rondo_gemm_fetch *fetch)
{
#define DOTS_ENTRY(M) dots_##M,
    static __typeof__(&dots_1) const table[TILE_ROWS + 1] = {NULL, TILES(DOTS_ENTRY)};
    table[m](a, a_stride, b, depth, a_scale, a_scale_stride, b_scale, y, y_stride, fetch);
}

/* ---- the instruction ------------------------------------------------------------------------- */

/* Sums of random size beside products of random size and sign, so that every rounding comes up. */
bool rondo_gemm_has_exact_pairs(void)
{
    enum { ROUNDS = 256 };
    uint32_t random = 1;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t bits[3][16]; /* sum, and two pairs */
        float sum[16], got[16];
        for (int i = 0; i < 3 * 16; i++) {
            random = random * 1664525u + 1013904223u;
            uint32_t mantissas = random >> 4 & (i < 16 ? 0x7fffffu : 0x7f007fu);
            uint32_t exponents = 0x3f800000u + (random >> 28 << (i < 16 ? 24 : 23));
            bits[i / 16][i % 16] = (random << 3 & 0x80000000u) | (random << 7 & 0x8000u) |
                                   exponents | mantissas | (i < 16 ? 0 : 0x3f80u);
        }
        bits[0][round % 16] &= 0x80000000u;
        memcpy(sum, bits[0], sizeof sum);
        _mm512_storeu_ps(got, _mm512_dpbf16_ps(_mm512_loadu_ps(sum),
                                               (__m512bh)_mm512_loadu_si512(bits[1]),
                                               (__m512bh)_mm512_loadu_si512(bits[2])));
        for (int i = 0; i < 16; i++) {
            float want = sum[i];
            for (int half = 1; half >= 0; half--) {
                uint32_t a = half ? bits[1][i] & 0xffff0000u : bits[1][i] << 16;
                uint32_t b = half ? bits[2][i] & 0xffff0000u : bits[2][i] << 16;
                float x, y;
                memcpy(&x, &a, sizeof x);
                memcpy(&y, &b, sizeof y);
                want = fmaf(x, y, want);
            }
            if (memcmp(&want, &got[i], sizeof want) != 0)
                return false;
        }
    }
    return true;
}

/* Lanes that `pair` does not take. */
static inline __mmask16 not_paired(vi x)
{
    const vi least = _mm512_set1_epi32(67 << 23), most = _mm512_set1_epi32(227 << 23);
    vi magnitude = _mm512_and_si512(x, _mm512_set1_epi32(0x7fffffff));
    __mmask16 rest = _mm512_test_epi32_mask(x, _mm512_set1_epi32(0xffff));
    __mmask16 outside =
        _mm512_cmplt_epi32_mask(magnitude, least) | _mm512_cmpgt_epi32_mask(magnitude, most);
    return rest | (outside & _mm512_test_epi32_mask(magnitude, magnitude));
}

static bool pair(const float *x, int64_t count, uint32_t *pairs)
{
    static const uint16_t halves[32] = {3,  1,  7,  5,  11, 9,  15, 13, 19, 17, 23,
                                        21, 27, 25, 31, 29, 35, 33, 39, 37, 43, 41,
                                        47, 45, 51, 49, 55, 53, 59, 57, 63, 61};
    const vi order = vi_load(halves);
    __mmask16 wrong = 0;
    for (int64_t i = 0; i < count; i += 32) {
        vi first = vi_load(x + i), second = vi_load(x + i + 16);
        wrong |= not_paired(first) | not_paired(second);
        _mm512_storeu_si512(pairs + i / 2, _mm512_permutex2var_epi16(first, order, second));
    }
    return wrong == 0;
}

static bool pair_bf16(const uint16_t *x, int64_t count, uint32_t *pairs)
{
    const vi least = _mm512_set1_epi16(67 << 7), span = _mm512_set1_epi16((227 - 67) << 7);
    __mmask32 wrong = 0;
    for (int64_t i = 0; i < count; i += 32) {
        vi bits = vi_load(x + i), magnitude = _mm512_and_si512(bits, _mm512_set1_epi16(0x7fff));
        wrong |= _mm512_cmpgt_epu16_mask(_mm512_sub_epi16(magnitude, least), span) &
                 _mm512_test_epi16_mask(magnitude, magnitude);
        _mm512_storeu_si512(pairs + i / 2, _mm512_rol_epi32(bits, 16));
    }
    return wrong == 0;
}
