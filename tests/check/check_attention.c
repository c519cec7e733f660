/* Checks of the attention family: linear_attention, softmax_attention, accept. Everything in a cache that a
 * sequence's length does not cover is NaN, so that a kernel that uses it shows. */
#include "backend_cpu/cpu.h"
#include "tests/check/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const enum rondo_dtype activations[2] = {RONDO_F32, RONDO_BF16};

struct shape {
    int32_t heads, kv_heads, head_dim;
    int32_t max_tokens, max_start;
};

static double amplitude(enum check_fill fill)
{
    switch (fill) {
    case CHECK_TINY:
        return 1e-18;
    case CHECK_HUGE:
        return 1e15;
    case CHECK_SUBNORMAL:
        return 1e-39;
    case CHECK_ZEROS:
        return 0;
    default:
        return 1;
    }
}

/* Fills elements of a buffer's image on the host. */
static void fill_image(struct check *check, struct check_buffer *buffer, enum rondo_dtype dtype,
                       size_t first, size_t n, enum check_fill fill)
{
    for (size_t i = first; i < first + n; i++)
        rondo_store(buffer->host, dtype, i, (float)(check_random_normal(check) * amplitude(fill)));
}

/* [heads, C + 1] powers of a decay of each head. */
static struct check_buffer *decay_powers(struct check *check, int32_t heads)
{
    static const double slopes[] = {0, 0x1p-8, 0.01, 0.2, 0.85, 20};
    float *powers = check_allocate(check, (size_t)heads * (RONDO_CHUNK + 1) * sizeof *powers);
    for (int32_t h = 0; h < heads; h++) {
        double slope = slopes[check_random_range(check, 0, 5)];
        for (int32_t i = 0; i <= RONDO_CHUNK; i++)
            powers[h * (RONDO_CHUNK + 1) + i] = (float)exp(-slope * i);
    }
    return check_input(check, powers, (size_t)heads * (RONDO_CHUNK + 1) * sizeof *powers,
                       "decay_power");
}

static void reserve(struct check *check, const struct shape *shape, int32_t tokens)
{
    check_reserve(check, &(struct rondo_limits){
                             .tokens = tokens,
                             .heads = shape->heads,
                             .kv_heads = shape->kv_heads,
                             .head_dim = shape->head_dim,
                             .context = shape->max_start + shape->max_tokens,
                             .draft = shape->max_tokens,
                         });
}

/* ---- caches ---------------------------------------------------------------------------------- */

/* 0, 1 rows of keys and values; 2, 3 of drafts; 4 the state of linear layers. */
struct cache {
    struct check_buffer *buffer[5];
    int64_t n[5]; /* elements */
    enum rondo_dtype dtype;
    int32_t max_draft;
};

static struct cache make_cache(struct check *check, enum rondo_dtype dtype, int64_t rows,
                               int64_t draft_rows, int64_t state, int32_t head_dim,
                               int32_t max_draft)
{
    static const char *const names[5] = {"k", "v", "draft_k", "draft_v", "state"};
    struct cache cache = {.dtype = dtype, .max_draft = max_draft};
    for (int i = 0; i < 5; i++) {
        cache.n[i] = i == 4 ? state : (i < 2 ? rows : draft_rows) * head_dim;
        size_t size = (size_t)cache.n[i] * (i == 4 ? 4 : rondo_dtype_size(dtype));
        cache.buffer[i] = check_output(check, size, names[i]);
    }
    return cache;
}

/* Of a softmax layer; f8_e4m3 counts bytes. */
static struct cache make_kv_cache(struct check *check, enum rondo_dtype dtype, int64_t blocks,
                                  int64_t draft_blocks, int32_t head_dim, int32_t max_draft)
{
    if (dtype != RONDO_F8_E4M3)
        return make_cache(check, dtype, blocks * RONDO_CHUNK, draft_blocks * max_draft, 0, head_dim,
                          max_draft);
    struct cache cache = make_cache(
        check, dtype, blocks * (int64_t)rondo_kv_block_bytes(dtype, RONDO_CHUNK, head_dim),
        draft_blocks * (int64_t)rondo_kv_block_bytes(dtype, max_draft, head_dim), 0, 1, max_draft);
    return cache;
}

