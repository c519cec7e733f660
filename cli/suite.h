/* A suite of problems with known answers, and the grading of what a model says. */
#ifndef RONDO_CLI_SUITE_H
#define RONDO_CLI_SUITE_H

#include "core/error.h"

#include <cjson/cJSON.h>

struct cli_problem {
    const char *id, *task, *kind; /* kind: "" when the file has none */
    const char *prompt, *answer;
    int32_t max_tokens; /* 0: the file has none */
    cJSON *object;      /* holds the strings */
};

struct cli_suite {
    char *path;
    struct cli_problem *problems; /* [n] in the order of the file */
    size_t n;
};

/* Reads a JSON Lines file: one object a line with "task", "prompt" and "answer", and optionally "id" (default:
 * the line's number), "kind" and "max_tokens"; other keys are ignored, empty lines too. A problem that is not as
 * it must be fails the whole file, by line and field. `task`: keep only problems of this task or kind; NULL: all.
 * `limit`: keep only the first so many of each task; 0: all. */
int cli_suite_read(struct cli_suite *suite, const char *path, const char *task, size_t limit,
                   struct rondo_error *error);
void cli_suite_release(struct cli_suite *suite);

/* The answer in a generated text: what follows the last "</think>", without blanks at its ends. A text without
 * it is the answer itself, unless the prompt had opened a <think> block: then there is none. Cuts `text` in
 * place and returns a pointer into it. */
char *cli_suite_answer(char *text, bool thinking);

/* The answer without blanks at its ends. */
bool cli_suite_is_right(const struct cli_problem *problem, const char *answer);

#endif
