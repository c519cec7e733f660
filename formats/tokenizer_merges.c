/* BPE merges: reading them, and encoding one pre-token.
 *
 * The rule: while a pair of neighbours has a merge, apply the one of lowest rank, the leftmost of equals.
 * Short pre-tokens keep the ranks of all pairs in an array and look for the smallest; long ones use a heap
 * over a linked list, so that a pre-token of n bytes costs O(n log n). Both follow the rule exactly. */
#include "formats/tokenizer_internal.h"

#include <stdlib.h>
#include <string.h>

enum { SHORT_PIECE = 64 };
#define NO_RANK UINT32_MAX

static uint64_t pair_of(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

static struct rondo_merge *find_slot(const struct rondo_merges *merges, uint64_t pair)
{
    uint64_t hash = pair * 0x9e3779b97f4a7c15u;
    uint64_t slot = (hash ^ hash >> 32) & merges->mask;
    while (merges->slots[slot].pair != pair && merges->slots[slot].pair != UINT64_MAX)
        slot = (slot + 1) & merges->mask;
    return &merges->slots[slot];
}

/* ---- reading --------------------------------------------------------------------------------- */

/* The two sides of a merge, "a b" or ["a", "b"], as byte strings. False when it is neither. *usable is
 * false when a side is not byte-level: such a merge can never apply. */
static bool read_sides(const cJSON *item, char *buffer, size_t *left, size_t *right, bool *usable)
{
    char *split = NULL;
    const char *first, *second;
    if (cJSON_IsString(item)) {
        split = strchr(item->valuestring, ' ');
        if (!split || strchr(split + 1, ' '))
            return false;
        *split = '\0'; /* restored below; the tree is ours */
        first = item->valuestring;
        second = split + 1;
    } else if (cJSON_IsArray(item) && cJSON_IsString(item->child) &&
               cJSON_IsString(item->child->next) && !item->child->next->next) {
        first = item->child->valuestring;
        second = item->child->next->valuestring;
    } else {
        return false;
    }
    *left = rondo_byte_level_decode(first, buffer);
    *right = *left == SIZE_MAX ? SIZE_MAX : rondo_byte_level_decode(second, buffer + *left);
    *usable = *left != SIZE_MAX && *right != SIZE_MAX;
    if (split)
        *split = ' ';
    return true;
}

/* Longest text of a merge's two sides: an upper bound of their bytes. */
static size_t text_length(const cJSON *item)
{
    if (cJSON_IsString(item))
        return strlen(item->valuestring);
    size_t n = 0;
    const cJSON *side;
    cJSON_ArrayForEach(side, item) n += cJSON_IsString(side) ? strlen(side->valuestring) : 0;
    return n;
}

static int add_merge(struct rondo_merges *merges, const struct rondo_vocab *vocab,
                     const cJSON *item, uint32_t rank, char *buffer,
                     struct rondo_json_reader *reader)
{
    size_t left, right;
    bool usable;
    if (!read_sides(item, buffer, &left, &right, &usable))
        return rondo_json_fail(reader, "merges", "entry %u is neither \"a b\" nor [\"a\", \"b\"]",
                               rank);
    if (!usable)
        return RONDO_OK;
    int32_t left_id = rondo_vocab_find(vocab, buffer, left);
    int32_t right_id = rondo_vocab_find(vocab, buffer + left, right);
    int32_t id = rondo_vocab_find(vocab, buffer, left + right);
    if (left_id < 0 || right_id < 0 || id < 0)
        return rondo_json_fail(reader, "merges", "entry %u: %s is not in model.vocab", rank,
                               left_id < 0    ? "its left side"
                               : right_id < 0 ? "its right side"
                                              : "what it makes");
    struct rondo_merge *slot = find_slot(merges, pair_of(left_id, right_id));
    *slot = (struct rondo_merge){pair_of(left_id, right_id), rank, id};
    return RONDO_OK;
}

int rondo_merges_read(struct rondo_merges *merges, const struct rondo_vocab *vocab,
                      const cJSON *array, struct rondo_json_reader *reader)
{
    size_t n = 0, longest = 0, capacity = 64;
    const cJSON *item;
    cJSON_ArrayForEach(item, array)
    {
        size_t length = text_length(item);
        longest = length > longest ? length : longest;
        n++;
    }
    while (capacity < 2 * n)
        capacity *= 2;
    char *buffer = malloc(longest + 1);
    merges->slots = malloc(capacity * sizeof *merges->slots);
    merges->mask = capacity - 1;
    if (!buffer || !merges->slots || n >= NO_RANK) {
        free(buffer);
        return rondo_json_fail(reader, "merges", "out of memory for %zu merges", n);
    }
    memset(merges->slots, 0xff, capacity * sizeof *merges->slots);
    uint32_t rank = 0;
    cJSON_ArrayForEach(item, array)
    {
        if (add_merge(merges, vocab, item, rank++, buffer, reader) != RONDO_OK)
            break;
    }
    free(buffer);
    return reader->status;
}

void rondo_merges_free(struct rondo_merges *merges)
{
    free(merges->slots);
}

/* ---- encoding -------------------------------------------------------------------------------- */

static uint32_t rank_of(const struct rondo_merges *merges, int32_t left, int32_t right)
{
    const struct rondo_merge *slot = find_slot(merges, pair_of(left, right));
    return slot->pair == UINT64_MAX ? NO_RANK : slot->rank;
}

/* id[n] are the single bytes; returns how many ids are left in it. n <= SHORT_PIECE. */
static size_t merge_short(const struct rondo_merges *merges, int32_t *id, size_t n)
{
    uint32_t rank[SHORT_PIECE]; /* of the pair that begins at i; the last is always NO_RANK */
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = rank_of(merges, id[i], id[i + 1]);
    rank[n - 1] = NO_RANK;
    for (;;) {
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            best = rank[i] < rank[best] ? i : best;
        if (rank[best] == NO_RANK)
            return n;
        id[best] = find_slot(merges, pair_of(id[best], id[best + 1]))->id;
        size_t after = n - best - 2;
        memmove(id + best + 1, id + best + 2, after * sizeof *id);
        memmove(rank + best + 1, rank + best + 2, after * sizeof *rank);
        n--;
        rank[best] = best + 1 < n ? rank_of(merges, id[best], id[best + 1]) : NO_RANK;
        if (best > 0)
            rank[best - 1] = rank_of(merges, id[best - 1], id[best]);
    }
}

struct node {
    int32_t id; /* -1: merged into the one before */
    uint32_t previous, next;
};

/* Smallest rank first, then the leftmost: the comparison of one integer. */
static uint64_t heap_entry(uint32_t rank, size_t position)
{
    return (uint64_t)rank << 32 | (uint32_t)position;
}

static void heap_push(uint64_t *heap, size_t *n, uint64_t entry)
{
    size_t i = (*n)++;
    while (i > 0 && heap[(i - 1) / 2] > entry) {
        heap[i] = heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap[i] = entry;
}

static uint64_t heap_pop(uint64_t *heap, size_t *n)
{
    uint64_t top = heap[0], last = heap[--*n];
    size_t i = 0;
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= *n)
            break;
        if (child + 1 < *n && heap[child + 1] < heap[child])
            child++;
        if (heap[child] >= last)
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = last;
    return top;
}

static void push_pair(const struct rondo_merges *merges, const struct node *nodes, size_t left,
                      size_t right, uint64_t *heap, size_t *n_heap)
{
    uint32_t rank = rank_of(merges, nodes[left].id, nodes[right].id);
    if (rank != NO_RANK)
        heap_push(heap, n_heap, heap_entry(rank, left));
}

/* As merge_short, for any n. `heap` [3 n]: n - 1 pairs, and two new ones for each of n - 1 merges. Entries
 * whose pair has changed meanwhile are recognised by their rank and dropped. */
static size_t merge_long(const struct rondo_merges *merges, int32_t *id, size_t n,
                         struct node *nodes, uint64_t *heap)
{
    size_t n_heap = 0;
    for (size_t i = 0; i < n; i++)
        nodes[i] = (struct node){id[i], (uint32_t)(i - 1), (uint32_t)(i + 1)};
    for (size_t i = 0; i + 1 < n; i++)
        push_pair(merges, nodes, i, i + 1, heap, &n_heap);
    while (n_heap > 0) {
        uint64_t entry = heap_pop(heap, &n_heap);
        size_t left = (uint32_t)entry, right = nodes[left].next;
        if (nodes[left].id < 0 || right >= n)
            continue;
        const struct rondo_merge *slot =
            find_slot(merges, pair_of(nodes[left].id, nodes[right].id));
        if (slot->pair == UINT64_MAX || slot->rank != entry >> 32)
            continue;
        nodes[left].id = slot->id;
        nodes[right].id = -1;
        size_t next = nodes[left].next = nodes[right].next;
        if (next < n) {
            nodes[next].previous = (uint32_t)left;
            push_pair(merges, nodes, left, next, heap, &n_heap);
        }
        if (left > 0)
            push_pair(merges, nodes, nodes[left].previous, left, heap, &n_heap);
    }
    size_t count = 0;
    for (size_t i = 0; i < n; i = nodes[i].next)
        id[count++] = nodes[i].id;
    return count;
}

static bool reserve_work(struct rondo_merge_work *work, size_t n)
{
    size_t size = n * (3 * sizeof(uint64_t) + sizeof(struct node));
    if (size <= work->size)
        return true;
    void *memory = realloc(work->memory, size);
    if (!memory)
        return false;
    work->memory = memory;
    work->size = size;
    return true;
}

void rondo_merge_work_free(struct rondo_merge_work *work)
{
    free(work->memory);
}

int rondo_merges_encode(const struct rondo_merges *merges, const struct rondo_vocab *vocab,
                        const char *bytes, size_t n, struct rondo_merge_work *work,
                        struct rondo_ids *ids, struct rondo_error *error)
{
    if (n > INT32_MAX || !rondo_ids_reserve(ids, n))
        return rondo_fail(error, RONDO_FAILED, "out of memory for the ids of %zu bytes", n);
    int32_t *id = ids->data + ids->n;
    if (merges->ignore || n == 1) {
        int32_t whole = rondo_vocab_find(vocab, bytes, n);
        if (whole >= 0) {
            ids->data[ids->n++] = whole;
            return RONDO_OK;
        }
    }
    for (size_t i = 0; i < n; i++) {
        id[i] = vocab->of_byte[(unsigned char)bytes[i]];
        if (id[i] < 0)
            return rondo_fail(
                error, RONDO_FAILED,
                "tokenizer.json: model.vocab: no token for the byte 0x%02x of the text",
                (unsigned char)bytes[i]);
    }
    if (n <= SHORT_PIECE) {
        ids->n += merge_short(merges, id, n);
        return RONDO_OK;
    }
    if (!reserve_work(work, n))
        return rondo_fail(error, RONDO_FAILED, "out of memory for a run of %zu bytes", n);
    uint64_t *heap = work->memory; /* [3 n], then the nodes [n] */
    ids->n += merge_long(merges, id, n, (struct node *)(heap + 3 * n), heap);
    return RONDO_OK;
}
