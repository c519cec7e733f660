/* The sampler against distributions computed here in double and against picks made here in the plainest way, by
 * candidates and by whole rows; and its promises: seeds repeat, ties go to the lower id, NaN is never picked, bad
 * options are refused. */
#include "core/candidates.h"
#include "core/sampler.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define V 1000

static struct rondo_sampler_options defaults(void)
{
    struct rondo_sampler_options options;
    rondo_sampler_defaults(&options);
    return options;
}

static int32_t pick_once(const struct rondo_sampler_options *options, const float *logits,
                         int32_t n)
{
    struct rondo_sampler *sampler = rondo_sampler_create(n, options, NULL);
    int32_t id = rondo_sampler_pick(sampler, logits, NULL, 0);
    rondo_sampler_destroy(sampler);
    return id;
}

static void test_greedy(void)
{
    struct rondo_sampler_options options = defaults();
    float ties[5] = {1, 3, 3, NAN, 2};
    EXPECT(pick_once(&options, ties, 5) == 1, "ties go to the lower id");
    float nans[3] = {NAN, NAN, NAN};
    EXPECT(pick_once(&options, nans, 3) == -1, "nothing to pick");
    options.temperature = 1;
    EXPECT(pick_once(&options, nans, 3) == -1, "nothing to pick");
    float low[3] = {-INFINITY, -1e30f, NAN};
    EXPECT(pick_once(&options, low, 3) == 1, "the only number");
    float high[3] = {1, INFINITY, 5};
    EXPECT(pick_once(&options, high, 3) == 1, "infinity wins");
}

/* What is left, and with which probability, after top-k, min-p and top-p in the documented order. */
static void expected(const struct rondo_sampler_options *o, const float *logits, double *p)
{
    int order[V];
    double max = -INFINITY, sum = 0;
    for (int i = 0; i < V; i++) {
        order[i] = i;
        max = fmax(max, logits[i]);
    }
    for (int i = 1; i < V; i++) {
        for (int j = i; j > 0 && logits[order[j]] > logits[order[j - 1]]; j--) {
            int swap = order[j];
            order[j] = order[j - 1];
            order[j - 1] = swap;
        }
    }
    int kept = 0;
    memset(p, 0, V * sizeof *p);
    for (int i = 0; i < V && (o->top_k == 0 || i < o->top_k); i++) {
        double q = exp((logits[order[i]] - max) / o->temperature);
        if (q < o->min_p)
            break;
        p[order[i]] = q;
        sum += q;
        kept = i + 1;
    }
    double cumulated = 0, left = 0;
    for (int i = 0; i < kept; i++) {
        if (o->top_p < 1 && cumulated >= o->top_p * sum)
            p[order[i]] = 0;
        cumulated += p[order[i]];
        left += p[order[i]];
    }
    for (int i = 0; i < V; i++)
        p[i] /= left;
}

/* Chi-square of many picks against the expected distribution; nothing outside of it is ever picked. */
static void test_distribution(float temperature, int top_k, float top_p, float min_p)
{
#ifdef __SANITIZE_ADDRESS__ /* copies rows byte by byte */
    enum { PICKS = 2000 };
#else
    enum { PICKS = 8000 };
#endif
    static int count[V];
    static double p[V];
    float logits[V];
    uint32_t random = 12345;
    for (int i = 0; i < V; i++) {
        random = random * 1664525u + 1013904223u;
        logits[i] = (float)(random >> 8) / (float)(1 << 24) * 12.0f;
    }
    struct rondo_sampler_options options = defaults();
    options.temperature = temperature;
    options.top_k = top_k;
    options.top_p = top_p;
    options.min_p = min_p;
    options.seed = 7;
    expected(&options, logits, p);
    memset(count, 0, sizeof count);
    struct rondo_sampler *sampler = rondo_sampler_create(V, &options, NULL);
    for (int i = 0; i < PICKS; i++)
        count[rondo_sampler_pick(sampler, logits, NULL, 0)]++;
    rondo_sampler_destroy(sampler);
    double chi2 = 0;
    int cells = 0, outside = 0;
    double rest_p = 0, rest_count = 0;
    for (int i = 0; i < V; i++) {
        outside += p[i] == 0 && count[i] > 0;
        if (p[i] * PICKS >= 10) {
            double d = count[i] - p[i] * PICKS;
            chi2 += d * d / (p[i] * PICKS);
            cells++;
        } else {
            rest_p += p[i];
            rest_count += count[i];
        }
    }
    if (rest_p * PICKS >= 10) {
        chi2 += (rest_count - rest_p * PICKS) * (rest_count - rest_p * PICKS) / (rest_p * PICKS);
        cells++;
    }
    EXPECT(outside == 0, "%d ids outside of the distribution (k %d, p %g, min %g)", outside, top_k,
           top_p, min_p);
    /* Six standard deviations; the seed is fixed, so this is not a matter of luck. */
    EXPECT(chi2 < cells + 6 * sqrt(2.0 * cells + 1),
           "chi2 %g over %d cells (T %g, k %d, p %g, min %g)", chi2, cells, temperature, top_k,
           top_p, min_p);
}

