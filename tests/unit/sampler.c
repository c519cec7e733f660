/* The sampler against distributions computed here in double, and its promises: seeds repeat, ties go to the
 * lower id, NaN is never picked, bad options are refused. */
#include "core/rondo.h"
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
    enum { PICKS = 8000 };
    static int count[V];
    static double p[V];
    float logits[V];
    uint32_t state = 12345;
    for (int i = 0; i < V; i++) {
        state = state * 1664525u + 1013904223u;
        logits[i] = (float)(state >> 8) / (float)(1 << 24) * 12.0f;
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
    test_repeatable();
    test_penalty();
    test_options();
    test_log_probability();
    return test_result();
}
