/* rondo bench: prefill and decode at chosen depths and batch sizes, with yardsticks beside every sample. */
#include "cli/bench.h"
#include "cli/commands.h"
#include "cli/engine.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "cli/yardstick.h"
#include "formats/file.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAX_REPEAT 100
#define MAX_LABELS 256
#define PERIOD 512  /* tokens that --fill repeat computes; whole chunks */
#define WARM_UP 512 /* tokens: enough for every expert to be touched */

struct bench_options {
    struct cli_model_options model;
    struct cli_check_options check;
    struct cli_device_options device;
    struct cli_weight_options weights;
    struct cli_message_options messages;
    struct cli_integers prefill, depth, batch;
    int64_t decode, repeat, chunk;
    uint64_t seed;
    int fill, format;
    const char *output;
    bool profile, csv, json; /* csv, json: short for format */
    struct cli_texts arguments;
};

#define FIELD(name) offsetof(struct bench_options, name)

enum fill { FILL_PROMPT, FILL_REPEAT };
static const char *const fills[] = {"prompt", "repeat", NULL};
static const char *const formats[] = {"table", "csv", "json", NULL};

static const struct cli_option table[] = {
    {.name = "--prefill",
     .kind = CLI_INTEGERS,
     .offset = FIELD(prefill),
     .argument = "P1,P2",
     .group = "Tests",
     .help = "prompt lengths; 0: none",
     .fallback = "512",
     .high = 1 << 24},
    {.name = "--decode",
     .kind = CLI_INTEGER,
     .offset = FIELD(decode),
     .argument = "N",
     .group = "Tests",
     .help = "tokens decoded per session and sample; 0: none",
     .fallback = "32",
     .high = 1 << 20},
    {.name = "--depth",
     .kind = CLI_INTEGERS,
     .offset = FIELD(depth),
     .argument = "D1,D2",
     .group = "Tests",
     .help = "tokens in the caches before each test",
     .fallback = "0",
     .high = 1 << 24},
    {.name = "--fill",
     .kind = CLI_CHOICE,
     .offset = FIELD(fill),
     .argument = "HOW",
     .group = "Tests",
     .help =
         "how caches get their depth: by computing a prompt, which is timed, or by computing 512 "
         "tokens and repeating their keys and values",
     .fallback = "prompt",
     .choices = fills},
    {.name = "--batch",
     .kind = CLI_INTEGERS,
     .offset = FIELD(batch),
     .argument = "B1,B2",
     .group = "Tests",
     .help = "sessions decoded together",
     .fallback = "1",
     .low = 1,
     .high = 1024},
    {.name = "--repeat",
     .kind = CLI_INTEGER,
     .offset = FIELD(repeat),
     .argument = "R",
     .group = "Tests",
     .help = "samples of each test; medians are reported",
     .fallback = "3",
     .low = 1,
     .high = MAX_REPEAT},
    {.name = "--chunk",
     .kind = CLI_INTEGER,
     .offset = FIELD(chunk),
     .argument = "N",
     .group = "Tests",
     .help = "tokens per call in prefill",
     .fallback = "512",
     .low = 1,
     .high = 65536},
    {.name = "--seed",
     .kind = CLI_SEED,
     .offset = FIELD(seed),
     .argument = "N",
     .group = "Tests",
     .help = "of the random token ids",
     .fallback = "0"},
    {.name = "--format",
     .kind = CLI_CHOICE,
     .offset = FIELD(format),
     .argument = "FORMAT",
     .group = "Output",
     .help = "of the results",
     .fallback = "table",
     .choices = formats},
    {.name = "--json",
     .kind = CLI_FLAG,
     .offset = FIELD(json),
     .group = "Output",
     .help = "the same as --format json"},
    {.name = "--csv",
     .kind = CLI_FLAG,
     .offset = FIELD(csv),
     .group = "Output",
     .help = "the same as --format csv"},
    {.name = "--output",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = FIELD(output),
     .argument = "FILE",
     .group = "Output",
     .help = "write the results to a file ('-': standard output)",
     .fallback_help = "standard output"},
    {.name = "--profile",
     .kind = CLI_FLAG,
     .offset = FIELD(profile),
     .group = "Output",
     .help = "also the time per kind of step, from one more sample of each test"},
};

