/* Sampling: repetition penalty, temperature, top-k, top-p, min-p and a seeded pick, in this order.
 *
 * The same logits, options and seed give the same tokens on every machine: exponentials are rondo_exp, sums
 * are taken in a fixed order in double, and ties go to the lower id. */
#include "core/error.h"
#include "core/numbers.h"

#include <stdlib.h>

/* Candidates are ranked by one integer: a key that orders floats, descending, then the id, ascending. */
struct candidate {
    uint64_t rank;
    double probability;
};

struct rondo_sampler {
    struct rondo_sampler_options options;
    int32_t vocab_size;
    uint64_t picks;               /* so far: the n-th pick has the n-th number of the seed */
    float *logits;                /* [V] after penalty and temperature */
    float *probability;           /* [V] unnormalised */
    struct candidate *candidates; /* [V] */
    uint8_t *seen;                /* [V] */
};

void rondo_sampler_defaults(struct rondo_sampler_options *options)
{
    *options = (struct rondo_sampler_options){.temperature = 0,
                                              .top_k = 0,
                                              .top_p = 1,
                                              .min_p = 0,
                                              .repetition_penalty = 1,
                                              .repetition_window = 0,
                                              .seed = 0};
}

static int check_options(const struct rondo_sampler_options *o, struct rondo_error *error)
{
    if (!(o->temperature >= 0 && o->temperature <= 100))
        return rondo_fail(error, RONDO_USAGE, "temperature: out of range (got %g, want 0 to 100)",
                          o->temperature);
    if (o->top_k < 0)
        return rondo_fail(error, RONDO_USAGE, "top_k: out of range (got %d, want 0 or more)",
                          o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return rondo_fail(error, RONDO_USAGE,
                          "top_p: out of range (got %g, want above 0, at most 1)", o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return rondo_fail(error, RONDO_USAGE, "min_p: out of range (got %g, want 0 to 1)",
                          o->min_p);
    if (!(o->repetition_penalty > 0 && o->repetition_penalty <= 100))
        return rondo_fail(error, RONDO_USAGE,
                          "repetition_penalty: out of range (got %g, want above 0, at most 100)",
                          o->repetition_penalty);
    if (o->repetition_window < 0)
        return rondo_fail(error, RONDO_USAGE,
                          "repetition_window: out of range (got %d, want 0 or more)",
                          o->repetition_window);
    return RONDO_OK;
}

struct rondo_sampler *rondo_sampler_create(int32_t vocab_size,
                                           const struct rondo_sampler_options *options,
                                           struct rondo_error *error)
{
    if (vocab_size < 1) {
        rondo_fail(error, RONDO_USAGE, "vocab_size: out of range (got %d, want 1 or more)",
                   vocab_size);
        return NULL;
    }
    if (check_options(options, error))
        return NULL;
    size_t V = (size_t)vocab_size;
    struct rondo_sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler) {
        sampler->options = *options;
        sampler->vocab_size = vocab_size;
        sampler->logits = calloc(V, sizeof *sampler->logits);
        sampler->probability = calloc(V, sizeof *sampler->probability);
        sampler->candidates = calloc(V, sizeof *sampler->candidates);
        sampler->seen = calloc(V, sizeof *sampler->seen);
    }
    if (!sampler || !sampler->logits || !sampler->probability || !sampler->candidates ||
        !sampler->seen) {
        rondo_sampler_destroy(sampler);
        rondo_fail(error, RONDO_FAILED, "out of memory for sampling over %d tokens", vocab_size);
        return NULL;
    }
    return sampler;
}

void rondo_sampler_destroy(struct rondo_sampler *sampler)
{
    if (!sampler)
        return;
    free(sampler->logits);
    free(sampler->probability);
    free(sampler->candidates);
    free(sampler->seen);
    free(sampler);
}

/* ---- steps of a pick -------------------------------------------------------------------------- */

/* The n-th number of a seed in [0, 1): splitmix64 of a counter, its upper 53 bits. */
static double uniform(uint64_t seed, uint64_t n)
{
    uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

static void penalize(struct rondo_sampler *sampler, const int32_t *history, size_t n)
{
    float penalty = sampler->options.repetition_penalty;
    size_t window = (size_t)sampler->options.repetition_window, first = 0;
    if (penalty == 1.0f)
        return;
    if (window && n > window)
        first = n - window;
    for (size_t i = first; i < n; i++) {
        int32_t id = history[i];
        if (id < 0 || id >= sampler->vocab_size || sampler->seen[id])
            continue;
        sampler->seen[id] = 1;
        sampler->logits[id] =
            sampler->logits[id] > 0 ? sampler->logits[id] / penalty : sampler->logits[id] * penalty;
    }
    for (size_t i = first; i < n; i++) {
        if (history[i] >= 0 && history[i] < sampler->vocab_size)
            sampler->seen[history[i]] = 0;
    }
}

/* Id of the largest logit, the lowest one of equals; -1 when all are NaN. */
static int32_t largest(const float *logits, int32_t n)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] == logits[i] && (best < 0 || logits[i] > logits[best]))
            best = i;
    }
    return best;
}

/* Larger floats have smaller keys; of equal ones the lower id ranks first. */
static uint64_t rank_of(float value, int32_t id)
{
    uint32_t bits = rondo_f32_to_bits(value + 0.0f); /* -0 ranks as 0 */
    uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    return (uint64_t)~ascending << 32 | (uint32_t)id;
}

