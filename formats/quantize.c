/* Quantising a checkpoint: what becomes of each tensor and each file, and how a run resumes. */
#include "formats/quantize.h"

#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/weights.h"
#include "formats/checkpoint.h"
#include "formats/file.h"
#include "formats/json.h"
#include "formats/output.h"
#include "formats/quantize_rows.h"
#include "formats/safetensors_write.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define STATE_FILE ".rondo-quantize"
#define COPY_PIECE ((uint64_t)4 << 20) /* bytes copied at once by a thread */

/* ---- plan ------------------------------------------------------------------------------------- */

/* A tensor of the source, in the order of the output: larger elements first, so that all stay aligned. */
struct tensor {
    struct rondo_file_tensor source;
    bool quantised;
    char scale_name[224];
    size_t item, scale_item; /* of the shard */
};

struct job {
    const char *source, *destination;
    const struct rondo_quantize_options *options;
    struct rondo_model *model;           /* of the source, checked */
    struct rondo_checkpoint_files files; /* of the source */
    struct rondo_file_tensor *tensors;   /* [n_tensors] */
    size_t n_tensors;
    struct rondo_weight_entry *entries; /* [n_entries], ascending by name */
    size_t n_entries;
    int threads;
    int64_t max_columns;
    char *buffers; /* [threads, buffer_size] */
    size_t buffer_size;
    bool made, begun; /* by this run: the destination; its state file */
    uint64_t total;   /* bytes of the source */
    atomic_uint_fast64_t done;
};

static int by_entry_name(const void *a, const void *b)
{
    return strcmp(((const struct rondo_weight_entry *)a)->name,
                  ((const struct rondo_weight_entry *)b)->name);
}

/* Under the name the config asks for: checkpoints may say self_attn for attention. */
static bool is_quantised(const struct job *job, const char *name)
{
    struct rondo_weight_entry key;
    const char *part = strstr(name, ".self_attn.");
    if (strlen(name) >= sizeof key.name)
        return false;
    if (part)
        snprintf(key.name, sizeof key.name, "%.*s.attention.%s", (int)(part - name), name,
                 part + strlen(".self_attn."));
    else
        snprintf(key.name, sizeof key.name, "%s", name);
    const struct rondo_weight_entry *entry =
        bsearch(&key, job->entries, job->n_entries, sizeof *job->entries, by_entry_name);
    bool tied = job->model->config.tie_word_embeddings; /* the table is the head */
    return entry && (entry->kind == RONDO_WEIGHT_PROJECTION ||
                     (entry->kind == RONDO_WEIGHT_LM_HEAD && job->options->lm_head) ||
                     (entry->kind == RONDO_WEIGHT_EMBEDDING && job->options->lm_head && tied));
}

static int fail_memory(const struct job *job, struct rondo_error *error)
{
    return rondo_fail(error, RONDO_FAILED, "%s: out of memory", job->source);
}

static int check_arguments(const struct job *job, enum rondo_quantization found,
                           struct rondo_error *error)
{
    const struct rondo_quantize_options *options = job->options;
    if (options->kind != RONDO_QUANTIZATION_BLOCK && options->kind != RONDO_QUANTIZATION_ROW)
        return rondo_fail(error, RONDO_USAGE, "quantize: kind: want blocks or rows");
    if (found != RONDO_QUANTIZATION_NONE)
        return rondo_fail(
            error, RONDO_FAILED,
            "%s/config.json: quantization_config: this checkpoint is already quantised; start from "
            "the BF16 one",
            job->source);
    if (options->lm_head && job->model->config.tie_word_embeddings)
        rondo_log(RONDO_LOG_WARNING,
                  "%s/config.json: tie_word_embeddings: the output head is the embedding table, "
                  "which is quantised; not every program reads an FP8 table",
                  job->source);
    return RONDO_OK;
}

