/* JSON files over cJSON: strict reading, and typed getters that fail by file and field name. */
#include "formats/json.h"

#include "formats/file.h"
#include "formats/utf8.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading -------------------------------------------------------------------------------- */

static cJSON *fail_at(const char *name, const char *text, size_t offset, const char *what,
                      struct rondo_error *error)
{
    size_t line = 1, start = 0;
    for (size_t i = 0; i < offset; i++) {
        if (text[i] == '\n') {
            line++;
            start = i + 1;
        }
    }
    rondo_fail(error, RONDO_FAILED, "%s: line %zu, column %zu: %s", name, line, offset - start + 1,
               what);
    return NULL;
}

/* Looks at what cJSON accepts silently or follows without limit. Returns NULL, or what is wrong and
 * *offset. */
static const char *check_text(const char *text, size_t length, size_t *offset)
{
    size_t depth = 0;
    bool in_string = false;
    *offset = rondo_utf8_valid_length(text, length);
    if (*offset < length)
        return "not valid UTF-8";
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)text[i];
        *offset = i;
        if (c == '\0')
            return "a NUL byte";
        if (in_string) {
            if (c == '"') {
                in_string = false;
            } else if (c == '\\') {
                if (length - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0)
                    return "U+0000 in a string is not supported";
                i++;
            } else if (c < 0x20) {
                return "a control character in a string";
            }
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > RONDO_JSON_DEPTH)
                return "objects and arrays are nested too deeply";
        } else if (c == '}' || c == ']') {
            depth -= depth > 0;
        } else if (c < 0x20 && c != '\n' && c != '\r' && c != '\t') {
            return "a control character between values";
        }
    }
    return NULL;
}

static uint64_t hash_string(const char *string)
{
    uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *string; string++)
        hash = (hash ^ (unsigned char)*string) * 0x100000001b3u;
    return hash ^ hash >> 29;
}

/* The first key that an object repeats, or NULL. Sets *no_memory. */
static const char *repeated_key(const cJSON *object, bool *no_memory)
{
    size_t n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, object) n++;
    if (n <= 16) {
        cJSON_ArrayForEach(
            item, object) for (const cJSON *later = item->next; later;
                               later = later->next) if (strcmp(item->string, later->string) ==
                                                        0) return item->string;
        return NULL;
    }
    size_t capacity = 64;
    while (capacity < 2 * n)
        capacity *= 2;
    const char **table = calloc(capacity, sizeof *table);
    if (!table) {
        *no_memory = true;
        return NULL;
    }
    const char *repeated = NULL;
    cJSON_ArrayForEach(item, object)
    {
        size_t slot = hash_string(item->string) & (capacity - 1);
        while (table[slot] && strcmp(table[slot], item->string) != 0)
            slot = (slot + 1) & (capacity - 1);
        if (table[slot]) {
            repeated = item->string;
            break;
        }
        table[slot] = item->string;
    }
    free(table);
    return repeated;
}

/* Searches the tree; its depth is limited by check_text. */
static const char *find_repeated_key(const cJSON *value, bool *no_memory)
{
    if (cJSON_IsObject(value)) {
        const char *key = repeated_key(value, no_memory);
        if (key || *no_memory)
            return key;
    }
    const cJSON *item;
    cJSON_ArrayForEach(item, value)
    {
        const char *key = item->child ? find_repeated_key(item, no_memory) : NULL;
        if (key || *no_memory)
            return key;
    }
    return NULL;
}

