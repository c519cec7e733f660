/* The GEMM kernels, written once over a vector type. An instruction set's file defines the names below and
 * includes this file; it ends in the table rondo_gemm_kernels_LEVEL.
 *
 *   LANES                  f32 lanes of a vector: output channels, or quarters of LANES / 4 blocks of input channels
 *   CHUNK                  bytes of each row one transposition takes
 *   GROUPS                 vectors of output channels side by side, an even number: LANES * GROUPS divides 128
 *   PANEL_GROUPS           vectors of a panel's row; LANES * PANEL_GROUPS divides 128
 *   TILE_ROWS              most rows of a tile: 6 or 13
 *   TILE_USUAL             rows that most tiles are given
 *   PREFETCH_LOCALITY      of weights that are wanted next, see __builtin_prefetch
 *   vf, vi                 vectors of f32, of bits
 *   vf_load, vf_store, vf_set1, vf_zero, vf_add, vf_mul, vf_fma
 *   vi_load, vi_store
 *   transpose              CHUNK bytes of LANES rows -> CHUNK / 4 vectors; lane r of vector q is dword q of row r
 *   load_quads             16 bytes of each of LANES / 4 places -> 4 lanes each
 *   transpose4             4 vectors -> 4; dword q of four lanes of vector r becomes dword r of these lanes of vector q
 *   split_pairs            dwords 0, 2 of every four lanes of a and then of b, and dwords 1, 3
 *   quads_in_order         lane r of every four lanes, of all in order, for r = 0; then for r = 1 and so on
 *   e4m3_scaled            4 codes of each lane -> 4 vectors of value * 2^-120
 *   e4m3_exact             the same, true values, no denormal on the way
 *   e4m3_normal            as exact, for vectors in which no code has exponent 0
 *   vi_exponents           smallest exponent field, byte by byte, of a running minimum and new codes
 *   vi_any_zero            whether any byte is zero
 *   f16_pair               2 halves of each lane -> 2 vectors
 *
 * Where HAS_PAIRS is defined, the file defines stream_of_pairs, pair, pair_bf16, panel_of_pairs and tile_of_pairs after this
 * one, for the table. */

enum { CHUNK_DWORDS = CHUNK / 4, ROWS = LANES * GROUPS };

/* Addresses of the rows of a tile; rows past the last one repeat it. */
static inline void row_addresses(const struct rondo_gemm_weight *weight, int64_t n, int count,
                                 const uint8_t *row[ROWS])
{
    const uint8_t *first = weight->data + n * weight->row_bytes;
    for (int r = 0; r < ROWS; r++)
        row[r] = first + (r < count ? r : count - 1) * weight->row_bytes;
}

/* The last, incomplete chunk of the rows: nothing past the row's end is read. */
static void transpose_end(const uint8_t *const *row, int64_t offset, int bytes, vi *to)
{
    uint8_t copy[LANES][CHUNK];
    const uint8_t *address[LANES];
    memset(copy, 0, sizeof copy);
    for (int r = 0; r < LANES; r++) {
        memcpy(copy[r], row[r] + offset, (size_t)bytes);
        address[r] = copy[r];
    }
    transpose(address, 0, to);
}

static inline void transpose_bytes(const uint8_t *const *row, int64_t offset, int bytes, vi *to)
{
    int i = 0;
    for (; i + CHUNK <= bytes; i += CHUNK)
        transpose(row, offset + i, to + i / 4);
    if (i < bytes)
        transpose_end(row, offset + i, bytes - i, to + i / 4);
}

/* Elements of a dword, and the dword's elements as vectors in order of k. */
#define PER_DWORD(dtype) ((dtype) == RONDO_F32 ? 1 : (dtype) == RONDO_F8_E4M3 ? 4 : 2)

/* How the codes of an E4M3 weight become numbers. */
enum form { FORM_EXACT, FORM_NORMAL, FORM_SCALED };

