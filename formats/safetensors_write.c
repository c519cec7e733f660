/* Writing safetensors files. */
#include "formats/safetensors_write.h"

#include "core/error.h"
#include "formats/output.h"
#include "formats/safetensors.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const dtype_names[RONDO_DTYPE_COUNT] = {
    [RONDO_F32] = "F32",         [RONDO_BF16] = "BF16", [RONDO_F16] = "F16",
    [RONDO_F8_E4M3] = "F8_E4M3", [RONDO_I32] = "I32",   [RONDO_U8] = "U8",
};

uint64_t rondo_safetensors_item_size(const struct rondo_safetensors_item *item)
{
    uint64_t size = rondo_dtype_size(item->dtype);
    for (int i = 0; i < item->n_dims; i++)
        size *= (uint64_t)item->shape[i];
    return size;
}

/* Names need no escapes in JSON, or the header fails. */
static bool is_plain(const char *name)
{
    for (; *name; name++)
        if ((unsigned char)*name < 0x20 || *name == '"' || *name == '\\')
            return false;
    return true;
}

static int print_header(FILE *stream, const struct rondo_safetensors_item *items, size_t n_items,
                        struct rondo_error *error)
{
    uint64_t offset = 0;
    fprintf(stream, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < n_items; i++) {
        const struct rondo_safetensors_item *item = &items[i];
        uint64_t size = rondo_safetensors_item_size(item);
        if (!is_plain(item->name))
            return rondo_fail(error, RONDO_FAILED, "%s: not a name that can be written",
                              item->name);
        fprintf(stream, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", item->name,
                dtype_names[item->dtype]);
        for (int d = 0; d < item->n_dims; d++)
            fprintf(stream, d ? ",%lld" : "%lld", (long long)item->shape[d]);
        fprintf(stream, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset,
                (unsigned long long)(offset + size));
        offset += size;
    }
    fprintf(stream, "}");
    return RONDO_OK;
}

char *rondo_safetensors_header(const struct rondo_safetensors_item *items, size_t n_items,
                               size_t *size, struct rondo_error *error)
{
    char *text = NULL;
    size_t length = 0;
    FILE *stream = open_memstream(&text, &length);
    int status = RONDO_OK;
    if (stream) {
        fwrite("........", 1, 8, stream); /* room for the length */
        status = print_header(stream, items, n_items, error);
        while (!status && (fflush(stream) == 0) && length % 64 != 0)
            for (size_t pad = 64 - length % 64; pad > 0; pad--)
                fputc(' ', stream);
        if (fclose(stream) != 0 && !status)
            status = rondo_fail(error, RONDO_FAILED, "safetensors header: out of memory");
    }
    if (!stream || status) {
        if (!stream)
            rondo_fail(error, RONDO_FAILED, "safetensors header: out of memory");
        free(text);
        return NULL;
    }
    uint64_t header = length - 8;
    if (header > RONDO_SAFETENSORS_HEADER_LIMIT) {
        rondo_fail(error, RONDO_FAILED,
                   "safetensors header: too long (got %llu, want at most %llu bytes)",
                   (unsigned long long)header, (unsigned long long)RONDO_SAFETENSORS_HEADER_LIMIT);
        free(text);
        return NULL;
    }
    for (int i = 0; i < 8; i++)
        text[i] = (char)(header >> (8 * i));
    *size = length;
    return text;
}

struct rondo_safetensors_writer {
    struct rondo_output *output;
    uint64_t *begin; /* [n_items] in the file */
};

struct rondo_safetensors_writer *
rondo_safetensors_create(const char *path, const struct rondo_safetensors_item *items,
                         size_t n_items, struct rondo_error *error)
{
    struct rondo_safetensors_writer *writer = calloc(1, sizeof *writer);
    size_t header_size = 0;
    char *header = rondo_safetensors_header(items, n_items, &header_size, error);
    int status = header ? RONDO_OK : RONDO_FAILED;
    if (writer)
        writer->begin = calloc(n_items + 1, sizeof *writer->begin);
    if (!status && (!writer || !writer->begin))
        status = rondo_fail(error, RONDO_FAILED, "%s: out of memory", path);
    if (!status) {
        uint64_t end = header_size;
        for (size_t i = 0; i < n_items; i++) {
            writer->begin[i] = end;
            end += rondo_safetensors_item_size(&items[i]);
        }
        writer->output = rondo_output_open(path, error);
        status = writer->output ? rondo_output_reserve(writer->output, end, error) : RONDO_FAILED;
    }
    if (!status)
        status = rondo_output_write(writer->output, 0, header, header_size, error);
    free(header);
    if (status) {
        rondo_safetensors_abort(writer);
        return NULL;
    }
    return writer;
}

int rondo_safetensors_write(struct rondo_safetensors_writer *writer, size_t index, uint64_t offset,
                            const void *bytes, size_t size, struct rondo_error *error)
{
    return rondo_output_write(writer->output, writer->begin[index] + offset, bytes, size, error);
}

int rondo_safetensors_finish(struct rondo_safetensors_writer *writer, struct rondo_error *error)
{
    int status = rondo_output_finish(writer->output, error);
    writer->output = NULL;
    rondo_safetensors_abort(writer);
    return status;
}

void rondo_safetensors_abort(struct rondo_safetensors_writer *writer)
{
    if (!writer)
        return;
    rondo_output_abort(writer->output);
    free(writer->begin);
    free(writer);
}