cJSON *rondo_json_parse(const char *name, const char *text, size_t length,
                        struct rondo_error *error)
{
    size_t offset = 0;
    const char *wrong = check_text(text, length, &offset);
    if (wrong)
        return fail_at(name, text, offset, wrong, error);
    /* cJSON looks at the byte before `length` only, but stops at a NUL where there is one */
    const char *end = NULL;
    cJSON *root = cJSON_ParseWithLengthOpts(text, length, &end, false);
    if (!root) {
        /* cJSON points at the last byte when the text stops short */
        offset = end ? (size_t)(end - text) : 0;
        return fail_at(
            name, text, offset,
            offset + 1 < length ? "not valid JSON" : "not valid JSON, or it ends too early", error);
    }
    for (offset = (size_t)(end - text); offset < length; offset++) {
        if (!strchr(" \t\r\n", text[offset])) {
            cJSON_Delete(root);
            return fail_at(name, text, offset, "text after the end of the JSON value", error);
        }
    }
    bool no_memory = false;
    const char *key = find_repeated_key(root, &no_memory);
    if (key || no_memory) {
        if (no_memory)
            rondo_fail(error, RONDO_FAILED, "%s: out of memory", name);
        else
            rondo_fail(error, RONDO_FAILED, "%s: %.200s: the key is there twice in one object",
                       name, key);
        cJSON_Delete(root);
        return NULL;
    }
    return root;
}

cJSON *rondo_json_read(const char *path, size_t limit, struct rondo_error *error)
{
    size_t length;
    char *text = rondo_file_read(path, limit, &length, error);
    if (!text)
        return NULL;
    cJSON *root = rondo_json_parse(path, text, length, error);
    free(text);
    return root;
}

/* ---- getters -------------------------------------------------------------------------------- */

const char *rondo_json_kind(const cJSON *value)
{
    if (!value)
        return "nothing";
    switch (value->type & 0xff) {
    case cJSON_False:
    case cJSON_True:
        return "a bool";
    case cJSON_NULL:
        return "null";
    case cJSON_Number:
        return "a number";
    case cJSON_String:
        return "a string";
    case cJSON_Array:
        return "an array";
    case cJSON_Object:
        return "an object";
    default:
        return "something else";
    }
}

int rondo_json_fail(struct rondo_json_reader *reader, const char *key, const char *format, ...)
{
    if (reader->status != RONDO_OK)
        return reader->status;
    char what[640];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    char place[200];
    snprintf(place, sizeof place, "%s%.60s", reader->path, key ? key : "");
    size_t n = strlen(place);
    if (n > 0 && place[n - 1] == '.')
        place[n - 1] = '\0';
    reader->status = RONDO_FAILED;
    if (place[0])
        return rondo_fail(reader->error, RONDO_FAILED, "%s: %s: %s", reader->file, place, what);
    return rondo_fail(reader->error, RONDO_FAILED, "%s: %s", reader->file, what);
}

struct rondo_json_reader rondo_json_reader(const cJSON *value, const char *file,
                                           struct rondo_error *error)
{
    struct rondo_json_reader reader = {.file = file, .error = error};
    if (value && !cJSON_IsObject(value))
        rondo_json_fail(&reader, NULL, "wrong type (got %s, want an object)",
                        rondo_json_kind(value));
    else
        reader.object = value;
    return reader;
}

struct rondo_json_reader rondo_json_child(struct rondo_json_reader *reader, const char *key)
{
    struct rondo_json_reader child = {.file = reader->file, .error = reader->error};
    child.object = rondo_json_object(reader, key);
    child.status = reader->status;
    snprintf(child.path, sizeof child.path, "%.*s%.50s.", (int)sizeof child.path - 52, reader->path,
             key);
    return child;
}

struct rondo_json_reader rondo_json_element(struct rondo_json_reader *reader, const char *key,
                                            const cJSON *element, size_t index)
{
    struct rondo_json_reader child = {.file = reader->file, .error = reader->error};
    snprintf(child.path, sizeof child.path, "%.*s%.40s[%zu].", (int)sizeof child.path - 64,
             reader->path, key, index);
    child.status = reader->status;
    if (!cJSON_IsObject(element))
        rondo_json_fail(&child, NULL, "wrong type (got %s, want an object)",
                        rondo_json_kind(element));
    else
        child.object = element;
    return child;
}

