/* Fuzz target: JSON reading and the typed getters. */
#include "formats/json.h"
#include "tests/fuzz/fuzz.h"

static void read_all(struct rondo_json_reader *reader, int depth)
{
    static const char *const keys[] = {"a", "b", "vocab_size", ""};
    for (int i = 0; i < 4; i++) {
        rondo_json_int(reader, keys[i], -5, 1 << 20, 0);
        reader->status = RONDO_OK;
        rondo_json_require_number(reader, keys[i], -1e300, 1e300);
        reader->status = RONDO_OK;
        rondo_json_string(reader, keys[i], NULL);
        rondo_json_bool(reader, keys[i], true);
        rondo_json_array(reader, keys[i]);
        reader->status = RONDO_OK;
        struct rondo_json_reader child = rondo_json_child(reader, keys[i]);
        if (child.object && depth < 8)
            read_all(&child, depth + 1);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rondo_error error = {0};
    cJSON *root = rondo_json_parse("fuzz.json", (const char *)data, size, &error);
    if (!root)
        return 0;
    struct rondo_json_reader reader = rondo_json_reader(root, "fuzz.json", &error);
    read_all(&reader, 0);
    cJSON_Delete(root);
    return 0;
}
