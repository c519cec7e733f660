/* Products of few rows with weights whose rows follow one another without a gap, written once over the vectors of
 * gemm_kernels.h, which includes this file.
 *
 * The sums of the quarters of the blocks of RONDO_BLOCK input channels do not depend on each other (core/ops.h), so
 * here four lanes of a vector are the quarters of a block, of whatever output channel: weights are read in the
 * order in which they lie in memory, as processors fetch ahead best, come through the first-level cache once, and
 * are in their lanes as they come. x is spread over the lanes accordingly, once for all tiles. */

/* Blocks of a vector. */
enum { VECTOR_BLOCKS = LANES / RONDO_QUARTERS };
/* Streams: vectors of blocks taken side by side, to hide the latency of additions. Their blocks are a window; windows
 * divide a tile. */
#define STREAMS_OF(m) ((m) == 1 ? 8 : 4)
enum { MOST_STREAMS = 8, PAIR_STREAMS = 4 };
_Static_assert(VECTOR_BLOCKS <= 4 && MOST_STREAMS <= 8, "RONDO_GEMM_SPREAD has room for this");
_Static_assert(ROWS % (MOST_STREAMS * VECTOR_BLOCKS) == 0, "windows divide a tile of any K");
_Static_assert(RONDO_QUARTERS == 4 && RONDO_QUARTER_RUN == 4,
               "the shuffles of vectors are made for this");
/* Input channels that a vector takes of a block at a time: a run of each quarter. */
enum { STRIPE = RONDO_QUARTERS * RONDO_QUARTER_RUN, STRIPES = RONDO_BLOCK / STRIPE };
#define STRIPE_BYTES(dtype) (STRIPE * 4 / PER_DWORD(dtype))
#define BLOCK_BYTES(dtype) (RONDO_BLOCK * 4 / PER_DWORD(dtype))
/* Bytes from use to the two prefetches of a line, whole windows but for f32. With FAR twice as far AVX2 read E4M3 at
 * 89 % of the bandwidth rather than at 94, and pairs were no faster (Zen 5). */
enum { LINE = 64, FAR = 16384, NEAR = 8192 };

/* Tile of output channels n .. n + ROWS as blocks one after the other. */
struct stream {
    const uint8_t *at, *next; /* of the tile; what is wanted after it */
    int64_t bytes;
    int64_t row_blocks, blocks; /* of a row, of the tile */
    int64_t period;             /* vectors of x until lanes meet the same blocks of it again */
    int64_t vector;             /* of x, below period: the one that the next window begins with */
};

static int64_t stream_period(int64_t row_blocks)
{
    int64_t period = 1;
    while (period * VECTOR_BLOCKS % row_blocks != 0)
        period++;
    return period;
}

static inline struct stream stream_of(const struct rondo_gemm_weight *weight, int64_t n,
                                      const uint8_t *next)
{
    struct stream stream = {
        .at = weight->data + n * weight->row_bytes,
        .next = next,
        .bytes = ROWS * weight->row_bytes,
        .row_blocks = weight->k / RONDO_BLOCK,
    };
    stream.blocks = ROWS * stream.row_blocks;
    stream.period = stream_period(stream.row_blocks);
    return stream;
}

/* What will be wanted: what lies FAR and NEAR bytes ahead of a window. */
struct ahead_of_window {
    const uint8_t *far, *near;
};

static inline const uint8_t *stream_after(const struct stream *stream, int64_t position)
{
    return position < stream->bytes ? stream->at + position
                                    : stream->next + (position - stream->bytes);
}

/* `position` bytes into the tile. */
static inline struct ahead_of_window stream_ahead(const struct stream *stream, int64_t position)
{
    return (struct ahead_of_window){stream_after(stream, position + FAR),
                                    stream_after(stream, position + NEAR)};
}

/* Prefetches a line, and the nearer one again: a Zen 5 seems to drop prefetches when too many wait already, and a
 * line that was lost is waited for. For the same reason callers spread these evenly over their work, and compilers
 * are kept from gathering them at its beginning. */
static inline __attribute__((always_inline)) void fetch_line(struct ahead_of_window ahead, int line)
{
    __builtin_prefetch(ahead.far + line * LINE, 0, PREFETCH_LOCALITY);
    __builtin_prefetch(ahead.near + line * LINE, 0, PREFETCH_LOCALITY);
    __asm__ volatile("");
}