static int open_source(struct job *job, struct rondo_error *error)
{
    enum rondo_quantization found = RONDO_QUANTIZATION_NONE;
    struct rondo_config config;
    int status = rondo_config_read(job->source, NULL, &config, &found, error);
    if (status)
        return status;
    job->model = rondo_model_open(job->source, NULL, error);
    if (!job->model)
        return RONDO_FAILED;
    status = check_arguments(job, found, error);
    if (!status)
        status = rondo_checkpoint_open_files(job->source, &job->files, &job->tensors,
                                             &job->n_tensors, error);
    if (status)
        return status;
    job->entries = rondo_weight_list(&job->model->config, &job->n_entries);
    if (!job->entries)
        return fail_memory(job, error);
    qsort(job->entries, job->n_entries, sizeof *job->entries, by_entry_name);
    for (size_t i = 0; i < job->n_tensors; i++) {
        const struct rondo_tensor_info *info = &job->tensors[i].info;
        job->total += info->size;
        if (!is_quantised(job, info->name))
            continue;
        if (info->dtype == RONDO_F8_E4M3)
            return rondo_fail(error, RONDO_FAILED, "%s: %s: already FP8 (want bf16, f16 or f32)",
                              info->file, info->name);
        job->max_columns = info->shape[1] > job->max_columns ? info->shape[1] : job->max_columns;
    }
    return RONDO_OK;
}

/* ---- one shard -------------------------------------------------------------------------------- */

/* A panel of 128 rows of a quantised tensor, or up to COPY_PIECE bytes of another one. */
struct piece {
    size_t tensor;
    uint64_t first;
};

struct shard {
    struct job *job;
    const struct rondo_safetensors *source;
    struct tensor *tensors; /* [n_tensors] */
    size_t n_tensors;
    struct rondo_safetensors_item *items; /* [n_items] */
    size_t n_items;
    struct piece *pieces; /* [n_pieces] */
    size_t n_pieces;
    struct rondo_safetensors_writer *writer;
};

static int by_element_size(const void *a, const void *b)
{
    const struct tensor *x = a, *y = b;
    size_t m = x->quantised ? 1 : rondo_dtype_size(x->source.info.dtype);
    size_t n = y->quantised ? 1 : rondo_dtype_size(y->source.info.dtype);
    if (m != n)
        return m > n ? -1 : 1;
    return strcmp(x->source.info.name, y->source.info.name);
}

static int collect_tensors(struct shard *shard, struct rondo_error *error)
{
    struct job *job = shard->job;
    shard->tensors = calloc(job->n_tensors + 1, sizeof *shard->tensors);
    shard->items = calloc(2 * job->n_tensors + 1, sizeof *shard->items);
    if (!shard->tensors || !shard->items)
        return fail_memory(job, error);
    for (size_t i = 0; i < job->n_tensors; i++) {
        const struct rondo_tensor_info *info = &job->tensors[i].info;
        if (strcmp(info->file, shard->source->path) != 0)
            continue;
        struct tensor *tensor = &shard->tensors[shard->n_tensors];
        if (info->dtype == RONDO_DTYPE_COUNT) {
            rondo_log(RONDO_LOG_WARNING, "%s: %s: left out: its dtype is not known here",
                      info->file, info->name);
            continue;
        }
        tensor->source = job->tensors[i];
        tensor->quantised = is_quantised(job, info->name);
        snprintf(tensor->scale_name, sizeof tensor->scale_name, "%.200s_scale%s", info->name,
                 job->options->kind == RONDO_QUANTIZATION_BLOCK ? "_inv" : "");
        shard->n_tensors++;
    }
    qsort(shard->tensors, shard->n_tensors, sizeof *shard->tensors, by_element_size);
    return RONDO_OK;
}

/* Scales first, then the tensors in their order. */
static void make_items(struct shard *shard)
{
    bool block = shard->job->options->kind == RONDO_QUANTIZATION_BLOCK;
    for (size_t i = 0; i < shard->n_tensors; i++) {
        struct tensor *tensor = &shard->tensors[i];
        const int64_t *shape = tensor->source.info.shape;
        if (!tensor->quantised)
            continue;
        tensor->scale_item = shard->n_items++;
        shard->items[tensor->scale_item] = (struct rondo_safetensors_item){
            .name = tensor->scale_name,
            .dtype = RONDO_F32,
            .n_dims = 2,
            .shape = {block ? (shape[0] + RONDO_BLOCK - 1) / RONDO_BLOCK : shape[0],
                      block ? (shape[1] + RONDO_BLOCK - 1) / RONDO_BLOCK : 1}};
    }
    for (size_t i = 0; i < shard->n_tensors; i++) {
        struct tensor *tensor = &shard->tensors[i];
        const struct rondo_tensor_info *info = &tensor->source.info;
        tensor->item = shard->n_items++;
        struct rondo_safetensors_item *item = &shard->items[tensor->item];
        *item = (struct rondo_safetensors_item){.name = info->name, .n_dims = info->n_dims};
        item->dtype = tensor->quantised ? RONDO_F8_E4M3 : info->dtype;
        memcpy(item->shape, info->shape, sizeof item->shape);
    }
}

