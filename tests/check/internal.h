/* Inside of rondo-check: what its files share beside check.h. */
#ifndef RONDO_TESTS_CHECK_INTERNAL_H
#define RONDO_TESTS_CHECK_INTERNAL_H

#include "tests/check/check.h"

/* Zeroed host memory that lives as long as the case. Never NULL. */
void *check_allocate(struct check *check, size_t size);
/* Calls the op's slot. */
void check_call(struct rondo_device *device, enum rondo_op op, const void *arguments);
/* Ends a case: looks at guards and inputs, releases everything. */
void check_memory_release(struct check *check);

/* The self-test of instructions on the GPUs whose names match; the exit code. */
int check_layouts(const char *pattern);

/* Bodies of check_linear.c and check_softmax.c. */
void check_linear_order(struct check *check);
void check_softmax_order(struct check *check);
/* Body of check_gemm_router.c. */
void check_gemm_router(struct check *check);

#endif