/* Prefetches the lines that begin in bytes [first, first + size). */
static inline __attribute__((always_inline)) void fetch_bytes(struct ahead_of_window ahead,
                                                              int first, int size)
{
#pragma GCC unroll 8
    for (int line = (first + LINE - 1) / LINE; line * LINE < first + size; line++)
        fetch_line(ahead, line);
}

static inline struct ahead_of_window further_ahead(struct ahead_of_window ahead, int bytes)
{
    return (struct ahead_of_window){ahead.far + bytes, ahead.near + bytes};
}

/* The first vector of x of a window of `streams`; the others follow it. */
static inline int64_t stream_vector(struct stream *stream, int streams)
{
    int64_t vector = stream->vector;
    stream->vector += streams;
    while (stream->vector >= stream->period)
        stream->vector -= stream->period;
    return vector;
}

/* y = totals of the sums [m][blocks], in order. */
static void stream_fold(const struct stream *stream, const struct rondo_gemm_input *input,
                        const float *scale, float *y)
{
    int64_t row_blocks = stream->row_blocks;
    for (int i = 0; i < input->m; i++) {
        const float *x_scale = input->scale ? input->scale + i * input->scale_stride : NULL;
        const float *sums = input->sums + i * input->sums_stride;
        const uint8_t *row[ROWS];
        vf total[GROUPS];
        for (int r = 0; r < ROWS; r++)
            row[r] = (const uint8_t *)(sums + r * row_blocks);
        for (int g = 0; g < GROUPS; g++)
            total[g] = vf_zero();
        for (int64_t first = 0; first < row_blocks; first += CHUNK_DWORDS) {
            for (int g = 0; g < GROUPS; g++) {
                vi chunk[CHUNK_DWORDS];
                transpose(row + g * LANES, first * 4, chunk);
                for (int64_t b = first; b < first + CHUNK_DWORDS && b < row_blocks; b++) {
                    float s = (x_scale ? x_scale[b] : 1.0f) * (scale ? scale[b] : 1.0f);
                    total[g] =
                        vf_fma(vf_from_bits(vi_load(chunk + (b - first))), vf_set1(s), total[g]);
                }
            }
        }
        for (int g = 0; g < GROUPS; g++)
            vf_store(y + i * ROWS + g * LANES, total[g]);
    }
}

/* The sums of neighbouring lanes of a, then of b, of every four lanes. */
static inline vf add_neighbours(vf a, vf b)
{
    vi split[2];
    split_pairs(vf_bits(a), vf_bits(b), split);
    return vf_add(vf_from_bits(split[0]), vf_from_bits(split[1]));
}

/* Adds the quarters of the blocks of a window that begins at block `first`. */
static inline __attribute__((always_inline)) void stream_store(const struct rondo_gemm_input *input,
                                                               int64_t first, int m, int streams,
                                                               vf sum[][MOST_STREAMS])
{
#pragma GCC unroll 3
    for (int i = 0; i < m; i++)
#pragma GCC unroll 2
        for (int g = 0; g < streams; g += 4) {
            vf all = add_neighbours(add_neighbours(sum[i][g], sum[i][g + 1]),
                                    add_neighbours(sum[i][g + 2], sum[i][g + 3]));
            vf_store(input->sums + i * input->sums_stride + first + g * VECTOR_BLOCKS,
                     vf_mul(quads_in_order(all), vf_set1(input->unscale)));
        }
}

static const float *stream_scale(const struct rondo_gemm_weight *weight, int64_t n)
{
    return weight->scale ? weight->scale + n / RONDO_BLOCK * weight->scale_stride : NULL;
}

/* ---- any weights ----------------------------------------------------------------------------- */

/* A stripe, `offset` bytes into each of VECTOR_BLOCKS blocks, as it is in memory and with four lanes for each block,
 * lane j of which has quarter j: STRIPE / 4 vectors, one for each channel of the quarters' runs, or as many of them in
 * one as a dword holds. */
static inline __attribute__((always_inline)) int
load_stripe(const uint8_t *const block[VECTOR_BLOCKS], int64_t offset, enum rondo_dtype dtype,
            vi bits[4])
{
    vi part[4];
    int parts = STRIPE_BYTES(dtype) / 16;
#pragma GCC unroll 4
    for (int i = 0; i < parts; i++)
        part[i] = load_quads(block, offset + i * 16);
    if (parts == 1)
        bits[0] = part[0];
    else if (parts == 2)
        split_pairs(part[0], part[1], bits);
    else
        transpose4(part, bits);
    return parts;
}

