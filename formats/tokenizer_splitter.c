/* Normalizer and pre-tokenizer of tokenizer.json: from a text to the spans that BPE encodes.
 *
 * Supported normalizers: null, NFC, NFD, NFKC, NFKD and sequences of them. Supported pre-tokenizers:
 * ByteLevel, alone or at the end of a sequence of Split and Digits. Spans follow the `tokenizers` library,
 * whose Split behaviours are folds over the list of matches and of what is between them. */
#include "formats/tokenizer_internal.h"

#include "formats/utf8.h"

#include <utf8proc.h>

#include <stdlib.h>
#include <string.h>

enum { MAX_STEPS = 16 };

enum behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };

enum step_kind { STEP_SPLIT, STEP_PREFIX_SPACE };

struct step {
    enum step_kind kind;
    struct rondo_regex *regex; /* of STEP_SPLIT */
    enum behavior behavior;
    bool invert;
};

struct rondo_splitter {
    utf8proc_option_t forms[MAX_STEPS];
    int n_forms;
    struct step steps[MAX_STEPS];
    int n_steps;
    bool byte_level; /* the last step of the file has been read */
};

/* ---- reading --------------------------------------------------------------------------------- */

static void read_normalizer(struct rondo_splitter *splitter, struct rondo_json_reader *reader)
{
    static const struct {
        const char *name;
        int options;
    } forms[] = {
        {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
        {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
        {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
        {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
    };
    const char *type = rondo_json_require_string(reader, "type");
    if (reader->status != RONDO_OK)
        return;
    if (strcmp(type, "Sequence") == 0) {
        const cJSON *item, *array = rondo_json_array(reader, "normalizers");
        size_t i = 0;
        cJSON_ArrayForEach(item, array)
        {
            struct rondo_json_reader element = rondo_json_element(reader, "normalizers", item, i++);
            if (element.status == RONDO_OK)
                read_normalizer(splitter, &element);
            reader->status = element.status;
        }
        return;
    }
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (strcmp(type, forms[i].name) != 0)
            continue;
        if (splitter->n_forms == MAX_STEPS)
            rondo_json_fail(reader, "type", "too many normalizers (want at most %d)", MAX_STEPS);
        else
            splitter->forms[splitter->n_forms++] = (utf8proc_option_t)forms[i].options;
        return;
    }
    rondo_json_fail(
        reader, "type",
        "this normalizer is not supported (got %.60s, want NFC, NFD, NFKC, NFKD or Sequence)",
        type);
}

static void add_split(struct rondo_splitter *splitter, struct rondo_json_reader *reader,
                      const char *key, const char *pattern, bool literal, enum behavior behavior,
                      bool invert)
{
    if (splitter->n_steps == MAX_STEPS) {
        rondo_json_fail(reader, key, "too many steps (want at most %d)", MAX_STEPS);
        return;
    }
    struct rondo_regex *regex = rondo_regex_compile(pattern, literal, reader, key);
    if (regex)
        splitter->steps[splitter->n_steps++] = (struct step){STEP_SPLIT, regex, behavior, invert};
}

static void read_split(struct rondo_splitter *splitter, struct rondo_json_reader *reader)
{
    static const char *const names[] = {"Removed", "Isolated", "MergedWithPrevious",
                                        "MergedWithNext", "Contiguous"};
    struct rondo_json_reader pattern = rondo_json_child(reader, "pattern");
    bool literal = rondo_json_has(&pattern, "String");
    const char *text = rondo_json_require_string(&pattern, literal ? "String" : "Regex");
    if (pattern.status != RONDO_OK) {
        reader->status = pattern.status;
        return;
    }
    const char *name = rondo_json_require_string(reader, "behavior");
    bool invert = rondo_json_bool(reader, "invert", false);
    if (reader->status != RONDO_OK)
        return;
    for (int i = 0; i < 5; i++) {
        if (strcmp(name, names[i]) != 0)
            continue;
        add_split(splitter, reader, "pattern", text, literal, (enum behavior)i, invert);
        return;
    }
    rondo_json_fail(
        reader, "behavior",
        "unknown (got %.60s, want Removed, Isolated, MergedWithPrevious, MergedWithNext or "
        "Contiguous)",
        name);
}

static void read_byte_level(struct rondo_splitter *splitter, struct rondo_json_reader *reader)
{
    static const char gpt2[] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    splitter->byte_level = true;
    if (rondo_json_bool(reader, "add_prefix_space", true)) {
        if (splitter->n_steps == MAX_STEPS) {
            rondo_json_fail(reader, NULL, "too many steps (want at most %d)", MAX_STEPS);
            return;
        }
        splitter->steps[splitter->n_steps++] = (struct step){.kind = STEP_PREFIX_SPACE};
    }
    if (rondo_json_bool(reader, "use_regex", true))
        add_split(splitter, reader, "use_regex", gpt2, false, ISOLATED, false);
}

static void read_pre_tokenizer(struct rondo_splitter *splitter, struct rondo_json_reader *reader)
{
    const char *type = rondo_json_require_string(reader, "type");
    if (reader->status != RONDO_OK)
        return;
    if (splitter->byte_level) {
        rondo_json_fail(reader, "type", "%.60s after ByteLevel is not supported", type);
    } else if (strcmp(type, "Sequence") == 0) {
        const cJSON *item, *array = rondo_json_array(reader, "pretokenizers");
        size_t i = 0;
        cJSON_ArrayForEach(item, array)
        {
            struct rondo_json_reader element =
                rondo_json_element(reader, "pretokenizers", item, i++);
            if (element.status == RONDO_OK)
                read_pre_tokenizer(splitter, &element);
            reader->status = element.status;
        }
    } else if (strcmp(type, "Split") == 0) {
        read_split(splitter, reader);
    } else if (strcmp(type, "Digits") == 0) {
        bool single = rondo_json_bool(reader, "individual_digits", false);
        add_split(splitter, reader, "type", "\\p{N}", false, single ? ISOLATED : CONTIGUOUS, false);
    } else if (strcmp(type, "ByteLevel") == 0) {
        read_byte_level(splitter, reader);
    } else {
        rondo_json_fail(
            reader, "type",
            "this pre-tokenizer is not supported (got %.60s, want ByteLevel, Split, Digits "
            "or Sequence)",
            type);
    }
}

struct rondo_splitter *rondo_splitter_read(struct rondo_json_reader *root)
{
    struct rondo_splitter *splitter = calloc(1, sizeof *splitter);
    if (!splitter) {
        rondo_json_fail(root, NULL, "out of memory");
        return NULL;
    }
    if (rondo_json_has(root, "normalizer")) {
        struct rondo_json_reader reader = rondo_json_child(root, "normalizer");
        read_normalizer(splitter, &reader);
        root->status = reader.status;
    }
    struct rondo_json_reader reader = rondo_json_child(root, "pre_tokenizer");
    if (reader.status == RONDO_OK && reader.object)
        read_pre_tokenizer(splitter, &reader);
    root->status = reader.status;
    if (root->status == RONDO_OK && !splitter->byte_level)
        rondo_json_fail(root, "pre_tokenizer",
                        "no ByteLevel step; only byte-level BPE tokenizers are supported");
    if (root->status != RONDO_OK) {
        rondo_splitter_free(splitter);
        return NULL;
    }
    return splitter;
}

void rondo_splitter_free(struct rondo_splitter *splitter)
{
    if (!splitter)
        return;
    for (int i = 0; i < splitter->n_steps; i++)
        rondo_regex_free(splitter->steps[i].regex);
    free(splitter);
}

/* ---- normalizing ----------------------------------------------------------------------------- */

static size_t ascii_length(const char *text, size_t length)
{
    size_t i = 0;
    while (i < length && !((unsigned char)text[i] & 0x80))
        i++;
    return i;
}

/* One form applied to valid UTF-8. */
static int append_form(utf8proc_option_t form, const char *text, size_t length,
                       struct rondo_bytes *out, struct rondo_error *error)
{
    utf8proc_uint8_t *result = NULL;
    utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &result, form);
    int status = RONDO_OK;
    if (n < 0)
        status = rondo_fail(error, RONDO_FAILED, "cannot normalise %zu bytes of text: %s", length,
                            utf8proc_errmsg(n));
    else if (!rondo_bytes_append(out, (const char *)result, (size_t)n))
        status = rondo_fail(error, RONDO_FAILED, "out of memory for %zu bytes of text", (size_t)n);
    free(result);
    return status;
}

/* Length of the run at the front that is valid UTF-8 (*valid) or is not. */
static size_t utf8_run(const char *text, size_t length, bool *valid)
{
    size_t n = rondo_utf8_valid_length(text, length);
    *valid = n > 0;
    while (!*valid && n < length) {
        size_t bad = 0;
        int sequence = rondo_utf8_sequence(text + n, length - n, &bad);
        if (sequence > 0)
            break;
        n += sequence == RONDO_UTF8_PARTIAL ? length - n : bad;
    }
    return n;
}

static int append_normal(utf8proc_option_t form, const char *text, size_t length,
                         struct rondo_bytes *out, struct rondo_error *error)
{
    if (ascii_length(text, length) == length) { /* every form leaves ASCII alone */
        if (!rondo_bytes_append(out, text, length))
            return rondo_fail(error, RONDO_FAILED, "out of memory for %zu bytes of text", length);
        return RONDO_OK;
    }
    for (size_t i = 0; i < length;) {
        bool valid;
        size_t n = utf8_run(text + i, length - i, &valid);
        if (valid) {
            int status = append_form(form, text + i, n, out, error);
            if (status != RONDO_OK)
                return status;
        } else if (!rondo_bytes_append(out, text + i, n)) {
            return rondo_fail(error, RONDO_FAILED, "out of memory for %zu bytes of text", n);
        }
        i += n;
    }
    return RONDO_OK;
}

int rondo_splitter_normalize(const struct rondo_splitter *splitter, const char *text, size_t length,
                             struct rondo_bytes *out, struct rondo_error *error)
{
    if (splitter->n_forms == 0) {
        if (!rondo_bytes_append(out, text, length))
            return rondo_fail(error, RONDO_FAILED, "out of memory for %zu bytes of text", length);
        return RONDO_OK;
    }
    struct rondo_bytes before = {0};
    int status = RONDO_OK;
    for (int i = 0; i < splitter->n_forms && status == RONDO_OK; i++) {
        bool last = i + 1 == splitter->n_forms;
        struct rondo_bytes after = {0};
        status = append_normal(splitter->forms[i], i ? before.data : text, i ? before.n : length,
                               last ? out : &after, error);
        free(before.data);
        before = after;
    }
    free(before.data);
    return status;
}

/* ---- splitting ------------------------------------------------------------------------------- */

static bool push_span(struct rondo_spans *spans, size_t start, size_t end)
{
    if (spans->n == spans->capacity) {
        size_t capacity = spans->capacity ? 2 * spans->capacity : 64;
        struct rondo_span *data = realloc(spans->data, capacity * sizeof *data);
        if (!data)
            return false;
        spans->data = data;
        spans->capacity = capacity;
    }
    spans->data[spans->n++] = (struct rondo_span){start, end - start};
    return true;
}

/* The fold over matches and gaps of one span, from left to right. */
struct fold {
    struct rondo_spans *out;
    size_t first; /* of out, where this span's results begin */
    bool previous;
    enum behavior behavior;
    bool invert;
};

static bool fold_add(struct fold *fold, size_t start, size_t end, bool is_match)
{
    is_match ^= fold->invert;
    bool join = false;
    switch (fold->behavior) {
    case REMOVED:
        if (is_match)
            return true;
        break;
    case ISOLATED:
        break;
    case MERGED_WITH_PREVIOUS:
        join = is_match && !fold->previous;
        break;
    case MERGED_WITH_NEXT: /* the library folds from the right: a gap joins the match before it, unless
                            * that match is followed by another match */
        join = !is_match && fold->previous;
        break;
    case CONTIGUOUS:
        join = is_match == fold->previous;
        break;
    }
    fold->previous = is_match;
    if (join && fold->out->n > fold->first) {
        struct rondo_span *last = &fold->out->data[fold->out->n - 1];
        last->length = end - last->start;
        return true;
    }
    return push_span(fold->out, start, end);
}

/* Splits valid UTF-8 at text->data[span]. An empty match splits where it is, but not right after another
 * match, where the search goes on one character later. */
static int split_span(const struct step *step, const struct rondo_bytes *text,
                      struct rondo_span span, struct rondo_regex_state *state,
                      struct rondo_spans *out, struct rondo_error *error)
{
    struct fold fold = {out, out->n, false, step->behavior, step->invert};
    const char *subject = text->data + span.start;
    size_t at = 0, done = 0, last_end = SIZE_MAX;
    bool good = true;
    while (at <= span.length && good) {
        size_t from = 0, to = 0;
        int found =
            rondo_regex_search(step->regex, state, subject, span.length, at, &from, &to, error);
        if (found < 0)
            return RONDO_FAILED;
        if (!found)
            break;
        if (from == to && to == last_end) {
            int n =
                at < span.length ? rondo_utf8_sequence(subject + at, span.length - at, NULL) : 1;
            at += n > 0 ? (size_t)n : 1;
            continue;
        }
        at = last_end = to;
        if (from > done)
            good = fold_add(&fold, span.start + done, span.start + from, false);
        if (good)
            good = fold_add(&fold, span.start + from, span.start + to, true);
        done = to;
    }
    if (good && done < span.length)
        good = fold_add(&fold, span.start + done, span.start + span.length, false);
    /* what is empty was a separator of others only */
    size_t kept = fold.first;
    for (size_t i = fold.first; i < out->n; i++)
        if (out->data[i].length > 0)
            out->data[kept++] = out->data[i];
    out->n = kept;
    return good ? RONDO_OK : rondo_fail(error, RONDO_FAILED, "out of memory for pre-tokens");
}

static int prefix_space(struct rondo_bytes *text, struct rondo_span span, struct rondo_spans *out,
                        struct rondo_error *error)
{
    bool good;
    if (text->data[span.start] == ' ') {
        good = push_span(out, span.start, span.start + span.length);
    } else {
        size_t start = text->n;
        good = rondo_bytes_reserve(text, span.length + 1) &&
               push_span(out, start, start + span.length + 1);
        if (good) {
            text->data[start] = ' ';
            memcpy(text->data + start + 1, text->data + span.start, span.length);
            text->n += span.length + 1;
        }
    }
    return good ? RONDO_OK : rondo_fail(error, RONDO_FAILED, "out of memory for pre-tokens");
}

/* A step on every span. A span is all valid UTF-8 or all invalid; the invalid ones pass as they are, so
 * that no pattern ever sees them. */
static int run_step(const struct step *step, struct rondo_bytes *text,
                    struct rondo_split_work *work, struct rondo_error *error)
{
    struct rondo_spans *out = &work->next;
    out->n = 0;
    for (size_t i = 0; i < work->spans.n; i++) {
        struct rondo_span span = work->spans.data[i];
        int status = RONDO_OK;
        if (rondo_utf8_sequence(text->data + span.start, span.length, NULL) <= 0)
            status = push_span(out, span.start, span.start + span.length)
                         ? RONDO_OK
                         : rondo_fail(error, RONDO_FAILED, "out of memory for pre-tokens");
        else if (step->kind == STEP_PREFIX_SPACE)
            status = prefix_space(text, span, out, error);
        else
            status = split_span(step, text, span, work->state, out, error);
        if (status != RONDO_OK)
            return status;
    }
    struct rondo_spans swap = work->spans;
    work->spans = work->next;
    work->next = swap;
    return RONDO_OK;
}

int rondo_splitter_split(const struct rondo_splitter *splitter, struct rondo_bytes *text,
                         size_t start, size_t length, struct rondo_split_work *work,
                         struct rondo_error *error)
{
    work->spans.n = 0;
    if (!work->state && !(work->state = rondo_regex_state_create()))
        return rondo_fail(error, RONDO_FAILED, "out of memory for pattern matching");
    for (size_t i = 0; i < length;) {
        bool valid;
        size_t n = utf8_run(text->data + start + i, length - i, &valid);
        if (!push_span(&work->spans, start + i, start + i + n))
            return rondo_fail(error, RONDO_FAILED, "out of memory for pre-tokens");
        i += n;
    }
    for (int i = 0; i < splitter->n_steps; i++) {
        int status = run_step(&splitter->steps[i], text, work, error);
        if (status != RONDO_OK)
            return status;
    }
    return RONDO_OK;
}

void rondo_split_work_free(struct rondo_split_work *work)
{
    free(work->spans.data);
    free(work->next.data);
    rondo_regex_state_free(work->state);
}
