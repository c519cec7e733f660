/* Chat templates: rendering against Jinja (tests/reference/make_chats.py), and what must not be recognised.
 * Usage: test-chat_template TEMPLATES TOKENIZERS SCRATCH */
#include "formats/chat_template.h"
#include "formats/file.h"
#include "formats/json.h"
#include "tests/unit/test.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_MESSAGES = 16 };

static struct rondo_chat_template *parse_file(const char *directory, const char *name)
{
    struct rondo_error error = {0};
    size_t length;
    char *path = rondo_path_join(directory, name, &error);
    char *text = rondo_file_read(path, 1 << 20, &length, &error);
    struct rondo_chat_template *chat =
        text ? rondo_chat_template_parse(path, text, length, &error) : NULL;
    EXPECT(chat, "%s: %s", name, error.message);
    free(text);
    free(path);
    return chat;
}

static const char *string_of(const cJSON *object, const char *key)
{
    const cJSON *item = cJSON_GetObjectItem(object, key);
    return cJSON_IsString(item) ? item->valuestring : NULL;
}

static void expect_case(const struct rondo_chat_template *chat, const cJSON *chats,
                        const cJSON *item)
{
    struct rondo_error error = {0};
    struct rondo_chat_message messages[MAX_MESSAGES];
    size_t n = 0;
    int index = cJSON_GetObjectItem(item, "chat")->valueint;
    const cJSON *message;
    cJSON_ArrayForEach(message, cJSON_GetArrayItem(chats, index)) if (n < MAX_MESSAGES)
        messages[n++] =
            (struct rondo_chat_message){string_of(message, "role"), string_of(message, "content"),
                                        string_of(message, "reasoning_content")};
    struct rondo_chat_options options = {
        .thinking = cJSON_IsTrue(cJSON_GetObjectItem(item, "thinking")),
        .add_generation_prompt = cJSON_IsTrue(cJSON_GetObjectItem(item, "prompt")),
        .tools_json = string_of(item, "tools")};
    const char *want = string_of(item, "text");
    char *text = rondo_chat_template_render(chat, messages, n, &options, &error);
    EXPECT(text && strcmp(text, want) == 0, "%s, chat %d\n--- got\n%s\n--- want\n%s\n---",
           string_of(item, "template"), index, text ? text : error.message, want);
    free(text);
}

static void test_expected(const char *directory)
{
    struct rondo_error error = {0};
    char *path = rondo_path_join(directory, "expected.json", &error);
    cJSON *root = rondo_json_read(path, RONDO_JSON_LIMIT, &error);
    EXPECT(root, "%s", error.message);
    const cJSON *chats = cJSON_GetObjectItem(root, "chats"),
                *cases = cJSON_GetObjectItem(root, "cases");
    struct rondo_chat_template *chat = NULL;
    const char *name = "";
    int n = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, cases)
    {
        if (strcmp(name, string_of(item, "template")) != 0) {
            name = string_of(item, "template");
            rondo_chat_template_close(chat);
            chat = parse_file(directory, name);
        }
        if (chat)
            expect_case(chat, chats, item);
        n++;
    }
    EXPECT(n >= 40, "%d cases", n);
    rondo_chat_template_close(chat);
    cJSON_Delete(root);
    free(path);
}

/* ---- what must not be recognised -------------------------------------------------------------- */

