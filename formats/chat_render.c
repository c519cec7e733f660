/* Rendering messages by a recognised chat template. */
#include "formats/chat_template.h"

#include "formats/json.h"
#include "formats/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- output ---------------------------------------------------------------------------------- */

struct text {
    char *data; /* [n] of capacity, not terminated */
    size_t n, capacity;
    bool failed; /* memory was short: what follows is dropped */
};

static void put_n(struct text *text, const char *data, size_t n)
{
    if (text->failed || n > SIZE_MAX / 4 - text->n) {
        text->failed = true;
        return;
    }
    if (text->n + n > text->capacity) {
        size_t capacity = text->capacity ? text->capacity : 1024;
        while (capacity < text->n + n)
            capacity *= 2;
        char *grown = realloc(text->data, capacity);
        if (!grown) {
            text->failed = true;
            return;
        }
        text->data = grown;
        text->capacity = capacity;
    }
    if (n > 0)
        memcpy(text->data + text->n, data, n);
    text->n += n;
}

static void put(struct text *text, const char *string)
{
    put_n(text, string, strlen(string));
}

/* ---- JSON as Python's json.dumps writes it: the tojson filter ------------------------------- */

/* These work on the text, which has been parsed and found valid: a parsed number no longer tells 1 from
 * 1.0, which Python keeps apart. */

static uint32_t read_hex(const char *p)
{
    uint32_t value = 0;
    for (int i = 0; i < 4; i++)
        value = value * 16 + (uint32_t)(p[i] <= '9' ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
    return value;
}

/* The escape at p[0] == '\\'; returns what follows it. */
static const char *put_json_escape(struct text *text, const char *p)
{
    static const char plain[] = "\b\f\n\r\t\"\\", letters[] = "bfnrt\"\\";
    if (p[1] == '/') {
        put(text, "/");
        return p + 2;
    }
    if (p[1] != 'u') {
        put_n(text, p, 2);
        return p + 2;
    }
    uint32_t c = read_hex(p + 2);
    p += 6;
    if (c >= 0xd800 && c < 0xdc00) { /* a pair: the parser accepts no lone surrogate */
        c = 0x10000 + ((c & 0x3ff) << 10) + (read_hex(p + 2) & 0x3ff);
        p += 6;
    }
    char out[8];
    const char *special = c < 0x80 ? memchr(plain, (int)c, sizeof plain - 1) : NULL;
    if (special)
        put_n(text, out, (size_t)snprintf(out, sizeof out, "\\%c", letters[special - plain]));
    else if (c < 0x20)
        put_n(text, out, (size_t)snprintf(out, sizeof out, "\\u%04x", (unsigned)c));
    else
        put_n(text, out, (size_t)rondo_utf8_write(c, out));
    return p;
}

static const char *put_json_string(struct text *text, const char *p)
{
    put_n(text, p++, 1);
    while (*p != '"') {
        const char *end = p + strcspn(p, "\"\\");
        put_n(text, p, (size_t)(end - p));
        p = *end == '\\' ? put_json_escape(text, end) : end;
    }
    put_n(text, p, 1);
    return p + 1;
}

/* Integers as they are; others as repr(float): the shortest digits that read back the same, with an
 * exponent below -4 and from 16 on. */
static const char *put_json_number(struct text *text, const char *p)
{
    size_t n = strspn(p, "+-0123456789.eE");
    if (!memchr(p, '.', n) && !memchr(p, 'e', n) && !memchr(p, 'E', n)) {
        bool minus_zero = n == 2 && memcmp(p, "-0", 2) == 0;
        put_n(text, p + minus_zero, n - minus_zero);
        return p + n;
    }
    double value = strtod(p, NULL);
    char digits[40], out[64];
    if (isinf(value)) {
        put(text, value > 0 ? "Infinity" : "-Infinity");
        return p + n;
    }
    int precision = 0;
    do
        snprintf(digits, sizeof digits, "%.*e", precision, value);
    while (strtod(digits, NULL) != value && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16)
        snprintf(out, sizeof out, "%s", digits);
    else
        snprintf(out, sizeof out, "%.*f", precision > exponent ? precision - exponent : 1, value);
    put(text, out);
    return p + n;
}

/* The elements of an array, a newline before each. */
static void put_json_elements(struct text *text, const char *p)
{
    int depth = 0;
    bool fresh = false; /* an element begins at the next character that is not space */
    while (*p) {
        if (strchr(" \t\r\n", *p)) {
            p++;
            continue;
        }
        if (fresh && *p != ']')
            put(text, "\n");
        fresh = false;
        char c = *p;
        if (c == '"') {
            p = put_json_string(text, p);
        } else if (c == '-' || (c >= '0' && c <= '9')) {
            p = put_json_number(text, p);
        } else if (depth == 1 && c == ',') {
            fresh = true;
            p++;
        } else {
            depth -= c == ']' || c == '}';
            if (depth > 0) /* not the array's own brackets */
                put_n(text, p, 1);
            if (c == ',' || c == ':')
                put(text, " ");
            depth += c == '[' || c == '{';
            fresh = depth == 1 && c == '[';
            p++;
        }
    }
}

/* ---- ling-v2 --------------------------------------------------------------------------------- */

/* A part of a string. */
struct part {
    const char *data;
    size_t n;
};

static struct part part_of(const char *string)
{
    return (struct part){string, strlen(string)};
}

static struct part strip_left(struct part part)
{
    while (part.n > 0 && part.data[0] == '\n') {
        part.data++;
        part.n--;
    }
    return part;
}

static struct part strip_right(struct part part)
{
    while (part.n > 0 && part.data[part.n - 1] == '\n')
        part.n--;
    return part;
}

/* First or last place of `word`, NULL: none. */
static const char *find_word(struct part part, const char *word, bool last)
{
    const char *found = NULL;
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= part.n; i++)
        if (part.data[i] == word[0] && memcmp(part.data + i, word, n) == 0) {
            found = part.data + i;
            if (!last)
                break;
        }
    return found;
}

