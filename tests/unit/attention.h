/* What the unit tests of the attention ops share: one linear and one softmax layer with caches full of NaN, a
 * random text, and calls that feed parts of it. CPU devices only: their memory is host memory. */
#ifndef RONDO_TESTS_UNIT_ATTENTION_H
#define RONDO_TESTS_UNIT_ATTENTION_H

#include "core/backend.h"
#include "core/dtype.h"
#include "core/error.h"
#include "tests/unit/test.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_SEQUENCES = 8 };

/* Sizes of a layer pair and its caches. */
struct layer_options {
    int32_t heads, kv_heads, head_dim;
    int32_t slots, context, max_draft; /* pages: enough for every slot */
    enum rondo_dtype dtype;
    bool kv_codes; /* the softmax layer's cache is f8_e4m3 */
};

/* q [H hd], k and v [H hd] of each token; softmax layers use the first Hkv hd of k and v. */
struct text {
    void *q, *k, *v;
    int32_t n;
};

struct layers {
    struct layer_options options;
    struct rondo_device *device;
    struct rondo_linear_cache linear;
    struct rondo_kv_cache kv;
    size_t size[9];     /* bytes: state, tails, drafts of the linear layer; pages, drafts */
    float *decay_power; /* [H, C + 1] */
    int32_t *pages;     /* [slots, context / C], permuted */
    int32_t page_stride;
};

/* One sequence's part of a call: tokens first .. first + n - 1 of a text. */
struct feed {
    const struct text *text;
    int32_t slot, start, first, n;
    const int32_t *parent; /* [n] of a draft, or NULL */
    float *linear_out;     /* [n, H hd] or NULL */
    float *softmax_out;    /* [n, H hd] or NULL, widened */
};

static uint64_t random_state = 1;

static inline uint64_t random_bits(void) /* splitmix64 */
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline int32_t random_range(int32_t low, int32_t high) /* both included */
{
    return low + (int32_t)(random_bits() % (uint64_t)(high - low + 1));
}

static inline float random_value(void) /* about normal: sum of four uniforms */
{
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (double)(random_bits() >> 40) * 0x1p-24;
    return (float)((sum - 2.0) * 1.7320508);
}

static inline void *must_allocate(size_t size)
{
    void *memory = calloc(1, size ? size : 1);
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memory;
}

static inline struct text make_text(const struct layer_options *options, int32_t n, float q_scale)
{
    size_t count = (size_t)n * (size_t)(options->heads * options->head_dim);
    size_t size = count * rondo_dtype_size(options->dtype);
    struct text text = {must_allocate(size), must_allocate(size), must_allocate(size), n};
    for (size_t i = 0; i < count; i++) {
        rondo_store(text.q, options->dtype, i, random_value() * q_scale);
        rondo_store(text.k, options->dtype, i, random_value());
        rondo_store(text.v, options->dtype, i, random_value());
    }
    return text;
}

static inline void free_text(struct text *text)
{
    free(text->q);
    free(text->k);
    free(text->v);
}

static inline void *make_cache(struct layers *layers, size_t *size, size_t n, size_t element)
{
    *size = n * element;
    void *memory = layers->device->allocate(layers->device, *size);
    if (!memory) {
        fputs("out of memory\n", stderr);
        exit(1);
    }
    return memset(memory, 0xff, *size); /* NaN in f32 and bf16 */
}

static inline void make_pages(struct layers *layers)
{
    int32_t n = layers->options.slots * layers->page_stride;
    layers->pages = must_allocate((size_t)n * sizeof *layers->pages);
    for (int32_t i = 0; i < n; i++) {
        int32_t j = random_range(0, i);
        layers->pages[i] = layers->pages[j];
        layers->pages[j] = i;
    }
}