static void upload_cache(struct check *check, struct cache *cache)
{
    for (int i = 0; i < 5; i++)
        check_upload(check, cache->buffer[i]);
}

/* CPU levels leave the very same caches; on other devices the tails' rows past the length, which `undefined`
 * marks ([n[0]] or NULL), may differ. */
static void compare_cache(struct check *check, struct cache *cache, const bool *undefined)
{
    for (int i = 0; i < 5; i++)
        check_compare_array(check, cache->buffer[i],
                            i == 4                          ? RONDO_F32
                            : cache->dtype == RONDO_F8_E4M3 ? RONDO_U8
                                                            : cache->dtype,
                            cache->n[i], i < 2 && !check->in_place ? undefined : NULL,
                            cache->dtype == RONDO_F32 ? 1e-11 : 1e-10);
}

/* Marks the rows of a slot's tail that come after `length` tokens. */
static void mark_past(bool *undefined, int32_t heads, int32_t head_dim, int32_t slot,
                      int32_t length)
{
    size_t hd = (size_t)head_dim, row = (size_t)(length % RONDO_CHUNK);
    for (int32_t h = 0; h < heads; h++) {
        size_t head = ((size_t)slot * (size_t)heads + (size_t)h) * RONDO_CHUNK;
        memset(undefined + (head + row) * hd, true, (RONDO_CHUNK - row) * hd);
    }
}

static struct rondo_linear_cache linear_side(const struct cache *cache, int side)
{
    return (struct rondo_linear_cache){
        .state = cache->buffer[4]->data[side],
        .tail_k = cache->buffer[0]->data[side],
        .tail_v = cache->buffer[1]->data[side],
        .draft_k = cache->buffer[2]->data[side],
        .draft_v = cache->buffer[3]->data[side],
        .dtype = cache->dtype,
        .max_draft = cache->max_draft,
    };
}

static struct rondo_kv_cache kv_side(const struct cache *cache, int side)
{
    return (struct rondo_kv_cache){
        .k = cache->buffer[0]->data[side],
        .v = cache->buffer[1]->data[side],
        .draft_k = cache->buffer[2]->data[side],
        .draft_v = cache->buffer[3]->data[side],
        .dtype = cache->dtype,
        .max_draft = cache->max_draft,
    };
}

/* State and open chunk of a sequence of `length` tokens. */
static void fill_linear(struct check *check, struct cache *cache, const struct shape *shape,
                        int32_t slot, int32_t length, enum check_fill fill)
{
    size_t hd = (size_t)shape->head_dim, rows = (size_t)(length % RONDO_CHUNK);
    if (slot < 0 || length == 0)
        return;
    for (int32_t h = 0; h < shape->heads; h++) {
        size_t head = (size_t)slot * (size_t)shape->heads + (size_t)h;
        fill_image(check, cache->buffer[4], RONDO_F32, head * hd * hd, hd * hd, fill);
        for (int i = 0; i < 2; i++)
            fill_image(check, cache->buffer[i], cache->dtype, head * RONDO_CHUNK * hd, rows * hd,
                       fill);
    }
}

/* Rows first .. first + n - 1 of block `block` of buffer i, whose blocks have `rows` rows. */
static void fill_rows(struct check *check, struct cache *cache, int i, size_t block, size_t rows,
                      size_t first, size_t n, size_t hd, enum check_fill fill)
{
    char *at = (char *)cache->buffer[i]->host +
               block * rondo_kv_block_bytes(cache->dtype, (int64_t)rows, (int64_t)hd);
    if (cache->dtype != RONDO_F8_E4M3) {
        fill_image(check, cache->buffer[i], cache->dtype, (block * rows + first) * hd, n * hd,
                   fill);
        return;
    }
    float *scales = (float *)at, x[256];
    uint8_t *codes = (uint8_t *)at + rondo_kv_rows_offset(cache->dtype, (int64_t)rows);
    for (size_t row = first; row < first + n; row++) {
        float largest = 0;
        for (size_t d = 0; d < hd; d++) {
            x[d] = (float)(check_random_normal(check) * amplitude(fill));
            largest = fmaxf(largest, fabsf(x[d]));
        }
        scales[row] = largest > 0 ? fmaxf(largest / 448, 1e-30f) : 1;
        for (size_t d = 0; d < hd; d++)
            codes[row * hd + d] = rondo_f32_to_e4m3(x[d] / scales[row]);
    }
}

