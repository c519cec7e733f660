/* Recognising a chat template.
 *
 * The Jinja text is cut into items: {{ expressions }} and {% statements %}. Each is squeezed: no white
 * space, single quotes, a.b for a['b']. A template is ling-v2 or plain when
 *
 *   - every expression is in that shape's list, and those that make the shape what it is are all there;
 *   - the statements that the rendering rules follow from are there, and none that is known to change them;
 *   - no text is outside items, and no white space either that Jinja (with the trim_blocks and
 *     lstrip_blocks that chat templates are run with) would put out;
 *   - what follows {% if add_generation_prompt %} is literals, or literals chosen by the thinking option.
 *
 * So a version that spells a rule differently is refused, rather than rendered almost right. */
#include "formats/chat_template.h"

#include "formats/file.h"
#include "formats/json.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_ITEMS = 400, MAX_SQUEEZED = 700 };
#define LONGEST_TEMPLATE ((size_t)256 << 10)

const char rondo_chat_tools_head[] =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
const char rondo_chat_tools_tail[] =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within "
    "<tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>\n";

/* ---- items ----------------------------------------------------------------------------------- */

enum kind { EXPRESSION, STATEMENT };

struct item {
    enum kind kind;
    const char *inner; /* between the delimiters, in the template's text */
    size_t length;
    char *squeezed; /* in `pool` of struct items */
};

struct items {
    struct item list[MAX_ITEMS];
    int n;
    char *pool;
};

/* Appends a squeezed form to `out` and returns its length: never more than 2 * length. Newlines are
 * written \n, as in a literal, when `literal`. */
static size_t squeeze(const char *text, size_t length, bool literal, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (literal && c == '\n') {
            out[n++] = '\\';
            out[n++] = 'n';
        } else if (isspace((unsigned char)c) ||
                   (c == '\\' && i + 1 < length && (text[i + 1] == '"' || text[i + 1] == '\''))) {
            continue;
        } else if (!literal && c == '[' && i + 1 < length &&
                   (text[i + 1] == '\'' || text[i + 1] == '"') && n > 0 &&
                   (isalnum((unsigned char)out[n - 1]) || out[n - 1] == ']')) {
            const char *end = memchr(text + i + 2, text[i + 1], length - i - 2);
            if (end && end + 1 < text + length && end[1] == ']') { /* x['y'] */
                out[n++] = '.';
                memcpy(out + n, text + i + 2, (size_t)(end - text) - i - 2);
                n += (size_t)(end - text) - i - 2;
                i = (size_t)(end - text) + 1;
            } else {
                out[n++] = c;
            }
        } else {
            out[n++] = c == '"' ? '\'' : c;
        }
    }
    return n;
}

/* True when Jinja puts out nothing of the text between two items. `after` and `before`: the kinds at its
 * sides, trimmed by a '-' of theirs or not. */
static bool is_silent(const char *text, size_t length, bool trimmed, bool after_statement,
                      bool before_statement, bool last)
{
    for (size_t i = 0; i < length; i++)
        if (!isspace((unsigned char)text[i]))
            return false;
    if (trimmed)
        return true;
    if (after_statement && length > 0 && text[0] == '\n') { /* trim_blocks */
        text++;
        length--;
    }
    if (before_statement) /* lstrip_blocks: back to the line's beginning */
        while (length > 0 && text[length - 1] != '\n')
            length--;
    if (last && length > 0 && text[length - 1] == '\n') /* keep_trailing_newline is off */
        length--;
    return length == 0;
}

/* End of the item's inner text: the first closing delimiter outside of string literals. */
static const char *find_close(const char *text, const char *end, char closing)
{
    char quote = 0;
    for (const char *p = text; p + 1 < end; p++) {
        if (quote) {
            if (*p == '\\')
                p++;
            else if (*p == quote)
                quote = 0;
        } else if (*p == '\'' || *p == '"') {
            quote = *p;
        } else if (*p == closing && p[1] == '}') {
            return p;
        }
    }
    return NULL;
}

