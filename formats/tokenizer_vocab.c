/* Vocabulary of a byte-level BPE tokenizer: id <-> bytes. */
#include "formats/tokenizer_internal.h"

#include "formats/utf8.h"

#include <stdlib.h>
#include <string.h>

/* ---- growing arrays -------------------------------------------------------------------------- */

/* The capacity for n + more elements of `size` bytes, or 0 when that overflows. */
static size_t grown(size_t n, size_t more, size_t capacity, size_t size)
{
    if (more > SIZE_MAX / 2 / size - n)
        return 0;
    size_t wanted = n + more;
    capacity = capacity < 64 ? 64 : capacity;
    while (capacity < wanted)
        capacity += capacity / 2;
    return capacity;
}

bool rondo_bytes_reserve(struct rondo_bytes *bytes, size_t more)
{
    if (more <= bytes->capacity - bytes->n)
        return true;
    size_t capacity = grown(bytes->n, more, bytes->capacity, 1);
    char *data = capacity ? realloc(bytes->data, capacity) : NULL;
    if (!data)
        return false;
    bytes->data = data;
    bytes->capacity = capacity;
    return true;
}

bool rondo_bytes_append(struct rondo_bytes *bytes, const char *data, size_t n)
{
    if (!rondo_bytes_reserve(bytes, n))
        return false;
    if (n > 0)
        memcpy(bytes->data + bytes->n, data, n);
    bytes->n += n;
    return true;
}

bool rondo_ids_reserve(struct rondo_ids *ids, size_t more)
{
    if (more <= ids->capacity - ids->n)
        return true;
    size_t capacity = grown(ids->n, more, ids->capacity, sizeof *ids->data);
    int32_t *data = capacity ? realloc(ids->data, capacity * sizeof *data) : NULL;
    if (!data)
        return false;
    ids->data = data;
    ids->capacity = capacity;
    return true;
}

bool rondo_ids_append(struct rondo_ids *ids, const int32_t *data, size_t n)
{
    if (!rondo_ids_reserve(ids, n))
        return false;
    if (n > 0)
        memcpy(ids->data + ids->n, data, n * sizeof *data);
    ids->n += n;
    return true;
}

/* ---- byte-level characters ------------------------------------------------------------------- */

/* The printable characters of Latin-1 stand for themselves; the other 68 bytes, in order, are U+0100
 * and up (GPT-2's bytes_to_unicode). */
static bool stands_for_itself(unsigned c)
{
    return (c >= 0x21 && c <= 0x7e) || (c >= 0xa1 && c <= 0xac) || (c >= 0xae && c <= 0xff);
}

int rondo_byte_level_encode(unsigned char byte, char *out)
{
    uint32_t code_point = byte;
    if (!stands_for_itself(byte)) {
        code_point = 0x100;
        for (unsigned c = 0; c < byte; c++)
            code_point += !stands_for_itself(c);
    }
    return rondo_utf8_write(code_point, out);
}

/* The byte of a character, -1 when it is not one of the 256. */
static int byte_of(uint32_t code_point)
{
    if (code_point < 0x100)
        return stands_for_itself(code_point) ? (int)code_point : -1;
    uint32_t k = code_point - 0x100;
    if (k < 0x21)
        return (int)k;
    if (k < 0x21 + 0x22) /* 0x7f to 0xa0 */
        return (int)(k - 0x21 + 0x7f);
    return k == 0x21 + 0x22 ? 0xad : -1;
}

size_t rondo_byte_level_decode(const char *text, char *out)
{
    size_t n = 0;
    while (*text) {
        unsigned char c = (unsigned char)*text;
        int length = c < 0x80 ? 1 : c < 0xe0 ? 2 : 0; /* the text is valid: it comes from JSON */
        int byte = length ? byte_of(rondo_utf8_read(text, length)) : -1;
        if (byte < 0)
            return SIZE_MAX;
        out[n++] = (char)byte;
        text += length;
    }
    return n;
}

/* ---- the table ------------------------------------------------------------------------------- */

uint32_t rondo_hash_bytes(const char *bytes, size_t n)
{
    uint64_t hash = 0x9e3779b97f4a7c15u ^ n;
    while (n >= 8) {
        uint64_t word;
        memcpy(&word, bytes, 8);
        hash = (hash ^ word) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
        bytes += 8;
        n -= 8;
    }
    uint64_t word = 0;
    if (n > 0)
        memcpy(&word, bytes, n);
    hash = (hash ^ word) * 0xff51afd7ed558ccdu;
    hash ^= hash >> 29;
    return (uint32_t)(hash ^ hash >> 32);
}

