/* Reference of accept: moves the rows of accepted draft nodes to their positions. */
#include "backend_cpu/attention_internal.h"

static void move_row(void *to, const void *from, enum rondo_dtype dtype, size_t to_row,
                     size_t from_row, int32_t head_dim)
{
    memcpy(rondo_element(to, dtype, to_row), rondo_element(from, dtype, from_row),
           (size_t)head_dim * rondo_dtype_size(dtype));
}

static void accept_linear(const struct rondo_op_accept *op, int32_t head)
{
    const struct rondo_linear_cache *cache = &op->linear;
    int32_t hd = op->head_dim;
    size_t tail = rondo_cache_row(op->slot, op->heads, head, RONDO_CHUNK, 0, hd);
    float *state = cache->state + ((size_t)op->slot * op->heads + head) * hd * hd;
    if (op->start == 0 && op->n > 0)
        memset(state, 0, (size_t)hd * hd * sizeof *state);
    for (int32_t i = 0; i < op->n; i++) {
        int32_t row = (op->start + i) % RONDO_CHUNK;
        size_t from = rondo_cache_row(op->slot, op->heads, head, cache->max_draft, op->path[i], hd);
        move_row(cache->tail_k, cache->draft_k, cache->dtype, tail + (size_t)row * hd, from, hd);
        move_row(cache->tail_v, cache->draft_v, cache->dtype, tail + (size_t)row * hd, from, hd);
        if (row == RONDO_CHUNK - 1)
            rondo_linear_fold_ref(state, rondo_element(cache->tail_k, cache->dtype, tail),
                                  rondo_element(cache->tail_v, cache->dtype, tail), cache->dtype,
                                  op->decay_power + (size_t)head * (RONDO_CHUNK + 1), hd);
    }
}

/* Rows of keys, or of values. */
static void accept_kv(const struct rondo_op_accept *op, int32_t head, void *pages,
                      const void *drafts)
{
    enum rondo_dtype dtype = op->kv.dtype;
    int32_t hd = op->head_dim;
    struct rondo_kv_block from =
        rondo_kv_block(drafts, dtype, (int64_t)op->slot * op->heads + head, op->kv.max_draft, hd);
    for (int32_t i = 0; i < op->n; i++) {
        int32_t position = op->start + i, row = position % RONDO_CHUNK, node = op->path[i];
        int64_t page = op->page_table[position / RONDO_CHUNK];
        struct rondo_kv_block to =
            rondo_kv_block(pages, dtype, page * op->heads + head, RONDO_CHUNK, hd);
        memcpy(rondo_kv_row(&to, dtype, row, hd), rondo_kv_row(&from, dtype, node, hd),
               (size_t)hd * rondo_dtype_size(dtype));
        if (to.scales)
            to.scales[row] = from.scales[node];
    }
}

void rondo_accept_ref(struct rondo_device *device, const struct rondo_op_accept *op)
{
    if (op->slot < 0)
        return;
    for (int32_t head = 0; head < op->heads; head++) {
        if (op->linear.state)
            accept_linear(op, head);
        if (op->kv.k) {
            accept_kv(op, head, op->kv.k, op->kv.draft_k);
            accept_kv(op, head, op->kv.v, op->kv.draft_v);
        }
    }
}
