/* Checks of linear_attention and accept without a reference: the same tokens give the same bits however they come.
 * Whole, in random parts, alone or beside other sequences, as a draft tree or as each of its paths, accepted or
 * fed; with bounds of the batch that are too large, too. */
#include "tests/check/order.h"

#include <math.h>
#include <string.h>

enum { SLOTS = 3, MAX_DRAFT = 80, MAX_PARTS = 3 };

/* One layer. Caches begin as NaN. */
struct layer {
    struct check *check;
    int32_t heads, head_dim;
    enum rondo_dtype dtype;
    struct check_buffer *cache[5]; /* state, tails, drafts */
    struct check_buffer *decay_power;
};

static size_t width(const struct layer *layer)
{
    return (size_t)(layer->heads * layer->head_dim);
}

static void make_layer(struct layer *layer)
{
    struct check *check = layer->check;
    static const char *const names[5] = {"state", "tail_k", "tail_v", "draft_k", "draft_v"};
    static const double slopes[] = {0, 0x1p-8, 0.2, 20};
    size_t hd = (size_t)layer->head_dim, heads = (size_t)SLOTS * (size_t)layer->heads;
    size_t value = rondo_dtype_size(layer->dtype);
    size_t size[5] = {heads * hd * hd * sizeof(float), heads * RONDO_CHUNK * hd * value, 0,
                      heads * MAX_DRAFT * hd * value, 0};
    size[2] = size[1];
    size[4] = size[3];
    for (int i = 0; i < 5; i++) {
        layer->cache[i] = check_buffer(check, size[i], names[i]);
        memset(layer->cache[i]->host, 0xff, size[i]);
        check_upload(check, layer->cache[i]);
    }
    float powers[4 * (RONDO_CHUNK + 1)];
    for (int32_t h = 0; h < layer->heads; h++) {
        double slope = slopes[check_random_range(check, 0, 3)];
        for (int32_t i = 0; i <= RONDO_CHUNK; i++)
            powers[h * (RONDO_CHUNK + 1) + i] = (float)exp(-slope * i);
    }
    layer->decay_power = check_input(
        check, powers, (size_t)layer->heads * (RONDO_CHUNK + 1) * sizeof *powers, "decay_power");
    check_reserve(check, &(struct rondo_limits){.tokens = 512,
                                                .heads = layer->heads,
                                                .kv_heads = layer->heads,
                                                .head_dim = layer->head_dim,
                                                .context = 1024,
                                                .draft = MAX_DRAFT});
}

static struct rondo_linear_cache cache_side(const struct layer *layer, int side)
{
    return (struct rondo_linear_cache){.state = layer->cache[0]->data[side],
                                       .tail_k = layer->cache[1]->data[side],
                                       .tail_v = layer->cache[2]->data[side],
                                       .draft_k = layer->cache[3]->data[side],
                                       .draft_v = layer->cache[4]->data[side],
                                       .dtype = layer->dtype,
                                       .max_draft = MAX_DRAFT};
}