/* Pages of a sequence of `length` tokens. */
static void fill_pages(struct check *check, struct cache *cache, const struct shape *shape,
                       const int32_t *pages, int32_t length, enum check_fill fill)
{
    size_t hd = (size_t)shape->head_dim;
    for (int32_t first = 0; first < length; first += RONDO_CHUNK) {
        size_t page = (size_t)pages[first / RONDO_CHUNK];
        int32_t rows = length - first < RONDO_CHUNK ? length - first : RONDO_CHUNK;
        for (int32_t h = 0; h < shape->kv_heads; h++)
            for (int i = 0; i < 2; i++)
                fill_rows(check, cache, i, page * (size_t)shape->kv_heads + (size_t)h, RONDO_CHUNK,
                          0, (size_t)rows, hd, fill);
    }
}

/* ---- linear_attention ------------------------------------------------------------------------ */

static void linear_case(struct check *check, const struct shape *shape, int32_t n_sequences,
                        enum rondo_dtype dtype, enum check_fill fill, int32_t gap)
{
    check_case(check, "B=%d T<=%d start<=%d H=%d hd=%d %s, %s", n_sequences, shape->max_tokens,
               shape->max_start, shape->heads, shape->head_dim, rondo_dtype_name(dtype),
               check_fill_name(fill));
    struct check_batch_options options = {.n_sequences = n_sequences,
                                          .max_tokens = shape->max_tokens,
                                          .max_start = shape->max_start,
                                          .vocab_size = 2,
                                          .drafts = true,
                                          .padding = true};
    struct check_batch *batch = check_batch(check, &options);
    int32_t tokens = batch->host.n_tokens, heads = shape->heads, hd = shape->head_dim;
    int64_t slot_heads = (int64_t)batch->n_slots * heads;
    struct check_tensor *in[3];
    for (int i = 0; i < 3; i++)
        in[i] = check_tensor(check, dtype, tokens, heads * hd, gap, CHECK_SCALE_NONE, fill,
                             i == 0   ? "q"
                             : i == 1 ? "k"
                                      : "v");
    struct check_tensor *out =
        check_tensor_output(check, RONDO_F32, tokens, heads * hd, gap, CHECK_SCALE_NONE, "out");
    struct check_buffer *powers = decay_powers(check, heads);
    struct cache cache =
        make_cache(check, dtype, slot_heads * RONDO_CHUNK, slot_heads * batch->max_draft,
                   slot_heads * hd * hd, hd, batch->max_draft);
    for (int32_t b = 0; b < n_sequences; b++)
        fill_linear(check, &cache, shape, batch->sequences[b].slot, batch->sequences[b].start,
                    fill);
    upload_cache(check, &cache);
    reserve(check, shape, tokens);
    struct rondo_op_linear_attention op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_linear_attention){
            .batch = &batch->side[side],
            .q = in[0]->side[side],
            .k = in[1]->side[side],
            .v = in[2]->side[side],
            .out = out->side[side],
            .cache = linear_side(&cache, side),
            .decay_power = powers->data[side],
            .scale = 1 / sqrtf((float)hd),
            .heads = heads,
            .head_dim = hd,
        };
    check_run(check, RONDO_OP_LINEAR_ATTENTION, &op[0], &op[1]);
    check_compare(check, out, batch->padding, dtype == RONDO_F32 ? 1e-11 : 1e-10);
    bool *undefined = check_allocate(check, (size_t)cache.n[0]);
    for (int32_t b = 0; b < n_sequences; b++) {
        const struct rondo_batch_sequence *sequence = &batch->sequences[b];
        if (sequence->slot >= 0 && !sequence->is_draft)
            mark_past(undefined, heads, hd, sequence->slot, sequence->start + sequence->n_tokens);
    }
    compare_cache(check, &cache, undefined);
}

/* ---- softmax_attention ----------------------------------------------------------------------- */

