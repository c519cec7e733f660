/* Pools of state slots and KV pages. */
#include "core/cache.h"
#include "core/error.h"

#include <stdlib.h>

/* ---- sizes ------------------------------------------------------------------------------------ */

static void count_layers(const struct rondo_config *config, int32_t *linear, int32_t *softmax)
{
    *linear = *softmax = 0;
    for (int32_t l = 0; l < config->num_hidden_layers; l++) {
        if (rondo_config_attention(config, l) == RONDO_ATTENTION_LINEAR)
            ++*linear;
        else
            ++*softmax;
    }
}

static uint64_t row_bytes(int64_t heads, int64_t head_dim, enum rondo_dtype dtype)
{
    return (uint64_t)heads * (uint64_t)head_dim * rondo_dtype_size(dtype);
}

uint64_t rondo_cache_kv_bytes(const struct rondo_config *config,
                              const struct rondo_cache_sizes *sizes)
{
    int32_t linear, softmax;
    count_layers(config, &linear, &softmax);
    uint64_t page = rondo_kv_block_bytes(sizes->kv_dtype, RONDO_CHUNK, config->head_dim),
             draft = rondo_kv_block_bytes(sizes->kv_dtype, sizes->max_draft, config->head_dim);
    return (uint64_t)softmax * 2 * (uint64_t)config->num_key_value_heads *
           ((uint64_t)sizes->n_pages * page + (uint64_t)sizes->n_slots * draft);
}

uint64_t rondo_cache_state_bytes(const struct rondo_config *config,
                                 const struct rondo_cache_sizes *sizes)
{
    int32_t linear, softmax;
    count_layers(config, &linear, &softmax);
    uint64_t H = (uint64_t)config->num_attention_heads, hd = (uint64_t)config->head_dim;
    uint64_t state = H * hd * hd * sizeof(float) * (uint64_t)(sizes->n_slots + sizes->n_snapshots);
    uint64_t rows = (uint64_t)sizes->n_slots * (RONDO_CHUNK + (uint64_t)sizes->max_draft);
    uint64_t tails =
        2 * rows * row_bytes(config->num_attention_heads, config->head_dim, sizes->dtype);
    return (uint64_t)linear * (state + tails);
}

size_t rondo_cache_slot_state_bytes(const struct rondo_cache *cache)
{
    return (size_t)cache->heads * (size_t)cache->head_dim * (size_t)cache->head_dim * sizeof(float);
}

size_t rondo_cache_slot_tail_bytes(const struct rondo_cache *cache)
{
    return RONDO_CHUNK * row_bytes(cache->heads, cache->head_dim, cache->dtype);
}

size_t rondo_cache_page_bytes(const struct rondo_cache *cache)
{
    return (size_t)cache->kv_heads *
           rondo_kv_block_bytes(cache->kv_dtype, RONDO_CHUNK, cache->head_dim);
}

/* ---- making ----------------------------------------------------------------------------------- */

static int create_layers(struct rondo_cache *cache, const struct rondo_config *config)
{
    struct rondo_device *device = cache->device;
    size_t state =
        rondo_cache_slot_state_bytes(cache) * (size_t)(cache->n_slots + cache->n_snapshots);
    size_t tail = rondo_cache_slot_tail_bytes(cache) * (size_t)cache->n_slots;
    size_t drafts = (size_t)cache->n_slots * (size_t)cache->max_draft;
    size_t linear_draft = drafts * row_bytes(cache->heads, cache->head_dim, cache->dtype);
    size_t kv_draft = (size_t)cache->n_slots * (size_t)cache->kv_heads *
                      rondo_kv_block_bytes(cache->kv_dtype, cache->max_draft, cache->head_dim);
    size_t pages = rondo_cache_page_bytes(cache) * (size_t)cache->n_pages;

    for (int32_t l = 0; l < cache->n_layers; l++) {
        if (rondo_config_attention(config, l) == RONDO_ATTENTION_LINEAR) {
            struct rondo_linear_cache *linear = &cache->linear[l];
            linear->dtype = cache->dtype;
            linear->max_draft = cache->max_draft;
            linear->state = device->allocate(device, state);
            linear->tail_k = device->allocate(device, tail);
            linear->tail_v = device->allocate(device, tail);
            linear->draft_k = device->allocate(device, linear_draft);
            linear->draft_v = device->allocate(device, linear_draft);
            if (!linear->state || !linear->tail_k || !linear->tail_v || !linear->draft_k ||
                !linear->draft_v)
                return 1;
        } else {
            struct rondo_kv_cache *kv = &cache->kv[l];
            kv->dtype = cache->kv_dtype;
            kv->max_draft = cache->max_draft;
            kv->k = device->allocate(device, pages);
            kv->v = device->allocate(device, pages);
            kv->draft_k = device->allocate(device, kv_draft);
            kv->draft_v = device->allocate(device, kv_draft);
            if (!kv->k || !kv->v || !kv->draft_k || !kv->draft_v)
                return 1;
        }
    }
    return 0;
}

static int create_pools(struct rondo_cache *cache)
{
    cache->free_pages = calloc((size_t)cache->n_pages + 1, sizeof *cache->free_pages);
    cache->page_references = calloc((size_t)cache->n_pages + 1, sizeof *cache->page_references);
    cache->free_slots = calloc((size_t)cache->n_slots + 1, sizeof *cache->free_slots);
    cache->free_snapshots = calloc((size_t)cache->n_snapshots + 1, sizeof *cache->free_snapshots);
    if (!cache->free_pages || !cache->page_references || !cache->free_slots ||
        !cache->free_snapshots)
        return 1;
    /* The lowest number is taken first. */
    for (int32_t i = cache->n_pages; i > 0; i--)
        cache->free_pages[cache->n_free_pages++] = i - 1;
    for (int32_t i = cache->n_slots; i > 0; i--)
        cache->free_slots[cache->n_free_slots++] = i - 1;
    for (int32_t i = cache->n_snapshots; i > 0; i--)
        cache->free_snapshots[cache->n_free_snapshots++] = cache->n_slots + i - 1;
    return 0;
}