struct bench {
    const struct bench_options *options;
    struct cli_engine engine;
    struct rondo_session **sessions; /* [n_sessions] */
    struct rondo_run_item *items;    /* [n_sessions] */
    int32_t *tokens;                 /* [max(chunk, n_sessions)] */
    int32_t *best;                   /* [n_sessions] */
    size_t n_sessions;
    int64_t max_depth, max_prefill;
    int threads;
    uint64_t random;
    uint64_t model_bytes; /* of all tensors */
    struct cli_bench_row *rows;
    size_t n_rows;
};

/* ---- small things ------------------------------------------------------------------------------- */

/* splitmix64 */
static uint64_t next_random(struct bench *b)
{
    uint64_t z = (b->random += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void random_tokens(struct bench *b, size_t n)
{
    uint64_t vocab_size = (uint64_t)rondo_model_config(b->engine.model)->vocab_size;
    for (size_t i = 0; i < n; i++)
        b->tokens[i] = (int32_t)(next_random(b) % vocab_size);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(const double *values, size_t n)
{
    double sorted[MAX_REPEAT];
    memcpy(sorted, values, n * sizeof *values);
    qsort(sorted, n, sizeof *sorted, compare_doubles);
    return n % 2 ? sorted[n / 2] : (sorted[n / 2 - 1] + sorted[n / 2]) / 2;
}

static int compare_integers(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static int64_t largest(const struct cli_integers *list)
{
    int64_t value = 0;
    for (size_t i = 0; i < list->n; i++)
        value = list->items[i] > value ? list->items[i] : value;
    return value;
}

static struct cli_bench_row *add_row(struct bench *b, const char *test, int64_t tokens,
                                     int64_t depth, int64_t batch, struct rondo_error *error)
{
    struct cli_bench_row *grown = realloc(b->rows, (b->n_rows + 1) * sizeof *grown);
    if (!grown) {
        rondo_fail(error, RONDO_FAILED, "out of memory");
        return NULL;
    }
    b->rows = grown;
    grown[b->n_rows] =
        (struct cli_bench_row){.test = test, .tokens = tokens, .depth = depth, .batch = batch};
    return &grown[b->n_rows++];
}

/* ---- running ------------------------------------------------------------------------------------- */

/* Appends n random tokens to session s, in calls of --chunk, and takes the best of the last's logits. */
static int feed(struct bench *b, size_t s, int64_t n, struct rondo_error *error)
{
    int result = cli_check_interrupt(error);
    for (int64_t done = 0; done < n && !result;) {
        int64_t piece = n - done > b->options->chunk ? b->options->chunk : n - done;
        bool last = done + piece == n;
        random_tokens(b, (size_t)piece);
        struct rondo_run_item item = {
            .session = b->sessions[s],
            .tokens = b->tokens,
            .n = (size_t)piece,
            .logits = last ? RONDO_LOGITS_LAST : RONDO_LOGITS_NONE,
            .best = last ? b->best : NULL,
        };
        result = rondo_context_run(b->engine.context, &item, 1, error);
        done += piece;
        if (!result)
            result = cli_check_interrupt(error);
        cli_progress(NULL, "filling caches", (uint64_t)done, (uint64_t)n);
    }
    cli_progress_clear();
    return result;
}

/* Brings session s to exactly `depth` tokens. */
static int reach(struct bench *b, size_t s, int64_t depth, struct rondo_error *error)
{
    size_t length = rondo_session_truncate(b->sessions[s], (size_t)depth);
    return feed(b, s, depth - (int64_t)length, error);
}

/* Decodes n tokens in each of the first `batch` sessions. */
static int decode(struct bench *b, size_t batch, int64_t n, struct rondo_error *error)
{
    int result = RONDO_OK;
    for (int64_t step = 0; step < n && !result; step++) {
        random_tokens(b, batch);
        for (size_t s = 0; s < batch; s++)
            b->items[s] = (struct rondo_run_item){
                .session = b->sessions[s],
                .tokens = &b->tokens[s],
                .n = 1,
                .logits = RONDO_LOGITS_LAST,
                .best = &b->best[s],
            };
        result = rondo_context_run(b->engine.context, b->items, batch, error);
        if (!result)
            result = cli_check_interrupt(error);
    }
    return result;
}

/* Bytes that decoding n tokens at `depth` must touch: weights and states once, KV pages per session. */
static double decode_bytes(const struct bench *b, int64_t depth, int64_t n, int64_t batch)
{
    double bytes = 0, base = (double)rondo_context_decode_bytes(b->engine.context, 0);
    for (int64_t i = 0; i < n; i++) {
        double all = (double)rondo_context_decode_bytes(b->engine.context, depth + i);
        bytes += all + (double)(batch - 1) * (all - base);
    }
    return bytes;
}

static int compare_times(const void *a, const void *b)
{
    double x = ((const struct rondo_step_time *)a)->seconds;
    double y = ((const struct rondo_step_time *)b)->seconds;
    return (x < y) - (x > y);
}

/* Keeps the times of the steps since the last reset in the row, longest first. */
static void keep_times(struct bench *b, struct cli_bench_row *row)
{
    row->times = calloc(MAX_LABELS, sizeof *row->times);
    if (row->times) {
        row->n_times = rondo_context_times(b->engine.context, row->times, MAX_LABELS);
        qsort(row->times, row->n_times, sizeof *row->times, compare_times);
    }
    rondo_context_timing(b->engine.context, false);
}

/* ---- tests --------------------------------------------------------------------------------------- */

static int bench_prefill(struct bench *b, int64_t depth, int64_t n, struct rondo_error *error)
{
    double seconds[MAX_REPEAT], bandwidth[MAX_REPEAT], sgemm[MAX_REPEAT], share[MAX_REPEAT];
    size_t repeat = (size_t)b->options->repeat;
    double macs = (double)rondo_context_active_macs(b->engine.context);
    double flop = 2 * macs * (double)n;
    double bytes =
        (double)b->model_bytes * (double)((n + b->options->chunk - 1) / b->options->chunk);
    double byte_share[MAX_REPEAT];
    int result = RONDO_OK;
    for (size_t i = 0; i < repeat && !result; i++) {
        if ((result = reach(b, 0, depth, error)))
            break;
        bandwidth[i] = cli_yardstick_read_bandwidth(b->engine.device);
        sgemm[i] = cli_yardstick_sgemm(b->engine.device, b->threads);
        double start = cli_time();
        result = feed(b, 0, n, error);
        seconds[i] = cli_time() - start;
        share[i] = sgemm[i] > 0 ? flop / seconds[i] / sgemm[i] : 0;
        byte_share[i] = bandwidth[i] > 0 ? bytes / seconds[i] / bandwidth[i] : 0;
    }
    struct cli_bench_row *row = result ? NULL : add_row(b, "prefill", n, depth, 1, error);
    if (!row)
        return result ? result : RONDO_FAILED;
    row->seconds = median(seconds, repeat);
    row->tok_s = (double)n / row->seconds;
    row->gb_s = 1e-9 * bytes / row->seconds;
    row->bandwidth_gb_s = 1e-9 * median(bandwidth, repeat);
    row->bandwidth_share = median(byte_share, repeat);
    row->gflops = 1e-9 * flop / row->seconds;
    row->sgemm_gflops = 1e-9 * median(sgemm, repeat);
    row->sgemm_share = median(share, repeat);
    if (!b->options->profile)
        return RONDO_OK;
    result = reach(b, 0, depth, error);
    rondo_context_timing(b->engine.context, true);
    if (!result)
        result = feed(b, 0, n, error);
    keep_times(b, row);
    return result;
}

static int reach_all(struct bench *b, size_t batch, int64_t depth, struct rondo_error *error)
{
    int result = RONDO_OK;
    for (size_t s = 0; s < batch && !result; s++)
        result = reach(b, s, depth, error);
    return result;
}

/* Seconds per token at depth 0 in the same batch; 0 when that was not measured. */
static double seconds_at_zero(const struct bench *b, int64_t batch)
{
    for (size_t i = 0; i < b->n_rows; i++)
        if (!strcmp(b->rows[i].test, "decode") && !b->rows[i].depth && b->rows[i].batch == batch)
            return b->rows[i].seconds / (double)b->rows[i].tokens;
    return 0;
}

static int bench_decode(struct bench *b, int64_t depth, int64_t batch, struct rondo_error *error)
{
    double seconds[MAX_REPEAT], bandwidth[MAX_REPEAT], share[MAX_REPEAT];
    size_t repeat = (size_t)b->options->repeat;
    int64_t n = b->options->decode;
    double bytes = decode_bytes(b, depth, n, batch);
    struct rondo_device_counts before = {0}, after = {0};
    int result = RONDO_OK;
    for (size_t i = 0; i < repeat && !result; i++) {
        if ((result = reach_all(b, (size_t)batch, depth, error)))
            break;
        bandwidth[i] = cli_yardstick_read_bandwidth(b->engine.device);
        rondo_device_count(b->engine.device, &before);
        double start = cli_time();
        result = decode(b, (size_t)batch, n, error);
        seconds[i] = cli_time() - start;
        rondo_device_count(b->engine.device, &after);
        share[i] = bandwidth[i] > 0 ? bytes / seconds[i] / bandwidth[i] : 0;
    }
    struct cli_bench_row *row = result ? NULL : add_row(b, "decode", n, depth, batch, error);
    if (!row)
        return result ? result : RONDO_FAILED;
    row->seconds = median(seconds, repeat);
    row->tok_s = (double)(n * batch) / row->seconds;
    row->gb_s = 1e-9 * bytes / row->seconds;
    row->bandwidth_gb_s = 1e-9 * median(bandwidth, repeat);
    row->bandwidth_share = median(share, repeat);
    row->kernels = (double)(after.kernels - before.kernels) / (double)n;
    row->driver_calls = (double)(after.submissions - before.submissions) / (double)n;
    double at_zero = seconds_at_zero(b, batch);
    row->time_ratio = at_zero > 0 ? row->seconds / (double)n / at_zero : 0;
    if (!b->options->profile)
        return RONDO_OK;
    result = reach_all(b, (size_t)batch, depth, error);
    rondo_context_timing(b->engine.context, true);
    if (!result)
        result = decode(b, (size_t)batch, n, error);
    keep_times(b, row);
    return result;
}

/* Brings session s to `depth` by repetition, where that is far. */
static int repeat_to(struct bench *b, size_t s, int64_t depth, struct rondo_error *error)
{
    int64_t length = (int64_t)rondo_session_truncate(b->sessions[s], (size_t)depth);
    if (depth - length <= PERIOD)
        return reach(b, s, depth, error);
    rondo_session_truncate(b->sessions[s], 0);
    int result = feed(b, s, PERIOD, error);
    return result ? result : rondo_session_repeat(b->sessions[s], (size_t)depth, error);
}

/* Brings all sessions to `depth` and keeps a snapshot to come back to. The first one's way is timed. */
static int fill(struct bench *b, int64_t depth, struct rondo_error *error)
{
    int result = RONDO_OK;
    if (b->options->fill == FILL_REPEAT) {
        for (size_t s = 0; s < b->n_sessions && !result; s++)
            result = repeat_to(b, s, depth, error);
        for (size_t s = 0; s < b->n_sessions && !result; s++)
            rondo_session_snapshot(b->sessions[s]);
        return result;
    }
    int64_t from = (int64_t)rondo_session_truncate(b->sessions[0], (size_t)depth);
    int64_t n = depth - from, calls = (n + b->options->chunk - 1) / b->options->chunk;
    double bandwidth = n ? cli_yardstick_read_bandwidth(b->engine.device) : 0;
    double start = cli_time();
    result = feed(b, 0, n, error);
    double seconds = cli_time() - start;
    if (!result && n) {
        struct cli_bench_row *row = add_row(b, "fill", n, from, 1, error);
        if (!row)
            return RONDO_FAILED;
        row->seconds = seconds;
        row->tok_s = (double)n / seconds;
        row->gb_s = 1e-9 * (double)b->model_bytes * (double)calls / seconds;
        row->bandwidth_gb_s = 1e-9 * bandwidth;
        row->bandwidth_share = bandwidth > 0 ? 1e9 * row->gb_s / bandwidth : 0;
        row->gflops = 2e-9 * (double)rondo_context_active_macs(b->engine.context) * row->tok_s;
    }
    for (size_t s = 1; s < b->n_sessions && !result; s++)
        result = reach(b, s, depth, error);
    for (size_t s = 0; s < b->n_sessions && !result; s++)
        rondo_session_snapshot(b->sessions[s]);
    return result;
}

static int warm_up(struct bench *b, struct rondo_error *error)
{
    int64_t room = rondo_context_settings(b->engine.context)->max_context - 1;
    cli_yardstick_touch(b->engine.device, b->engine.model); /* ends when interrupted */
    int result = feed(b, 0, room > WARM_UP ? WARM_UP : room, error);
    if (!result)
        result = decode(b, 1, 1, error);
    rondo_session_truncate(b->sessions[0], 0);
    return result;
}

static int bench_all(struct bench *b, struct rondo_error *error)
{
    const struct bench_options *options = b->options;
    qsort(options->depth.items, options->depth.n, sizeof *options->depth.items, compare_integers);
    int result = warm_up(b, error);
    for (size_t d = 0; d < options->depth.n && !result; d++) {
        int64_t depth = options->depth.items[d];
        result = fill(b, depth, error);
        for (size_t i = 0; i < options->prefill.n && !result; i++)
            if (options->prefill.items[i])
                result = bench_prefill(b, depth, options->prefill.items[i], error);
        for (size_t i = 0; i < options->batch.n && !result && options->decode; i++)
            result = bench_decode(b, depth, options->batch.items[i], error);
    }
    return result;
}

/* ---- the command --------------------------------------------------------------------------------- */

static int start(struct bench *b, struct rondo_error *error)
{
    const struct bench_options *options = b->options;
    const struct rondo_config *config = rondo_model_config(b->engine.model);
    int64_t longest = largest(&options->prefill);
    longest = longest > options->decode ? longest : options->decode;
    int64_t room = largest(&options->depth) + (longest > 2 ? longest : 2);
    b->n_sessions = options->decode ? (size_t)largest(&options->batch) : 1;
    int result = cli_check_length("--depth with the longest test", (size_t)room,
                                  config->max_position_embeddings, CLI_HINT_LIMIT, error);
    if (result)
        return result;
    struct rondo_context_options settings = {
        .mode = (enum rondo_mode)options->device.mode,
        .kv = (enum rondo_kv)options->device.kv,
        .max_context = (int32_t)room,
        .max_sessions = (int32_t)b->n_sessions,
        .max_batch_tokens =
            (int32_t)(options->chunk > (int64_t)b->n_sessions ? options->chunk
                                                              : (int64_t)b->n_sessions),
        .snapshots = 1,
        .unchecked = options->check.unchecked,
    };
    if ((result = cli_engine_start(&b->engine, &settings, error)) ||
        (result = cli_engine_weights(&b->engine, &options->weights, error)))
        return result;
    size_t n_tokens = (size_t)settings.max_batch_tokens;
    b->sessions = calloc(b->n_sessions, sizeof *b->sessions);
    b->items = calloc(b->n_sessions, sizeof *b->items);
    b->tokens = calloc(n_tokens, sizeof *b->tokens);
    b->best = calloc(b->n_sessions, sizeof *b->best);
    if (!b->sessions || !b->items || !b->tokens || !b->best)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    for (size_t s = 0; s < b->n_sessions; s++)
        if (!(b->sessions[s] = rondo_session_create(b->engine.context, error)))
            return error->status;
    for (size_t i = 0; i < rondo_model_tensor_count(b->engine.model); i++) {
        struct rondo_tensor_info info;
        rondo_model_tensor(b->engine.model, i, &info);
        b->model_bytes += info.size;
    }
    b->threads = cli_yardstick_threads(b->engine.device);
    b->random = options->seed;
    return RONDO_OK;
}

static int print_results(const struct bench *b, struct rondo_error *error)
{
    const struct bench_options *options = b->options;
    struct cli_bench_head head = {
        .model = rondo_model_directory(b->engine.model),
        .device = rondo_device_description(b->engine.device),
        .mode = cli_mode_label(options->device.mode, options->device.kv),
        .threads = b->threads,
        .repeat = (int)options->repeat,
        .bytes_per_token = rondo_context_decode_bytes(b->engine.context, 0),
        .macs_per_token = rondo_context_active_macs(b->engine.context),
    };
    int format = options->json ? 2 : options->csv ? 1 : options->format;
    static void (*const print[])(FILE *, const struct cli_bench_head *,
                                 const struct cli_bench_row *, size_t) = {
        cli_bench_print_table, cli_bench_print_csv, cli_bench_print_json};
    if (!options->output || cli_is_stdout(options->output)) {
        print[format](stdout, &head, b->rows, b->n_rows);
        return RONDO_OK;
    }
    char *text = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&text, &length);
    if (!memory)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    print[format](memory, &head, b->rows, b->n_rows);
    int result = fclose(memory) ? rondo_fail(error, RONDO_FAILED, "out of memory")
                                : rondo_file_write(options->output, text, length, error);
    free(text);
    return result;
}

static void release(struct bench *b)
{
    for (size_t s = 0; b->sessions && s < b->n_sessions; s++)
        rondo_session_destroy(b->sessions[s]);
    for (size_t i = 0; i < b->n_rows; i++)
        free(b->rows[i].times);
    free(b->rows);
    free(b->sessions);
    free(b->items);
    free(b->tokens);
    free(b->best);
    cli_engine_close(&b->engine);
}

static int run(void *user)
{
    struct bench b = {.options = user};
    struct rondo_error error = {0};
    cli_messages(&b.options->messages);
    cli_interrupt_catch();
    const char *output = b.options->output;
    int result =
        output && !cli_is_stdout(output) ? rondo_file_check_writable(output, &error) : RONDO_OK;
    if (!result)
        result = cli_engine_open(&b.engine, &b.options->model, &b.options->device, &error);
    if (!result)
        result = start(&b, &error);
    if (!result)
        result = bench_all(&b, &error);
    /* What is finished is worth having, whatever came then. */
    struct rondo_error trouble = {0};
    int printed = !result || b.n_rows ? print_results(&b, &trouble) : RONDO_OK;
    if (printed)
        cli_report(&trouble);
    if (result)
        cli_report(&error);
    release(&b);
    return result ? result : printed;
}

static const struct cli_option_set sets[] = {
    CLI_SET(cli_model_table, FIELD(model)),
    CLI_SET(cli_check_table, FIELD(check)),
    CLI_SET(table, 0),
    CLI_SET(cli_device_table, FIELD(device)),
    CLI_SET(cli_weight_table, FIELD(weights)),
    CLI_SET(cli_message_table, FIELD(messages)),
};

const struct cli_command cli_bench = {
    .name = "bench",
    .summary = "measure prefill and decode, and the machine beside them",
    .usage = "-m DIR [options]",
    .details =
        "Token ids are random. 'rondo help benchmarks' says what the columns mean. Rows that "
        "are\n"
        "finished are printed too when a later test fails or is interrupted.\n"
        "\n"
        "  rondo bench -m DIR --prefill 512,2048 --depth 0,4096,32768\n"
        "  rondo bench -m DIR --prefill 0 --batch 1,4,16 --format json -o decode.json\n",
    .sets = sets,
    .n_sets = sizeof sets / sizeof sets[0],
    .options_size = sizeof(struct bench_options),
    .arguments_offset = FIELD(arguments),
    .max_arguments = 0,
    .run = run,
};