/* Splits c[low..high), two or more of distinct ranks, into c[low..*left) below c[*right..high), around the rank of
 * the middle one; when *right is *left + 1, c[*left] is that one, in its final place. */
static void partition(struct candidate *c, size_t low, size_t high, size_t *left, size_t *right)
{
    uint64_t pivot = c[low + (high - low) / 2].rank;
    size_t i = low, j = high - 1;
    for (;;) {
        while (c[i].rank < pivot)
            i++;
        while (c[j].rank > pivot)
            j--;
        if (i >= j)
            break;
        struct candidate swap = c[i];
        c[i++] = c[j];
        c[j--] = swap;
    }
    *left = i;
    *right = i == j ? i + 1 : i;
}

/* Reorders so that the `keep` candidates of lowest rank come first. */
static void select_first(struct candidate *c, size_t n, size_t keep)
{
    size_t low = 0, high = n, left, right;
    while (high - low > 1 && keep > low && keep < high) {
        partition(c, low, high, &left, &right);
        if (keep <= left)
            high = left;
        else
            low = right;
    }
}

/* Quicksort by rank; the library's may allocate. */
static void sort(struct candidate *c, size_t n)
{
    size_t low = 0, high = n, left, right;
    while (high - low > 1) {
        partition(c, low, high, &left, &right);
        if (left - low < high - right) {
            sort(c + low, left - low);
            low = right;
        } else {
            sort(c + right, high - right);
            high = left;
        }
    }
}

/* Unnormalised probabilities of every id, and their sum; NaN and -inf have none. */
static double exponentials(struct rondo_sampler *sampler)
{
    double sum = 0;
    for (int32_t i = 0; i < sampler->vocab_size; i++) {
        float x = sampler->logits[i];
        float p = x >= RONDO_EXP_LOW ? rondo_exp(x) : 0.0f; /* false for NaN */
        sampler->probability[i] = p;
        sum += p;
    }
    return sum;
}

/* Cuts the ranked candidates after the first whose cumulated probability reaches top_p. `sum` is that of all
 * candidates. Sorts a growing head only: a nucleus is usually small. */
static size_t cut_nucleus(struct candidate *c, size_t n, double sum, double top_p)
{
    double cumulated = 0;
    size_t done = 0;
    for (size_t head = 256;; head *= 8) {
        head = head < n ? head : n;
        if (head < n)
            select_first(c + done, n - done, head - done);
        sort(c + done, head - done);
        for (; done < head; done++) {
            cumulated += c[done].probability;
            if (cumulated >= top_p * sum)
                return done + 1;
        }
        if (head == n)
            return n;
    }
}

static int32_t pick_candidate(const struct candidate *c, size_t n, double target)
{
    double sum = 0, cumulated = 0;
    for (size_t i = 0; i < n; i++)
        sum += c[i].probability;
    for (size_t i = 0; i + 1 < n; i++) {
        cumulated += c[i].probability;
        if (target * sum < cumulated)
            return (int32_t)(uint32_t)c[i].rank;
    }
    return (int32_t)(uint32_t)c[n - 1].rank;
}

int32_t rondo_sampler_pick(struct rondo_sampler *sampler, const float *logits,
                           const int32_t *history, size_t n_history)
{
    const struct rondo_sampler_options *o = &sampler->options;
    int32_t V = sampler->vocab_size;
    memcpy(sampler->logits, logits, (size_t)V * sizeof *logits);
    penalize(sampler, history, n_history);
    double target = uniform(o->seed, sampler->picks++);
    int32_t best = largest(sampler->logits, V);
    if (best < 0 || o->temperature == 0 || o->top_k == 1)
        return best;
    float max = sampler->logits[best];
    if (max - max != 0)
        return best; /* an infinite logit leaves nothing to weigh */

    for (int32_t i = 0; i < V; i++)
        sampler->logits[i] = (sampler->logits[i] - max) / o->temperature;
    double sum = exponentials(sampler);
    size_t n = 0;
    float least = o->min_p; /* the largest probability is 1 here */
    for (int32_t i = 0; i < V; i++) {
        float p = sampler->probability[i];
        if (p > 0 && p >= least)
            sampler->candidates[n++] =
                (struct candidate){.rank = rank_of(sampler->logits[i], i), .probability = p};
    }
    if (o->top_k > 0 && (size_t)o->top_k < n) {
        select_first(sampler->candidates, n, (size_t)o->top_k);
        n = (size_t)o->top_k;
        sort(sampler->candidates, n);
        sum = 0;
        for (size_t i = 0; i < n; i++)
            sum += sampler->candidates[i].probability;
    }
    if (o->top_p < 1)
        n = cut_nucleus(sampler->candidates, n, sum, o->top_p);
    return pick_candidate(sampler->candidates, n, target);
}

double rondo_log_probability(const float *logits, int32_t vocab_size, int32_t token)
{
    int32_t best = largest(logits, vocab_size);
    if (best < 0 || token < 0 || token >= vocab_size || logits[token] != logits[token])
        return -INFINITY;
    if (isinf(logits[best]))
        return logits[token] == logits[best] ? 0 : -INFINITY;
    double max = logits[best], sum = 0;
    for (int32_t i = 0; i < vocab_size; i++) {
        if (logits[i] == logits[i])
            sum += exp((double)logits[i] - max);
    }
    return (double)logits[token] - max - log(sum);
}
