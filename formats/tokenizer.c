/* tokenizer.json of the `tokenizers` library, for byte-level BPE: reading it, encoding, pieces.
 *
 * Encoding goes: added tokens that match raw text; normalizer; added tokens that match normalised text;
 * pre-tokenizer; merges; post-processor. What the file asks for and is not supported is an error on
 * opening. Without a normalizer the pieces of an encoded text, joined, are the text, whatever its bytes. */
#include "formats/tokenizer_internal.h"

#include "formats/file.h"
#include "formats/tokenizer.h"

#include <stdlib.h>
#include <string.h>

enum { LONGEST_ADDED = 1024 };
#define LONGEST_TEXT ((size_t)1 << 30)

struct rondo_tokenizer {
    struct rondo_vocab vocab;
    struct rondo_merges merges;
    struct rondo_splitter *splitter;
    struct rondo_matcher raw, normalized;
    struct rondo_ids before, after; /* what the post-processor puts around a text */
};

/* ---- reading --------------------------------------------------------------------------------- */

/* Refuses what changes the ids and is not implemented here. */
static int check_model(struct rondo_json_reader *model)
{
    const char *type = rondo_json_string(model, "type", "BPE");
    if (strcmp(type, "BPE") != 0)
        return rondo_json_fail(model, "type", "this model is not supported (got %.60s, want BPE)",
                               type);
    if (rondo_json_number(model, "dropout", 0, 1, 0) != 0)
        return rondo_json_fail(model, "dropout", "not supported (want null or 0)");
    if (rondo_json_bool(model, "byte_fallback", false))
        return rondo_json_fail(model, "byte_fallback", "not supported (got true, want false)");
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    for (int i = 0; i < 2; i++) {
        const char *affix = rondo_json_string(model, affixes[i], "");
        if (affix[0])
            return rondo_json_fail(model, affixes[i], "not supported (got \"%.60s\", want null)",
                                   affix);
    }
    if (!rondo_json_object(model, "vocab"))
        return rondo_json_fail(model, "vocab", "missing (want an object)");
    if (!rondo_json_array(model, "merges"))
        return rondo_json_fail(model, "merges", "missing (want an array)");
    return model->status;
}

static int check_decoder(struct rondo_json_reader *decoder)
{
    const char *type = rondo_json_string(decoder, "type", "ByteLevel"); /* null: no decoder */
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *item, *array = rondo_json_array(decoder, "decoders");
        size_t i = 0;
        cJSON_ArrayForEach(item, array)
        {
            struct rondo_json_reader element = rondo_json_element(decoder, "decoders", item, i++);
            decoder->status = check_decoder(&element);
        }
        return decoder->status;
    }
    if (strcmp(type, "ByteLevel") != 0 && strcmp(type, "Fuse") != 0)
        return rondo_json_fail(decoder, "type",
                               "this decoder is not supported (got %.60s, want ByteLevel)", type);
    return decoder->status;
}

/* The largest id of added_tokens, -1 when there is none. */
static int32_t largest_added(struct rondo_json_reader *root)
{
    int32_t largest = -1;
    size_t i = 0;
    const cJSON *item, *array = rondo_json_array(root, "added_tokens");
    cJSON_ArrayForEach(item, array)
    {
        struct rondo_json_reader token = rondo_json_element(root, "added_tokens", item, i++);
        int32_t id = (int32_t)rondo_json_require_int(&token, "id", 0, RONDO_MAX_TOKEN_ID);
        largest = id > largest ? id : largest;
        root->status = token.status;
        if (root->status != RONDO_OK)
            return -1;
    }
    return largest;
}

/* The vocabulary may hold an added token too, then under the same id. */
static int check_vocab_id(const struct rondo_vocab *vocab, const char *content, int32_t id,
                          struct rondo_json_reader *token)
{
    char bytes[LONGEST_ADDED];
    size_t n = rondo_byte_level_decode(content, bytes);
    int32_t other = n == SIZE_MAX ? -1 : rondo_vocab_find(vocab, bytes, n);
    if (other >= 0 && other != id)
        return rondo_json_fail(token, "id",
                               "model.vocab has %.60s under another id (got %d, want %d)", content,
                               id, other);
    if (vocab->flags[id] & RONDO_TOKEN_ADDED)
        return rondo_json_fail(token, "id", "%d belongs to another added token", id);
    return RONDO_OK;
}