static int cut_pieces(struct shard *shard, struct rondo_error *error)
{
    for (int pass = 0; pass < 2; pass++) {
        size_t count = 0;
        for (size_t i = 0; i < shard->n_tensors; i++) {
            const struct tensor *tensor = &shard->tensors[i];
            uint64_t n = tensor->quantised ? (uint64_t)tensor->source.info.shape[0]
                                           : tensor->source.info.size;
            uint64_t step = tensor->quantised ? RONDO_BLOCK : COPY_PIECE;
            for (uint64_t first = 0; first < n; first += step, count++)
                if (pass)
                    shard->pieces[count] = (struct piece){.tensor = i, .first = first};
        }
        shard->n_pieces = count;
        if (!pass && !(shard->pieces = calloc(count + 1, sizeof *shard->pieces)))
            return fail_memory(shard->job, error);
    }
    return RONDO_OK;
}

static int fail_value(const struct tensor *tensor, int64_t row, int64_t column,
                      struct rondo_error *error)
{
    const struct rondo_tensor_info *info = &tensor->source.info;
    size_t element = rondo_dtype_size(info->dtype);
    uint32_t bits = 0; /* files may have elements at odd addresses */
    memcpy(&bits,
           (const char *)tensor->source.data + (size_t)(row * info->shape[1] + column) * element,
           element);
    return rondo_fail(error, RONDO_FAILED,
                      "%s: %s: row %lld, column %lld is not finite (got %g); such a checkpoint "
                      "cannot be quantised",
                      info->file, info->name, (long long)row, (long long)column,
                      (double)rondo_load(&bits, info->dtype, 0));
}

static int quantise_panel(struct shard *shard, const struct tensor *tensor, int64_t first,
                          char *buffer, struct rondo_error *error)
{
    const struct rondo_tensor_info *info = &tensor->source.info;
    struct rondo_quantize_matrix matrix = {.data = tensor->source.data,
                                           .dtype = info->dtype,
                                           .rows = info->shape[0],
                                           .columns = info->shape[1],
                                           .power_of_two = shard->job->options->power_of_two};
    int64_t rows = matrix.rows - first < RONDO_BLOCK ? matrix.rows - first : RONDO_BLOCK;
    int64_t n_scales, scale_first, bad_row = first, bad_column = 0;
    float *scales = (float *)buffer, *values = scales + matrix.columns + RONDO_BLOCK;
    uint8_t *codes = (uint8_t *)(values + matrix.columns);
    bool good = true;
    if (shard->job->options->kind == RONDO_QUANTIZATION_BLOCK) {
        n_scales = (matrix.columns + RONDO_BLOCK - 1) / RONDO_BLOCK;
        scale_first = first / RONDO_BLOCK * n_scales;
        good = rondo_quantize_block_panel(&matrix, first, codes, scales, &bad_row, &bad_column);
    } else {
        n_scales = rows;
        scale_first = first;
        for (int64_t r = 0; r < rows && good; r++) {
            bad_row = first + r;
            good = rondo_quantize_row(&matrix, bad_row, values, codes + r * matrix.columns,
                                      &scales[r], &bad_column);
        }
    }
    if (!good)
        return fail_value(tensor, bad_row, bad_column, error);
    int status = rondo_safetensors_write(shard->writer, tensor->scale_item,
                                         (uint64_t)scale_first * sizeof(float), scales,
                                         (size_t)n_scales * sizeof(float), error);
    if (!status)
        status =
            rondo_safetensors_write(shard->writer, tensor->item, (uint64_t)(first * matrix.columns),
                                    codes, (size_t)(rows * matrix.columns), error);
    return status;
}

static int report(struct job *job, uint64_t bytes, int thread, struct rondo_error *error)
{
    const struct rondo_quantize_options *options = job->options;
    uint64_t done = atomic_fetch_add(&job->done, bytes) + bytes;
    if (thread == 0 && options->progress &&
        options->progress(options->progress_user, "bytes read", done, job->total))
        return rondo_fail(error, RONDO_FAILED,
                          "quantize: interrupted; the same command goes on from here");
    return RONDO_OK;
}

