/* Opening a checkpoint directory as a model. */
#include "formats/checkpoint.h"

#include "core/dtype.h"
#include "core/error.h"
#include "core/weights.h"
#include "formats/file.h"
#include "formats/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- index ------------------------------------------------------------------------------------ */

static int by_string(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* A plain file name: an index must not lead out of its directory. */
static bool is_shard_name(const char *name)
{
    size_t length = strlen(name), suffix = strlen(".safetensors");
    return length > suffix && length < 256 && name[0] != '.' && !strchr(name, '/') &&
           strcmp(name + length - suffix, ".safetensors") == 0;
}

static void free_names(char **names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

/* Sorted pointers to all shard names of the map, duplicates included. */
static char **list_shards(const cJSON *map, const char *path, size_t *count,
                          struct rondo_error *error)
{
    size_t n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, map) n++;
    char **list = calloc(n + 1, sizeof *list);
    if (!list) {
        rondo_fail(error, RONDO_FAILED, "%s: out of memory for %zu tensors", path, n);
        return NULL;
    }
    n = 0;
    cJSON_ArrayForEach(item, map)
    {
        if (!cJSON_IsString(item) || !is_shard_name(item->valuestring)) {
            rondo_fail(error, RONDO_FAILED,
                       "%s: weight_map: %.200s: not the name of a shard (got %.100s, want "
                       "NAME.safetensors in "
                       "the same directory)",
                       path, item->string,
                       cJSON_IsString(item) ? item->valuestring : rondo_json_kind(item));
            free(list);
            return NULL;
        }
        list[n++] = item->valuestring;
    }
    qsort(list, n, sizeof *list, by_string);
    *count = n;
    return list;
}

int rondo_index_shards(const cJSON *root, const char *path, char ***names, size_t *n_names,
                       struct rondo_error *error)
{
    struct rondo_json_reader reader = rondo_json_reader(root, path, error);
    const cJSON *map = rondo_json_object(&reader, "weight_map");
    size_t count = 0, distinct = 0;
    if (!map || !map->child)
        return rondo_json_fail(&reader, "weight_map",
                               "names no tensor (want an object of names and shards)");
    char **list = list_shards(map, path, &count, error);
    if (!list)
        return RONDO_FAILED;
    for (size_t i = 0; i < count; i++)
        if (i == 0 || strcmp(list[i], list[distinct - 1]) != 0)
            list[distinct++] = list[i];
    int status = RONDO_OK;
    if (distinct > RONDO_MAX_SHARDS)
        status = rondo_fail(error, RONDO_FAILED,
                            "%s: weight_map: too many shards (got %zu, want at most %d)", path,
                            distinct, RONDO_MAX_SHARDS);
    char **copies = calloc(distinct + 1, sizeof *copies);
    for (size_t i = 0; i < distinct && copies && !status; i++) {
        copies[i] = strdup(list[i]);
        if (!copies[i]) {
            free_names(copies, i);
            copies = NULL;
        }
    }
    free(list);
    if (!copies)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory for %zu shards", path, distinct);
    if (status) {
        free_names(copies, 0);
        return status;
    }
    *names = copies;
    *n_names = distinct;
    return RONDO_OK;
}

/* ---- files ------------------------------------------------------------------------------------ */

void rondo_checkpoint_close_files(struct rondo_checkpoint_files *files)
{
    for (size_t i = 0; i < files->n_shards; i++)
        rondo_safetensors_close(&files->shards[i]);
    free(files->shards);
    if (files->names)
        free_names(files->names, files->n_shards);
    *files = (struct rondo_checkpoint_files){0};
}

/* Opens every shard of files->names. */
static int open_shards(const char *directory, struct rondo_checkpoint_files *files,
                       struct rondo_error *error)
{
    files->shards = calloc(files->n_shards, sizeof *files->shards);
    if (!files->shards)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory for %zu shards", directory,
                          files->n_shards);
    for (size_t i = 0; i < files->n_shards; i++) {
        char *path = rondo_path_join(directory, files->names[i], error);
        if (!path)
            return RONDO_FAILED;
        int status;
        if (access(path, F_OK) != 0)
            status =
                rondo_fail(error, RONDO_FAILED,
                           "%s: the shard is missing; " RONDO_INDEX_FILE " names it (%zu of %zu)",
                           path, i + 1, files->n_shards);
        else
            status = rondo_safetensors_open(&files->shards[i], path, error);
        free(path);
        if (status)
            return status;
    }
    return RONDO_OK;
}

