/* Parsing of option tables. */
#include "cli/options.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cli_usage(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("rondo: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return 2;
}

/* ---- nearest name ---------------------------------------------------------------------------- */

#define LONGEST_NAME 48

/* Edit distance with swaps of neighbours counted as one; both words shorter than LONGEST_NAME. */
static int edit_distance(const char *a, const char *b)
{
    int n = (int)strlen(a), m = (int)strlen(b);
    int row[3][LONGEST_NAME + 1]; /* the last three rows of the table */
    for (int j = 0; j <= m; j++)
        row[0][j] = j;
    for (int i = 1; i <= n; i++) {
        int *now = row[i % 3], *before = row[(i + 2) % 3], *earlier = row[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int best = before[j - 1] + (a[i - 1] != b[j - 1]);
            if (before[j] + 1 < best)
                best = before[j] + 1;
            if (now[j - 1] + 1 < best)
                best = now[j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                earlier[j - 2] + 1 < best)
                best = earlier[j - 2] + 1;
            now[j] = best;
        }
    }
    return row[n % 3][m];
}

const char *cli_nearest(const char *word, const char *const *names)
{
    const char *nearest = NULL;
    if (strlen(word) > LONGEST_NAME)
        return NULL;
    int best = (int)strlen(word) / 3 + 1;
    for (; *names; names++) {
        int distance = edit_distance(word, *names);
        if (distance <= best) {
            nearest = distance < best || !nearest ? *names : nearest;
            best = distance;
        }
    }
    return nearest;
}

/* ---- values ---------------------------------------------------------------------------------- */

bool cli_parse_integer(const char *text, int64_t *value)
{
    char *end;
    if (!((*text >= '0' && *text <= '9') || (*text == '-' && text[1] >= '0' && text[1] <= '9')))
        return false;
    errno = 0;
    long long number = strtoll(text, &end, 10);
    if (*end || errno)
        return false;
    *value = number;
    return true;
}

bool cli_parse_real(const char *text, double *value)
{
    char *end;
    if (!*text || text[strspn(text, "0123456789+-.eE")])
        return false;
    errno = 0;
    double number = strtod(text, &end);
    if (*end || end == text || !isfinite(number))
        return false;
    *value = number;
    return true;
}

static int bad_number(const struct cli_option *option, const char *text, const char *kind)
{
    return cli_usage("%s: got %s%s%s, want %s%.15g..%.15g", option->name, kind ? "'" : "", text,
                     kind ? "'" : "", kind ? kind : "", option->low, option->high);
}

static bool is_in_range(const struct cli_option *option, const char *text, double value)
{
    return text == option->fallback || (value >= option->low && value <= option->high);
}

static int store_integer(const struct cli_option *option, const char *text, int64_t *field)
{
    int64_t value;
    if (!cli_parse_integer(text, &value))
        return bad_number(option, text, "a whole number in ");
    if (!is_in_range(option, text, (double)value))
        return bad_number(option, text, NULL);
    *field = value;
    return 0;
}

static int store_real(const struct cli_option *option, const char *text, double *field)
{
    double value;
    if (!cli_parse_real(text, &value))
        return bad_number(option, text, "a number in ");
    if (!is_in_range(option, text, value))
        return bad_number(option, text, NULL);
    *field = value;
    return 0;
}

static int store_seed(const struct cli_option *option, const char *text, uint64_t *field)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno)
        return cli_usage("%s: got '%s', want a whole number in 0..18446744073709551615",
                         option->name, text);
    *field = value;
    return 0;
}

static int store_choice(const struct cli_option *option, const char *text, int *field)
{
    char list[256] = "";
    for (int i = 0; option->choices[i]; i++) {
        if (!strcmp(option->choices[i], text)) {
            *field = i;
            return 0;
        }
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", i ? ", " : "", option->choices[i]);
    }
    const char *nearest = cli_nearest(text, option->choices);
    return cli_usage("%s: got '%s', want one of %s%s%s%s", option->name, text, list,
                     nearest ? "; did you mean " : "", nearest ? nearest : "", nearest ? "?" : "");
}

static int store_integers(const struct cli_option *option, const char *text,
                          struct cli_integers *field)
{
    size_t n = 1;
    for (const char *c = text; *c; c++)
        n += *c == ',';
    int64_t *items = malloc(n * sizeof *items);
    char *copy = strdup(text);
    int result = 0;
    if (!items || !copy) {
        fprintf(stderr, "rondo: %s: out of memory\n", option->name);
        result = 1;
    }
    char *item = copy;
    for (size_t i = 0; i < n && !result; i++) {
        char *comma = strchr(item, ',');
        if (comma)
            *comma = 0;
        while (*item == ' ')
            item++;
        result = store_integer(option, item, &items[i]);
        item = comma ? comma + 1 : item;
    }
    free(copy);
    if (result) {
        free(items);
        return result;
    }
    free(field->items);
    field->items = items;
    field->n = n;
    return 0;
}

static int store_text(const struct cli_option *option, const char *text, struct cli_texts *field)
{
    const char **items = realloc(field->items, (field->n + 1) * sizeof *items);
    if (!items) {
        fprintf(stderr, "rondo: %s: out of memory\n", option ? option->name : "arguments");
        return 1;
    }
    items[field->n++] = text;
    field->items = items;
    return 0;
}

