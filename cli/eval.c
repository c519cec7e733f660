/* rondo eval: lets a model answer the problems of a suite, many at a time, and grades the answers. */
#include "cli/eval.h"
#include "cli/commands.h"
#include "cli/engine.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "formats/file.h"

#include <stdlib.h>
#include <string.h>

struct eval_options {
    struct cli_model_options model;
    struct cli_check_options check;
    struct cli_device_options device;
    struct cli_weight_options weights;
    struct cli_message_options messages;
    const char *suite, *task, *output;
    int64_t limit, max_tokens, batch, chunk;
    double at_least;
    int format;
    bool thinking, plain, details, wrong;
    struct cli_texts arguments;
};

#define FIELD(name) offsetof(struct eval_options, name)

static const char *const formats[] = {"table", "json", NULL};

static const struct cli_option table[] = {
    {.name = "--suite",
     .letter = 's',
     .kind = CLI_TEXT,
     .offset = FIELD(suite),
     .argument = "FILE",
     .group = "Problems",
     .help = "JSON Lines: task, prompt, answer, and optionally id, kind, max_tokens"},
    {.name = "--task",
     .kind = CLI_TEXT,
     .offset = FIELD(task),
     .argument = "NAME",
     .group = "Problems",
     .help = "only problems of this task or kind"},
    {.name = "--limit",
     .kind = CLI_INTEGER,
     .offset = FIELD(limit),
     .argument = "N",
     .group = "Problems",
     .help = "only the first N problems of each task; 0: all",
     .fallback = "0",
     .high = INT32_MAX},
    {.name = "--max-tokens",
     .letter = 'n',
     .kind = CLI_INTEGER,
     .offset = FIELD(max_tokens),
     .argument = "N",
     .group = "Generation",
     .help = "tokens to generate at most, for problems that do not say it themselves",
     .fallback = "512",
     .low = 1,
     .high = INT32_MAX},
    {.name = "--plain",
     .kind = CLI_FLAG,
     .offset = FIELD(plain),
     .group = "Generation",
     .help = "give the prompt as it is, without the chat template"},
    {.name = "--no-think",
     .kind = CLI_FLAG_OFF,
     .offset = FIELD(thinking),
     .group = "Generation",
     .help = "answer at once, where the template leaves the choice"},
    {.name = "--think",
     .kind = CLI_FLAG,
     .offset = FIELD(thinking),
     .group = "Generation",
     .help = "let the model reason first, where the template leaves the choice",
     .fallback = "yes"},
    {.name = "--batch",
     .kind = CLI_INTEGER,
     .offset = FIELD(batch),
     .argument = "N",
     .group = "Generation",
     .help = "problems worked on at a time; changes time and memory, never the result",
     .fallback = "16",
     .low = 1,
     .high = 4096},
    {.name = "--chunk",
     .kind = CLI_INTEGER,
     .offset = FIELD(chunk),
     .argument = "N",
     .group = "Generation",
     .help = "tokens per call; changes time and memory, never the result",
     .fallback = "512",
     .low = 1,
     .high = 65536},
    {.name = "--format",
     .kind = CLI_CHOICE,
     .offset = FIELD(format),
     .argument = "FORMAT",
     .group = "Output",
     .help = "of the report",
     .fallback = "table",
     .choices = formats},
    {.name = "--details",
     .kind = CLI_FLAG,
     .offset = FIELD(details),
     .group = "Output",
     .help = "with --format json: every problem's answer too"},
    {.name = "--wrong",
     .kind = CLI_FLAG,
     .offset = FIELD(wrong),
     .group = "Output",
     .help = "print problems that are answered wrong on stderr, as they come"},
    {.name = "--output",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = FIELD(output),
     .argument = "FILE",
     .group = "Output",
     .help = "write the report to a file ('-': standard output)",
     .fallback_help = "standard output"},
    {.name = "--at-least",
     .kind = CLI_REAL,
     .offset = FIELD(at_least),
     .argument = "PERCENT",
     .group = "Output",
     .help = "exit code 1 when a task's accuracy is below this",
     .fallback = "0",
     .high = 100},
};

