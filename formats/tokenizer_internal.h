/* Parts of the byte-level BPE tokenizer, bottom up:
 *
 *   vocab     id <-> bytes. Byte-level files write every byte as a printable character; those strings are
 *             turned back into bytes when the file is read, so that encoding works on bytes throughout.
 *   merges    pair of ids -> rank and merged id; encodes one pre-token.
 *   regex     a pattern of the file, translated from Oniguruma's dialect to PCRE2.
 *   splitter  normalizer and pre-tokenizer: text -> normalised text -> spans, one per pre-token.
 *
 * All are read-only after loading; what encoding needs to write is in the caller's hands.
 */
#ifndef RONDO_FORMATS_TOKENIZER_INTERNAL_H
#define RONDO_FORMATS_TOKENIZER_INTERNAL_H

#include "formats/json.h"

#define RONDO_MAX_TOKEN_ID ((1 << 22) - 1)

/* ---- growing arrays -------------------------------------------------------------------------- */

struct rondo_bytes {
    char *data; /* [n] of capacity */
    size_t n, capacity;
};
/* Both return false when memory is short. */
bool rondo_bytes_reserve(struct rondo_bytes *bytes, size_t more);
bool rondo_bytes_append(struct rondo_bytes *bytes, const char *data, size_t n);

struct rondo_ids {
    int32_t *data; /* [n] of capacity */
    size_t n, capacity;
};
bool rondo_ids_reserve(struct rondo_ids *ids, size_t more);
bool rondo_ids_append(struct rondo_ids *ids, const int32_t *data, size_t n);

/* ---- vocab ----------------------------------------------------------------------------------- */

enum {
    RONDO_TOKEN_PRESENT = 1,
    RONDO_TOKEN_BYTE_LEVEL = 2, /* made of the 256 byte characters: BPE can produce it */
    RONDO_TOKEN_ADDED = 4,
    RONDO_TOKEN_SPECIAL = 8,
};

struct rondo_vocab {
    int32_t size; /* ids are below it */
    struct rondo_bytes bytes;
    uint32_t *offset;     /* [size] in bytes */
    uint32_t *length;     /* [size] */
    unsigned char *flags; /* [size] */
    int32_t *slots;       /* [mask + 1] hash table of the byte-level pieces: id or -1 */
    uint32_t mask;
    int32_t of_byte[256]; /* id of each single byte, -1: none */
};

/* Bytes of a byte-level string: writes at most strlen(text) bytes and returns how many, or SIZE_MAX when
 * a character is not one of the 256. */
size_t rondo_byte_level_decode(const char *text, char *out);
/* Writes the character of a byte (1 or 2 bytes of UTF-8) and returns its length. */
int rondo_byte_level_encode(unsigned char byte, char *out);

/* `object` is model.vocab; `largest_added` the largest id of added_tokens. */
int rondo_vocab_read(struct rondo_vocab *vocab, const cJSON *object, int32_t largest_added,
                     struct rondo_json_reader *reader);
void rondo_vocab_free(struct rondo_vocab *vocab);
/* Replaces the bytes of an id, which must be below size. */
bool rondo_vocab_set(struct rondo_vocab *vocab, int32_t id, const char *bytes, size_t n, int flags);
uint32_t rondo_hash_bytes(const char *bytes, size_t n);
/* Id of a byte-level piece, -1: none. */
int32_t rondo_vocab_find(const struct rondo_vocab *vocab, const char *bytes, size_t n);

/* ---- merges ---------------------------------------------------------------------------------- */

struct rondo_merge {
    uint64_t pair; /* left << 32 | right; UINT64_MAX: an empty slot */
    uint32_t rank;
    int32_t id;
};

struct rondo_merges {
    struct rondo_merge *slots; /* [mask + 1] */
    uint64_t mask;
    bool ignore; /* a pre-token that is a token is taken whole, whatever the merges say */
};

/* What encoding long pre-tokens needs; zero-initialise, free with rondo_merge_work_free. */
struct rondo_merge_work {
    void *memory;
    size_t size;
};

