/* What a token's output may not depend on: how a text is cut into calls, what else is in the batch, whether it was
 * drafted and accepted or fed; and that drafting leaves the caches alone. Bit for bit, at every CPU level. */
#include "tests/unit/attention.h"

static const double slopes[8] = {0.02, 0, 0.85, 0x1p-8, 0.1, 0.3, 20, 0.01};

static size_t row_columns(const struct layers *layers)
{
    return (size_t)(layers->options.heads * layers->options.head_dim);
}

/* Bits of floats, any NaN equal to any NaN; outputs of defined rows are never NaN here. */
static bool same(const float *a, const float *b, size_t n)
{
    return memcmp(a, b, n * sizeof *a) == 0;
}

static bool has_nan(const float *x, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (isnan(x[i]))
            return true;
    return false;
}

/* ---- caches ---------------------------------------------------------------------------------- */

struct snapshot {
    void *memory[9];
};

static struct snapshot take_snapshot(const struct layers *layers)
{
    struct snapshot snapshot;
    void *memory[9];
    size_t size[9];
    list_caches(layers, memory, size);
    for (int i = 0; i < 9; i++)
        snapshot.memory[i] = memcpy(must_allocate(size[i]), memory[i], size[i]);
    return snapshot;
}

static void restore(const struct layers *layers, const struct snapshot *snapshot)
{
    void *memory[9];
    size_t size[9];
    list_caches(layers, memory, size);
    for (int i = 0; i < 9; i++)
        memcpy(memory[i], snapshot->memory[i], size[i]);
}

static void free_snapshot(struct snapshot *snapshot)
{
    for (int i = 0; i < 9; i++)
        free(snapshot->memory[i]);
}

/* Whether the caches but for the rows of drafts are still those of the snapshot. */
static bool is_unchanged(const struct layers *layers, const struct snapshot *snapshot)
{
    void *memory[9];
    size_t size[9];
    list_caches(layers, memory, size);
    for (int i = 0; i < 9; i++)
        if (i != 3 && i != 4 && i < 7 && memcmp(memory[i], snapshot->memory[i], size[i]) != 0)
            return false;
    return true;
}

static bool same_rows(const void *a, size_t a_row, const void *b, size_t b_row, size_t n,
                      size_t row)
{
    return memcmp((const char *)a + a_row * row, (const char *)b + b_row * row, n * row) == 0;
}

/* Row `row` of blocks i and j of pages, its scale included. */
static bool same_kv_row(const struct rondo_kv_cache *cache, const char *x, size_t i, const char *y,
                        size_t j, size_t row, size_t hd)
{
    size_t block = rondo_kv_block_bytes(cache->dtype, RONDO_CHUNK, (int64_t)hd);
    size_t size = hd * rondo_dtype_size(cache->dtype);
    size_t at = rondo_kv_rows_offset(cache->dtype, RONDO_CHUNK) + row * size;
    bool scales = cache->dtype != RONDO_F8_E4M3 ||
                  !memcmp(x + i * block + row * 4, y + j * block + row * 4, sizeof(float));
    return scales && !memcmp(x + i * block + at, y + j * block + at, size);
}

/* Whether slots a and b, sequences of `length` tokens, hold the same state, open chunk and pages. */
static bool same_slots(const struct layers *x, int32_t a, const struct layers *y, int32_t b,
                       int32_t length)
{
    const struct layer_options *options = &x->options;
    size_t H = (size_t)options->heads, hd = (size_t)options->head_dim, C = RONDO_CHUNK;
    size_t Hkv = (size_t)options->kv_heads, row = hd * rondo_dtype_size(options->dtype);
    size_t open = (size_t)(length % RONDO_CHUNK);
    bool equal = true;
    for (size_t h = 0; h < H; h++) {
        size_t i = (size_t)a * H + h, j = (size_t)b * H + h;
        equal &= same_rows(x->linear.state, i, y->linear.state, j, 1, hd * hd * sizeof(float));
        equal &= same_rows(x->linear.tail_k, i * C, y->linear.tail_k, j * C, open, row);
        equal &= same_rows(x->linear.tail_v, i * C, y->linear.tail_v, j * C, open, row);
    }
    for (int32_t position = 0; position < length; position++) {
        size_t page = (size_t)(position / RONDO_CHUNK), at = (size_t)(position % RONDO_CHUNK);
        size_t i = (size_t)x->pages[(size_t)a * (size_t)x->page_stride + page] * Hkv;
        size_t j = (size_t)y->pages[(size_t)b * (size_t)y->page_stride + page] * Hkv;
        for (size_t h = 0; h < Hkv; h++) {
            equal &= same_kv_row(&x->kv, x->kv.k, i + h, y->kv.k, j + h, at, hd);
            equal &= same_kv_row(&x->kv, x->kv.v, i + h, y->kv.v, j + h, at, hd);
        }
    }
    return equal;
}

