/* Reading safetensors files. The format: https://github.com/huggingface/safetensors, "Format". */
#include "formats/safetensors.h"

#include "formats/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Dtypes of the format with whole bytes. Those without a name here are tolerated: something may store them
 * beside the weights. */
static const struct {
    const char *name;
    size_t size;
    enum rondo_dtype dtype;
} dtypes[] = {
    {"F32", 4, RONDO_F32},
    {"BF16", 2, RONDO_BF16},
    {"F16", 2, RONDO_F16},
    {"F8_E4M3", 1, RONDO_F8_E4M3},
    {"I32", 4, RONDO_I32},
    {"U8", 1, RONDO_U8},
    {"BOOL", 1, RONDO_DTYPE_COUNT},
    {"I8", 1, RONDO_DTYPE_COUNT},
    {"I16", 2, RONDO_DTYPE_COUNT},
    {"U16", 2, RONDO_DTYPE_COUNT},
    {"U32", 4, RONDO_DTYPE_COUNT},
    {"I64", 8, RONDO_DTYPE_COUNT},
    {"U64", 8, RONDO_DTYPE_COUNT},
    {"F64", 8, RONDO_DTYPE_COUNT},
    {"C64", 8, RONDO_DTYPE_COUNT},
    {"F8_E5M2", 1, RONDO_DTYPE_COUNT},
    {"F8_E8M0", 1, RONDO_DTYPE_COUNT},
};

/* Where a tensor lies, while the header is read. */
struct span {
    uint64_t begin, end;
    size_t tensor;
};

struct parse {
    struct rondo_safetensors *file;
    struct rondo_error *error;
    const unsigned char *data; /* [data_size] what follows the header */
    uint64_t data_size;        /* may be less than the header wants: a truncated file */
    struct span *spans;        /* [n_tensors] */
};

static bool get_count(const cJSON *value, uint64_t *count)
{
    if (!cJSON_IsNumber(value) || !(value->valuedouble >= 0) ||
        value->valuedouble > 9007199254740991.0 || value->valuedouble != floor(value->valuedouble))
        return false;
    *count = (uint64_t)value->valuedouble;
    return true;
}

/* The number of elements in *count; fails on what is no shape and on overflow. */
static int read_shape(struct parse *parse, struct rondo_safetensors_tensor *tensor,
                      const cJSON *shape, uint64_t *count)
{
    const char *path = parse->file->path;
    const cJSON *item;
    bool zero = false;
    *count = 1;
    if (!cJSON_IsArray(shape))
        return rondo_fail(parse->error, RONDO_FAILED,
                          "%s: %s: shape: wrong type (got %s, want an array)", path, tensor->name,
                          rondo_json_kind(shape));
    for (int i = 0; i < 4; i++)
        tensor->shape[i] = 1;
    cJSON_ArrayForEach(item, shape)
    {
        uint64_t n;
        if (!get_count(item, &n))
            return rondo_fail(
                parse->error, RONDO_FAILED,
                "%s: %s: shape: dimension %d is not a count (got %s %g, want an integer from 0)",
                path, tensor->name, tensor->n_dims, rondo_json_kind(item),
                cJSON_IsNumber(item) ? item->valuedouble : NAN);
        if (tensor->n_dims < 4)
            tensor->shape[tensor->n_dims] = (int64_t)n;
        tensor->n_dims++;
        zero |= n == 0;
        if (n != 0 && *count > (UINT64_C(1) << 60) / n)
            return rondo_fail(parse->error, RONDO_FAILED, "%s: %s: shape: the tensor is too large",
                              path, tensor->name);
        *count *= n ? n : 1;
    }
    if (zero)
        *count = 0;
    if (tensor->n_dims > 4) { /* nothing that is needed has more */
        tensor->dtype = RONDO_DTYPE_COUNT;
        tensor->n_dims = 1;
        tensor->shape[0] = (int64_t)*count;
        for (int i = 1; i < 4; i++)
            tensor->shape[i] = 1;
    }
    return RONDO_OK;
}