/* Cuts the template into items. False when it is not of the plain form that all known ones have. */
static bool cut(struct items *items, const char *text, size_t length)
{
    const char *at = text, *end = text + length;
    char *pool = items->pool;
    bool trim = false, after_statement = false;
    for (;;) {
        const char *open = at;
        while (open + 1 < end && !(open[0] == '{' && strchr("{%#", open[1])))
            open++;
        bool last = open + 1 >= end;
        if (last)
            open = end;
        char type = last ? 0 : open[1];
        bool left = !last && open + 2 < end && open[2] == '-';
        if (!is_silent(at, (size_t)(open - at), trim || left, after_statement, type == '%', last))
            return false;
        if (last)
            return true;
        const char *inner = open + 2 + left;
        const char *close = NULL;
        if (type == '#')
            for (const char *p = inner; p + 1 < end && !close; p++)
                close = p[0] == '#' && p[1] == '}' ? p : NULL;
        else
            close = find_close(inner, end, type == '{' ? '}' : '%');
        if (!close || items->n == MAX_ITEMS)
            return false;
        at = close + 2;
        trim = close > inner && close[-1] == '-';
        after_statement = type != '{';
        if (type == '#')
            continue;
        struct item *item = &items->list[items->n++];
        *item = (struct item){type == '{' ? EXPRESSION : STATEMENT, inner,
                              (size_t)(close - inner) - trim, pool};
        pool += squeeze(inner, item->length, false, pool);
        *pool++ = '\0';
    }
}

static bool has(const struct items *items, enum kind kind, const char *squeezed)
{
    for (int i = 0; i < items->n; i++)
        if (items->list[i].kind == kind && strcmp(items->list[i].squeezed, squeezed) == 0)
            return true;
    return false;
}

static bool mentions(const struct items *items, const char *fragment)
{
    for (int i = 0; i < items->n; i++)
        if (strstr(items->list[i].squeezed, fragment))
            return true;
    return false;
}

static bool is_one_of(const char *squeezed, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(squeezed, *list) == 0)
            return true;
    return false;
}

/* ---- the generation prompt ------------------------------------------------------------------- */

/* Appends the value of a literal, or of literals joined by +, to a prompt of 128 bytes. */
static bool append_literals(const struct item *item, char *prompt)
{
    size_t n = strlen(prompt);
    const char *p = item->inner, *end = p + item->length;
    for (;;) {
        while (p < end && isspace((unsigned char)*p))
            p++;
        char quote = p < end ? *p++ : 0;
        if (quote != '\'' && quote != '"')
            return false;
        for (; p < end && *p != quote; p++) {
            char c = *p;
            if (c == '\\') {
                if (++p == end || !strchr("nt\\'\"", *p))
                    return false;
                c = *p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
            }
            if (n + 1 >= 128 || c == '\0')
                return false;
            prompt[n++] = c;
        }
        if (p++ >= end)
            return false;
        prompt[n] = '\0';
        while (p < end && isspace((unsigned char)*p))
            p++;
        if (p == end)
            return true;
        if (*p++ != '+')
            return false;
    }
}

/* Whether a condition holds with thinking (1) or without (0); -1: not about thinking. */
static int condition_of(const char *squeezed)
{
    static const char *const on[] = {"enable_thinking", "thinking_option=='on'",
                                     "enable_thinkingisdefinedandenable_thinking",
                                     "enable_thinkingistrue", NULL};
    static const char *const off[] = {"notenable_thinking",
                                      "thinking_option=='off'",
                                      "enable_thinkingisdefinedandnotenable_thinking",
                                      "enable_thinkingisdefinedandenable_thinkingisfalse",
                                      "enable_thinkingisfalse",
                                      NULL};
    return is_one_of(squeezed, on) ? 1 : is_one_of(squeezed, off) ? 0 : -1;
}