/* kv: of the cache. */
static void softmax_kv_case(struct check *check, const struct shape *shape, int32_t n_sequences,
                            enum rondo_dtype dtype, enum rondo_dtype kv, enum check_fill fill,
                            int32_t gap)
{
    check_case(check, "B=%d T<=%d start<=%d H=%d/%d hd=%d %s, cache %s, %s", n_sequences,
               shape->max_tokens, shape->max_start, shape->heads, shape->kv_heads, shape->head_dim,
               rondo_dtype_name(dtype), rondo_dtype_name(kv), check_fill_name(fill));
    struct check_batch_options options = {.n_sequences = n_sequences,
                                          .max_tokens = shape->max_tokens,
                                          .max_start = shape->max_start,
                                          .vocab_size = 2,
                                          .drafts = true,
                                          .padding = true};
    struct check_batch *batch = check_batch(check, &options);
    int32_t tokens = batch->host.n_tokens, hd = shape->head_dim, kv_heads = shape->kv_heads;
    struct check_tensor *in[3];
    for (int i = 0; i < 3; i++)
        in[i] = check_tensor(check, dtype, tokens, (i == 0 ? shape->heads : kv_heads) * hd, gap,
                             CHECK_SCALE_NONE, fill,
                             i == 0   ? "q"
                             : i == 1 ? "k"
                                      : "v");
    struct check_tensor *out =
        check_tensor_output(check, dtype, tokens, shape->heads * hd, gap, CHECK_SCALE_NONE, "out");
    struct cache cache = make_kv_cache(check, kv, (int64_t)batch->n_pages * kv_heads,
                                       (int64_t)batch->n_slots * kv_heads, hd, batch->max_draft);
    for (int32_t b = 0; b < n_sequences; b++)
        if (batch->sequences[b].slot >= 0)
            fill_pages(check, &cache, shape,
                       batch->host.page_table + (size_t)b * (size_t)batch->host.page_stride,
                       batch->sequences[b].start, fill);
    upload_cache(check, &cache);
    reserve(check, shape, tokens);
    struct rondo_op_softmax_attention op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_softmax_attention){
            .batch = &batch->side[side],
            .q = in[0]->side[side],
            .k = in[1]->side[side],
            .v = in[2]->side[side],
            .out = out->side[side],
            .cache = kv_side(&cache, side),
            .scale = 1 / sqrtf((float)hd),
            .heads = shape->heads,
            .kv_heads = kv_heads,
            .head_dim = hd,
        };
    check_run(check, RONDO_OP_SOFTMAX_ATTENTION, &op[0], &op[1]);
    check_compare(check, out, batch->padding,
                  dtype == RONDO_F32    ? 1e-11
                  : kv == RONDO_F8_E4M3 ? 3e-5
                                        : 2e-5);
    compare_cache(check, &cache, NULL);
}

static void softmax_case(struct check *check, const struct shape *shape, int32_t n_sequences,
                         enum rondo_dtype dtype, enum check_fill fill, int32_t gap)
{
    softmax_kv_case(check, shape, n_sequences, dtype, dtype, fill, gap);
}

static void softmax_codes_case(struct check *check, const struct shape *shape, int32_t n_sequences,
                               enum rondo_dtype dtype, enum check_fill fill, int32_t gap)
{
    softmax_kv_case(check, shape, n_sequences, dtype, RONDO_F8_E4M3, fill, gap);
}

/* ---- accept ---------------------------------------------------------------------------------- */

