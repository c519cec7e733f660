/* The kernels of the attention family over vectors of any width: a level's source file defines the vector
 * primitives, includes this file once, and gets the table KERNELS.
 *
 * Needed before inclusion:
 *   V, VW            a vector of VW floats; VW is 4, 8 or 16
 *   U                a vector of VW dwords
 *   TILE_VECTORS     columns of a product's register tile, in vectors; divides 16 / VW or is a multiple of it
 *   v_zero v_set1 v_load v_store v_add v_sub v_mul v_max v_fma(a, b, c) = a * b + c
 *   v_load_bf16(const uint16_t *), v_store_bf16(uint16_t *, V), v_exp, v_maximum(V) -> float
 *   v_tree(const V lanes[16 / VW]) -> float: rondo_sum_tree16
 *   u_zero, u_load(const void *), u_load_half (VW / 2 dwords, rest zero; VW 16 only), u_even(U), u_odd(U): the low
 *   and high bf16 of each dword as V; u_float(U): the bits as V; u_transpose(U r[VW]) in place. */
#include "backend_cpu/attention_internal.h"

#define TILE_ROWS 6
#define ALWAYS_INLINE static inline __attribute__((always_inline))

ALWAYS_INLINE V load_as_f32(const void *from, int64_t index, const bool is_bf16)
{
    return is_bf16 ? v_load_bf16((const uint16_t *)from + index)
                   : v_load((const float *)from + index);
}

/* ROWS x VECTORS outputs in registers, for columns from `column` on. */
ALWAYS_INLINE void tile(const struct rondo_product *p, int32_t row, int32_t column, const int ROWS,
                        const int VECTORS, const bool is_bf16)
{
    V sum[TILE_ROWS][8];
    float *c = p->c + row * p->c_stride + column;
    const float *a = p->a + row * p->a_stride;
    const int64_t c_stride = p->c_stride, a_stride = p->a_stride, b_stride = p->b_stride;
    const size_t size = is_bf16 ? 2 : 4;
    const char *b = (const char *)p->b + column * size;
    const int32_t n = p->n;
    const int64_t share = p->ahead_size * (VECTORS * VW) / p->columns;
    const char *ahead = p->ahead ? (const char *)p->ahead + share * column / (VECTORS * VW) : NULL;
    const int64_t ahead_step = n > 0 ? share / n : 0;

    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < VECTORS; i++)
            sum[r][i] = p->start == RONDO_START_ZERO ? v_zero() : v_load(c + r * c_stride + i * VW);
    if (p->start == RONDO_START_SCALE)
        for (int r = 0; r < ROWS; r++) {
            V factor = v_set1(p->scale[(int64_t)(row + r) * p->scale_step]);
            for (int i = 0; i < VECTORS; i++)
                sum[r][i] = v_mul(sum[r][i], factor);
        }
    for (int32_t j = 0; j < n; j++) {
        V right[8];
        for (int i = 0; i < VECTORS; i++)
            right[i] = load_as_f32(b, i * VW, is_bf16);
        if (ahead) {
            for (int64_t at = 0; at < ahead_step; at += 64)
                __builtin_prefetch(ahead + at, 0, 2);
            ahead += ahead_step;
        }
        for (int r = 0; r < ROWS; r++) {
            V left = v_set1(a[r * a_stride + j]);
            for (int i = 0; i < VECTORS; i++)
                sum[r][i] = v_fma(left, right[i], sum[r][i]);
        }
        b += b_stride * (int64_t)size;
    }
    for (int r = 0; r < ROWS; r++)
        for (int i = 0; i < VECTORS; i++)
            v_store(c + r * c_stride + i * VW, sum[r][i]);
}