static struct rondo_file_tensor as_file_tensor(const struct rondo_safetensors_tensor *tensor,
                                               const char *file)
{
    struct rondo_file_tensor result = {.data = tensor->data};
    result.info = (struct rondo_tensor_info){.name = tensor->name,
                                             .dtype = tensor->dtype,
                                             .n_dims = tensor->n_dims,
                                             .size = tensor->size,
                                             .file = file};
    memcpy(result.info.shape, tensor->shape, sizeof tensor->shape);
    memcpy(result.dtype_name, tensor->dtype_name, sizeof result.dtype_name);
    return result;
}

static int by_tensor_name(const void *a, const void *b)
{
    return strcmp(((const struct rondo_file_tensor *)a)->info.name,
                  ((const struct rondo_file_tensor *)b)->info.name);
}

/* The tensors of the index, each from the shard it names. */
static int collect_indexed(const cJSON *map, const char *path, struct rondo_checkpoint_files *files,
                           struct rondo_file_tensor *tensors, size_t *n_tensors,
                           struct rondo_error *error)
{
    const cJSON *item;
    *n_tensors = 0;
    cJSON_ArrayForEach(item, map)
    {
        const char *key = item->valuestring;
        char **name = bsearch(&key, files->names, files->n_shards, sizeof *files->names, by_string);
        const struct rondo_safetensors *shard = &files->shards[name - files->names];
        const struct rondo_safetensors_tensor *tensor = rondo_safetensors_find(shard, item->string);
        if (!tensor)
            return rondo_fail(error, RONDO_FAILED,
                              "%s: weight_map: %.200s: %s does not hold this tensor", path,
                              item->string, shard->path);
        tensors[(*n_tensors)++] = as_file_tensor(tensor, shard->path);
    }
    qsort(tensors, *n_tensors, sizeof *tensors, by_tensor_name);
    return RONDO_OK;
}

static size_t count_items(const cJSON *object)
{
    size_t n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, object) n++;
    return n;
}

static int open_indexed(const char *directory, const char *path,
                        struct rondo_checkpoint_files *files, struct rondo_file_tensor **tensors,
                        size_t *n_tensors, struct rondo_error *error)
{
    cJSON *root = rondo_json_read(path, RONDO_JSON_LIMIT, error);
    if (!root)
        return RONDO_FAILED;
    files->indexed = true;
    int status = rondo_index_shards(root, path, &files->names, &files->n_shards, error);
    if (!status)
        status = open_shards(directory, files, error);
    if (!status) {
        const cJSON *map = cJSON_GetObjectItemCaseSensitive(root, "weight_map");
        size_t capacity = count_items(map), held = 0;
        *tensors = calloc(capacity, sizeof **tensors);
        status = *tensors ? collect_indexed(map, path, files, *tensors, n_tensors, error)
                          : rondo_fail(error, RONDO_FAILED, "%s: out of memory for %zu tensors",
                                       path, capacity);
        for (size_t i = 0; i < files->n_shards; i++)
            held += files->shards[i].n_tensors;
        if (!status && held > *n_tensors)
            rondo_log(RONDO_LOG_INFO,
                      "%s: %zu tensors of the shards are not in the index and are not used", path,
                      held - *n_tensors);
    }
    cJSON_Delete(root);
    return status;
}

static int open_single(const char *directory, struct rondo_checkpoint_files *files,
                       struct rondo_file_tensor **tensors, size_t *n_tensors,
                       struct rondo_error *error)
{
    files->names = calloc(1, sizeof *files->names);
    if (!files->names || !(files->names[0] = strdup(RONDO_SINGLE_FILE)))
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory", directory);
    files->n_shards = 1;
    int status = open_shards(directory, files, error);
    if (status)
        return status;
    const struct rondo_safetensors *shard = &files->shards[0];
    *tensors = calloc(shard->n_tensors + 1, sizeof **tensors);
    if (!*tensors)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory for %zu tensors", shard->path,
                          shard->n_tensors);
    for (size_t i = 0; i < shard->n_tensors; i++)
        (*tensors)[i] = as_file_tensor(&shard->tensors[i], shard->path);
    *n_tensors = shard->n_tensors;
    return RONDO_OK;
}

