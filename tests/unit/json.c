/* formats/json: what is accepted, what is refused and with which words. */
#include "formats/json.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>

static void expect_parse(const char *text, size_t length, const char *message)
{
    /* an exact copy, so that ASan sees a read past the end */
    char *copy = malloc(length ? length : 1);
    memcpy(copy, text, length);
    struct rondo_error error = {0};
    cJSON *root = rondo_json_parse("file.json", copy, length, &error);
    if (message)
        EXPECT(!root && strstr(error.message, message), "%.60s: \"%s\", want \"%s\"", text,
               root ? "accepted" : error.message, message);
    else
        EXPECT(root, "%.60s: %s", text, error.message);
    cJSON_Delete(root);
    free(copy);
}

static void test_parse(void)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"{}", NULL},
        {" [1, 2.5e3, \"a\\u00e9\\ud83d\\ude00\", null, true] \n", NULL},
        {"\"\\\\u0000\"", NULL},
        {"12", NULL},
        {"", "line 1, column 1: not valid JSON, or it ends too early"},
        {"{", "line 1, column 1: not valid JSON, or it ends too early"},
        {"{\n  \"a\": nope}", "file.json: line 2, column 8: not valid JSON"},
        {"{} {}", "line 1, column 4: text after the end"},
        {"\"\\u0000\"", "U+0000"},
        {"\"\xff\"", "line 1, column 2: not valid UTF-8"},
        {"\"\xed\xa0\x80\"", "not valid UTF-8"},
        {"\"a\nb\"", "control character in a string"},
        {"{\"a\": 1, \"b\": {\"c\": 1, \"c\": 2}}", "file.json: c: the key is there twice"},
        {"{\"a\": 1, \"A\": 1}", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_parse(cases[i].text, strlen(cases[i].text), cases[i].message);
    expect_parse("{}\0", 3, "line 1, column 3: a NUL byte");

    char deep[2 * (RONDO_JSON_DEPTH + 1)];
    memset(deep, '[', RONDO_JSON_DEPTH);
    memset(deep + RONDO_JSON_DEPTH, ']', RONDO_JSON_DEPTH);
    expect_parse(deep, 2 * RONDO_JSON_DEPTH, NULL);
    memset(deep, '[', RONDO_JSON_DEPTH + 1);
    memset(deep + RONDO_JSON_DEPTH + 1, ']', RONDO_JSON_DEPTH + 1);
    expect_parse(deep, 2 * (RONDO_JSON_DEPTH + 1),
                 "line 1, column 65: objects and arrays are nested");

    /* enough keys for the hash table, without and with one repeated */
    char *many = malloc(64 * 1000);
    size_t n = 0;
    for (int i = 0; i < 2000; i++)
        n += (size_t)sprintf(many + n, "%s\"k%d\": %d", i ? ", " : "{", i, i);
    strcpy(many + n, "}");
    expect_parse(many, n + 1, NULL);
    strcpy(many + n, ", \"k1234\": 0}");
    expect_parse(many, n + strlen(many + n), "k1234: the key is there twice");
    free(many);
}

static const char object[] =
    "{\"i\": 5, \"f\": 2.5, \"s\": \"text\", \"b\": true, \"z\": null, \"big\": 1e300, \"neg\": -3,"
    " \"o\": {\"a\": [{\"x\": \"y\"}]}}";

static void test_getters(void)
{
    struct rondo_error error = {0};
    cJSON *root = rondo_json_parse("c.json", object, sizeof object - 1, &error);
    struct rondo_json_reader reader = rondo_json_reader(root, "c.json", &error);
    EXPECT(rondo_json_int(&reader, "i", 0, 5, 9) == 5, "int");
    EXPECT(rondo_json_require_int(&reader, "neg", -3, 0) == -3, "negative int");
    EXPECT(rondo_json_int(&reader, "absent", 0, 5, 9) == 9, "fallback");
    EXPECT(rondo_json_int(&reader, "z", 0, 5, 9) == 9, "null");
    EXPECT(rondo_json_number(&reader, "f", 0, 5, 9) == 2.5, "number");
    EXPECT(rondo_json_bool(&reader, "b", false) && rondo_json_bool(&reader, "absent", true),
           "bool");
    EXPECT(strcmp(rondo_json_string(&reader, "s", ""), "text") == 0, "string");
    EXPECT(rondo_json_array(&reader, "absent") == NULL, "array");
    struct rondo_json_reader child = rondo_json_child(&reader, "o");
    const cJSON *array = rondo_json_array(&child, "a");
    struct rondo_json_reader element = rondo_json_element(&child, "a", array->child, 0);
    EXPECT(strcmp(rondo_json_require_string(&element, "x"), "y") == 0, "nested string");
    EXPECT(reader.status == RONDO_OK && element.status == RONDO_OK, "%s", error.message);

    rondo_json_int(&element, "x", 0, 1, 0);
    EXPECT(strcmp(error.message, "c.json: o.a[0].x: wrong type (got a string, want an integer)") ==
               0,
           "%s", error.message);
    EXPECT(rondo_json_int(&reader, "i", 0, 4, 9) == 9 && reader.status == RONDO_FAILED, "range");
    EXPECT(strcmp(error.message, "c.json: i: out of range (got 5, want 0 to 4)") == 0, "%s",
           error.message);
    rondo_json_int(&reader, "f", 0, 4, 9); /* the first failure stays */
    EXPECT(strcmp(error.message, "c.json: i: out of range (got 5, want 0 to 4)") == 0, "%s",
           error.message);

    static const char *const keys[] = {"f", "big", "neg", "gone"};
    static const char *const wants[] = {"c.json: f: not an integer (got 2.5, want 0 to 4)",
                                        "c.json: big: not an integer",
                                        "c.json: neg: out of range (got -3, want 0 to 4)",
                                        "c.json: gone: missing (want an integer)"};
    for (int i = 0; i < 4; i++) {
        reader = rondo_json_reader(root, "c.json", &error);
        rondo_json_require_int(&reader, keys[i], 0, 4);
        EXPECT(reader.status == RONDO_FAILED && strstr(error.message, wants[i]) == error.message,
               "%s", error.message);
    }
    reader = rondo_json_reader(root->child, "c.json", &error);
    EXPECT(strcmp(error.message, "c.json: wrong type (got a number, want an object)") == 0, "%s",
           error.message);
    reader = rondo_json_reader(root, "c.json", NULL);
    rondo_json_require_string(&reader, "i");
    EXPECT(reader.status == RONDO_FAILED, "no error struct");
    cJSON_Delete(root);

    EXPECT(!rondo_json_read("/nonexistent/x.json", 100, &error) &&
               strstr(error.message, "/nonexistent/x.json: cannot open"),
           "%s", error.message);
    EXPECT(!rondo_json_read("/", 100, &error) && strstr(error.message, "not a regular file"), "%s",
           error.message);
}

int main(void)
{
    test_parse();
    test_getters();
    return test_result();
}