/* One of the problems in work. */
struct lane {
    struct rondo_session *session;
    size_t problem;
    bool busy;
    size_t fed;   /* tokens of the problem that the session holds */
    int32_t best; /* the token after them */
};

struct evaluation {
    const struct eval_options *options;
    struct cli_engine engine;
    struct rondo_tokenizer *tokenizer;
    struct rondo_chat_template *template; /* NULL with --plain */
    struct cli_suite suite;
    struct cli_eval_result *results; /* [suite.n] */
    struct lane *lanes;              /* [n_lanes] */
    struct rondo_run_item *items;    /* [n_lanes] */
    size_t n_lanes, next, done, right;
    double seconds;
};

/* ---- setting up -------------------------------------------------------------------------------- */

static char *render(struct evaluation *e, const char *prompt, bool *thinking,
                    struct rondo_error *error)
{
    static const char open[] = "<think>";
    if (!e->template) {
        char *copy = strdup(prompt);
        *thinking = false;
        if (!copy)
            rondo_fail(error, RONDO_FAILED, "out of memory");
        return copy;
    }
    struct rondo_chat_message message = {.role = "user", .content = prompt};
    struct rondo_chat_options options = {.thinking = e->options->thinking,
                                         .add_generation_prompt = true};
    char *text = rondo_chat_template_render(e->template, &message, 1, &options, error);
    if (!text)
        return NULL;
    size_t length = strlen(text);
    while (length && (text[length - 1] == '\n' || text[length - 1] == ' '))
        length--;
    *thinking = length >= sizeof open - 1 &&
                !memcmp(text + length - (sizeof open - 1), open, sizeof open - 1);
    return text;
}

static int32_t max_tokens_of(const struct evaluation *e, size_t problem)
{
    int32_t own = e->suite.problems[problem].max_tokens;
    return own ? own : (int32_t)e->options->max_tokens;
}

/* Prompts as tokens, with room for the answers; *longest: tokens a session has to hold. */
static int encode(struct evaluation *e, int64_t *longest, struct rondo_error *error)
{
    const struct rondo_config *config = rondo_model_config(e->engine.model);
    e->results = calloc(e->suite.n, sizeof *e->results);
    if (!e->results)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    *longest = 0;
    for (size_t i = 0; i < e->suite.n; i++) {
        struct cli_eval_result *result = &e->results[i];
        char *text = render(e, e->suite.problems[i].prompt, &result->thinking, error);
        if (!text)
            return error->status;
        int64_t n = rondo_tokenizer_encode(e->tokenizer, text, strlen(text), e->template != NULL,
                                           &result->tokens, error);
        free(text);
        if (n < 0)
            return error->status;
        if (cli_tokens_check(e->suite.problems[i].id, result->tokens, (size_t)n, config->vocab_size,
                             error))
            return error->status;
        size_t capacity = (size_t)n + (size_t)max_tokens_of(e, i);
        *longest = (int64_t)capacity > *longest ? (int64_t)capacity : *longest;
        if ((int64_t)capacity > config->max_position_embeddings)
            return RONDO_OK; /* too long, which start says */
        int32_t *grown = realloc(result->tokens, capacity * sizeof *grown);
        if (!grown)
            return rondo_fail(error, RONDO_FAILED, "out of memory");
        result->tokens = grown;
        result->n_prompt = result->n_tokens = (size_t)n;
    }
    return RONDO_OK;
}