/* ---- splits and batches ---------------------------------------------------------------------- */

/* The same texts once in one call each, and once in random pieces, several texts and padding in a batch. */
static void test_splits(struct rondo_device *device, const struct layer_options *options,
                        int32_t most)
{
    enum { TEXTS = 3 };
    struct layers whole = make_layers(device, options, slopes);
    struct layers pieces = make_layers(device, options, slopes);
    size_t columns = row_columns(&whole);
    struct text text[TEXTS];
    float *out[TEXTS][4];
    int32_t done[TEXTS] = {0};
    for (int i = 0; i < TEXTS; i++) {
        int32_t n = random_range(options->context / 2, options->context);
        text[i] = make_text(options, n, 1);
        for (int o = 0; o < 4; o++)
            out[i][o] = must_allocate((size_t)n * columns * sizeof(float));
        struct feed all = {&text[i], i, 0, 0, n, NULL, out[i][0], out[i][1]};
        feed(&whole, &all, 1);
    }
    for (bool is_more = true; is_more;) {
        struct feed feeds[TEXTS + 1];
        is_more = false;
        for (int i = 0; i < TEXTS; i++) {
            int32_t n = random_range(0, most);
            n = n < text[i].n - done[i] ? n : text[i].n - done[i];
            size_t at = (size_t)done[i] * columns;
            feeds[i] = (struct feed){&text[i], TEXTS - 1 - i, done[i],        done[i],
                                     n,        NULL,          out[i][2] + at, out[i][3] + at};
            done[i] += n;
            is_more |= done[i] < text[i].n;
        }
        feeds[TEXTS] = (struct feed){&text[0], -1, 3, 0, random_range(0, 3), NULL, NULL, NULL};
        feed(&pieces, feeds, TEXTS + 1);
    }
    for (int i = 0; i < TEXTS; i++) {
        size_t n = (size_t)text[i].n * columns;
        EXPECT(!has_nan(out[i][0], n) && !has_nan(out[i][1], n), "%s: NaN from outside the length",
               rondo_device_description(device));
        EXPECT(same(out[i][0], out[i][2], n), "%s: linear, text %d of %d tokens in pieces of %d",
               rondo_device_description(device), i, text[i].n, most);
        EXPECT(same(out[i][1], out[i][3], n), "%s: softmax, text %d of %d tokens in pieces of %d",
               rondo_device_description(device), i, text[i].n, most);
        EXPECT(same_slots(&whole, i, &pieces, TEXTS - 1 - i, text[i].n), "%s: caches of text %d",
               rondo_device_description(device), i);
        for (int o = 0; o < 4; o++)
            free(out[i][o]);
        free_text(&text[i]);
    }
    free_layers(&whole);
    free_layers(&pieces);
}

/* ---- trees ----------------------------------------------------------------------------------- */

struct tree {
    int32_t n, *parent;
    float *linear_out, *softmax_out; /* [n, H hd] */
};

/* Nodes root .. node; returns how many. */
static int32_t path_to(const struct tree *tree, int32_t node, int32_t *path)
{
    int32_t n = 0;
    for (int32_t a = node; a >= 0; a = tree->parent[a])
        n++;
    for (int32_t a = node, i = n; a >= 0; a = tree->parent[a])
        path[--i] = a;
    return n;
}

/* The text of a path: rows of the tree's nodes. */
static struct text text_of_path(const struct layers *layers, const struct text *nodes,
                                const int32_t *path, int32_t n)
{
    size_t row = row_columns(layers) * rondo_dtype_size(layers->options.dtype);
    struct text text = make_text(&layers->options, n, 1);
    void *const to[3] = {text.q, text.k, text.v};
    const void *const from[3] = {nodes->q, nodes->k, nodes->v};
    for (int i = 0; i < 3; i++)
        for (int32_t t = 0; t < n; t++)
            memcpy((char *)to[i] + (size_t)t * row, (const char *)from[i] + (size_t)path[t] * row,
                   row);
    return text;
}

static void accept(struct layers *layers, int32_t start, const int32_t *path, int32_t n)
{
    const struct layer_options *options = &layers->options;
    struct rondo_op_accept op = {.slot = 0,
                                 .start = start,
                                 .n = n,
                                 .path = path,
                                 .page_table = layers->pages,
                                 .linear = layers->linear,
                                 .decay_power = layers->decay_power,
                                 .heads = options->heads,
                                 .head_dim = options->head_dim};
    layers->device->ops.accept(layers->device, &op);
    op.linear = (struct rondo_linear_cache){0};
    op.kv = layers->kv;
    op.heads = options->kv_heads;
    layers->device->ops.accept(layers->device, &op);
}

