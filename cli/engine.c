/* Model, device and context as commands open them, and feeding a session piece by piece. */
#include "cli/engine.h"
#include "cli/terminal.h"
#include "core/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- shared options --------------------------------------------------------------------------- */

#define MODEL(name) offsetof(struct cli_model_options, name)
#define DEVICE(name) offsetof(struct cli_device_options, name)
#define CHECK(name) offsetof(struct cli_check_options, name)
#define WEIGHT(name) offsetof(struct cli_weight_options, name)
#define MESSAGE(name) offsetof(struct cli_message_options, name)

const char *const cli_mode_names[] = {"f32", "bf16", "fp8", NULL};
const char *const cli_kv_names[] = {"auto", "fp8", NULL};

const char *cli_mode_label(int mode, int kv)
{
    static const char *const with_fp8[] = {"f32 kv-fp8", "bf16 kv-fp8", "fp8 kv-fp8"};
    return kv == RONDO_KV_FP8 ? with_fp8[mode] : cli_mode_names[mode];
}

const struct cli_option cli_model_table[CLI_MODEL_OPTIONS] = {
    {.name = "--model",
     .letter = 'm',
     .kind = CLI_TEXT,
     .offset = MODEL(directory),
     .argument = "DIR",
     .group = "Model",
     .help = "checkpoint directory, as published"},
    {.name = "--decay-offset",
     .kind = CLI_INTEGER,
     .offset = MODEL(decay_offset),
     .argument = "N",
     .group = "Model",
     .help =
         "layer offset of the decay of linear attention: its factor is 1 - (l - N)/(L - 1) + 1e-5",
     .fallback = "-1",
     .fallback_help = "as config.json says, else 0",
     .high = 1},
    {.name = "--yarn",
     .kind = CLI_REAL,
     .offset = MODEL(yarn),
     .argument = "FACTOR",
     .group = "Model",
     .help = "extend the context by this factor with YaRN",
     .fallback = "0",
     .fallback_help = "as config.json says",
     .low = 1,
     .high = 1024},
};

const struct cli_option cli_device_table[CLI_DEVICE_OPTIONS] = {
    {.name = "--device",
     .kind = CLI_TEXT,
     .offset = DEVICE(device),
     .argument = "NAME",
     .group = "Device",
     .help = "where to run; see 'rondo help devices'",
     .fallback = "cpu"},
    {.name = "--threads",
     .kind = CLI_INTEGER,
     .offset = DEVICE(threads),
     .argument = "N",
     .group = "Device",
     .help = "threads; 0: one per available core",
     .fallback = "0",
     .high = 1024},
    {.name = "--cpu-mask",
     .kind = CLI_TEXT,
     .offset = DEVICE(cpu_mask),
     .argument = "LEVEL",
     .group = "Device",
     .help = "highest instruction set used: ref, avx2, avx512, avx512bf16, neon",
     .fallback_help = "best there is"},
    {.name = "--mode",
     .kind = CLI_CHOICE,
     .offset = DEVICE(mode),
     .argument = "MODE",
     .group = "Device",
     .help = "numbers between operations",
     .fallback = "f32",
     .choices = cli_mode_names},
    {.name = "--kv-dtype",
     .kind = CLI_CHOICE,
     .offset = DEVICE(kv),
     .argument = "DTYPE",
     .group = "Device",
     .help = "keys and values of softmax attention: as the mode's numbers, or fp8, which halves "
             "what bf16 takes",
     .fallback = "auto",
     .choices = cli_kv_names},
    {.name = "--strict",
     .kind = CLI_FLAG,
     .offset = DEVICE(strict),
     .group = "Device",
     .help = "an operation that would fall back to another path is an error"},
};

const struct cli_option cli_check_table[CLI_CHECK_OPTIONS] = {
    {.name = "--unchecked",
     .kind = CLI_FLAG,
     .offset = CHECK(unchecked),
     .group = "Model",
     .help = "start at once: do not read all weights first to find those that are no numbers"},
};

const struct cli_option cli_weight_table[CLI_WEIGHT_OPTIONS] = {
    {.name = "--mlock",
     .kind = CLI_FLAG,
     .offset = WEIGHT(mlock),
     .group = "Device",
     .help = "read all weights before the start and keep them in memory, in huge pages where "
             "the system has them"},
};

