/* Reference of softmax_attention: one query head of one token after the other, straight from the order in
 * core/ops.h. */
#include "backend_cpu/attention_internal.h"
#include "backend_cpu/basic.h"

#include <float.h>

/* Channels of the output that are made at once; the scores are made anew for each strip. */
#define STRIP 64

struct query {
    const struct rondo_op_softmax_attention *op;
    const struct rondo_batch_sequence *sequence;
    const int32_t *pages; /* of the sequence */
    int32_t head;         /* of the query */
    int32_t token;        /* in the batch */
    int32_t node;         /* among the draft's nodes; -1: ordinary token */
    int32_t position;
};

/* Softmax over some positions, of channels [first, first + n): maximum, sum, weighted values. */
struct part {
    float m, l, o[STRIP];
};

/* The row of a position: keys and values of the cache's dtype, and their scales, 1 where they have none. */
struct row {
    const void *k, *v; /* [hd] */
    float k_scale, v_scale;
};

static struct row row_of(const struct rondo_kv_cache *cache, const void *k, const void *v,
                         int64_t index, int32_t n, int32_t row, int32_t hd)
{
    struct rondo_kv_block keys = rondo_kv_block(k, cache->dtype, index, n, hd);
    struct rondo_kv_block values = rondo_kv_block(v, cache->dtype, index, n, hd);
    return (struct row){rondo_kv_row(&keys, cache->dtype, row, hd),
                        rondo_kv_row(&values, cache->dtype, row, hd), rondo_kv_scale(&keys, row),
                        rondo_kv_scale(&values, row)};
}

static struct row row_at(const struct query *query, int32_t position)
{
    const struct rondo_op_softmax_attention *op = query->op;
    const struct rondo_kv_cache *cache = &op->cache;
    int32_t head = query->head / (op->heads / op->kv_heads), hd = op->head_dim;
    if (query->node < 0 || position < query->sequence->start) {
        int64_t page = query->pages[position / RONDO_CHUNK];
        return row_of(cache, cache->k, cache->v, page * op->kv_heads + head, RONDO_CHUNK,
                      position % RONDO_CHUNK, hd);
    }
    const int32_t *parent = op->batch->parent + query->sequence->first_token;
    int32_t node = rondo_draft_ancestor(parent, query->node, query->position, position);
    return row_of(cache, cache->draft_k, cache->draft_v,
                  (int64_t)query->sequence->slot * op->kv_heads + head, cache->max_draft, node, hd);
}

/* Adds positions [start, end) of one C-block to the part. */
static void add_block(const struct query *query, struct part *part, bool is_first, int32_t start,
                      int32_t end, int32_t first, int32_t n)
{
    const struct rondo_op_softmax_attention *op = query->op;
    const void *q = rondo_tensor_row(&op->q, query->token);
    size_t q_at = (size_t)query->head * op->head_dim;
    float x[RONDO_CHUNK], lane[16] = {0}, m = is_first ? -INFINITY : part->m;
    for (int32_t j = 0; j < end - start; j++) {
        struct row row = row_at(query, start + j);
        float score = 0.0f;
        for (int32_t d = 0; d < op->head_dim; d++)
            score = fmaf(rondo_load(q, op->q.dtype, q_at + d),
                         rondo_load(row.k, op->cache.dtype, (size_t)d), score);
        x[j] = score * row.k_scale * op->scale;
        m = x[j] > m ? x[j] : m;
    }
    float f = is_first ? 0.0f : rondo_exp(part->m - m);
    for (int32_t j = 0; j < end - start; j++) {
        x[j] = rondo_exp(x[j] - m);
        lane[j % 16] = j < 16 ? x[j] : lane[j % 16] + x[j];
    }
    float sum = rondo_sum_tree16(lane);
    part->l = is_first ? sum : fmaf(part->l, f, sum);
    part->m = m;
    for (int32_t c = 0; c < n; c++)
        part->o[c] = is_first ? 0.0f : part->o[c] * f;
    for (int32_t j = 0; j < end - start; j++) {
        struct row row = row_at(query, start + j);
        float p = x[j] * row.v_scale;
        for (int32_t c = 0; c < n; c++) {
            float v = rondo_load(row.v, op->cache.dtype, (size_t)(first + c));
            part->o[c] = fmaf(p, v, part->o[c]);
        }
    }
}

static void merge(struct part *total, const struct part *part, int32_t n)
{
    float m = part->m > total->m ? part->m : total->m;
    float f = rondo_exp(total->m - m), g = rondo_exp(part->m - m);
    total->l = fmaf(total->l, f, part->l * g);
    for (int32_t c = 0; c < n; c++)
        total->o[c] = fmaf(total->o[c], f, part->o[c] * g);
    total->m = m;
}

