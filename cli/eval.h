/* What an evaluation comes to, between the command and its reports. */
#ifndef RONDO_CLI_EVAL_H
#define RONDO_CLI_EVAL_H

#include "cli/suite.h"

#include <stdio.h>

/* One problem's outcome. */
struct cli_eval_result {
    int32_t *tokens; /* [n_tokens] prompt and what was generated; released when graded */
    size_t n_prompt, n_tokens, n_generated;
    char *answer;       /* what the model said; NULL: not graded (yet) */
    const char *reason; /* why generation ended, in words */
    bool thinking;      /* the prompt opens a <think> block */
    bool right;
};

struct cli_eval_report {
    const char *model, *device, *mode;
    const struct cli_suite *suite;
    const struct cli_eval_result *results; /* [suite->n] */
    double seconds;
    int batch;
    bool interrupted;
};

/* Sums over the graded problems of a task and kind; kind "" sums a task, task "" everything. */
struct cli_eval_row {
    const char *task, *kind;
    size_t problems, right, prompt_tokens, generated_tokens;
};

/* One row for each task and kind in the order of the suite, each task's sum after its kinds when it has several,
 * and the sum of all at the end. Malloc'ed; NULL when memory is out. */
struct cli_eval_row *cli_eval_rows(const struct cli_eval_report *report, size_t *n);

void cli_eval_print_table(FILE *out, const struct cli_eval_report *report,
                          const struct cli_eval_row *rows, size_t n);
/* One JSON object; with `details` every problem's outcome too. */
void cli_eval_print_json(FILE *out, const struct cli_eval_report *report,
                         const struct cli_eval_row *rows, size_t n, bool details);

#endif