/* slopes [H]: decay of each head is exp(-slope). */
static inline struct layers make_layers(struct rondo_device *device,
                                        const struct layer_options *options, const double *slopes)
{
    struct layers layers = {.options = *options, .device = device};
    size_t slots = (size_t)options->slots, H = (size_t)options->heads,
           hd = (size_t)options->head_dim;
    size_t Hkv = (size_t)options->kv_heads, draft = (size_t)options->max_draft;
    size_t size = rondo_dtype_size(options->dtype);
    size_t rows[2] = {RONDO_CHUNK, draft};
    layers.page_stride = options->context / RONDO_CHUNK + 1;
    make_pages(&layers);
    layers.linear.state = make_cache(&layers, &layers.size[0], slots * H * hd * hd, 4);
    void **linear[4] = {&layers.linear.tail_k, &layers.linear.tail_v, &layers.linear.draft_k,
                        &layers.linear.draft_v};
    for (int i = 0; i < 4; i++)
        *linear[i] = make_cache(&layers, &layers.size[i + 1], slots * H * rows[i / 2] * hd, size);
    void **kv[4] = {&layers.kv.k, &layers.kv.v, &layers.kv.draft_k, &layers.kv.draft_v};
    size_t pages = slots * (size_t)layers.page_stride;
    layers.linear.dtype = options->dtype;
    layers.kv.dtype = options->kv_codes ? RONDO_F8_E4M3 : options->dtype;
    for (int i = 0; i < 4; i++)
        *kv[i] = make_cache(
            &layers, &layers.size[i + 5], (i < 2 ? pages : slots) * Hkv,
            rondo_kv_block_bytes(layers.kv.dtype, (int64_t)rows[i / 2], options->head_dim));
    layers.linear.max_draft = layers.kv.max_draft = options->max_draft;
    layers.decay_power = must_allocate(H * (RONDO_CHUNK + 1) * sizeof(float));
    for (size_t h = 0; h < H; h++)
        for (size_t i = 0; i <= RONDO_CHUNK; i++)
            layers.decay_power[h * (RONDO_CHUNK + 1) + i] = (float)exp(-slopes[h] * (double)i);
    struct rondo_limits limits = {.tokens = options->context,
                                  .heads = options->heads,
                                  .kv_heads = options->kv_heads,
                                  .head_dim = options->head_dim,
                                  .context = options->context,
                                  .draft = options->max_draft};
    struct rondo_error error;
    if (device->reserve(device, &limits, &error) != RONDO_OK) {
        fprintf(stderr, "%s\n", error.message);
        exit(1);
    }
    return layers;
}

/* The memory of all caches, one after the other: 5 of the linear layer, 4 of the softmax layer. */
static inline void list_caches(const struct layers *layers, void *memory[9], size_t size[9])
{
    void *const all[9] = {layers->linear.state,   layers->linear.tail_k,  layers->linear.tail_v,
                          layers->linear.draft_k, layers->linear.draft_v, layers->kv.k,
                          layers->kv.v,           layers->kv.draft_k,     layers->kv.draft_v};
    for (int i = 0; i < 9; i++) {
        memory[i] = all[i];
        size[i] = layers->size[i];
    }
}