static int read_added_token(struct rondo_tokenizer *tokenizer, struct rondo_json_reader *reader)
{
    const char *content = rondo_json_require_string(reader, "content");
    struct rondo_added token = {
        .length = strlen(content),
        .id = (int32_t)rondo_json_require_int(reader, "id", 0, RONDO_MAX_TOKEN_ID),
        .special = rondo_json_bool(reader, "special", false),
        .single_word = rondo_json_bool(reader, "single_word", false),
        .lstrip = rondo_json_bool(reader, "lstrip", false),
        .rstrip = rondo_json_bool(reader, "rstrip", false),
    };
    bool normalized = rondo_json_bool(reader, "normalized", !token.special);
    if (reader->status != RONDO_OK || token.length == 0)
        return reader->status;
    if (token.length > LONGEST_ADDED)
        return rondo_json_fail(reader, "content", "too long (got %zu, want at most %d bytes)",
                               token.length, LONGEST_ADDED);
    if (check_vocab_id(&tokenizer->vocab, content, token.id, reader) != RONDO_OK)
        return reader->status;
    int flags = RONDO_TOKEN_ADDED | (token.special ? RONDO_TOKEN_SPECIAL : 0) |
                (tokenizer->vocab.flags[token.id] & RONDO_TOKEN_BYTE_LEVEL);
    struct rondo_bytes text = {0};
    if (!rondo_vocab_set(&tokenizer->vocab, token.id, content, token.length, flags))
        return rondo_json_fail(reader, "content", "out of memory");
    if (normalized) {
        reader->status = rondo_splitter_normalize(tokenizer->splitter, content, token.length, &text,
                                                  reader->error);
    } else if (!rondo_bytes_append(&text, content, token.length)) {
        rondo_json_fail(reader, "content", "out of memory");
    }
    token.content = text.data;
    token.length = text.n;
    if (reader->status != RONDO_OK || text.n == 0 ||
        !rondo_matcher_add(normalized ? &tokenizer->normalized : &tokenizer->raw, &token)) {
        free(text.data);
        if (text.n > 0)
            rondo_json_fail(reader, "content", "out of memory");
        return reader->status;
    }
    return RONDO_OK;
}

static int read_added_tokens(struct rondo_tokenizer *tokenizer, struct rondo_json_reader *root)
{
    size_t i = 0;
    const cJSON *item, *array = rondo_json_array(root, "added_tokens");
    cJSON_ArrayForEach(item, array)
    {
        struct rondo_json_reader token = rondo_json_element(root, "added_tokens", item, i++);
        root->status = read_added_token(tokenizer, &token);
        if (root->status != RONDO_OK)
            return root->status;
    }
    const struct rondo_added *twice = NULL;
    if (!rondo_matcher_finish(&tokenizer->raw, &twice) ||
        !rondo_matcher_finish(&tokenizer->normalized, &twice))
        return rondo_json_fail(root, "added_tokens", "two tokens have the content %.*s",
                               (int)(twice->length < 60 ? twice->length : 60), twice->content);
    return root->status;
}

/* ---- post-processor --------------------------------------------------------------------------- */

/* Appends the ids of one special token of a template: special_tokens[name].ids. */
static int read_template_token(struct rondo_tokenizer *tokenizer, struct rondo_json_reader *reader,
                               const char *name, struct rondo_ids *ids)
{
    struct rondo_json_reader tokens = rondo_json_child(reader, "special_tokens");
    struct rondo_json_reader token = rondo_json_child(&tokens, name);
    const cJSON *item, *array = rondo_json_array(&token, "ids");
    if (token.status == RONDO_OK && !array)
        rondo_json_fail(&token, "ids", "missing (want an array)");
    cJSON_ArrayForEach(item, array)
    {
        double value = item->valuedouble;
        int32_t id = cJSON_IsNumber(item) && value >= 0 && value < tokenizer->vocab.size
                         ? (int32_t)value
                         : -1;
        if (id < 0 || id != value)
            return rondo_json_fail(&token, "ids", "not an id (want integers, 0 to %d)",
                                   tokenizer->vocab.size - 1);
        if (!rondo_ids_append(ids, &id, 1))
            return rondo_json_fail(&token, "ids", "out of memory");
    }
    return token.status;
}

