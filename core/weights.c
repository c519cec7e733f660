/* Weights: the check of a model's tensors against its config, and their place in a device's memory. */
#include "core/weights.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/weight_list.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- lookup ----------------------------------------------------------------------------------- */

static const struct rondo_file_tensor *find_exact(const struct rondo_model *model, const char *name)
{
    size_t low = 0, high = model->n_tensors;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = strcmp(name, model->tensors[middle].info.name);
        if (order == 0)
            return &model->tensors[middle];
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return NULL;
}

const struct rondo_file_tensor *rondo_model_find(const struct rondo_model *model, const char *name)
{
    const struct rondo_file_tensor *found = find_exact(model, name);
    const char *part = strstr(name, ".attention.");
    if (found || !part)
        return found;
    char alias[160];
    snprintf(alias, sizeof alias, "%.*s.self_attn.%s", (int)(part - name), name,
             part + strlen(".attention."));
    return find_exact(model, alias);
}

uint64_t rondo_model_bytes(const struct rondo_model *model)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < model->n_tensors; i++)
        bytes += model->tensors[i].info.size;
    return bytes;
}

/* ---- one weight ------------------------------------------------------------------------------- */

/* A weight of a file with its scale tensor; `scale` is NULL for what is not quantised. */
struct source {
    const struct rondo_file_tensor *data, *scale;
    bool per_row;
};

static bool is_floating(enum rondo_dtype dtype)
{
    return dtype == RONDO_F32 || dtype == RONDO_BF16 || dtype == RONDO_F16;
}

static bool has_shape(const struct rondo_tensor_info *info, int64_t rows, int64_t columns,
                      bool vector)
{
    int64_t count = 1;
    for (int i = 0; i < info->n_dims; i++)
        count *= info->shape[i];
    if (count != rows * columns)
        return false;
    if (vector)
        return true;
    return info->n_dims == 2 && info->shape[0] == rows;
}

static void print_shape(const struct rondo_tensor_info *info, char *text, size_t size)
{
    size_t at = 0;
    at += (size_t)snprintf(text, size, "[");
    for (int i = 0; i < info->n_dims && at < size; i++)
        at += (size_t)snprintf(text + at, size - at, i ? ", %lld" : "%lld",
                               (long long)info->shape[i]);
    if (at < size)
        snprintf(text + at, size - at, "]");
}

static int fail_shape(const struct rondo_tensor_info *info, int64_t rows, int64_t columns,
                      struct rondo_error *error)
{
    char got[96];
    print_shape(info, got, sizeof got);
    return rondo_fail(error, RONDO_FAILED,
                      "%s: %s: shape does not fit config.json (got %s, want [%lld, %lld])",
                      info->file, info->name, got, (long long)rows, (long long)columns);
}

static const char *dtype_of(const struct rondo_file_tensor *tensor)
{
    return tensor->dtype_name[0] ? tensor->dtype_name : rondo_dtype_name(tensor->info.dtype);
}

/* Finds the scales of an FP8 weight: NAME_scale_inv of blocks, or NAME_scale of rows. */
static int find_scale(const struct rondo_model *model, const struct rondo_weight_entry *entry,
                      struct source *source, struct rondo_error *error)
{
    const struct rondo_tensor_info *info = &source->data->info;
    char name[160];
    snprintf(name, sizeof name, "%s_scale_inv", info->name);
    source->scale = find_exact(model, name);
    int64_t rows = (entry->rows + RONDO_BLOCK - 1) / RONDO_BLOCK;
    int64_t columns = (entry->columns + RONDO_BLOCK - 1) / RONDO_BLOCK;
    if (!source->scale) {
        snprintf(name, sizeof name, "%s_scale", info->name);
        source->scale = find_exact(model, name);
        source->per_row = true;
        rows = entry->rows;
        columns = 1;
    }
    if (!source->scale)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: %s: FP8 tensor without scales (want %s_scale_inv of 128x128 blocks "
                          "or %s_scale of rows)",
                          info->file, info->name, info->name, info->name);
    if (!is_floating(source->scale->info.dtype))
        return rondo_fail(
            error, RONDO_FAILED,
            "%s: %s: dtype is not supported for scales (got %s, want f32, bf16 or f16)",
            source->scale->info.file, name, dtype_of(source->scale));
    if (!has_shape(&source->scale->info, rows, columns, source->per_row))
        return fail_shape(&source->scale->info, rows, columns, error);
    return RONDO_OK;
}