/* Continues the sums over a stripe; x is that of its first channels. */
static inline __attribute__((always_inline)) void
multiply_stripe(const vi *bits, const float *x, int64_t stride, int m, enum rondo_dtype dtype,
                enum form form, vf sum[][MOST_STREAMS], int g)
{
    const int per = PER_DWORD(dtype);
#pragma GCC unroll 4
    for (int p = 0; p < RONDO_QUARTER_RUN / per; p++) {
        vf w[4];
        unpack(bits[p], dtype, form, w);
#pragma GCC unroll 4
        for (int j = 0; j < per; j++)
#pragma GCC unroll 3
            for (int i = 0; i < m; i++)
                sum[i][g] =
                    vf_fma(vf_load(x + i * stride + (p * per + j) * LANES), w[j], sum[i][g]);
    }
}

/* Stripe `stripe` of stream g of a window. */
static inline __attribute__((always_inline)) void load_stream(const uint8_t *at, int stripe, int g,
                                                              enum rondo_dtype dtype, vi bits[4])
{
    const uint8_t *block[VECTOR_BLOCKS];
    for (int q = 0; q < VECTOR_BLOCKS; q++)
        block[q] = at + (g * VECTOR_BLOCKS + q) * BLOCK_BYTES(dtype);
    load_stripe(block, stripe * STRIPE_BYTES(dtype), dtype, bits);
}

/* Continues the sums over stripe `stripe` of a window whose weights begin at `at` and meet the vectors of x from x
 * on. */
static inline __attribute__((always_inline)) void
add_stripe(const uint8_t *at, struct ahead_of_window ahead, int stripe, const float *x,
           int64_t stride, int m, enum rondo_dtype dtype, enum form form, vf sum[][MOST_STREAMS])
{
    const int streams = STREAMS_OF(m), bytes = VECTOR_BLOCKS * STRIPE_BYTES(dtype);
    ahead = further_ahead(ahead, stripe * streams * bytes);
#pragma GCC unroll 8
    for (int g = 0; g < streams; g++) {
        vi bits[4];
        load_stream(at, stripe, g, dtype, bits);
        fetch_bytes(ahead, g * bytes, bytes);
        multiply_stripe(bits, x + (g * STRIPES + stripe) * (STRIPE * VECTOR_BLOCKS), stride, m,
                        dtype, form, sum, g);
    }
}

/* The same of E4M3 with x both as it is and scaled: takes the latter where no code is subnormal or zero. */
static inline __attribute__((always_inline)) void
add_stripe_checked(const uint8_t *at, struct ahead_of_window ahead, int stripe, const float *x,
                   const float *x_scaled, int64_t stride, int m, vf sum[][MOST_STREAMS])
{
    const int streams = STREAMS_OF(m), bytes = VECTOR_BLOCKS * STRIPE;
    vi bits[MOST_STREAMS][4], least = vi_set1(-1);
    ahead = further_ahead(ahead, stripe * streams * bytes);
#pragma GCC unroll 8
    for (int g = 0; g < streams; g++) {
        load_stream(at, stripe, g, RONDO_F8_E4M3, bits[g]);
        fetch_bytes(ahead, g * bytes, bytes);
        least = vi_exponents(least, bits[g][0]);
    }
    if (!vi_any_zero(least))
#pragma GCC unroll 8
        for (int g = 0; g < streams; g++)
            multiply_stripe(bits[g], x_scaled + (g * STRIPES + stripe) * (STRIPE * VECTOR_BLOCKS),
                            stride, m, RONDO_F8_E4M3, FORM_SCALED, sum, g);
    else
#pragma GCC unroll 8
        for (int g = 0; g < streams; g++)
            multiply_stripe(bits[g], x + (g * STRIPES + stripe) * (STRIPE * VECTOR_BLOCKS), stride,
                            m, RONDO_F8_E4M3, FORM_EXACT, sum, g);
}