static inline __attribute__((always_inline)) void unpack(vi bits, enum rondo_dtype dtype,
                                                         enum form form, vf to[4])
{
    switch (dtype) {
    case RONDO_F32:
        to[0] = vf_from_bits(bits);
        break;
    case RONDO_BF16:
        bf16_pair(bits, to);
        break;
    case RONDO_F16:
        f16_pair(bits, to);
        break;
    default:
        if (form == FORM_SCALED)
            e4m3_scaled(bits, to);
        else if (form == FORM_NORMAL)
            e4m3_normal(bits, to);
        else
            e4m3_exact(bits, to);
    }
}

/* ---- GEMV ------------------------------------------------------------------------------------ */

/* Bytes of each row a GEMV takes at a time: a cache line's worth, so that rows a power of two apart, which
 * share a set of the cache, are not dropped from it half used. */
enum { STEP = 64, STEP_DWORDS = STEP / 4, PARTS = 4, PART_DWORDS = STEP_DWORDS / PARTS };

/* Lines that will be wanted, in the order they are fetched: a run of each row, row after row. The distance
 * between fetch and use has to stay well within the second-level cache, so that long rows are cut into runs of
 * a kilobyte; rows up to two kilobytes are whole runs, because runs that leave half of a page's rows out
 * were measured to be slower (2048 bytes: 72 % of the bandwidth, 86 % whole; 4096 bytes: 100 %, 88 %). */
struct ahead {
    const uint8_t *at, *run_end;
    int64_t run_bytes, row_bytes;
};

enum { RUN_STEPS = 16 };

static inline void ahead_start(struct ahead *ahead, const uint8_t *at)
{
    ahead->at = at;
    ahead->run_end = at + ahead->run_bytes;
}

static inline __attribute__((always_inline)) void ahead_fetch(struct ahead *ahead)
{
    __builtin_prefetch(ahead->at, 0, PREFETCH_LOCALITY);
    ahead->at += STEP;
    if (ahead->at >= ahead->run_end) {
        ahead->at = ahead->run_end + (ahead->row_bytes - ahead->run_bytes);
        ahead->run_end += ahead->row_bytes;
    }
}

struct step {
    vi bits[GROUPS][STEP_DWORDS];
    bool fast
        [PARTS]; /* of E4M3: no code in these dwords is subnormal or zero, or none was looked for */
};

static inline __attribute__((always_inline)) void
load_step(const uint8_t *const *row, int64_t offset, int bytes, bool look, struct ahead *ahead,
          enum rondo_dtype dtype, struct step *step)
{
    vi least[PARTS];
    for (int p = 0; p < PARTS; p++)
        least[p] = vi_set1(-1);
    for (int g = 0; g < GROUPS; g++) {
        if (bytes == STEP)
#pragma GCC unroll 4
            for (int i = 0; i < STEP; i += CHUNK) {
                for (int j = 0; j < LANES * CHUNK / STEP / 2; j++)
                    ahead_fetch(ahead);
                transpose(row + g * LANES, offset + i, step->bits[g] + i / 4);
            }
        else
            transpose_bytes(row + g * LANES, offset, bytes, step->bits[g]);
        if (dtype == RONDO_F8_E4M3 && look)
#pragma GCC unroll 16
            for (int q = 0; q < STEP_DWORDS; q++)
                least[q / PART_DWORDS] =
                    vi_exponents(least[q / PART_DWORDS], vi_load(&step->bits[g][q]));
    }
    if (dtype == RONDO_F8_E4M3)
        for (int p = 0; p < PARTS; p++)
            step->fast[p] = !look || !vi_any_zero(least[p]);
}

/* Sums of a tile's quarters: of each quarter, row of x and group of output channels. */
typedef vf quarter_sums[RONDO_QUARTERS][RONDO_GEMV_ROWS][GROUPS];

/* The quarter that dword `dword` of a step belongs to. */
static inline int quarter_of(int dword, enum rondo_dtype dtype)
{
    return dword * PER_DWORD(dtype) / RONDO_QUARTER_RUN % RONDO_QUARTERS;
}