/* All rows of the product for VECTORS vectors of columns. Not inlined: one copy per shape. */
#define DEFINE_COLUMNS(NAME, VECTORS, IS_BF16)                                                     \
    static __attribute__((noinline)) void NAME(const struct rondo_product *p, int32_t column)      \
    {                                                                                              \
        int32_t row = 0;                                                                           \
        for (; row + TILE_ROWS <= p->rows; row += TILE_ROWS)                                       \
            tile(p, row, column, TILE_ROWS, VECTORS, IS_BF16);                                     \
        switch (p->rows - row) {                                                                   \
        case 5:                                                                                    \
            tile(p, row, column, 5, VECTORS, IS_BF16);                                             \
            break;                                                                                 \
        case 4:                                                                                    \
            tile(p, row, column, 4, VECTORS, IS_BF16);                                             \
            break;                                                                                 \
        case 3:                                                                                    \
            tile(p, row, column, 3, VECTORS, IS_BF16);                                             \
            break;                                                                                 \
        case 2:                                                                                    \
            tile(p, row, column, 2, VECTORS, IS_BF16);                                             \
            break;                                                                                 \
        case 1:                                                                                    \
            tile(p, row, column, 1, VECTORS, IS_BF16);                                             \
            break;                                                                                 \
        default:                                                                                   \
            break;                                                                                 \
        }                                                                                          \
    }
/* One row has too few chains to keep the units busy unless it takes more columns. */
#define DEFINE_ROW(NAME, IS_BF16)                                                                  \
    static __attribute__((noinline)) void NAME(const struct rondo_product *p, int32_t column)      \
    {                                                                                              \
        tile(p, 0, column, 1, 8, IS_BF16);                                                         \
    }

DEFINE_COLUMNS(wide_f32, TILE_VECTORS, false)
DEFINE_COLUMNS(wide_bf16, TILE_VECTORS, true)
DEFINE_ROW(row_f32, false)
DEFINE_ROW(row_bf16, true)
#if TILE_VECTORS * VW > 16
DEFINE_COLUMNS(narrow_f32, 16 / VW, false)
DEFINE_COLUMNS(narrow_bf16, 16 / VW, true)
#endif

static void product(const struct rondo_product *p)
{
    const bool is_bf16 = p->b_dtype == RONDO_BF16;
    int32_t column = 0;
    if (p->rows == 1)
        for (; column + 8 * VW <= p->columns; column += 8 * VW)
            (is_bf16 ? row_bf16 : row_f32)(p, column);
    for (; column + TILE_VECTORS * VW <= p->columns; column += TILE_VECTORS * VW)
        (is_bf16 ? wide_bf16 : wide_f32)(p, column);
#if TILE_VECTORS * VW > 16
    for (; column < p->columns; column += 16)
        (is_bf16 ? narrow_bf16 : narrow_f32)(p, column);
#endif
}

/* VW rows of VW dwords each, of which `dwords` are there. */
ALWAYS_INLINE void load_rows(U r[VW], const char *from, int64_t stride, int32_t n_rows,
                             const bool is_half)
{
    for (int i = 0; i < VW; i++) {
        if (i >= n_rows)
            r[i] = u_zero();
#if VW == 16
        else if (is_half)
            r[i] = u_load_half(from + i * stride);
#endif
        else
            r[i] = u_load(from + i * stride);
    }
}

ALWAYS_INLINE void transpose_bf16(float *to, const char *from, int64_t stride, int32_t n_rows,
                                  const bool is_half)
{
    U r[VW];
    load_rows(r, from, stride, n_rows, is_half);
    u_transpose(r);
    for (int i = 0; i < (is_half ? VW / 2 : VW); i++) {
        v_store(to + (2 * i) * RONDO_CHUNK, u_even(r[i]));
        v_store(to + (2 * i + 1) * RONDO_CHUNK, u_odd(r[i]));
    }
}

ALWAYS_INLINE void transpose_f32(float *to, const char *from, int64_t stride, int32_t n_rows)
{
    U r[VW];
    load_rows(r, from, stride, n_rows, false);
    u_transpose(r);
    for (int i = 0; i < VW; i++)
        v_store(to + i * RONDO_CHUNK, u_float(r[i]));
}