static int do_piece(void *user, size_t index, int thread, struct rondo_error *error)
{
    struct shard *shard = user;
    const struct piece *piece = &shard->pieces[index];
    const struct tensor *tensor = &shard->tensors[piece->tensor];
    const struct rondo_tensor_info *info = &tensor->source.info;
    uint64_t bytes;
    int status;
    if (tensor->quantised) {
        uint64_t rows = (uint64_t)info->shape[0] - piece->first;
        char *buffer = shard->job->buffers + (size_t)thread * shard->job->buffer_size;
        bytes = (rows < RONDO_BLOCK ? rows : RONDO_BLOCK) * (uint64_t)info->shape[1] *
                rondo_dtype_size(info->dtype);
        status = quantise_panel(shard, tensor, (int64_t)piece->first, buffer, error);
    } else {
        bytes = info->size - piece->first < COPY_PIECE ? info->size - piece->first : COPY_PIECE;
        status = rondo_safetensors_write(shard->writer, tensor->item, piece->first,
                                         (const char *)tensor->source.data + piece->first,
                                         (size_t)bytes, error);
    }
    return status ? status : report(shard->job, bytes, thread, error);
}

/* A file under its final name is complete, for it was renamed after it was synced; it is this shard when its
 * header and length are. */
static bool is_finished(const struct shard *shard, const char *path)
{
    size_t size = 0;
    char *want = rondo_safetensors_header(shard->items, shard->n_items, &size, NULL),
         *got = malloc(size + 1);
    uint64_t length = size;
    struct stat info;
    bool same = false;
    for (size_t i = 0; i < shard->n_items; i++)
        length += rondo_safetensors_item_size(&shard->items[i]);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file >= 0 && want && got && fstat(file, &info) == 0 && (uint64_t)info.st_size == length)
        same = pread(file, got, size, 0) == (ssize_t)size && memcmp(want, got, size) == 0;
    if (file >= 0)
        close(file);
    free(want);
    free(got);
    return same;
}

static int write_shard(struct shard *shard, const char *path, struct rondo_error *error)
{
    if (is_finished(shard, path)) {
        uint64_t bytes = 0;
        for (size_t i = 0; i < shard->n_tensors; i++)
            bytes += shard->tensors[i].source.info.size;
        rondo_log(RONDO_LOG_INFO, "%s: finished earlier, kept", path);
        return report(shard->job, bytes, 0, error);
    }
    int status = cut_pieces(shard, error);
    if (status)
        return status;
    shard->writer = rondo_safetensors_create(path, shard->items, shard->n_items, error);
    if (!shard->writer)
        return RONDO_FAILED;
    status = rondo_parallel_run(shard->n_pieces, shard->job->threads, do_piece, shard, error);
    if (status)
        rondo_safetensors_abort(shard->writer);
    else
        status = rondo_safetensors_finish(shard->writer, error);
    /* what was read need not stay mapped */
    madvise(shard->source->mapping.bytes, shard->source->mapping.size, MADV_DONTNEED);
    return status;
}

/* Writes the output's part of the index to `index`, too. */
static int do_shard(struct job *job, size_t which, FILE *index, uint64_t *bytes,
                    struct rondo_error *error)
{
    struct shard shard = {.job = job, .source = &job->files.shards[which]};
    const char *name = job->files.names[which];
    int status = collect_tensors(&shard, error);
    char *path = status ? NULL : rondo_path_join(job->destination, name, error);
    if (path) {
        make_items(&shard);
        status = write_shard(&shard, path, error);
        for (size_t i = 0; i < shard.n_items; i++) {
            fprintf(index, "%s\n    \"%s\": \"%s\"", *bytes ? "," : "", shard.items[i].name, name);
            *bytes += rondo_safetensors_item_size(&shard.items[i]);
        }
    }
    free(path);
    free(shard.tensors);
    free(shard.items);
    free(shard.pieces);
    return path ? status : RONDO_FAILED;
}

/* ---- the other files -------------------------------------------------------------------------- */

static int write_bytes(const char *directory, const char *name, const char *text, size_t length,
                       struct rondo_error *error)
{
    char *path = rondo_path_join(directory, name, error);
    struct rondo_output *output = path ? rondo_output_open(path, error) : NULL;
    int status = output ? rondo_output_write(output, 0, text, length, error) : RONDO_FAILED;
    if (!status)
        status = rondo_output_finish(output, error);
    else
        rondo_output_abort(output);
    free(path);
    return status;
}