static void accept_case(struct check *check, const struct shape *shape, bool is_linear,
                        enum rondo_dtype dtype, enum check_fill fill)
{
    int32_t n = check_random_range(check, 0, shape->max_tokens);
    int32_t start = check_random(check) % 4 ? check_random_range(check, 0, shape->max_start) : 0;
    check_case(check, "%s n=%d start=%d H=%d hd=%d %s, %s", is_linear ? "linear" : "softmax", n,
               start, shape->kv_heads, shape->head_dim, rondo_dtype_name(dtype),
               check_fill_name(fill));
    int32_t path[128], pages[64], n_pages = (start + n) / RONDO_CHUNK + 1, slots = 3, slot = 1;
    int32_t max_draft = shape->max_tokens + 3, heads = shape->kv_heads, hd = shape->head_dim;
    for (int32_t i = 0, node = -1; i < n; i++)
        path[i] = node = check_random_range(check, node + 1, max_draft - n + i);
    for (int32_t i = 0; i < n_pages; i++)
        pages[i] = n_pages - 1 - i;
    struct check_buffer *path_buffer = check_input(check, path, (size_t)n * sizeof *path, "path");
    struct check_buffer *page_buffer =
        check_input(check, pages, (size_t)n_pages * sizeof *pages, "page_table");
    struct check_buffer *powers = decay_powers(check, heads);
    int64_t slot_heads = (int64_t)slots * heads;
    struct cache cache =
        is_linear
            ? make_cache(check, dtype, slot_heads * RONDO_CHUNK, slot_heads * max_draft,
                         slot_heads * hd * hd, hd, max_draft)
            : make_kv_cache(check, dtype, (int64_t)n_pages * heads, slot_heads, hd, max_draft);
    for (int i = 2; i < 4; i++)
        for (int32_t h = 0; h < heads; h++)
            fill_rows(check, &cache, i, (size_t)(slot * heads + h), (size_t)max_draft, 0,
                      (size_t)max_draft, (size_t)hd, fill);
    if (is_linear) {
        struct shape own = {heads, heads, hd, 0, 0};
        fill_linear(check, &cache, &own, slot, start, fill);
    }
    upload_cache(check, &cache);
    reserve(check, shape, 1);
    struct rondo_op_accept op[2];
    for (int side = 0; side < 2; side++) {
        op[side] = (struct rondo_op_accept){
            .slot = slot,
            .start = start,
            .n = n,
            .path = path_buffer->data[side],
            .page_table = page_buffer->data[side],
            .decay_power = powers->data[side],
            .heads = heads,
            .head_dim = hd,
        };
        if (is_linear)
            op[side].linear = linear_side(&cache, side);
        else
            op[side].kv = kv_side(&cache, side);
    }
    check_run(check, RONDO_OP_ACCEPT, &op[0], &op[1]);
    bool *undefined = check_allocate(check, (size_t)cache.n[0]);
    if (is_linear)
        mark_past(undefined, heads, hd, slot, start + n);
    compare_cache(check, &cache, undefined);
}

/* ---- bodies ---------------------------------------------------------------------------------- */

static const struct shape shapes[] = {
    {2, 1, 16, 9, 70},   {4, 2, 48, 5, 130}, {3, 1, 80, 70, 70}, {2, 2, 32, 75, 200},
    {1, 1, 128, 6, 100}, {2, 1, 7, 9, 70},   {6, 2, 64, 3, 140}, {1, 1, 144, 3, 130},
};
#define SHAPES (sizeof shapes / sizeof shapes[0])

typedef void attention_case(struct check *check, const struct shape *shape, int32_t n_sequences,
                            enum rondo_dtype dtype, enum check_fill fill, int32_t gap);

static void run_cases(struct check *check, attention_case *run)
{
    for (size_t s = 0; s < SHAPES; s++)
        for (int i = 0; i < 2; i++) {
            run(check, &shapes[s], 0, activations[i], CHECK_NORMAL, 0);
            for (int repeat = 0; repeat < 3; repeat++)
                run(check, &shapes[s], check_random_range(check, 1, 5), activations[i],
                    CHECK_NORMAL, 16 * check_random_range(check, 0, 1) + repeat);
        }
    for (int fill = 0; fill < CHECK_FILLS; fill++)
        for (int i = 0; i < 2; i++)
            run(check, &shapes[i], 3, activations[i], (enum check_fill)fill, 0);
}

static void bench_linear(struct check *check);
static void bench_softmax(struct check *check);

static void check_linear_attention(struct check *check)
{
    static const struct shape deep = {2, 1, 32, 300, 500};
    /* What GPUs do on tensor cores: decoding, prompts in chunks, one prompt in segments. */
    static const struct shape tiles[] = {{2, 1, 64, 16, 130},
                                         {1, 1, 128, 12, 200},
                                         {2, 1, 64, 150, 130},
                                         {1, 1, 128, 90, 70},
                                         {1, 1, 64, 300, 70}};
    run_cases(check, linear_case);
    for (int i = 0; i < 2; i++)
        linear_case(check, &deep, 4, activations[i], CHECK_NORMAL, 0);
    for (size_t s = 0; s < sizeof tiles / sizeof tiles[0]; s++)
        for (int repeat = 0; repeat < 3; repeat++)
            linear_case(check, &tiles[s], s == 4 ? 1 : check_random_range(check, 1, 5), RONDO_BF16,
                        CHECK_NORMAL, 16 * check_random_range(check, 0, 1));
    if (check->bench)
        bench_linear(check);
}