static int read_template(struct rondo_tokenizer *tokenizer, struct rondo_json_reader *reader)
{
    const cJSON *item, *array = rondo_json_array(reader, "single");
    size_t i = 0;
    bool text_seen = false;
    cJSON_ArrayForEach(item, array)
    {
        struct rondo_json_reader part = rondo_json_element(reader, "single", item, i++);
        if (rondo_json_has(&part, "Sequence")) {
            if (text_seen)
                rondo_json_fail(&part, "Sequence",
                                "a template with the text twice is not supported");
            text_seen = true;
        } else {
            struct rondo_json_reader special = rondo_json_child(&part, "SpecialToken");
            const char *name = rondo_json_require_string(&special, "id");
            part.status = special.status;
            if (part.status == RONDO_OK)
                part.status = read_template_token(
                    tokenizer, reader, name, text_seen ? &tokenizer->after : &tokenizer->before);
        }
        reader->status = part.status;
        if (reader->status != RONDO_OK)
            return reader->status;
    }
    return text_seen ? RONDO_OK
                     : rondo_json_fail(reader, "single", "the text is not in the template");
}

static int read_post_processor(struct rondo_tokenizer *tokenizer, struct rondo_json_reader *reader)
{
    const char *type = rondo_json_string(reader, "type", "ByteLevel"); /* null: nothing to do */
    if (reader->status != RONDO_OK || strcmp(type, "ByteLevel") == 0)  /* concerns offsets only */
        return reader->status;
    if (strcmp(type, "TemplateProcessing") == 0)
        return read_template(tokenizer, reader);
    if (strcmp(type, "Sequence") != 0)
        return rondo_json_fail(reader, "type",
                               "this post-processor is not supported (got %.60s, want ByteLevel, "
                               "TemplateProcessing or Sequence)",
                               type);
    const cJSON *item, *array = rondo_json_array(reader, "processors");
    size_t i = 0;
    cJSON_ArrayForEach(item, array)
    {
        struct rondo_json_reader element = rondo_json_element(reader, "processors", item, i++);
        if (element.status == RONDO_OK)
            read_post_processor(tokenizer, &element);
        reader->status = element.status;
    }
    return reader->status;
}

/* ---- open and close --------------------------------------------------------------------------- */

static int read_tokenizer(struct rondo_tokenizer *tokenizer, struct rondo_json_reader *root)
{
    struct rondo_json_reader model = rondo_json_child(root, "model");
    if (model.status == RONDO_OK && !model.object)
        return rondo_json_fail(root, "model", "missing (want an object)");
    struct rondo_json_reader decoder = rondo_json_child(root, "decoder");
    if ((root->status = check_model(&model)) != RONDO_OK ||
        (root->status = check_decoder(&decoder)) != RONDO_OK)
        return root->status;
    int32_t largest = largest_added(root);
    if (root->status != RONDO_OK || !(tokenizer->splitter = rondo_splitter_read(root)))
        return root->status;
    if ((root->status = rondo_vocab_read(&tokenizer->vocab, rondo_json_object(&model, "vocab"),
                                         largest, &model)) != RONDO_OK ||
        (root->status = rondo_merges_read(&tokenizer->merges, &tokenizer->vocab,
                                          rondo_json_array(&model, "merges"), &model)) != RONDO_OK)
        return root->status;
    tokenizer->merges.ignore = rondo_json_bool(&model, "ignore_merges", false);
    root->status = model.status;
    if (root->status != RONDO_OK || read_added_tokens(tokenizer, root) != RONDO_OK)
        return root->status;
    struct rondo_json_reader post = rondo_json_child(root, "post_processor");
    if (post.status == RONDO_OK)
        read_post_processor(tokenizer, &post);
    return root->status = post.status;
}

struct rondo_tokenizer *rondo_tokenizer_parse(const char *name, const char *text, size_t length,
                                              struct rondo_error *error)
{
    cJSON *json = rondo_json_parse(name, text, length, error);
    if (!json)
        return NULL;
    struct rondo_tokenizer *tokenizer = calloc(1, sizeof *tokenizer);
    struct rondo_json_reader root = rondo_json_reader(json, name, error);
    if (!tokenizer)
        rondo_json_fail(&root, NULL, "out of memory");
    else if (root.status == RONDO_OK)
        root.status = read_tokenizer(tokenizer, &root);
    cJSON_Delete(json);
    if (root.status == RONDO_OK)
        return tokenizer;
    rondo_tokenizer_close(tokenizer);
    return NULL;
}