/* The slot that holds these bytes, or the empty one where they belong. */
static uint32_t find_slot(const struct rondo_vocab *vocab, const char *bytes, size_t n)
{
    uint32_t slot = rondo_hash_bytes(bytes, n) & vocab->mask;
    for (; vocab->slots[slot] >= 0; slot = (slot + 1) & vocab->mask) {
        int32_t id = vocab->slots[slot];
        if (vocab->length[id] == n && memcmp(vocab->bytes.data + vocab->offset[id], bytes, n) == 0)
            break;
    }
    return slot;
}

int32_t rondo_vocab_find(const struct rondo_vocab *vocab, const char *bytes, size_t n)
{
    return n > 0 ? vocab->slots[find_slot(vocab, bytes, n)] : -1;
}

bool rondo_vocab_set(struct rondo_vocab *vocab, int32_t id, const char *bytes, size_t n, int flags)
{
    if (n > UINT32_MAX - vocab->bytes.n || !rondo_bytes_append(&vocab->bytes, bytes, n))
        return false;
    vocab->offset[id] = (uint32_t)(vocab->bytes.n - n);
    vocab->length[id] = (uint32_t)n;
    vocab->flags[id] = (unsigned char)(flags | RONDO_TOKEN_PRESENT);
    return true;
}

static bool allocate(struct rondo_vocab *vocab, int32_t largest, size_t n_entries)
{
    size_t size = (size_t)largest + 1, capacity = 64;
    while (capacity < 2 * n_entries)
        capacity *= 2;
    vocab->size = (int32_t)size;
    vocab->mask = (uint32_t)capacity - 1;
    vocab->offset = calloc(size, sizeof *vocab->offset);
    vocab->length = calloc(size, sizeof *vocab->length);
    vocab->flags = calloc(size, sizeof *vocab->flags);
    vocab->slots = malloc(capacity * sizeof *vocab->slots);
    if (!vocab->offset || !vocab->length || !vocab->flags || !vocab->slots)
        return false;
    memset(vocab->slots, -1, capacity * sizeof *vocab->slots);
    memset(vocab->of_byte, -1, sizeof vocab->of_byte);
    return true;
}

static int add_entry(struct rondo_vocab *vocab, const cJSON *item, struct rondo_json_reader *reader)
{
    int32_t id = (int32_t)item->valuedouble;
    if (vocab->flags[id])
        return rondo_json_fail(reader, "vocab", "id %d stands for two tokens, one is %.60s", id,
                               item->string);
    size_t n = strlen(item->string);
    char stack[256], *bytes = n <= sizeof stack ? stack : malloc(n);
    if (!bytes)
        return rondo_json_fail(reader, "vocab", "out of memory");
    size_t decoded = rondo_byte_level_decode(item->string, bytes);
    bool fits;
    if (decoded == SIZE_MAX) { /* not reachable by BPE: kept under its text */
        fits = rondo_vocab_set(vocab, id, item->string, n, 0);
    } else {
        uint32_t slot = find_slot(vocab, bytes, decoded); /* empty: JSON keys are unique */
        fits = rondo_vocab_set(vocab, id, bytes, decoded, RONDO_TOKEN_BYTE_LEVEL);
        if (fits && decoded > 0)
            vocab->slots[slot] = id;
        if (fits && decoded == 1)
            vocab->of_byte[(unsigned char)bytes[0]] = id;
    }
    if (bytes != stack)
        free(bytes);
    return fits ? RONDO_OK : rondo_json_fail(reader, "vocab", "out of memory");
}

int rondo_vocab_read(struct rondo_vocab *vocab, const cJSON *object, int32_t largest_added,
                     struct rondo_json_reader *reader)
{
    size_t n = 0;
    int32_t largest = largest_added;
    const cJSON *item;
    cJSON_ArrayForEach(item, object)
    {
        double id = item->valuedouble;
        if (!cJSON_IsNumber(item) || !(id >= 0 && id <= RONDO_MAX_TOKEN_ID) || id != (int32_t)id)
            return rondo_json_fail(reader, "vocab", "%.60s: not an id (want an integer, 0 to %d)",
                                   item->string, RONDO_MAX_TOKEN_ID);
        largest = id > largest ? (int32_t)id : largest;
        n++;
    }
    if (n == 0)
        return rondo_json_fail(reader, "vocab", "no token");
    if (!allocate(vocab, largest, n))
        return rondo_json_fail(reader, "vocab", "out of memory for %d tokens", largest + 1);
    cJSON_ArrayForEach(item, object)
    {
        if (add_entry(vocab, item, reader) != RONDO_OK)
            return reader->status;
    }
    return RONDO_OK;
}

void rondo_vocab_free(struct rondo_vocab *vocab)
{
    free(vocab->bytes.data);
    free(vocab->offset);
    free(vocab->length);
    free(vocab->flags);
    free(vocab->slots);
}