/* Reasoning inside the content: what is between the last <think> before the first </think>, and it; the
 * content is what follows the last </think>. */
static void split_reasoning(struct part *content, struct part *reasoning)
{
    static const char open[] = "<think>", close[] = "</think>";
    const char *first = find_word(*content, close, false), *last = find_word(*content, close, true);
    if (!first)
        return;
    *reasoning = strip_right((struct part){content->data, (size_t)(first - content->data)});
    const char *begin = find_word(*reasoning, open, true);
    if (begin) {
        begin += sizeof open - 1;
        *reasoning = (struct part){begin, reasoning->n - (size_t)(begin - reasoning->data)};
    }
    *reasoning = strip_left(*reasoning);
    last += sizeof close - 1;
    *content = strip_left((struct part){last, content->n - (size_t)(last - content->data)});
}

static bool has_role(const struct rondo_chat_message *message, const char *role)
{
    return strcmp(message->role, role) == 0;
}

static const char *content_of(const struct rondo_chat_message *message)
{
    return message->content ? message->content : "";
}

/* The last message of a user that is not a tool's response in a user's name; n - 1 when there is none. */
static size_t last_query(const struct rondo_chat_message *messages, size_t n)
{
    static const char open[] = "<tool_response>", close[] = "</tool_response>";
    for (size_t i = n; i-- > 0;) {
        const char *content = content_of(&messages[i]);
        size_t length = strlen(content), tail = sizeof close - 1;
        bool response = strncmp(content, open, sizeof open - 1) == 0 && length >= tail &&
                        strcmp(content + length - tail, close) == 0;
        if (has_role(&messages[i], "user") && messages[i].content && !response)
            return i;
    }
    return n - 1;
}

static void put_assistant(struct text *text, const struct rondo_chat_message *message, bool recent)
{
    struct part content = part_of(content_of(message)), reasoning = {"", 0};
    if (message->reasoning)
        reasoning = part_of(message->reasoning);
    else
        split_reasoning(&content, &reasoning);
    put(text, "<role>ASSISTANT</role>");
    if (recent && reasoning.n > 0) {
        reasoning = strip_right(strip_left(reasoning));
        content = strip_left(content);
        put(text, "\n<think>\n");
        put_n(text, reasoning.data, reasoning.n);
        put(text, "\n</think>\n\n");
    }
    put_n(text, content.data, content.n);
    put(text, "<|role_end|>");
}

static void put_system(struct text *text, const struct rondo_chat_template *chat,
                       const struct rondo_chat_message *messages, const char *tools, bool thinking)
{
    put(text, "<role>SYSTEM</role>");
    if (has_role(&messages[0], "system")) {
        put(text, content_of(&messages[0]));
        put(text, "\n");
    }
    if (tools) {
        put(text, rondo_chat_tools_head);
        put_json_elements(text, tools);
        put(text, rondo_chat_tools_tail);
    }
    bool on =
        chat->thinking == RONDO_THINKING_CHOICE ? thinking : chat->thinking == RONDO_THINKING_ON;
    put(text, on ? "detailed thinking on<|role_end|>" : "detailed thinking off<|role_end|>");
}