/* source->data is NULL when the model has no such tensor. */
static int find_source(const struct rondo_model *model, const struct rondo_weight_entry *entry,
                       struct source *source, struct rondo_error *error)
{
    *source = (struct source){.data = rondo_model_find(model, entry->name)};
    if (!source->data)
        return RONDO_OK;
    const struct rondo_tensor_info *info = &source->data->info;
    bool vector = rondo_weight_is_vector(entry->kind);
    if (!has_shape(info, entry->rows, entry->columns, vector))
        return fail_shape(info, entry->rows, entry->columns, error);
    if (info->dtype == RONDO_F8_E4M3 && !vector)
        return find_scale(model, entry, source, error);
    if (!is_floating(info->dtype))
        return rondo_fail(error, RONDO_FAILED,
                          "%s: %s: dtype is not supported here (got %s, want f32, bf16%s)",
                          info->file, info->name, dtype_of(source->data),
                          vector ? " or f16" : ", f16 or f8_e4m3");
    return RONDO_OK;
}

/* ---- check ------------------------------------------------------------------------------------ */

struct check {
    const struct rondo_model *model;
    struct rondo_error *error;
    bool *used; /* [n_tensors] */
    char missing[768];
    size_t n_missing, n_named, length; /* n_named of them stand in `missing` */
};

static int check_one(void *user, const struct rondo_weight_entry *entry, void *target)
{
    struct check *check = user;
    struct source source;
    int status = find_source(check->model, entry, &source, check->error);
    if (status)
        return status;
    if (!source.data) {
        rondo_log(RONDO_LOG_INFO, "%s: %s is missing", check->model->directory, entry->name);
        if (check->length + strlen(entry->name) + 3 < sizeof check->missing) {
            check->length += (size_t)snprintf(check->missing + check->length,
                                              sizeof check->missing - check->length, "%s%s",
                                              check->n_named ? ", " : "", entry->name);
            check->n_named++;
        }
        check->n_missing++;
        return RONDO_OK;
    }
    check->used[source.data - check->model->tensors] = true;
    if (source.scale)
        check->used[source.scale - check->model->tensors] = true;
    return RONDO_OK;
}

/* Names that published checkpoints carry and nothing needs (spec 2.1). */
static bool is_known_extra(const char *name)
{
    return strstr(name, "slope") || strstr(name, "inv_freq") || strstr(name, "v_head") ||
           strncmp(name, "model.mtp", 9) == 0;
}

static void log_extras(const struct rondo_model *model, const bool *used)
{
    char names[512] = "";
    size_t count = 0, n_named = 0, length = 0;
    for (size_t i = 0; i < model->n_tensors; i++) {
        const char *name = model->tensors[i].info.name;
        if (used[i] || is_known_extra(name))
            continue;
        rondo_log(RONDO_LOG_INFO, "%s: %s is not used", model->directory, name);
        if (length + strlen(name) + 3 < sizeof names) {
            length += (size_t)snprintf(names + length, sizeof names - length, "%s%s",
                                       n_named ? ", " : "", name);
            n_named++;
        }
        count++;
    }
    if (count)
        rondo_log(RONDO_LOG_WARNING, "%s: %zu tensor%s not used: %s%s", model->directory, count,
                  count == 1 ? " is" : "s are", names, n_named < count ? " ..." : "");
}

