/* rondo perplexity: how well a model predicts a text, in overlapping windows. */
#include "cli/commands.h"
#include "cli/engine.h"
#include "cli/input.h"
#include "cli/terminal.h"

#include <math.h>
#include <stdlib.h>

#define DEFAULT_CTX 2048

struct perplexity_options {
    struct cli_model_options model;
    struct cli_check_options check;
    struct cli_token_options tokens;
    struct cli_device_options device;
    struct cli_message_options messages;
    int64_t ctx, stride, windows, chunk;
    bool json;
    struct cli_texts arguments;
};

#define FIELD(name) offsetof(struct perplexity_options, name)

static const struct cli_option table[] = {
    {.name = "--ctx",
     .kind = CLI_INTEGER,
     .offset = FIELD(ctx),
     .argument = "N",
     .group = "Windows",
     .help = "tokens of a window",
     .fallback = "0",
     .fallback_help = "2048, or the model's limit when that is less",
     .low = 2,
     .high = INT32_MAX},
    {.name = "--stride",
     .kind = CLI_INTEGER,
     .offset = FIELD(stride),
     .argument = "N",
     .group = "Windows",
     .help = "tokens from one window to the next; what windows share is context, counted once",
     .fallback = "0",
     .fallback_help = "half a window",
     .low = 1,
     .high = INT32_MAX - 1},
    {.name = "--windows",
     .kind = CLI_INTEGER,
     .offset = FIELD(windows),
     .argument = "N",
     .group = "Windows",
     .help = "stop after so many windows; 0: the whole text",
     .fallback = "0",
     .high = INT32_MAX},
    {.name = "--chunk",
     .kind = CLI_INTEGER,
     .offset = FIELD(chunk),
     .argument = "N",
     .group = "Windows",
     .help = "tokens per call; changes time and memory, never the result",
     .fallback = "0",
     .fallback_help = "as many as 64 MiB of logits allow, 512 at most",
     .low = 1,
     .high = 65536},
    {.name = "--json",
     .kind = CLI_FLAG,
     .offset = FIELD(json),
     .group = "Output",
     .help = "print one JSON object"},
};

/* Sum over the tokens scored so far. */
struct score {
    const int32_t *targets; /* the token that row 0 of the window predicts, and those after it */
    int32_t vocab_size;
    double nll;
    size_t n;
};

static int score_rows(void *user, const float *logits, size_t first, size_t n,
                      struct rondo_error *error)
{
    struct score *score = user;
    for (size_t i = 0; i < n; i++) {
        const float *row = logits + i * (size_t)score->vocab_size;
        score->nll -= rondo_log_probability(row, score->vocab_size, score->targets[first + i]);
    }
    score->n += n;
    if (!isfinite(score->nll))
        return rondo_fail(error, RONDO_FAILED,
                          "model: the logits are not numbers; 'rondo info --check' looks for NaN");
    return RONDO_OK;
}

static int score_text(const struct perplexity_options *options, struct cli_engine *engine,
                      const int32_t *tokens, size_t n, struct score *score,
                      struct rondo_error *error)
{
    size_t ctx = (size_t)options->ctx;
    size_t stride = options->stride ? (size_t)options->stride : ctx / 2;
    struct rondo_session *session = rondo_session_create(engine->context, error);
    int result = session ? RONDO_OK : (int)error->status;
    double start = cli_time();
    for (size_t first = 0, scored = 1, window = 0; !result && scored < n; first += stride) {
        size_t end = n - first > ctx ? first + ctx : n;
        rondo_session_truncate(session, 0);
        score->targets = tokens + first + 1;
        /* The last token of a window is only predicted, never fed. */
        result =
            cli_feed_rows(engine->context, session, tokens + first, end - first - 1,
                          scored - 1 - first, (size_t)options->chunk, score_rows, score, error);
        scored = end;
        window++;
        if (!result && cli_terminal_shows_progress())
            fprintf(stderr, "window %zu: %zu of %zu tokens, perplexity %.4f, %.0f s\n", window,
                    scored, n, exp(score->nll / (double)score->n), cli_time() - start);
        if (options->windows && window == (size_t)options->windows)
            break;
    }
    rondo_session_destroy(session);
    return result;
}

