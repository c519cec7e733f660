/* Caches of a context: pools of state slots for linear layers and of pages for softmax layers, shared by its
 * sessions. All memory is taken when the context is made. */
#ifndef RONDO_CORE_CACHE_H
#define RONDO_CORE_CACHE_H

#include "core/backend.h"

struct rondo_cache {
    struct rondo_device *device;
    int32_t n_layers, n_linear, n_softmax;
    enum rondo_dtype dtype;    /* of linear layers: tails and drafts */
    enum rondo_dtype kv_dtype; /* of softmax layers: pages and drafts */
    int32_t heads, kv_heads, head_dim, max_draft;
    int32_t n_slots; /* of sessions: states, tails and drafts */
    int32_t
        n_snapshots; /* further slots that hold states only: n_slots .. n_slots + n_snapshots - 1 */
    int32_t n_pages;
    struct rondo_linear_cache *linear; /* [L]; state is NULL for softmax layers */
    struct rondo_kv_cache *kv;         /* [L]; k is NULL for linear layers */

    int32_t *free_pages; /* [n_pages] stack */
    int32_t n_free_pages;
    int32_t *page_references; /* [n_pages] sessions that hold the page */
    int32_t *free_slots;      /* [n_slots] stack */
    int32_t n_free_slots;
    int32_t *free_snapshots; /* [n_snapshots] stack */
    int32_t n_free_snapshots;
};

struct rondo_cache_sizes {
    enum rondo_dtype dtype, kv_dtype;
    int32_t n_slots, n_snapshots, n_pages, max_draft;
};

/* Bytes of the pools. */
uint64_t rondo_cache_kv_bytes(const struct rondo_config *config,
                              const struct rondo_cache_sizes *sizes);
uint64_t rondo_cache_state_bytes(const struct rondo_config *config,
                                 const struct rondo_cache_sizes *sizes);

int rondo_cache_create(struct rondo_cache *cache, const struct rondo_config *config,
                       const struct rondo_cache_sizes *sizes, struct rondo_device *device,
                       struct rondo_error *error);
void rondo_cache_destroy(struct rondo_cache *cache);

/* -1 when the pool is empty. A taken page has one reference. */
int32_t rondo_cache_take_page(struct rondo_cache *cache);
void rondo_cache_release_page(struct rondo_cache *cache, int32_t page);
int32_t rondo_cache_take_slot(struct rondo_cache *cache);
void rondo_cache_release_slot(struct rondo_cache *cache, int32_t slot);
int32_t rondo_cache_take_snapshot(struct rondo_cache *cache);
void rondo_cache_release_snapshot(struct rondo_cache *cache, int32_t slot);

/* In all layers. */
void rondo_cache_copy_page(struct rondo_cache *cache, int32_t to, int32_t from);
void rondo_cache_copy_state(struct rondo_cache *cache, int32_t to, int32_t from);
void rondo_cache_copy_tail(struct rondo_cache *cache, int32_t to, int32_t from);

/* Bytes of one slot's state, of one slot's tail of keys (or values), and of one page's keys (or values), in
 * one layer. */
size_t rondo_cache_slot_state_bytes(const struct rondo_cache *cache);
size_t rondo_cache_slot_tail_bytes(const struct rondo_cache *cache);
size_t rondo_cache_page_bytes(const struct rondo_cache *cache);

#endif