int rondo_cache_create(struct rondo_cache *cache, const struct rondo_config *config,
                       const struct rondo_cache_sizes *sizes, struct rondo_device *device,
                       struct rondo_error *error)
{
    *cache = (struct rondo_cache){
        .device = device,
        .n_layers = config->num_hidden_layers,
        .dtype = sizes->dtype,
        .kv_dtype = sizes->kv_dtype,
        .heads = config->num_attention_heads,
        .kv_heads = config->num_key_value_heads,
        .head_dim = config->head_dim,
        .max_draft = sizes->max_draft,
        .n_slots = sizes->n_slots,
        .n_snapshots = sizes->n_snapshots,
        .n_pages = sizes->n_pages,
    };
    count_layers(config, &cache->n_linear, &cache->n_softmax);
    cache->linear = calloc((size_t)cache->n_layers, sizeof *cache->linear);
    cache->kv = calloc((size_t)cache->n_layers, sizeof *cache->kv);
    if (!cache->linear || !cache->kv || create_pools(cache) || create_layers(cache, config)) {
        rondo_cache_destroy(cache);
        return rondo_fail(
            error, RONDO_FAILED,
            "no memory for the caches (want %.1f MB of KV pages and %.1f MB of states); "
            "try a smaller context or fewer sessions",
            (double)rondo_cache_kv_bytes(config, sizes) / 1e6,
            (double)rondo_cache_state_bytes(config, sizes) / 1e6);
    }
    return RONDO_OK;
}

static void release(struct rondo_device *device, void *memory)
{
    if (memory)
        device->release(device, memory);
}

void rondo_cache_destroy(struct rondo_cache *cache)
{
    struct rondo_device *device = cache->device;
    for (int32_t l = 0; cache->linear && l < cache->n_layers; l++) {
        release(device, cache->linear[l].state);
        release(device, cache->linear[l].tail_k);
        release(device, cache->linear[l].tail_v);
        release(device, cache->linear[l].draft_k);
        release(device, cache->linear[l].draft_v);
    }
    for (int32_t l = 0; cache->kv && l < cache->n_layers; l++) {
        release(device, cache->kv[l].k);
        release(device, cache->kv[l].v);
        release(device, cache->kv[l].draft_k);
        release(device, cache->kv[l].draft_v);
    }
    free(cache->linear);
    free(cache->kv);
    free(cache->free_pages);
    free(cache->page_references);
    free(cache->free_slots);
    free(cache->free_snapshots);
    *cache = (struct rondo_cache){0};
}

/* ---- taking and releasing --------------------------------------------------------------------- */

int32_t rondo_cache_take_page(struct rondo_cache *cache)
{
    if (!cache->n_free_pages)
        return -1;
    int32_t page = cache->free_pages[--cache->n_free_pages];
    cache->page_references[page] = 1;
    return page;
}

void rondo_cache_release_page(struct rondo_cache *cache, int32_t page)
{
    if (--cache->page_references[page] == 0)
        cache->free_pages[cache->n_free_pages++] = page;
}

int32_t rondo_cache_take_slot(struct rondo_cache *cache)
{
    return cache->n_free_slots ? cache->free_slots[--cache->n_free_slots] : -1;
}

void rondo_cache_release_slot(struct rondo_cache *cache, int32_t slot)
{
    cache->free_slots[cache->n_free_slots++] = slot;
}

int32_t rondo_cache_take_snapshot(struct rondo_cache *cache)
{
    return cache->n_free_snapshots ? cache->free_snapshots[--cache->n_free_snapshots] : -1;
}

void rondo_cache_release_snapshot(struct rondo_cache *cache, int32_t slot)
{
    cache->free_snapshots[cache->n_free_snapshots++] = slot;
}

/* ---- copying ---------------------------------------------------------------------------------- */

static void copy_block(struct rondo_cache *cache, void *base, size_t size, int32_t to, int32_t from)
{
    cache->device->copy(cache->device, (char *)base + (size_t)to * size,
                        (char *)base + (size_t)from * size, size);
}

void rondo_cache_copy_page(struct rondo_cache *cache, int32_t to, int32_t from)
{
    size_t size = rondo_cache_page_bytes(cache);
    for (int32_t l = 0; l < cache->n_layers; l++) {
        if (cache->kv[l].k) {
            copy_block(cache, cache->kv[l].k, size, to, from);
            copy_block(cache, cache->kv[l].v, size, to, from);
        }
    }
}

void rondo_cache_copy_state(struct rondo_cache *cache, int32_t to, int32_t from)
{
    size_t size = rondo_cache_slot_state_bytes(cache);
    for (int32_t l = 0; l < cache->n_layers; l++) {
        if (cache->linear[l].state)
            copy_block(cache, cache->linear[l].state, size, to, from);
    }
}

void rondo_cache_copy_tail(struct rondo_cache *cache, int32_t to, int32_t from)
{
    size_t size = rondo_cache_slot_tail_bytes(cache);
    for (int32_t l = 0; l < cache->n_layers; l++) {
        if (cache->linear[l].state) {
            copy_block(cache, cache->linear[l].tail_k, size, to, from);
            copy_block(cache, cache->linear[l].tail_v, size, to, from);
        }
    }
}