static struct order_text make_text(const struct layer *layer, int32_t n)
{
    const size_t w = width(layer), widths[3] = {w, w, w};
    return order_text(layer->check, layer->dtype, widths, n);
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* One call with all parts. `extra` is added to the batch's bounds. */
static void feed(struct layer *layer, struct order_part *parts, int n, int32_t extra)
{
    struct check *check = layer->check;
    size_t row = width(layer) * rondo_dtype_size(layer->dtype);
    static const char *const names[3] = {"q", "k", "v"};
    struct rondo_batch batch[2];
    order_batch(check, parts, n, extra, 0, batch);
    int32_t T = batch[0].n_tokens;
    struct check_buffer *in[3],
        *out = check_output(check, (size_t)T * width(layer) * sizeof(float), "out");
    for (int i = 0; i < 3; i++)
        in[i] = order_rows(check, parts, n, i, row);
    struct rondo_op_linear_attention op[2];
    for (int side = 0; side < 2; side++) {
        struct rondo_tensor x[3];
        for (int i = 0; i < 3; i++)
            x[i] = rondo_tensor_2d(in[i]->data[side], layer->dtype, T, (int64_t)width(layer),
                                   names[i]);
        op[side] = (struct rondo_op_linear_attention){
            .batch = &batch[side],
            .q = x[0],
            .k = x[1],
            .v = x[2],
            .out = rondo_tensor_2d(out->data[side], RONDO_F32, T, (int64_t)width(layer), "out"),
            .cache = cache_side(layer, side),
            .decay_power = layer->decay_power->data[side],
            .scale = 0.125f,
            .heads = layer->heads,
            .head_dim = layer->head_dim};
    }
    check_run(check, RONDO_OP_LINEAR_ATTENTION, &op[0], &op[1]);
    order_results(check, parts, n, out, width(layer) * sizeof(float));
}

/* Tokens 0 .. n - 1 of a text as calls of at most `most` tokens. */
static float *feed_in_parts(struct layer *layer, const struct order_text *text, int32_t slot,
                            int32_t most)
{
    float *out = check_allocate(layer->check, (size_t)text->n * width(layer) * sizeof *out);
    for (int32_t at = 0, n; at < text->n; at += n) {
        n = check_random_range(layer->check, most > 1 ? most / 8 : 1, most);
        n = n > text->n - at ? text->n - at : n;
        struct order_part part = {text, at, n, slot, at, NULL, out + (size_t)at * width(layer), 0};
        feed(layer, &part, 1, 0);
    }
    return out;
}

static void accept(struct layer *layer, int32_t slot, int32_t start, const int32_t *path, int32_t n)
{
    struct check *check = layer->check;
    struct check_buffer *nodes = check_input(check, path, (size_t)n * sizeof *path, "path");
    struct rondo_op_accept op[2];
    for (int side = 0; side < 2; side++)
        op[side] = (struct rondo_op_accept){.slot = slot,
                                            .start = start,
                                            .n = n,
                                            .path = nodes->data[side],
                                            .linear = cache_side(layer, side),
                                            .decay_power = layer->decay_power->data[side],
                                            .heads = layer->heads,
                                            .head_dim = layer->head_dim};
    check_run(check, RONDO_OP_ACCEPT, &op[0], &op[1]);
}

/* ---- comparison ------------------------------------------------------------------------------ */

static void want_same(struct layer *layer, const void *got, const void *want, size_t values,
                      size_t value_size, const char *what)
{
    for (size_t i = 0; i < values; i++)
        if (memcmp((const char *)got + i * value_size, (const char *)want + i * value_size,
                   value_size) != 0) {
            check_fail(layer->check, "%s: other bits at row %zu, column %zu", what,
                       i / width(layer), i % width(layer));
            return;
        }
}

/* What two slots hold of sequences of `length` tokens. */
static void want_same_slots(struct layer *layer, int32_t a, int32_t b, int32_t length,
                            const char *what)
{
    size_t hd = (size_t)layer->head_dim, heads = (size_t)layer->heads;
    for (int i = 0; i < 3; i++) {
        size_t value = i == 0 ? sizeof(float) : rondo_dtype_size(layer->dtype);
        size_t head = hd * (i == 0 ? hd : RONDO_CHUNK);
        size_t used = i == 0 ? head : hd * (size_t)(length % RONDO_CHUNK);
        check_download(layer->check, layer->cache[i]);
        const char *data = layer->cache[i]->result[CHECK_TESTED];
        for (size_t h = 0; h < heads; h++)
            want_same(layer, data + ((size_t)a * heads + h) * head * value,
                      data + ((size_t)b * heads + h) * head * value, used, value, what);
    }
}

/* ---- cases ----------------------------------------------------------------------------------- */

static void split_case(struct layer *layer, int32_t n, int32_t most)
{
    check_case(layer->check, "%s hd=%d: %d tokens, whole and in parts of up to %d",
               rondo_dtype_name(layer->dtype), layer->head_dim, n, most);
    make_layer(layer);
    struct order_text text = make_text(layer, n), other = make_text(layer, 70);
    float *whole = check_allocate(layer->check, (size_t)n * width(layer) * sizeof *whole);
    struct order_part parts[MAX_PARTS] = {{&text, 0, n, 0, 0, NULL, whole, 0}};
    feed(layer, parts, 1, 0);
    const float *parted = feed_in_parts(layer, &text, 1, most);
    want_same(layer, parted, whole, (size_t)n * width(layer), sizeof *whole, "in parts");
    want_same_slots(layer, 1, 0, n, "slot after parts");

    /* Beside a sequence, and padding, with bounds that are too large; the first half only. */
    int32_t half = n / 2;
    float *beside = check_allocate(layer->check, (size_t)n * width(layer) * sizeof *beside);
    struct order_part first[MAX_PARTS] = {{&other, 0, 70, 1, 0, NULL, NULL, 0},
                                          {&text, 0, half, 2, 0, NULL, beside, 0},
                                          {&other, 0, 3, -1, 0, NULL, NULL, 0}};
    feed(layer, first, 3, 200);
    struct order_part second[MAX_PARTS] = {
        {&text, half, n - half, 2, half, NULL, beside + (size_t)half * width(layer), 0},
        {&other, 0, 5, -1, 0, NULL, NULL, 0},
        {&other, 5, 1, 1, 70, NULL, NULL, 0}};
    feed(layer, second, 3, 0);
    want_same(layer, beside, whole, (size_t)n * width(layer), sizeof *whole, "beside others");
    want_same_slots(layer, 2, 0, n, "slot beside others");
}

/* Nodes of a random tree; mostly a chain when `deep`. */
static void make_tree(struct check *check, int32_t *parent, int32_t n, bool deep)
{
    for (int32_t i = 0; i < n; i++) {
        bool chain = check_random_range(check, 0, deep ? 9 : 2) != 0;
        parent[i] = chain ? i - 1 : check_random_range(check, -1, i - 1);
    }
}

static void tree_case(struct layer *layer, int32_t start, int32_t n, bool deep)
{
    struct check *check = layer->check;
    check_case(check, "%s hd=%d: tree of %d nodes after %d tokens", rondo_dtype_name(layer->dtype),
               layer->head_dim, n, start);
    make_layer(layer);
    struct order_text text = make_text(layer, start), nodes = make_text(layer, n);
    int32_t parent[MAX_DRAFT], path[MAX_DRAFT], length = 0;
    make_tree(check, parent, n, deep);
    for (int32_t slot = 0; slot < 2; slot++) {
        struct order_part part = {&text, 0, start, slot, 0, NULL, NULL, 0};
        if (start > 0)
            feed(layer, &part, 1, 0);
    }
    float *tree = check_allocate(check, (size_t)n * width(layer) * sizeof *tree);
    struct order_part draft = {&nodes, 0, n, 0, start, parent, tree, 0};
    feed(layer, &draft, 1, 0);
    for (int32_t a = n - 1; a >= 0; a = parent[a])
        length++;
    for (int32_t a = n - 1, i = length; a >= 0; a = parent[a])
        path[--i] = a;
    const size_t row = width(layer) * rondo_dtype_size(layer->dtype), rows[3] = {row, row, row};
    struct order_text along = order_take(check, &nodes, rows, path, length);
    float *out = check_allocate(check, (size_t)length * width(layer) * sizeof *out);
    struct order_part fed = {&along, 0, length, 1, start, NULL, out, 0};
    feed(layer, &fed, 1, 0);
    for (int32_t i = 0; i < length; i++)
        want_same(layer, tree + (size_t)path[i] * width(layer), out + (size_t)i * width(layer),
                  width(layer), sizeof *out, "node of a path");
    accept(layer, 0, start, path, length);
    want_same_slots(layer, 0, 1, start + length, "slot after accept");
}

void check_linear_order(struct check *check)
{
    static const struct {
        int32_t heads, head_dim;
        enum rondo_dtype dtype;
    } kinds[] = {{2, 16, RONDO_F32}, {2, 64, RONDO_BF16}, {1, 128, RONDO_BF16}};
    for (int k = 0; k < 3; k++) {
        struct layer layer = {.check = check,
                              .heads = kinds[k].heads,
                              .head_dim = kinds[k].head_dim,
                              .dtype = kinds[k].dtype};
        split_case(&layer, 300, 150);
        split_case(&layer, 200, 16);
        split_case(&layer, 70, 1);
        tree_case(&layer, 0, 12, false);
        tree_case(&layer, 40, 16, false);
        tree_case(&layer, 60, 20, false);
        tree_case(&layer, 100, 64, false);
        tree_case(&layer, 120, 75, true);
    }
}
