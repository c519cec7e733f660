/* Times of the GEMMs, in the shapes of a model: run by rondo-check --op gemm --bench. */
#ifndef RONDO_TESTS_CHECK_BENCH_GEMM_H
#define RONDO_TESTS_CHECK_BENCH_GEMM_H

#include "tests/check/check.h"

void bench_gemm(struct check *check);
void bench_grouped_gemm(struct check *check);

#endif
