/* Command line options as tables. A subcommand declares its options once; parsing, defaults, range checks,
 * suggestions for misspelt names and the help text all come from that table. */
#ifndef RONDO_CLI_OPTIONS_H
#define RONDO_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What an option's value is, and the type of the field it is stored in. */
enum cli_kind {
    CLI_FLAG,     /* bool, becomes true; takes no value */
    CLI_FLAG_OFF, /* bool, becomes false; takes no value */
    CLI_TEXT,     /* const char *, NULL when not given */
    CLI_TEXTS,    /* struct cli_texts, one more each time the option is given */
    CLI_INTEGER,  /* int64_t within low..high */
    CLI_SEED,     /* uint64_t */
    CLI_REAL,     /* double within low..high */
    CLI_CHOICE,   /* int, index into `choices` */
    CLI_INTEGERS, /* struct cli_integers, each within low..high: "1,2,3" */
};

struct cli_texts {
    const char **items; /* [n] */
    size_t n;
};

struct cli_integers {
    int64_t *items; /* [n] */
    size_t n;
};

struct cli_option {
    const char *name; /* "--top-p" */
    char letter;      /* 'm' for -m; 0: none */
    enum cli_kind kind;
    size_t offset;             /* of the field, from the base of the table's set */
    const char *argument;      /* what stands for the value in the help */
    const char *group;         /* heading in the help */
    const char *help;          /* one or two sentences */
    const char *fallback;      /* the default, as one would type it; NULL: not given */
    const char *fallback_help; /* the default in words, where the number would not say it */
    /* Both included. The default may lie outside: it then means "not given", which nobody can type. */
    double low, high;
    const char *const *choices; /* NULL-terminated */
};

/* A table and where its fields lie in the command's options struct. Sets let commands share options. */
struct cli_option_set {
    const struct cli_option *options; /* [n] */
    size_t n;
    size_t base;
};

#define CLI_SET(table, where)                                                                      \
    {                                                                                              \
        (table), sizeof(table) / sizeof((table)[0]), (where)                                       \
    }

struct cli_command {
    const char *name;
    const char *summary;               /* a few words, for the list of commands */
    const char *usage;                 /* what follows the name: "-m DIR [options] [PROMPT]" */
    const char *details;               /* paragraphs and examples under the summary; may be NULL */
    const struct cli_option_set *sets; /* [n_sets] */
    size_t n_sets;
    size_t options_size;     /* of the options struct */
    size_t arguments_offset; /* of its struct cli_texts that takes what is no option */
    size_t max_arguments;
    int (*run)(void *options); /* returns the exit code */
};

/* Fills a zeroed options struct with the defaults, then from argv[0..argc). Returns 0, or 2 after printing
 * one line that says what is wrong. *help is set, and the rest ignored, when -h or --help is met. */
int cli_options_parse(const struct cli_command *command, void *options, int argc, char **argv,
                      bool *help);
/* Releases the lists an options struct holds. */
void cli_options_release(const struct cli_command *command, void *options);

/* The name of `names` (NULL-terminated) nearest to `word` by edit distance, NULL when none is near. */
const char *cli_nearest(const char *word, const char *const *names);

/* A whole decimal integer, or a whole number, and nothing after it. */
bool cli_parse_integer(const char *text, int64_t *value);
bool cli_parse_real(const char *text, double *value);

/* Prints "rondo: ..." and returns 2: wrong usage. */
int cli_usage(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
