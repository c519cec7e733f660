/* Between the driver of the GEMMs (gemm.c) and the kernels of an instruction set (gemm_kernels.h).
 *
 * A product of few rows (GEMV) reads the weight once: tiles of `gemv_rows` output channels, all of K. A
 * product of many rows goes by panels: `columns` output channels by at most RONDO_GEMM_PANEL input channels
 * are widened to f32 and transposed, and every row of x is multiplied with them. A lane of a vector is an output
 * channel, or, in a GEMV whose weight streams, a quarter of a block of input channels, so that each sum runs over k
 * in the order of core/ops.h. */
#ifndef RONDO_BACKEND_CPU_GEMM_INTERNAL_H
#define RONDO_BACKEND_CPU_GEMM_INTERNAL_H

#include "backend_cpu/cpu.h"
#include "core/dtype.h"

/* Most rows of x a GEMV takes. */
#define RONDO_GEMV_ROWS 3
/* Input channels of a panel, a multiple of RONDO_BLOCK. */
#define RONDO_GEMM_PANEL 256
/* Weights stream when their rows follow one another without a gap, k is a multiple of this, and n one of
 * gemv_rows. */
#define RONDO_GEMM_STREAMED RONDO_BLOCK

/* Dwords that `spread` makes of a row of x at most: vectors of up to four blocks, all of x once in every place of them,
 * and the seven vectors that follow. */
#define RONDO_GEMM_SPREAD(k) (4 * (k) + 7 * 4 * RONDO_BLOCK)

/* A weight [n, k] in place: rows of any alignment. Scales per row are the epilogue's. */
struct rondo_gemm_weight {
    const uint8_t *data;
    int64_t row_bytes; /* from one row to the next */
    int64_t n, k;
    enum rondo_dtype dtype;
    const float *scale; /* [ceil(n/128), scale_stride >= ceil(k/128)] or NULL */
    int64_t scale_stride;
};

/* Rows of x for a GEMV, widened. The arrays of row m begin at m * stride, its scales at m * scale_stride.
 *
 * x is multiplied by 2^-t, t = 8 for E4M3 and 0 else, and `scaled` by 2^(120 - t): together with weights taken
 * as w * 2^-120, which is what the bits of an E4M3 code are when they are put in their places, its products
 * and sums are those of x and w times 2^-t, bit for bit. For t = 0 nothing is scaled but the factors, which
 * are exact while |x| < 256; products of E4M3 codes are multiples of 2^-18, so that 2^-8 of a sum of them
 * never underflows. */
struct rondo_gemm_input {
    int m;               /* 1 .. RONDO_GEMV_ROWS */
    const float *x;      /* [m, stride] */
    const float *scaled; /* [m, stride] */
    const uint8_t *fast; /* [ceil(k/128)] nonzero: `scaled` is exact in this block, for all rows */
    const float *scale;  /* [m, scale_stride] of the blocks, or NULL */
    /* For `stream`: x, scaled (only for E4M3, and valid only if all_fast) and what `pair` makes of x (NULL when some x
     * is not what it takes, or there is no such kernel; otherwise the other two are not set), as `spread` lays
     * them out; those of row m begin at m * spread_stride. And room for the sums of the blocks of a tile. */
    const float *spread_x, *spread_scaled;
    const uint32_t *spread_pairs;
    int64_t spread_stride;
    bool all_fast;
    float *sums; /* [m, sums_stride >= gemv_rows * k / 128 + 8] */
    int64_t sums_stride;
    int64_t stride, scale_stride;
    float unscale; /* 2^t */
    /* Weights with subnormal codes are taken as true values, because w * 2^-120 would be subnormal in f32
     * and this processor takes long over these. */
    bool avoid_subnormals;
};

/* Lines of memory that will be wanted, of rows `row_bytes` apart, and how many are still to be asked for. Tiles ask for
 * one line in a step: a Zen 5 drops prefetches of which too many come at once, and products of 16 rows with weights from
 * memory took a fifth longer when a panel's were asked for together. */
struct rondo_gemm_fetch {
    const uint8_t *line;
    int64_t row_bytes;
    int row_lines, at; /* lines of a row; of those, asked for in this row */
    int left;
};