int rondo_merges_read(struct rondo_merges *merges, const struct rondo_vocab *vocab,
                      const cJSON *array, struct rondo_json_reader *reader);
void rondo_merges_free(struct rondo_merges *merges);
/* Appends the ids of one pre-token of n >= 1 bytes. */
int rondo_merges_encode(const struct rondo_merges *merges, const struct rondo_vocab *vocab,
                        const char *bytes, size_t n, struct rondo_merge_work *work,
                        struct rondo_ids *ids, struct rondo_error *error);
void rondo_merge_work_free(struct rondo_merge_work *work);

/* ---- regex ----------------------------------------------------------------------------------- */

struct rondo_regex;       /* a compiled pattern */
struct rondo_regex_state; /* what one thread needs to match */

/* `literal`: the pattern is a plain string. Fails the reader at `key`. */
struct rondo_regex *rondo_regex_compile(const char *pattern, bool literal,
                                        struct rondo_json_reader *reader, const char *key);
void rondo_regex_free(struct rondo_regex *regex);
struct rondo_regex_state *rondo_regex_state_create(void);
void rondo_regex_state_free(struct rondo_regex_state *state);
/* First match at or after `start` in valid UTF-8. Returns 1 with [*from, *to), 0 for none, -1 with an
 * error when the pattern needs more steps or memory than is allowed. */
int rondo_regex_search(const struct rondo_regex *regex, struct rondo_regex_state *state,
                       const char *text, size_t length, size_t start, size_t *from, size_t *to,
                       struct rondo_error *error);

/* ---- added tokens ---------------------------------------------------------------------------- */

/* A token recognised in the text before BPE sees it. */
struct rondo_added {
    char *content; /* [length] as it is matched: normalised where the file says so */
    size_t length;
    int32_t id;
    bool special, single_word, lstrip, rstrip;
};

/* Added tokens matched on the same text, sorted by content. */
struct rondo_matcher {
    struct rondo_added *tokens; /* [n] of capacity */
    size_t n, capacity;
    bool first[256]; /* some token begins with this byte */
};

bool rondo_matcher_add(struct rondo_matcher *matcher, const struct rondo_added *token);
/* Sorts; false when two tokens have the same content, *twice. */
bool rondo_matcher_finish(struct rondo_matcher *matcher, const struct rondo_added **twice);
void rondo_matcher_free(struct rondo_matcher *matcher);
/* The next token at or after *at, leftmost first and then the longest. [*start, *stop) holds the spaces it
 * takes along, *start is at least `done`, *at is moved on. `special`: special ones count too. */
const struct rondo_added *rondo_matcher_next(const struct rondo_matcher *matcher, const char *text,
                                             size_t length, bool special, size_t done, size_t *at,
                                             size_t *start, size_t *stop);

/* ---- splitter -------------------------------------------------------------------------------- */

struct rondo_span {
    size_t start, length; /* in the normalised text */
};

struct rondo_spans {
    struct rondo_span *data; /* [n] of capacity */
    size_t n, capacity;
};

struct rondo_splitter;

/* `root` reads the whole file: its "normalizer" and "pre_tokenizer". */
struct rondo_splitter *rondo_splitter_read(struct rondo_json_reader *root);
void rondo_splitter_free(struct rondo_splitter *splitter);
/* Appends the normalised text. Bytes that are not valid UTF-8 stay as they are. */
int rondo_splitter_normalize(const struct rondo_splitter *splitter, const char *text, size_t length,
                             struct rondo_bytes *out, struct rondo_error *error);

struct rondo_split_work {
    struct rondo_spans spans, next; /* spans: the result */
    struct rondo_regex_state *state;
};

/* Pre-tokens of text->data[start, start + length), in order. A prefix space, where the file wants one,
 * makes the splitter append a copy to `text`. Runs of bytes that are not valid UTF-8 are pre-tokens of
 * their own. */
int rondo_splitter_split(const struct rondo_splitter *splitter, struct rondo_bytes *text,
                         size_t start, size_t length, struct rondo_split_work *work,
                         struct rondo_error *error);
void rondo_split_work_free(struct rondo_split_work *work);

#endif