static void output_row(const struct query *query)
{
    const struct rondo_op_softmax_attention *op = query->op;
    void *out = rondo_tensor_row(&op->out, query->token);
    size_t at = (size_t)query->head * op->head_dim;
    int32_t length = query->position + 1;
    for (int32_t first = 0; first < op->head_dim; first += STRIP) {
        int32_t n = op->head_dim - first < STRIP ? op->head_dim - first : STRIP;
        struct part total = {0};
        for (int32_t segment = 0; segment < length; segment += RONDO_SEGMENT) {
            struct part part = {0};
            for (int32_t block = segment; block < length && block < segment + RONDO_SEGMENT;
                 block += RONDO_CHUNK)
                add_block(query, &part, block == segment, block,
                          length < block + RONDO_CHUNK ? length : block + RONDO_CHUNK, first, n);
            if (segment == 0)
                total = part;
            else
                merge(&total, &part, n);
        }
        float r = 1.0f / total.l;
        for (int32_t c = 0; c < n; c++)
            rondo_store(out, op->out.dtype, at + first + c, total.o[c] * r);
    }
}

/* x [hd] is of the cache's dtype, unless that is f8_e4m3. */
static void store_row(const struct rondo_kv_block *block, enum rondo_dtype dtype, int32_t row,
                      const void *x, enum rondo_dtype x_dtype, int32_t head_dim)
{
    char *to = rondo_kv_row(block, dtype, row, head_dim);
    float largest = 0;
    bool is_finite = true;
    if (!block->scales) {
        memcpy(to, x, (size_t)head_dim * rondo_dtype_size(dtype));
        return;
    }
    for (int32_t d = 0; d < head_dim; d++) {
        float magnitude = fabsf(rondo_load(x, x_dtype, (size_t)d));
        largest = magnitude > largest ? magnitude : largest;
        is_finite &= magnitude <= FLT_MAX;
    }
    float scale = is_finite ? rondo_quantize_scale(largest, false) : NAN;
    block->scales[row] = scale;
    for (int32_t d = 0; d < head_dim; d++)
        rondo_store(to, dtype, (size_t)d, rondo_load(x, x_dtype, (size_t)d) / scale);
}

void rondo_kv_store_token(const struct rondo_op_softmax_attention *op,
                          const struct rondo_batch_sequence *sequence, const int32_t *pages,
                          int32_t t)
{
    const struct rondo_kv_cache *cache = &op->cache;
    bool is_draft = sequence->is_draft;
    int32_t token = sequence->first_token + t, position = sequence->start + t, hd = op->head_dim;
    int32_t place = is_draft ? sequence->slot : pages[position / RONDO_CHUNK];
    int32_t rows = is_draft ? cache->max_draft : RONDO_CHUNK;
    int32_t row = is_draft ? t : position % RONDO_CHUNK;
    const struct rondo_tensor *from[2] = {&op->k, &op->v};
    void *to[2] = {is_draft ? cache->draft_k : cache->k, is_draft ? cache->draft_v : cache->v};
    for (int32_t head = 0; head < op->kv_heads; head++)
        for (int i = 0; i < 2; i++) {
            struct rondo_kv_block block =
                rondo_kv_block(to[i], cache->dtype, (int64_t)place * op->kv_heads + head, rows, hd);
            store_row(&block, cache->dtype, row,
                      rondo_element(rondo_tensor_row(from[i], token), from[i]->dtype,
                                    (size_t)head * (size_t)hd),
                      from[i]->dtype, hd);
        }
}

static void store_sequence(const struct rondo_op_softmax_attention *op,
                           const struct rondo_batch_sequence *sequence, const int32_t *pages)
{
    for (int32_t t = 0; t < sequence->n_tokens; t++)
        rondo_kv_store_token(op, sequence, pages, t);
}

void rondo_softmax_attention_ref(struct rondo_device *device,
                                 const struct rondo_op_softmax_attention *op)
{
    const struct rondo_batch *batch = op->batch;
    for (int32_t s = 0; s < batch->n_sequences; s++) {
        const struct rondo_batch_sequence *sequence = &batch->sequences[s];
        const int32_t *pages = batch->page_table + (size_t)s * batch->page_stride;
        if (sequence->slot < 0)
            continue;
        store_sequence(op, sequence, pages);
        for (int32_t t = 0; t < sequence->n_tokens; t++)
            for (int32_t head = 0; head < op->heads; head++) {
                struct query query = {.op = op, .sequence = sequence, .pages = pages, .head = head};
                query.token = sequence->first_token + t;
                query.node = sequence->is_draft ? t : -1;
                query.position =
                    sequence->is_draft ? batch->position[query.token] : sequence->start + t;
                output_row(&query);
            }
    }
}