static void check_softmax_attention(struct check *check)
{
    /* Several segments, more query rows than a task takes, tasks cut into segments. */
    static const struct shape deep[] = {
        {4, 2, 16, 12, 3500}, {8, 1, 16, 40, 1100}, {2, 2, 16, 100, 2100}};
    run_cases(check, softmax_case);
    for (int i = 0; i < 2; i++) {
        for (size_t s = 0; s < SHAPES; s++)
            softmax_codes_case(check, &shapes[s], check_random_range(check, 0, 4), activations[i],
                               CHECK_NORMAL, 16 * check_random_range(check, 0, 1) + i);
        for (int fill = 0; fill < CHECK_FILLS; fill++)
            softmax_codes_case(check, &shapes[i], 2, activations[i], (enum check_fill)fill, 0);
    }
    for (int repeat = 0; repeat < 3; repeat++)
        for (size_t s = 0; s < sizeof deep / sizeof deep[0]; s++)
            softmax_case(check, &deep[s], repeat + 1, activations[repeat & 1], CHECK_NORMAL, 0);
    for (size_t s = 0; s < sizeof deep / sizeof deep[0]; s++)
        softmax_codes_case(check, &deep[s], 1, activations[s & 1], CHECK_NORMAL, 0);
    /* Codes on tensor cores: many rows, and few. */
    static const struct shape tiles[] = {
        {2, 1, 64, 80, 130}, {1, 1, 128, 60, 70}, {2, 1, 128, 9, 1100}};
    for (size_t s = 0; s < sizeof tiles / sizeof tiles[0]; s++)
        softmax_codes_case(check, &tiles[s], 3, RONDO_BF16, CHECK_NORMAL, 16);
    if (check->bench)
        bench_softmax(check);
}

static void check_accept(struct check *check)
{
    static const struct shape wide = {2, 2, 64, 100, 500};
    for (int repeat = 0; repeat < 3; repeat++)
        for (int i = 0; i < 4; i++) {
            for (size_t s = 0; s < SHAPES; s++)
                accept_case(check, &shapes[s], i & 1, activations[i >> 1], CHECK_NORMAL);
            accept_case(check, &wide, i & 1, activations[i >> 1],
                        (enum check_fill)check_random_range(check, 0, CHECK_FILLS - 1));
        }
    for (int repeat = 0; repeat < 2; repeat++)
        for (size_t s = 0; s < SHAPES; s++)
            accept_case(check, &shapes[s], false, RONDO_F8_E4M3, CHECK_NORMAL);
    accept_case(check, &wide, false, RONDO_F8_E4M3, CHECK_NORMAL);
}

/* ---- benchmarks ------------------------------------------------------------------------------ */

/* Ring-mini's shapes, on the tested device only: 64 Ki tokens of f32 are 256 MiB. */
struct bench {
    struct rondo_batch batch;
    void *memory[16];
    int n;
};

static const struct shape ring_mini = {16, 4, 128, 2048, 65536};

/* What GB/s are to be compared with. */
static void print_bandwidth(struct check *check)
{
    if (!check->csv && strncmp(check->device_name, "cpu", 3) == 0)
        printf("%-11s reads memory at %.2f GB/s\n", check->device_name,
               rondo_cpu_read_bandwidth(rondo_cpu(check->device[CHECK_TESTED]), 256 << 20, 5) *
                   1e-9);
}

static void *bench_allocate(struct check *check, struct bench *bench, enum rondo_dtype dtype,
                            size_t n)
{
    struct rondo_device *device = check->device[CHECK_TESTED];
    void *memory = device->allocate(device, n * rondo_dtype_size(dtype));
    bench->memory[bench->n++] = memory;
    if (!memory)
        return NULL;
    size_t part = n < 65536 ? n : 65536;
    char *image = check_allocate(check, part * rondo_dtype_size(dtype));
    for (size_t i = 0; i < part; i++)
        rondo_store(image, dtype, i, (float)(0.1 * check_random_normal(check)));
    for (size_t at = 0; at < n; at += part)
        device->write(device, (char *)memory + at * rondo_dtype_size(dtype), image,
                      (n - at < part ? n - at : part) * rondo_dtype_size(dtype));
    return memory;
}

