/* The kernels of the attention family over vectors of any width: a level's source file defines the vector
 * primitives, includes this file once, and gets the table KERNELS.
 *
 * Needed before inclusion:
 *   V, VW            a vector of VW floats; VW is 4, 8 or 16
 *   U                a vector of VW dwords
 *   TILE_VECTORS     columns of a product's register tile, in vectors; divides 16 / VW or is a multiple of it
 *   v_zero v_set1 v_load v_store v_add v_sub v_mul v_max v_fma(a, b, c) = a * b + c
 *   v_load_bf16(const uint16_t *), v_store_bf16(uint16_t *, V), v_load_e4m3(const uint8_t *), v_exp, v_maximum(V) -> float
 *   v_decode_bf16(uint16_t *, const uint8_t *): the bf16 of 2 VW codes
 *   v_tree(const V lanes[16 / VW]) -> float: rondo_sum_tree16
 *   v_split(V *x, V *y): of the 2 VW floats x, y, x gets the even ones and y the odd ones; v_join: and back
 *   u_zero, u_load(const void *), u_store(void *, U), u_load_half (VW / 2 dwords, rest zero; VW 16 only), u_even(U), u_odd(U): the low
 *   and high bf16 of each dword as V; u_transpose(U r[VW]) in place. */
#include "backend_cpu/attention_internal.h"

#define TILE_ROWS 6
#define ALWAYS_INLINE static inline __attribute__((always_inline))

/* Of the right factor of a product: f32, bf16, or pairs of bf16, where a dword has two rows. */
enum form { FORM_F32, FORM_BF16, FORM_PAIRS };

/* Lines of memory to ask for in every step of something. */
struct asking {
    const char *near, *far;
    int64_t lines;
};

/* The bytes of `ahead` from `offset` on, `size` of them, over so many steps. */
ALWAYS_INLINE struct asking asking(const struct rondo_ahead *ahead, int64_t offset, int64_t size,
                                   int64_t steps)
{
    struct asking asking = {0};
    if (ahead->near && steps > 0) {
        asking.near = (const char *)ahead->near + offset;
        asking.far = ahead->far ? (const char *)ahead->far + offset : asking.near;
        asking.lines = (size / 64 + steps - 1) / steps;
    }
    return asking;
}

/* Every step asks for as many lines as the others: idle memory is lost time. */
ALWAYS_INLINE void ask(struct asking *asking)
{
    for (int64_t line = 0; line < asking->lines; line++) {
        __builtin_prefetch(asking->near, 0, 3);
        __builtin_prefetch(asking->far, 0, 3);
        asking->near += 64;
        asking->far += 64;
    }
}

ALWAYS_INLINE V load_as_f32(const void *from, int64_t index, const bool is_bf16)
{
    return is_bf16 ? v_load_bf16((const uint16_t *)from + index)
                   : v_load((const float *)from + index);
}

/* VECTORS vectors of a row. Those of bf16 come in pairs where there are pairs, one of the even and one of
 * the odd channels: that needs no shuffles. load_sums and store_sums keep rows of f32 in that order. */
ALWAYS_INLINE bool is_split(const int VECTORS, const enum form form)
{
    return form == FORM_BF16 && VECTORS % 2 == 0;
}

/* half: of the dwords of FORM_PAIRS. */
ALWAYS_INLINE void load_row(V to[8], const char *from, const int half, const int VECTORS,
                            const enum form form)
{
    if (form == FORM_PAIRS)
        for (int i = 0; i < VECTORS; i++) {
            U both = u_load(from + i * VW * 4);
            to[i] = half == 0 ? u_even(both) : u_odd(both);
        }
    else if (is_split(VECTORS, form))
        for (int i = 0; i < VECTORS; i += 2) {
            U both = u_load(from + i * VW * 2);
            to[i] = u_even(both);
            to[i + 1] = u_odd(both);
        }
    else
        for (int i = 0; i < VECTORS; i++)
            to[i] = load_as_f32(from, i * VW, form == FORM_BF16);
}

