/* Random checkpoints: what tensors there are, and their way to disk. */
#include "formats/synth.h"

#include "core/error.h"
#include "core/parallel.h"
#include "core/weights.h"
#include "formats/byte_tokenizer.h"
#include "formats/checkpoint.h"
#include "formats/file.h"
#include "formats/json.h"
#include "formats/output.h"
#include "formats/safetensors_write.h"
#include "formats/synth_fill.h"

#include <dirent.h>
#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PIECE ((uint64_t)1 << 19) /* elements made at once by a thread */
#define DEFAULT_SHARD ((uint64_t)4000000000)

/* ---- plan ------------------------------------------------------------------------------------- */

struct tensor {
    char name[128];
    struct rondo_safetensors_item item;
    enum rondo_synth_fill fill;
    float deviation;
    uint64_t key;
    size_t shard, order;
};

struct plan {
    const struct rondo_synth_options *options;
    struct rondo_config config;
    enum rondo_quantization quantization;
    enum rondo_dtype dtype; /* of what is not quantised */
    struct tensor
        *tensors; /* [n_tensors], by shard, then larger elements first, then in model order */
    size_t n_tensors, n_shards;
    uint64_t bytes, shard_bytes; /* of all tensors; of the shard being filled */
};

static uint64_t add_tensor(struct plan *plan, const char *name, const char *suffix,
                           enum rondo_dtype dtype, enum rondo_synth_fill fill, double deviation,
                           int64_t rows, int64_t columns)
{
    struct tensor *tensor = &plan->tensors[plan->n_tensors];
    snprintf(tensor->name, sizeof tensor->name, "%s%s", name, suffix);
    tensor->item = (struct rondo_safetensors_item){.name = tensor->name,
                                                   .dtype = dtype,
                                                   .n_dims = rows > 0 ? 2 : 1,
                                                   .shape = {rows, columns, 1, 1}};
    if (rows == 0)
        tensor->item.shape[0] = columns, tensor->item.shape[1] = 1;
    tensor->fill = fill;
    tensor->deviation = (float)deviation;
    tensor->key = rondo_synth_key(plan->options->seed, tensor->name);
    tensor->order = plan->n_tensors++;
    return rondo_safetensors_item_size(&tensor->item);
}

/* The weight and its scales, if any. */
static void add_weight(struct plan *plan, const struct rondo_weight_entry *entry)
{
    size_t first = plan->n_tensors;
    double deviation =
        entry->kind == RONDO_WEIGHT_EMBEDDING ? 1.0 : 1.0 / sqrt((double)entry->columns);
    if (entry->kind == RONDO_WEIGHT_LM_HEAD)
        deviation *= 3; /* logits of deviation 3: neither flat nor a single peak */
    bool quantised = plan->quantization != RONDO_QUANTIZATION_NONE &&
                     (entry->kind == RONDO_WEIGHT_PROJECTION ||
                      (entry->kind == RONDO_WEIGHT_LM_HEAD && plan->options->lm_head_fp8));
    uint64_t bytes;
    if (quantised) {
        bytes = add_tensor(plan, entry->name, "", RONDO_F8_E4M3, RONDO_SYNTH_CODES, 0, entry->rows,
                           entry->columns);
        if (plan->quantization == RONDO_QUANTIZATION_BLOCK)
            bytes += add_tensor(plan, entry->name, "_scale_inv", RONDO_F32, RONDO_SYNTH_SCALES,
                                deviation, (entry->rows + 127) / 128, (entry->columns + 127) / 128);
        else
            bytes += add_tensor(plan, entry->name, "_scale", RONDO_F32, RONDO_SYNTH_SCALES,
                                deviation, entry->rows, 1);
    } else if (!rondo_weight_is_vector(entry->kind)) {
        bytes = add_tensor(plan, entry->name, "", plan->dtype, RONDO_SYNTH_NORMAL, deviation,
                           entry->rows, entry->columns);
    } else {
        bool norm = entry->kind == RONDO_WEIGHT_NORM,
             bias = entry->kind == RONDO_WEIGHT_EXPERT_BIAS;
        bytes = add_tensor(plan, entry->name, "", bias ? RONDO_F32 : plan->dtype,
                           norm ? RONDO_SYNTH_NORM : RONDO_SYNTH_NORMAL, 0.02, 0, entry->columns);
    }
    uint64_t limit = plan->options->shard_size ? plan->options->shard_size : DEFAULT_SHARD;
    if (plan->n_shards == 0 || (plan->shard_bytes > 0 && plan->shard_bytes + bytes > limit)) {
        plan->n_shards++;
        plan->shard_bytes = 0;
    }
    plan->shard_bytes += bytes;
    plan->bytes += bytes;
    for (size_t i = first; i < plan->n_tensors; i++)
        plan->tensors[i].shard = plan->n_shards - 1;
}