struct rondo_tokenizer *rondo_tokenizer_open(const char *directory, struct rondo_error *error)
{
    struct rondo_tokenizer *tokenizer = NULL;
    size_t length;
    char *path = rondo_path_join(directory, "tokenizer.json", error);
    char *text = path ? rondo_file_read(path, RONDO_JSON_LIMIT, &length, error) : NULL;
    if (text)
        tokenizer = rondo_tokenizer_parse(path, text, length, error);
    free(text);
    free(path);
    return tokenizer;
}

void rondo_tokenizer_close(struct rondo_tokenizer *tokenizer)
{
    if (!tokenizer)
        return;
    rondo_vocab_free(&tokenizer->vocab);
    rondo_merges_free(&tokenizer->merges);
    rondo_splitter_free(tokenizer->splitter);
    rondo_matcher_free(&tokenizer->raw);
    rondo_matcher_free(&tokenizer->normalized);
    free(tokenizer->before.data);
    free(tokenizer->after.data);
    free(tokenizer);
}

/* ---- encoding --------------------------------------------------------------------------------- */

/* A pre-token met before: its bytes in `text` and its ids. Both arrays only grow during one call. */
struct seen {
    size_t offset, first;
    uint32_t length, n; /* length 0: an empty entry */
};

enum { N_SEEN = 4096, LONGEST_SEEN = 48, CACHE_FROM = 512 };

struct encoding {
    const struct rondo_tokenizer *tokenizer;
    bool special;
    struct rondo_bytes text; /* normalised pieces, one after the other */
    struct rondo_split_work split;
    struct rondo_merge_work merge;
    struct rondo_ids ids;
    struct seen *seen; /* [N_SEEN] by hash, NULL for short texts */
    struct rondo_error *error;
};

static int encode_pre_token(struct encoding *encoding, struct rondo_span span)
{
    const struct rondo_tokenizer *tokenizer = encoding->tokenizer;
    const char *bytes = encoding->text.data + span.start;
    struct seen *seen = NULL;
    if (encoding->seen && span.length <= LONGEST_SEEN) {
        seen = &encoding->seen[rondo_hash_bytes(bytes, span.length) % N_SEEN];
        if (seen->length == span.length &&
            memcmp(encoding->text.data + seen->offset, bytes, span.length) == 0) {
            if (!rondo_ids_reserve(&encoding->ids, seen->n))
                return rondo_fail(encoding->error, RONDO_FAILED, "out of memory for ids");
            return rondo_ids_append(&encoding->ids, encoding->ids.data + seen->first, seen->n)
                       ? RONDO_OK
                       : RONDO_FAILED;
        }
    }
    size_t first = encoding->ids.n;
    int status = rondo_merges_encode(&tokenizer->merges, &tokenizer->vocab, bytes, span.length,
                                     &encoding->merge, &encoding->ids, encoding->error);
    if (seen && status == RONDO_OK)
        *seen = (struct seen){span.start, first, (uint32_t)span.length,
                              (uint32_t)(encoding->ids.n - first)};
    return status;
}

static int encode_plain(struct encoding *encoding, size_t start, size_t length)
{
    if (length == 0)
        return RONDO_OK;
    int status = rondo_splitter_split(encoding->tokenizer->splitter, &encoding->text, start, length,
                                      &encoding->split, encoding->error);
    for (size_t i = 0; status == RONDO_OK && i < encoding->split.spans.n; i++)
        status = encode_pre_token(encoding, encoding->split.spans.data[i]);
    return status;
}

static int append_id(struct encoding *encoding, int32_t id)
{
    return rondo_ids_append(&encoding->ids, &id, 1)
               ? RONDO_OK
               : rondo_fail(encoding->error, RONDO_FAILED, "out of memory for ids");
}

/* A stretch between added tokens of the raw text. */
static int encode_stretch(struct encoding *encoding, const char *text, size_t length)
{
    const struct rondo_tokenizer *tokenizer = encoding->tokenizer;
    size_t base = encoding->text.n, done = 0, at = 0, start = 0, stop = 0;
    int status = rondo_splitter_normalize(tokenizer->splitter, text, length, &encoding->text,
                                          encoding->error);
    size_t n = encoding->text.n - base;
    const struct rondo_added *token = NULL;
    while (status == RONDO_OK &&
           (token = rondo_matcher_next(&tokenizer->normalized, encoding->text.data + base, n,
                                       encoding->special, done, &at, &start, &stop))) {
        status = encode_plain(encoding, base + done, start - done);
        if (status == RONDO_OK)
            status = append_id(encoding, token->id);
        done = stop;
    }
    return status == RONDO_OK ? encode_plain(encoding, base + done, n - done) : status;
}

