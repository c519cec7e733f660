/* Reference of linear_attention: one token after the other, straight from the order in core/ops.h. */
#include "backend_cpu/attention_internal.h"

#include <math.h>

/* Columns of a folded state that are kept at once for a draft node past its chunk. */
#define STRIP 64

/* The k and v row of one position. */
struct row {
    const void *k, *v; /* arrays of the cache's dtype */
    size_t at;         /* first element of the row in both */
};

/* What one output row is made from. */
struct query {
    const struct rondo_op_linear_attention *op;
    const struct rondo_batch_sequence *sequence;
    int32_t head;
    int32_t token; /* in the batch */
    int32_t node;  /* among the draft's nodes; -1: ordinary token */
    int32_t position;
    const float *state; /* [hd, hd], NULL: zero */
};

void rondo_linear_fold_ref(float *state, const void *k, const void *v, enum rondo_dtype dtype,
                           const float *decay_power, int32_t head_dim)
{
    size_t hd = (size_t)head_dim;
    for (size_t d = 0; d < hd; d++) {
        float *row = state + d * hd;
        for (size_t c = 0; c < hd; c++)
            row[c] *= decay_power[RONDO_CHUNK];
        for (size_t j = 0; j < RONDO_CHUNK; j++) {
            float decayed = rondo_load(k, dtype, j * hd + d) * decay_power[RONDO_CHUNK - 1 - j];
            for (size_t c = 0; c < hd; c++)
                row[c] = fmaf(decayed, rondo_load(v, dtype, j * hd + c), row[c]);
        }
    }
}

static struct row row_at(const struct query *query, int32_t position)
{
    const struct rondo_op_linear_attention *op = query->op;
    const struct rondo_linear_cache *cache = &op->cache;
    int32_t slot = query->sequence->slot, heads = op->heads, hd = op->head_dim;
    if (query->node < 0 || position < query->sequence->start)
        return (struct row){
            cache->tail_k, cache->tail_v,
            rondo_cache_row(slot, heads, query->head, RONDO_CHUNK, position % RONDO_CHUNK, hd)};
    const int32_t *parent = op->batch->parent + query->sequence->first_token;
    int32_t node = rondo_draft_ancestor(parent, query->node, query->position, position);
    return (struct row){cache->draft_k, cache->draft_v,
                        rondo_cache_row(slot, heads, query->head, cache->max_draft, node, hd)};
}

/* Columns [first, first + n) of row d of the state at the boundary before the query's chunk, folded from
 * the sequence's state along the query's path. n <= STRIP. */
static void state_row(const struct query *query, int32_t d, int32_t first, int32_t n, float *row)
{
    const struct rondo_op_linear_attention *op = query->op;
    const float *decay_power = op->decay_power + (size_t)query->head * (RONDO_CHUNK + 1);
    int32_t hd = op->head_dim, chunk = query->position - query->position % RONDO_CHUNK;
    int32_t folded =
        query->node < 0 ? chunk : query->sequence->start - query->sequence->start % RONDO_CHUNK;
    for (int32_t c = 0; c < n; c++)
        row[c] = query->state ? query->state[(size_t)d * hd + first + c] : 0.0f;
    for (; folded < chunk; folded += RONDO_CHUNK) {
        for (int32_t c = 0; c < n; c++)
            row[c] *= decay_power[RONDO_CHUNK];
        for (int32_t j = 0; j < RONDO_CHUNK; j++) {
            struct row source = row_at(query, folded + j);
            float decayed = rondo_load(source.k, op->cache.dtype, source.at + d) *
                            decay_power[RONDO_CHUNK - 1 - j];
            for (int32_t c = 0; c < n; c++) {
                float v = rondo_load(source.v, op->cache.dtype, source.at + first + c);
                row[c] = fmaf(decayed, v, row[c]);
            }
        }
    }
}

