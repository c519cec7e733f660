/* The check that weights are numbers: every byte of them is read once, by all cores, in the order of memory, so that
 * what is not in memory yet comes at the speed of the disk. */
#include "core/weights.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE (UINT64_C(8) << 20)            /* bytes that a thread checks at a time */
#define REPORT_INTERVAL (UINT64_C(64) << 20) /* bytes between two calls of progress */

struct piece {
    const struct rondo_file_tensor *tensor;
    uint64_t begin, end; /* bytes of it */
};

struct check {
    const struct rondo_model *model;
    struct piece *pieces; /* [n_pieces] */
    size_t n_pieces;
    uint64_t total, reported; /* bytes; reported by the caller's thread alone */
    atomic_uint_least64_t done;
    atomic_size_t first_bad; /* index of the first piece, of those checked so far, with a fault */
    pthread_mutex_t disk;    /* held by who reads what is not in memory */
    rondo_progress_function *progress;
    void *user;
};

/* Whether it holds numbers of a kind that has NaN. */
static bool is_checked(const struct rondo_file_tensor *tensor)
{
    enum rondo_dtype dtype = tensor->info.dtype;
    return dtype == RONDO_F32 || dtype == RONDO_BF16 || dtype == RONDO_F16 ||
           dtype == RONDO_F8_E4M3;
}

static int by_address(const void *left, const void *right)
{
    const struct piece *a = left, *b = right;
    const char *a_at = (const char *)a->tensor->data + a->begin,
               *b_at = (const char *)b->tensor->data + b->begin;
    return (a_at > b_at) - (a_at < b_at);
}

/* Cuts the tensors into pieces; of those with used[i] only, where `used` is not NULL. */
static int cut(struct check *check, const bool *used, struct rondo_error *error)
{
    const struct rondo_model *model = check->model;
    size_t n = 0;
    for (size_t i = 0; i < model->n_tensors; i++)
        if (is_checked(&model->tensors[i]) && (!used || used[i]))
            n += (size_t)((model->tensors[i].info.size + PIECE - 1) / PIECE);
    check->pieces = malloc((n ? n : 1) * sizeof *check->pieces);
    if (!check->pieces)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory for %zu pieces of weights",
                          model->directory, n);
    for (size_t i = 0; i < model->n_tensors; i++) {
        const struct rondo_file_tensor *tensor = &model->tensors[i];
        if (!is_checked(tensor) || (used && !used[i]))
            continue;
        for (uint64_t begin = 0; begin < tensor->info.size; begin += PIECE) {
            uint64_t end = begin + PIECE < tensor->info.size ? begin + PIECE : tensor->info.size;
            check->pieces[check->n_pieces++] = (struct piece){tensor, begin, end};
        }
        check->total += tensor->info.size;
    }
    qsort(check->pieces, check->n_pieces, sizeof *check->pieces, by_address);
    return RONDO_OK;
}

/* Index in the tensor of the piece's first NaN or infinity, or of its end. */
static uint64_t find(const struct piece *piece)
{
    enum rondo_dtype dtype = piece->tensor->info.dtype;
    uint64_t element = rondo_dtype_size(dtype);
    return piece->begin / element +
           rondo_find_not_finite((const char *)piece->tensor->data + piece->begin, dtype,
                                 (size_t)((piece->end - piece->begin) / element));
}

/* Whether the piece's last page is in memory; true where the system does not say. */
static bool is_resident(const struct piece *piece)
{
    unsigned char state = 1;
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE),
              last = (uintptr_t)piece->tensor->data + (uintptr_t)piece->end - 1;
    return mincore((void *)(last / page * page), 1, &state) != 0 || (state & 1);
}

/* What is not in memory is read by one thread at a time: disks like one stream, and a virtual machine whose host gives
 * it memory while two processors ask for it took 28 s for 16 GB instead of 10 to 18. */