/* ---- the same pick by candidates, by the whole row, and plainly ------------------------------- */

#define WIDEST 3000

static uint64_t state = 99;

/* 0 .. n - 1 */
static uint32_t below(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((state >> 33) % n);
}

struct place {
    float logit;
    int32_t id;
};

static int compare_places(const void *a, const void *b)
{
    const struct place *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit) - (x->logit > y->logit)
                                : (x->id > y->id) - (x->id < y->id);
}

/* Every step of the documentation by itself, over the sorted row. */
static int32_t pick_plainly(const struct rondo_sampler_options *o, const float *logits, int32_t n,
                            const int32_t *history, size_t n_history, uint64_t pick)
{
    static struct place places[WIDEST];
    static uint64_t mass[WIDEST];
    static uint8_t seen[WIDEST];
    size_t first = 0, count = 0;
    if (o->repetition_window && n_history > (size_t)o->repetition_window)
        first = n_history - (size_t)o->repetition_window;
    memset(seen, 0, sizeof seen);
    for (size_t i = first; i < n_history; i++)
        seen[history[i]] = 1;
    for (int32_t i = 0; i < n; i++) {
        float logit = logits[i];
        if (seen[i] && o->repetition_penalty != 1)
            logit = logit > 0 ? logit / o->repetition_penalty : logit * o->repetition_penalty;
        if (logit == logit)
            places[count++] = (struct place){logit, i};
    }
    qsort(places, count, sizeof *places, compare_places);
    if (!count || o->temperature == 0 || isinf(places[0].logit))
        return count ? places[0].id : -1;
    if (o->top_k && (size_t)o->top_k < count)
        count = (size_t)o->top_k;
    uint64_t all = 0, left = 0, cumulated = 0;
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        float weight = rondo_exp((places[i].logit - places[0].logit) / o->temperature);
        mass[i] = (uint64_t)(weight * 0x1p40f);
        all += mass[i];
        if (weight >= o->min_p && kept == i)
            kept++;
    }
    for (size_t i = 0; i < kept; i++) {
        if (o->top_p < 1 && (double)left >= (double)o->top_p * (double)all)
            kept = i;
        else
            left += mass[i];
    }
    uint64_t z = o->seed + (pick + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    for (size_t i = 0; i < kept; i++) {
        cumulated += mass[i];
        if ((double)(z >> 11) * 0x1p-53 * (double)left < (double)cumulated)
            return places[i].id;
    }
    return -2;
}

static void random_row(float *logits, int32_t n)
{
    static const float spreads[] = {0.01f, 1, 8, 8, 60};
    float spread = spreads[below(5)];
    uint32_t kind = below(8);
    for (int32_t i = 0; i < n; i++) {
        float sum = 0; /* of four uniforms: a bell */
        for (int j = 0; j < 4; j++)
            sum += (float)below(1 << 20) * 0x1p-20f;
        logits[i] = (sum - 2) * spread;
        if (kind == 1)
            logits[i] = rintf(logits[i]); /* ties */
        if (kind == 2 && below(3))
            logits[i] = below(2) ? NAN : -INFINITY;
        if (kind == 3)
            logits[i] = 3; /* nothing but ties */
        if (kind == 4)
            logits[i] = 1000 + logits[i] * 1e-4f; /* equal after the temperature, some of them */
    }
    if (kind == 5 && below(2))
        logits[below((uint32_t)n)] = INFINITY;
    if (kind == 6 && !below(10))
        for (int32_t i = 0; i < n; i++)
            logits[i] = NAN;
}

