/* The tokenizer against the `tokenizers` library (tests/reference/make_tokenizers.py), on any bytes, and on
 * files it must refuse. Usage: test-tokenizer FIXTURES */
#include "formats/file.h"
#include "formats/json.h"
#include "formats/tokenizer.h"
#include "formats/tokenizer_internal.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>

static struct rondo_tokenizer *open_fixture(const char *fixtures, const char *name)
{
    struct rondo_error error = {0};
    char *directory = rondo_path_join(fixtures, name, &error);
    struct rondo_tokenizer *tokenizer = rondo_tokenizer_open(directory, &error);
    EXPECT(tokenizer, "%s: %s", name, error.message);
    free(directory);
    return tokenizer;
}

/* The joined pieces of ids, malloc'ed. */
static char *decode(const struct rondo_tokenizer *tokenizer, const int32_t *ids, int64_t n,
                    size_t *length)
{
    size_t total = 0, piece_length;
    for (int64_t i = 0; i < n; i++) {
        rondo_tokenizer_piece(tokenizer, ids[i], &piece_length);
        total += piece_length;
    }
    char *text = malloc(total + 1);
    *length = 0;
    for (int64_t i = 0; i < n; i++) {
        const char *piece = rondo_tokenizer_piece(tokenizer, ids[i], &piece_length);
        memcpy(text + *length, piece, piece_length);
        *length += piece_length;
    }
    return text;
}

/* ---- the library's ids ------------------------------------------------------------------------ */

static void expect_ids(const struct rondo_tokenizer *tokenizer, const char *name, const cJSON *item)
{
    struct rondo_error error = {0};
    const char *text = cJSON_GetObjectItem(item, "text")->valuestring;
    bool special = cJSON_IsTrue(cJSON_GetObjectItem(item, "special"));
    const cJSON *want = cJSON_GetObjectItem(item, "ids");
    int32_t *ids = NULL;
    int64_t n = rondo_tokenizer_encode(tokenizer, text, strlen(text), special, &ids, &error);
    EXPECT(n == cJSON_GetArraySize(want), "%s: \"%.80s\": %lld ids, want %d (%s)", name, text,
           (long long)n, cJSON_GetArraySize(want), error.message);
    int64_t i = 0;
    const cJSON *id;
    cJSON_ArrayForEach(id, want)
    {
        if (i < n && ids[i] != id->valueint) {
            EXPECT(false, "%s: \"%.80s\": id %lld is %d, want %d", name, text, (long long)i, ids[i],
                   id->valueint);
            break;
        }
        i++;
    }
    free(ids);
}

static void test_expected(const char *fixtures, const char *name, int at_least)
{
    struct rondo_error error = {0};
    struct rondo_tokenizer *tokenizer = open_fixture(fixtures, name);
    char relative[64];
    snprintf(relative, sizeof relative, "%s/expected.json", name);
    char *path = rondo_path_join(fixtures, relative, &error);
    cJSON *expected = rondo_json_read(path, RONDO_JSON_LIMIT, &error);
    EXPECT(expected && cJSON_GetArraySize(expected) >= at_least, "%s: %s", path, error.message);
    const cJSON *item;
    if (tokenizer)
        cJSON_ArrayForEach(item, expected) expect_ids(tokenizer, name, item);
    cJSON_Delete(expected);
    free(path);
    rondo_tokenizer_close(tokenizer);
}

/* ---- the library's pre-tokens ------------------------------------------------------------------ */

static void expect_pieces(const struct rondo_splitter *splitter, const cJSON *item,
                          const char *pattern)
{
    struct rondo_error error = {0};
    struct rondo_split_work work = {0};
    struct rondo_bytes text = {0};
    const char *source = cJSON_GetObjectItem(item, "text")->valuestring;
    const cJSON *pieces = cJSON_GetObjectItem(item, "pieces"), *piece;
    int status = rondo_splitter_normalize(splitter, source, strlen(source), &text, &error);
    if (status == RONDO_OK)
        status = rondo_splitter_split(splitter, &text, 0, text.n, &work, &error);
    EXPECT(status == RONDO_OK, "%s", error.message);
    EXPECT((int)work.spans.n == cJSON_GetArraySize(pieces), "%s on \"%s\": %zu pieces, want %d",
           pattern, source, work.spans.n, cJSON_GetArraySize(pieces));
    size_t i = 0;
    cJSON_ArrayForEach(piece, pieces)
    {
        char want[256];
        size_t n = rondo_byte_level_decode(piece->valuestring, want);
        EXPECT(i < work.spans.n && work.spans.data[i].length == n &&
                   memcmp(text.data + work.spans.data[i].start, want, n) == 0,
               "%s on \"%s\": piece %zu is not \"%s\"", pattern, source, i, piece->valuestring);
        i++;
    }
    free(text.data);
    rondo_split_work_free(&work);
}

