/* What property tests share; see lab.h. */
#include "tests/model/lab.h"
#include "tests/model/expect.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

_Noreturn void lab_die(const struct lab *lab, const char *call, const struct rondo_error *error)
{
    fprintf(stderr, "%s, %s, seed %" PRIu64 ": %s: failed: %s\n", lab->name, lab->property,
            lab->seed, call, error->message);
    exit(1);
}

struct rondo_context_options lab_options(const struct lab *lab)
{
    struct rondo_context_options options = {
        .mode = lab->mode,
        .kv = lab->kv,
        .max_context = LAB_CONTEXT,
        .max_sessions = 6,
        .max_batch_tokens = 512,
        .max_draft = 64,
    };
    return options;
}

struct rondo_context *lab_context(struct lab *lab, const struct rondo_context_options *options)
{
    struct rondo_context *context;
    MUST(lab, context = rondo_context_create(lab->model, lab->device, options, &error));
    return context;
}

struct rondo_session *lab_session(struct lab *lab, struct rondo_context *context)
{
    struct rondo_session *session;
    MUST(lab, session = rondo_session_create(context, &error));
    return session;
}

void lab_run(struct lab *lab, struct rondo_context *context, struct rondo_session *session,
             const int32_t *tokens, size_t n, float *out)
{
    struct rondo_run_item item = {session, tokens, n,   out ? RONDO_LOGITS_ALL : RONDO_LOGITS_NONE,
                                  out,     NULL,   NULL};
    MUST(lab, !rondo_context_run(context, &item, 1, &error));
}

float *lab_logits(struct lab *lab, const int32_t *tokens, size_t n)
{
    float *out = malloc((n * lab->vocab_size + 1) * sizeof *out);
    struct rondo_session *session = lab_session(lab, lab->plain);
    lab_run(lab, lab->plain, session, tokens, n, out);
    rondo_session_destroy(session);
    return out;
}

size_t lab_random(struct lab *lab, size_t n)
{
    uint64_t z = lab->random += 0x9e3779b97f4a7c15u; /* splitmix64 */
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (size_t)((z ^ (z >> 31)) % n);
}

void lab_random_tokens(struct lab *lab, int32_t *tokens, size_t n)
{
    for (size_t i = 0; i < n; i++)
        tokens[i] = (int32_t)lab_random(lab, lab->vocab_size);
}

void lab_compare(struct lab *lab, const char *what, const float *got, const float *want,
                 size_t rows)
{
    size_t count = rows * lab->vocab_size, i = 0;
    while (i < count && !memcmp(got + i, want + i, sizeof *got))
        i++;
    EXPECT(i == count,
           "%s, mode %s, %s, seed %" PRIu64 ": %s: row %zu, token %zu: got %.9g, want %.9g",
           lab->name, rondo_mode_name(lab->mode), lab->property, lab->seed, what,
           i / lab->vocab_size, i % lab->vocab_size, (double)got[i], (double)want[i]);
}

void lab_compare_best(struct lab *lab, const char *what, const int32_t *got, const float *logits,
                      size_t rows)
{
    struct rondo_sampler_options options;
    struct rondo_sampler *sampler;
    rondo_sampler_defaults(&options);
    MUST(lab, sampler = rondo_sampler_create((int32_t)lab->vocab_size, &options, &error));
    for (size_t i = 0; i < rows; i++) {
        int32_t want = rondo_sampler_pick(sampler, logits + i * lab->vocab_size, NULL, 0);
        EXPECT(got[i] == want, "%s: %s: row %zu: got %d, want %d; seed %ju", lab->name, what, i,
               got[i], want, (uintmax_t)lab->seed);
    }
    rondo_sampler_destroy(sampler);
}