static void *bench_input(struct check *check, struct bench *bench, const void *data, size_t size)
{
    struct rondo_device *device = check->device[CHECK_TESTED];
    void *memory = bench->memory[bench->n++] = device->allocate(device, size);
    if (memory)
        device->write(device, memory, data, size);
    return memory;
}

/* Sequences of n_tokens each, all at the same start, slots and pages in order. */
static void bench_batch(struct check *check, struct bench *bench, int32_t n_sequences,
                        int32_t start, int32_t n_tokens)
{
    int32_t T = n_sequences * n_tokens, n_pages = (start + n_tokens) / RONDO_CHUNK + 1;
    int32_t *sequence_of = check_allocate(check, (size_t)T * 4);
    int32_t *position = check_allocate(check, (size_t)T * 4);
    int32_t *pages = check_allocate(check, (size_t)(n_sequences * n_pages) * 4);
    struct rondo_batch_sequence *sequences =
        check_allocate(check, (size_t)n_sequences * sizeof *sequences);
    for (int32_t b = 0; b < n_sequences; b++) {
        sequences[b] = (struct rondo_batch_sequence){b * n_tokens, n_tokens, start, b, 0};
        for (int32_t i = 0; i < n_tokens; i++) {
            sequence_of[b * n_tokens + i] = b;
            position[b * n_tokens + i] = start + i;
        }
    }
    for (int32_t i = 0; i < n_sequences * n_pages; i++)
        pages[i] = i;
    *bench = (struct bench){.batch = {.n_tokens = T,
                                      .n_sequences = n_sequences,
                                      .max_sequence_tokens = n_tokens,
                                      .max_length = start + n_tokens,
                                      .page_stride = n_pages}};
    bench->batch.sequences =
        bench_input(check, bench, sequences, (size_t)n_sequences * sizeof *sequences);
    bench->batch.sequence_of = bench_input(check, bench, sequence_of, (size_t)T * 4);
    bench->batch.position = bench_input(check, bench, position, (size_t)T * 4);
    bench->batch.page_table = bench_input(check, bench, pages, (size_t)(n_sequences * n_pages) * 4);
}

static void bench_end(struct check *check, struct bench *bench)
{
    struct rondo_device *device = check->device[CHECK_TESTED];
    for (int i = 0; i < bench->n; i++)
        device->release(device, bench->memory[i]);
}

static struct rondo_tensor bench_tensor(struct check *check, struct bench *bench,
                                        enum rondo_dtype dtype, int32_t rows, int32_t columns)
{
    void *data = bench_allocate(check, bench, dtype, (size_t)rows * (size_t)columns);
    return rondo_tensor_2d(data, dtype, rows, columns, "bench");
}

/* Decoding: enough sequences that states do not stay in the processor's caches. */
static void bench_linear_case(struct check *check, enum rondo_dtype dtype, int32_t B, int32_t start,
                              int32_t n)
{
    int32_t H = ring_mini.heads, hd = ring_mini.head_dim;
    double size = (double)rondo_dtype_size(dtype), rows = start % RONDO_CHUNK, chunk = RONDO_CHUNK;
    struct bench bench;
    check_case(check, "B=%d T=%d at %d H=%d hd=%d %s", B, n, start, H, hd, rondo_dtype_name(dtype));
    bench_batch(check, &bench, B, start, n);
    struct check_buffer *powers = decay_powers(check, H);
    struct rondo_op_linear_attention op = {.batch = &bench.batch,
                                           .decay_power = powers->data[CHECK_TESTED],
                                           .scale = 0.1f,
                                           .heads = H,
                                           .head_dim = hd};
    op.q = bench_tensor(check, &bench, dtype, B * n, H * hd);
    op.k = bench_tensor(check, &bench, dtype, B * n, H * hd);
    op.v = bench_tensor(check, &bench, dtype, B * n, H * hd);
    op.out = bench_tensor(check, &bench, RONDO_F32, B * n, H * hd);
    op.cache.dtype = dtype;
    op.cache.state = bench_allocate(check, &bench, RONDO_F32, (size_t)(B * H * hd * hd));
    op.cache.tail_k = bench_allocate(check, &bench, dtype, (size_t)(B * H * RONDO_CHUNK * hd));
    op.cache.tail_v = bench_allocate(check, &bench, dtype, (size_t)(B * H * RONDO_CHUNK * hd));
    double bytes = n == 1 ? hd * 4.0 + (2 * rows + 2) * size : n * (3 * size + 4.0);
    double operations = 2.0 * n * (n == 1 ? hd + 2 * rows + 2 : 2 * hd + chunk);
    check_bench(check, RONDO_OP_LINEAR_ATTENTION, &op, B * H * hd * bytes, B * H * hd * operations);
    bench_end(check, &bench);
}

