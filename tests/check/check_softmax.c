/* Checks of softmax_attention without a reference: the same tokens give the same bits however they come. Whole, in
 * random parts, alone or beside other sequences, as a draft tree or as its paths; with much and with little
 * workspace, in a small and in a large batch, and with bounds of the batch that are too large. */
#include "tests/check/order.h"

#include <math.h>
#include <string.h>

enum { SLOTS = 2, MAX_DRAFT = 40, MAX_PARTS = 21, CONTEXT = 2560 };

/* One layer. Caches begin as NaN. */
struct layer {
    struct check *check;
    int32_t heads, kv_heads, head_dim;
    enum rondo_dtype dtype, kv;    /* kv: of the caches */
    struct check_buffer *cache[4]; /* k, v, draft_k, draft_v */
};

static size_t width(const struct layer *layer, int i)
{
    return (size_t)((i == 0 ? layer->heads : layer->kv_heads) * layer->head_dim);
}

static size_t out_size(const struct layer *layer, int32_t n)
{
    return (size_t)n * width(layer, 0) * rondo_dtype_size(layer->dtype);
}

static void make_layer(struct layer *layer, int32_t reserved_tokens)
{
    static const char *const names[4] = {"k", "v", "draft_k", "draft_v"};
    for (int i = 0; i < 4; i++) {
        size_t blocks = (size_t)((i < 2 ? ORDER_PAGES : SLOTS) * layer->kv_heads);
        size_t size = blocks * rondo_kv_block_bytes(layer->kv, i < 2 ? RONDO_CHUNK : MAX_DRAFT,
                                                    layer->head_dim);
        layer->cache[i] = check_buffer(layer->check, size, names[i]);
        memset(layer->cache[i]->host, 0xff, size);
        check_upload(layer->check, layer->cache[i]);
    }
    check_reserve(layer->check, &(struct rondo_limits){.tokens = reserved_tokens,
                                                       .heads = layer->heads,
                                                       .kv_heads = layer->kv_heads,
                                                       .head_dim = layer->head_dim,
                                                       .context = CONTEXT,
                                                       .draft = MAX_DRAFT});
}

static struct order_text make_text(const struct layer *layer, int32_t n)
{
    const size_t widths[3] = {width(layer, 0), width(layer, 1), width(layer, 2)};
    return order_text(layer->check, layer->dtype, widths, n);
}

/* Keys and values of `n` tokens before a text, straight into the pages. */
static void fill_pages(struct layer *layer, int32_t first_page, int32_t n)
{
    struct check *check = layer->check;
    size_t row = (size_t)layer->head_dim;
    for (int32_t t = 0; t < n; t++)
        for (int32_t h = 0; h < layer->kv_heads; h++) {
            size_t page = (size_t)order_page(first_page, t / RONDO_CHUNK);
            size_t block = (page * (size_t)layer->kv_heads + (size_t)h) *
                           rondo_kv_block_bytes(layer->kv, RONDO_CHUNK, layer->head_dim);
            for (int i = 0; i < 2; i++) {
                char *at = (char *)layer->cache[i]->host + block;
                float scale = 1;
                if (layer->kv == RONDO_F8_E4M3)
                    scale = ((float *)at)[t % RONDO_CHUNK] =
                        check_random_range(check, 1, 9) * 1e-3f;
                at += rondo_kv_rows_offset(layer->kv, RONDO_CHUNK);
                for (size_t d = 0; d < row; d++)
                    rondo_store(at, layer->kv, (size_t)(t % RONDO_CHUNK) * row + d,
                                (float)check_random_normal(check) / scale);
            }
        }
    for (int i = 0; i < 2; i++)
        check_upload(layer->check, layer->cache[i]);
}

/* ---- calls ----------------------------------------------------------------------------------- */