/* Continues the sums over `dwords` dwords of the rows and the channels that belong to them, x[i][0] first. */
static inline __attribute__((always_inline)) void gemv_dwords(const struct step *step, int first,
                                                              int dwords, const float *x,
                                                              int64_t x_stride, struct ahead *ahead,
                                                              int m, enum rondo_dtype dtype,
                                                              enum form form, quarter_sums quarters)
{
    const int per = PER_DWORD(dtype);
#pragma GCC unroll 4
    for (int q = 0; q < dwords; q++) {
        vf(*sum)[GROUPS] = quarters[quarter_of(first + q, dtype)];
        for (int i = 0; i < ROWS * 2; i += 64)
            ahead_fetch(ahead);
#pragma GCC unroll 8
        for (int g = 0; g < GROUPS; g++) {
            vf w[4];
            unpack(vi_load(&step->bits[g][first + q]), dtype, form, w);
#pragma GCC unroll 4
            for (int j = 0; j < per; j++)
#pragma GCC unroll 3
                for (int i = 0; i < m; i++)
                    sum[i][g] = vf_fma(vf_set1(x[i * x_stride + q * per + j]), w[j], sum[i][g]);
        }
    }
}

/* The same for the last `count` channels of a row, fewer than a dword holds. */
static inline __attribute__((always_inline)) void
gemv_last(const struct step *step, int first, int count, const float *x, int64_t x_stride, int m,
          enum rondo_dtype dtype, quarter_sums quarters)
{
    vf(*sum)[GROUPS] = quarters[quarter_of(first, dtype)];
    for (int g = 0; g < GROUPS; g++) {
        vf w[4];
        unpack(vi_load(&step->bits[g][first]), dtype, FORM_EXACT, w);
        for (int j = 0; j + 1 < PER_DWORD(dtype); j++)
            for (int i = 0; i < m && j < count; i++)
                sum[i][g] = vf_fma(vf_set1(x[i * x_stride + j]), w[j], sum[i][g]);
    }
}

/* Continues the sums over a step; `depth` channels of it are there, from channel k on. */
static inline __attribute__((always_inline)) void
gemv_step(const struct step *step, int64_t k, int depth, const struct rondo_gemm_input *input,
          struct ahead *ahead, int m, enum rondo_dtype dtype, quarter_sums sum)
{
    const int per = PER_DWORD(dtype);
    const float *x = input->x + k, *scaled = input->scaled + k;
    int64_t stride = input->stride;
    bool fast = dtype == RONDO_F8_E4M3 && input->fast[k / RONDO_BLOCK];
    int dwords = depth / per, first = 0;
    for (; first + PART_DWORDS <= dwords; first += PART_DWORDS) {
        if (fast && step->fast[first / PART_DWORDS])
            gemv_dwords(step, first, PART_DWORDS, scaled + first * per, stride, ahead, m, dtype,
                        FORM_SCALED, sum);
        else
            gemv_dwords(step, first, PART_DWORDS, x + first * per, stride, ahead, m, dtype,
                        FORM_EXACT, sum);
    }
    for (; first < dwords; first++)
        gemv_dwords(step, first, 1, x + first * per, stride, ahead, m, dtype, FORM_EXACT, sum);
    if (first * per < depth)
        gemv_last(step, first, depth - first * per, x + first * per, stride, m, dtype, sum);
}