const struct cli_option cli_message_table[CLI_MESSAGE_OPTIONS] = {
    {.name = "--quiet",
     .kind = CLI_FLAG,
     .offset = MESSAGE(quiet),
     .group = "Messages",
     .help = "errors only: no progress, no statistics"},
    {.name = "--verbose",
     .kind = CLI_FLAG,
     .offset = MESSAGE(verbose),
     .group = "Messages",
     .help = "say what is opened, chosen and allocated"},
};

/* ---- messages --------------------------------------------------------------------------------- */

static void print_log(void *user, enum rondo_log_level level, const char *line)
{
    const enum rondo_log_level *highest = user;
    if (level > *highest)
        return;
    cli_progress_clear();
    fprintf(stderr, "rondo: %s%s\n", level == RONDO_LOG_WARNING ? "warning: " : "", line);
}

void cli_messages(const struct cli_message_options *options)
{
    static enum rondo_log_level highest;
    highest = options->quiet     ? RONDO_LOG_ERROR
              : options->verbose ? RONDO_LOG_DEBUG
                                 : RONDO_LOG_WARNING;
    if (options->quiet)
        cli_terminal_quiet();
    rondo_log_set(print_log, &highest);
}

/* ---- opening ---------------------------------------------------------------------------------- */

struct rondo_model *cli_model_open(const struct cli_model_options *options,
                                   struct rondo_error *error)
{
    if (!options->directory) {
        rondo_fail(error, RONDO_USAGE, "no model; give its directory with -m DIR");
        return NULL;
    }
    if (options->yarn > 0 && options->yarn <= 1) {
        rondo_fail(error, RONDO_USAGE, "--yarn: got %g, want a factor above 1", options->yarn);
        return NULL;
    }
    struct rondo_model_options settings = {
        .decay_offset = (int)options->decay_offset,
        .yarn_factor = options->yarn,
        .progress = cli_progress,
    };
    struct rondo_model *model = rondo_model_open(options->directory, &settings, error);
    cli_progress_clear();
    return model;
}

struct rondo_device *cli_device_open(const struct cli_device_options *options,
                                     struct rondo_error *error)
{
    struct rondo_device_options settings = {
        .threads = (int)options->threads,
        .cpu_mask = options->cpu_mask,
        .strict = options->strict,
    };
    return rondo_device_open(options->device, &settings, error);
}

int cli_engine_open(struct cli_engine *engine, const struct cli_model_options *model,
                    const struct cli_device_options *device, struct rondo_error *error)
{
    memset(engine, 0, sizeof *engine);
    engine->model = cli_model_open(model, error);
    if (engine->model)
        engine->device = cli_device_open(device, error);
    if (engine->device)
        return RONDO_OK;
    cli_engine_close(engine);
    return error->status ? (int)error->status : RONDO_FAILED;
}

static void print_memory(const struct rondo_memory *memory)
{
    char total[24], weights[24], pages[24], states[24], activations[24];
    if (cli_terminal_is_quiet())
        return;
    fprintf(stderr, "memory: %s = weights %s + KV pages %s + linear states %s + activations %s\n",
            cli_format_size(memory->total, total), cli_format_size(memory->weights, weights),
            cli_format_size(memory->kv_pages, pages), cli_format_size(memory->states, states),
            cli_format_size(memory->activations, activations));
}

int cli_engine_start(struct cli_engine *engine, const struct rondo_context_options *options,
                     struct rondo_error *error)
{
    struct rondo_memory memory;
    int result = rondo_context_memory(engine->model, engine->device, options, &memory, error);
    if (result)
        return result;
    print_memory(&memory);
    struct rondo_context_options settings = *options;
    settings.progress = cli_progress;
    engine->context = rondo_context_create(engine->model, engine->device, &settings, error);
    cli_progress_clear();
    if (engine->context)
        return RONDO_OK;
    return error->status ? (int)error->status : RONDO_FAILED;
}

int cli_engine_weights(struct cli_engine *engine, const struct cli_weight_options *options,
                       struct rondo_error *error)
{
    struct rondo_device *device = engine->device;
    if (!options->mlock)
        return RONDO_OK;
    if (!device->uses_host_memory || !device->uses_host_memory(device))
        return rondo_fail(
            error, RONDO_USAGE,
            "--mlock: %s has a copy of the weights, which nothing pages out; leave it "
            "out",
            rondo_device_description(device));
    int result = rondo_model_lock(engine->model, cli_progress, NULL, error);
    cli_progress_clear();
    return result;
}

