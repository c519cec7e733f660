/* Fuzz target: a Jinja template, then strings that make up messages and tools, all separated by NULs. */
#include "formats/chat_template.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_STRINGS = 12 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    char *copy = malloc(size + 1), *strings[MAX_STRINGS] = {copy};
    if (!copy)
        return 0;
    if (size > 0)
        memcpy(copy, data, size);
    copy[size] = '\0';
    int n = 0;
    for (char *p = copy; n < MAX_STRINGS && p <= copy + size; p += strlen(p) + 1)
        strings[n++] = p;
    struct rondo_error error = {0};
    struct rondo_chat_template *chat =
        rondo_chat_template_parse("fuzz.jinja", strings[0], strlen(strings[0]), &error);
    struct rondo_chat_message messages[MAX_STRINGS];
    size_t n_messages = 0;
    for (int i = 2; i < n; i++) { /* the first byte chooses the role and where the rest goes */
        unsigned char first = (unsigned char)strings[i][0];
        const char *content = strings[i] + (first != 0);
        messages[n_messages++] = (struct rondo_chat_message){
            roles[first % 4], first & 4 ? NULL : content, first & 8 ? content : NULL};
    }
    for (int k = 0; chat && k < 4; k++) {
        struct rondo_chat_options options = {.thinking = k & 1,
                                             .add_generation_prompt = k & 2,
                                             .tools_json =
                                                 n > 1 && strings[1][0] ? strings[1] : NULL};
        free(rondo_chat_template_render(chat, messages, n_messages, &options, &error));
    }
    rondo_chat_template_close(chat);
    free(copy);
    return 0;
}