/* Weights in any format, and what this program writes itself. */
static bool is_copied(const char *name)
{
    static const char *const not [] = {".safetensors", ".bin",     ".pt", ".pth",
                                       ".gguf",        ".partial", NULL};
    size_t length = strlen(name);
    if (name[0] == '.' || strcmp(name, "config.json") == 0 || strcmp(name, RONDO_INDEX_FILE) == 0)
        return false;
    for (size_t i = 0; not [i]; i++)
        if (length >= strlen(not [i]) && strcmp(name + length - strlen(not [i]), not [i]) == 0)
            return false;
    return true;
}

static int copy_file(const struct job *job, const char *name, struct rondo_error *error)
{
    char *path = rondo_path_join(job->source, name, error);
    struct stat info;
    int status = path ? RONDO_OK : RONDO_FAILED;
    if (path && stat(path, &info) == 0 && S_ISREG(info.st_mode)) {
        size_t length;
        char *bytes = rondo_file_read(path, (size_t)1 << 30, &length, error);
        status = bytes ? write_bytes(job->destination, name, bytes, length, error) : RONDO_FAILED;
        free(bytes);
    }
    free(path);
    return status;
}

static int copy_files(const struct job *job, struct rondo_error *error)
{
    DIR *stream = opendir(job->source);
    if (!stream)
        return rondo_fail(error, RONDO_FAILED, "%s: cannot open the directory: %s", job->source,
                          strerror(errno));
    int status = RONDO_OK;
    for (struct dirent *entry; !status && (entry = readdir(stream));)
        if (is_copied(entry->d_name))
            status = copy_file(job, entry->d_name, error);
    closedir(stream);
    return status;
}

static int write_config(const struct job *job, struct rondo_error *error)
{
    char *path = rondo_path_join(job->source, "config.json", error);
    cJSON *root = path ? rondo_json_read(path, (size_t)4 << 20, error) : NULL;
    int status = RONDO_FAILED;
    if (root) {
        rondo_config_add_quantization(root, job->options->kind, job->options->lm_head);
        char *text = cJSON_Print(root);
        status = text ? write_bytes(job->destination, "config.json", text, strlen(text), error)
                      : fail_memory(job, error);
        free(text);
    }
    cJSON_Delete(root);
    free(path);
    return status;
}

/* ---- the destination -------------------------------------------------------------------------- */

static bool is_empty(const char *directory)
{
    DIR *stream = opendir(directory);
    bool empty = true;
    if (!stream)
        return false;
    for (struct dirent *entry; (entry = readdir(stream));)
        empty &= strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
                 strcmp(entry->d_name, STATE_FILE ".partial") == 0;
    closedir(stream);
    return empty;
}

/* The directory is new, empty, or was begun by the same call. */
static int prepare_destination(struct job *job, struct rondo_error *error)
{
    char want[160];
    int length =
        snprintf(want, sizeof want,
                 "rondo quantize 1\nsource %016llx\nkind %s\nlm_head %d\npower_of_two %d\n",
                 (unsigned long long)job->model->hash,
                 job->options->kind == RONDO_QUANTIZATION_BLOCK ? "block" : "row",
                 job->options->lm_head, job->options->power_of_two);
    struct stat from, to;
    job->made = mkdir(job->destination, 0777) == 0;
    if (!job->made && errno != EEXIST)
        return rondo_fail(error, RONDO_FAILED, "%s: cannot create the directory: %s",
                          job->destination, strerror(errno));
    if (stat(job->source, &from) == 0 && stat(job->destination, &to) == 0 &&
        from.st_dev == to.st_dev && from.st_ino == to.st_ino)
        return rondo_fail(error, RONDO_FAILED, "%s: source and destination are the same directory",
                          job->destination);
    if (is_empty(job->destination)) {
        int status = write_bytes(job->destination, STATE_FILE, want, (size_t)length, error);
        job->begun = !status;
        return status;
    }
    char *path = rondo_path_join(job->destination, STATE_FILE, error);
    if (!path)
        return RONDO_FAILED;
    int status = RONDO_OK;
    char *got = access(path, F_OK) == 0 ? rondo_file_read(path, 4096, NULL, error) : NULL;
    if (!got)
        status = rondo_fail(error, RONDO_FAILED, "%s: the directory is not empty; name a new one",
                            job->destination);
    else if (strcmp(got, want) != 0)
        status = rondo_fail(
            error, RONDO_FAILED,
            "%s: was begun from another source or with other options; remove it or name a new one",
            job->destination);
    free(got);
    free(path);
    return status;
}

