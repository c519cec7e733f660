/* JSON files over cJSON: strict reading, and typed getters that fail by file and field name.
 *
 * A reader wraps one object of a file. Its getters are sticky: the first failure fills `error` and sets
 * `status`; later calls return their fallback and leave the first message alone. So a parser reads every
 * field and then looks at `status` once.
 *
 *     cJSON *root = rondo_json_read(path, RONDO_JSON_LIMIT, error);
 *     struct rondo_json_reader reader = rondo_json_reader(root, path, error);
 *     config->hidden_size = rondo_json_require_int(&reader, "hidden_size", 1, 1 << 20);
 *     config->rope_theta = rondo_json_number(&reader, "rope_theta", 1.0, 1e12, 10000.0);
 *     if (reader.status != RONDO_OK) ...
 */
#ifndef RONDO_FORMATS_JSON_H
#define RONDO_FORMATS_JSON_H

#include "core/error.h"

#include <cjson/cJSON.h>

#define RONDO_JSON_LIMIT ((size_t)128 << 20) /* bytes of one file */
#define RONDO_JSON_DEPTH 64                  /* objects and arrays inside each other */

/* Parses `length` bytes; `name` stands in messages. Stricter than cJSON: the text must be UTF-8 and one
 * value, with no repeated key in an object, no U+0000 in a string, and no more than RONDO_JSON_DEPTH
 * levels. The message gives line and column. Release with cJSON_Delete. */
cJSON *rondo_json_parse(const char *name, const char *text, size_t length,
                        struct rondo_error *error);

/* rondo_json_parse of a whole file of at most `limit` bytes. */
cJSON *rondo_json_read(const char *path, size_t limit, struct rondo_error *error);

struct rondo_json_reader {
    const cJSON *object;       /* NULL reads as an empty object */
    const char *file;          /* stands in messages; not copied */
    struct rondo_error *error; /* may be NULL */
    enum rondo_status status;  /* of the first failure */
    char path[120];            /* where the object is in the file: "" or "rope_scaling." */
};

/* A reader of `value`, which must be an object (else the reader starts out failed) or NULL. */
struct rondo_json_reader rondo_json_reader(const cJSON *value, const char *file,
                                           struct rondo_error *error);
/* A reader of the object at `key`; empty when the key is absent or null. Check its status too. */
struct rondo_json_reader rondo_json_child(struct rondo_json_reader *reader, const char *key);
/* A reader of element `index` of the array `array`, which is at `key`. */
struct rondo_json_reader rondo_json_element(struct rondo_json_reader *reader, const char *key,
                                            const cJSON *element, size_t index);

/* True when the key is there and is not null. */
bool rondo_json_has(const struct rondo_json_reader *reader, const char *key);
/* The value at `key` whatever its type; NULL when absent or null. */
const cJSON *rondo_json_get(const struct rondo_json_reader *reader, const char *key);

/* Absent and null give the fallback, a wrong type or a value outside [low, high] is a failure. Fallbacks
 * are not range-checked. require_* fail on absent and null. Integers must be integral and below 2^53. */
int64_t rondo_json_int(struct rondo_json_reader *reader, const char *key, int64_t low, int64_t high,
                       int64_t fallback);
int64_t rondo_json_require_int(struct rondo_json_reader *reader, const char *key, int64_t low,
                               int64_t high);
double rondo_json_number(struct rondo_json_reader *reader, const char *key, double low, double high,
                         double fallback);
double rondo_json_require_number(struct rondo_json_reader *reader, const char *key, double low,
                                 double high);
bool rondo_json_bool(struct rondo_json_reader *reader, const char *key, bool fallback);
/* Strings belong to the cJSON tree. */
const char *rondo_json_string(struct rondo_json_reader *reader, const char *key,
                              const char *fallback);
const char *rondo_json_require_string(struct rondo_json_reader *reader, const char *key);
/* NULL when absent or null (without failing) or of the wrong type (failing). */
const cJSON *rondo_json_object(struct rondo_json_reader *reader, const char *key);
const cJSON *rondo_json_array(struct rondo_json_reader *reader, const char *key);

/* Fails the reader with "FILE: PATH.KEY: " before the message; keeps an earlier failure. Returns the
 * reader's status. `key` may be NULL: the object itself. */
int rondo_json_fail(struct rondo_json_reader *reader, const char *key, const char *format, ...)
    RONDO_PRINTF(3, 4);

/* "null", "a bool", "a number", "a string", "an array", "an object", "nothing" for NULL. */
const char *rondo_json_kind(const cJSON *value);

#endif