static int by_place(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    size_t m = rondo_dtype_size(x->item.dtype), n = rondo_dtype_size(y->item.dtype);
    if (x->shard != y->shard)
        return x->shard < y->shard ? -1 : 1;
    if (m != n)
        return m > n ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

static int plan_make(struct plan *plan, const struct rondo_synth_options *options,
                     struct rondo_error *error)
{
    *plan = (struct plan){.options = options};
    int status = rondo_synth_config(options, &plan->config, error);
    if (status)
        return status;
    if (options->dtype == RONDO_SYNTH_FP8_BLOCK)
        plan->quantization = RONDO_QUANTIZATION_BLOCK;
    else if (options->dtype == RONDO_SYNTH_FP8_ROW)
        plan->quantization = RONDO_QUANTIZATION_ROW;
    else if (options->lm_head_fp8)
        return rondo_fail(error, RONDO_USAGE, "lm_head_fp8: needs one of the FP8 dtypes");
    plan->dtype = options->dtype == RONDO_SYNTH_F32   ? RONDO_F32
                  : options->dtype == RONDO_SYNTH_F16 ? RONDO_F16
                                                      : RONDO_BF16;
    size_t count = 0;
    struct rondo_weight_entry *list = rondo_weight_list(&plan->config, &count);
    plan->tensors = list ? calloc(2 * count, sizeof *plan->tensors) : NULL;
    if (!plan->tensors) {
        free(list);
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory for the list of tensors",
                          options->preset);
    }
    for (size_t i = 0; i < count; i++)
        add_weight(plan, &list[i]);
    free(list);
    qsort(plan->tensors, plan->n_tensors, sizeof *plan->tensors, by_place);
    for (size_t i = 0; i < plan->n_tensors; i++) /* they have moved */
        plan->tensors[i].item.name = plan->tensors[i].name;
    return RONDO_OK;
}

int rondo_synth_size(const struct rondo_synth_options *options, uint64_t *bytes,
                     struct rondo_error *error)
{
    struct plan plan;
    int status = plan_make(&plan, options, error);
    *bytes = plan.bytes;
    free(plan.tensors);
    return status;
}

/* ---- one shard -------------------------------------------------------------------------------- */

struct piece {
    size_t tensor; /* of the shard */
    uint64_t first, n;
};

struct shard {
    const struct plan *plan;
    const struct rondo_synth_tables *tables;
    const struct tensor *tensors; /* [n_tensors] */
    size_t n_tensors;
    struct piece *pieces; /* [n_pieces] */
    size_t n_pieces;
    struct rondo_safetensors_writer *writer;
    char *buffers;              /* [threads, PIECE * 4] */
    atomic_uint_fast64_t *done; /* bytes of all shards */
};

static int make_piece(void *user, size_t index, int thread, struct rondo_error *error)
{
    struct shard *shard = user;
    const struct piece *piece = &shard->pieces[index];
    const struct tensor *tensor = &shard->tensors[piece->tensor];
    const struct rondo_synth_options *options = shard->plan->options;
    size_t element = rondo_dtype_size(tensor->item.dtype), size = (size_t)piece->n * element;
    char *buffer = shard->buffers + (size_t)thread * PIECE * 4;
    rondo_synth_elements(shard->tables, tensor->fill, tensor->key, tensor->deviation,
                         tensor->item.dtype, piece->first, (size_t)piece->n, buffer);
    int status = rondo_safetensors_write(shard->writer, piece->tensor, piece->first * element,
                                         buffer, size, error);
    uint64_t done = atomic_fetch_add(shard->done, size) + size;
    if (!status && thread == 0 && options->progress &&
        options->progress(options->progress_user, "bytes written", done, shard->plan->bytes))
        return rondo_fail(error, RONDO_FAILED, "synth: interrupted");
    return status;
}