static void bench_linear(struct check *check)
{
    reserve(check, &ring_mini, 2048);
    print_bandwidth(check);
    for (int i = 0; i < 2; i++) {
        bench_linear_case(check, activations[i], 64, 64, 1);
        bench_linear_case(check, activations[i], 64, 96, 1);
        bench_linear_case(check, activations[i], 1, 0, 512);
        bench_linear_case(check, activations[i], 1, 0, 2048);
    }
}

static void bench_softmax_case(struct check *check, enum rondo_dtype dtype, enum rondo_dtype kv,
                               int32_t start, int32_t n)
{
    int32_t H = ring_mini.heads, Hkv = ring_mini.kv_heads, hd = ring_mini.head_dim;
    struct bench bench;
    check_case(check, "T=%d at %d H=%d/%d hd=%d %s, cache %s", n, start, H, Hkv, hd,
               rondo_dtype_name(dtype), rondo_dtype_name(kv));
    bench_batch(check, &bench, 1, start, n);
    struct rondo_op_softmax_attention op = {
        .batch = &bench.batch, .scale = 0.1f, .heads = H, .kv_heads = Hkv, .head_dim = hd};
    op.q = bench_tensor(check, &bench, dtype, n, H * hd);
    op.k = bench_tensor(check, &bench, dtype, n, Hkv * hd);
    op.v = bench_tensor(check, &bench, dtype, n, Hkv * hd);
    op.out = bench_tensor(check, &bench, dtype, n, H * hd);
    op.cache.dtype = kv;
    size_t cache =
        (size_t)(bench.batch.page_stride * Hkv) * rondo_kv_block_bytes(kv, RONDO_CHUNK, hd);
    op.cache.k = bench_allocate(check, &bench, RONDO_F32, cache / sizeof(float));
    op.cache.v = bench_allocate(check, &bench, RONDO_F32, cache / sizeof(float));
    double pairs = (double)n * start + 0.5 * n * (n + 1.0);
    check_bench(check, RONDO_OP_SOFTMAX_ATTENTION, &op,
                2.0 * (start + n) * Hkv * (double)rondo_kv_block_bytes(kv, RONDO_CHUNK, hd) /
                    RONDO_CHUNK,
                4.0 * pairs * H * hd);
    bench_end(check, &bench);
}

static void bench_softmax(struct check *check)
{
    static const int32_t depths[] = {0, 4096, 32768, 65535};
    reserve(check, &ring_mini, 2048);
    print_bandwidth(check);
    for (int i = 0; i < 2; i++) {
        for (int d = 0; d < 4; d++)
            bench_softmax_case(check, activations[i], activations[i], depths[d], 1);
        bench_softmax_case(check, activations[i], activations[i], 0, 512);
        bench_softmax_case(check, activations[i], activations[i], 0, 2048);
    }
    for (int d = 0; d < 4; d++)
        bench_softmax_case(check, RONDO_BF16, RONDO_F8_E4M3, depths[d], 1);
    bench_softmax_case(check, RONDO_BF16, RONDO_F8_E4M3, 0, 2048);
}

const struct check_family check_family_attention = {
    "attention",
    {{"linear_attention", check_linear_attention},
     {"linear_attention", check_linear_order},
     {"softmax_attention", check_softmax_attention},
     {"softmax_attention", check_softmax_order},
     {"accept", check_accept},
     {NULL, NULL}},
};
