/* Patterns of tokenizer.json, run by PCRE2.
 *
 * The `tokenizers` library compiles them with Oniguruma in its Ruby dialect. What differs is translated:
 *   \s \S \w \W \d \D   Unicode White_Space, Word and Nd, written out; PCRE2's sets differ a little
 *   [:punct:]           P and S, in PCRE2 not all of S; other POSIX classes are refused
 *   \p{Script}          means the script, in PCRE2 its extensions: becomes \p{sc:Script}
 *   X{n,m}+             means "one or more times X{n,m}", in PCRE2 possessive: becomes (?:X{n,m})+
 *   ^ $                 always match at lines
 * and what is not translated is refused: flags other than i, nested classes and &&, \h \H \g \k \K \G.
 */
#include "formats/tokenizer_internal.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

struct rondo_regex {
    pcre2_code *code;
    bool jit;
};

struct rondo_regex_state {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

/* ---- translation ----------------------------------------------------------------------------- */

#define SPACES                                                                                     \
    "\\x{09}-\\x{0d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"  \
    "\\x{205f}\\x{3000}"
/* Oniguruma's \w: letters, marks, decimal and letter numbers, connectors, circled and squared letters;
 * outside of brackets six characters of Latin-1 as well */
#define WORDS                                                                                      \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24b6}-\\x{24e9}"                                         \
    "\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define LATIN_1_WORDS "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"

enum { MAX_GROUPS = 64 };

struct translation {
    struct rondo_bytes out;
    const char *problem; /* NULL, or why the pattern is refused */
    bool in_class;
    size_t atom;               /* where in `out` what a quantifier would repeat begins */
    size_t groups[MAX_GROUPS]; /* where the open groups begin */
    int n_groups;
};

static void put(struct translation *t, const char *text)
{
    if (!rondo_bytes_append(&t->out, text, strlen(text)))
        t->problem = "out of memory";
}

static void put_n(struct translation *t, const char *text, size_t n)
{
    if (!rondo_bytes_append(&t->out, text, n))
        t->problem = "out of memory";
}

/* A shorthand class: `members` stand inside brackets. */
static void put_set(struct translation *t, const char *members, bool negated)
{
    if (t->in_class && negated) {
        t->problem = "\\S, \\W or \\D inside [...] is not supported";
        return;
    }
    if (!t->in_class)
        put(t, negated ? "[^" : "[");
    put(t, members);
    if (!t->in_class)
        put(t, "]");
}

/* \p{Name} or \P{Name} at p; returns what follows it. */
static const char *put_property(struct translation *t, const char *p)
{
    const char *name = p[2] == '{' ? p + 3 : NULL;
    const char *end = name ? strchr(name, '}') : NULL;
    if (!end) {
        t->problem = "\\p without {...} is not supported";
        return p + strlen(p);
    }
    put_n(t, p, 3);
    if (*name == '^')
        put_n(t, name++, 1);
    if (end - name > 2 && !memchr(name, ':', (size_t)(end - name)) && strncmp(name, "Any", 3) != 0)
        put(t, "sc:");
    put_n(t, name, (size_t)(end + 1 - name));
    return end + 1;
}

/* The escape at p[0] == '\\'; returns what follows it. */
static const char *put_escape(struct translation *t, const char *p)
{
    switch (p[1]) {
    case '\0':
        t->problem = "it ends with a backslash";
        return p + 1;
    case 's':
    case 'S':
        put_set(t, SPACES, p[1] == 'S');
        return p + 2;
    case 'w':
    case 'W':
        put_set(t, t->in_class ? WORDS : WORDS LATIN_1_WORDS, p[1] == 'W');
        return p + 2;
    case 'd':
    case 'D':
        put_set(t, "\\p{Nd}", p[1] == 'D');
        return p + 2;
    case 'p':
    case 'P':
        return put_property(t, p);
    case 'h':
    case 'H':
    case 'g':
    case 'k':
    case 'K':
    case 'G':
    case 'C':
    case 'Q':
    case 'E':
    case 'M':
    case 'c':
    case 'o':
    case 'N':
    case 'v':
    case 'V':
    case 'y':
    case 'Y':
        t->problem = "an escape that Oniguruma and PCRE2 read differently";
        return p + 2;
    default:
        put_n(t, p, 2);
        return p + 2;
    }
}

/* (?...) and (*...) at p[0] == '('. Only (?: (?= (?! (?> (?<= (?<! and the flag i are the same in both. */
static const char *put_group(struct translation *t, const char *p)
{
    if (p[1] == '*') {
        t->problem = "(*...) is not supported";
    } else if (p[1] == '?') {
        const char *q = p + 2;
        while (*q == 'i' || *q == '-')
            q++;
        bool flags = *q == ':' || (*q == ')' && q > p + 2);
        bool look = q == p + 2 && (*q == '=' || *q == '!' || *q == '>');
        bool behind = q == p + 2 && *q == '<' && (q[1] == '=' || q[1] == '!');
        if (!flags && !look && !behind)
            t->problem = "a group other than (?: (?= (?! (?> (?<= (?<! (?i: is not supported";
    }
    put_n(t, p, 1);
    return p + 1;
}

static const char *put_in_class(struct translation *t, const char *p)
{
    if (*p == '\\')
        return put_escape(t, p);
    static const struct {
        const char *name, *members;
    } posix[] = {{"[:punct:]", "\\p{P}\\p{S}"},
                 {"[:space:]", SPACES},
                 {"[:digit:]", "\\p{Nd}"},
                 {"[:word:]", WORDS}};
    for (size_t i = 0; i < sizeof posix / sizeof *posix; i++) {
        size_t n = strlen(posix[i].name);
        if (strncmp(p, posix[i].name, n) == 0) {
            put(t, posix[i].members);
            return p + n;
        }
    }
    if (*p == '[')
        t->problem = "this class inside [...] is not supported";
    else if (p[0] == '&' && p[1] == '&')
        t->problem = "&& inside [...] is not supported";
    else if (*p == ']')
        t->in_class = false;
    put_n(t, p, 1);
    return p + 1;
}

/* {n,m}+ at p, `end` its brace, becomes (?:ATOM{n,m})+; returns what follows. */
static const char *put_repeated_range(struct translation *t, const char *p, const char *end)
{
    put(t, "   ");
    if (t->problem)
        return p;
    char *atom = t->out.data + t->atom;
    memmove(atom + 3, atom, t->out.n - 3 - t->atom);
    memcpy(atom, "(?:", 3);
    put_n(t, p, (size_t)(end + 1 - p));
    put(t, ")+");
    return end + 2;
}

/* The quantifier at p; returns what follows, or NULL when there is none. */
static const char *put_quantifier(struct translation *t, const char *p)
{
    if (*p == '?' || *p == '*' || *p == '+') {
        put_n(t, p, 1);
        return p + 1;
    }
    if (*p != '{' || !isdigit((unsigned char)p[1]))
        return NULL;
    const char *end = p + strspn(p, "{0123456789,");
    if (*end != '}')
        return NULL;
    if (end[1] == '+')
        return put_repeated_range(t, p, end);
    if (end[1] == '?' && !memchr(p, ',', (size_t)(end - p)))
        t->problem = "{n}? is read differently by Oniguruma and PCRE2";
    put_n(t, p, (size_t)(end + 1 - p));
    return end + 1;
}

static const char *put_outside(struct translation *t, const char *p)
{
    const char *after = put_quantifier(t, p);
    if (after)
        return after;
    t->atom = t->out.n;
    switch (*p) {
    case '\\':
        return put_escape(t, p);
    case '(':
        if (t->n_groups == MAX_GROUPS)
            t->problem = "groups are nested too deeply";
        else
            t->groups[t->n_groups++] = t->out.n;
        return put_group(t, p);
    case ')':
        if (t->n_groups > 0)
            t->atom = t->groups[--t->n_groups];
        break;
    case '[':
        t->in_class = true;
        put_n(t, p++, 1);
        if (*p == '^')
            put_n(t, p++, 1);
        if (*p == ']') /* stands for itself there */
            put_n(t, p++, 1);
        return p;
    }
    size_t n = 1;
    while (((unsigned char)p[n] & 0xc0) == 0x80) /* a whole character is one atom */
        n++;
    put_n(t, p, n);
    return p + n;
}

static const char *translate(const char *pattern, struct rondo_bytes *out)
{
    struct translation t = {0};
    for (const char *p = pattern; *p && !t.problem;)
        p = t.in_class ? put_in_class(&t, p) : put_outside(&t, p);
    *out = t.out;
    return t.problem;
}

/* ---- compiling and matching ------------------------------------------------------------------ */

struct rondo_regex *rondo_regex_compile(const char *pattern, bool literal,
                                        struct rondo_json_reader *reader, const char *key)
{
    enum { LONGEST = 4096 };
    struct rondo_bytes translated = {0};
    if (strlen(pattern) > LONGEST) {
        rondo_json_fail(reader, key, "the pattern is too long (got %zu, want at most %d bytes)",
                        strlen(pattern), LONGEST);
        return NULL;
    }
    const char *problem = literal ? NULL : translate(pattern, &translated);
    if (problem) {
        rondo_json_fail(reader, key, "the pattern %.200s: %s", pattern, problem);
        free(translated.data);
        return NULL;
    }
    struct rondo_regex *regex = calloc(1, sizeof *regex);
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    int code = 0;
    PCRE2_SIZE offset = 0;
    if (regex && context) {
        pcre2_set_newline(context, PCRE2_NEWLINE_LF);
        pcre2_set_parens_nest_limit(context, 64);
        const char *text = literal ? pattern : translated.data ? translated.data : "";
        regex->code = pcre2_compile((PCRE2_SPTR)text, literal ? strlen(pattern) : translated.n,
                                    literal ? PCRE2_UTF | PCRE2_LITERAL
                                            : PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE |
                                                  PCRE2_NEVER_BACKSLASH_C,
                                    &code, &offset, context);
    }
    pcre2_compile_context_free(context);
    free(translated.data);
    if (!regex || !regex->code) {
        char message[128] = "out of memory";
        if (code)
            pcre2_get_error_message(code, (PCRE2_UCHAR *)message, sizeof message);
        rondo_json_fail(reader, key, "the pattern %.200s: %s", pattern, message);
        free(regex);
        return NULL;
    }
    /* refused where memory may not be made executable: then the interpreter runs it */
    regex->jit = pcre2_jit_compile(regex->code, PCRE2_JIT_COMPLETE) == 0;
    return regex;
}

void rondo_regex_free(struct rondo_regex *regex)
{
    if (!regex)
        return;
    pcre2_code_free(regex->code);
    free(regex);
}

struct rondo_regex_state *rondo_regex_state_create(void)
{
    struct rondo_regex_state *state = calloc(1, sizeof *state);
    if (!state)
        return NULL;
    state->data = pcre2_match_data_create(1, NULL);
    state->context = pcre2_match_context_create(NULL);
    if (!state->data || !state->context) {
        rondo_regex_state_free(state);
        return NULL;
    }
    pcre2_set_match_limit(state->context, 10 * 1000 * 1000);
    pcre2_set_heap_limit(state->context, 64 * 1024); /* KiB */
    state->stack =
        pcre2_jit_stack_create(32 * 1024, 1024 * 1024, NULL); /* NULL: JIT's own 32 KiB */
    if (state->stack)
        pcre2_jit_stack_assign(state->context, NULL, state->stack);
    return state;
}

void rondo_regex_state_free(struct rondo_regex_state *state)
{
    if (!state)
        return;
    pcre2_jit_stack_free(state->stack);
    pcre2_match_context_free(state->context);
    pcre2_match_data_free(state->data);
    free(state);
}

int rondo_regex_search(const struct rondo_regex *regex, struct rondo_regex_state *state,
                       const char *text, size_t length, size_t start, size_t *from, size_t *to,
                       struct rondo_error *error)
{
    PCRE2_SPTR subject = (PCRE2_SPTR)text;
    int found = PCRE2_ERROR_JIT_STACKLIMIT;
    if (regex->jit)
        found =
            pcre2_jit_match(regex->code, subject, length, start, 0, state->data, state->context);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT)
        found = pcre2_match(regex->code, subject, length, start, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                            state->data, state->context);
    if (found == PCRE2_ERROR_NOMATCH)
        return 0;
    if (found < 0) {
        char message[128] = "";
        pcre2_get_error_message(found, (PCRE2_UCHAR *)message, sizeof message);
        rondo_fail(error, RONDO_FAILED,
                   "tokenizer.json: pre_tokenizer: the pattern on %zu bytes of text: %s", length,
                   message);
        return -1;
    }
    const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(state->data);
    *from = ends[0];
    *to = ends[1];
    return 1;
}
