/* Products of few rows with weights whose rows follow one another without a gap, written once over the vectors of
 * gemm_kernels.h, which includes this file.
 *
 * The sums of the blocks of RONDO_BLOCK input channels do not depend on each other (core/ops.h), so here a lane
 * of a vector is such a block, of whatever output channel: weights are read in the order in which they lie in
 * memory, as processors fetch ahead best, and come through the first-level cache once. x is spread over the
 * lanes accordingly, once for all tiles. */

/* Vectors of blocks taken side by side: as many as four, to hide the latency of additions, while their blocks are no
 * more than 8 KB, because then they are read nearly in order. Measured on a Zen 5: 8 KB of BF16 at a time 32 GB/s,
 * 16 KB 24; 8 KB of E4M3 30 GB/s, 4 KB 25. */
#define BLOCK_BYTES(dtype) (RONDO_BLOCK * 4 / PER_DWORD(dtype))
#define STREAMS_OF(dtype)                                                                          \
    (LANES * BLOCK_BYTES(dtype) * 4 <= 8192 ? 4 : LANES * BLOCK_BYTES(dtype) * 2 <= 8192 ? 2 : 1)
/* Bytes from use to the two prefetches of a line, whole steps of a strip. With FAR twice as far E4M3 by pairs was slower. */
enum { MOST_STREAMS = 4, FAR = 16384, NEAR = 8192 };

/* Tile of output channels n .. n + ROWS as blocks one after the other. */
struct stream {
    const uint8_t *at, *next; /* of the tile; what is wanted after it */
    int64_t bytes;
    int64_t row_blocks, blocks; /* of a row, of the tile */
    int64_t period;             /* vectors of x until lanes meet the same blocks of it again */
};

