/* What commands read and how they say it: texts, lists of token ids, JSON strings, errors. */
#ifndef RONDO_CLI_INPUT_H
#define RONDO_CLI_INPUT_H

#include "cli/options.h"
#include "core/error.h"

#include <stdio.h>

/* Prints "rondo: MESSAGE" and returns the exit code that goes with it. */
int cli_report(const struct rondo_error *error);

/* Sees that what was printed has reached stdout. */
int cli_check_stdout(struct rondo_error *error);

/* Flushes stdout. Returns 0, or the errno of the first failure. */
int cli_flush_stdout(void);

/* Writes bytes of a result that is no text. */
int cli_write_stdout(const void *bytes, size_t size, struct rondo_error *error);

/* Whether an output file is called "-": standard output. */
bool cli_is_stdout(const char *path);

/* Fails with a hint when a directory, or a file that is also read, is called "-": `what` in words. */
int cli_refuse_stdout(const char *option, const char *path, const char *what);

/* Whether cli_check_stdout has failed, so that there is an error that says it. */
bool cli_stdout_failed(void);

/* The bytes of a file or a pipe, or of stdin when `path` is "-"; malloc'ed, with a NUL after the last. */
char *cli_read_file(const char *path, size_t *length, struct rondo_error *error);

/* The text a command works on: `file` when given, else the argument, where "-" and no argument mean
 * stdin. NULL with an error when there is no text: no argument, and stdin is a terminal. */
char *cli_read_text(const char *file, const struct cli_texts *arguments, size_t *length,
                    struct rondo_error *error);

/* Ids from a text: a JSON array, or whole numbers between blanks or commas. *tokens is malloc'ed. `name`
 * stands in messages. */
int cli_parse_tokens(const char *name, const char *text, size_t length, int32_t **tokens, size_t *n,
                     struct rondo_error *error);

/* A copy as int32, malloc'ed. */
int32_t *cli_copy_tokens(const struct cli_integers *list, struct rondo_error *error);

/* [1,2,3] and a newline. */
void cli_print_tokens(FILE *out, const int32_t *tokens, size_t n);
/* A JSON string, quotes included; bytes that are not UTF-8 become U+FFFD. */
void cli_print_json_string(FILE *out, const char *bytes, size_t length);

/* ---- the token ids a measurement runs on ------------------------------------------------------ */

struct cli_token_options {
    struct cli_integers tokens;
    const char *tokens_file, *prompt, *file;
    bool special;
};

#define CLI_TOKEN_OPTIONS 5
extern const struct cli_option cli_token_table[CLI_TOKEN_OPTIONS];

struct rondo_model;

/* The ids the options name: at least one, all within the model's vocabulary. *tokens is malloc'ed. */
int cli_tokens_get(const struct cli_token_options *options, const struct rondo_model *model,
                   int32_t **tokens, size_t *n, struct rondo_error *error);
/* Fails unless every id is within 0..vocab_size-1. */
int cli_tokens_check(const char *name, const int32_t *tokens, size_t n, int32_t vocab_size,
                     struct rondo_error *error);

#endif
