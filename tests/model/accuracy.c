/* Running fixtures, and measures of error. */
#include "tests/model/accuracy.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

double accuracy_nmse(const float *got, const float *want, size_t n)
{
    double error = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        double difference = (double)got[i] - want[i];
        error += difference * difference;
        size += (double)want[i] * want[i];
    }
    return error / size;
}

/* What is subtracted from a row's logits to make them logarithms of probabilities. */
static double log_total(const float *logits, int32_t vocab_size)
{
    return logits[0] - rondo_log_probability(logits, vocab_size, 0);
}

double accuracy_divergence(const float *got, const float *want, size_t rows, int32_t vocab_size)
{
    double sum = 0;
    for (size_t row = 0; row < rows; row++) {
        const float *a = want + row * (size_t)vocab_size, *b = got + row * (size_t)vocab_size;
        double total_a = log_total(a, vocab_size), total_b = log_total(b, vocab_size);
        for (int32_t token = 0; token < vocab_size; token++) {
            double p = a[token] - total_a;
            sum += exp(p) * (p - (b[token] - total_b));
        }
    }
    return sum / (double)rows;
}

bool accuracy_run(const struct fixture *fixture, size_t n_generated, struct rondo_model *model,
                  struct rondo_device *device, enum rondo_mode mode, enum rondo_kv kv,
                  float *logits, struct rondo_error *error)
{
    size_t vocab_size = (size_t)fixture->vocab_size;
    struct rondo_context_options options = {.mode = mode, .kv = kv, .max_context = 256};
    struct rondo_context *context = rondo_context_create(model, device, &options, error);
    struct rondo_session *session = context ? rondo_session_create(context, error) : NULL;
    bool done = session;
    struct rondo_run_item item = {
        session, fixture->tokens, fixture->n_tokens, RONDO_LOGITS_ALL, logits, NULL, NULL};
    done = done && rondo_context_run(context, &item, 1, error) == RONDO_OK;
    for (size_t i = 0; done && i < n_generated; i++) {
        item.tokens = fixture->generated + i;
        item.n = 1;
        item.logits = RONDO_LOGITS_LAST;
        item.out = logits + (fixture->n_tokens + i) * vocab_size;
        done = rondo_context_run(context, &item, 1, error) == RONDO_OK;
    }
    rondo_session_destroy(session);
    rondo_context_destroy(context);
    return done;
}

float *accuracy_reference(const struct fixture *f, size_t n_generated)
{
    size_t V = (size_t)f->vocab_size;
    float *want = malloc((f->n_tokens + n_generated) * V * sizeof *want);
    memcpy(want, f->logits, f->n_tokens * V * sizeof *want);
    memcpy(want + f->n_tokens * V, f->generated_logits, n_generated * V * sizeof *want);
    return want;
}

bool accuracy_has_fp8(const struct rondo_model *model)
{
    struct rondo_tensor_info info;
    for (size_t i = 0; i < rondo_model_tensor_count(model); i++) {
        rondo_model_tensor(model, i, &info);
        if (info.dtype == RONDO_F8_E4M3)
            return true;
    }
    return false;
}