/* The text with the first `from` replaced, malloc'ed; NULL when `from` is not in it. */
static char *replaced(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    if (!at)
        return NULL;
    char *out = malloc(strlen(text) + strlen(to) + 1);
    sprintf(out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

static void test_changed(const char *directory, const char *name, const char *const (*changes)[2])
{
    struct rondo_error error = {0};
    char *path = rondo_path_join(directory, name, &error);
    char *text = rondo_file_read(path, 1 << 20, NULL, &error);
    EXPECT(text, "%s", error.message);
    for (; text && (*changes)[0]; changes++) {
        char *changed = replaced(text, (*changes)[0], (*changes)[1]);
        EXPECT(changed, "%s: no %s to replace", name, (*changes)[0]);
        error.message[0] = '\0';
        struct rondo_chat_template *chat =
            changed ? rondo_chat_template_parse(path, changed, strlen(changed), &error) : NULL;
        EXPECT(!chat && strstr(error.message, "none of the templates rondo knows") &&
                   strstr(error.message, name) && strstr(error.message, "run without --chat"),
               "%s with %s for %s: %s", name, (*changes)[1], (*changes)[0],
               chat ? chat->name : error.message);
        rondo_chat_template_close(chat);
        free(changed);
    }
    free(text);
    free(path);
}

static const char *const plain_changes[][2] = {
    {"'HUMAN'", "'USER'"},
    {"| upper", "| title"},
    {"+ message['content']", "+ message['content'] + '\\n'"},
    {"+ message['content']", "+ message['content'] | trim"},
    {"{% for message in messages %}", "{% for message in messages[1:] %}"},
    {"{% for message in messages %}", "{{ bos_token }}{% for message in messages %}"},
    {"{% for message in messages %}", "Hello {% for message in messages %}"},
    {"{% endfor %}", " {% endfor %}\n\n"},
    {"{% if add_generation_prompt %}", "{% if not add_generation_prompt %}"},
    {"<think>\\n'", "' + date"},
    {"<think>\\n' }}{% endif %}", "<think>\\n' }}{% endif %}{{ 'x' }}"},
    {"{% endif %}{% set role = role", "{% set role = role"},
    {NULL, NULL}};

static const char *const ling_changes[][2] = {
    {"<role>SYSTEM</role>", "<role>System</role>"},
    {"may call one or more functions", "may call functions"},
    {"\"name\\\": <function-name>", "\"tool\\\": <function-name>"},
    {"\"detailed thinking \"", "\"thinking \""},
    {"thinking_option = \"off\"", "thinking_option = mode"},
    {"<think>\\n\" + reasoning", "<think>\" + reasoning"},
    {"messages[0][\"content\"] + \"\\n\"", "messages[0][\"content\"] | trim + \"\\n\""},
    {"loop.index0 > ns.last_query_index", "loop.index0 >= ns.last_query_index"},
    {"{{- \"<|role_end|>\" }}", "{{- \"<|role_end|>\\n\" }}"},
    {"{%- if add_generation_prompt %}\n  {{- \"<role>ASSISTANT</role>\" }}", ""},
    {"{%- if tools %}", "tools: {%- if tools %}"},
    {"{#- the last", "{% set preserved_thinking = true %}{#- the last"},
    {NULL, NULL}};

/* ---- directories ------------------------------------------------------------------------------ */

static void write_file(const char *directory, const char *name, const char *text)
{
    struct rondo_error error = {0};
    char *path = rondo_path_join(directory, name, &error);
    EXPECT(rondo_file_write(path, text, strlen(text), &error) == RONDO_OK, "%s", error.message);
    free(path);
}

static void remove_file(const char *directory, const char *name)
{
    struct rondo_error error = {0};
    char *path = rondo_path_join(directory, name, &error);
    remove(path);
    free(path);
}

static void expect_open(const char *directory, const char *name, const char *message)
{
    struct rondo_error error = {0};
    struct rondo_chat_template *chat = rondo_chat_template_open(directory, &error);
    EXPECT(name ? chat && strcmp(rondo_chat_template_name(chat), name) == 0
                : !chat && strstr(error.message, message),
           "%s", chat ? rondo_chat_template_name(chat) : error.message);
    rondo_chat_template_close(chat);
}

static const char plain[] =
    "{% for message in messages %}{% set role = message.role | lower %}{% if role == 'user' %}{% "
    "set role = "
    "'HUMAN' %}{% endif %}{% set role = role | upper %}{{ '<role>' + role + '</role>' + "
    "message.content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<role>ASSISTANT</role>' }}{% endif %}";

static void test_open(const char *tokenizers, const char *scratch)
{
    struct rondo_error error = {0};
    char *demo = rondo_path_join(tokenizers, "demo", &error);
    expect_open(demo, "plain (an opened <think>)", NULL);
    free(demo);

    mkdir(scratch, 0777);
    remove_file(scratch, "tokenizer_config.json"); /* an earlier run's */
    remove_file(scratch, "chat_template.jinja");
    expect_open(scratch, NULL, "tokenizer_config.json: cannot open");
    write_file(scratch, "tokenizer_config.json", "{}");
    expect_open(scratch, NULL, "chat_template: missing: this model comes without");
    write_file(scratch, "tokenizer_config.json", "{\"chat_template\": 5}");
    expect_open(scratch, NULL, "chat_template: wrong type (got a number, want a string)");
    write_file(scratch, "tokenizer_config.json",
               "{\"chat_template\": [{\"name\": \"x\", \"template\": \"y\"}]}");
    expect_open(scratch, NULL, "no template named \"default\"");
    char config[2048];
    snprintf(config, sizeof config,
             "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": \"y\"}, {\"name\": "
             "\"default\", "
             "\"template\": \"%s\"}]}",
             plain);
    write_file(scratch, "tokenizer_config.json", config);
    expect_open(scratch, "plain (no <think>)", NULL);
    write_file(scratch, "chat_template.jinja", "{{ messages }}");
    expect_open(scratch, NULL, "chat_template.jinja: chat_template: it is none of the templates");
}

static void test_wrong_calls(const char *directory)
{
    struct rondo_chat_template *chat = parse_file(directory, "ling_v2_off.jinja");
    struct rondo_chat_template *mini = parse_file(directory, "ring_mini.jinja");
    if (!chat || !mini)
        return;
    static const struct {
        const char *role, *tools, *message;
        bool mini;
    } cases[] = {
        {"owner", NULL, "message 0: role: unknown (got owner, want system", false},
        {NULL, NULL, "message 0: role: unknown (got nothing", false},
        {"user", "{}", "tools: wrong type (got an object, want an array)", false},
        {"user", "[", "tools: line 1, column 1: not valid JSON", false},
        {"user", "[1]", "tools: this model's template, plain (an opened <think>), has no place",
         true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct rondo_error error = {0};
        struct rondo_chat_message message = {cases[i].role, "text", NULL};
        struct rondo_chat_options options = {.tools_json = cases[i].tools};
        char *text =
            rondo_chat_template_render(cases[i].mini ? mini : chat, &message, 1, &options, &error);
        EXPECT(!text && strstr(error.message, cases[i].message), "case %zu: %s", i, error.message);
        free(text);
    }
    struct rondo_error error = {0};
    EXPECT(!rondo_chat_template_render(chat, NULL, 0, NULL, &error) && error.status == RONDO_USAGE,
           "%s", error.message);
    rondo_chat_template_close(chat);
    rondo_chat_template_close(mini);
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return 2;
    test_expected(argv[1]);
    if (argc == 4) {
        test_changed(argv[1], "ring_mini.jinja", plain_changes);
        test_changed(argv[1], "ling_v2_off.jinja", ling_changes);
        test_open(argv[2], argv[3]);
        test_wrong_calls(argv[1]);
    }
    return test_result();
}
