/* The kernels of the attention family over vectors of any width: a level's source file defines the vector
 * primitives, includes this file once, and gets the table KERNELS.
 *
 * Needed before inclusion:
 *   V, VW            a vector of VW floats; VW is 4, 8 or 16
 *   U                a vector of VW dwords
 *   TILE_VECTORS     columns of a product's register tile, in vectors; divides 16 / VW or is a multiple of it
 *   v_zero v_set1 v_load v_store v_add v_sub v_mul v_max v_fma(a, b, c) = a * b + c
 *   v_load_bf16(const uint16_t *), v_store_bf16(uint16_t *, V), v_load_e4m3(const uint8_t *), v_exp, v_maximum(V) -> float
 *   v_tree(const V lanes[16 / VW]) -> float: rondo_sum_tree16
 *   v_split(V *x, V *y): of the 2 VW floats x, y, x gets the even ones and y the odd ones; v_join: and back
 *   u_zero, u_load(const void *), u_load_half (VW / 2 dwords, rest zero; VW 16 only), u_even(U), u_odd(U): the low
 *   and high bf16 of each dword as V; u_float(U): the bits as V; u_transpose(U r[VW]) in place. */
#include "backend_cpu/attention_internal.h"

#define TILE_ROWS 6
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Asks for some lines of memory, into a cache that holds more than the nearest one. */
ALWAYS_INLINE const char *ask_ahead(const char *at, int64_t lines)
{
    for (int64_t line = 0; line < lines; line++)
        __builtin_prefetch(at + line * 64, 0, 2);
    return at + lines * 64;
}

ALWAYS_INLINE V load_as_f32(const void *from, int64_t index, const bool is_bf16)
{
    return is_bf16 ? v_load_bf16((const uint16_t *)from + index)
                   : v_load((const float *)from + index);
}

/* VECTORS vectors of a row. Those of bf16 come in pairs where there are pairs, one of the even and one of
 * the odd channels: that needs no shuffles. load_sums and store_sums keep rows of f32 in that order. */
ALWAYS_INLINE void load_row(V to[8], const char *from, const int VECTORS, const bool is_bf16)
{
    if (is_bf16 && VECTORS % 2 == 0)
        for (int i = 0; i < VECTORS; i += 2) {
            U both = u_load(from + i * VW * 2);
            to[i] = u_even(both);
            to[i + 1] = u_odd(both);
        }
    else
        for (int i = 0; i < VECTORS; i++)
            to[i] = load_as_f32(from, i * VW, is_bf16);
}

ALWAYS_INLINE void load_sums(V to[8], const float *from, const int VECTORS, const bool is_bf16)
{
    for (int i = 0; i < VECTORS; i++)
        to[i] = v_load(from + i * VW);
    if (is_bf16 && VECTORS % 2 == 0)
        for (int i = 0; i < VECTORS; i += 2)
            v_split(&to[i], &to[i + 1]);
}

ALWAYS_INLINE void store_sums(float *to, V from[8], const int VECTORS, const bool is_bf16)
{
    if (is_bf16 && VECTORS % 2 == 0)
        for (int i = 0; i < VECTORS; i += 2)
            v_join(&from[i], &from[i + 1]);
    for (int i = 0; i < VECTORS; i++)
        v_store(to + i * VW, from[i]);
}

/* sum[r] = fma(a[r][j], b[j], sum[r]) for j = 0 .. n-1; every step asks for `lines` lines. */
ALWAYS_INLINE void add_steps(V sum[TILE_ROWS][8], const float *a, int64_t a_stride, const char *b,
                             int64_t b_step, int32_t n, const char *ahead, int64_t lines,
                             const int ROWS, const int VECTORS, const bool is_bf16)
{
    for (int32_t j = 0; j < n; j++, b += b_step) {
        V right[8];
        load_row(right, b, VECTORS, is_bf16);
        ahead = ask_ahead(ahead, lines);
        for (int r = 0; r < ROWS; r++) {
            V left = v_set1(a[r * a_stride + j]);
            for (int i = 0; i < VECTORS; i++)
                sum[r][i] = v_fma(left, right[i], sum[r][i]);
        }
    }
}

/* ROWS x VECTORS outputs in registers, for columns from `column` on. */
ALWAYS_INLINE void tile(const struct rondo_product *p, int32_t row, int32_t column, const int ROWS,
                        const int VECTORS, const bool is_bf16)
{
    V sum[TILE_ROWS][8];
    float *c = p->c + row * p->c_stride + column;
    const float *a = p->a + row * p->a_stride;
    const int64_t c_stride = p->c_stride;
    const int64_t b_step = p->b_stride * (is_bf16 ? 2 : 4);
    const char *b = (const char *)p->b + column * (is_bf16 ? 2 : 4);
    const int32_t n = p->n;
    /* The tile's share of what is read soon, evenly over the steps: idle memory is lost time. */
    const int64_t share = p->ahead ? p->ahead_size * (VECTORS * VW) / p->columns : 0;
    const int64_t lines = n > 0 ? (share / 64 + n - 1) / n : 0;
    const char *ahead = share > 0 ? (const char *)p->ahead + share * (column / (VECTORS * VW)) : b;

    for (int r = 0; r < ROWS; r++)
        if (p->start == RONDO_START_ZERO)
            for (int i = 0; i < VECTORS; i++)
                sum[r][i] = v_zero();
        else
            load_sums(sum[r], c + r * c_stride, VECTORS, is_bf16);
    if (p->start == RONDO_START_SCALE)
        for (int r = 0; r < ROWS; r++) {
            V factor = v_set1(p->scale[(int64_t)(row + r) * p->scale_step]);
            for (int i = 0; i < VECTORS; i++)
                sum[r][i] = v_mul(sum[r][i], factor);
        }
    /* Full tiles are for large products, which ask for nothing and save the question. */
    if (ROWS == TILE_ROWS && lines == 0)
        add_steps(sum, a, p->a_stride, b, b_step, n, b, 0, ROWS, VECTORS, is_bf16);
    else
        add_steps(sum, a, p->a_stride, b, b_step, n, ahead, lines, ROWS, VECTORS, is_bf16);
    for (int r = 0; r < ROWS; r++)
        store_sums(c + r * c_stride, sum[r], VECTORS, is_bf16);
}

