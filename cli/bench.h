/* Rows of a benchmark and how they are printed. */
#ifndef RONDO_CLI_BENCH_H
#define RONDO_CLI_BENCH_H

#include "core/rondo.h"

#include <stdio.h>

/* One test at one depth and batch: medians over its samples. 0 where there is no such number. */
struct cli_bench_row {
    const char *test; /* "prefill", "decode", "fill" */
    int64_t tokens, depth, batch;
    double tok_s;           /* of all sessions together */
    double seconds;         /* per sample */
    double gb_s;            /* 10^9 bytes of weights and caches per second */
    double bandwidth_gb_s;  /* read bandwidth measured beside the samples */
    double bandwidth_share; /* gb_s over bandwidth_gb_s, sample by sample */
    double gflops;          /* of matrix products, prefill only */
    double sgemm_gflops;    /* OpenBLAS, measured beside the samples */
    double sgemm_share;
    double time_ratio;             /* decode: time per token over that at depth 0 */
    double kernels, driver_calls;  /* decode: per run, which gives every session one token */
    struct rondo_step_time *times; /* [n_times], of one more sample; with --profile */
    size_t n_times;
};

struct cli_bench_head {
    const char *model, *device, *mode;
    int threads, repeat;
    uint64_t bytes_per_token, macs_per_token;
};

void cli_bench_print_table(FILE *out, const struct cli_bench_head *head,
                           const struct cli_bench_row *rows, size_t n);
void cli_bench_print_csv(FILE *out, const struct cli_bench_head *head,
                         const struct cli_bench_row *rows, size_t n);
void cli_bench_print_json(FILE *out, const struct cli_bench_head *head,
                          const struct cli_bench_row *rows, size_t n);

#endif