static int measure(const struct perplexity_options *options, struct cli_engine *engine,
                   struct score *score, struct rondo_error *error)
{
    int32_t *tokens;
    size_t n;
    int result = cli_tokens_get(&options->tokens, engine->model, &tokens, &n, error);
    if (result)
        return result;
    struct rondo_context_options settings = {
        .mode = (enum rondo_mode)options->device.mode,
        .kv = (enum rondo_kv)options->device.kv,
        .max_context = (int32_t)options->ctx,
        .max_batch_tokens = options->chunk > 512 ? (int32_t)options->chunk : 512,
        .snapshots = -1,
        .unchecked = options->check.unchecked,
    };
    if (n < 2)
        result = rondo_fail(error, RONDO_FAILED, "input: too short (got 1 token, want at least 2)");
    if (!result)
        result = cli_check_length("--ctx", (size_t)options->ctx,
                                  rondo_model_config(engine->model)->max_position_embeddings,
                                  CLI_HINT_LIMIT, error);
    if (!result)
        result = cli_engine_start(engine, &settings, error);
    if (!result)
        result = score_text(options, engine, tokens, n, score, error);
    free(tokens);
    return result;
}

static int check_windows(const struct perplexity_options *options, struct rondo_error *error)
{
    if (options->ctx < 2)
        return rondo_fail(error, RONDO_USAGE, "--ctx: got %lld, want at least 2",
                          (long long)options->ctx);
    if (options->stride >= options->ctx)
        return rondo_fail(error, RONDO_USAGE, "--stride: got %lld, want less than --ctx (%lld)",
                          (long long)options->stride, (long long)options->ctx);
    return RONDO_OK;
}

static int run(void *user)
{
    struct perplexity_options *options = user;
    struct rondo_error error = {0};
    struct cli_engine engine;
    bool given = options->ctx != 0;
    if (!given)
        options->ctx = DEFAULT_CTX;
    if (check_windows(options, &error))
        return cli_report(&error);
    cli_messages(&options->messages);
    cli_interrupt_catch();
    int result = cli_engine_open(&engine, &options->model, &options->device, &error);
    struct score score = {0};
    if (!result) {
        const struct rondo_config *config = rondo_model_config(engine.model);
        score.vocab_size = config->vocab_size;
        if (!given && options->ctx > config->max_position_embeddings)
            options->ctx = config->max_position_embeddings;
        result = check_windows(options, &error);
        if (!result)
            result = measure(options, &engine, &score, &error);
    }
    cli_engine_close(&engine);
    if (result)
        return cli_report(&error);
    double nll = score.nll / (double)score.n;
    printf(options->json ? "{\"tokens\":%zu,\"nll\":%.9g,\"ppl\":%.9g}\n"
                         : "tokens %zu\nnll    %.6f\nppl    %.6f\n",
           score.n, nll, exp(nll));
    return RONDO_OK;
}

static const struct cli_option_set sets[] = {
    CLI_SET(cli_model_table, FIELD(model)),   CLI_SET(cli_check_table, FIELD(check)),
    CLI_SET(cli_token_table, FIELD(tokens)),  CLI_SET(table, 0),
    CLI_SET(cli_device_table, FIELD(device)), CLI_SET(cli_message_table, FIELD(messages)),
};

const struct cli_command cli_perplexity = {
    .name = "perplexity",
    .summary = "measure how well a model predicts a text",
    .usage = "-m DIR (--file FILE | --tokens-file FILE | --prompt TEXT | --tokens 1,2,3)",
    .details =
        "Prints the number of tokens scored, their mean negative log-likelihood in nats, and the\n"
        "perplexity. Every token but the first is scored once, with all of its window before it.\n",
    .sets = sets,
    .n_sets = sizeof sets / sizeof sets[0],
    .options_size = sizeof(struct perplexity_options),
    .arguments_offset = FIELD(arguments),
    .max_arguments = 0,
    .run = run,
};