/* Items from `first` on: literals and conditions up to the endif that ends the template. */
static bool read_prompt(const struct items *items, int first, struct rondo_chat_template *chat)
{
    bool wanted[2] = {true, true}; /* which of the two prompts an expression belongs to */
    int depth = 1, i = first;
    for (; i < items->n && depth > 0; i++) {
        const struct item *item = &items->list[i];
        const char *s = item->squeezed;
        if (item->kind == EXPRESSION) {
            for (int k = 0; k < 2; k++)
                if (wanted[k] && !append_literals(item, chat->prompt[k]))
                    return false;
        } else if (strcmp(s, "endif") == 0) {
            depth--;
            wanted[0] = wanted[1] = true;
        } else if (depth == 2 && strcmp(s, "else") == 0) {
            wanted[0] = !wanted[0];
            wanted[1] = !wanted[1];
        } else {
            bool elif = strncmp(s, "elif", 4) == 0;
            int condition = strncmp(s, "if", 2) == 0 ? condition_of(s + 2)
                            : elif                   ? condition_of(s + 4)
                                                     : -1;
            if (condition < 0 || depth != (elif ? 2 : 1) || (elif && wanted[condition]))
                return false;
            depth = 2;
            wanted[condition] = true;
            wanted[!condition] = false;
        }
    }
    return depth == 0 && i == items->n;
}

/* Index of the item after {% if add_generation_prompt %}, 0: none. */
static int find_prompt(const struct items *items)
{
    for (int i = 0; i < items->n; i++)
        if (items->list[i].kind == STATEMENT &&
            strcmp(items->list[i].squeezed, "ifadd_generation_prompt") == 0)
            return i + 1;
    return 0;
}

/* ---- the two shapes -------------------------------------------------------------------------- */

static bool is_plain(const struct items *items, struct rondo_chat_template *chat)
{
    /* user becomes HUMAN, other roles are written in capitals */
    static const char *const begin[] = {"formessageinmessages",
                                        "setrole=message.role|lower",
                                        "ifrole=='user'",
                                        "setrole='HUMAN'",
                                        "endif",
                                        "setrole=role|upper"};
    static const char *const contents[] = {"'<role>'+role+'</role>'+message.content",
                                           "'<role>'+role+'</role>'+message.content+'<|role_end|>'",
                                           NULL};
    enum { CONTENT = 6, END = 7, PROMPT = 9 };
    if (find_prompt(items) != PROMPT)
        return false;
    for (int i = 0; i < CONTENT; i++)
        if (items->list[i].kind != STATEMENT || strcmp(items->list[i].squeezed, begin[i]) != 0)
            return false;
    if (items->list[CONTENT].kind != EXPRESSION ||
        !is_one_of(items->list[CONTENT].squeezed, contents) ||
        strcmp(items->list[END].squeezed, "endfor") != 0)
        return false;
    chat->shape = RONDO_CHAT_PLAIN;
    chat->role_end = strcmp(items->list[CONTENT].squeezed, contents[1]) == 0;
    return read_prompt(items, PROMPT, chat);
}

/* What the template says about "detailed thinking"; false when that is not one of the known ways. */
static bool read_thinking(const struct items *items, struct rondo_chat_template *chat)
{
    bool on = has(items, STATEMENT, "setthinking_option='on'");
    bool off = has(items, STATEMENT, "setthinking_option='off'");
    if (!has(items, EXPRESSION, "'detailedthinking'+thinking_option+'<|role_end|>'")) {
        on = has(items, EXPRESSION, "'detailedthinkingon<|role_end|>'");
        off = has(items, EXPRESSION, "'detailedthinkingoff<|role_end|>'");
    }
    /* both: the caller's enable_thinking must be what chooses */
    bool chosen = has(items, STATEMENT, "ifenable_thinking") ||
                  has(items, STATEMENT, "ifenable_thinkingisdefinedandenable_thinking");
    chat->thinking = on && off ? RONDO_THINKING_CHOICE
                     : on      ? RONDO_THINKING_ON
                               : RONDO_THINKING_OFF;
    return on && off ? chosen : (on || off) && !mentions(items, "ifenable_thinking");
}