static inline __attribute__((always_inline)) void gemv_tile(const struct rondo_gemm_weight *weight,
                                                            int64_t n, int count,
                                                            const struct rondo_gemm_input *input,
                                                            const uint8_t *next, int m,
                                                            enum rondo_dtype dtype, float *y)
{
    const uint8_t *row[ROWS];
    struct step step;
    vf total[RONDO_GEMV_ROWS][GROUPS];
    const int size = 4 / PER_DWORD(dtype), channels = STEP / size;
    const float *scale =
        weight->scale ? weight->scale + n / RONDO_BLOCK * weight->scale_stride : NULL;
    row_addresses(weight, n, count, row);
    int64_t steps = (weight->k + channels - 1) / channels,
            runs = steps <= 2 * RUN_STEPS ? 1 : (steps + RUN_STEPS - 1) / RUN_STEPS;
    int64_t run_channels = (steps + runs - 1) / runs * channels, run_end = 0;
    struct ahead ahead = {.row_bytes = weight->row_bytes, .run_bytes = run_channels * size};
    ahead_start(&ahead, row[0]);
    for (int i = 0; i < m; i++)
        for (int g = 0; g < GROUPS; g++)
            total[i][g] = vf_zero();
    for (int64_t first = 0; first < weight->k; first += RONDO_BLOCK) {
        int64_t end = first + RONDO_BLOCK < weight->k ? first + RONDO_BLOCK : weight->k;
        quarter_sums sum;
        for (int j = 0; j < RONDO_QUARTERS; j++)
            for (int i = 0; i < m; i++)
                for (int g = 0; g < GROUPS; g++)
                    sum[j][i][g] = vf_zero();
        for (int64_t k = first; k < end; k += channels) {
            int depth = end - k < channels ? (int)(end - k) : channels;
            if (k >= run_end) {
                run_end += run_channels;
                ahead_start(&ahead, run_end < weight->k ? row[0] + run_end * size : next);
            }
            load_step(row, k * size, depth * size, input->avoid_subnormals, &ahead, dtype, &step);
            gemv_step(&step, k, depth, input, &ahead, m, dtype, sum);
        }
        for (int i = 0; i < m; i++) {
            int64_t block = first / RONDO_BLOCK;
            float s = (input->scale ? input->scale[i * input->scale_stride + block] : 1.0f) *
                      (scale ? scale[block] : 1.0f);
            for (int g = 0; g < GROUPS; g++) {
                vf all =
                    vf_add(vf_add(sum[0][i][g], sum[1][i][g]), vf_add(sum[2][i][g], sum[3][i][g]));
                total[i][g] = vf_fma(vf_mul(all, vf_set1(input->unscale)), vf_set1(s), total[i][g]);
            }
        }
    }
    for (int i = 0; i < m; i++)
        for (int g = 0; g < GROUPS; g++)
            vf_store(y + i * ROWS + g * LANES, total[i][g]);
}

