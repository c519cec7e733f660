/* Sampling: repetition penalty, temperature, top-k, top-p, min-p and a seeded pick, in this order.
 *
 * Ids are ranked by their logits, ties to the lower id. top-k, top-p and min-p each leave the first ids of the ranking,
 * and the pick is the first of them at which the cumulated mass passes a drawn share of the mass that is left. Hence
 * the largest logits are mostly all it takes, and the mass of all ids (struct rondo_candidates); what they do not
 * decide is picked from the whole row, to the same result.
 *
 * The same logits, options and seed give the same tokens on every machine: exponentials are rondo_exp, and masses
 * are integers, so that the order of their sums is nothing. */
#include "core/sampler.h"
#include "core/candidates.h"
#include "core/error.h"

#include <math.h>
#include <stdlib.h>

/* Ranked by one integer: a key that orders floats, descending, then the id, ascending. */
struct candidate {
    uint64_t rank;
    float weight; /* exp((logit - largest) / temperature) */
};

struct rondo_sampler {
    struct rondo_sampler_options options;
    int32_t vocab_size;
    uint64_t picks;               /* so far: the n-th pick has the n-th number of the seed */
    uint64_t rows;                /* of picks that took the whole row, which a device had to give */
    float *logits;                /* [V] after penalty */
    struct candidate *candidates; /* [V], or RONDO_CANDIDATES if that is more */
    uint8_t *seen;                /* [V] zeros between calls */
    int32_t *seen_ids;            /* [V] */
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
    if (vocab_size < 1 || vocab_size > RONDO_MAX_VOCABULARY) {
        rondo_fail(error, RONDO_USAGE, "vocab_size: out of range (got %d, want 1 to %d)",
                   vocab_size, RONDO_MAX_VOCABULARY);
        return NULL;
    }
    if (check_options(options, error))
        return NULL;
    size_t V = (size_t)vocab_size, room = V > RONDO_CANDIDATES ? V : RONDO_CANDIDATES;
    struct rondo_sampler *sampler = calloc(1, sizeof *sampler);
    if (sampler) {
        sampler->options = *options;
        sampler->vocab_size = vocab_size;
        sampler->logits = calloc(V, sizeof *sampler->logits);
        sampler->candidates = calloc(room, sizeof *sampler->candidates);
        sampler->seen = calloc(V, sizeof *sampler->seen);
        sampler->seen_ids = calloc(V, sizeof *sampler->seen_ids);
    }
    if (!sampler || !sampler->logits || !sampler->candidates || !sampler->seen ||
        !sampler->seen_ids) {
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
    free(sampler->candidates);
    free(sampler->seen);
    free(sampler->seen_ids);
    free(sampler);
}

int32_t rondo_sampler_vocabulary(const struct rondo_sampler *sampler)
{
    return sampler->vocab_size;
}

uint64_t rondo_sampler_rows_read(const struct rondo_sampler *sampler)
{
    return sampler->rows;
}

/* ---- penalty ---------------------------------------------------------------------------------- */

int32_t rondo_sampler_seen(struct rondo_sampler *sampler, const int32_t *history, size_t n,
                           int32_t *ids, int32_t capacity)
{
    size_t window = (size_t)sampler->options.repetition_window, first = 0;
    int32_t count = 0;
    if (sampler->options.repetition_penalty == 1.0f)
        return 0;
    if (window && n > window)
        first = n - window;
    for (size_t i = first; i < n; i++) {
        int32_t id = history[i];
        if (id < 0 || id >= sampler->vocab_size || sampler->seen[id])
            continue;
        sampler->seen[id] = 1;
        if (count < capacity)
            ids[count] = id;
        count++;
    }
    for (size_t i = first; i < n; i++) {
        if (history[i] >= 0 && history[i] < sampler->vocab_size)
            sampler->seen[history[i]] = 0;
    }
    return count <= capacity ? count : -1;
}

static void penalize(struct rondo_sampler *sampler, const int32_t *history, size_t n)
{
    int32_t *ids = sampler->seen_ids;
    int32_t count = rondo_sampler_seen(sampler, history, n, ids, sampler->vocab_size);
    for (int32_t i = 0; i < count; i++)
        sampler->logits[ids[i]] =
            rondo_penalize(sampler->logits[ids[i]], sampler->options.repetition_penalty);
}

/* ---- ranking ---------------------------------------------------------------------------------- */

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

/* Ids of a row by rank, the first `sorted` of them in their places. */
struct ranking {
    struct candidate *c;
    size_t n, sorted;
    bool is_whole;  /* all ids of the row that weigh anything are here; else there may be more */
    uint64_t total; /* mass of the whole row, where all ids count */
};

/* The one of rank i < n. Sorts a growing head only: few are looked at, mostly. */
static const struct candidate *ranked(struct ranking *ranking, size_t i)
{
    while (i >= ranking->sorted) {
        size_t done = ranking->sorted, n = ranking->n, head = done ? done * 8 : 256;
        head = head < n ? head : n;
        if (head < n)
            select_first(ranking->c + done, n - done, head - done);
        sort(ranking->c + done, head - done);
        ranking->sorted = head;
    }
    return &ranking->c[i];
}

/* ---- the pick --------------------------------------------------------------------------------- */

/* The n-th number of a seed in [0, 1): splitmix64 of a counter, its upper 53 bits. */
static double uniform(uint64_t seed, uint64_t n)
{
    uint64_t z = seed + (n + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (double)(z >> 11) * 0x1p-53;
}

/* Whether the pick needs the mass of all ids: when nothing but their mass cuts the ranking, or nothing does among the
 * candidates. */
static bool needs_total(const struct rondo_sampler_options *o)
{
    return o->temperature > 0 && (o->top_k == 0 || o->top_k > RONDO_CANDIDATES) &&
           (o->top_p < 1 || o->min_p == 0);
}

static uint64_t mass_of_first(struct ranking *ranking, size_t n)
{
    uint64_t mass = 0;
    for (size_t i = 0; i < n; i++)
        mass += rondo_candidate_mass(ranked(ranking, i)->weight);
    return mass;
}

/* What each id after the first n has at most: no more than the one before, if not for the rounding of exponentials. */
static double most_behind(struct ranking *ranking, size_t n)
{
    return (double)rondo_candidate_mass(ranked(ranking, n - 1)->weight) * (1 + 0x1p-18) + 1;
}

/* A mass that is not less than `low`, nor more than `high`. */
struct bounds {
    double low, high;
};

/* The mass that top-p takes its share of: that of all ids, or of the first top-k of them. Of those the first n are
 * known, which are all of them if `is_end`. */
static struct bounds mass_of_top(struct ranking *ranking, const struct rondo_sampler_options *o,
                                 size_t n, bool is_end)
{
    double total = ranking->total ? (double)ranking->total : INFINITY;
    if (o->top_k == 0 || (is_end && o->top_p >= 1)) /* the latter is not asked for */
        return (struct bounds){total, total};
    double low = (double)mass_of_first(ranking, n), high = low;
    if (!is_end)
        high = fmin(total, (low + (o->top_k - (double)n) * most_behind(ranking, n)) * (1 + 1e-12));
    return (struct bounds){low, high};
}

/* What top-p and min-p leave of the first n: *keep ids and their mass. False: they may leave more than n. */
static bool cut(struct ranking *ranking, const struct rondo_sampler_options *o, size_t n,
                double share, size_t *keep, uint64_t *left)
{
    *left = 0;
    for (*keep = 0; *keep < n; ++*keep) {
        float weight = ranked(ranking, *keep)->weight;
        uint64_t mass = rondo_candidate_mass(weight);
        if (weight < o->min_p || mass == 0 || (double)*left >= share)
            return true;
        *left += mass;
    }
    return (double)*left >= share;
}

/* The place of the first id at which the cumulated mass passes `draw` of [0, 1) of what is left, were `sum` the mass
 * that top-p takes its share of; where even then it can not be known what is left, as if it were as much as it can be
 * (`most`) or as little. False: that place is not among the first n. */
static bool place_of(struct ranking *ranking, const struct rondo_sampler_options *o, size_t n,
                     bool is_end, double sum, bool most, double draw, size_t *place)
{
    bool cuts = o->top_k > 0 || o->top_p < 1 || o->min_p > 0;
    double share = o->top_p < 1 ? (double)o->top_p * sum : INFINITY, left = sum;
    uint64_t mass = 0, cumulated = 0;
    size_t keep = n;
    if (cuts) {
        is_end |= cut(ranking, o, n, share, &keep, &mass);
        if (is_end)
            left = (double)mass;
        else if (most) /* top-p leaves its share and a part of one id */
            left = fmin(sum, (share + most_behind(ranking, n)) * (1 + 1e-12));
        else
            left = o->min_p > 0 ? (double)mass : fmax((double)mass, fmin(sum, share));
    }
    double target = draw * left;
    for (*place = 0; *place < keep; ++*place) {
        cumulated += rondo_candidate_mass(ranked(ranking, *place)->weight);
        if (target < (double)cumulated)
            return true;
    }
    *place = keep ? keep - 1 : 0;
    return is_end;
}

/* The id at the place that `draw` picks. False: that can not be said without the rest of the row, what is behind the
 * candidates. They need not reach top-k nor the share of top-p: the more is left behind them the later is the place, so
 * that it is known where the most that can be left and the least pick the same. The row is read where the place itself
 * is behind them, or where an id so near to another is picked that the difference counts. To fetch the next candidates
 * then would take two launches and a wait for each 256, and still leave picks from the temperature alone, which are
 * the ones that often are far behind. */
static bool draw_from(struct ranking *ranking, const struct rondo_sampler_options *o, double draw,
                      int32_t *id)
{
    size_t n = ranking->n, place, least;
    bool is_end = ranking->is_whole; /* nothing follows the first n */
    if (o->top_k > 0 && (size_t)o->top_k <= n) {
        n = (size_t)o->top_k;
        is_end = true;
    }
    struct bounds sum = mass_of_top(ranking, o, n, is_end);
    if (!place_of(ranking, o, n, is_end, sum.high, true, draw, &place))
        return false;
    if (!is_end) {
        place_of(ranking, o, n, is_end, sum.low, false, draw, &least);
        if (least != place)
            return false;
    }
    *id = (int32_t)(uint32_t)ranked(ranking, place)->rank;
    return true;
}

bool rondo_sampler_is_greedy(const struct rondo_sampler *sampler)
{
    return sampler->options.temperature == 0 && sampler->options.repetition_penalty == 1.0f;
}

struct rondo_sampling rondo_sampler_sampling(const struct rondo_sampler *sampler)
{
    const struct rondo_sampler_options *o = &sampler->options;
    return (struct rondo_sampling){.wanted = 1,
                                   .temperature = needs_total(o) ? o->temperature : 0,
                                   .penalty = o->repetition_penalty};
}

/* Whether the largest logit is the pick: an infinite one leaves nothing to weigh. */
static bool takes_largest(const struct rondo_sampler_options *o, float largest)
{
    return o->temperature == 0 || o->top_k == 1 || !isfinite(largest);
}

bool rondo_sampler_pick_candidates(struct rondo_sampler *sampler,
                                   const struct rondo_candidates *candidates, int32_t *id)
{
    const struct rondo_sampler_options *o = &sampler->options;
    int32_t count = candidates->count < RONDO_CANDIDATES ? candidates->count : RONDO_CANDIDATES;
    float largest = candidates->value[0];
    *id = count > 0 ? candidates->id[0] : -1;
    if (count > 0 && !takes_largest(o, largest)) {
        struct ranking ranking = {.c = sampler->candidates,
                                  .n = (size_t)count,
                                  .sorted = (size_t)count,
                                  .is_whole = count < RONDO_CANDIDATES ||
                                              sampler->vocab_size <= RONDO_CANDIDATES,
                                  .total = candidates->mass};
        for (int32_t i = 0; i < count; i++)
            ranking.c[i] = (struct candidate){
                .rank = rank_of(candidates->value[i], candidates->id[i]),
                .weight = rondo_candidate_weight(candidates->value[i], largest, o->temperature)};
        if (!draw_from(&ranking, o, uniform(o->seed, sampler->picks), id))
            return false;
    }
    sampler->picks++;
    return true;
}

/* ---- whole rows ------------------------------------------------------------------------------- */

/* Id of the largest logit, the lowest one of equals; -1 when all are NaN. */
static int32_t largest_of(const float *logits, int32_t n)
{
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++) {
        if (logits[i] == logits[i] && (best < 0 || logits[i] > logits[best]))
            best = i;
    }
    return best;
}

/* Below this no weight has a mass. Half of the least that has one: neighbours that rounding puts out of order there
 * are both ranked. */
#define LEAST_WEIGHT (0.5f / RONDO_MASS_ONE)

/* The pick from sampler->logits, after penalty. */
static int32_t pick_row(struct rondo_sampler *sampler)
{
    const struct rondo_sampler_options *o = &sampler->options;
    double draw = uniform(o->seed, sampler->picks++);
    int32_t id = largest_of(sampler->logits, sampler->vocab_size);
    if (id < 0 || takes_largest(o, sampler->logits[id]))
        return id;
    struct ranking ranking = {.c = sampler->candidates, .is_whole = true};
    float largest = sampler->logits[id];
    for (int32_t i = 0; i < sampler->vocab_size; i++) {
        float weight = rondo_candidate_weight(sampler->logits[i], largest, o->temperature);
        uint64_t mass = rondo_candidate_mass(weight);
        ranking.total += mass;
        if (weight >= LEAST_WEIGHT)
            ranking.c[ranking.n++] =
                (struct candidate){.rank = rank_of(sampler->logits[i], i), .weight = weight};
    }
    draw_from(&ranking, o, draw, &id);
    return id;
}

float *rondo_sampler_row(struct rondo_sampler *sampler)
{
    return sampler->logits;
}

int32_t rondo_sampler_pick_row(struct rondo_sampler *sampler, const int32_t *history, size_t n)
{
    if (history)
        penalize(sampler, history, n);
    sampler->rows++;
    return pick_row(sampler);
}

int32_t rondo_sampler_pick(struct rondo_sampler *sampler, const float *logits,
                           const int32_t *history, size_t n_history)
{
    struct rondo_candidates candidates;
    int32_t id;
    memcpy(sampler->logits, logits, (size_t)sampler->vocab_size * sizeof *logits);
    penalize(sampler, history, n_history);
    rondo_candidates_take(&candidates, sampler->logits, sampler->vocab_size,
                          rondo_sampler_sampling(sampler).temperature);
    return rondo_sampler_pick_candidates(sampler, &candidates, &id) ? id : pick_row(sampler);
}

double rondo_log_probability(const float *logits, int32_t vocab_size, int32_t token)
{
    int32_t best = largest_of(logits, vocab_size);
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