static int encode_text(struct encoding *encoding, const char *text, size_t length)
{
    const struct rondo_tokenizer *tokenizer = encoding->tokenizer;
    size_t done = 0, at = 0, start = 0, stop = 0;
    int status = RONDO_OK;
    const struct rondo_added *token = NULL;
    while (status == RONDO_OK &&
           (token = rondo_matcher_next(&tokenizer->raw, text, length, encoding->special, done, &at,
                                       &start, &stop))) {
        if (start > done)
            status = encode_stretch(encoding, text + done, start - done);
        if (status == RONDO_OK)
            status = append_id(encoding, token->id);
        done = stop;
    }
    if (status == RONDO_OK && length > done)
        status = encode_stretch(encoding, text + done, length - done);
    return status;
}

/* Puts what the post-processor wants round the ids, unless the text has brought it along. */
static int post_process(struct encoding *encoding)
{
    const struct rondo_ids *before = &encoding->tokenizer->before,
                           *after = &encoding->tokenizer->after;
    struct rondo_ids *ids = &encoding->ids;
    if (!rondo_ids_reserve(ids, before->n + after->n + 1))
        return rondo_fail(encoding->error, RONDO_FAILED, "out of memory for ids");
    if (before->n > 0 && (ids->n < before->n ||
                          memcmp(ids->data, before->data, before->n * sizeof *ids->data) != 0)) {
        memmove(ids->data + before->n, ids->data, ids->n * sizeof *ids->data);
        memcpy(ids->data, before->data, before->n * sizeof *ids->data);
        ids->n += before->n;
    }
    if (after->n > 0 && (ids->n < after->n || memcmp(ids->data + ids->n - after->n, after->data,
                                                     after->n * sizeof *ids->data) != 0))
        rondo_ids_append(ids, after->data, after->n);
    return RONDO_OK;
}

int64_t rondo_tokenizer_encode(const struct rondo_tokenizer *tokenizer, const char *text,
                               size_t length, bool special, int32_t **ids,
                               struct rondo_error *error)
{
    if (length > LONGEST_TEXT) {
        rondo_fail(error, RONDO_FAILED,
                   "text: too long to encode (got %zu, want at most %zu bytes)", length,
                   LONGEST_TEXT);
        return -1;
    }
    struct encoding encoding = {.tokenizer = tokenizer, .special = special, .error = error};
    if (length >= CACHE_FROM) /* without it encoding is only slower */
        encoding.seen = calloc(N_SEEN, sizeof *encoding.seen);
    int status = encode_text(&encoding, text, length);
    if (status == RONDO_OK)
        status = post_process(&encoding);
    free(encoding.seen);
    free(encoding.text.data);
    rondo_split_work_free(&encoding.split);
    rondo_merge_work_free(&encoding.merge);
    if (status != RONDO_OK) {
        free(encoding.ids.data);
        return -1;
    }
    *ids = encoding.ids.data;
    return (int64_t)encoding.ids.n;
}

/* ---- pieces ----------------------------------------------------------------------------------- */

const char *rondo_tokenizer_piece(const struct rondo_tokenizer *tokenizer, int32_t id,
                                  size_t *length)
{
    if (id < 0 || id >= tokenizer->vocab.size || !tokenizer->vocab.flags[id]) {
        *length = 0;
        return "";
    }
    *length = tokenizer->vocab.length[id];
    return tokenizer->vocab.bytes.data + tokenizer->vocab.offset[id];
}

bool rondo_tokenizer_is_special(const struct rondo_tokenizer *tokenizer, int32_t id)
{
    return id >= 0 && id < tokenizer->vocab.size &&
           (tokenizer->vocab.flags[id] & RONDO_TOKEN_SPECIAL);
}

int32_t rondo_tokenizer_find(const struct rondo_tokenizer *tokenizer, const char *piece)
{
    const struct rondo_vocab *vocab = &tokenizer->vocab;
    size_t n = strlen(piece);
    for (int32_t id = vocab->size - 1; id >= 0; id--) /* added tokens come last as a rule */
        if ((vocab->flags[id] & RONDO_TOKEN_ADDED) && vocab->length[id] == n &&
            memcmp(vocab->bytes.data + vocab->offset[id], piece, n) == 0)
            return id;
    return rondo_vocab_find(vocab, piece, n);
}

int32_t rondo_tokenizer_size(const struct rondo_tokenizer *tokenizer)
{
    return tokenizer->vocab.size;
}