int rondo_checkpoint_open_files(const char *directory, struct rondo_checkpoint_files *files,
                                struct rondo_file_tensor **tensors, size_t *n_tensors,
                                struct rondo_error *error)
{
    *files = (struct rondo_checkpoint_files){0};
    *tensors = NULL;
    *n_tensors = 0;
    int status = RONDO_FAILED;
    char *single = rondo_path_join(directory, RONDO_SINGLE_FILE, error);
    char *index = single ? rondo_path_join(directory, RONDO_INDEX_FILE, error) : NULL;
    if (index) {
        if (access(single, F_OK) == 0)
            status = open_single(directory, files, tensors, n_tensors, error);
        else if (access(index, F_OK) == 0)
            status = open_indexed(directory, index, files, tensors, n_tensors, error);
        else
            rondo_fail(error, RONDO_FAILED,
                       "%s: no weights: neither " RONDO_SINGLE_FILE " nor " RONDO_INDEX_FILE
                       " is there",
                       directory);
    }
    free(single);
    free(index);
    if (status) {
        free(*tensors);
        *tensors = NULL;
        *n_tensors = 0;
        rondo_checkpoint_close_files(files);
    }
    return status;
}

/* ---- fingerprint ------------------------------------------------------------------------------ */

static uint64_t hash_bytes(uint64_t hash, const void *bytes, size_t size)
{
    const unsigned char *at = bytes;
    for (size_t i = 0; i < size; i++) /* FNV-1a */
        hash = (hash ^ at[i]) * UINT64_C(0x100000001b3);
    return hash;
}

uint64_t rondo_model_fingerprint(const struct rondo_model *model)
{
    const struct rondo_config *c = &model->config;
    char text[768];
    int n = snprintf(
        text, sizeof text,
        "%s %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %d %.17g %.17g %.17g %d %d %d "
        "%d %d %d %d %d %d %.17g %.17g %.17g %.17g %d",
        c->architecture, c->vocab_size, c->hidden_size, c->num_hidden_layers,
        c->num_attention_heads, c->num_key_value_heads, c->head_dim, c->intermediate_size,
        c->moe_intermediate_size, c->shared_intermediate_size, c->num_experts,
        c->num_experts_per_tok, c->num_shared_experts, c->n_group, c->topk_group,
        c->first_k_dense_replace, c->layer_group_size, c->group_norm_size, c->rotary_dim,
        c->decay_offset, c->tie_word_embeddings, c->rope_theta, c->rms_norm_eps,
        c->routed_scaling_factor, (int)c->score_function, c->norm_topk_prob, c->use_expert_bias,
        c->use_qk_norm, c->linear_silu, c->use_qkv_bias, c->use_bias, c->yarn.enabled,
        c->yarn.original_max_position_embeddings, c->yarn.factor, c->yarn.beta_fast,
        c->yarn.beta_slow, c->yarn.attention_factor, 1);
    uint64_t hash = hash_bytes(UINT64_C(0xcbf29ce484222325), text, (size_t)n);
    for (size_t i = 0; i < model->n_tensors; i++) {
        const struct rondo_file_tensor *tensor = &model->tensors[i];
        const struct rondo_tensor_info *info = &tensor->info;
        hash = hash_bytes(hash, info->name, strlen(info->name) + 1);
        n = snprintf(text, sizeof text, "%d %d %lld %lld %lld %lld", (int)info->dtype, info->n_dims,
                     (long long)info->shape[0], (long long)info->shape[1],
                     (long long)info->shape[2], (long long)info->shape[3]);
        hash = hash_bytes(hash, text, (size_t)n);
        if (!strstr(info->name, ".experts."))
            hash = hash_bytes(hash, tensor->data, info->size < 64 ? (size_t)info->size : 64);
    }
    return hash;
}

/* ---- model ------------------------------------------------------------------------------------ */

struct mappings {
    struct rondo_checkpoint_files files;
    void **copies; /* [n_copies] of tensors that a file has at odd addresses */
    size_t n_copies;
};

static void release(struct rondo_model *model)
{
    struct mappings *mappings = model->mappings;
    if (mappings) {
        rondo_checkpoint_close_files(&mappings->files);
        for (size_t i = 0; i < mappings->n_copies; i++)
            free(mappings->copies[i]);
        free(mappings->copies);
        free(mappings);
    }
    free(model->tensors);
    free(model->directory);
    free(model);
}

/* Kernels read elements at their natural alignment. The format's own writer keeps it; for tensors of writers
 * that do not, the model gets copies. */
