/* The reports of an evaluation: sums by task, as a table and as JSON. */
#include "cli/eval.h"
#include "cli/input.h"
#include "cli/terminal.h"

#include <stdlib.h>
#include <string.h>

static struct cli_eval_row *find(struct cli_eval_row *rows, size_t n, const char *task,
                                 const char *kind)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(rows[i].task, task) && !strcmp(rows[i].kind, kind))
            return &rows[i];
    return NULL;
}

static void add(struct cli_eval_row *row, const struct cli_eval_result *result)
{
    row->problems++;
    row->right += result->right;
    row->prompt_tokens += result->n_prompt;
    row->generated_tokens += result->n_generated;
}

static size_t count_kinds(const struct cli_eval_row *rows, size_t n, const char *task)
{
    size_t kinds = 0;
    for (size_t i = 0; i < n; i++)
        kinds += !strcmp(rows[i].task, task);
    return kinds;
}

/* Rows of tasks and kinds into `out`, tasks in the order in which they first occur, sums after kinds. */
static size_t arrange(const struct cli_eval_row *kinds, size_t n, struct cli_eval_row *out)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n; i++) {
        if (find(out, n_out, kinds[i].task, kinds[i].kind))
            continue;
        struct cli_eval_row sum = {.task = kinds[i].task, .kind = ""};
        for (size_t j = i; j < n; j++) {
            if (strcmp(kinds[j].task, kinds[i].task) != 0)
                continue;
            out[n_out++] = kinds[j];
            sum.problems += kinds[j].problems;
            sum.right += kinds[j].right;
            sum.prompt_tokens += kinds[j].prompt_tokens;
            sum.generated_tokens += kinds[j].generated_tokens;
        }
        if (count_kinds(kinds, n, kinds[i].task) > 1)
            out[n_out++] = sum;
    }
    return n_out;
}

struct cli_eval_row *cli_eval_rows(const struct cli_eval_report *report, size_t *n)
{
    const struct cli_suite *suite = report->suite;
    struct cli_eval_row *kinds = calloc(suite->n + 1, sizeof *kinds), all = {"", "", 0, 0, 0, 0};
    struct cli_eval_row *rows = calloc(2 * suite->n + 1, sizeof *rows);
    size_t n_kinds = 0;
    if (!kinds || !rows) {
        free(kinds);
        free(rows);
        return NULL;
    }
    for (size_t i = 0; i < suite->n; i++) {
        const struct cli_problem *problem = &suite->problems[i];
        if (!report->results[i].answer)
            continue;
        struct cli_eval_row *row = find(kinds, n_kinds, problem->task, problem->kind);
        if (!row) {
            row = &kinds[n_kinds++];
            *row = (struct cli_eval_row){.task = problem->task, .kind = problem->kind};
        }
        add(row, &report->results[i]);
        add(&all, &report->results[i]);
    }
    *n = arrange(kinds, n_kinds, rows);
    rows[(*n)++] = all;
    free(kinds);
    return rows;
}

static double percent(const struct cli_eval_row *row)
{
    return row->problems ? 100.0 * (double)row->right / (double)row->problems : 0;
}

void cli_eval_print_table(FILE *out, const struct cli_eval_report *report,
                          const struct cli_eval_row *rows, size_t n)
{
    char rate[24];
    fprintf(out, "%-16s %-16s %9s %7s %9s %13s\n", "task", "kind", "problems", "right", "accuracy",
            "tokens/answer");
    for (size_t i = 0; i < n; i++) {
        const struct cli_eval_row *row = &rows[i];
        bool sum = !row->kind[0] && row->task[0] && i && !strcmp(rows[i - 1].task, row->task);
        fprintf(out, "%-16s %-16s %9zu %7zu %8.1f%% %13.1f\n", row->task[0] ? row->task : "all",
                sum ? "all" : row->kind, row->problems, row->right, percent(row),
                row->problems ? (double)row->generated_tokens / (double)row->problems : 0);
    }
    const struct cli_eval_row *all = &rows[n - 1];
    fprintf(out, "%zu tokens read, %zu generated in %.1f s (%s generated tok/s, %d at a time)%s\n",
            all->prompt_tokens, all->generated_tokens, report->seconds,
            cli_format_rate(
                report->seconds > 0 ? (double)all->generated_tokens / report->seconds : 0, rate),
            report->batch, report->interrupted ? "; interrupted" : "");
}

static void print_text(FILE *out, const char *key, const char *text)
{
    fprintf(out, "\"%s\":", key);
    cli_print_json_string(out, text, strlen(text));
}

static void print_row(FILE *out, const struct cli_eval_row *row)
{
    fprintf(out,
            "\"problems\":%zu,\"right\":%zu,\"accuracy\":%.6g,\"prompt_tokens\":%zu,"
            "\"generated_tokens\":%zu",
            row->problems, row->right, percent(row) / 100, row->prompt_tokens,
            row->generated_tokens);
}

static void print_details(FILE *out, const struct cli_eval_report *report)
{
    const char *separator = "";
    fprintf(out, ",\n \"results\":[");
    for (size_t i = 0; i < report->suite->n; i++) {
        const struct cli_problem *problem = &report->suite->problems[i];
        const struct cli_eval_result *result = &report->results[i];
        if (!result->answer)
            continue;
        fprintf(out, "%s\n  {", separator);
        print_text(out, "id", problem->id);
        fputc(',', out);
        print_text(out, "task", problem->task);
        fputc(',', out);
        print_text(out, "kind", problem->kind);
        fprintf(out, ",\"right\":%s,", result->right ? "true" : "false");
        print_text(out, "want", problem->answer);
        fputc(',', out);
        print_text(out, "got", result->answer);
        fprintf(out, ",\"prompt_tokens\":%zu,\"generated_tokens\":%zu,", result->n_prompt,
                result->n_generated);
        print_text(out, "ended_by", result->reason);
        fputc('}', out);
        separator = ",";
    }
    fprintf(out, "\n ]");
}

void cli_eval_print_json(FILE *out, const struct cli_eval_report *report,
                         const struct cli_eval_row *rows, size_t n, bool details)
{
    fputc('{', out);
    print_text(out, "model", report->model);
    fputc(',', out);
    print_text(out, "device", report->device);
    fputc(',', out);
    print_text(out, "mode", report->mode);
    fputc(',', out);
    print_text(out, "suite", report->suite->path);
    fprintf(out, ",\"batch\":%d,\"seconds\":%.3f,\"interrupted\":%s,", report->batch,
            report->seconds, report->interrupted ? "true" : "false");
    print_row(out, &rows[n - 1]);
    fprintf(out, ",\n \"tasks\":[");
    for (size_t i = 0; i + 1 < n; i++) {
        fprintf(out, "%s\n  {", i ? "," : "");
        print_text(out, "task", rows[i].task);
        fputc(',', out);
        print_text(out, "kind", rows[i].kind);
        fputc(',', out);
        print_row(out, &rows[i]);
        fputc('}', out);
    }
    fprintf(out, "\n ]");
    if (details)
        print_details(out, report);
    fprintf(out, "}\n");
}