static int64_t stream_period(int64_t row_blocks)
{
    int64_t period = 1;
    while (period * LANES % row_blocks != 0)
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

/* What will be wanted: what lies FAR and NEAR bytes ahead of a step of a strip. */
struct ahead_of_strip {
    const uint8_t *far, *near;
};

static inline const uint8_t *stream_after(const struct stream *stream, int64_t position)
{
    return position < stream->bytes ? stream->at + position
                                    : stream->next + (position - stream->bytes);
}

/* `position` bytes into the tile. */
static inline struct ahead_of_strip stream_ahead(const struct stream *stream, int64_t position)
{
    return (struct ahead_of_strip){stream_after(stream, position + FAR),
                                   stream_after(stream, position + NEAR)};
}

/* Prefetches a line, and the nearer one again: a Zen 5 seems to drop prefetches when too many wait already, and a
 * line that was lost is waited for. For the same reason callers spread these evenly over their work. */
static inline __attribute__((always_inline)) void fetch_line(struct ahead_of_strip ahead, int line)
{
    __builtin_prefetch(ahead.far + line * STEP, 0, PREFETCH_LOCALITY);
    __builtin_prefetch(ahead.near + line * STEP, 0, PREFETCH_LOCALITY);
}

/* The vector of x that stream g of the strip that begins at block `first` meets. */
static inline int64_t stream_vector(const struct stream *stream, int64_t first, int g)
{
    return stream->period == 1 ? 0 : (first / LANES + g) % stream->period;
}

/* y = totals of the blocks' sums [m][blocks], in order. */
static void stream_fold(const struct stream *stream, const struct rondo_gemm_input *input,
                        const float *scale, float *y)
{
    for (int i = 0; i < input->m; i++) {
        const float *x_scale = input->scale ? input->scale + i * input->scale_stride : NULL;
        for (int r = 0; r < ROWS; r += LANES) {
            const uint8_t *row[LANES];
            vf total = vf_zero();
            for (int l = 0; l < LANES; l++)
                row[l] = (const uint8_t *)(input->sums + i * input->sums_stride +
                                           (r + l) * stream->row_blocks);
            for (int64_t b = 0; b < stream->row_blocks; b += CHUNK_DWORDS) {
                vi sums[CHUNK_DWORDS];
                transpose(row, b * 4, sums);
                for (int q = 0; q < CHUNK_DWORDS && b + q < stream->row_blocks; q++) {
                    float s = (x_scale ? x_scale[b + q] : 1.0f) * (scale ? scale[b + q] : 1.0f);
                    total = vf_fma(vf_from_bits(sums[q]), vf_set1(s), total);
                }
            }
            vf_store(y + i * ROWS + r, total);
        }
    }
}

static inline __attribute__((always_inline)) void stream_store(const struct rondo_gemm_input *input,
                                                               int64_t first, int m, int streams,
                                                               vf sum[][MOST_STREAMS])
{
    for (int i = 0; i < m; i++)
        for (int g = 0; g < streams; g++)
            vf_store(input->sums + i * input->sums_stride + first + g * LANES,
                     vf_mul(sum[i][g], vf_set1(input->unscale)));
}

static const float *stream_scale(const struct rondo_gemm_weight *weight, int64_t n)
{
    return weight->scale ? weight->scale + n / RONDO_BLOCK * weight->scale_stride : NULL;
}

/* ---- any weights ----------------------------------------------------------------------------- */

struct strip {
    vi bits[MOST_STREAMS][STEP_DWORDS];
    bool fast[PARTS]; /* as in struct step */
};

/* A step of a strip: STEP bytes of each of its blocks. Fetches half as many lines as it reads. */
static inline __attribute__((always_inline)) void load_strip(const uint8_t *at,
                                                             struct ahead_of_strip ahead, bool look,
                                                             enum rondo_dtype dtype,
                                                             struct strip *strip)
{
    enum { CHUNKS = STEP / CHUNK, CHUNK_LINES = LANES / 2 / CHUNKS };
    const int streams = STREAMS_OF(dtype);
    vi least[PARTS];
    for (int p = 0; p < PARTS; p++)
        least[p] = vi_set1(-1);
    for (int g = 0; g < streams; g++) {
        const uint8_t *block[LANES];
#pragma GCC unroll 16
        for (int l = 0; l < LANES; l++)
            block[l] = at + (g * LANES + l) * BLOCK_BYTES(dtype);
#pragma GCC unroll 4
        for (int i = 0; i < CHUNKS; i++) {
#pragma GCC unroll 4
            for (int line = 0; line < CHUNK_LINES; line++)
                fetch_line(ahead, (g * CHUNKS + i) * CHUNK_LINES + line);
            transpose(block, i * CHUNK, strip->bits[g] + i * CHUNK_DWORDS);
        }
        if (dtype == RONDO_F8_E4M3 && look)
#pragma GCC unroll 16
            for (int q = 0; q < STEP_DWORDS; q++)
                least[q / PART_DWORDS] =
                    vi_exponents(least[q / PART_DWORDS], vi_load(&strip->bits[g][q]));
    }
    for (int p = 0; p < PARTS; p++)
        strip->fast[p] = dtype == RONDO_F8_E4M3 && (!look || !vi_any_zero(least[p]));
}

/* Continues the sums over part `part` of a step; x[g] is that of the part's first channel. Fetches lines. */
static inline __attribute__((always_inline)) void
add_part(const struct strip *strip, int part, struct ahead_of_strip ahead,
         const float *const x[MOST_STREAMS], int64_t stride, int m, enum rondo_dtype dtype,
         enum form form, vf sum[][MOST_STREAMS])
{
    const int per = PER_DWORD(dtype), streams = STREAMS_OF(dtype);
    enum { LINES = LANES / 2 / PARTS }; /* of each stream */
#pragma GCC unroll 4
    for (int q = 0; q < PART_DWORDS; q++)
#pragma GCC unroll 4
        for (int g = 0; g < streams; g++) {
            vf w[4];
            if (q < LINES)
                fetch_line(ahead, (LANES / 2 + part * LINES + q) * streams + g);
            unpack(vi_load(&strip->bits[g][part * PART_DWORDS + q]), dtype, form, w);
#pragma GCC unroll 4
            for (int j = 0; j < per; j++)
#pragma GCC unroll 3
                for (int i = 0; i < m; i++)
                    sum[i][g] =
                        vf_fma(vf_load(x[g] + i * stride + (q * per + j) * LANES), w[j], sum[i][g]);
        }
}

/* A step of a strip of the tile: `offset` bytes into the blocks from block `first` on. */
static inline __attribute__((always_inline)) void
add_strip(const struct stream *stream, const struct rondo_gemm_input *input, int64_t first,
          int offset, int m, enum rondo_dtype dtype, vf sum[][MOST_STREAMS])
{
    const int per = PER_DWORD(dtype), streams = STREAMS_OF(dtype), lines = streams * LANES;
    int64_t position = first * BLOCK_BYTES(dtype);
    struct ahead_of_strip ahead = stream_ahead(stream, position + offset * lines);
    struct strip strip;
    load_strip(stream->at + position + offset, ahead, input->avoid_subnormals, dtype, &strip);
    for (int p = 0; p < PARTS; p++) {
        const float *x[MOST_STREAMS];
        bool fast = dtype == RONDO_F8_E4M3 && input->all_fast && strip.fast[p];
        for (int g = 0; g < streams; g++)
            x[g] = (fast ? input->spread_scaled : input->spread_x) +
                   (stream_vector(stream, first, g) * RONDO_BLOCK +
                    (offset / 4 + p * PART_DWORDS) * per) *
                       LANES;
        if (fast)
            add_part(&strip, p, ahead, x, input->spread_stride, m, dtype, FORM_SCALED, sum);
        else
            add_part(&strip, p, ahead, x, input->spread_stride, m, dtype, FORM_EXACT, sum);
    }
}

static inline __attribute__((always_inline)) void
stream_tile(const struct rondo_gemm_weight *weight, int64_t n, const struct rondo_gemm_input *input,
            const uint8_t *next, int m, enum rondo_dtype dtype, float *y)
{
    const int streams = STREAMS_OF(dtype);
    struct stream stream = stream_of(weight, n, next);
    for (int64_t first = 0; first < stream.blocks; first += streams * LANES) {
        vf sum[RONDO_GEMV_ROWS][MOST_STREAMS];
        for (int i = 0; i < m; i++)
            for (int g = 0; g < streams; g++)
                sum[i][g] = vf_zero();
        for (int offset = 0; offset < BLOCK_BYTES(dtype); offset += STEP)
            add_strip(&stream, input, first, offset, m, dtype, sum);
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

/* to[v][i][l] = dword i of block (v * LANES + l) mod row_blocks, for v < period; `from` is [row_blocks][dwords]. */
static void spread(const uint32_t *from, int64_t row_blocks, int dwords, uint32_t *to)
{
    int64_t period = stream_period(row_blocks);
    for (int64_t v = 0; v < period; v++) {
        const uint8_t *row[LANES];
        for (int l = 0; l < LANES; l++)
            row[l] = (const uint8_t *)(from + (v * LANES + l) % row_blocks * dwords);
        for (int i = 0; i < dwords; i += CHUNK_DWORDS) {
            vi chunk[CHUNK_DWORDS];
            transpose(row, i * 4, chunk);
            memcpy(to + (v * dwords + i) * LANES, chunk, sizeof chunk);
        }
    }
}
