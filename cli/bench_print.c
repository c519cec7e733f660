/* Benchmark rows as a table, CSV or JSON. */
#include "cli/bench.h"
#include "cli/input.h"
#include "cli/terminal.h"

#include <inttypes.h>
#include <string.h>

/* The columns of CSV and JSON; a number that is 0 is left empty, or null. */
static const struct column {
    const char *name;
    size_t offset;
} columns[] = {
    {"tok_s", offsetof(struct cli_bench_row, tok_s)},
    {"seconds", offsetof(struct cli_bench_row, seconds)},
    {"gb_s", offsetof(struct cli_bench_row, gb_s)},
    {"bandwidth_gb_s", offsetof(struct cli_bench_row, bandwidth_gb_s)},
    {"bandwidth_share", offsetof(struct cli_bench_row, bandwidth_share)},
    {"gflops", offsetof(struct cli_bench_row, gflops)},
    {"sgemm_gflops", offsetof(struct cli_bench_row, sgemm_gflops)},
    {"sgemm_share", offsetof(struct cli_bench_row, sgemm_share)},
    {"time_ratio", offsetof(struct cli_bench_row, time_ratio)},
    {"kernels", offsetof(struct cli_bench_row, kernels)},
    {"driver_calls", offsetof(struct cli_bench_row, driver_calls)},
};

#define N_COLUMNS (sizeof columns / sizeof columns[0])

static double column_of(const struct cli_bench_row *row, size_t i)
{
    return *(const double *)((const char *)row + columns[i].offset);
}

static void print_profile(FILE *out, const struct cli_bench_row *row)
{
    double sum = 0;
    for (size_t i = 0; i < row->n_times; i++)
        sum += row->times[i].seconds;
    fprintf(out,
            "\n%s of %" PRId64 " tokens at depth %" PRId64 ", batch %" PRId64
            ": %.1f ms in steps\n",
            row->test, row->tokens, row->depth, row->batch, 1e3 * sum);
    for (size_t i = 0; i < row->n_times; i++)
        fprintf(out, "  %-32s %8" PRIu64 " calls %10.3f ms %6.1f %%\n", row->times[i].label,
                row->times[i].calls, 1e3 * row->times[i].seconds,
                sum > 0 ? 100 * row->times[i].seconds / sum : 0);
}

/* A cell of the table: the number, or a dash. */
static void print_cell(FILE *out, int width, double value, double factor)
{
    char text[24];
    fprintf(out, " %*s", width, value > 0 ? cli_format_rate(factor * value, text) : "-");
}

void cli_bench_print_table(FILE *out, const struct cli_bench_head *head,
                           const struct cli_bench_row *rows, size_t n)
{
    char bytes[24];
    fprintf(out, "model   %s\ndevice  %s\nmode    %s\n", head->model, head->device, head->mode);
    fprintf(out, "a token touches %s at depth 0 and takes %.3g G multiply-adds; medians of %d\n\n",
            cli_format_size(head->bytes_per_token, bytes), 1e-9 * (double)head->macs_per_token,
            head->repeat);
    fprintf(out, "%-8s %7s %7s %6s %9s %8s %8s %7s %8s %8s %7s %7s\n", "test", "tokens", "depth",
            "batch", "tok/s", "GB/s", "read", "share", "GFLOP/s", "sgemm", "share", "time");
    fprintf(out, "%-8s %7s %7s %6s %9s %8s %8s %7s %8s %8s %7s %7s\n", "", "", "", "", "", "",
            "GB/s", "%", "", "GFLOP/s", "%", "ratio");
    for (size_t i = 0; i < n; i++) {
        const struct cli_bench_row *row = &rows[i];
        fprintf(out, "%-8s %7" PRId64 " %7" PRId64 " %6" PRId64, row->test, row->tokens, row->depth,
                row->batch);
        print_cell(out, 9, row->tok_s, 1);
        print_cell(out, 8, row->gb_s, 1);
        print_cell(out, 8, row->bandwidth_gb_s, 1);
        print_cell(out, 7, row->bandwidth_share, 100);
        print_cell(out, 8, row->gflops, 1);
        print_cell(out, 8, row->sgemm_gflops, 1);
        print_cell(out, 7, row->sgemm_share, 100);
        print_cell(out, 7, row->time_ratio, 1);
        fputc('\n', out);
    }
    for (size_t i = 0; i < n; i++)
        if (rows[i].kernels > 0)
            fprintf(out,
                    "%s at depth %" PRId64 ", batch %" PRId64
                    ": %.1f kernels a token of each session, by %.1f calls to the driver\n",
                    rows[i].test, rows[i].depth, rows[i].batch, rows[i].kernels,
                    rows[i].driver_calls);
    for (size_t i = 0; i < n; i++)
        if (rows[i].n_times)
            print_profile(out, &rows[i]);
}