ALWAYS_INLINE void load_sums(V to[8], const float *from, const int VECTORS, const enum form form)
{
    for (int i = 0; i < VECTORS; i++)
        to[i] = v_load(from + i * VW);
    if (is_split(VECTORS, form))
        for (int i = 0; i < VECTORS; i += 2)
            v_split(&to[i], &to[i + 1]);
}

ALWAYS_INLINE void store_sums(float *to, V from[8], const int VECTORS, const enum form form)
{
    if (is_split(VECTORS, form))
        for (int i = 0; i < VECTORS; i += 2)
            v_join(&from[i], &from[i + 1]);
    for (int i = 0; i < VECTORS; i++)
        v_store(to + i * VW, from[i]);
}

/* sum[r] = fma(a[r][j], b[j], sum[r]) for j = 0 .. n-1; a row of b holds one j, or two of FORM_PAIRS. */
ALWAYS_INLINE void add_steps(V sum[TILE_ROWS][8], const float *a, int64_t a_stride, const char *b,
                             int64_t b_step, int32_t n, struct asking asking, const int ROWS,
                             const int VECTORS, const enum form form)
{
    const int halves = form == FORM_PAIRS ? 2 : 1;
    for (int32_t j = 0; j < n; j += halves, b += b_step) {
        ask(&asking);
        for (int half = 0; half < halves; half++) {
            V right[8];
            load_row(right, b, half, VECTORS, form);
            for (int r = 0; r < ROWS; r++) {
                V left = v_set1(a[r * a_stride + j + half]);
                for (int i = 0; i < VECTORS; i++)
                    sum[r][i] = v_fma(left, right[i], sum[r][i]);
            }
        }
    }
}

/* ROWS x VECTORS outputs in registers, for columns from `column` on. */
ALWAYS_INLINE void tile(const struct rondo_product *p, int32_t row, int32_t column, const int ROWS,
                        const int VECTORS, const enum form form)
{
    V sum[TILE_ROWS][8];
    float *c = p->c + row * p->c_stride + column;
    const float *a = p->a + row * p->a_stride;
    const int64_t c_stride = p->c_stride, size = form == FORM_BF16 ? 2 : 4;
    const char *b = (const char *)p->b + column * size;
    const int64_t share = p->ahead.size * (VECTORS * VW) / p->columns;

    for (int r = 0; r < ROWS; r++)
        if (p->start == RONDO_START_ZERO)
            for (int i = 0; i < VECTORS; i++)
                sum[r][i] = v_zero();
        else
            load_sums(sum[r], c + r * c_stride, VECTORS, form);
    if (p->start == RONDO_START_SCALE)
        for (int r = 0; r < ROWS; r++) {
            V factor = v_set1(p->scale[(int64_t)(row + r) * p->scale_step]);
            for (int i = 0; i < VECTORS; i++)
                sum[r][i] = v_mul(sum[r][i], factor);
        }
    /* Large products ask for nothing and save the question. */
    if (row > 0 || !p->ahead.near)
        add_steps(sum, a, p->a_stride, b, p->b_stride * size, p->n, (struct asking){0}, ROWS,
                  VECTORS, form);
    else
        add_steps(sum, a, p->a_stride, b, p->b_stride * size, p->n,
                  asking(&p->ahead, share * (column / (VECTORS * VW)), share,
                         form == FORM_PAIRS ? p->n / 2 : p->n),
                  ROWS, VECTORS, form);
    for (int r = 0; r < ROWS; r++)
        store_sums(c + r * c_stride, sum[r], VECTORS, form);
}

/* Not inlined: one copy per shape, each with the registers to itself. */
typedef void tile_function(const struct rondo_product *p, int32_t row, int32_t column);

