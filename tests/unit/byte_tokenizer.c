/* The byte tokenizer opens, encodes every byte as itself, and its chat template is a known one.
 * Usage: test-byte_tokenizer SCRATCH */
#include "formats/byte_tokenizer.h"
#include "formats/json.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int main(int argc, char **argv)
{
    if (argc != 2)
        return 2;
    struct rondo_error error = {0};
    mkdir(argv[1], 0777);
    EXPECT(rondo_write_byte_tokenizer(argv[1], 262, &error) == RONDO_FAILED &&
               strstr(error.message,
                      "vocab_size: too small for a byte tokenizer (got 262, want at least 263)"),
           "%s", error.message);
    EXPECT(rondo_write_byte_tokenizer("/nonexistent", 263, &error) == RONDO_FAILED &&
               strstr(error.message, "/nonexistent/tokenizer.json"),
           "%s", error.message);
    EXPECT(rondo_write_byte_tokenizer(argv[1], 263, &error) == RONDO_OK, "%s", error.message);
    EXPECT(rondo_write_byte_tokenizer(argv[1], 157184, &error) == RONDO_OK, "%s", error.message);

    struct rondo_tokenizer *tokenizer = rondo_tokenizer_open(argv[1], &error);
    EXPECT(tokenizer && rondo_tokenizer_size(tokenizer) == 263, "%s", error.message);
    char every[256];
    for (int i = 0; i < 256; i++)
        every[i] = (char)i;
    int32_t *ids = NULL;
    int64_t n = tokenizer ? rondo_tokenizer_encode(tokenizer, every, 256, true, &ids, &error) : -1;
    EXPECT(n == 256, "%lld ids: %s", (long long)n, error.message);
    for (int i = 0; i < n; i++)
        EXPECT(ids[i] == i, "byte %d is token %d", i, ids[i]);
    free(ids);
    static const char text[] = "<role>HUMAN</role>hi<|role_end|><|endoftext|>";
    static const int32_t want[] = {261, 'H', 'U', 'M', 'A', 'N', 262, 'h', 'i', 260, 257};
    n = tokenizer ? rondo_tokenizer_encode(tokenizer, text, sizeof text - 1, true, &ids, &error)
                  : -1;
    EXPECT(n == 11 && memcmp(ids, want, sizeof want) == 0, "%lld ids: %s", (long long)n,
           error.message);
    if (n >= 0)
        free(ids);
    rondo_tokenizer_close(tokenizer);

    struct rondo_chat_template *chat = rondo_chat_template_open(argv[1], &error);
    struct rondo_chat_message message = {"user", "hi", NULL};
    struct rondo_chat_options options = {.add_generation_prompt = true};
    char *prompt = chat ? rondo_chat_template_render(chat, &message, 1, &options, &error) : NULL;
    EXPECT(prompt && strcmp(prompt, "<role>HUMAN</role>hi<role>ASSISTANT</role><think>\n") == 0,
           "%s", prompt ? prompt : error.message);
    free(prompt);
    rondo_chat_template_close(chat);

    char path[512];
    snprintf(path, sizeof path, "%s/generation_config.json", argv[1]);
    cJSON *generation = rondo_json_read(path, RONDO_JSON_LIMIT, &error);
    EXPECT(generation &&
               cJSON_GetArrayItem(cJSON_GetObjectItem(generation, "eos_token_id"), 1)->valueint ==
                   260,
           "%s", error.message);
    cJSON_Delete(generation);
    return test_result();
}
