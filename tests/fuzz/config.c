/* Fuzz target: config.json, then a NUL byte, then generation_config.json. */
#include "core/weights.h"
#include "formats/config.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

static void ignore(void *user, enum rondo_log_level level, const char *line)
{
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rondo_error error = {0};
    struct rondo_config config, again;
    struct rondo_model_options options = {.decay_offset = -1, .yarn_factor = size % 3 == 0 ? 4 : 0};
    const char *text = (const char *)data, *end = size ? memchr(data, 0, size) : NULL;
    const char *generation = end ? end + 1 : NULL;
    size_t length = end ? (size_t)(end - text) : size, rest = end ? size - length - 1 : 0;
    enum rondo_quantization kind;
    rondo_log_set(ignore, NULL);
    if (rondo_config_parse("config.json", text, length, "generation_config.json", generation, rest,
                           &options, &config, &kind, &error))
        return 0;
    /* what was accepted can be laid out and printed */
    if ((int64_t)config.num_hidden_layers * (config.num_experts + 4) < 20000) {
        size_t count = 0;
        struct rondo_weight_entry *list = rondo_weight_list(&config, &count);
        for (size_t i = 0; i < count; i++)
            if (list[i].rows <= 0 || list[i].columns <= 0 ||
                list[i].rows > INT64_MAX / 8 / list[i].columns)
                abort();
        free(list);
    }
    char *printed = rondo_config_print(&config, "bfloat16", kind, true);
    if (!printed || rondo_config_parse("printed", printed, strlen(printed), NULL, NULL, 0, NULL,
                                       &again, NULL, &error))
        abort();
    free(printed);
    return 0;
}