#define GEMV(M, DTYPE)                                                                             \
    static void gemv_##DTYPE##_##M(const struct rondo_gemm_weight *weight, int64_t n, int count,   \
                                   const struct rondo_gemm_input *input, const uint8_t *next,      \
                                   float *y)                                                       \
    {                                                                                              \
        gemv_tile(weight, n, count, input, next, M, RONDO_##DTYPE, y);                             \
    }
#define GEMV_ALL(DTYPE) GEMV(1, DTYPE) GEMV(2, DTYPE) GEMV(3, DTYPE)
GEMV_ALL(F32)
GEMV_ALL(BF16)
GEMV_ALL(F16)
GEMV_ALL(F8_E4M3)

static void gemv(const struct rondo_gemm_weight *weight, int64_t n, int count,
                 const struct rondo_gemm_input *input, const uint8_t *next, float *y)
{
    static __typeof__(&gemv_F32_1) const table[][RONDO_GEMV_ROWS] = {
        [RONDO_F32] = {gemv_F32_1, gemv_F32_2, gemv_F32_3},
        [RONDO_BF16] = {gemv_BF16_1, gemv_BF16_2, gemv_BF16_3},
        [RONDO_F16] = {gemv_F16_1, gemv_F16_2, gemv_F16_3},
        [RONDO_F8_E4M3] = {gemv_F8_E4M3_1, gemv_F8_E4M3_2, gemv_F8_E4M3_3},
    };
    table[weight->dtype][input->m - 1](weight, n, count, input, next, y);
}

#include "backend_cpu/gemm_stream.h"

/* ---- panels ---------------------------------------------------------------------------------- */

enum { COLUMNS = PANEL_GROUPS * LANES };

static inline __attribute__((always_inline)) void
panel_group(const uint8_t *const *row, int64_t k, int depth, enum rondo_dtype dtype, float *panel)
{
    const int per = PER_DWORD(dtype), size = 4 / per, chunk = CHUNK_DWORDS * per;
    for (int i = 0; i < depth; i += chunk) {
        vi bits[CHUNK_DWORDS];
        int here = depth - i < chunk ? depth - i : chunk;
        vi least = vi_set1(-1);
        transpose_bytes(row, (k + i) * size, here * size, bits);
        if (dtype == RONDO_F8_E4M3)
            for (int q = 0; q < CHUNK_DWORDS; q++)
                least = vi_exponents(least, bits[q]);
        bool normal = dtype == RONDO_F8_E4M3 && !vi_any_zero(least);
        if (here == chunk && normal) {
            for (int q = 0; q < CHUNK_DWORDS; q++) {
                vf w[4];
                unpack(bits[q], dtype, FORM_NORMAL, w);
                for (int j = 0; j < per; j++)
                    vf_store(panel + (i + q * per + j) * COLUMNS, w[j]);
            }
        } else {
            for (int q = 0; q * per < here; q++) {
                vf w[4];
                unpack(bits[q], dtype, FORM_EXACT, w);
                for (int j = 0; j < per && q * per + j < here; j++)
                    vf_store(panel + (i + q * per + j) * COLUMNS, w[j]);
            }
        }
    }
}

/* Addresses of a panel's rows; rows past the last one repeat it. */
static inline void panel_rows(const struct rondo_gemm_weight *weight, int64_t n, int count,
                              const uint8_t *row[COLUMNS])
{
    const uint8_t *first = weight->data + n * weight->row_bytes;
    for (int r = 0; r < COLUMNS; r++)
        row[r] = first + (r < count ? r : count - 1) * weight->row_bytes;
}

static void panel(const struct rondo_gemm_weight *weight, int64_t n, int count, int64_t k,
                  int depth, float *to)
{
    const uint8_t *row[COLUMNS];
    panel_rows(weight, n, count, row);
    for (int g = 0; g < PANEL_GROUPS; g++) {
        const uint8_t *const *group = row + g * LANES;
        switch (weight->dtype) {
        case RONDO_F32:
            panel_group(group, k, depth, RONDO_F32, to + g * LANES);
            break;
        case RONDO_BF16:
            panel_group(group, k, depth, RONDO_BF16, to + g * LANES);
            break;
        case RONDO_F16:
            panel_group(group, k, depth, RONDO_F16, to + g * LANES);
            break;
        default:
            panel_group(group, k, depth, RONDO_F8_E4M3, to + g * LANES);
        }
    }
}

/* ---- tiles ----------------------------------------------------------------------------------- */

typedef vf tile_sums[TILE_ROWS][PANEL_GROUPS];

static inline __attribute__((always_inline)) void clear_sums(int m, tile_sums sum)
{
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
        for (int g = 0; g < PANEL_GROUPS; g++)
            sum[i][g] = vf_zero();
}

/* y += the sums of a block times its scales. */
static inline __attribute__((always_inline)) void
add_block(int m, tile_sums sum, int block, const float *a_scale, int64_t a_scale_stride,
          const float *b_scale, float *y, int64_t y_stride)
{
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        float s = (a_scale ? a_scale[i * a_scale_stride + block] : 1.0f) *
                  (b_scale ? b_scale[block] : 1.0f);
#pragma GCC unroll 4
        for (int g = 0; g < PANEL_GROUPS; g++) {
            float *at = y + i * y_stride + g * LANES;
            vf_store(at, vf_fma(sum[i][g], vf_set1(s), vf_load(at)));
        }
    }
}

/* Sums of a block's quarters that wait: of the first two, of the third. In memory, because a tile's sums fill the
 * registers. */