/* Expressions of the tools block, written from the text rondo renders. */
static bool is_tools_text(const char *squeezed, const char *text)
{
    char want[MAX_SQUEEZED];
    size_t n = squeeze(text, strlen(text), true, want);
    return squeezed[0] == '\'' && strncmp(squeezed + 1, want, n) == 0 &&
           strcmp(squeezed + 1 + n, "'") == 0;
}

static bool is_ling_v2(const struct items *items, struct rondo_chat_template *chat)
{
    static const char *const required[] = {
        "'<role>SYSTEM</role>'",
        "messages[0].content+'\\n'",
        "'<role>HUMAN</role>'+message.content+'<|role_end|>'",
        "'<role>ASSISTANT</role>'+'\\n<think>\\n'+reasoning_content.strip('\\n')+'\\n</"
        "think>\\n\\n'"
        "+content.lstrip('\\n')",
        "'<role>ASSISTANT</role>'+content",
        "'<|role_end|>'",
        NULL};
    static const char *const others[] = {
        "'<role>SYSTEM</role>'+message.content+'<|role_end|>'", "'\\n'",
        "'detailedthinking'+thinking_option+'<|role_end|>'", "'detailedthinkingon<|role_end|>'",
        "'detailedthinkingoff<|role_end|>'", "tool|tojson", "'<role>OBSERVATION</role>'",
        "'\\n<tool_response>\\n'", "content", "'\\n</tool_response>'",
        /* calls given as data; rondo's callers have them in the content */
        "'<tool_call>\\n{'name':''", "tool_call.name", "'','arguments':'", "tool_call.arguments",
        "tool_call.arguments|tojson", "'}\\n</tool_call>'", NULL};
    static const char *const rules[] = {"ifmessages[0].role=='system'",
                                        "ifloop.index0>ns.last_query_index", NULL};
    static const char *const unknown[] = {"detailedthinkingon'in", "detailedthinkingoff'in",
                                          "preserve", "documents", NULL};
    int prompt = find_prompt(items), head = 0, tail = 0;
    for (int i = 0; i < prompt - 1; i++) {
        const char *squeezed = items->list[i].squeezed;
        if (items->list[i].kind != EXPRESSION || is_one_of(squeezed, required) ||
            is_one_of(squeezed, others))
            continue;
        if (is_tools_text(squeezed, rondo_chat_tools_head))
            head++;
        else if (is_tools_text(squeezed, rondo_chat_tools_tail))
            tail++;
        else
            return false;
    }
    for (int i = 0; required[i]; i++)
        if (!has(items, EXPRESSION, required[i]))
            return false;
    for (int i = 0; rules[i]; i++)
        if (!has(items, STATEMENT, rules[i]))
            return false;
    for (int i = 0; unknown[i]; i++)
        if (mentions(items, unknown[i]))
            return false;
    chat->shape = RONDO_CHAT_LING_V2;
    chat->tools = head == 1 && tail == 1 && has(items, EXPRESSION, "tool|tojson");
    chat->tool_results = has(items, EXPRESSION, "'<role>OBSERVATION</role>'") &&
                         has(items, EXPRESSION, "'\\n<tool_response>\\n'") &&
                         has(items, EXPRESSION, "'\\n</tool_response>'");
    return read_thinking(items, chat) && prompt > 0 && read_prompt(items, prompt, chat);
}

static void name_template(struct rondo_chat_template *chat)
{
    static const char *const thinking[] = {"off", "on", "on or off"};
    const char *prompt = strcmp(chat->prompt[0], chat->prompt[1]) != 0 ? "a choice of prompts"
                         : strstr(chat->prompt[0], "<think>")          ? "an opened <think>"
                                                                       : "no <think>";
    if (chat->shape == RONDO_CHAT_PLAIN)
        snprintf(chat->name, sizeof chat->name, "plain (%s%s)",
                 chat->role_end ? "<|role_end|>, " : "", prompt);
    else
        snprintf(chat->name, sizeof chat->name, "ling-v2 (detailed thinking %s, %s)",
                 thinking[chat->thinking], prompt);
}