static inline void free_layers(struct layers *layers)
{
    void *memory[9];
    size_t size[9];
    list_caches(layers, memory, size);
    for (int i = 0; i < 9; i++)
        layers->device->release(layers->device, memory[i]);
    free(layers->decay_power);
    free(layers->pages);
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* The arrays of a batch, and its q, k, v and output rows. */
struct call {
    struct rondo_batch batch; /* `sequences` is set where it is used: a call may be moved */
    struct rondo_batch_sequence sequences[MAX_SEQUENCES];
    int32_t *numbers; /* position, sequence_of, parent [T] each */
    int32_t *pages;   /* [B, page_stride] */
    void *rows[3];    /* q, k, v [T, H hd] */
};

static inline struct call make_call(const struct layers *layers, const struct feed *feeds,
                                    int32_t n)
{
    const struct layer_options *options = &layers->options;
    size_t row = (size_t)(options->heads * options->head_dim) * rondo_dtype_size(options->dtype);
    struct call call = {.batch = {.n_sequences = n, .page_stride = layers->page_stride}};
    int32_t T = 0;
    for (int32_t b = 0; b < n; b++) {
        int32_t length = feeds[b].start + feeds[b].n;
        T += feeds[b].n;
        call.batch.n_drafts += feeds[b].parent != NULL;
        if (feeds[b].n > call.batch.max_sequence_tokens)
            call.batch.max_sequence_tokens = feeds[b].n;
        if (length > call.batch.max_length)
            call.batch.max_length = length;
    }
    call.batch.n_tokens = T;
    call.numbers = must_allocate((size_t)T * 3 * sizeof(int32_t));
    call.pages = must_allocate((size_t)(n * layers->page_stride) * sizeof(int32_t));
    for (int i = 0; i < 3; i++)
        call.rows[i] = must_allocate((size_t)T * row);
    for (int32_t b = 0, t = 0; b < n; b++) {
        const struct feed *feed = &feeds[b];
        const void *const from[3] = {feed->text->q, feed->text->k, feed->text->v};
        call.sequences[b] = (struct rondo_batch_sequence){t, feed->n, feed->start, feed->slot,
                                                          feed->parent != NULL};
        if (feed->slot >= 0)
            memcpy(call.pages + b * layers->page_stride,
                   layers->pages + feed->slot * layers->page_stride,
                   (size_t)layers->page_stride * sizeof(int32_t));
        for (int32_t i = 0; i < feed->n; i++, t++) {
            int32_t before = feed->parent ? feed->parent[i] : i - 1;
            call.numbers[t] =
                before < 0 ? feed->start : call.numbers[call.sequences[b].first_token + before] + 1;
            call.numbers[T + t] = b;
            call.numbers[2 * T + t] = feed->parent ? before : -1;
            for (int r = 0; r < 3; r++)
                memcpy((char *)call.rows[r] + (size_t)t * row,
                       (const char *)from[r] + (size_t)(feed->first + i) * row, row);
        }
    }
    call.batch.position = call.numbers;
    call.batch.sequence_of = call.numbers + T;
    call.batch.parent = call.numbers + 2 * T;
    call.batch.page_table = call.pages;
    return call;
}

static inline void free_call(struct call *call)
{
    free(call->numbers);
    free(call->pages);
    for (int i = 0; i < 3; i++)
        free(call->rows[i]);
}

static inline void run_linear(struct layers *layers, const struct call *call, float *out)
{
    const struct layer_options *options = &layers->options;
    int32_t T = call->batch.n_tokens, columns = options->heads * options->head_dim;
    struct rondo_batch batch = call->batch;
    batch.sequences = call->sequences;
    struct rondo_op_linear_attention op = {.batch = &batch,
                                           .cache = layers->linear,
                                           .decay_power = layers->decay_power,
                                           .scale = 1 / sqrtf((float)options->head_dim),
                                           .heads = options->heads,
                                           .head_dim = options->head_dim};
    op.q = rondo_tensor_2d(call->rows[0], options->dtype, T, columns, "q");
    op.k = rondo_tensor_2d(call->rows[1], options->dtype, T, columns, "k");
    op.v = rondo_tensor_2d(call->rows[2], options->dtype, T, columns, "v");
    op.out = rondo_tensor_2d(out, RONDO_F32, T, columns, "out");
    layers->device->ops.linear_attention(layers->device, &op);
}

static inline void run_softmax(struct layers *layers, const struct call *call, void *out)
{
    const struct layer_options *options = &layers->options;
    int32_t T = call->batch.n_tokens, columns = options->heads * options->head_dim;
    struct rondo_batch batch = call->batch;
    batch.sequences = call->sequences;
    struct rondo_op_softmax_attention op = {.batch = &batch,
                                            .cache = layers->kv,
                                            .scale = 1 / sqrtf((float)options->head_dim),
                                            .heads = options->heads,
                                            .kv_heads = options->kv_heads,
                                            .head_dim = options->head_dim};
    op.q = rondo_tensor_2d(call->rows[0], options->dtype, T, columns, "q");
    op.k = rondo_tensor_2d(call->rows[1], options->dtype, T, options->kv_heads * options->head_dim,
                           "k");
    op.v = rondo_tensor_2d(call->rows[2], options->dtype, T, options->kv_heads * options->head_dim,
                           "v");
    op.k.row_stride = op.v.row_stride = columns;
    op.out = rondo_tensor_2d(out, options->dtype, T, columns, "out");
    layers->device->ops.softmax_attention(layers->device, &op);
}

/* One call of each layer over up to MAX_SEQUENCES feeds. */
static inline void feed(struct layers *layers, const struct feed *feeds, int32_t n)
{
    struct call call = make_call(layers, feeds, n);
    size_t columns = (size_t)(layers->options.heads * layers->options.head_dim);
    size_t size = (size_t)call.batch.n_tokens * columns;
    float *linear_out = must_allocate(size * sizeof(float));
    void *softmax_out = must_allocate(size * sizeof(float));
    run_linear(layers, &call, linear_out);
    run_softmax(layers, &call, softmax_out);
    for (int32_t b = 0; b < n; b++) {
        size_t first = (size_t)call.sequences[b].first_token * columns;
        for (size_t i = 0; i < (size_t)feeds[b].n * columns; i++) {
            if (feeds[b].linear_out)
                feeds[b].linear_out[i] = linear_out[first + i];
            if (feeds[b].softmax_out)
                feeds[b].softmax_out[i] = rondo_load(softmax_out, layers->options.dtype, first + i);
        }
    }
    free(linear_out);
    free(softmax_out);
    free_call(&call);
}

/* ---- devices --------------------------------------------------------------------------------- */

/* Runs `test` on every CPU level of this machine with two threads. */
static inline void for_each_level(void (*test)(struct rondo_device *device))
{
    struct rondo_device_info devices[32];
    size_t n = rondo_device_list(devices, 32);
    for (size_t i = 0; i < n && i < 32; i++) {
        struct rondo_error error;
        struct rondo_device_options options = {.threads = 2};
        if (strncmp(devices[i].name, "cpu:", 4) != 0)
            continue;
        struct rondo_device *device = rondo_device_open(devices[i].name, &options, &error);
        EXPECT(device, "%s", error.message);
        if (device)
            test(device);
        rondo_device_close(device);
    }
}

/* Normalised mean square error; NaN counts as infinite. */
static inline double nmse(const float *got, const double *want, size_t n)
{
    double difference = 0, reference = 0;
    for (size_t i = 0; i < n; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        reference += want[i] * want[i];
    }
    return isnan(difference) ? INFINITY : difference == 0 ? 0 : difference / reference;
}

#endif