void cli_bench_print_csv(FILE *out, const struct cli_bench_head *head,
                         const struct cli_bench_row *rows, size_t n)
{
    fprintf(out, "test,tokens,depth,batch");
    for (size_t c = 0; c < N_COLUMNS; c++)
        fprintf(out, ",%s", columns[c].name);
    fprintf(out, ",mode,threads,device,model\n");
    for (size_t i = 0; i < n; i++) {
        const struct cli_bench_row *row = &rows[i];
        fprintf(out, "%s,%" PRId64 ",%" PRId64 ",%" PRId64, row->test, row->tokens, row->depth,
                row->batch);
        for (size_t c = 0; c < N_COLUMNS; c++) {
            if (column_of(row, c) > 0)
                fprintf(out, ",%.6g", column_of(row, c));
            else
                fputc(',', out);
        }
        fprintf(out, ",%s,%d,\"%s\",\"", head->mode, head->threads, head->device);
        for (const char *c = head->model; *c; c++)
            fprintf(out, *c == '"' ? "\"\"" : "%c", *c);
        fprintf(out, "\"\n");
    }
    for (size_t i = 0; i < n; i++)
        if (rows[i].n_times)
            print_profile(stderr, &rows[i]);
}

static void print_json_profile(FILE *out, const struct cli_bench_row *row)
{
    fprintf(out, ",\"profile\":[");
    for (size_t i = 0; i < row->n_times; i++) {
        fprintf(out, "%s{\"label\":", i ? "," : "");
        cli_print_json_string(out, row->times[i].label, strlen(row->times[i].label));
        fprintf(out, ",\"calls\":%" PRIu64 ",\"seconds\":%.6g}", row->times[i].calls,
                row->times[i].seconds);
    }
    fputc(']', out);
}

void cli_bench_print_json(FILE *out, const struct cli_bench_head *head,
                          const struct cli_bench_row *rows, size_t n)
{
    fputc('[', out);
    for (size_t i = 0; i < n; i++) {
        const struct cli_bench_row *row = &rows[i];
        fprintf(out,
                "%s\n  {\"test\":\"%s\",\"tokens\":%" PRId64 ",\"depth\":%" PRId64
                ",\"batch\":%" PRId64,
                i ? "," : "", row->test, row->tokens, row->depth, row->batch);
        for (size_t c = 0; c < N_COLUMNS; c++) {
            if (column_of(row, c) > 0)
                fprintf(out, ",\"%s\":%.6g", columns[c].name, column_of(row, c));
            else
                fprintf(out, ",\"%s\":null", columns[c].name);
        }
        fprintf(out,
                ",\"bytes_per_token\":%" PRIu64 ",\"macs_per_token\":%" PRIu64
                ",\"repeat\":%d,\"mode\":\"%s\",\"threads\":%d,\"device\":",
                head->bytes_per_token, head->macs_per_token, head->repeat, head->mode,
                head->threads);
        cli_print_json_string(out, head->device, strlen(head->device));
        fprintf(out, ",\"model\":");
        cli_print_json_string(out, head->model, strlen(head->model));
        if (row->n_times)
            print_json_profile(out, row);
        fputc('}', out);
    }
    fprintf(out, "\n]\n");
}