static bool has_fault(struct check *check, const struct piece *piece)
{
    bool from_disk = !is_resident(piece);
    if (from_disk)
        pthread_mutex_lock(&check->disk);
    bool fault = find(piece) < piece->end / rondo_dtype_size(piece->tensor->info.dtype);
    if (from_disk)
        pthread_mutex_unlock(&check->disk);
    return fault;
}

static int report(struct check *check, uint64_t done, struct rondo_error *error)
{
    check->reported = done;
    if (check->progress && check->progress(check->user, "checking weights", done, check->total))
        return rondo_fail(error, RONDO_FAILED, "%s: the check of the weights was interrupted",
                          check->model->directory);
    return RONDO_OK;
}

static int check_piece(void *user, size_t index, int thread, struct rondo_error *error)
{
    struct check *check = user;
    const struct piece *piece = &check->pieces[index];
    if (has_fault(check, piece)) {
        size_t first = atomic_load(&check->first_bad);
        while (index < first && !atomic_compare_exchange_weak(&check->first_bad, &first, index))
            ;
        return RONDO_FAILED;
    }
    uint64_t size = piece->end - piece->begin, done = atomic_fetch_add(&check->done, size) + size;
    if (thread == 0 && done - check->reported >= REPORT_INTERVAL && done < check->total)
        return report(check, done, error);
    return RONDO_OK;
}

static int fail_at(const struct piece *piece, struct rondo_error *error)
{
    const struct rondo_tensor_info *info = &piece->tensor->info;
    const char *bytes = piece->tensor->data;
    uint64_t columns = info->n_dims ? (uint64_t)info->shape[info->n_dims - 1] : 1;
    uint64_t at = find(piece);
    char got[32];
    if (info->dtype == RONDO_F8_E4M3)
        snprintf(got, sizeof got, "code 0x%02x", (unsigned char)bytes[at]);
    else
        snprintf(got, sizeof got, "%g", (double)rondo_load(bytes, info->dtype, (size_t)at));
    return rondo_fail(error, RONDO_FAILED,
                      "%s: %s: not a number at row %llu, column %llu (got %s, want a finite %s)",
                      info->file, info->name, (unsigned long long)(at / columns),
                      (unsigned long long)(at % columns), got, rondo_dtype_name(info->dtype));
}

static int check_tensors(const struct rondo_model *model, const bool *used,
                         rondo_progress_function *progress, void *user, struct rondo_error *error)
{
    struct check check = {.model = model, .progress = progress, .user = user};
    atomic_init(&check.first_bad, SIZE_MAX);
    pthread_mutex_init(&check.disk, NULL);
    int status = cut(&check, used, error);
    if (!status)
        status = rondo_parallel_run(check.n_pieces, rondo_parallel_threads(), check_piece, &check,
                                    error);
    /* Pieces begin in order, and what has begun ends: the first fault is the same however many threads there are. */
    size_t first_bad = atomic_load(&check.first_bad);
    if (first_bad < check.n_pieces)
        status = fail_at(&check.pieces[first_bad], error);
    if (!status)
        status = report(&check, check.total, error);
    pthread_mutex_destroy(&check.disk);
    free(check.pieces);
    return status;
}

int rondo_weights_check_numbers(struct rondo_model *model,
                                const struct rondo_load_progress *progress,
                                struct rondo_error *error)
{
    if (atomic_load(&model->is_checked))
        return RONDO_OK;
    bool *used = calloc(model->n_tensors ? model->n_tensors : 1, 1);
    if (!used)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory for %zu tensors",
                          model->directory, model->n_tensors);
    int status = rondo_weights_mark(model, used, error);
    if (!status)
        status = check_tensors(model, used, progress->function, progress->user, error);
    if (!status)
        atomic_store(&model->is_checked, true);
    free(used);
    return status;
}

int rondo_model_check_weights(const struct rondo_model *model, rondo_progress_function *progress,
                              void *user, struct rondo_error *error)
{
    return check_tensors(model, NULL, progress, user, error);
}