struct waiting {
    tile_sums first_two, third;
};

/* After quarter `quarter` of a block: the sums become those of the whole block with the last one. */
static inline __attribute__((always_inline)) void add_quarter(int m, int quarter,
                                                              struct waiting *before, tile_sums sum)
{
#pragma GCC unroll 16
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int g = 0; g < PANEL_GROUPS; g++) {
            if (quarter == 0)
                before->first_two[i][g] = sum[i][g];
            else if (quarter == 1)
                before->first_two[i][g] = vf_add(before->first_two[i][g], sum[i][g]);
            else if (quarter == 2)
                before->third[i][g] = sum[i][g];
            else
                sum[i][g] = vf_add(before->first_two[i][g], vf_add(before->third[i][g], sum[i][g]));
        }
}

/* Continues the sums over one channel. */
static inline __attribute__((always_inline)) void
tile_channel(int m, const float *a, int64_t a_stride, const float *b, tile_sums sum)
{
    vf w[PANEL_GROUPS];
#pragma GCC unroll 4
    for (int g = 0; g < PANEL_GROUPS; g++)
        w[g] = vf_load(b + g * LANES);
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        vf x = vf_set1(a[i * a_stride]);
#pragma GCC unroll 4
        for (int g = 0; g < PANEL_GROUPS; g++)
            sum[i][g] = vf_fma(x, w[g], sum[i][g]);
    }
}

static inline __attribute__((always_inline)) void
tile_of(int m, const float *a, int64_t a_stride, const float *b, int depth, const float *a_scale,
        int64_t a_scale_stride, const float *b_scale, float *y, int64_t y_stride,
        struct rondo_gemm_fetch *fetch)
{
    const int run = RONDO_QUARTER_RUN, stripe = run * RONDO_QUARTERS;
    struct waiting before;
    clear_sums(m, before.first_two);
    clear_sums(m, before.third);
    for (int first = 0, block = 0; first < depth; first += RONDO_BLOCK, block++) {
        int end = depth - first < RONDO_BLOCK ? depth : first + RONDO_BLOCK;
        tile_sums sum;
#pragma GCC unroll 1
        for (int quarter = 0; quarter < RONDO_QUARTERS; quarter++) {
            clear_sums(m, sum);
            for (int k = first + quarter * run; k < end; k += stripe)
                for (int i = k; i < end && i < k + run; i++) {
                    rondo_gemm_fetch_line(fetch);
                    tile_channel(m, a + i, a_stride, b + i * COLUMNS, sum);
                }
            add_quarter(m, quarter, &before, sum);
        }
        add_block(m, sum, block, a_scale, a_scale_stride, b_scale, y, y_stride);
    }
}

/* f(M) for all numbers of rows a tile can have. */
#define TILES_TO_6(f) f(1) f(2) f(3) f(4) f(5) f(6)
#if TILE_ROWS > 6
#define TILES(f) TILES_TO_6(f) f(7) f(8) f(9) f(10) f(11) f(12) f(13)
#else
#define TILES(f) TILES_TO_6(f)
#endif

#define TILE(M)                                                                                    \
    static void tile_##M(const float *a, int64_t a_stride, const float *b, int depth,              \
                         const float *a_scale, int64_t a_scale_stride, const float *b_scale,       \
                         float *y, int64_t y_stride, struct rondo_gemm_fetch *fetch)               \
    {                                                                                              \
        tile_of(M, a, a_stride, b, depth, a_scale, a_scale_stride, b_scale, y, y_stride, fetch);   \
    }
TILES(TILE)

static void tile(int m, const float *a, int64_t a_stride, const float *b, int depth,
                 const float *a_scale, int64_t a_scale_stride, const float *b_scale, float *y,
                 int64_t y_stride, struct rondo_gemm_fetch *fetch)
{
#define TILE_ENTRY(M) tile_##M,
    static __typeof__(&tile_1) const table[TILE_ROWS + 1] = {NULL, TILES(TILE_ENTRY)};
    table[m](a, a_stride, b, depth, a_scale, a_scale_stride, b_scale, y, y_stride, fetch);
}