static inline __attribute__((always_inline)) void
stream_tile(const struct rondo_gemm_weight *weight, int64_t n, const struct rondo_gemm_input *input,
            const uint8_t *next, int m, enum rondo_dtype dtype, float *y)
{
    const int streams = STREAMS_OF(m);
    const bool has_scaled = dtype == RONDO_F8_E4M3 && input->all_fast;
    struct stream stream = stream_of(weight, n, next);
    for (int64_t first = 0; first < stream.blocks; first += streams * VECTOR_BLOCKS) {
        int64_t position = first * BLOCK_BYTES(dtype);
        const uint8_t *at = stream.at + position;
        struct ahead_of_window ahead = stream_ahead(&stream, position);
        int64_t x = stream_vector(&stream, streams) * (RONDO_BLOCK * VECTOR_BLOCKS);
        vf sum[RONDO_GEMV_ROWS][MOST_STREAMS];
        for (int g = 0; g < streams; g++)
            for (int i = 0; i < m; i++)
                sum[i][g] = vf_zero();
        const float *exact = input->spread_x + x, *scaled = input->spread_scaled + x;
        if (has_scaled && input->avoid_subnormals)
            for (int s = 0; s < STRIPES; s++)
                add_stripe_checked(at, ahead, s, exact, scaled, input->spread_stride, m, sum);
        else if (has_scaled)
            for (int s = 0; s < STRIPES; s++)
                add_stripe(at, ahead, s, scaled, input->spread_stride, m, dtype, FORM_SCALED, sum);
        else
            for (int s = 0; s < STRIPES; s++)
                add_stripe(at, ahead, s, exact, input->spread_stride, m, dtype, FORM_EXACT, sum);
        stream_store(input, first, m, streams, sum);
    }
    stream_fold(&stream, input, stream_scale(weight, n), y);
}

#define STREAM(M, DTYPE)                                                                           \
    static void stream_##DTYPE##_##M(const struct rondo_gemm_weight *weight, int64_t n,            \
                                     const struct rondo_gemm_input *input, const uint8_t *next,    \
                                     float *y)                                                     \
    {                                                                                              \
        stream_tile(weight, n, input, next, M, RONDO_##DTYPE, y);                                  \
    }
#define STREAM_ALL(DTYPE) STREAM(1, DTYPE) STREAM(2, DTYPE) STREAM(3, DTYPE)
STREAM_ALL(F32)
STREAM_ALL(BF16)
STREAM_ALL(F16)
STREAM_ALL(F8_E4M3)

static void stream(const struct rondo_gemm_weight *weight, int64_t n,
                   const struct rondo_gemm_input *input, const uint8_t *next, float *y)
{
    static __typeof__(&stream_F32_1) const table[][RONDO_GEMV_ROWS] = {
        [RONDO_F32] = {stream_F32_1, stream_F32_2, stream_F32_3},
        [RONDO_BF16] = {stream_BF16_1, stream_BF16_2, stream_BF16_3},
        [RONDO_F16] = {stream_F16_1, stream_F16_2, stream_F16_3},
        [RONDO_F8_E4M3] = {stream_F8_E4M3_1, stream_F8_E4M3_2, stream_F8_E4M3_3},
    };
    table[weight->dtype][input->m - 1](weight, n, input, next, y);
}

/* ---- x --------------------------------------------------------------------------------------- */

/* Vector v of x has its blocks v * VECTOR_BLOCKS .. modulo row_blocks, stripe after stripe, each as load_stripe gives
 * it: of f32 or, with half as many dwords in a block, of pairs. After a period come those that the streams of a window
 * that begins in it can meet. */
static void spread(const uint32_t *from, int64_t row_blocks, int dwords, uint32_t *to)
{
    enum rondo_dtype dtype = dwords == RONDO_BLOCK ? RONDO_F32 : RONDO_BF16;
    const int streams = dwords == RONDO_BLOCK ? MOST_STREAMS : PAIR_STREAMS;
    int64_t vectors = stream_period(row_blocks);
    if (vectors % streams != 0)
        vectors += streams - 1;
    for (int64_t v = 0; v < vectors; v++) {
        const uint8_t *block[VECTOR_BLOCKS];
        for (int q = 0; q < VECTOR_BLOCKS; q++)
            block[q] = (const uint8_t *)(from + (v * VECTOR_BLOCKS + q) % row_blocks * dwords);
        for (int s = 0; s < STRIPES; s++) {
            vi bits[4];
            int parts = load_stripe(block, s * STRIPE_BYTES(dtype), dtype, bits);
            for (int i = 0; i < parts; i++, to += LANES)
                vi_store(to, bits[i]);
        }
    }
}