static int cut_pieces(struct shard *shard)
{
    size_t count = 0;
    for (int pass = 0; pass < 2; pass++) {
        count = 0;
        for (size_t i = 0; i < shard->n_tensors; i++) {
            const struct rondo_safetensors_item *item = &shard->tensors[i].item;
            uint64_t n = rondo_safetensors_item_size(item) / rondo_dtype_size(item->dtype);
            for (uint64_t first = 0; first < n; first += PIECE, count++)
                if (pass)
                    shard->pieces[count] = (struct piece){
                        .tensor = i, .first = first, .n = n - first < PIECE ? n - first : PIECE};
        }
        if (!pass && !(shard->pieces = calloc(count + 1, sizeof *shard->pieces)))
            return RONDO_FAILED;
    }
    shard->n_pieces = count;
    return RONDO_OK;
}

static int write_shard(struct shard *shard, const char *directory, const char *name, int threads,
                       struct rondo_error *error)
{
    struct rondo_safetensors_item *items = calloc(shard->n_tensors, sizeof *items);
    char *path = rondo_path_join(directory, name, error);
    int status = RONDO_FAILED;
    if (items && path && cut_pieces(shard) == RONDO_OK) {
        for (size_t i = 0; i < shard->n_tensors; i++)
            items[i] = shard->tensors[i].item;
        shard->writer = rondo_safetensors_create(path, items, shard->n_tensors, error);
        status = shard->writer
                     ? rondo_parallel_run(shard->n_pieces, threads, make_piece, shard, error)
                     : RONDO_FAILED;
        if (status)
            rondo_safetensors_abort(shard->writer);
        else
            status = rondo_safetensors_finish(shard->writer, error);
    } else if (path) {
        rondo_fail(error, RONDO_FAILED, "%s: out of memory for %zu tensors", path,
                   shard->n_tensors);
    }
    free(shard->pieces);
    free(items);
    free(path);
    return status;
}

static void shard_name(char name[64], size_t index, size_t count)
{
    if (count == 1)
        snprintf(name, 64, RONDO_SINGLE_FILE);
    else
        snprintf(name, 64, "model-%05zu-of-%05zu.safetensors", index + 1, count);
}

static int write_shards(const struct plan *plan, const char *directory, struct rondo_error *error)
{
    int threads = plan->options->threads > 0 ? plan->options->threads : rondo_parallel_threads();
    if (threads > RONDO_PARALLEL_LIMIT)
        threads = RONDO_PARALLEL_LIMIT;
    struct rondo_synth_tables *tables = malloc(sizeof *tables);
    char *buffers = malloc((size_t)threads * PIECE * 4);
    atomic_uint_fast64_t done = 0;
    int status = tables && buffers
                     ? RONDO_OK
                     : rondo_fail(error, RONDO_FAILED, "%s: out of memory for buffers", directory);
    if (!status)
        rondo_synth_tables_fill(tables);
    for (size_t first = 0, end; first < plan->n_tensors && !status; first = end) {
        char name[64];
        for (end = first;
             end < plan->n_tensors && plan->tensors[end].shard == plan->tensors[first].shard;)
            end++;
        struct shard shard = {.plan = plan,
                              .tables = tables,
                              .tensors = plan->tensors + first,
                              .n_tensors = end - first,
                              .buffers = buffers,
                              .done = &done};
        shard_name(name, plan->tensors[first].shard, plan->n_shards);
        status = write_shard(&shard, directory, name, threads, error);
    }
    free(tables);
    free(buffers);
    return status;
}

/* ---- the other files -------------------------------------------------------------------------- */

