/* Added tokens: finding them in a text, as the `tokenizers` library does. */
#include "formats/tokenizer_internal.h"

#include "formats/utf8.h"

#include <utf8proc.h>

#include <stdlib.h>
#include <string.h>

bool rondo_matcher_add(struct rondo_matcher *matcher, const struct rondo_added *token)
{
    if (matcher->n == matcher->capacity) {
        size_t capacity = matcher->capacity ? 2 * matcher->capacity : 16;
        struct rondo_added *tokens = realloc(matcher->tokens, capacity * sizeof *tokens);
        if (!tokens)
            return false;
        matcher->tokens = tokens;
        matcher->capacity = capacity;
    }
    matcher->tokens[matcher->n++] = *token;
    matcher->first[(unsigned char)token->content[0]] = true;
    return true;
}

static int compare(const void *a, const void *b)
{
    const struct rondo_added *x = a, *y = b;
    int order = memcmp(x->content, y->content, x->length < y->length ? x->length : y->length);
    return order ? order : (x->length > y->length) - (x->length < y->length);
}

bool rondo_matcher_finish(struct rondo_matcher *matcher, const struct rondo_added **twice)
{
    if (matcher->n > 0)
        qsort(matcher->tokens, matcher->n, sizeof *matcher->tokens, compare);
    for (size_t i = 1; i < matcher->n; i++) {
        *twice = &matcher->tokens[i];
        if (compare(&matcher->tokens[i - 1], &matcher->tokens[i]) == 0)
            return false;
    }
    return true;
}

void rondo_matcher_free(struct rondo_matcher *matcher)
{
    for (size_t i = 0; i < matcher->n; i++)
        free(matcher->tokens[i].content);
    free(matcher->tokens);
}

/* The byte of token i at `depth`, -1 past its end: so shorter contents sort first. */
static int byte_at(const struct rondo_matcher *matcher, size_t i, size_t depth)
{
    const struct rondo_added *token = &matcher->tokens[i];
    return depth < token->length ? (unsigned char)token->content[depth] : -1;
}

/* First token in [low, high) whose byte at `depth` is >= value. */
static size_t lower_bound(const struct rondo_matcher *matcher, size_t low, size_t high,
                          size_t depth, int value)
{
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (byte_at(matcher, middle, depth) < value)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that text begins with: the range of tokens that agree narrows byte by byte. */
static const struct rondo_added *longest(const struct rondo_matcher *matcher, const char *text,
                                         size_t length)
{
    const struct rondo_added *best = NULL;
    size_t low = 0, high = matcher->n;
    for (size_t depth = 0; low < high; depth++) {
        if (matcher->tokens[low].length == depth)
            best = &matcher->tokens[low++];
        if (depth == length)
            break;
        int byte = (unsigned char)text[depth];
        low = lower_bound(matcher, low, high, depth, byte);
        high = lower_bound(matcher, low, high, depth, byte + 1);
    }
    return best;
}

/* ---- neighbours ------------------------------------------------------------------------------ */

/* Code point that ends right before text[end], or starts at it; -1: none, or not valid UTF-8. */
static int32_t code_point_before(const char *text, size_t end, int *n)
{
    for (*n = 1; *n <= 4 && (size_t)*n <= end; ++*n)
        if (rondo_utf8_sequence(text + end - *n, (size_t)*n, NULL) == *n)
            return (int32_t)rondo_utf8_read(text + end - *n, *n);
    return -1;
}

static int32_t code_point_after(const char *text, size_t start, size_t length, int *n)
{
    *n = start < length ? rondo_utf8_sequence(text + start, length - start, NULL) : 0;
    return *n > 0 ? (int32_t)rondo_utf8_read(text + start, *n) : -1;
}

/* What \w is to Unicode: letters, marks, decimal and letter numbers, connectors, circled letters, joiners. */
static bool is_word(int32_t c)
{
    if (c < 0)
        return false;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return (c >= 0x24b6 && c <= 0x24e9) || (c >= 0x1f130 && c <= 0x1f149) ||
               (c >= 0x1f150 && c <= 0x1f169) || (c >= 0x1f170 && c <= 0x1f189) || c == 0x200c ||
               c == 0x200d;
    }
}

/* Unicode's White_Space. */
static bool is_space(int32_t c)
{
    return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f ||
           c == 0x205f || c == 0x3000;
}

const struct rondo_added *rondo_matcher_next(const struct rondo_matcher *matcher, const char *text,
                                             size_t length, bool special, size_t done, size_t *at,
                                             size_t *start, size_t *stop)
{
    for (size_t i = *at; i < length; i++) {
        if (!matcher->first[(unsigned char)text[i]])
            continue;
        const struct rondo_added *token = longest(matcher, text + i, length - i);
        if (!token)
            continue;
        size_t from = i, to = i + token->length;
        int n;
        i = to - 1; /* one that does not count still hides what overlaps it */
        if (token->special && !special)
            continue;
        if (token->single_word && (is_word(code_point_before(text, from, &n)) ||
                                   is_word(code_point_after(text, to, length, &n))))
            continue;
        while (token->lstrip && from > done && is_space(code_point_before(text, from, &n)))
            from -= (size_t)n;
        while (token->rstrip && is_space(code_point_after(text, to, length, &n)))
            to += (size_t)n;
        *start = from;
        *at = *stop = to;
        return token;
    }
    *at = length;
    return NULL;
}