/* ---- ends ------------------------------------------------------------------------------------ */

static void widen(const void *row, enum rondo_dtype dtype, int64_t k, int64_t count, float *to)
{
    if (dtype == RONDO_F32) {
        memcpy(to, (const float *)row + k, (size_t)count * sizeof *to);
    } else if (dtype == RONDO_BF16) {
        const uint16_t *from = (const uint16_t *)row + k;
        for (int64_t i = 0; i < count; i++)
            to[i] = rondo_bits_to_f32((uint32_t)from[i] << 16);
    } else {
        const uint8_t *from = (const uint8_t *)row + k;
        for (int64_t i = 0; i < count; i++) {
            uint32_t code = from[i] & 0x7fu;
            uint32_t normal = (code << 20) + (120u << 23);
            uint32_t subnormal = rondo_f32_to_bits((float)(int32_t)code * 0x1p-9f);
            uint32_t bits = code < 8 ? subnormal : code == 0x7f ? 0x7fc00000u : normal;
            to[i] = rondo_bits_to_f32(bits | (from[i] & 0x80u) << 24);
        }
    }
}

static void finish(const float *y, int64_t count, const float *scale, const float *bias,
                   bool residual, void *out, enum rondo_dtype dtype)
{
    float *to = out;
    uint16_t *half = out;
    for (int64_t first = 0; first < count; first += 64) {
        float part[64];
        int here = count - first < 64 ? (int)(count - first) : 64;
        for (int i = 0; i < here; i++)
            part[i] = y[first + i];
        if (scale)
            for (int i = 0; i < here; i++)
                part[i] *= scale[first + i];
        if (bias)
            for (int i = 0; i < here; i++)
                part[i] += bias[first + i];
        if (dtype == RONDO_F32 && residual) {
            for (int i = 0; i < here; i++)
                to[first + i] = to[first + i] + part[i];
        } else if (dtype == RONDO_F32) {
            memcpy(to + first, part, (size_t)here * sizeof *part);
        } else {
            for (int i = 0; i < here; i++) {
                uint32_t bits = rondo_f32_to_bits(part[i]);
                uint32_t rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
                half[first + i] =
                    (uint16_t)(((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded) >>
                               16);
            }
        }
    }
}

#ifdef HAS_PAIRS
static void stream_of_pairs(const struct rondo_gemm_weight *weight, int64_t n,
                            const struct rondo_gemm_input *input, const uint8_t *next, float *y);
static bool pair(const float *x, int64_t count, uint32_t *pairs);
static bool pair_bf16(const uint16_t *x, int64_t count, uint32_t *pairs);
static bool panel_of_pairs(const struct rondo_gemm_weight *weight, int64_t n, int count, int64_t k,
                           int depth, uint32_t *to);
static void tile_of_pairs(int m, const uint32_t *a, int64_t a_stride, const uint32_t *b, int depth,
                          const float *a_scale, int64_t a_scale_stride, const float *b_scale,
                          float *y, int64_t y_stride, struct rondo_gemm_fetch *fetch);
#endif

#define KERNELS_OF_(level) rondo_gemm_kernels_##level
#define KERNELS_OF(level) KERNELS_OF_(level)
const struct rondo_gemm_kernels KERNELS_OF(LEVEL) = {
    .gemv_rows = ROWS,
    .columns = COLUMNS,
    .tile_rows = TILE_ROWS,
    .tile_usual = TILE_USUAL,
    .gemv = gemv,
    .spread = spread,
    .panel = panel,
    .tile = tile,
#ifdef HAS_PAIRS
    .stream = stream_of_pairs,
    .pair = pair,
    .pair_bf16 = pair_bf16,
    .panel_pairs = panel_of_pairs,
    .tile_pairs = tile_of_pairs,
#else
    .stream = stream,
#endif
    .widen = widen,
    .finish = finish,
};
