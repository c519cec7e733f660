/* What a report of a wrong result needs: printed by `rondo compare`, for people to paste. */
#ifndef RONDO_CLI_COMPARE_REPORT_H
#define RONDO_CLI_COMPARE_REPORT_H

#include "core/rondo.h"

#include <stdio.h>

/* The first row of a view that is out of tolerance. */
struct cli_compare_finding {
    bool found;
    char label[64];
    int32_t layer; /* -1: not in a layer */
    double max_abs, nmse;
    int64_t worst;
};

struct cli_compare_report {
    const struct rondo_model *model;
    const struct rondo_device *device[2]; /* A, B */
    const struct rondo_context *context[2];
    enum rondo_mode mode[2];
    enum rondo_kv kv[2];
    const int32_t *tokens; /* [n] */
    size_t n;
    double tolerance;
    struct cli_compare_finding free, forced, steps;
};

/* Versions, system, sides, model, tokens, what is out of tolerance first, how B computes its products, and the steps
 * of the layer in question. */
void cli_compare_report_print(const struct cli_compare_report *report, FILE *out);

#endif