static void put_ling_v2(struct text *text, const struct rondo_chat_message *messages, size_t n)
{
    size_t query = last_query(messages, n);
    for (size_t i = 0; i < n; i++) {
        const struct rondo_chat_message *message = &messages[i];
        if (has_role(message, "assistant")) {
            put_assistant(text, message, i > query);
        } else if (has_role(message, "tool")) {
            if (i == 0 || !has_role(message - 1, "tool"))
                put(text, "<role>OBSERVATION</role>");
            put(text, "\n<tool_response>\n");
            put(text, content_of(message));
            put(text, "\n</tool_response>");
            if (i + 1 == n || !has_role(message + 1, "tool"))
                put(text, "<|role_end|>");
        } else if (has_role(message, "user") ||
                   i > 0) { /* the first system message is in the head */
            put(text, has_role(message, "user") ? "<role>HUMAN</role>" : "<role>SYSTEM</role>");
            put(text, content_of(message));
            put(text, "<|role_end|>");
        }
    }
}

/* ---- plain ----------------------------------------------------------------------------------- */

static void put_plain(struct text *text, const struct rondo_chat_template *chat,
                      const struct rondo_chat_message *messages, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const struct rondo_chat_message *message = &messages[i];
        put(text, has_role(message, "user")        ? "<role>HUMAN</role>"
                  : has_role(message, "system")    ? "<role>SYSTEM</role>"
                  : has_role(message, "assistant") ? "<role>ASSISTANT</role>"
                                                   : "<role>TOOL</role>");
        put(text, content_of(message));
        if (chat->role_end)
            put(text, "<|role_end|>");
    }
}

/* ---- the call -------------------------------------------------------------------------------- */

static int check_messages(const struct rondo_chat_template *chat,
                          const struct rondo_chat_message *messages, size_t n,
                          struct rondo_error *error)
{
    static const char *const roles[] = {"system", "user", "assistant", "tool"};
    if (n == 0)
        return rondo_fail(error, RONDO_USAGE, "chat: no messages (want at least one)");
    for (size_t i = 0; i < n; i++) {
        bool known = false;
        for (int k = 0; k < 4 && messages[i].role; k++)
            known |= has_role(&messages[i], roles[k]);
        if (!known)
            return rondo_fail(
                error, RONDO_USAGE,
                "chat: message %zu: role: unknown (got %.60s, want system, user, assistant or "
                "tool)",
                i, messages[i].role ? messages[i].role : "nothing");
        if (has_role(&messages[i], "tool") && chat->shape == RONDO_CHAT_LING_V2 &&
            !chat->tool_results)
            return rondo_fail(
                error, RONDO_USAGE,
                "chat: message %zu: this model's template has no place for tool results", i);
    }
    return RONDO_OK;
}

/* *any: the array has an element. */
static int check_tools(const struct rondo_chat_template *chat, const char *json, bool *any,
                       struct rondo_error *error)
{
    cJSON *tools = rondo_json_parse("tools", json, strlen(json), error);
    int status = tools ? RONDO_OK : RONDO_FAILED;
    if (tools && !cJSON_IsArray(tools))
        status = rondo_fail(error, RONDO_FAILED, "tools: wrong type (got %s, want an array)",
                            rondo_json_kind(tools));
    *any = tools && tools->child;
    if (status == RONDO_OK && *any && !chat->tools)
        status = rondo_fail(error, RONDO_FAILED,
                            "tools: this model's template, %s, has no place for tools", chat->name);
    cJSON_Delete(tools);
    return status;
}

char *rondo_chat_template_render(const struct rondo_chat_template *chat,
                                 const struct rondo_chat_message *messages, size_t n_messages,
                                 const struct rondo_chat_options *options,
                                 struct rondo_error *error)
{
    static const struct rondo_chat_options defaults = {.add_generation_prompt = true};
    options = options ? options : &defaults;
    bool any_tools = false;
    struct text text = {0};
    int status = check_messages(chat, messages, n_messages, error);
    if (status == RONDO_OK && options->tools_json)
        status = check_tools(chat, options->tools_json, &any_tools, error);
    if (status == RONDO_OK && chat->shape == RONDO_CHAT_LING_V2) {
        put_system(&text, chat, messages, any_tools ? options->tools_json : NULL,
                   options->thinking);
        put_ling_v2(&text, messages, n_messages);
    } else if (status == RONDO_OK) {
        put_plain(&text, chat, messages, n_messages);
    }
    if (options->add_generation_prompt)
        put(&text, chat->prompt[options->thinking]);
    put_n(&text, "", 1); /* the terminator */
    if (status == RONDO_OK && !text.failed)
        return text.data;
    if (status == RONDO_OK)
        rondo_fail(error, RONDO_FAILED, "chat: out of memory for %zu messages", n_messages);
    free(text.data);
    return NULL;
}