static struct rondo_sampler_options random_options(int32_t n)
{
    static const float temperatures[] = {0, 1e-42f, 0.3f, 0.7f, 1, 1, 2, 100};
    struct rondo_sampler_options options = defaults();
    options.temperature = temperatures[below(8)];
    if (!below(3))
        options.top_k =
            (int32_t)below(4) ? 1 + (int32_t)below(300) : 1 + (int32_t)below((uint32_t)n);
    if (!below(2))
        options.top_p = below(4) ? 0.02f + 0.98f * (float)below(1000) * 1e-3f : 0.5f;
    if (!below(3))
        options.min_p = below(6) ? (float)below(100) * (below(2) ? 1e-2f : 1e-4f) : 1;
    if (!below(2))
        options.repetition_penalty = 0.6f + (float)below(100) * 1e-2f;
    if (!below(2))
        options.repetition_window = 1 + (int32_t)below(60);
    options.seed = below(1000);
    return options;
}

/* What a context does with the ops penalize and candidates; -3: the candidates do not decide. */
static int32_t pick_by_candidates(struct rondo_sampler *sampler, const float *logits, int32_t n,
                                  const int32_t *history, size_t n_history)
{
    static float row[WIDEST];
    static int32_t seen[WIDEST];
    struct rondo_candidates candidates;
    struct rondo_sampling sampling = rondo_sampler_sampling(sampler);
    int32_t id, count = rondo_sampler_seen(sampler, history, n_history, seen, n);
    memcpy(row, logits, (size_t)n * sizeof *row);
    for (int32_t i = 0; i < count; i++)
        row[seen[i]] = rondo_penalize(row[seen[i]], sampling.penalty);
    rondo_candidates_take(&candidates, row, n, sampling.temperature);
    return rondo_sampler_pick_candidates(sampler, &candidates, &id) ? id : -3;
}

static void test_candidates(void)
{
    enum { TRIALS = 900, HISTORY = 90, PICKS = 3 };
    static const int32_t widths[] = {1, 2, 100, 255, 256, 257, 300, 1000, WIDEST};
    static float logits[WIDEST];
    int32_t history[HISTORY];
    int undecided = 0, wide = 0;
    for (int trial = 0; trial < TRIALS; trial++) {
        int32_t n = widths[below(9)];
        struct rondo_sampler_options options = random_options(n);
        struct rondo_sampler *by_candidates = rondo_sampler_create(n, &options, NULL),
                             *by_row = rondo_sampler_create(n, &options, NULL),
                             *by_call = rondo_sampler_create(n, &options, NULL);
        for (uint64_t pick = 0; pick < PICKS; pick++) {
            size_t n_history = below(HISTORY);
            for (size_t i = 0; i < n_history; i++)
                history[i] = (int32_t)below((uint32_t)n);
            random_row(logits, n);
            int32_t want = pick_plainly(&options, logits, n, history, n_history, pick);
            memcpy(rondo_sampler_row(by_row), logits, (size_t)n * sizeof *logits);
            int32_t row = rondo_sampler_pick_row(by_row, history, n_history);
            int32_t called = rondo_sampler_pick(by_call, logits, history, n_history);
            int32_t id = pick_by_candidates(by_candidates, logits, n, history, n_history);
            if (id == -3) { /* the row has been penalised already */
                float *whole = rondo_sampler_row(by_candidates);
                memcpy(whole, rondo_sampler_row(by_row), (size_t)n * sizeof *whole);
                id = rondo_sampler_pick_row(by_candidates, NULL, 0);
                undecided++;
                EXPECT(n > RONDO_CANDIDATES, "all of %d logits decide", n);
            }
            wide += n > RONDO_CANDIDATES;
            EXPECT(id == want && row == want && called == want,
                   "trial %d, pick %d of %d: candidates %d, row %d, call %d, want %d (T %g, k %d, "
                   "p %g, "
                   "min %g, penalty %g, window %d)",
                   trial, (int)pick, n, id, row, called, want, options.temperature, options.top_k,
                   options.top_p, options.min_p, options.repetition_penalty,
                   options.repetition_window);
        }
        EXPECT(rondo_sampler_rows_read(by_row) == PICKS && rondo_sampler_rows_read(by_call) == 0,
               "rows that were read are counted");
        rondo_sampler_destroy(by_candidates);
        rondo_sampler_destroy(by_row);
        rondo_sampler_destroy(by_call);
    }
    EXPECT(undecided > wide / 50 && undecided < wide / 2, "%d of %d rows had to be read", undecided,
           wide);
}