static void remove_state(const struct job *job)
{
    char *path = rondo_path_join(job->destination, STATE_FILE, NULL);
    if (path)
        unlink(path);
    free(path);
}

/* What this run has begun, of which nothing is written yet. */
static void leave_destination(const struct job *job)
{
    if (job->begun)
        remove_state(job);
    if (job->made)
        rmdir(job->destination);
}

/* Room for what is not there yet: FP8 takes at most the source's bytes less half of those of the projections. */
static int check_room(const struct job *job, struct rondo_error *error)
{
    uint64_t room, want = (uint64_t)64 << 20;
    int status = rondo_disk_free(job->destination, &room, error);
    for (size_t i = 0; i < job->n_tensors; i++) {
        const struct rondo_tensor_info *info = &job->tensors[i].info;
        uint64_t rows = (uint64_t)info->shape[0];
        want += is_quantised(job, info->name)
                    ? info->size / rondo_dtype_size(info->dtype) + rows * 4
                    : info->size;
    }
    for (size_t i = 0; i < job->files.n_shards; i++) {
        struct stat info;
        char *path = rondo_path_join(job->destination, job->files.names[i], NULL);
        if (path && stat(path, &info) == 0)
            want -= (uint64_t)info.st_size < want ? (uint64_t)info.st_size : want;
        free(path);
    }
    if (!status && want > room)
        status = rondo_fail(error, RONDO_FAILED,
                            "%s: the disk has too little room (got %llu bytes = %.1f GB, want %llu "
                            "bytes = %.1f GB)",
                            job->destination, (unsigned long long)room, (double)room / 1e9,
                            (unsigned long long)want, (double)want / 1e9);
    return status;
}

static int write_all(struct job *job, struct rondo_error *error)
{
    char *text = NULL;
    size_t length = 0;
    uint64_t bytes = 0;
    int status = RONDO_OK;
    FILE *map = open_memstream(&text, &length);
    if (!map)
        return fail_memory(job, error);
    for (size_t i = 0; i < job->files.n_shards && !status; i++)
        status = do_shard(job, i, map, &bytes, error);
    if (fclose(map) != 0 && !status)
        status = fail_memory(job, error);
    if (!status && job->files.indexed) {
        char *index = malloc(length + 128);
        int n =
            index
                ? snprintf(
                      index, length + 128,
                      "{\n  \"metadata\": {\"total_size\": %llu},\n  \"weight_map\": {%s\n  }\n}\n",
                      (unsigned long long)bytes, text)
                : 0;
        status = index ? write_bytes(job->destination, RONDO_INDEX_FILE, index, (size_t)n, error)
                       : fail_memory(job, error);
        free(index);
    }
    free(text);
    if (!status)
        status = copy_files(job, error);
    if (!status)
        status = write_config(job, error);
    return status;
}

int rondo_quantize(const char *source, const char *destination,
                   const struct rondo_quantize_options *options, struct rondo_error *error)
{
    struct job job = {.source = source, .destination = destination, .options = options};
    job.threads = options->threads > 0 ? options->threads : rondo_parallel_threads();
    job.threads = job.threads < RONDO_PARALLEL_LIMIT ? job.threads : RONDO_PARALLEL_LIMIT;
    int status = open_source(&job, error);
    if (!status)
        status = prepare_destination(&job, error);
    if (!status)
        status = check_room(&job, error);
    if (!status) {
        /* scales, one row of f32, and codes of a panel; see quantise_panel */
        job.buffer_size = (size_t)job.max_columns * (4 + 4 + RONDO_BLOCK) + RONDO_BLOCK * 4;
        job.buffer_size = (job.buffer_size + 63) & ~(size_t)63;
        job.buffers = malloc(job.buffer_size * (size_t)job.threads);
        status = job.buffers ? RONDO_OK : fail_memory(&job, error);
    }
    if (status)
        leave_destination(&job);
    else if (!(status = write_all(&job, error)))
        remove_state(&job);
    free(job.buffers);
    free(job.entries);
    free(job.tensors);
    rondo_checkpoint_close_files(&job.files);
    rondo_model_close(job.model);
    return status;
}
