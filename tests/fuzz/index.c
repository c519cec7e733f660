/* Fuzz target: model.safetensors.index.json. No accepted shard name leads out of its directory. */
#include "formats/checkpoint.h"
#include "formats/json.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rondo_error error = {0};
    char **names = NULL;
    size_t count = 0;
    cJSON *root = rondo_json_parse("index.json", (const char *)data, size, &error);
    if (!root)
        return 0;
    if (rondo_index_shards(root, "index.json", &names, &count, &error) == RONDO_OK) {
        for (size_t i = 0; i < count; i++) {
            if (strchr(names[i], '/') || names[i][0] == '.' ||
                (i > 0 && strcmp(names[i - 1], names[i]) >= 0))
                abort();
        }
        for (size_t i = 0; i < count; i++)
            free(names[i]);
        free(names);
    }
    cJSON_Delete(root);
    return 0;
}