static int read_tensor(struct parse *parse, const cJSON *value, size_t index)
{
    struct rondo_safetensors_tensor *tensor = &parse->file->tensors[index];
    const char *path = parse->file->path;
    if (!cJSON_IsObject(value))
        return rondo_fail(parse->error, RONDO_FAILED, "%s: %s: wrong type (got %s, want an object)",
                          path, tensor->name, rondo_json_kind(value));
    const cJSON *dtype = cJSON_GetObjectItemCaseSensitive(value, "dtype");
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(value, "data_offsets");
    const cJSON *first = cJSON_IsArray(offsets) ? offsets->child : NULL;
    struct span *span = &parse->spans[index];
    size_t element = 0;
    uint64_t count;
    if (!cJSON_IsString(dtype))
        return rondo_fail(parse->error, RONDO_FAILED,
                          "%s: %s: dtype: wrong type (got %s, want a string)", path, tensor->name,
                          rondo_json_kind(dtype));
    tensor->dtype = RONDO_DTYPE_COUNT;
    snprintf(tensor->dtype_name, sizeof tensor->dtype_name, "%s", dtype->valuestring);
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtype->valuestring, dtypes[i].name) == 0) {
            tensor->dtype = dtypes[i].dtype;
            element = dtypes[i].size;
        }
    }
    if (read_shape(parse, tensor, cJSON_GetObjectItemCaseSensitive(value, "shape"), &count))
        return RONDO_FAILED;
    if (!first || !first->next || first->next->next || !get_count(first, &span->begin) ||
        !get_count(first->next, &span->end) || span->begin > span->end)
        return rondo_fail(parse->error, RONDO_FAILED,
                          "%s: %s: data_offsets: not two ascending counts (want [begin, end])",
                          path, tensor->name);
    tensor->size = span->end - span->begin;
    span->tensor = index;
    if (element != 0 && tensor->size != count * element)
        return rondo_fail(
            parse->error, RONDO_FAILED,
            "%s: %s: data_offsets: the length does not fit shape and dtype (got %llu, want %llu "
            "bytes)",
            path, tensor->name, (unsigned long long)tensor->size,
            (unsigned long long)(count * element));
    return RONDO_OK;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct rondo_safetensors_tensor *)a)->name,
                  ((const struct rondo_safetensors_tensor *)b)->name);
}

static int by_begin(const void *a, const void *b)
{
    const struct span *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return x->end < y->end ? -1 : x->end > y->end;
}

/* The spans must be inside the file, apart from each other, and reach its end. */
static int check_spans(struct parse *parse)
{
    struct rondo_safetensors *file = parse->file;
    uint64_t end = 0, last = 0;
    if (file->n_tensors) /* qsort of nothing takes no NULL */
        qsort(parse->spans, file->n_tensors, sizeof *parse->spans, by_begin);
    for (size_t i = 0; i < file->n_tensors; i++) {
        const struct span *span = &parse->spans[i];
        if (span->begin < end)
            return rondo_fail(parse->error, RONDO_FAILED,
                              "%s: %s: data_offsets: overlaps %s (got begin %llu, want from %llu)",
                              file->path, file->tensors[span->tensor].name,
                              file->tensors[last].name, (unsigned long long)span->begin,
                              (unsigned long long)end);
        end = span->end;
        last = span->tensor;
    }
    if (end > parse->data_size)
        return rondo_fail(
            parse->error, RONDO_FAILED,
            "%s: the file is truncated: %llu bytes are missing (got %llu, want %llu bytes of "
            "tensors); fetch it again",
            file->path, (unsigned long long)(end - parse->data_size),
            (unsigned long long)parse->data_size, (unsigned long long)end);
    if (end < parse->data_size)
        return rondo_fail(
            parse->error, RONDO_FAILED,
            "%s: %llu bytes follow the last tensor (got %llu, want %llu bytes of tensors)",
            file->path, (unsigned long long)(parse->data_size - end),
            (unsigned long long)parse->data_size, (unsigned long long)end);
    for (size_t i = 0; i < file->n_tensors; i++)
        file->tensors[parse->spans[i].tensor].data = parse->data + parse->spans[i].begin;
    return RONDO_OK;
}