const cJSON *rondo_json_get(const struct rondo_json_reader *reader, const char *key)
{
    if (!reader->object)
        return NULL;
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(reader->object, key);
    return item && !cJSON_IsNull(item) ? item : NULL;
}

bool rondo_json_has(const struct rondo_json_reader *reader, const char *key)
{
    return rondo_json_get(reader, key) != NULL;
}

/* The value when it is there and of the wanted type; NULL and, when that is an error, a failed reader. */
static const cJSON *typed(struct rondo_json_reader *reader, const char *key, int types,
                          bool required, const char *want)
{
    const cJSON *item = rondo_json_get(reader, key);
    if (!item && required)
        rondo_json_fail(reader, key, "missing (want %s)", want);
    if (item && !(item->type & types)) {
        rondo_json_fail(reader, key, "wrong type (got %s, want %s)", rondo_json_kind(item), want);
        return NULL;
    }
    return item;
}

static int64_t get_int(struct rondo_json_reader *reader, const char *key, int64_t low, int64_t high,
                       bool required, int64_t fallback)
{
    const cJSON *item = typed(reader, key, cJSON_Number, required, "an integer");
    if (!item)
        return fallback;
    double value = item->valuedouble;
    if (!(fabs(value) < 9007199254740992.0) || value != floor(value)) {
        rondo_json_fail(reader, key, "not an integer (got %.17g, want %lld to %lld)", value,
                        (long long)low, (long long)high);
        return fallback;
    }
    if ((int64_t)value < low || (int64_t)value > high) {
        rondo_json_fail(reader, key, "out of range (got %lld, want %lld to %lld)", (long long)value,
                        (long long)low, (long long)high);
        return fallback;
    }
    return (int64_t)value;
}

int64_t rondo_json_int(struct rondo_json_reader *reader, const char *key, int64_t low, int64_t high,
                       int64_t fallback)
{
    return get_int(reader, key, low, high, false, fallback);
}

int64_t rondo_json_require_int(struct rondo_json_reader *reader, const char *key, int64_t low,
                               int64_t high)
{
    return get_int(reader, key, low, high, true, low);
}

static double get_number(struct rondo_json_reader *reader, const char *key, double low, double high,
                         bool required, double fallback)
{
    const cJSON *item = typed(reader, key, cJSON_Number, required, "a number");
    if (!item)
        return fallback;
    if (!isfinite(item->valuedouble) || item->valuedouble < low || item->valuedouble > high) {
        rondo_json_fail(reader, key, "out of range (got %g, want %g to %g)", item->valuedouble, low,
                        high);
        return fallback;
    }
    return item->valuedouble;
}

double rondo_json_number(struct rondo_json_reader *reader, const char *key, double low, double high,
                         double fallback)
{
    return get_number(reader, key, low, high, false, fallback);
}

double rondo_json_require_number(struct rondo_json_reader *reader, const char *key, double low,
                                 double high)
{
    return get_number(reader, key, low, high, true, low);
}

bool rondo_json_bool(struct rondo_json_reader *reader, const char *key, bool fallback)
{
    const cJSON *item = typed(reader, key, cJSON_True | cJSON_False, false, "true or false");
    return item ? cJSON_IsTrue(item) : fallback;
}

const char *rondo_json_string(struct rondo_json_reader *reader, const char *key,
                              const char *fallback)
{
    const cJSON *item = typed(reader, key, cJSON_String, false, "a string");
    return item ? item->valuestring : fallback;
}

const char *rondo_json_require_string(struct rondo_json_reader *reader, const char *key)
{
    const cJSON *item = typed(reader, key, cJSON_String, true, "a string");
    return item ? item->valuestring : "";
}

const cJSON *rondo_json_object(struct rondo_json_reader *reader, const char *key)
{
    return typed(reader, key, cJSON_Object, false, "an object");
}

const cJSON *rondo_json_array(struct rondo_json_reader *reader, const char *key)
{
    return typed(reader, key, cJSON_Array, false, "an array");
}