static inline __attribute__((always_inline)) void
rondo_gemm_fetch_line(struct rondo_gemm_fetch *fetch)
{
    if (fetch->left == 0)
        return;
    __builtin_prefetch(fetch->line + 64 * fetch->at);
    fetch->left--;
    if (++fetch->at == fetch->row_lines) {
        fetch->at = 0;
        fetch->line += fetch->row_bytes;
    }
}

struct rondo_gemm_kernels {
    int gemv_rows;  /* output channels of a GEMV tile; divides 128 */
    int columns;    /* output channels of a panel; divides 128 */
    int tile_rows;  /* most rows of x of a tile */
    int tile_usual; /* rows that most tiles are given */

    /* y[m][0 .. count) = sums of output channels n .. n + count, count <= gemv_rows; y has stride gemv_rows.
     * `next` is the start of the weights that will be wanted after these. */
    void (*gemv)(const struct rondo_gemm_weight *weight, int64_t n, int count,
                 const struct rondo_gemm_input *input, const uint8_t *next, float *y);
    /* The same sums, bit for bit, for gemv_rows output channels of a weight that streams. */
    void (*stream)(const struct rondo_gemm_weight *weight, int64_t n,
                   const struct rondo_gemm_input *input, const uint8_t *next, float *y);
    /* Lays x out for `stream`; a block has `dwords` dwords: RONDO_BLOCK, or half as many pairs. */
    void (*spread)(const uint32_t *x, int64_t blocks, int dwords, uint32_t *to);
    /* x as pairs of bf16, the first of the two in the upper half; false when some x is not bf16, or neither 0 nor
     * between 2^-60 and 2^100 in magnitude. `count` is a multiple of RONDO_BLOCK. May be NULL. */
    bool (*pair)(const float *x, int64_t count, uint32_t *pairs);
    bool (*pair_bf16)(const uint16_t *x, int64_t count,
                      uint32_t *pairs); /* the same of a row of bf16 */
    /* panel[i][c] = weight[n + c][k + i] for i < depth, c < count; other columns repeat the last one. */
    void (*panel)(const struct rondo_gemm_weight *weight, int64_t n, int count, int64_t k,
                  int depth, float *panel);
    /* y[i][c] continues over `depth` channels: per block, the sum of a[i][k] * panel[k][c], times
     * a_scale[i * a_scale_stride + block] (1 when NULL) * b_scale[block] (1 when NULL), is added. */
    void (*tile)(int m, const float *a, int64_t a_stride, const float *panel, int depth,
                 const float *a_scale, int64_t a_scale_stride, const float *b_scale, float *y,
                 int64_t y_stride, struct rondo_gemm_fetch *fetch);
    /* panel and tile for E4M3 and bf16 weights and rows that `pair` takes, in multiples of RONDO_BLOCK channels:
     * panel[i / 2][c] and a[m][i / 2] are channel i, in the upper half, and channel i + 1. The same sums, bit for
     * bit. False, and no panel, when some weight is too small or too large for that. NULL where `pair` is. */
    bool (*panel_pairs)(const struct rondo_gemm_weight *weight, int64_t n, int count, int64_t k,
                        int depth, uint32_t *panel);
    void (*tile_pairs)(int m, const uint32_t *a, int64_t a_stride, const uint32_t *panel, int depth,
                       const float *a_scale, int64_t a_scale_stride, const float *b_scale, float *y,
                       int64_t y_stride, struct rondo_gemm_fetch *fetch);
    /* to[i] = x[k + i] widened, for i < count. */
    void (*widen)(const void *row, enum rondo_dtype dtype, int64_t k, int64_t count, float *to);
    /* Row scale, bias, residual, rounding of `count` finished sums; scale and bias may be NULL. */
    void (*finish)(const float *y, int64_t count, const float *scale, const float *bias,
                   bool residual, void *out, enum rondo_dtype dtype);
};

/* Whether VDPBF16PS of this processor, which must have it, adds as two fused multiply-adds, the upper halves'
 * first: the manuals of some leave it open. */
bool rondo_gemm_has_exact_pairs(void);

extern const struct rondo_gemm_kernels rondo_gemm_kernels_avx2, rondo_gemm_kernels_avx512,
    rondo_gemm_kernels_avx512bf16, rondo_gemm_kernels_neon;

#endif