/* What is sampled commonly is decided by the candidates of a vocabulary of common size. */
static void test_sufficient(void)
{
    enum { N = 40000, PICKS = 30 };
    static float logits[N];
    struct rondo_sampler_options options[7];
    for (int i = 0; i < 7; i++) {
        options[i] = defaults();
        options[i].temperature = 0.8f;
        options[i].repetition_penalty = 1.1f;
    }
    options[0].top_k = 40;
    options[1].top_p = 0.95f;
    options[2].min_p = 0.05f;
    /* [3]: the temperature alone. Of the next the first ids that are left are more than there are candidates. */
    options[4].top_k = 1000;
    options[5].top_p = 0.9999f;
    options[6].top_k = 20000;
    options[6].top_p = 0.9999f;
    for (int o = 0; o < 7; o++) {
        struct rondo_sampler *sampler = rondo_sampler_create(N, &options[o], NULL);
        int32_t history[3] = {5, 6, 7};
        int decided = 0;
        for (int pick = 0; pick < PICKS; pick++) {
            for (int32_t i = 0; i < N; i++)
                logits[i] = (float)below(1000) * 5e-3f + (below(500) ? 0 : 10);
            struct rondo_candidates candidates;
            int32_t seen[3], id, count = rondo_sampler_seen(sampler, history, 3, seen, 3);
            for (int32_t i = 0; i < count; i++)
                logits[seen[i]] = rondo_penalize(logits[seen[i]], 1.1f);
            rondo_candidates_take(&candidates, logits, N,
                                  rondo_sampler_sampling(sampler).temperature);
            decided += rondo_sampler_pick_candidates(sampler, &candidates, &id);
        }
        EXPECT(decided > PICKS * 8 / 10, "options %d: %d of %d picks are decided", o, decided,
               PICKS);
        rondo_sampler_destroy(sampler);
    }
}

static void test_seen(void)
{
    struct rondo_sampler_options options = defaults();
    options.repetition_penalty = 1.5f;
    int32_t history[6] = {7, 3, 7, -1, 10, 4}, ids[3];
    struct rondo_sampler *sampler = rondo_sampler_create(10, &options, NULL);
    EXPECT(rondo_sampler_seen(sampler, history, 6, ids, 3) == 3, "three ids differ");
    EXPECT(ids[0] == 7 && ids[1] == 3 && ids[2] == 4, "in the order of the history");
    EXPECT(rondo_sampler_seen(sampler, history, 6, ids, 2) == -1, "no room");
    EXPECT(rondo_sampler_seen(sampler, history, 6, ids, 3) == 3, "nothing is left of a call");
    EXPECT(!rondo_sampler_is_greedy(sampler), "penalised");
    rondo_sampler_destroy(sampler);
    options.repetition_penalty = 1;
    sampler = rondo_sampler_create(10, &options, NULL);
    EXPECT(rondo_sampler_seen(sampler, history, 6, ids, 0) == 0, "no penalty");
    EXPECT(rondo_sampler_is_greedy(sampler), "greedy");
    rondo_sampler_destroy(sampler);
}

static void test_repeatable(void)
{
    float logits[50];
    for (int i = 0; i < 50; i++)
        logits[i] = (float)(i * 37 % 50) * 0.1f;
    struct rondo_sampler_options options = defaults();
    options.temperature = 0.8f;
    options.top_p = 0.9f;
    int differ = 0;
    for (uint64_t seed = 0; seed < 2; seed++) {
        options.seed = seed;
        struct rondo_sampler *a = rondo_sampler_create(50, &options, NULL),
                             *b = rondo_sampler_create(50, &options, NULL);
        options.seed = seed + 100;
        struct rondo_sampler *other = rondo_sampler_create(50, &options, NULL);
        for (int i = 0; i < 100; i++) {
            int32_t x = rondo_sampler_pick(a, logits, NULL, 0);
            EXPECT(x == rondo_sampler_pick(b, logits, NULL, 0), "pick %d of seed %d repeats", i,
                   (int)seed);
            differ += x != rondo_sampler_pick(other, logits, NULL, 0);
        }
        rondo_sampler_destroy(a);
        rondo_sampler_destroy(b);
        rondo_sampler_destroy(other);
    }
    EXPECT(differ > 100, "seeds differ (%d of 200 picks)", differ);
}