static int align_tensors(struct rondo_model *model, struct rondo_error *error)
{
    struct mappings *mappings = model->mappings;
    uint64_t bytes = 0;
    for (size_t i = 0; i < model->n_tensors; i++) {
        struct rondo_file_tensor *tensor = &model->tensors[i];
        size_t element = rondo_dtype_size(tensor->info.dtype);
        if (element < 2 || (uintptr_t)tensor->data % element == 0)
            continue;
        if (!mappings->copies)
            mappings->copies = calloc(model->n_tensors, sizeof *mappings->copies);
        void *copy = mappings->copies ? malloc(tensor->info.size + 1) : NULL;
        if (!copy)
            return rondo_fail(error, RONDO_FAILED,
                              "%s: %s: out of memory to copy an unaligned tensor (%llu bytes)",
                              tensor->info.file, tensor->info.name,
                              (unsigned long long)tensor->info.size);
        mappings->copies[mappings->n_copies++] = copy;
        memcpy(copy, tensor->data, tensor->info.size);
        tensor->data = copy;
        bytes += tensor->info.size;
    }
    if (mappings->n_copies)
        rondo_log(
            RONDO_LOG_WARNING,
            "%s: %zu tensors lie at unaligned offsets and were copied into memory (%llu bytes)",
            model->directory, mappings->n_copies, (unsigned long long)bytes);
    return RONDO_OK;
}

struct rondo_model *rondo_model_open(const char *directory,
                                     const struct rondo_model_options *options,
                                     struct rondo_error *error)
{
    struct rondo_model *model = calloc(1, sizeof *model);
    if (!model) {
        rondo_fail(error, RONDO_FAILED, "%s: out of memory", directory);
        return NULL;
    }
    model->release = release;
    model->block_rows = model->block_columns = RONDO_BLOCK;
    model->directory = strdup(directory);
    struct mappings *mappings = model->mappings = calloc(1, sizeof *mappings);
    int status = model->directory && mappings
                     ? rondo_config_read(directory, options, &model->config, NULL, error)
                     : rondo_fail(error, RONDO_FAILED, "%s: out of memory", directory);
    if (!status)
        status = rondo_checkpoint_open_files(directory, &mappings->files, &model->tensors,
                                             &model->n_tensors, error);
    if (!status)
        status = rondo_weights_check(model, error);
    if (!status)
        status = align_tensors(model, error);
    if (status) {
        release(model);
        return NULL;
    }
    model->hash = rondo_model_fingerprint(model);
    return model;
}

typedef int lock_function(const struct rondo_mapping *mapping, size_t offset, size_t size,
                          const char *path, struct rondo_error *error);

/* Locks a file piece by piece, in one of two ways. */
static int lock_file(const struct rondo_safetensors *file, lock_function *lock, const char *what,
                     uint64_t *done, uint64_t total, rondo_progress_function *progress, void *user,
                     struct rondo_error *error)
{
    const size_t piece = (size_t)64 << 20;
    for (size_t at = 0; at < file->mapping.size; at += piece) {
        size_t size = file->mapping.size - at < piece ? file->mapping.size - at : piece;
        if (progress && progress(user, what, *done, total))
            return rondo_fail(error, RONDO_FAILED, "%s: interrupted", file->path);
        int status = lock(&file->mapping, at, size, file->path, error);
        if (status)
            return status;
        *done += size;
    }
    return RONDO_OK;
}

int rondo_model_lock(struct rondo_model *model, rondo_progress_function *progress, void *user,
                     struct rondo_error *error)
{
    const struct rondo_checkpoint_files *files = &((struct mappings *)model->mappings)->files;
    uint64_t done = 0, total = 0;
    int status = RONDO_OK;
    for (size_t i = 0; i < files->n_shards; i++)
        total += files->shards[i].mapping.size;
    for (size_t i = 0; i < files->n_shards && !status; i++)
        status = lock_file(&files->shards[i], rondo_mapping_lock, "reading weights", &done, total,
                           progress, user, error);
    done = 0;
    for (size_t i = 0; i < files->n_shards && !status; i++)
        if (rondo_mapping_is_small(&files->shards[i].mapping))
            status =
                lock_file(&files->shards[i], rondo_mapping_enlarge, "copying weights to huge pages",
                          &done, total, progress, user, error);
        else
            done += files->shards[i].mapping.size;
    for (size_t i = 0; i < files->n_shards && status; i++)
        rondo_mapping_unlock(&files->shards[i].mapping);
    return status;
}

void rondo_model_close(struct rondo_model *model)
{
    if (model)
        model->release(model);
}

const struct rondo_config *rondo_model_config(const struct rondo_model *model)
{
    return &model->config;
}

const char *rondo_model_directory(const struct rondo_model *model)
{
    return model->directory;
}

uint64_t rondo_model_hash(const struct rondo_model *model)
{
    return model->hash;
}

size_t rondo_model_tensor_count(const struct rondo_model *model)
{
    return model->n_tensors;
}

void rondo_model_tensor(const struct rondo_model *model, size_t index,
                        struct rondo_tensor_info *info)
{
    *info = model->tensors[index].info;
}