/* A line has room for some names only; messages about information have had them all. */
static int fail_missing(const struct check *check)
{
    char more[64] = "";
    if (check->n_named < check->n_missing)
        snprintf(more, sizeof more, " and %zu more; --verbose lists them",
                 check->n_missing - check->n_named);
    return rondo_fail(check->error, RONDO_FAILED, "%s: %zu tensor%s missing: %s%s",
                      check->model->directory, check->n_missing,
                      check->n_missing == 1 ? " is" : "s are", check->missing, more);
}

int rondo_weights_check(const struct rondo_model *model, struct rondo_error *error)
{
    struct check *check = calloc(1, sizeof *check);
    bool *used = calloc(model->n_tensors ? model->n_tensors : 1, 1);
    int status = RONDO_OK;
    if (!check || !used) {
        status = rondo_fail(error, RONDO_FAILED, "%s: out of memory for %zu tensors",
                            model->directory, model->n_tensors);
    } else {
        check->model = model;
        check->error = error;
        check->used = used;
        status = rondo_weight_walk(&model->config, NULL, check_one, check);
        if (!status && check->n_missing)
            status = fail_missing(check);
        if (!status)
            log_extras(model, used);
    }
    free(check);
    free(used);
    return status;
}

struct mark {
    const struct rondo_model *model;
    bool *used;
    struct rondo_error *error;
};

static int mark_one(void *user, const struct rondo_weight_entry *entry, void *target)
{
    struct mark *mark = user;
    struct source source;
    int status = find_source(mark->model, entry, &source, mark->error);
    if (!status && source.data)
        mark->used[source.data - mark->model->tensors] = true;
    if (!status && source.scale)
        mark->used[source.scale - mark->model->tensors] = true;
    return status;
}

int rondo_weights_mark(const struct rondo_model *model, bool *used, struct rondo_error *error)
{
    struct mark mark = {model, used, error};
    return rondo_weight_walk(&model->config, NULL, mark_one, &mark);
}

/* ---- load ------------------------------------------------------------------------------------- */

struct load {
    const struct rondo_model *model;
    struct rondo_weights *weights; /* NULL: only add up */
    bool in_place;
    uint64_t device_bytes, total_bytes; /* so far; of all */
    const struct rondo_load_progress *progress;
    struct rondo_error *error;
};

static size_t round_up(size_t size)
{
    return (size + 255) & ~(size_t)255;
}

/* Device memory of a copy, remembered for unload; NULL and an error when there is none. */
static void *take(struct load *load, size_t size, const char *name)
{
    struct rondo_weights *weights = load->weights;
    void **buffers = realloc(weights->buffers, (weights->n_buffers + 1) * sizeof *buffers);
    if (buffers)
        weights->buffers = buffers;
    void *memory = buffers ? weights->device->allocate(weights->device, size) : NULL;
    if (!memory) {
        struct rondo_device *device = weights->device;
        if (!rondo_device_status(device, load->error))
            rondo_fail(load->error, RONDO_FAILED,
                       "%s: no memory left for %s on %s (want %zu bytes, got %llu)",
                       load->model->directory, name, device->description, size,
                       (unsigned long long)device->memory_available(device));
        return NULL;
    }
    weights->buffers[weights->n_buffers++] = memory;
    weights->owned_bytes += round_up(size);
    return memory;
}

/* How many experts from this one on, the shared one behind them where it is as wide, have a weight of its part that is
 * stored like it: a run. 1 for what is not of an expert. */
static int32_t run_length(const struct load *load, const struct rondo_weight_entry *entry,
                          const struct source *source)
{
    const struct rondo_config *config = &load->model->config;
    const char *place = strstr(entry->name, ".experts.");
    if (!place) /* the shared expert's neither: none comes behind it */
        return 1;
    const char *rest = place + strlen(".experts.");
    rest += strcspn(rest, ".");
    struct rondo_weight_entry next = *entry;
    int32_t last =
        config->num_experts - (config->shared_intermediate_size != config->moe_intermediate_size);
    while (++next.expert <= last) {
        struct source other;
        struct rondo_error unlike; /* none: all were checked */
        char expert[32] = ".shared_experts";
        if (next.expert < config->num_experts)
            snprintf(expert, sizeof expert, ".experts.%d", next.expert);
        snprintf(next.name, sizeof next.name, "%.*s%s%s", (int)(place - entry->name), entry->name,
                 expert, rest);
        if (find_source(load->model, &next, &other, &unlike) || !other.data ||
            other.data->info.dtype != source->data->info.dtype || !other.scale != !source->scale ||
            other.per_row != source->per_row)
            break;
    }
    return next.expert - entry->expert;
}