static void test_pre_tokens(const char *fixtures)
{
    struct rondo_error error = {0};
    char *path = rondo_path_join(fixtures, "pre_tokens.json", &error);
    cJSON *root = rondo_json_read(path, RONDO_JSON_LIMIT, &error);
    EXPECT(cJSON_GetArraySize(root) >= 50, "%s", error.message);
    const cJSON *item, *text;
    cJSON_ArrayForEach(item, root)
    {
        struct rondo_json_reader reader = rondo_json_reader(item, "pre_tokens.json", &error);
        struct rondo_splitter *splitter = rondo_splitter_read(&reader);
        char *described = cJSON_PrintUnformatted(
            cJSON_GetObjectItem(cJSON_GetObjectItem(item, "pre_tokenizer"), "pretokenizers")
                ->child);
        EXPECT(splitter, "%s", error.message);
        if (splitter)
            cJSON_ArrayForEach(text, cJSON_GetObjectItem(item, "texts"))
                expect_pieces(splitter, text, described);
        cJSON_free(described);
        rondo_splitter_free(splitter);
    }
    cJSON_Delete(root);
    free(path);
}

/* ---- any bytes -------------------------------------------------------------------------------- */

static uint32_t random_next(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

static void expect_round_trip(const struct rondo_tokenizer *tokenizer, const char *bytes, size_t n)
{
    struct rondo_error error = {0};
    char *copy = malloc(n ? n : 1); /* exact, so that ASan sees a read past the end */
    if (n > 0)
        memcpy(copy, bytes, n);
    for (int special = 0; special < 2; special++) {
        int32_t *ids = NULL;
        int64_t n_ids = rondo_tokenizer_encode(tokenizer, copy, n, special, &ids, &error);
        EXPECT(n_ids >= 0, "%zu bytes: %s", n, error.message);
        if (n_ids < 0)
            continue;
        size_t length;
        char *text = decode(tokenizer, ids, n_ids, &length);
        EXPECT(length == n && memcmp(text, bytes, n) == 0,
               "%zu bytes, special %d: came back as %zu", n, special, length);
        free(text);
        free(ids);
    }
    free(copy);
}

static void test_any_bytes(const char *fixtures)
{
    static const char *const pieces[] = {"\xff",
                                         "\xc3",
                                         "\xa9",
                                         "\xe4\xb8",
                                         "\xf0\x9f\x98",
                                         "\xed\xa0\x80",
                                         "\xc0\xaf",
                                         "\xf5",
                                         "\xf4\x90",
                                         "\n",
                                         "  ",
                                         "word",
                                         "\xc3\xa9",
                                         "\xe4\xb8\xbb",
                                         "7",
                                         "\0",
                                         "<role>",
                                         "'s",
                                         "\r\n",
                                         "<|",
                                         "\xcc\x81",
                                         "\xf0\x9f\x98\x80",
                                         "\x80",
                                         "!!"};
    struct rondo_tokenizer *tokenizer = open_fixture(fixtures, "demo");
    if (!tokenizer)
        return;
    uint64_t state = 1;
    for (int round = 0; round < 3000; round++) {
        char bytes[512];
        size_t n = 0, parts = random_next(&state) % 60;
        for (size_t i = 0; i < parts; i++) {
            const char *piece = pieces[random_next(&state) % 24];
            size_t length = piece[0] ? strlen(piece) : 1;
            memcpy(bytes + n, piece, length);
            n += length;
        }
        expect_round_trip(tokenizer, bytes, n);
    }
    for (int byte = 0; byte < 256; byte++) {
        char bytes[3] = {(char)byte, 'a', (char)byte};
        expect_round_trip(tokenizer, bytes, 1);
        expect_round_trip(tokenizer, bytes, 3);
    }
    static char run[100000];
    for (int byte = 0; byte < 256; byte += 15) {
        memset(run, byte, sizeof run);
        expect_round_trip(tokenizer, run, sizeof run);
    }
    rondo_tokenizer_close(tokenizer);
}

/* The cache of pre-tokens and the heap must not change ids: a long text is encoded as its lines are. */
static void test_long_text(const char *fixtures)
{
    struct rondo_tokenizer *tokenizer = open_fixture(fixtures, "demo");
    if (!tokenizer)
        return;
    struct rondo_error error = {0};
    uint64_t state = 7;
    enum { N = 60000 };
    char *text = malloc(N);
    int32_t *whole = NULL, *line = NULL;
    for (size_t i = 0; i < N; i++) {
        uint32_t r = random_next(&state);
        text[i] = i % 101 == 100 ? '\n' : r % 5 == 0 ? ' ' : (char)('a' + r / 8 % 7);
        if (i % 101 == 0)
            text[i] = 'x'; /* a line neither begins nor ends with a space */
        if (i % 101 == 99)
            text[i] = 'y';
    }
    int64_t n = rondo_tokenizer_encode(tokenizer, text, N, false, &whole, &error), at = 0;
    for (size_t i = 0; i < N; i += 101) {
        size_t length = N - i < 101 ? N - i : 101;
        int64_t m = rondo_tokenizer_encode(tokenizer, text + i, length, false, &line, &error);
        EXPECT(m > 0 && at + m <= n && memcmp(whole + at, line, (size_t)m * sizeof *line) == 0,
               "the line at %zu", i);
        at += m;
        free(line);
    }
    EXPECT(at == n, "%lld ids, want %lld", (long long)n, (long long)at);
    free(whole);
    free(text);
    rondo_tokenizer_close(tokenizer);
}

/* A pair that is queued and then changes must wait for its new rank: in "abcx" after b+c, a+b is gone, and
 * bc+x comes before a+bc. Long enough for the heap, and the same when short. */
static void test_stale_pair(void)
{
    static const char json[] = "{\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":"
                               "false},\"model\":{\"vocab\":{"
                               "\"a\":0,\"b\":1,\"c\":2,\"x\":3,\"bc\":4,\"ab\":5,\"bcx\":6,"
                               "\"abc\":7},\"merges\":[\"b c\","
                               "\"a b\",\"bc x\",\"a bc\"]}}";
    struct rondo_error error = {0};
    struct rondo_tokenizer *tokenizer =
        rondo_tokenizer_parse("t.json", json, sizeof json - 1, &error);
    EXPECT(tokenizer, "%s", error.message);
    char text[4 * 64];
    for (size_t i = 0; i < sizeof text; i++)
        text[i] = "abcx"[i % 4];
    for (size_t n = 4; tokenizer && n <= sizeof text; n += 4) {
        int32_t *ids = NULL;
        int64_t n_ids = rondo_tokenizer_encode(tokenizer, text, n, false, &ids, &error);
        EXPECT(n_ids == (int64_t)n / 2, "%zu bytes: %lld ids", n, (long long)n_ids);
        for (int64_t i = 0; i < n_ids; i++)
            EXPECT(ids[i] == (i % 2 ? 6 : 0), "%zu bytes: id %lld is %d", n, (long long)i, ids[i]);
        if (n_ids >= 0)
            free(ids);
    }
    rondo_tokenizer_close(tokenizer);
}

static void test_lookup(const char *fixtures)
{
    struct rondo_tokenizer *tokenizer = open_fixture(fixtures, "demo");
    if (!tokenizer)
        return;
    size_t n;
    int32_t role = rondo_tokenizer_find(tokenizer, "<role>"),
            a = rondo_tokenizer_find(tokenizer, "a");
    EXPECT(rondo_tokenizer_size(tokenizer) == 1507, "size %d", rondo_tokenizer_size(tokenizer));
    EXPECT(role == 1505 && rondo_tokenizer_is_special(tokenizer, role), "<role> is %d", role);
    EXPECT(a >= 0 && !rondo_tokenizer_is_special(tokenizer, a), "a is %d", a);
    EXPECT(rondo_tokenizer_find(tokenizer, " the") >= 0, "\" the\"");
    EXPECT(rondo_tokenizer_find(tokenizer, "nothing like this") == -1, "unknown piece");
    EXPECT(rondo_tokenizer_find(tokenizer, "") == -1, "empty piece");
    EXPECT(strncmp(rondo_tokenizer_piece(tokenizer, role, &n), "<role>", 6) == 0 && n == 6,
           "piece");
    rondo_tokenizer_piece(tokenizer, 1507, &n);
    EXPECT(n == 0, "past the end");
    rondo_tokenizer_piece(tokenizer, -1, &n);
    EXPECT(n == 0 && !rondo_tokenizer_is_special(tokenizer, -1), "negative id");
    rondo_tokenizer_close(tokenizer);
}

/* ---- files it must refuse --------------------------------------------------------------------- */

#define PRE "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"
#define MODEL                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"

static void test_refused(void)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{" PRE "," MODEL "}", NULL},
        {"[]", "t.json: wrong type (got an array, want an object)"},
        {"{" PRE "}", "t.json: model: missing"},
        {"{" MODEL "}", "t.json: pre_tokenizer: no ByteLevel step"},
        {"{\"model\":{\"type\":\"Unigram\"}}",
         "model.type: this model is not supported (got Unigram"},
        {"{\"model\":{\"vocab\":{}}}", "model.merges: missing"},
        {"{" PRE ",\"model\":{\"vocab\":{},\"merges\":[]}}", "model.vocab: no token"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", "model.vocab: a: not an id"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":0.5},\"merges\":[]}}", "model.vocab: a: not an id"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":99999999},\"merges\":[]}}",
         "model.vocab: a: not an id"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]}}",
         "id 1 stands for two tokens"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":1},\"merges\":[\"a\"]}}",
         "model.merges: entry 0 is neither"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":1},\"merges\":[[\"a\"]]}}",
         "model.merges: entry 0 is neither"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":1},\"merges\":[\"a b\"]}}",
         "entry 0: its right side is not"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":1},\"merges\":[[\"a\",\"a\"]]}}",
         "entry 0: what it makes"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":1},\"merges\":[],\"byte_fallback\":true}}",
         "byte_fallback"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":1},\"merges\":[],\"dropout\":0.5}}",
         "dropout: not supported"},
        {"{" PRE ",\"model\":{\"vocab\":{\"a\":1},\"merges\":[],\"end_of_word_suffix\":\"w\"}}",
         "model.end_of_word_suffix: not supported (got \"w\""},
        {"{\"normalizer\":{\"type\":\"Lowercase\"}," PRE "," MODEL "}",
         "normalizer.type: this normalizer is not supported (got Lowercase"},
        {"{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},{\"type\":"
         "\"Strip\"}]}," PRE "," MODEL "}",
         "normalizer.normalizers[1].type: this normalizer"},
        {"{\"pre_tokenizer\":{\"type\":\"Metaspace\"}," MODEL "}",
         "pre_tokenizer.type: this pre-tokenizer"},
        {"{\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
         "{\"type\":\"Digits\"}]}," MODEL "}",
         "pretokenizers[1].type: Digits after ByteLevel"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":"
         "\"Isolated\"}," MODEL "}",
         "pre_tokenizer.pattern: the pattern (: missing closing parenthesis"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?m).\"},\"behavior\":"
         "\"Isolated\"}," MODEL "}",
         "the pattern (?m).: a group other than"},
        {"{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":"
         "\"Odd\"}," MODEL "}",
         "pre_tokenizer.behavior: unknown (got Odd"},
        {"{" PRE "," MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", "decoder.type: this decoder"},
        {"{" PRE "," MODEL ",\"post_processor\":{\"type\":\"BertProcessing\"}}",
         "post_processor.type: this"},
        {"{" PRE "," MODEL
         ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":"
         "{\"id\":\"x\"}}],\"special_tokens\":{\"x\":{\"ids\":[7]}}}}",
         "post_processor.special_tokens.x.ids: not an id (want integers, 0 to 2)"},
        {"{" PRE "," MODEL ",\"added_tokens\":[{\"id\":3}]}", "added_tokens[0].content: missing"},
        {"{" PRE "," MODEL ",\"added_tokens\":[{\"content\":\"x\"}]}",
         "added_tokens[0].id: missing"},
        {"{" PRE "," MODEL ",\"added_tokens\":[{\"id\":5,\"content\":\"ab\"}]}",
         "added_tokens[0].id: model.vocab has ab under another id (got 5, want 2)"},
        {"{" PRE "," MODEL
         ",\"added_tokens\":[{\"id\":3,\"content\":\"x\"},{\"id\":4,\"content\":\"x\"}]}",
         "added_tokens: two tokens have the content x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rondo_error error = {0};
        struct rondo_tokenizer *tokenizer =
            rondo_tokenizer_parse("t.json", cases[i].text, strlen(cases[i].text), &error);
        if (cases[i].message)
            EXPECT(!tokenizer && strstr(error.message, cases[i].message),
                   "case %zu: \"%s\", want \"%s\"", i, tokenizer ? "accepted" : error.message,
                   cases[i].message);
        else
            EXPECT(tokenizer, "case %zu: %s", i, error.message);
        int32_t *ids = NULL;
        if (tokenizer) {
            EXPECT(rondo_tokenizer_encode(tokenizer, "aab", 3, false, &ids, &error) == 2 &&
                       ids[0] == 0 && ids[1] == 2,
                   "%s", error.message);
            free(ids);
            EXPECT(rondo_tokenizer_encode(tokenizer, "abc", 3, false, &ids, &error) == -1 &&
                       strstr(error.message, "no token for the byte 0x63"),
                   "%s", error.message);
        }
        rondo_tokenizer_close(tokenizer);
    }
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    test_expected(argv[1], "demo", 100);
    test_expected(argv[1], "nfc", 100);
    test_expected(argv[1], "flags", 100);
    test_expected(argv[1], "gpt2", 100);
    test_expected(argv[1], "splits", 100);
    test_pre_tokens(argv[1]);
    test_any_bytes(argv[1]);
    test_long_text(argv[1]);
    test_stale_pair();
    test_lookup(argv[1]);
    test_refused();
    return test_result();
}