static int store(const struct cli_option *option, void *field, const char *text)
{
    switch (option->kind) {
    case CLI_FLAG:
        *(bool *)field = true;
        return 0;
    case CLI_FLAG_OFF:
        *(bool *)field = false;
        return 0;
    case CLI_TEXT:
        if (!*text && strcmp(option->argument, "TEXT") != 0) /* a file, a device: what has a name */
            return cli_usage("%s: got '', want %s", option->name, option->argument);
        *(const char **)field = text;
        return 0;
    case CLI_TEXTS:
        return store_text(option, text, field);
    case CLI_INTEGER:
        return store_integer(option, text, field);
    case CLI_SEED:
        return store_seed(option, text, field);
    case CLI_REAL:
        return store_real(option, text, field);
    case CLI_CHOICE:
        return store_choice(option, text, field);
    case CLI_INTEGERS:
        return store_integers(option, text, field);
    }
    return 0;
}

/* ---- tables ---------------------------------------------------------------------------------- */

static bool takes_value(const struct cli_option *option)
{
    return option->kind != CLI_FLAG && option->kind != CLI_FLAG_OFF;
}

/* The option called `name` (`length` bytes of it), and the address of its field. */
static const struct cli_option *find(const struct cli_command *command, const char *name,
                                     size_t length, void *options, void **field)
{
    for (size_t s = 0; s < command->n_sets; s++) {
        const struct cli_option_set *set = &command->sets[s];
        for (size_t i = 0; i < set->n; i++) {
            const struct cli_option *option = &set->options[i];
            bool is_long = strlen(option->name) == length && !memcmp(option->name, name, length);
            bool is_short =
                option->letter && length == 2 && name[0] == '-' && name[1] == option->letter;
            if (is_long || is_short) {
                *field = (char *)options + set->base + option->offset;
                return option;
            }
        }
    }
    return NULL;
}

static int unknown_option(const struct cli_command *command, const char *name, size_t length)
{
    const char *names[128];
    size_t n = 0;
    char word[LONGEST_NAME + 1];
    for (size_t s = 0; s < command->n_sets; s++)
        for (size_t i = 0; i < command->sets[s].n && n < 126; i++)
            names[n++] = command->sets[s].options[i].name;
    names[n++] = "--help";
    names[n] = NULL;
    snprintf(word, sizeof word, "%.*s", (int)length, name);
    const char *nearest = length < sizeof word ? cli_nearest(word, names) : NULL;
    if (nearest)
        return cli_usage("%s: unknown option %.*s; did you mean %s?", command->name, (int)length,
                         name, nearest);
    return cli_usage("%s: unknown option %.*s; 'rondo help %s' lists them", command->name,
                     (int)length, name, command->name);
}

static int store_defaults(const struct cli_command *command, void *options)
{
    for (size_t s = 0; s < command->n_sets; s++) {
        const struct cli_option_set *set = &command->sets[s];
        for (size_t i = 0; i < set->n; i++) {
            const struct cli_option *option = &set->options[i];
            void *field = (char *)options + set->base + option->offset;
            if (option->kind == CLI_FLAG_OFF) {
                *(bool *)field = true;
            } else if (option->fallback) {
                int result = store(option, field, option->fallback);
                if (result)
                    return result;
            }
        }
    }
    return 0;
}

static int store_argument(const struct cli_command *command, void *options, const char *text)
{
    struct cli_texts *arguments = (struct cli_texts *)((char *)options + command->arguments_offset);
    if (arguments->n >= command->max_arguments) {
        if (!command->max_arguments)
            return cli_usage("%s: takes no argument (got '%s')", command->name, text);
        return cli_usage(
            "%s: one argument too many (got '%s', want at most %zu); quote a text that has spaces",
            command->name, text, command->max_arguments);
    }
    return store_text(NULL, text, arguments);
}

int cli_options_parse(const struct cli_command *command, void *options, int argc, char **argv,
                      bool *help)
{
    int result = store_defaults(command, options);
    bool only_arguments = false;
    *help = false;
    for (int i = 0; i < argc && !result; i++) {
        const char *word = argv[i];
        if (only_arguments || word[0] != '-' || !word[1]) {
            result = store_argument(command, options, word);
            continue;
        }
        if (!strcmp(word, "--")) {
            only_arguments = true;
            continue;
        }
        size_t length = strcspn(word, "=");
        const char *value = word[length] ? word + length + 1 : NULL;
        void *field = NULL, *unused;
        const struct cli_option *option = find(command, word, length, options, &field);
        if (!option && (!strcmp(word, "--help") || !strcmp(word, "-h"))) {
            *help = true;
            return 0;
        }
        if (!option)
            return unknown_option(command, word, length);
        if (takes_value(option) && !value) {
            value = i + 1 < argc ? argv[i + 1] : NULL;
            bool is_option =
                value && value[0] == '-' && find(command, value, strlen(value), options, &unused);
            if (!value || is_option)
                return cli_usage("%s: needs a value: %s %s", option->name, option->name,
                                 option->argument);
            i++;
        } else if (!takes_value(option) && value) {
            return cli_usage("%s: takes no value (got '%s')", option->name, value);
        }
        result = store(option, field, value);
    }
    return result;
}

void cli_options_release(const struct cli_command *command, void *options)
{
    free(((struct cli_texts *)((char *)options + command->arguments_offset))->items);
    for (size_t s = 0; s < command->n_sets; s++) {
        const struct cli_option_set *set = &command->sets[s];
        for (size_t i = 0; i < set->n; i++) {
            void *field = (char *)options + set->base + set->options[i].offset;
            if (set->options[i].kind == CLI_TEXTS)
                free(((struct cli_texts *)field)->items);
            else if (set->options[i].kind == CLI_INTEGERS)
                free(((struct cli_integers *)field)->items);
        }
    }
}