static int start(struct evaluation *e, int64_t longest, struct rondo_error *error)
{
    const struct rondo_config *config = rondo_model_config(e->engine.model);
    size_t n = (size_t)e->options->batch < e->suite.n ? (size_t)e->options->batch : e->suite.n;
    int result = cli_check_length("suite", (size_t)longest, config->max_position_embeddings,
                                  CLI_HINT_LIMIT, error);
    struct rondo_context_options settings = {
        .mode = (enum rondo_mode)e->options->device.mode,
        .kv = (enum rondo_kv)e->options->device.kv,
        .max_context = (int32_t)longest,
        .max_sessions = (int32_t)n,
        .max_batch_tokens = (int32_t)e->options->chunk,
        .snapshots = -1,
        .unchecked = e->options->check.unchecked,
    };
    if (!result)
        result = cli_engine_start(&e->engine, &settings, error);
    if (!result)
        result = cli_engine_weights(&e->engine, &e->options->weights, error);
    if (result)
        return result;
    e->lanes = calloc(n, sizeof *e->lanes);
    e->items = calloc(n, sizeof *e->items);
    if (!e->lanes || !e->items)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    for (e->n_lanes = 0; e->n_lanes < n; e->n_lanes++) {
        struct lane *lane = &e->lanes[e->n_lanes];
        if (!(lane->session = rondo_session_create(e->engine.context, error)))
            return error->status;
    }
    return RONDO_OK;
}

static int open_all(struct evaluation *e, struct rondo_error *error)
{
    const struct eval_options *options = e->options;
    int64_t longest = 0;
    int result = options->output && !cli_is_stdout(options->output)
                     ? rondo_file_check_writable(options->output, error)
                     : RONDO_OK;
    if (!result)
        result =
            cli_suite_read(&e->suite, options->suite, options->task, (size_t)options->limit, error);
    if (!result)
        result = cli_engine_open(&e->engine, &options->model, &options->device, error);
    if (result)
        return result;
    if (!(e->tokenizer = rondo_tokenizer_open(options->model.directory, error)))
        return error->status;
    if (!options->plain &&
        !(e->template = rondo_chat_template_open(options->model.directory, error)))
        return error->status;
    result = encode(e, &longest, error);
    return result ? result : start(e, longest, error);
}

static void close_all(struct evaluation *e)
{
    for (size_t i = 0; i < e->n_lanes; i++)
        rondo_session_destroy(e->lanes[i].session);
    for (size_t i = 0; e->results && i < e->suite.n; i++) {
        free(e->results[i].tokens);
        free(e->results[i].answer);
    }
    free(e->results);
    free(e->lanes);
    free(e->items);
    rondo_chat_template_close(e->template);
    rondo_tokenizer_close(e->tokenizer);
    cli_engine_close(&e->engine);
    cli_suite_release(&e->suite);
}

/* ---- answering --------------------------------------------------------------------------------- */

/* The generated text, end tokens left out; malloc'ed. */
static char *generated_text(const struct evaluation *e, const struct cli_eval_result *result)
{
    const struct rondo_config *config = rondo_model_config(e->engine.model);
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    if (!out)
        return NULL;
    for (size_t i = result->n_prompt; i < result->n_tokens; i++) {
        size_t length;
        const char *piece = rondo_tokenizer_piece(e->tokenizer, result->tokens[i], &length);
        bool end = false;
        for (int32_t k = 0; k < config->n_eos_token_ids; k++)
            end = end || config->eos_token_ids[k] == result->tokens[i];
        if (length && !end)
            fwrite(piece, 1, length, out);
    }
    return fclose(out) ? (free(text), NULL) : text;
}

static int grade(struct evaluation *e, size_t index, const char *reason, struct rondo_error *error)
{
    struct cli_eval_result *result = &e->results[index];
    const struct cli_problem *problem = &e->suite.problems[index];
    char *text = generated_text(e, result);
    char *answer = text ? cli_suite_answer(text, result->thinking) : NULL;
    result->answer = answer ? strdup(answer) : NULL;
    free(text);
    if (!result->answer)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    result->reason = reason;
    result->right = cli_suite_is_right(problem, result->answer);
    free(result->tokens);
    result->tokens = NULL;
    e->done++;
    e->right += result->right;
    if (e->options->wrong && !result->right) {
        cli_progress_clear();
        fprintf(stderr, "%s: want %s, got %s (%zu tokens, %s)\n", problem->id, problem->answer,
                result->answer, result->n_generated, reason);
    }
    return RONDO_OK;
}