/* Memory of one of a weight's arrays. The arrays of a run of experts are evenly spaced: the first takes memory for
 * all `run` of them; `before` is where the array of the one before stands, for the others. */
static void *take_array(struct load *load, const void *before, int32_t run, size_t size,
                        const char *name)
{
    return before ? (char *)before + round_up(size)
                  : take(load, (size_t)run * round_up(size), name);
}

/* A tensor as f32 for the device: in place where that is possible, else a copy. `before` and `run` are as above. */
static const float *load_f32(struct load *load, const struct rondo_file_tensor *tensor,
                             int64_t count, const float *before, int32_t run)
{
    if (load->in_place && tensor->info.dtype == RONDO_F32 &&
        (uintptr_t)tensor->data % sizeof(float) == 0)
        return tensor->data;
    if (load->weights && !load->weights->device)
        return tensor->data; /* a view: never read as numbers */
    load->device_bytes += round_up((size_t)count * sizeof(float));
    if (!load->weights)
        return NULL;
    float *values = malloc((size_t)count * sizeof(float));
    if (!values) {
        rondo_fail(load->error, RONDO_FAILED, "%s: out of memory for %s", load->model->directory,
                   tensor->info.name);
        return NULL;
    }
    void *memory = take_array(load, before, run, (size_t)count * sizeof(float), tensor->info.name);
    if (memory) {
        size_t size = rondo_dtype_size(tensor->info.dtype);
        for (int64_t i = 0; i < count; i++) {
            uint32_t element = 0; /* file data may stand at odd addresses */
            memcpy(&element, (const char *)tensor->data + (size_t)i * size, size);
            values[i] = rondo_load(&element, tensor->info.dtype, 0);
        }
        load->weights->device->write(load->weights->device, memory, values,
                                     (size_t)count * sizeof(float));
    }
    free(values);
    return memory;
}

static void set_scales(struct rondo_tensor *tensor, const struct source *source)
{
    int64_t columns = tensor->shape[1];
    if (!source->scale)
        return;
    tensor->scale_rows = source->per_row ? 1 : RONDO_BLOCK;
    tensor->scale_columns = source->per_row ? (int32_t)columns : RONDO_BLOCK;
    tensor->scale_stride = source->per_row ? 1 : (columns + RONDO_BLOCK - 1) / RONDO_BLOCK;
}

static int load_matrix(struct load *load, const struct rondo_weight_entry *entry,
                       const struct source *source, struct rondo_tensor *target)
{
    const struct rondo_tensor_info *info = &source->data->info;
    struct rondo_tensor tensor = rondo_tensor_2d((void *)source->data->data, info->dtype,
                                                 entry->rows, entry->columns, info->name);
    set_scales(&tensor, source);
    /* The expert before, of the same part, when this one goes on with its run. */
    const struct rondo_tensor *before = NULL;
    if (!load->in_place && target && entry->expert > 0 &&
        rondo_tensor_stored_alike(target - 1, &tensor))
        before = target - 1;
    int32_t run = load->weights && !load->in_place && !before ? run_length(load, entry, source) : 1;
    if (!load->in_place) {
        load->device_bytes += round_up(info->size);
        if (load->weights) {
            tensor.data =
                take_array(load, before ? before->data : NULL, run, info->size, info->name);
            if (!tensor.data)
                return RONDO_FAILED;
            rondo_device_write_weight(load->weights->device, info->dtype, tensor.data,
                                      source->data->data, info->size);
        }
    }
    if (source->scale) {
        int64_t n_scales =
            (entry->rows + tensor.scale_rows - 1) / tensor.scale_rows * tensor.scale_stride;
        tensor.scale = load_f32(load, source->scale, n_scales, before ? before->scale : NULL, run);
        if (load->weights && !tensor.scale)
            return RONDO_FAILED;
    }
    if (target)
        *target = tensor;
    if (load->weights)
        load->weights->bytes += rondo_tensor_bytes(&tensor);
    return RONDO_OK;
}