void cli_engine_close(struct cli_engine *engine)
{
    rondo_context_destroy(engine->context);
    rondo_device_close(engine->device);
    rondo_model_close(engine->model);
    memset(engine, 0, sizeof *engine);
}

int cli_check_length(const char *what, size_t n, int64_t max_context, const char *hint,
                     struct rondo_error *error)
{
    if (n <= (uint64_t)max_context)
        return RONDO_OK;
    return rondo_fail(error, RONDO_FAILED,
                      "%s: longer than the context (got %zu tokens, want at most %lld); %s", what,
                      n, (long long)max_context, hint);
}

/* ---- feeding ---------------------------------------------------------------------------------- */

/* Tokens [from, end) of an item; what it wants of the logits is wanted of its last token only. */
static struct rondo_run_item piece_of(const struct rondo_run_item *item, size_t from, size_t end)
{
    struct rondo_run_item piece = {.session = item->session};
    if (end == item->n)
        piece = *item;
    piece.tokens = item->tokens + from;
    piece.n = end - from;
    return piece;
}

int cli_feed(struct rondo_context *context, const struct rondo_run_item *item, size_t chunk,
             size_t *reused, struct rondo_error *error)
{
    /* The first piece ends past what the session shares with the tokens, or sync would drop caches. */
    const int32_t *held = rondo_session_tokens(item->session);
    size_t length = rondo_session_length(item->session), common = 0, n = item->n;
    while (common < length && common < n && held[common] == item->tokens[common])
        common++;
    size_t end = n - common > chunk ? common + chunk : n;
    struct rondo_sync_result sync;
    struct rondo_run_item piece = piece_of(item, 0, end);
    int result = rondo_session_sync_item(&piece, &sync, error);
    if (!result && reused)
        *reused = sync.reused;
    while (!result && end < n && !cli_interrupted()) {
        cli_progress(NULL, "reading the prompt", end, n);
        size_t from = end;
        end = n - from > chunk ? from + chunk : n;
        piece = piece_of(item, from, end);
        result = rondo_context_run(context, &piece, 1, error);
        if (!result)
            rondo_session_snapshot(item->session); /* the next prompt may depart before its end */
    }
    cli_progress_clear();
    return result;
}

int cli_feed_rows(struct rondo_context *context, struct rondo_session *session,
                  const int32_t *tokens, size_t n, size_t from, size_t chunk,
                  cli_rows_function *take, void *user, struct rondo_error *error)
{
    size_t row = (size_t)rondo_model_config(rondo_context_model(context))->vocab_size;
    size_t budget = ((size_t)64 << 20) / (row * sizeof(float));
    if (!chunk)
        chunk = budget < 1 ? 1 : budget > 512 ? 512 : budget;
    if (chunk > n)
        chunk = n;
    if (row > SIZE_MAX / sizeof(float) / (chunk + 1))
        return rondo_fail(error, RONDO_FAILED, "--chunk: too large (got %zu)", chunk);
    float *logits = malloc((chunk ? chunk : 1) * row * sizeof *logits);
    if (!logits)
        return rondo_fail(error, RONDO_FAILED,
                          "out of memory for %zu rows of %zu logits; lower --chunk", chunk, row);
    int result = RONDO_OK;
    for (size_t done = 0; done < n && !(result = cli_check_interrupt(error));) {
        size_t piece = n - done > chunk ? chunk : n - done;
        bool wanted = done + piece > from;
        struct rondo_run_item item = {
            .session = session,
            .tokens = tokens + done,
            .n = piece,
            .logits = wanted ? RONDO_LOGITS_ALL : RONDO_LOGITS_NONE,
            .out = wanted ? logits : NULL,
        };
        result = rondo_context_run(context, &item, 1, error);
        size_t skip = from > done ? from - done : 0;
        if (!result && wanted)
            result = take(user, logits + skip * row, done + skip, piece - skip, error);
        if (result)
            break;
        done += piece;
        cli_progress(NULL, "computing logits", done, n);
    }
    cli_progress_clear();
    free(logits);
    return result;
}