/* Appends the next token of a lane, and grades when it is the last. */
static int step(struct evaluation *e, struct lane *lane, struct rondo_error *error)
{
    const struct rondo_config *config = rondo_model_config(e->engine.model);
    struct cli_eval_result *result = &e->results[lane->problem];
    int32_t id = lane->best;
    if (id < 0)
        return rondo_fail(error, RONDO_FAILED,
                          "model: no logit of problem %s is a number; the weights may be damaged, "
                          "'rondo info --check' looks for NaN",
                          e->suite.problems[lane->problem].id);
    result->tokens[result->n_tokens++] = id;
    result->n_generated++;
    const char *reason = NULL;
    for (int32_t k = 0; k < config->n_eos_token_ids; k++)
        if (config->eos_token_ids[k] == id)
            reason = "end token";
    if (!reason && result->n_generated == (size_t)max_tokens_of(e, lane->problem))
        reason = "max tokens";
    if (!reason)
        return RONDO_OK;
    lane->busy = false;
    return grade(e, lane->problem, reason, error);
}

/* Gives a lane the next problem, if there is one. */
static void refill(struct evaluation *e, struct lane *lane)
{
    if (lane->busy || e->next == e->suite.n)
        return;
    rondo_session_truncate(lane->session, 0);
    lane->problem = e->next++;
    lane->busy = true;
    lane->fed = 0;
}

/* One run of all busy lanes: what their sessions do not hold yet, and the token after it. */
static int advance(struct evaluation *e, size_t *n_busy, struct rondo_error *error)
{
    size_t n = 0;
    for (size_t i = 0; i < e->n_lanes; i++) {
        struct lane *lane = &e->lanes[i];
        refill(e, lane);
        if (!lane->busy)
            continue;
        const struct cli_eval_result *result = &e->results[lane->problem];
        e->items[n++] = (struct rondo_run_item){.session = lane->session,
                                                .tokens = result->tokens + lane->fed,
                                                .n = result->n_tokens - lane->fed,
                                                .logits = RONDO_LOGITS_LAST,
                                                .best = &lane->best};
        lane->fed = result->n_tokens;
    }
    *n_busy = n;
    int status = n ? rondo_context_run(e->engine.context, e->items, n, error) : RONDO_OK;
    for (size_t i = 0; i < e->n_lanes && !status; i++)
        if (e->lanes[i].busy)
            status = step(e, &e->lanes[i], error);
    return status;
}

static int answer_all(struct evaluation *e, struct rondo_error *error)
{
    double begun = cli_time();
    size_t n_busy = 1;
    int status = RONDO_OK;
    while (n_busy && !status && !cli_interrupted()) {
        char what[64];
        snprintf(what, sizeof what, "%zu right of %zu", e->right, e->done);
        cli_progress(NULL, what, e->done, e->suite.n);
        status = advance(e, &n_busy, error);
    }
    cli_progress_clear();
    e->seconds = cli_time() - begun;
    return status;
}

/* ---- the command ------------------------------------------------------------------------------- */

static void print(const struct evaluation *e, FILE *out, const struct cli_eval_report *report,
                  const struct cli_eval_row *rows, size_t n)
{
    if (e->options->format)
        cli_eval_print_json(out, report, rows, n, e->options->details);
    else
        cli_eval_print_table(out, report, rows, n);
}