static void output_row(const struct query *query)
{
    const struct rondo_op_linear_attention *op = query->op;
    const float *decay_power = op->decay_power + (size_t)query->head * (RONDO_CHUNK + 1);
    int32_t hd = op->head_dim, i = query->position % RONDO_CHUNK;
    const void *q = rondo_element(rondo_tensor_row(&op->q, query->token), op->q.dtype,
                                  (size_t)query->head * hd);
    float *out = (float *)rondo_tensor_row(&op->out, query->token) + (size_t)query->head * hd;
    float strip[STRIP];

    for (int32_t first = 0; first < hd; first += STRIP) {
        int32_t n = hd - first < STRIP ? hd - first : STRIP;
        for (int32_t c = 0; c < n; c++)
            out[first + c] = 0.0f;
        for (int32_t d = 0; d < hd; d++) {
            state_row(query, d, first, n, strip);
            for (int32_t c = 0; c < n; c++)
                out[first + c] = fmaf(rondo_load(q, op->q.dtype, d), strip[c], out[first + c]);
        }
    }
    for (int32_t c = 0; c < hd; c++)
        out[c] *= decay_power[i + 1];
    for (int32_t j = 0; j <= i; j++) {
        struct row source = row_at(query, query->position - i + j);
        float score = 0.0f;
        for (int32_t d = 0; d < hd; d++)
            score = fmaf(rondo_load(q, op->q.dtype, d),
                         rondo_load(source.k, op->cache.dtype, source.at + d), score);
        float w = score * decay_power[i - j];
        for (int32_t c = 0; c < hd; c++)
            out[c] = fmaf(w, rondo_load(source.v, op->cache.dtype, source.at + c), out[c]);
    }
    for (int32_t c = 0; c < hd; c++)
        out[c] *= op->scale;
}

static void store_row(const struct query *query, void *to_k, void *to_v, size_t at)
{
    const struct rondo_op_linear_attention *op = query->op;
    const void *k = rondo_tensor_row(&op->k, query->token);
    const void *v = rondo_tensor_row(&op->v, query->token);
    size_t from = (size_t)query->head * op->head_dim;
    for (int32_t d = 0; d < op->head_dim; d++) {
        rondo_store(to_k, op->cache.dtype, at + d, rondo_load(k, op->k.dtype, from + d));
        rondo_store(to_v, op->cache.dtype, at + d, rondo_load(v, op->v.dtype, from + d));
    }
}

static void ordinary_head(struct query *query, float *state)
{
    const struct rondo_op_linear_attention *op = query->op;
    const struct rondo_linear_cache *cache = &op->cache;
    int32_t hd = op->head_dim;
    size_t tail =
        rondo_cache_row(query->sequence->slot, op->heads, query->head, RONDO_CHUNK, 0, hd);
    for (int32_t t = 0; t < query->sequence->n_tokens; t++) {
        query->token = query->sequence->first_token + t;
        query->position = query->sequence->start + t;
        int32_t i = query->position % RONDO_CHUNK;
        if (query->position == 0)
            memset(state, 0, (size_t)hd * hd * sizeof *state);
        store_row(query, cache->tail_k, cache->tail_v, tail + (size_t)i * hd);
        output_row(query);
        if (i == RONDO_CHUNK - 1)
            rondo_linear_fold_ref(state, rondo_element(cache->tail_k, cache->dtype, tail),
                                  rondo_element(cache->tail_v, cache->dtype, tail), cache->dtype,
                                  op->decay_power + (size_t)query->head * (RONDO_CHUNK + 1), hd);
    }
}

static void draft_head(struct query *query)
{
    const struct rondo_op_linear_attention *op = query->op;
    const struct rondo_batch_sequence *sequence = query->sequence;
    for (int32_t t = 0; t < sequence->n_tokens; t++) {
        query->token = sequence->first_token + t;
        store_row(query, op->cache.draft_k, op->cache.draft_v,
                  rondo_cache_row(sequence->slot, op->heads, query->head, op->cache.max_draft, t,
                                  op->head_dim));
    }
    for (int32_t t = 0; t < sequence->n_tokens; t++) {
        query->token = sequence->first_token + t;
        query->node = t;
        query->position = op->batch->position[query->token];
        output_row(query);
    }
}

void rondo_linear_attention_ref(struct rondo_device *device,
                                const struct rondo_op_linear_attention *op)
{
    size_t state_size = (size_t)op->head_dim * op->head_dim;
    for (int32_t s = 0; s < op->batch->n_sequences; s++) {
        const struct rondo_batch_sequence *sequence = &op->batch->sequences[s];
        if (sequence->slot < 0)
            continue;
        for (int32_t head = 0; head < op->heads; head++) {
            float *state =
                op->cache.state + ((size_t)sequence->slot * op->heads + head) * state_size;
            bool zero = sequence->is_draft && sequence->start == 0;
            struct query query = {.op = op,
                                  .sequence = sequence,
                                  .head = head,
                                  .node = -1,
                                  .state = zero ? NULL : state};
            if (sequence->is_draft)
                draft_head(&query);
            else
                ordinary_head(&query, state);
        }
    }
}
