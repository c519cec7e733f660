/* The demonstration model against the forward pass it was trained with.
 *
 * DIR/golden.json lists 32 problems, [{"tokens": [...], "rows": [...]}], question, working and answer;
 * DIR/golden_logits.npy has the logits of the rows listed, computed by the training script's own code. In mode
 * f32 every CPU level must agree with each row to an NMSE of 1e-8, and choose the same token.
 *
 *     demo DIR */
#include "formats/json.h"
#include "tests/model/fixture.h"
#include "tests/unit/test.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { N_PROMPTS = 32, MAX_TOKENS = 1024, MAX_ROWS = 8 };

#define NMSE_LIMIT 1e-8

struct prompt {
    int32_t tokens[MAX_TOKENS], rows[MAX_ROWS];
    size_t n_tokens, n_rows;
};

static const char *const levels[] = {"cpu:ref", "cpu:avx2", "cpu:avx512", "cpu:avx512bf16",
                                     "cpu:neon"};
static struct prompt prompts[N_PROMPTS];
static size_t n_rows;   /* of all prompts */
static float *golden;   /* [n_rows, V] */
static int32_t n_vocab; /* V */

static size_t read_numbers(const cJSON *object, const char *key, int32_t *out, size_t limit)
{
    const cJSON *element, *array = cJSON_GetObjectItemCaseSensitive(object, key);
    size_t n = 0;
    cJSON_ArrayForEach(element, array)
    {
        if (n < limit)
            out[n] = (int32_t)element->valuedouble;
        n++;
    }
    if (!n || n > limit) {
        fprintf(stderr, "golden.json: %s has %zu elements\n", key, n);
        exit(1);
    }
    return n;
}

/* Ends the program when the files are not what they should be. */
static void read_golden(const char *directory)
{
    char path[600];
    struct rondo_error error = {0};
    snprintf(path, sizeof path, "%.500s/golden.json", directory);
    cJSON *json = rondo_json_read(path, RONDO_JSON_LIMIT, &error);
    if (!json || cJSON_GetArraySize(json) != N_PROMPTS) {
        fprintf(stderr, "%s: %s\n", path, json ? "not 32 prompts" : error.message);
        exit(1);
    }
    struct prompt *prompt = prompts;
    const cJSON *element;
    cJSON_ArrayForEach(element, json)
    {
        prompt->n_tokens = read_numbers(element, "tokens", prompt->tokens, MAX_TOKENS);
        prompt->n_rows = read_numbers(element, "rows", prompt->rows, MAX_ROWS);
        n_rows += prompt++->n_rows;
    }
    cJSON_Delete(json);
    snprintf(path, sizeof path, "%.500s/golden_logits.npy", directory);
    golden = fixture_read_npy(path, n_rows, &n_vocab);
}

static int32_t largest(const float *logits)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n_vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* One row; gives its NMSE. */
static double compare(const float *got, const float *want)
{
    double difference = 0, size = 0;
    for (int32_t i = 0; i < n_vocab; i++) {
        difference += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += (double)want[i] * want[i];
    }
    return difference / size;
}

/* All prompts through one context; on the slow reference level four of them, its bits are those of the others. */
static void check_level(struct rondo_model *model, const char *level)
{
    struct rondo_error error = {0};
    struct rondo_device_options device_options = {.threads = 1};
    struct rondo_device *device = rondo_device_open(level, &device_options, &error);
    EXPECT(device || error.status == RONDO_NO_DEVICE, "%s: %s", level, error.message);
    if (!device)
        return;
    struct rondo_context_options options = {.mode = RONDO_MODE_F32, .max_context = MAX_TOKENS};
    struct rondo_context *context = rondo_context_create(model, device, &options, &error);
    EXPECT(context, "%s: %s", level, error.message);
    float *logits = malloc((size_t)MAX_TOKENS * (size_t)n_vocab * sizeof *logits);
    const float *want = golden;
    double worst = 0;
    size_t n_prompts = strcmp(level, "cpu:ref") == 0 ? 4 : N_PROMPTS;
    for (size_t i = 0; context && i < n_prompts; i++) {
        struct prompt *prompt = &prompts[i];
        struct rondo_session *session = rondo_session_create(context, &error);
        struct rondo_run_item item = {
            session, prompt->tokens, prompt->n_tokens, RONDO_LOGITS_ALL, logits, NULL, NULL};
        bool done = session && rondo_context_run(context, &item, 1, &error) == RONDO_OK;
        EXPECT(done, "%s: prompt %zu: %s", level, i, error.message);
        for (size_t j = 0; j < prompt->n_rows; j++, want += n_vocab) {
            const float *got = logits + (size_t)prompt->rows[j] * (size_t)n_vocab;
            double nmse = done ? compare(got, want) : 1;
            worst = nmse > worst ? nmse : worst;
            EXPECT(nmse <= NMSE_LIMIT, "%s: prompt %zu row %d: NMSE %.2e", level, i,
                   prompt->rows[j], nmse);
            EXPECT(largest(got) == largest(want), "%s: prompt %zu row %d: token %d, want %d", level,
                   i, prompt->rows[j], largest(got), largest(want));
        }
        rondo_session_destroy(session);
    }
    printf("%-12s worst NMSE %.2e\n", level, worst);
    free(logits);
    rondo_context_destroy(context);
    rondo_device_close(device);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: demo DIR\n");
        return 2;
    }
    read_golden(argv[1]);
    struct rondo_error error = {0};
    struct rondo_model *model = rondo_model_open(argv[1], NULL, &error);
    EXPECT(model, "%s: %s", argv[1], error.message);
    if (model)
        EXPECT(rondo_model_config(model)->vocab_size == n_vocab, "rows of %d logits", n_vocab);
    for (size_t i = 0; model && i < sizeof levels / sizeof *levels; i++)
        check_level(model, levels[i]);
    rondo_model_close(model);
    free(golden);
    return test_result();
}