static void transpose(float *to, const void *rows, enum rondo_dtype dtype, int64_t row_stride,
                      int32_t n_rows, int32_t channels, const void *ahead)
{
    const bool is_bf16 = dtype == RONDO_BF16;
    const int64_t size = is_bf16 ? 2 : 4, stride = row_stride * size;
    const int32_t step = is_bf16 ? 2 * VW : VW;
    for (int32_t j = 0; j < n_rows; j += VW) {
        const char *from = (const char *)rows + j * stride;
        const char *next = ahead ? (const char *)ahead + j * stride : NULL;
        for (int32_t d = 0; d < channels; d += step) {
            if (next)
                for (int i = 0; i < VW; i++)
                    __builtin_prefetch(next + d * size + i * stride, 0, 2);
            float *lanes = to + (int64_t)d * RONDO_CHUNK + j;
            if (!is_bf16)
                transpose_f32(lanes, from + d * size, stride, n_rows - j);
            else if (VW < 16 || d + step <= channels)
                transpose_bf16(lanes, from + d * size, stride, n_rows - j, false);
            else
                transpose_bf16(lanes, from + d * size, stride, n_rows - j, true);
        }
    }
}

static void widen(float *to, const void *from, enum rondo_dtype dtype, int32_t n)
{
    const bool is_bf16 = dtype == RONDO_BF16;
    for (int32_t i = 0; i < n; i += VW)
        v_store(to + i, load_as_f32(from, i, is_bf16));
}

static void scale(void *out, enum rondo_dtype dtype, const float *x, float factor, int32_t n)
{
    V f = v_set1(factor);
    for (int32_t i = 0; i < n; i += VW) {
        V y = v_mul(v_load(x + i), f);
        if (dtype == RONDO_BF16)
            v_store_bf16((uint16_t *)out + i, y);
        else
            v_store((float *)out + i, y);
    }
}

static void multiply(float *to, const float *x, const float *y, int32_t n)
{
    for (int32_t i = 0; i < n; i += VW)
        v_store(to + i, v_mul(v_load(x + i), v_load(y + i)));
}

static void merge(float *total, const float *part, float f, float g, int32_t n)
{
    V vf = v_set1(f), vg = v_set1(g);
    for (int32_t i = 0; i < n; i += VW)
        v_store(total + i, v_fma(v_load(total + i), vf, v_mul(v_load(part + i), vg)));
}

static float softmax(float *x, int32_t n, float factor, bool is_first, float *m, float *l)
{
    enum { VECTORS = RONDO_CHUNK / VW, LANES = 16 / VW };
    const int32_t end = (n + 15) & ~15, vectors = end / VW;
    V p[VECTORS], top = v_set1(is_first ? -INFINITY : *m), s = v_set1(factor);
    for (int32_t i = 0; i < vectors; i++)
        v_store(x + i * VW, v_mul(v_load(x + i * VW), s));
    for (int32_t j = n; j < end; j++)
        x[j] = -INFINITY;
    for (int32_t i = 0; i < vectors; i++)
        top = v_max(v_load(x + i * VW), top);
    float maximum = v_maximum(top);
    top = v_set1(maximum);
    for (int32_t i = 0; i < vectors; i++)
        v_store(x + i * VW, v_exp(v_sub(v_load(x + i * VW), top)));
    for (int32_t j = n; j < end; j++)
        x[j] = 0.0f;
    for (int32_t i = 0; i < LANES; i++)
        p[i] = v_load(x + i * VW);
    for (int32_t i = LANES; i < vectors; i++)
        p[i % LANES] = v_add(p[i % LANES], v_load(x + i * VW));
    float sum = v_tree(p), f = is_first ? 0.0f : rondo_exp(*m - maximum);
    *l = is_first ? sum : fmaf(*l, f, sum);
    *m = maximum;
    return f;
}

const struct rondo_attention_kernels KERNELS = {product,  transpose, widen,  scale,
                                                multiply, merge,     softmax};
