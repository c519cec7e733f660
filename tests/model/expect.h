/* EXPECT of tests/unit/test.h for a test program of several files: the counters are in properties.c. */
#ifndef RONDO_TESTS_MODEL_EXPECT_H
#define RONDO_TESTS_MODEL_EXPECT_H

#include <stdio.h>

extern int expect_count, expect_failures;

/* Evaluates `condition`; on failure prints it with the printf-style message after it, and goes on. */
#define EXPECT(condition, ...)                                                                     \
    do {                                                                                           \
        expect_count++;                                                                            \
        if (!(condition)) {                                                                        \
            expect_failures++;                                                                     \
            fprintf(stderr, "%s:%d: not true: %s: ", __FILE__, __LINE__, #condition);              \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
        }                                                                                          \
    } while (0)

#endif
