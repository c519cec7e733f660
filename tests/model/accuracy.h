/* Logits of a fixture on a device, and how far two sets of logits are apart. */
#ifndef RONDO_TESTS_MODEL_ACCURACY_H
#define RONDO_TESTS_MODEL_ACCURACY_H

#include "tests/model/fixture.h"

struct accuracy {
    double nmse, kl; /* of all rows; nats per row */
};

/* sum (got - want)^2 / sum want^2 */
double accuracy_nmse(const float *got, const float *want, size_t n);
/* Mean over rows of KL(softmax(want) || softmax(got)). */
double accuracy_divergence(const float *got, const float *want, size_t rows, int32_t vocab_size);

/* Logits of the prompt in one call and of the first n_generated tokens one by one, [n_tokens + n_generated, V]. */
bool accuracy_run(const struct fixture *fixture, size_t n_generated, struct rondo_model *model,
                  struct rondo_device *device, enum rondo_mode mode, enum rondo_kv kv,
                  float *logits, struct rondo_error *error);
/* The same rows of the float64 reference, malloc'ed. */
float *accuracy_reference(const struct fixture *fixture, size_t n_generated);
/* Without FP8 weights mode fp8 is mode bf16, bit for bit. */
bool accuracy_has_fp8(const struct rondo_model *model);

#endif
