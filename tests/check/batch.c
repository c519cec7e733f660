/* Random ragged batches: ordinary sequences, draft trees, padding. */
#include "tests/check/internal.h"

#include <string.h>

/* Numbers 0 .. n-1 in random order. */
static int32_t *permutation(struct check *check, int32_t n)
{
    int32_t *order = check_allocate(check, (size_t)n * sizeof *order);
    for (int32_t i = 0; i < n; i++) {
        int32_t j = check_random_range(check, 0, i);
        order[i] = order[j];
        order[j] = i;
    }
    return order;
}

static int32_t at_least(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

/* Kinds, lengths and starts; places and slots. */
static void make_sequences(struct check *check, const struct check_batch_options *options,
                           struct check_batch *batch)
{
    int32_t n = options->n_sequences, tokens = 0;
    batch->n_slots = n + 2;
    int32_t *slots = permutation(check, batch->n_slots);
    batch->sequences = check_allocate(check, (size_t)n * sizeof *batch->sequences);
    for (int32_t b = 0; b < n; b++) {
        struct rondo_batch_sequence *sequence = &batch->sequences[b];
        bool draft = options->drafts && check_random(check) % 3 == 0;
        bool padding = options->padding && check_random(check) % 4 == 0;
        int32_t least = draft && options->min_tokens == 0 ? 1 : options->min_tokens;
        bool fresh = check_random(check) % 4 == 0;
        *sequence = (struct rondo_batch_sequence){
            .first_token = tokens,
            .n_tokens = check_random_range(check, least, options->max_tokens),
            .start = fresh ? 0 : check_random_range(check, 0, options->max_start),
            .slot = padding ? -1 : slots[b],
            .is_draft = draft,
        };
        tokens += sequence->n_tokens;
        batch->host.n_drafts += draft;
        batch->host.max_sequence_tokens =
            at_least(batch->host.max_sequence_tokens, sequence->n_tokens);
        batch->host.max_length =
            at_least(batch->host.max_length, sequence->start + sequence->n_tokens);
    }
    if (check_random(check) % 2) { /* bounds may be larger than the truth */
        batch->host.max_sequence_tokens = options->max_tokens;
        batch->host.max_length = options->max_start + options->max_tokens;
    }
    batch->host.n_sequences = n;
    batch->host.n_tokens = tokens;
    batch->max_draft = options->max_tokens;
}

/* token, position, sequence_of and parent, behind one another in one array. */
static void make_tokens(struct check *check, const struct check_batch_options *options,
                        struct check_batch *batch, int32_t *token, int32_t *position,
                        int32_t *sequence_of, int32_t *parent)
{
    for (int32_t b = 0; b < batch->host.n_sequences; b++) {
        const struct rondo_batch_sequence *sequence = &batch->sequences[b];
        for (int32_t i = 0; i < sequence->n_tokens; i++) {
            int32_t t = sequence->first_token + i;
            int32_t before = sequence->is_draft ? check_random_range(check, -1, i - 1) : i - 1;
            if (sequence->is_draft && i && check_random(check) % 2)
                before = i - 1; /* else trees would be shallow */
            parent[t] = sequence->is_draft ? before : -1;
            token[t] = check_random_range(check, 0, options->vocab_size - 1);
            sequence_of[t] = b;
            position[t] =
                before < 0 ? sequence->start : position[sequence->first_token + before] + 1;
        }
        for (int32_t t = sequence->first_token; t < sequence->first_token + sequence->n_tokens;
             t++) {
            batch->padding[t] = sequence->slot < 0;
            if (sequence->slot < 0)
                token[t] = position[t] = -1;
        }
    }
}

static int32_t pages_of(const struct rondo_batch_sequence *sequence)
{
    int32_t length = sequence->start + (sequence->is_draft ? 0 : sequence->n_tokens);
    return sequence->slot < 0 ? 0 : (length + RONDO_CHUNK - 1) / RONDO_CHUNK;
}

static void make_pages(struct check *check, struct check_batch *batch, int32_t *table)
{
    int32_t stride = batch->host.page_stride;
    int32_t *pages = permutation(check, batch->n_pages), used = 0;
    for (int32_t b = 0; b < batch->host.n_sequences; b++)
        for (int32_t i = 0; i < stride; i++)
            table[b * stride + i] = i < pages_of(&batch->sequences[b]) ? pages[used++] : -1;
}

struct check_batch *check_batch(struct check *check, const struct check_batch_options *options)
{
    struct check_batch *batch = check_allocate(check, sizeof *batch);
    make_sequences(check, options, batch);
    int32_t n = batch->host.n_tokens, sequences = batch->host.n_sequences;
    batch->padding = check_allocate(check, (size_t)n);
    batch->n_pages = 2;
    batch->host.page_stride = 1;
    for (int32_t b = 0; b < sequences; b++) {
        int32_t pages = pages_of(&batch->sequences[b]);
        batch->n_pages += pages;
        batch->host.page_stride =
            pages >= batch->host.page_stride ? pages + 1 : batch->host.page_stride;
    }
    size_t tokens_size = (size_t)n * 4,
           table_size = (size_t)sequences * (size_t)batch->host.page_stride * 4;
    int32_t *array[4];
    for (int i = 0; i < 4; i++)
        array[i] = check_allocate(check, tokens_size);
    int32_t *table = check_allocate(check, table_size);
    make_tokens(check, options, batch, array[0], array[1], array[2], array[3]);
    make_pages(check, batch, table);
    batch->host.token = array[0];
    batch->host.position = array[1];
    batch->host.sequence_of = array[2];
    batch->host.parent = array[3];
    batch->host.sequences = batch->sequences;
    batch->host.page_table = table;

    static const char *const names[4] = {"token", "position", "sequence_of", "parent"};
    struct check_buffer *buffer[4];
    for (int i = 0; i < 4; i++)
        buffer[i] = check_input(check, array[i], tokens_size, names[i]);
    struct check_buffer *sequence_buffer = check_input(
        check, batch->sequences, (size_t)sequences * sizeof *batch->sequences, "sequences");
    struct check_buffer *page_buffer = check_input(check, table, table_size, "page_table");
    for (int side = 0; side < 2; side++) {
        batch->side[side] = batch->host;
        batch->side[side].token = buffer[0]->data[side];
        batch->side[side].position = buffer[1]->data[side];
        batch->side[side].sequence_of = buffer[2]->data[side];
        batch->side[side].parent = buffer[3]->data[side];
        batch->side[side].sequences = sequence_buffer->data[side];
        batch->side[side].page_table = page_buffer->data[side];
    }
    return batch;
}