/* Makes room for all tensors of the header. */
static int allocate(struct parse *parse, const cJSON *root)
{
    size_t count = 0, bytes = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, root)
    {
        count++;
        bytes += strlen(item->string) + 1;
    }
    parse->file->tensors = calloc(count + 1, sizeof *parse->file->tensors);
    parse->file->names = malloc(bytes + 1);
    parse->spans = calloc(count + 1, sizeof *parse->spans);
    if (!parse->file->tensors || !parse->file->names || !parse->spans)
        return rondo_fail(parse->error, RONDO_FAILED, "%s: out of memory for %zu tensors",
                          parse->file->path, count);
    return RONDO_OK;
}

static int read_header(struct parse *parse, const cJSON *root)
{
    struct rondo_safetensors *file = parse->file;
    if (!cJSON_IsObject(root))
        return rondo_fail(parse->error, RONDO_FAILED,
                          "%s: header: wrong type (got %s, want an object)", file->path,
                          rondo_json_kind(root));
    if (allocate(parse, root))
        return RONDO_FAILED;
    char *name = file->names;
    const cJSON *item;
    cJSON_ArrayForEach(item, root)
    {
        if (strcmp(item->string, "__metadata__") == 0)
            continue;
        size_t length = strlen(item->string) + 1;
        memcpy(name, item->string, length);
        file->tensors[file->n_tensors].name = name;
        name += length;
        if (read_tensor(parse, item, file->n_tensors))
            return RONDO_FAILED;
        file->n_tensors++;
    }
    if (check_spans(parse))
        return RONDO_FAILED;
    if (file->n_tensors)
        qsort(file->tensors, file->n_tensors, sizeof *file->tensors, by_name);
    return RONDO_OK;
}

int rondo_safetensors_parse(struct rondo_safetensors *file, const char *path, const void *bytes,
                            size_t size, struct rondo_error *error)
{
    const unsigned char *at = bytes;
    uint64_t length = 0;
    *file = (struct rondo_safetensors){0};
    if (size < 8)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: not a safetensors file: too short (got %zu, want at least 8 bytes)",
                          path, size);
    for (int i = 0; i < 8; i++)
        length |= (uint64_t)at[i] << (8 * i);
    if (length > RONDO_SAFETENSORS_HEADER_LIMIT)
        return rondo_fail(
            error, RONDO_FAILED,
            "%s: header length: out of range (got %llu, want at most %llu); not a safetensors "
            "file?",
            path, (unsigned long long)length, (unsigned long long)RONDO_SAFETENSORS_HEADER_LIMIT);
    if (length > size - 8)
        return rondo_fail(
            error, RONDO_FAILED,
            "%s: the file is truncated: %llu bytes of the header are missing (got %zu, want %llu)",
            path, (unsigned long long)(length - (size - 8)), size - 8, (unsigned long long)length);
    struct parse parse = {
        .file = file, .error = error, .data = at + 8 + length, .data_size = size - 8 - length};
    cJSON *root = rondo_json_parse(path, (const char *)at + 8, length, error);
    int status = root ? RONDO_OK : RONDO_FAILED;
    if (root) {
        file->path = strdup(path);
        status = file->path
                     ? read_header(&parse, root)
                     : rondo_fail(error, RONDO_FAILED, "%s: out of memory for the path", path);
    }
    free(parse.spans);
    cJSON_Delete(root);
    if (status)
        rondo_safetensors_close(file);
    return status;
}

int rondo_safetensors_open(struct rondo_safetensors *file, const char *path,
                           struct rondo_error *error)
{
    struct rondo_mapping mapping;
    *file = (struct rondo_safetensors){0};
    if (rondo_mapping_open(&mapping, path, error))
        return RONDO_FAILED;
    int status = rondo_safetensors_parse(file, path, mapping.bytes ? mapping.bytes : "",
                                         mapping.size, error);
    if (status)
        rondo_mapping_close(&mapping);
    else
        file->mapping = mapping;
    return status;
}

void rondo_safetensors_close(struct rondo_safetensors *file)
{
    rondo_mapping_close(&file->mapping);
    free(file->tensors);
    free(file->names);
    free(file->path);
    *file = (struct rondo_safetensors){0};
}

const struct rondo_safetensors_tensor *rondo_safetensors_find(const struct rondo_safetensors *file,
                                                              const char *name)
{
    struct rondo_safetensors_tensor key = {.name = name};
    if (!file->n_tensors)
        return NULL;
    return bsearch(&key, file->tensors, file->n_tensors, sizeof *file->tensors, by_name);
}