/* Not inlined: one copy per shape, each with the registers to itself. */
typedef void tile_function(const struct rondo_product *p, int32_t row, int32_t column);

#define DEFINE_TILE(NAME, ROWS, VECTORS, IS_BF16)                                                  \
    static __attribute__((noinline)) void NAME(const struct rondo_product *p, int32_t row,         \
                                               int32_t column)                                     \
    {                                                                                              \
        tile(p, row, column, ROWS, VECTORS, IS_BF16);                                              \
    }
#define DEFINE_TILES(NAME, VECTORS, IS_BF16)                                                       \
    DEFINE_TILE(NAME##_1, 1, VECTORS, IS_BF16)                                                     \
    DEFINE_TILE(NAME##_2, 2, VECTORS, IS_BF16)                                                     \
    DEFINE_TILE(NAME##_3, 3, VECTORS, IS_BF16)                                                     \
    DEFINE_TILE(NAME##_4, 4, VECTORS, IS_BF16)                                                     \
    DEFINE_TILE(NAME##_5, 5, VECTORS, IS_BF16)                                                     \
    DEFINE_TILE(NAME##_6, 6, VECTORS, IS_BF16)                                                     \
    static tile_function *const NAME[TILE_ROWS] = {NAME##_1, NAME##_2, NAME##_3,                   \
                                                   NAME##_4, NAME##_5, NAME##_6};

DEFINE_TILES(wide_f32, TILE_VECTORS, false)
DEFINE_TILES(wide_bf16, TILE_VECTORS, true)
/* One row has too few chains to keep the units busy unless it takes more columns. */
DEFINE_TILE(row_f32, 1, 8, false)
DEFINE_TILE(row_bf16, 1, 8, true)
#if TILE_VECTORS * VW > 16
DEFINE_TILES(narrow_f32, 16 / VW, false)
DEFINE_TILES(narrow_bf16, 16 / VW, true)
#endif

/* All rows of the product for one tile of columns. */
static void columns_of(const struct rondo_product *p, tile_function *const tiles[TILE_ROWS],
                       int32_t column)
{
    int32_t row = 0;
    for (; row + TILE_ROWS <= p->rows; row += TILE_ROWS)
        tiles[TILE_ROWS - 1](p, row, column);
    if (row < p->rows)
        tiles[p->rows - row - 1](p, row, column);
}

static void product(const struct rondo_product *p)
{
    const bool is_bf16 = p->b_dtype == RONDO_BF16;
    int32_t column = 0;
    if (p->rows == 1)
        for (; column + 8 * VW <= p->columns; column += 8 * VW)
            (is_bf16 ? row_bf16 : row_f32)(p, 0, column);
    for (; column + TILE_VECTORS * VW <= p->columns; column += TILE_VECTORS * VW)
        columns_of(p, is_bf16 ? wide_bf16 : wide_f32, column);
#if TILE_VECTORS * VW > 16
    for (; column < p->columns; column += 16)
        columns_of(p, is_bf16 ? narrow_bf16 : narrow_f32, column);
#endif
}

/* VW rows of VW dwords each (or half of that), of which n_rows are there. */
ALWAYS_INLINE void load_rows(U r[VW], const char *from, int64_t stride, int32_t n_rows,
                             const bool is_half)
{
    if (n_rows >= VW && !is_half) {
        for (int i = 0; i < VW; i++)
            r[i] = u_load(from + i * stride);
        return;
    }
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
                      int32_t n_rows, int32_t channels, const void *ahead, int64_t ahead_size)
{
    const bool is_bf16 = dtype == RONDO_BF16;
    const int64_t size = is_bf16 ? 2 : 4, stride = row_stride * size;
    const int32_t step = is_bf16 ? 2 * VW : VW;
    const int64_t steps = (int64_t)((n_rows + VW - 1) / VW) * ((channels + step - 1) / step);
    const int64_t lines = ahead && steps > 0 ? (ahead_size / 64 + steps - 1) / steps : 0;
    const char *line = lines > 0 ? ahead : rows;
    for (int32_t j = 0; j < n_rows; j += VW) {
        const char *from = (const char *)rows + j * stride;
        for (int32_t d = 0; d < channels; d += step) {
            line = ask_ahead(line, lines);
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

static void decode(void *to, enum rondo_dtype dtype, const uint8_t *codes, int32_t n)
{
    for (int32_t i = 0; i < n; i += VW) {
        V x = v_load_e4m3(codes + i);
        if (dtype == RONDO_BF16)
            v_store_bf16((uint16_t *)to + i, x);
        else
            v_store((float *)to + i, x);
    }
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
                                                multiply, merge,     decode, softmax};