static int load_one(void *user, const struct rondo_weight_entry *entry, void *target)
{
    struct load *load = user;
    struct source source;
    int status = find_source(load->model, entry, &source, load->error);
    if (status)
        return status;
    if (!source.data)
        return rondo_fail(load->error, RONDO_FAILED, "%s: tensor %s is missing",
                          load->model->directory, entry->name);
    if (load->progress && load->progress->function &&
        load->progress->function(load->progress->user, "loading weights", load->device_bytes,
                                 load->total_bytes))
        return rondo_fail(load->error, RONDO_FAILED, "%s: interrupted", load->model->directory);
    if (!rondo_weight_is_vector(entry->kind))
        return load_matrix(load, entry, &source, target);
    const float *values = load_f32(load, source.data, entry->columns, NULL, 1);
    if (!load->weights)
        return RONDO_OK;
    *(const float **)target = values;
    load->weights->bytes += (uint64_t)entry->columns * sizeof(float);
    return values ? RONDO_OK : RONDO_FAILED;
}

uint64_t rondo_weights_device_bytes(const struct rondo_model *model, bool in_place)
{
    struct load load = {.model = model, .in_place = in_place};
    rondo_weight_walk(&model->config, NULL, load_one, &load);
    return load.device_bytes;
}

int rondo_weights_load(struct rondo_weights *weights, const struct rondo_model *model,
                       struct rondo_device *device, const struct rondo_load_progress *progress,
                       struct rondo_error *error)
{
    const struct rondo_config *config = &model->config;
    size_t L = (size_t)config->num_hidden_layers, E = (size_t)config->num_experts;
    *weights = (struct rondo_weights){.device = device, .n_layers = config->num_hidden_layers};
    weights->layers = calloc(L, sizeof *weights->layers);
    weights->expert_tensors = calloc(L * 3 * (E + 1), sizeof *weights->expert_tensors);
    if (!weights->layers || !weights->expert_tensors) {
        rondo_weights_unload(weights);
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory for the weight table",
                          model->directory);
    }
    for (size_t l = 0; l < L; l++) {
        weights->layers[l].expert_gate = weights->expert_tensors + (l * 3 + 0) * (E + 1);
        weights->layers[l].expert_up = weights->expert_tensors + (l * 3 + 1) * (E + 1);
        weights->layers[l].expert_down = weights->expert_tensors + (l * 3 + 2) * (E + 1);
    }
    struct load load = {.model = model, .weights = weights, .error = error};
    load.in_place = !device || (device->uses_host_memory && device->uses_host_memory(device));
    if (!load.in_place) {
        load.progress = progress;
        load.total_bytes = rondo_weights_device_bytes(model, false);
    }
    int status = rondo_weight_walk(config, weights, load_one, &load);
    if (status) {
        rondo_weights_unload(weights);
        return status;
    }
    if (config->tie_word_embeddings)
        weights->lm_head = weights->embedding;
    for (size_t l = 0; l < L; l++) {
        struct rondo_layer_weights *layer = &weights->layers[l];
        if (layer->expert_down[E].n_dims)
            layer->shared = (struct rondo_ffn_weights){layer->expert_gate[E], layer->expert_up[E],
                                                       layer->expert_down[E]};
    }
    return RONDO_OK;
}

void rondo_weights_unload(struct rondo_weights *weights)
{
    for (size_t i = 0; i < weights->n_buffers; i++)
        weights->device->release(weights->device, weights->buffers[i]);
    free(weights->buffers);
    free(weights->layers);
    free(weights->expert_tensors);
    *weights = (struct rondo_weights){0};
}
