/* Texts, and calls made of parts of them: see order.h. */
#include "tests/check/order.h"

#include <string.h>

int32_t order_page(int32_t first_page, int32_t i)
{
    return (first_page + i * 7) % ORDER_PAGES;
}

struct order_text order_text(struct check *check, enum rondo_dtype dtype, const size_t width[3],
                             int32_t n)
{
    struct order_text text = {.n = n};
    for (int i = 0; i < 3; i++) {
        size_t values = (size_t)n * width[i];
        text.row[i] = check_allocate(check, values * rondo_dtype_size(dtype));
        for (size_t at = 0; at < values; at++)
            rondo_store(text.row[i], dtype, at, (float)check_random_normal(check));
    }
    return text;
}

struct order_text order_take(struct check *check, const struct order_text *text,
                             const size_t row_size[3], const int32_t *rows, int32_t n)
{
    struct order_text taken = {.n = n};
    for (int i = 0; i < 3; i++) {
        taken.row[i] = check_allocate(check, (size_t)n * row_size[i]);
        for (int32_t j = 0; j < n; j++)
            memcpy((char *)taken.row[i] + (size_t)j * row_size[i],
                   (char *)text->row[i] + (size_t)rows[j] * row_size[i], row_size[i]);
    }
    return taken;
}

/* Position, sequence_of and parent [T] of all tokens, behind one another. */
static int32_t *make_tokens(struct check *check, const struct order_part *parts, int n, int32_t T)
{
    int32_t *array = check_allocate(check, (size_t)T * 3 * sizeof *array);
    for (int i = 0, t = 0; i < n; i++) {
        int32_t *position = array + t;
        for (int32_t j = 0; j < parts[i].n; j++, t++) {
            int32_t parent = parts[i].parent ? parts[i].parent[j] : j - 1;
            position[j] = parent < 0 ? parts[i].start : position[parent] + 1;
            array[T + t] = i;
            array[2 * T + t] = parts[i].parent ? parent : -1;
        }
    }
    return array;
}

void order_batch(struct check *check, const struct order_part *parts, int n, int32_t extra,
                 int32_t pages, struct rondo_batch batch[2])
{
    struct rondo_batch_sequence *sequences = check_allocate(check, (size_t)n * sizeof *sequences);
    int32_t *page = check_allocate(check, ((size_t)n * (size_t)pages + 1) * sizeof *page);
    struct rondo_batch host = {.n_sequences = n, .page_stride = pages};
    for (int i = 0; i < n; i++) {
        const struct order_part *part = &parts[i];
        sequences[i] = (struct rondo_batch_sequence){host.n_tokens, part->n, part->start,
                                                     part->slot, part->parent != NULL};
        for (int32_t j = 0; j < pages; j++)
            page[i * pages + j] = order_page(part->first_page, j);
        host.n_tokens += part->n;
        if (part->n + extra > host.max_sequence_tokens)
            host.max_sequence_tokens = part->n + extra;
        if (part->start + part->n + extra > host.max_length)
            host.max_length = part->start + part->n + extra;
        host.n_drafts += part->parent != NULL || extra;
    }
    int32_t T = host.n_tokens;
    struct check_buffer *table =
        check_input(check, sequences, (size_t)n * sizeof *sequences, "sequences");
    struct check_buffer *page_table =
        pages ? check_input(check, page, (size_t)n * (size_t)pages * sizeof *page, "page_table")
              : NULL;
    struct check_buffer *tokens = check_input(check, make_tokens(check, parts, n, T),
                                              (size_t)T * 3 * sizeof(int32_t), "positions");
    for (int side = 0; side < 2; side++) {
        const int32_t *data = tokens->data[side];
        batch[side] = host;
        batch[side].token = batch[side].position = data;
        batch[side].sequence_of = data + T;
        batch[side].parent = data + 2 * T;
        batch[side].sequences = table->data[side];
        batch[side].page_table = page_table ? page_table->data[side] : NULL;
    }
}

struct check_buffer *order_rows(struct check *check, const struct order_part *parts, int n, int i,
                                size_t row_size)
{
    static const char *const names[3] = {"q", "k", "v"};
    size_t size = 0;
    for (int p = 0; p < n; p++)
        size += (size_t)parts[p].n * row_size;
    char *image = check_allocate(check, size), *to = image;
    for (int p = 0; p < n; p++) {
        memcpy(to, (char *)parts[p].text->row[i] + (size_t)parts[p].first * row_size,
               (size_t)parts[p].n * row_size);
        to += (size_t)parts[p].n * row_size;
    }
    return check_input(check, image, size, names[i]);
}

void order_results(struct check *check, const struct order_part *parts, int n,
                   struct check_buffer *out, size_t row_size)
{
    check_download(check, out);
    const char *from = out->result[CHECK_TESTED];
    for (int p = 0; p < n; p++) {
        size_t size = (size_t)parts[p].n * row_size;
        if (parts[p].out)
            memcpy(parts[p].out, from, size);
        from += size;
    }
}
