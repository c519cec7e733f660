/* Conversations in memory and on disk. */
#include "cli/chat.h"
#include "formats/file.h"
#include "formats/json.h"

#include <stdlib.h>
#include <string.h>

static void release_message(struct rondo_chat_message *message)
{
    free((char *)message->role);
    free((char *)message->content);
    free((char *)message->reasoning);
}

void cli_chat_clear(struct cli_chat *chat)
{
    for (size_t i = 0; i < chat->n; i++)
        release_message(&chat->messages[i]);
    free(chat->messages);
    chat->messages = NULL;
    chat->n = 0;
}

void cli_chat_drop(struct cli_chat *chat)
{
    if (chat->n)
        release_message(&chat->messages[--chat->n]);
}

int cli_chat_add(struct cli_chat *chat, const char *role, const char *content,
                 const char *reasoning, struct rondo_error *error)
{
    struct rondo_chat_message *grown =
        realloc(chat->messages, (chat->n + 1) * sizeof *chat->messages);
    if (!grown)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    chat->messages = grown;
    struct rondo_chat_message message = {
        .role = strdup(role),
        .content = strdup(content),
        .reasoning = reasoning && *reasoning ? strdup(reasoning) : NULL,
    };
    if (!message.role || !message.content || (reasoning && *reasoning && !message.reasoning)) {
        release_message(&message);
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    }
    chat->messages[chat->n++] = message;
    return RONDO_OK;
}

/* Drops line breaks at both ends. */
static char *trim(char *text)
{
    while (*text == '\n')
        text++;
    for (size_t n = strlen(text); n && text[n - 1] == '\n'; n--)
        text[n - 1] = 0;
    return text;
}

int cli_chat_add_answer(struct cli_chat *chat, const char *text, bool thinking,
                        struct rondo_error *error)
{
    static const char open[] = "<think>", close[] = "</think>";
    struct rondo_utf8_stream stream = {.n_pending = 0};
    size_t length = strlen(text);
    char *copy = malloc(3 * (length + 8));
    if (!copy)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    /* A model can say bytes that are not UTF-8; files and templates hold none. */
    size_t n = rondo_utf8_stream_push(&stream, text, length, true, copy);
    n += rondo_utf8_stream_finish(&stream, true, copy + n);
    copy[n] = 0;
    char *content = trim(copy), *reasoning = NULL;
    bool opened = !strncmp(content, open, sizeof open - 1);
    char *end = strstr(content, close);
    if (end || opened || thinking) {
        reasoning = content + (opened ? sizeof open - 1 : 0);
        content = end ? end + sizeof close - 1 : content + strlen(content);
        if (end)
            *end = 0;
        reasoning = trim(reasoning);
        content = trim(content);
    }
    int result = cli_chat_add(chat, "assistant", content, reasoning, error);
    free(copy);
    return result;
}

int cli_chat_save(const struct cli_chat *chat, const char *path, struct rondo_error *error)
{
    cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; i < chat->n; i++) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "role", chat->messages[i].role);
        cJSON_AddStringToObject(object, "content", chat->messages[i].content);
        if (chat->messages[i].reasoning)
            cJSON_AddStringToObject(object, "reasoning", chat->messages[i].reasoning);
        cJSON_AddItemToArray(array, object);
    }
    char *text = cJSON_Print(array);
    int result = text ? rondo_file_write(path, text, strlen(text), error)
                      : rondo_fail(error, RONDO_FAILED, "%s: out of memory", path);
    cJSON_free(text);
    cJSON_Delete(array);
    return result;
}

int cli_chat_load(struct cli_chat *chat, const char *path, struct rondo_error *error)
{
    struct cli_chat loaded = {0};
    cJSON *root = rondo_json_read(path, RONDO_JSON_LIMIT, error);
    if (!root)
        return RONDO_FAILED;
    int result = RONDO_OK;
    if (!cJSON_IsArray(root))
        result = rondo_fail(error, RONDO_FAILED, "%s: want an array of messages, got %s", path,
                            rondo_json_kind(root));
    const cJSON *element = result ? NULL : root->child;
    for (size_t i = 0; element && !result; i++, element = element->next) {
        struct rondo_json_reader reader = {.file = path, .error = error};
        reader = rondo_json_element(&reader, "messages", element, i);
        const char *role = rondo_json_require_string(&reader, "role");
        const char *content = rondo_json_require_string(&reader, "content");
        const char *reasoning = rondo_json_string(&reader, "reasoning", NULL);
        result = (int)reader.status;
        if (!result)
            result = cli_chat_add(&loaded, role, content, reasoning, error);
    }
    cJSON_Delete(root);
    if (result) {
        cli_chat_clear(&loaded);
        return result;
    }
    cli_chat_clear(chat);
    *chat = loaded;
    return RONDO_OK;
}