struct rondo_chat_template *rondo_chat_template_parse(const char *name, const char *text,
                                                      size_t length, struct rondo_error *error)
{
    struct rondo_chat_template *chat = calloc(1, sizeof *chat);
    struct items *items = calloc(1, sizeof *items);
    char *pool = length <= LONGEST_TEMPLATE ? malloc(length + 1) : NULL;
    bool known = false;
    if (chat && items && pool) {
        items->pool = pool;
        if (cut(items, text, length)) {
            known = is_plain(items, chat);
            if (!known) {
                memset(chat, 0, sizeof *chat);
                known = is_ling_v2(items, chat);
            }
        }
        if (known)
            name_template(chat);
        else
            rondo_fail(error, RONDO_FAILED,
                       "%s: chat_template: it is none of the templates rondo knows (ling-v2 with "
                       "\"detailed "
                       "thinking\" and <|role_end|>, plain <role>ROLE</role>); run without --chat "
                       "and write "
                       "the roles into the prompt",
                       name);
    } else {
        rondo_fail(error, RONDO_FAILED,
                   "%s: chat_template: too large (got %zu, want at most %zu bytes)", name, length,
                   LONGEST_TEMPLATE);
    }
    free(pool);
    free(items);
    if (known)
        return chat;
    free(chat);
    return NULL;
}

/* ---- files ----------------------------------------------------------------------------------- */

/* The template of tokenizer_config.json: a string, or a list of which "default" is taken. */
static const char *find_text(struct rondo_json_reader *reader)
{
    const cJSON *value = rondo_json_get(reader, "chat_template"), *item;
    if (!value)
        rondo_json_fail(reader, "chat_template",
                        "missing: this model comes without a chat template; run "
                        "without --chat");
    else if (!cJSON_IsArray(value))
        return rondo_json_string(reader, "chat_template", NULL);
    cJSON_ArrayForEach(item, value)
    {
        const cJSON *name = cJSON_GetObjectItemCaseSensitive(item, "name");
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(item, "template");
        if (cJSON_IsString(name) && cJSON_IsString(text) &&
            strcmp(name->valuestring, "default") == 0)
            return text->valuestring;
    }
    rondo_json_fail(reader, "chat_template", "no template named \"default\" in the list");
    return NULL;
}

static struct rondo_chat_template *open_config(const char *path, struct rondo_error *error)
{
    cJSON *root = rondo_json_read(path, RONDO_JSON_LIMIT, error);
    if (!root)
        return NULL;
    struct rondo_json_reader reader = rondo_json_reader(root, path, error);
    const char *text = reader.status == RONDO_OK ? find_text(&reader) : NULL;
    struct rondo_chat_template *chat =
        text ? rondo_chat_template_parse(path, text, strlen(text), error) : NULL;
    cJSON_Delete(root);
    return chat;
}

struct rondo_chat_template *rondo_chat_template_open(const char *directory,
                                                     struct rondo_error *error)
{
    struct rondo_chat_template *chat = NULL;
    char *jinja = rondo_path_join(directory, "chat_template.jinja", error);
    char *config = rondo_path_join(directory, "tokenizer_config.json", error);
    if (jinja && config && access(jinja, F_OK) == 0) { /* takes precedence, as in transformers */
        size_t length;
        char *text = rondo_file_read(jinja, LONGEST_TEMPLATE, &length, error);
        if (text)
            chat = rondo_chat_template_parse(jinja, text, length, error);
        free(text);
    } else if (jinja && config) {
        chat = open_config(config, error);
    }
    free(jinja);
    free(config);
    return chat;
}

void rondo_chat_template_close(struct rondo_chat_template *chat)
{
    free(chat);
}

const char *rondo_chat_template_name(const struct rondo_chat_template *chat)
{
    return chat->name;
}
