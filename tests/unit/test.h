/* The few lines every unit test shares: counted expectations with file and line. */
#ifndef RONDO_TESTS_UNIT_TEST_H
#define RONDO_TESTS_UNIT_TEST_H

#include <stdio.h>
#include <stdlib.h>

static int test_failures, test_expectations;

/* Evaluates `condition`; on failure prints it with the printf-style message after it, and goes on. */
#define EXPECT(condition, ...)                                                                     \
    do {                                                                                           \
        test_expectations++;                                                                       \
        if (!(condition)) {                                                                        \
            test_failures++;                                                                       \
            fprintf(stderr, "%s:%d: not true: %s: ", __FILE__, __LINE__, #condition);              \
            fprintf(stderr, __VA_ARGS__);                                                          \
            fputc('\n', stderr);                                                                   \
        }                                                                                          \
    } while (0)

/* For what the rest of a test stands on: ends the program with the message of the file's `error`. */
#define MUST(call)                                                                                 \
    do {                                                                                           \
        if (!(call)) {                                                                             \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, error.message);          \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* The value main returns. */
static inline int test_result(void)
{
    printf("%d expectations, %d failed\n", test_expectations, test_failures);
    return test_failures || !test_expectations ? 1 : 0;
}

#endif