/* From the caches of the snapshot: the path fed gives the node's row, and the caches that accepting it gives. */
static void test_path(struct layers *layers, const struct snapshot *drafted, int32_t start,
                      const struct text *nodes, const struct tree *tree, int32_t node)
{
    size_t columns = row_columns(layers), at = (size_t)node * columns;
    int32_t *path = must_allocate((size_t)tree->n * sizeof *path);
    int32_t n = path_to(tree, node, path);
    const char *name = rondo_device_description(layers->device);
    struct text text = text_of_path(layers, nodes, path, n);
    float *out[2];
    for (int i = 0; i < 2; i++)
        out[i] = must_allocate((size_t)n * columns * sizeof(float));
    restore(layers, drafted);
    feed(layers, &(struct feed){&text, 0, start, 0, n, NULL, out[0], out[1]}, 1);
    size_t last = (size_t)(n - 1) * columns;
    EXPECT(same(tree->linear_out + at, out[0] + last, columns), "%s: linear, node %d at %d + %d",
           name, node, start, n - 1);
    EXPECT(same(tree->softmax_out + at, out[1] + last, columns), "%s: softmax, node %d at %d + %d",
           name, node, start, n - 1);
    struct layers fed = *layers;
    struct snapshot snapshot = take_snapshot(layers);
    fed.linear.state = snapshot.memory[0];
    fed.linear.tail_k = snapshot.memory[1];
    fed.linear.tail_v = snapshot.memory[2];
    fed.kv.k = snapshot.memory[5];
    fed.kv.v = snapshot.memory[6];
    restore(layers, drafted);
    accept(layers, start, path, n);
    EXPECT(same_slots(layers, 0, &fed, 0, start + n), "%s: caches after accepting node %d at %d",
           name, node, start);
    free_snapshot(&snapshot);
    for (int i = 0; i < 2; i++)
        free(out[i]);
    free_text(&text);
    free(path);
}

/* A tree of n nodes behind `start` tokens: chains of up to `chain` nodes. */
static void test_tree(struct rondo_device *device, const struct layer_options *options,
                      int32_t start, int32_t n, int32_t chain)
{
    struct layers layers = make_layers(device, options, slopes);
    struct text before = make_text(options, start, 1), nodes = make_text(options, n, 1);
    size_t columns = row_columns(&layers);
    struct tree tree = {.n = n};
    tree.parent = must_allocate((size_t)n * sizeof *tree.parent);
    tree.linear_out = must_allocate((size_t)n * columns * sizeof(float));
    tree.softmax_out = must_allocate((size_t)n * columns * sizeof(float));
    for (int32_t i = 0; i < n; i++)
        tree.parent[i] = random_range(0, chain) && i > 0 ? i - 1 : random_range(-1, i - 1);
    feed(&layers, &(struct feed){&before, 0, 0, 0, start, NULL, NULL, NULL}, 1);
    struct snapshot fed = take_snapshot(&layers);
    struct feed draft = {&nodes, 0, start, 0, n, tree.parent, tree.linear_out, tree.softmax_out};
    feed(&layers, &draft, 1);
    EXPECT(is_unchanged(&layers, &fed), "%s: a draft changed the caches",
           rondo_device_description(device));
    struct snapshot drafted = take_snapshot(&layers);
    int32_t step = n > 40 ? n / 13 : 1;
    for (int32_t node = n - 1; node >= 0; node -= step)
        test_path(&layers, &drafted, start, &nodes, &tree, node);
    free_snapshot(&fed);
    free_snapshot(&drafted);
    free(tree.parent);
    free(tree.linear_out);
    free(tree.softmax_out);
    free_text(&before);
    free_text(&nodes);
    free_layers(&layers);
}

static void test_level(struct rondo_device *device)
{
    bool is_reference = strstr(rondo_device_description(device), "(ref") != NULL;
    for (int i = 0; i < 4; i++) {
        enum rondo_dtype dtype = i & 1 ? RONDO_BF16 : RONDO_F32;
        struct layer_options options = {4, 2, 16, 4, 320, 150, dtype, i >= 2};
        test_splits(device, &options, 3);
        test_splits(device, &options, 100);
        static const int32_t starts[] = {0, 1, 40, 63, 64, 127, 150};
        for (int s = 0; s < 7; s++)
            test_tree(device, &options, starts[s], 30, 4);
        /* Deep enough for two folds along the path. */
        if (!is_reference || i == 0)
            test_tree(device, &options, 45, 150, 200);
    }
    /* Past a segment; more rows than a task takes; a size without kernels of its own. */
    struct layer_options options = {8, 1, 32, 4, 1200, 40, RONDO_F32, false};
    if (!is_reference) {
        test_splits(device, &options, 400);
        test_tree(device, &options, 1010, 40, 5);
    }
    for (int i = 0; i < 2; i++) {
        options = (struct layer_options){2, 2, 20, 4, 200, 40, RONDO_BF16, i == 1};
        test_splits(device, &options, 50);
        test_tree(device, &options, 60, 20, 5);
    }
}

int main(void)
{
    for_each_level(test_level);
    return test_result();
}