static int write_report(const struct evaluation *e, const struct cli_eval_report *report,
                        const struct cli_eval_row *rows, size_t n, struct rondo_error *error)
{
    if (!e->options->output || cli_is_stdout(e->options->output)) {
        print(e, stdout, report, rows, n);
        return RONDO_OK;
    }
    char *text = NULL;
    size_t length = 0;
    FILE *memory = open_memstream(&text, &length);
    if (!memory)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    print(e, memory, report, rows, n);
    int status = fclose(memory) ? rondo_fail(error, RONDO_FAILED, "out of memory")
                                : rondo_file_write(e->options->output, text, length, error);
    free(text);
    return status;
}

static int finish(const struct evaluation *e, struct rondo_error *error)
{
    struct cli_eval_report report = {
        .model = rondo_model_directory(e->engine.model),
        .device = rondo_device_description(e->engine.device),
        .mode = cli_mode_label(e->options->device.mode, e->options->device.kv),
        .suite = &e->suite,
        .results = e->results,
        .seconds = e->seconds,
        .batch = (int)e->n_lanes,
        .interrupted = e->done < e->suite.n,
    };
    size_t n;
    struct cli_eval_row *rows = cli_eval_rows(&report, &n);
    int status = rows ? write_report(e, &report, rows, n, error)
                      : rondo_fail(error, RONDO_FAILED, "out of memory");
    if (!status && report.interrupted)
        status = rondo_fail(error, RONDO_FAILED, "interrupted: %zu of %zu problems are answered",
                            e->done, e->suite.n);
    for (size_t i = 0; i < n && !status; i++) {
        double accuracy =
            rows[i].problems ? 100.0 * (double)rows[i].right / (double)rows[i].problems : 100;
        if (accuracy < e->options->at_least)
            status = rondo_fail(error, RONDO_FAILED, "%s %s: accuracy %.1f %% (want at least %g)",
                                rows[i].task[0] ? rows[i].task : "all", rows[i].kind, accuracy,
                                e->options->at_least);
    }
    free(rows);
    return status;
}

static int run(void *user)
{
    struct evaluation e = {.options = user};
    struct rondo_error error = {0};
    if (!e.options->suite)
        return cli_usage("eval: no suite; give one with --suite FILE");
    if (e.options->details && !e.options->format)
        return cli_usage("--details: needs --format json");
    cli_messages(&e.options->messages);
    cli_interrupt_catch();
    int status = open_all(&e, &error);
    if (!status)
        status = answer_all(&e, &error);
    if (!status)
        status = finish(&e, &error);
    if (status)
        status = cli_report(&error);
    close_all(&e);
    return status;
}

static const struct cli_option_set sets[] = {
    CLI_SET(cli_model_table, FIELD(model)),
    CLI_SET(cli_check_table, FIELD(check)),
    CLI_SET(table, 0),
    CLI_SET(cli_device_table, FIELD(device)),
    CLI_SET(cli_weight_table, FIELD(weights)),
    CLI_SET(cli_message_table, FIELD(messages)),
};

const struct cli_command cli_eval = {
    .name = "eval",
    .summary = "let a model answer a suite of problems, and grade it",
    .usage = "-m DIR --suite FILE [options]",
    .details = "Each problem's prompt goes through the model's chat template and is answered "
               "greedily. The\n"
               "answer is what follows the last </think>, without blanks at its ends; it is right "
               "when it\n"
               "equals the suite's, byte for byte. A line of a suite:\n"
               "\n"
               "  {\"id\": \"add-1\", \"task\": \"arithmetic\", \"kind\": \"add\", \"prompt\": "
               "\"What is 2 + 3?\",\n"
               "   \"answer\": \"5\", \"max_tokens\": 64}\n"
               "\n"
               "(on one line). Accuracies are printed by task and kind.\n",
    .sets = sets,
    .n_sets = sizeof sets / sizeof sets[0],
    .options_size = sizeof(struct eval_options),
    .arguments_offset = FIELD(arguments),
    .max_arguments = 0,
    .run = run,
};