static int write_text(const char *directory, const char *name, char *text,
                      struct rondo_error *error)
{
    char *path = rondo_path_join(directory, name, error);
    int status = RONDO_FAILED;
    if (path && !text)
        rondo_fail(error, RONDO_FAILED, "%s: out of memory", path);
    else if (path)
        status = rondo_file_write(path, text, strlen(text), error);
    free(path);
    free(text);
    return status;
}

static int write_index(const struct plan *plan, const char *directory, struct rondo_error *error)
{
    char *text = NULL, name[64];
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    if (!stream)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory for the index", directory);
    fprintf(stream, "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {",
            (unsigned long long)plan->bytes);
    for (size_t i = 0; i < plan->n_tensors; i++) {
        shard_name(name, plan->tensors[i].shard, plan->n_shards);
        fprintf(stream, "%s\n    \"%s\": \"%s\"", i ? "," : "", plan->tensors[i].name, name);
    }
    fprintf(stream, "\n  }\n}\n");
    if (fclose(stream) != 0) {
        free(text);
        text = NULL;
    }
    return write_text(directory, RONDO_INDEX_FILE, text, error);
}

/* Makes the directory unless it is there and empty. */
static int prepare_directory(const char *directory, bool *made, struct rondo_error *error)
{
    *made = mkdir(directory, 0777) == 0;
    if (!*made && errno != EEXIST)
        return rondo_fail(error, RONDO_FAILED, "%s: cannot create the directory: %s", directory,
                          strerror(errno));
    DIR *stream = opendir(directory);
    if (!stream)
        return rondo_fail(error, RONDO_FAILED, "%s: cannot open the directory: %s", directory,
                          strerror(errno));
    int status = RONDO_OK;
    for (struct dirent *entry; !status && (entry = readdir(stream));)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            status = rondo_fail(error, RONDO_FAILED,
                                "%s: the directory is not empty (it has %s); name a new one",
                                directory, entry->d_name);
    closedir(stream);
    return status;
}

/* Everything in the directory is ours: it was empty. */
static void clean_directory(const char *directory, bool made)
{
    DIR *stream = opendir(directory);
    if (!stream)
        return;
    for (struct dirent *entry; (entry = readdir(stream));)
        unlinkat(dirfd(stream), entry->d_name, 0);
    closedir(stream);
    if (made)
        rmdir(directory);
}

static int write_all(const struct plan *plan, const char *directory, struct rondo_error *error)
{
    const char *torch_dtype = plan->dtype == RONDO_F32   ? "float32"
                              : plan->dtype == RONDO_F16 ? "float16"
                                                         : "bfloat16";
    uint64_t room;
    int status = rondo_disk_free(directory, &room, error);
    uint64_t want =
        plan->bytes + plan->n_tensors * 300 + (UINT64_C(1) << 20); /* headers, index, tokenizer */
    if (!status && want > room)
        status = rondo_fail(
            error, RONDO_FAILED,
            "%s: the disk has too little room (got %llu bytes = %.1f GB, want %llu bytes = %.1f "
            "GB)",
            directory, (unsigned long long)room, (double)room / 1e9, (unsigned long long)want,
            (double)want / 1e9);
    if (!status)
        status = write_shards(plan, directory, error);
    if (!status && plan->n_shards > 1)
        status = write_index(plan, directory, error);
    if (!status)
        status = rondo_write_byte_tokenizer(directory, plan->config.vocab_size, error);
    if (!status)
        status = write_text(directory, "config.json",
                            rondo_config_print(&plan->config, torch_dtype, plan->quantization,
                                               plan->options->lm_head_fp8),
                            error);
    return status;
}

int rondo_synth(const struct rondo_synth_options *options, const char *directory,
                struct rondo_error *error)
{
    struct plan plan;
    bool made = false;
    int status = plan_make(&plan, options, error);
    if (!status) {
        status = prepare_directory(directory, &made, error);
        if (!status && (status = write_all(&plan, directory, error)))
            clean_directory(directory, made);
    }
    free(plan.tensors);
    return status;
}