/* One call with all parts. */
static void feed(struct layer *layer, const struct order_part *parts, int n, int32_t extra)
{
    struct check *check = layer->check;
    size_t value = rondo_dtype_size(layer->dtype);
    static const char *const names[3] = {"q", "k", "v"};
    struct rondo_batch batch[2];
    order_batch(check, parts, n, extra, CONTEXT / RONDO_CHUNK, batch);
    int32_t T = batch[0].n_tokens;
    struct check_buffer *in[3], *out = check_output(check, out_size(layer, T), "out");
    for (int i = 0; i < 3; i++)
        in[i] = order_rows(check, parts, n, i, width(layer, i) * value);
    struct rondo_op_softmax_attention op[2];
    for (int side = 0; side < 2; side++) {
        struct rondo_tensor x[3];
        for (int i = 0; i < 3; i++)
            x[i] = rondo_tensor_2d(in[i]->data[side], layer->dtype, T, (int64_t)width(layer, i),
                                   names[i]);
        op[side] = (struct rondo_op_softmax_attention){
            .batch = &batch[side],
            .q = x[0],
            .k = x[1],
            .v = x[2],
            .out =
                rondo_tensor_2d(out->data[side], layer->dtype, T, (int64_t)width(layer, 0), "out"),
            .cache = {.k = layer->cache[0]->data[side],
                      .v = layer->cache[1]->data[side],
                      .draft_k = layer->cache[2]->data[side],
                      .draft_v = layer->cache[3]->data[side],
                      .dtype = layer->kv,
                      .max_draft = MAX_DRAFT},
            .scale = 1 / sqrtf((float)layer->head_dim),
            .heads = layer->heads,
            .kv_heads = layer->kv_heads,
            .head_dim = layer->head_dim};
    }
    check_run(check, RONDO_OP_SOFTMAX_ATTENTION, &op[0], &op[1]);
    order_results(check, parts, n, out, out_size(layer, 1));
}

/* ---- comparison ------------------------------------------------------------------------------ */

static void want_same(struct layer *layer, const char *got, const char *want, int32_t rows,
                      const char *what)
{
    size_t value = rondo_dtype_size(layer->dtype), row = width(layer, 0);
    for (size_t i = 0; i < (size_t)rows * row; i++)
        if (memcmp(got + i * value, want + i * value, value) != 0) {
            check_fail(layer->check, "%s: other bits at row %zu, column %zu", what, i / row,
                       i % row);
            return;
        }
}

/* ---- cases ----------------------------------------------------------------------------------- */

/* A text of n tokens after `start` others: in one call, then again in parts of at most `most`, and beside others. */
static void split_case(struct layer *layer, int32_t start, int32_t n, int32_t most,
                       int32_t reserved)
{
    struct check *check = layer->check;
    check_case(check,
               "%s, cache %s, H=%d/%d hd=%d: %d tokens after %d, whole and in parts of up to %d",
               rondo_dtype_name(layer->dtype), rondo_dtype_name(layer->kv), layer->heads,
               layer->kv_heads, layer->head_dim, n, start, most);
    make_layer(layer, reserved);
    fill_pages(layer, 3, start);
    struct order_text text = make_text(layer, n), other = make_text(layer, 40);
    char *whole = check_allocate(check, out_size(layer, n));
    char *again = check_allocate(check, out_size(layer, n));
    struct order_part part = {&text, 0, n, 0, start, NULL, whole, 3};
    feed(layer, &part, 1, 0);
    for (int32_t at = 0, count; at < n; at += count) {
        count = check_random_range(check, 1, most);
        count = count < n - at ? count : n - at;
        part = (struct order_part){
            &text, at, count, 0, start + at, NULL, again + out_size(layer, at), 3};
        feed(layer, &part, 1, 0);
    }
    want_same(layer, again, whole, n, "in parts");
    struct order_part beside[4] = {{&other, 0, 1, 1, 0, NULL, NULL, 46},
                                   {&other, 0, 3, -1, 0, NULL, NULL, 0},
                                   {&text, 0, n, 0, start, NULL, again, 3},
                                   {&other, 1, 39, 1, 1, NULL, NULL, 46}};
    feed(layer, beside, 3, 200);
    want_same(layer, again, whole, n, "beside others");
    beside[2] = (struct order_part){&text, n - 1, 1, 0, start + n - 1, NULL, again, 3};
    feed(layer, beside + 2, 2, 0);
    want_same(layer, again, whole + out_size(layer, n - 1), 1, "last token beside a long sequence");
}