#define DEFINE_TILE(NAME, ROWS, VECTORS, FORM)                                                     \
    static __attribute__((noinline)) void NAME(const struct rondo_product *p, int32_t row,         \
                                               int32_t column)                                     \
    {                                                                                              \
        tile(p, row, column, ROWS, VECTORS, FORM);                                                 \
    }
#define DEFINE_TILES(NAME, VECTORS, FORM)                                                          \
    DEFINE_TILE(NAME##_1, 1, VECTORS, FORM)                                                        \
    DEFINE_TILE(NAME##_2, 2, VECTORS, FORM)                                                        \
    DEFINE_TILE(NAME##_3, 3, VECTORS, FORM)                                                        \
    DEFINE_TILE(NAME##_4, 4, VECTORS, FORM)                                                        \
    DEFINE_TILE(NAME##_5, 5, VECTORS, FORM)                                                        \
    DEFINE_TILE(NAME##_6, 6, VECTORS, FORM)                                                        \
    static tile_function *const NAME[TILE_ROWS] = {NAME##_1, NAME##_2, NAME##_3,                   \
                                                   NAME##_4, NAME##_5, NAME##_6};

DEFINE_TILES(wide_f32, TILE_VECTORS, FORM_F32)
DEFINE_TILES(wide_bf16, TILE_VECTORS, FORM_BF16)
DEFINE_TILES(wide_pairs, TILE_VECTORS, FORM_PAIRS)
/* One row has too few chains to keep the units busy unless it takes more columns. */
DEFINE_TILE(row_f32, 1, 8, FORM_F32)
DEFINE_TILE(row_bf16, 1, 8, FORM_BF16)
#if TILE_VECTORS * VW > 16
DEFINE_TILES(narrow_f32, 16 / VW, FORM_F32)
DEFINE_TILES(narrow_bf16, 16 / VW, FORM_BF16)
DEFINE_TILES(narrow_pairs, 16 / VW, FORM_PAIRS)
#else
#define narrow_f32 wide_f32
#define narrow_bf16 wide_bf16
#define narrow_pairs wide_pairs
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

/* The columns from `column` on. */
static void all_columns_of(const struct rondo_product *p, tile_function *const wide[TILE_ROWS],
                           tile_function *const narrow[TILE_ROWS], int32_t column)
{
    for (; column + TILE_VECTORS * VW <= p->columns; column += TILE_VECTORS * VW)
        columns_of(p, wide, column);
    for (; column < p->columns; column += 16)
        columns_of(p, narrow, column);
}

static void product(const struct rondo_product *p)
{
    const bool is_bf16 = p->b_dtype == RONDO_BF16;
    int32_t column = 0;
    if (p->rows == 1)
        for (; column + 8 * VW <= p->columns; column += 8 * VW)
            (is_bf16 ? row_bf16 : row_f32)(p, 0, column);
    if (is_bf16)
        all_columns_of(p, wide_bf16, narrow_bf16, column);
    else
        all_columns_of(p, wide_f32, narrow_f32, column);
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

/* Channels [0, 2 VW), or half of them, of VW rows of bf16 to [][C]. */
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

/* The same as dwords of two channels; VW dwords of f32 alike. */
ALWAYS_INLINE void transpose_dwords(uint32_t *to, const char *from, int64_t stride, int32_t n_rows,
                                    const bool is_half)
{
    U r[VW];
    load_rows(r, from, stride, n_rows, is_half);
    u_transpose(r);
    for (int i = 0; i < (is_half ? VW / 2 : VW); i++)
        u_store(to + i * RONDO_CHUNK, r[i]);
}

static void transpose(float *to, const void *rows, enum rondo_dtype dtype, int32_t n_rows,
                      int32_t channels)
{
    const bool is_bf16 = dtype == RONDO_BF16;
    const int64_t size = is_bf16 ? 2 : 4, stride = channels * size;
    const int32_t step = is_bf16 ? 2 * VW : VW;
    for (int32_t j = 0; j < n_rows; j += VW) {
        const char *from = (const char *)rows + j * stride;
        for (int32_t d = 0; d < channels; d += step) {
            float *lanes = to + (int64_t)d * RONDO_CHUNK + j;
            if (!is_bf16)
                transpose_dwords((uint32_t *)lanes, from + d * size, stride, n_rows - j, false);
            else if (VW < 16 || d + step <= channels)
                transpose_bf16(lanes, from + d * size, stride, n_rows - j, false);
            else
                transpose_bf16(lanes, from + d * size, stride, n_rows - j, true);
        }
    }
}

/* Channels of keys that dots transposes at a time. */
#define KEY_CHANNELS 64

/* Transposes `bytes` bytes of each of n_rows rows as dwords to [bytes / 4][C]. */
static void transpose_some(uint32_t *to, const char *rows, int64_t stride, int32_t n_rows,
                           int32_t bytes, struct asking asking)
{
    for (int32_t j = 0; j < n_rows; j += VW)
        for (int32_t i = 0; i < bytes; i += VW * 4) {
            const char *from = rows + j * stride + i;
            uint32_t *lanes = to + i / 4 * RONDO_CHUNK + j;
            ask(&asking);
            if (VW < 16 || i + VW * 4 <= bytes)
                transpose_dwords(lanes, from, stride, n_rows - j, false);
            else
                transpose_dwords(lanes, from, stride, n_rows - j, true);
        }
}

/* A quarter of what is asked for ahead is asked for while keys are transposed, which takes about a quarter of the time. */
static void dots(const struct rondo_dots *p)
{
    _Alignas(64) uint32_t keys[KEY_CHANNELS * RONDO_CHUNK];
    const bool is_bf16 = p->dtype == RONDO_BF16;
    const int32_t size = is_bf16 ? 2 : 4, groups = (p->n_keys + VW - 1) / VW;
    const int64_t stride = (int64_t)p->head_dim * size;
    for (int32_t d = 0; d < p->head_dim; d += KEY_CHANNELS) {
        int32_t channels = p->head_dim - d < KEY_CHANNELS ? p->head_dim - d : KEY_CHANNELS;
        int32_t bytes = channels * size, parts = (bytes + VW * 4 - 1) / (VW * 4);
        int64_t first = p->ahead.size * d / p->head_dim / 64 * 64;
        int64_t share = p->ahead.size * channels / p->head_dim / 64 * 64;
        int64_t quarter = share / 4 / 64 * 64;
        transpose_some(keys, (const char *)p->keys + d * size, stride, p->n_keys, bytes,
                       asking(&p->ahead, first, quarter, (int64_t)groups * parts));
        struct rondo_product product = {
            .c = p->x,
            .c_stride = p->x_stride,
            .a = p->q + d,
            .a_stride = p->head_dim,
            .b = keys,
            .b_stride = RONDO_CHUNK,
            .rows = p->rows,
            .columns = (p->n_keys + 15) & ~15,
            .n = channels,
            .start = d == 0 ? RONDO_START_ZERO : RONDO_START_KEEP,
        };
        if (p->ahead.near)
            product.ahead = (struct rondo_ahead){
                (const char *)p->ahead.near + first + quarter,
                p->ahead.far ? (const char *)p->ahead.far + first + quarter : NULL,
                share - quarter};
        if (is_bf16)
            all_columns_of(&product, wide_pairs, narrow_pairs, 0);
        else
            all_columns_of(&product, wide_f32, narrow_f32, 0);
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
    int32_t i = 0;
    if (dtype == RONDO_BF16)
        for (; i + 2 * VW <= n; i += 2 * VW)
            v_decode_bf16((uint16_t *)to + i, codes + i);
    for (; i < n; i += VW) {
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

const struct rondo_attention_kernels KERNELS = {product,  dots,  transpose, widen,  scale,
                                                multiply, merge, decode,    softmax};