static void test_penalty(void)
{
    struct rondo_sampler_options options = defaults();
    options.repetition_penalty = 2;
    float logits[4] = {4, 3, -1, -1.5f};
    int32_t history[5] = {0, 0, 2, -5,
                          99}; /* twice the same counts once; ids of no token are passed over */
    struct rondo_sampler *sampler = rondo_sampler_create(4, &options, NULL);
    EXPECT(rondo_sampler_pick(sampler, logits, history, 5) == 1, "4 / 2 is below 3");
    EXPECT(rondo_sampler_pick(sampler, logits, NULL, 0) == 0, "no history, no penalty");
    rondo_sampler_destroy(sampler);
    options.repetition_window = 2;
    sampler = rondo_sampler_create(4, &options, NULL);
    int32_t window[3] = {0, 1, 2};
    EXPECT(rondo_sampler_pick(sampler, logits, window, 3) == 0, "token 0 is out of the window");
    rondo_sampler_destroy(sampler);
    float negative[2] = {-1, -1.5f};
    int32_t first[1] = {0};
    sampler = rondo_sampler_create(2, &options, NULL);
    EXPECT(rondo_sampler_pick(sampler, negative, first, 1) == 1, "-1 * 2 is below -1.5");
    rondo_sampler_destroy(sampler);
}

static void test_options(void)
{
    struct {
        struct rondo_sampler_options options;
        const char *field;
    } bad[8];
    for (int i = 0; i < 8; i++)
        bad[i].options = defaults();
    bad[0].options.temperature = -1, bad[0].field = "temperature";
    bad[1].options.temperature = NAN, bad[1].field = "temperature";
    bad[2].options.top_k = -1, bad[2].field = "top_k";
    bad[3].options.top_p = 0, bad[3].field = "top_p";
    bad[4].options.top_p = 1.5f, bad[4].field = "top_p";
    bad[5].options.min_p = -0.1f, bad[5].field = "min_p";
    bad[6].options.repetition_penalty = 0, bad[6].field = "repetition_penalty";
    bad[7].options.repetition_window = -1, bad[7].field = "repetition_window";
    for (int i = 0; i < 8; i++) {
        struct rondo_error error = {0};
        struct rondo_sampler *sampler = rondo_sampler_create(10, &bad[i].options, &error);
        EXPECT(!sampler && error.status == RONDO_USAGE, "options %d are refused", i);
        EXPECT(strncmp(error.message, bad[i].field, strlen(bad[i].field)) == 0, "names %s: %s",
               bad[i].field, error.message);
        rondo_sampler_destroy(sampler);
    }
}

static void test_log_probability(void)
{
    float logits[4] = {1000, 999, -INFINITY, 998};
    double sum = 0;
    for (int i = 0; i < 4; i++)
        sum += exp(rondo_log_probability(logits, 4, i));
    EXPECT(fabs(sum - 1) < 1e-12, "probabilities sum to %g", sum);
    EXPECT(fabs(rondo_log_probability(logits, 4, 1) + 1.4076059644443806) < 1e-12, "log p");
    EXPECT(rondo_log_probability(logits, 4, 2) == -INFINITY, "impossible");
    EXPECT(rondo_log_probability(logits, 4, 7) == -INFINITY, "no such token");
    float infinite[2] = {1, INFINITY};
    EXPECT(rondo_log_probability(infinite, 2, 1) == 0, "certain");
    EXPECT(rondo_log_probability(infinite, 2, 0) == -INFINITY, "impossible beside the certain");
}

int main(void)
{
    test_greedy();
    test_distribution(1, 0, 1, 0);
    test_distribution(0.5f, 0, 1, 0);
    test_distribution(2, 40, 1, 0);
    test_distribution(2, 400, 1, 0);
    test_distribution(1, 0, 0.9f, 0);
    test_distribution(3, 0, 0.95f, 0);
    test_distribution(1, 0, 1, 0.1f);
    test_distribution(1.5f, 50, 0.8f, 0.05f);
    test_candidates();
    test_sufficient();
    test_seen();
    test_repeatable();
    test_penalty();
    test_options();
    test_log_probability();
    return test_result();
}