static void tree_case(struct layer *layer, int32_t start, int32_t n, int32_t reserved)
{
    struct check *check = layer->check;
    check_case(check, "%s, cache %s, H=%d/%d hd=%d: tree of %d nodes after %d tokens",
               rondo_dtype_name(layer->dtype), rondo_dtype_name(layer->kv), layer->heads,
               layer->kv_heads, layer->head_dim, n, start);
    make_layer(layer, reserved);
    fill_pages(layer, 11, start);
    struct order_text nodes = make_text(layer, n);
    int32_t parent[MAX_DRAFT];
    for (int32_t i = 0; i < n; i++)
        parent[i] = check_random_range(check, 0, 3) ? i - 1 : check_random_range(check, -1, i - 1);
    char *tree = check_allocate(check, out_size(layer, n));
    char *out = check_allocate(check, out_size(layer, n));
    struct order_part draft = {&nodes, 0, n, 1, start, parent, tree, 11};
    feed(layer, &draft, 1, 0);
    for (int32_t last = n - 1; last >= 0; last -= 5) {
        int32_t path[MAX_DRAFT], length = 0;
        for (int32_t a = last; a >= 0; a = parent[a])
            length++;
        for (int32_t a = last, i = length; a >= 0; a = parent[a])
            path[--i] = a;
        const size_t value = rondo_dtype_size(layer->dtype);
        const size_t rows[3] = {width(layer, 0) * value, width(layer, 1) * value,
                                width(layer, 2) * value};
        struct order_text along = order_take(check, &nodes, rows, path, length);
        struct order_part fed = {&along, 0, along.n, 0, start, NULL, out, 11};
        feed(layer, &fed, 1, 0);
        for (int32_t i = 0; i < along.n; i++)
            want_same(layer, tree + out_size(layer, path[i]), out + out_size(layer, i), 1,
                      "node of a path");
    }
}

/* Decoding of so many sequences that they fill a device, and of some of them alone. Each has two pages, of which it
 * writes the second. */
static void batch_case(struct layer *layer)
{
    struct check *check = layer->check;
    check_case(check, "%s, cache %s, H=%d/%d hd=%d: %d sequences", rondo_dtype_name(layer->dtype),
               rondo_dtype_name(layer->kv), layer->heads, layer->kv_heads, layer->head_dim,
               MAX_PARTS);
    make_layer(layer, MAX_PARTS);
    struct order_text text = make_text(layer, MAX_PARTS);
    char *together = check_allocate(check, out_size(layer, MAX_PARTS));
    char *alone = check_allocate(check, out_size(layer, 1));
    struct order_part part[MAX_PARTS];
    for (int32_t i = 0; i < MAX_PARTS; i++) {
        int32_t page = i % 7 + i / 7 * 14, start = RONDO_CHUNK + i;
        fill_pages(layer, page, start);
        part[i] =
            (struct order_part){&text, i, 1, 0, start, NULL, together + out_size(layer, i), page};
    }
    feed(layer, part, MAX_PARTS, 0);
    for (int32_t i = 0; i < MAX_PARTS; i += 5) {
        part[i].out = alone;
        feed(layer, &part[i], 1, 0);
        want_same(layer, alone, together + out_size(layer, i), 1, "alone");
    }
}

void check_softmax_order(struct check *check)
{
    static const struct {
        int32_t heads, kv_heads, head_dim;
        enum rondo_dtype dtype, kv;
    } kinds[] = {
        {3, 1, 20, RONDO_F32, RONDO_F32},     {4, 1, 64, RONDO_BF16, RONDO_BF16},
        {2, 2, 96, RONDO_BF16, RONDO_BF16},   {2, 1, 128, RONDO_BF16, RONDO_BF16},
        {1, 1, 256, RONDO_BF16, RONDO_BF16},  {4, 1, 64, RONDO_BF16, RONDO_F8_E4M3},
        {2, 1, 20, RONDO_F32, RONDO_F8_E4M3}, {2, 1, 128, RONDO_BF16, RONDO_F8_E4M3},
    };
    for (int k = 0; k < 8; k++) {
        struct layer layer = {.check = check,
                              .heads = kinds[k].heads,
                              .kv_heads = kinds[k].kv_heads,
                              .head_dim = kinds[k].head_dim,
                              .dtype = kinds[k].dtype,
                              .kv = kinds[k].kv};
        split_case(&layer, 0, 150, 60, 64);
        split_case(&layer, 1010, 24, 5, k % 2 ? 64 : 1);
        tree_case(&layer, k * 40, 16, 64);
        if (k < 2) {
            split_case(&layer, 2040, 60, 30, 1);
            tree_case(&layer, 1016, 33, 1);
        }
    }
    batch_case(&(struct layer){.check = check,
                               .heads = 8,
                               .kv_heads = 8,
                               .head_dim = 64,
                               .dtype = RONDO_BF16,
                               .kv = RONDO_BF16});
    batch_case(&(struct layer){.check = check,
                               .heads = 8,
                               .kv_heads = 8,
                               .head_dim = 64,
                               .dtype = RONDO_BF16,
                               .kv = RONDO_F8_E4M3});
}
