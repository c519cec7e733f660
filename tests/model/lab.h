/* A model, a device and a mode under test, with what property tests share: random numbers from a seed,
 * random tokens, logits of a token list by the plainest way, and comparison of logits bit for bit. */
#ifndef RONDO_TESTS_MODEL_LAB_H
#define RONDO_TESTS_MODEL_LAB_H

#include "core/rondo.h"

#define LAB_CONTEXT 320 /* tokens of any session here */

struct lab {
    const char *name; /* of the fixture */
    struct rondo_model *model;
    struct rondo_device *device; /* one thread */
    enum rondo_mode mode;
    enum rondo_kv kv;
    size_t vocab_size;           /* V */
    struct rondo_context *plain; /* gives the expected logits */
    uint64_t seed, random;       /* of this property; state of the generator */
    const char *property;
};

/* Ends the program with the error's message. */
_Noreturn void lab_die(const struct lab *lab, const char *call, const struct rondo_error *error);

/* Calls that must succeed: `call` is an expression that is true on success and uses `error`. */
#define MUST(lab, call)                                                                            \
    do {                                                                                           \
        struct rondo_error error = {0};                                                            \
        if (!(call))                                                                               \
            lab_die(lab, #call, &error);                                                           \
    } while (0)

/* Defaults of all contexts here; change what the test is about. */
struct rondo_context_options lab_options(const struct lab *lab);
struct rondo_context *lab_context(struct lab *lab, const struct rondo_context_options *options);
struct rondo_session *lab_session(struct lab *lab, struct rondo_context *context);

/* Appends tokens in one run. `out`: [n, V], or NULL: no logits. */
void lab_run(struct lab *lab, struct rondo_context *context, struct rondo_session *session,
             const int32_t *tokens, size_t n, float *out);

/* Logits of all tokens from a fresh session in one run: [n, V], malloc'ed. */
float *lab_logits(struct lab *lab, const int32_t *tokens, size_t n);

/* 0 .. n-1 */
size_t lab_random(struct lab *lab, size_t n);
void lab_random_tokens(struct lab *lab, int32_t *tokens, size_t n);

/* Expects the same bits and prints the first difference, with the seed. */
void lab_compare(struct lab *lab, const char *what, const float *got, const float *want,
                 size_t rows);

/* Expects the ids that a greedy sampler takes of these rows. */
void lab_compare_best(struct lab *lab, const char *what, const int32_t *got, const float *logits,
                      size_t rows);

#endif
