/* rondo run: continue a prompt, or hold a conversation. */
#include "cli/chat.h"
#include "cli/commands.h"
#include "cli/engine.h"
#include "cli/generate.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "formats/file.h"
#include "formats/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct run_options {
    struct cli_model_options model;
    struct cli_check_options check;
    struct cli_device_options device;
    struct cli_weight_options weights;
    struct cli_message_options messages;
    const char *file, *system, *session;
    struct cli_integers tokens;
    struct cli_texts stops, arguments;
    double temperature, top_p, min_p, repetition_penalty;
    int64_t top_k, repetition_window, max_tokens, ctx, chunk;
    uint64_t seed;
    bool chat, interactive, thinking, special, ignore_eos, ids, logprobs, check_steps;
};

#define FIELD(name) offsetof(struct run_options, name)

static const struct cli_option table[] = {
    {.name = "--file",
     .letter = 'f',
     .kind = CLI_TEXT,
     .offset = FIELD(file),
     .argument = "FILE",
     .group = "Prompt",
     .help = "prompt from a file ('-': standard input)"},
    {.name = "--tokens",
     .kind = CLI_INTEGERS,
     .offset = FIELD(tokens),
     .argument = "1,2,3",
     .group = "Prompt",
     .high = INT32_MAX,
     .help = "prompt as token ids"},
    {.name = "--special",
     .kind = CLI_FLAG,
     .offset = FIELD(special),
     .group = "Prompt",
     .help = "recognise special tokens in the prompt, and print generated ones"},
    {.name = "--chat",
     .kind = CLI_FLAG,
     .offset = FIELD(chat),
     .group = "Chat",
     .help = "the prompt is a message: use the model's chat template; a conversation when standard "
             "input is a terminal and there is no prompt"},
    {.name = "--interactive",
     .letter = 'i',
     .kind = CLI_FLAG,
     .offset = FIELD(interactive),
     .group = "Chat",
     .help = "with --chat: read message after message from standard input; /help lists commands"},
    {.name = "--system",
     .kind = CLI_TEXT,
     .offset = FIELD(system),
     .argument = "TEXT",
     .group = "Chat",
     .help = "system message, with --chat"},
    {.name = "--think",
     .kind = CLI_FLAG,
     .offset = FIELD(thinking),
     .group = "Chat",
     .help = "let the model reason first, where the template leaves the choice",
     .fallback = "yes"},
    {.name = "--no-think",
     .kind = CLI_FLAG_OFF,
     .offset = FIELD(thinking),
     .group = "Chat",
     .help = "answer at once, where the template leaves the choice"},
    {.name = "--max-tokens",
     .letter = 'n',
     .kind = CLI_INTEGER,
     .offset = FIELD(max_tokens),
     .argument = "N",
     .group = "Generation",
     .help = "tokens to generate at most; 0 only reads the prompt, -1 goes on until the context is "
             "full",
     .fallback = "512",
     .low = -1,
     .high = INT32_MAX},
    {.name = "--stop",
     .kind = CLI_TEXTS,
     .offset = FIELD(stops),
     .argument = "TEXT",
     .group = "Generation",
     .help = "end where this text would begin; may be given several times"},
    {.name = "--ignore-eos",
     .kind = CLI_FLAG,
     .offset = FIELD(ignore_eos),
     .group = "Generation",
     .help = "go on after the model's end tokens"},
    {.name = "--ctx",
     .kind = CLI_INTEGER,
     .offset = FIELD(ctx),
     .argument = "N",
     .group = "Generation",
     .help = "tokens the context holds",
     .fallback = "0",
     .fallback_help = "what prompt and --max-tokens need, 8192 at least with --chat or --session, "
                      "within the model's limit",
     .low = 1,
     .high = INT32_MAX},
    {.name = "--chunk",
     .kind = CLI_INTEGER,
     .offset = FIELD(chunk),
     .argument = "N",
     .group = "Generation",
     .help = "tokens per call while the prompt is read; changes time and memory, never the result",
     .fallback = "512",
     .low = 1,
     .high = 65536},
    {.name = "--session",
     .kind = CLI_TEXT,
     .offset = FIELD(session),
     .argument = "FILE",
     .group = "Generation",
     .help =
         "load this session if the file is there, save it at the end; see 'rondo help sessions'"},
    {.name = "--temperature",
     .kind = CLI_REAL,
     .offset = FIELD(temperature),
     .argument = "T",
     .group = "Sampling",
     .help = "0 always takes the most probable token",
     .fallback = "0",
     .high = 100},
    {.name = "--top-k",
     .kind = CLI_INTEGER,
     .offset = FIELD(top_k),
     .argument = "K",
     .group = "Sampling",
     .help = "only the K most probable tokens; 0: all",
     .fallback = "0",
     .high = INT32_MAX},
    {.name = "--top-p",
     .kind = CLI_REAL,
     .offset = FIELD(top_p),
     .argument = "P",
     .group = "Sampling",
     .help = "only the most probable tokens that together reach P",
     .fallback = "1",
     .low = 1e-6, /* above 0 as a float */
     .high = 1},
    {.name = "--min-p",
     .kind = CLI_REAL,
     .offset = FIELD(min_p),
     .argument = "P",
     .group = "Sampling",
     .help = "only tokens at least P times as probable as the most probable one",
     .fallback = "0",
     .high = 1},
    {.name = "--repetition-penalty",
     .kind = CLI_REAL,
     .offset = FIELD(repetition_penalty),
     .argument = "R",
     .group = "Sampling",
     .help = "make tokens that occurred less probable; 1: off",
     .fallback = "1",
     .low = 0.01,
     .high = 100},
    {.name = "--repetition-window",
     .kind = CLI_INTEGER,
     .offset = FIELD(repetition_window),
     .argument = "N",
     .group = "Sampling",
     .help = "how many of the last tokens count as occurred; 0: all",
     .fallback = "0",
     .high = INT32_MAX},
    {.name = "--seed",
     .kind = CLI_SEED,
     .offset = FIELD(seed),
     .argument = "N",
     .group = "Sampling",
     .help = "seed of the draws",
     .fallback = "0"},
    {.name = "--ids",
     .kind = CLI_FLAG,
     .offset = FIELD(ids),
     .group = "Output",
     .help = "print the generated ids as a JSON array instead of text"},
    {.name = "--logprobs",
     .kind = CLI_FLAG,
     .offset = FIELD(logprobs),
     .group = "Output",
     .help = "print one JSON object per token instead of text: id, logprob, piece"},
    {.name = "--check-steps",
     .kind = CLI_FLAG,
     .offset = FIELD(check_steps),
     .group = "Output",
     .help = "look at the results of every step and fail at the first NaN or infinity, with its "
             "step, layer, "
             "row and column; slow"},
};

/* Everything one run works with. */
struct runner {
    const struct run_options *options;
    struct cli_engine engine;
    struct rondo_tokenizer *tokenizer;    /* NULL when no text is read or written */
    struct rondo_chat_template *template; /* with --chat */
    struct rondo_sampler *sampler;
    struct rondo_session *session;
    struct cli_generation generation;
    struct cli_chat chat;
    double begun; /* cli_time when the program began to open files */
    bool started; /* context and session are there, the session's file is loaded */
};

/* ---- setting up -------------------------------------------------------------------------------- */

static int check_options(const struct run_options *options)
{
    bool prompt = options->arguments.n || options->file;
    if (options->ids && options->logprobs)
        return cli_usage("run: got --ids and --logprobs, want one");
    if (options->tokens.n && prompt)
        return cli_usage("run: got a prompt and --tokens, want one");
    if (options->chat && (options->tokens.n || options->ids || options->logprobs))
        return cli_usage("run: --chat reads and writes text; drop --tokens, --ids and --logprobs");
    if (!options->chat && (options->interactive || options->system))
        return cli_usage("run: %s needs --chat", options->system ? "--system" : "--interactive");
    if (options->interactive && prompt)
        return cli_usage("run: got a prompt and --interactive, want one");
    if (cli_refuse_stdout("--session", options->session, "a file to load and save"))
        return RONDO_USAGE;
    for (size_t i = 0; i < options->stops.n; i++)
        if (!options->stops.items[i][0])
            return cli_usage("--stop: got an empty text");
    return RONDO_OK;
}

static bool is_conversation(const struct run_options *options)
{
    return options->chat && (options->interactive ||
                             (!options->arguments.n && !options->file && isatty(STDIN_FILENO)));
}

/* "FILE.json", malloc'ed: where the messages of a session file are kept. */
static char *messages_path(const char *session, struct rondo_error *error)
{
    char *path;
    if (asprintf(&path, "%s.json", session) < 0) {
        rondo_fail(error, RONDO_FAILED, "out of memory");
        return NULL;
    }
    return path;
}

static bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static int open_runner(struct runner *r, struct rondo_error *error)
{
    const struct run_options *options = r->options;
    int result = options->session ? rondo_file_check_writable(options->session, error) : RONDO_OK;
    if (!result)
        result = cli_engine_open(&r->engine, &options->model, &options->device, error);
    if (result)
        return result;
    bool text = !options->tokens.n || !options->ids || options->stops.n;
    if (text && !(r->tokenizer = rondo_tokenizer_open(options->model.directory, error)))
        return error->status;
    if (options->chat && !(r->template = rondo_chat_template_open(options->model.directory, error)))
        return error->status;
    struct rondo_sampler_options sampling = {
        .temperature = (float)options->temperature,
        .top_k = (int32_t)options->top_k,
        .top_p = (float)options->top_p,
        .min_p = (float)options->min_p,
        .repetition_penalty = (float)options->repetition_penalty,
        .repetition_window = (int32_t)options->repetition_window,
        .seed = options->seed,
    };
    r->sampler =
        rondo_sampler_create(rondo_model_config(r->engine.model)->vocab_size, &sampling, error);
    return r->sampler ? RONDO_OK : (int)error->status;
}

/* Makes the context and the session, given that the prompt has `n` tokens. */
static int start(struct runner *r, size_t n, struct rondo_error *error)
{
    const struct run_options *options = r->options;
    int64_t limit = rondo_model_config(r->engine.model)->max_position_embeddings;
    int64_t ctx = options->ctx;
    if (!ctx) {
        ctx = (int64_t)n + (options->max_tokens < 0 ? limit : options->max_tokens);
        if ((options->chat || options->session) && ctx < 8192)
            ctx = 8192;
        if (ctx > limit)
            ctx = limit;
    }
    int result = cli_check_length("prompt", n, ctx, "see --ctx", error);
    if (result)
        return result;
    struct rondo_context_options settings = {
        .mode = (enum rondo_mode)options->device.mode,
        .kv = (enum rondo_kv)options->device.kv,
        .max_context = (int32_t)ctx,
        .max_batch_tokens = (int32_t)options->chunk,
        .unchecked = options->check.unchecked,
    };
    result = cli_engine_start(&r->engine, &settings, error);
    if (!result)
        result = cli_engine_weights(&r->engine, &options->weights, error);
    if (!result && options->check_steps)
        result = rondo_context_check_steps(r->engine.context, true, error);
    if (result)
        return result;
    r->session = rondo_session_create(r->engine.context, error);
    if (!r->session)
        return error->status;
    r->generation = (struct cli_generation){
        .context = r->engine.context,
        .device = r->engine.device,
        .session = r->session,
        .sampler = r->sampler,
        .tokenizer = r->tokenizer,
        .stops = &options->stops,
        .output = options->ids        ? CLI_OUTPUT_IDS
                  : options->logprobs ? CLI_OUTPUT_LOGPROBS
                                      : CLI_OUTPUT_TEXT,
        .max_tokens = options->max_tokens,
        .chunk = (size_t)options->chunk,
        .ignore_end = options->ignore_eos,
        .special = options->special,
    };
    result = cli_generation_start(&r->generation, error);
    if (!result && options->session && is_there(options->session))
        result = rondo_session_load(r->session, options->session, error);
    r->started = !result;
    if (!result && !cli_terminal_is_quiet())
        fprintf(stderr, "opened in %.2f s\n", cli_time() - r->begun);
    return result;
}

static void close_runner(struct runner *r)
{
    cli_chat_clear(&r->chat);
    cli_generation_release(&r->generation);
    rondo_session_destroy(r->session);
    rondo_sampler_destroy(r->sampler);
    rondo_chat_template_close(r->template);
    rondo_tokenizer_close(r->tokenizer);
    cli_engine_close(&r->engine);
}

/* ---- a prompt ---------------------------------------------------------------------------------- */

/* The ids of the prompt; none when a session is there to be continued and no prompt was given. */
static int prompt_tokens(struct runner *r, int32_t **tokens, size_t *n, struct rondo_error *error)
{
    const struct run_options *options = r->options;
    *n = options->tokens.n;
    if (options->tokens.n)
        return (*tokens = cli_copy_tokens(&options->tokens, error)) ? RONDO_OK : RONDO_FAILED;
    bool loaded = options->session && is_there(options->session);
    if (loaded && !options->file && !options->arguments.n && isatty(STDIN_FILENO))
        return RONDO_OK;
    size_t length;
    char *text = cli_read_text(options->file, &options->arguments, &length, error);
    if (!text)
        return error->status;
    int64_t count =
        rondo_tokenizer_encode(r->tokenizer, text, length, options->special, tokens, error);
    free(text);
    if (count < 0)
        return error->status;
    *n = (size_t)count;
    if (!count && !loaded)
        return rondo_fail(error, RONDO_FAILED, "prompt: empty (got 0 tokens, want at least 1)");
    return RONDO_OK;
}

static int run_prompt(struct runner *r, struct rondo_error *error)
{
    struct cli_generation *g = &r->generation;
    int32_t *tokens = NULL;
    size_t n = 0;
    int result = prompt_tokens(r, &tokens, &n, error);
    if (!result)
        result = start(r, n, error);
    if (!result)
        result = cli_generation_append(g, rondo_session_tokens(r->session),
                                       rondo_session_length(r->session), error);
    if (!result)
        result = cli_generation_append(g, tokens, n, error);
    free(tokens);
    if (result)
        return result;
    result = cli_generate(g, error);
    if (g->output == CLI_OUTPUT_IDS && !result)
        cli_print_tokens(stdout, g->tokens + g->n_prompt, g->n_tokens - g->n_prompt);
    else if (g->output == CLI_OUTPUT_TEXT)
        putchar('\n');
    cli_flush_stdout();
    if (!result && r->options->session)
        result = cli_generation_settle(g, error);
    if (!result && r->options->session)
        result = rondo_session_save(r->session, r->options->session, error);
    cli_generation_print_statistics(g);
    return result;
}

/* ---- chat -------------------------------------------------------------------------------------- */

/* Messages are text: templates and the session's file of them hold nothing else. */
static int check_message(const char *what, const char *text, size_t length,
                         struct rondo_error *error)
{
    size_t valid = rondo_utf8_valid_length(text, length), end = strlen(text);
    if (end < length && end <= valid)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: a message can not have a byte 0 (got one at byte %zu of %zu)", what,
                          end, length);
    if (valid < length)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: not valid UTF-8 at byte %zu (got 0x%02x, want a text)", what, valid,
                          (unsigned char)text[valid]);
    return RONDO_OK;
}

/* Only the system message, if there is one. */
static int reset_chat(struct runner *r, struct rondo_error *error)
{
    const char *system = r->options->system;
    cli_chat_clear(&r->chat);
    if (!system)
        return RONDO_OK;
    int result = check_message("--system", system, strlen(system), error);
    return result ? result : cli_chat_add(&r->chat, "system", system, NULL, error);
}

/* The ids of the whole conversation up to the answer to come. *thinking: it opens a <think> block. */
static int render(struct runner *r, int32_t **tokens, size_t *n, bool *thinking,
                  struct rondo_error *error)
{
    static const char open[] = "<think>\n";
    struct rondo_chat_options options = {.thinking = r->options->thinking,
                                         .add_generation_prompt = true};
    char *text =
        rondo_chat_template_render(r->template, r->chat.messages, r->chat.n, &options, error);
    if (!text)
        return error->status;
    size_t length = strlen(text);
    *thinking = length >= sizeof open - 1 && !strcmp(text + length - (sizeof open - 1), open);
    int64_t count = rondo_tokenizer_encode(r->tokenizer, text, length, true, tokens, error);
    free(text);
    *n = count < 0 ? 0 : (size_t)count;
    return count < 0 ? (int)error->status : RONDO_OK;
}

/* Adds a message of `length` bytes and the model's answer to it. On failure the message is taken back. */
static int turn(struct runner *r, const char *message, size_t length, struct rondo_error *error)
{
    struct cli_generation *g = &r->generation;
    int32_t *tokens = NULL;
    size_t n = 0;
    bool thinking = false;
    int result = check_message("prompt", message, length, error);
    if (!result)
        result = cli_chat_add(&r->chat, "user", message, NULL, error);
    if (result)
        return result;
    result = render(r, &tokens, &n, &thinking, error);
    if (!result && !r->session)
        result = start(r, n, error);
    if (!result) {
        g->n_tokens = 0;
        result = cli_generation_append(g, tokens, n, error);
    }
    free(tokens);
    if (!result) {
        result = cli_generate(g, error);
        putchar('\n');
        cli_flush_stdout();
    }
    if (!result)
        result = cli_chat_add_answer(&r->chat, g->text, thinking, error);
    if (result)
        cli_chat_drop(&r->chat);
    else
        cli_generation_print_statistics(g);
    return result;
}

/* The conversation to FILE.json, the session's caches to FILE. */
static int save_chat(struct runner *r, const char *path, struct rondo_error *error)
{
    char *messages = messages_path(path, error);
    int result = messages ? cli_chat_save(&r->chat, messages, error) : RONDO_FAILED;
    if (!result && r->session)
        result = rondo_session_save(r->session, path, error);
    free(messages);
    return result;
}

/* The messages; the caches too, unless they are loaded when the session starts. */
static int load_chat(struct runner *r, const char *path, struct rondo_error *error)
{
    char *messages = messages_path(path, error);
    int result = messages ? cli_chat_load(&r->chat, messages, error) : RONDO_FAILED;
    if (!result && r->session && is_there(path))
        result = rondo_session_load(r->session, path, error);
    free(messages);
    return result;
}

static const char chat_help[] =
    "/help         this list\n"
    "/reset        forget the conversation\n"
    "/save FILE    save messages (FILE.json) and caches (FILE)\n"
    "/load FILE    go on with a saved conversation\n"
    "/exit         end; so does end of file\n"
    "A line that ends in \\ goes on in the next one. Ctrl-C ends an answer.\n";

/* A line that begins with '/'. *done is set by /exit. */
static void chat_command(struct runner *r, char *line, bool *done)
{
    static const char *const names[] = {"/help", "/reset", "/save", "/load", "/exit", NULL};
    struct rondo_error error = {0};
    char *argument = line + strcspn(line, " ");
    int result = RONDO_OK;
    while (*argument == ' ')
        *argument++ = 0;
    if (!strcmp(line, "/help")) {
        fputs(chat_help, stderr);
    } else if (!strcmp(line, "/exit")) {
        *done = true;
    } else if (!strcmp(line, "/reset")) {
        result = reset_chat(r, &error);
    } else if (!strcmp(line, "/save") || !strcmp(line, "/load")) {
        if (!*argument)
            result = rondo_fail(&error, RONDO_USAGE, "%s: needs a file: %s FILE", line, line);
        else if (!cli_refuse_stdout(line, argument, "a file to save to, or to load"))
            result = (line[1] == 's' ? save_chat : load_chat)(r, argument, &error);
    } else {
        const char *nearest = cli_nearest(line, names);
        result = rondo_fail(&error, RONDO_USAGE, "unknown command %s; %s%s", line,
                            nearest ? "did you mean " : "/help lists them", nearest ? nearest : "");
    }
    if (result)
        cli_report(&error);
}

/* One message of *length bytes: lines that end in a backslash go on. NULL at the end of the input. */
static char *read_message(size_t *length)
{
    char *message = NULL, *line = NULL;
    size_t capacity = 0;
    *length = 0;
    bool more = true, terminal = isatty(STDIN_FILENO) && isatty(STDERR_FILENO);
    while (more) {
        if (terminal)
            fputs(message ? ". " : "> ", stderr);
        ssize_t n = getline(&line, &capacity, stdin);
        if (n < 0)
            break;
        if (n && line[n - 1] == '\n')
            line[--n] = 0;
        more = n && line[n - 1] == '\\';
        if (more)
            line[n - 1] = '\n';
        char *grown = realloc(message, *length + (size_t)n + 1);
        if (!grown)
            break;
        message = grown;
        memcpy(message + *length, line, (size_t)n + 1);
        *length += (size_t)n;
    }
    free(line);
    return message;
}

static int converse(struct runner *r, struct rondo_error *error)
{
    bool done = false;
    while (!done) {
        cli_interrupt_catch();
        size_t length;
        char *message = read_message(&length);
        if (!message || cli_interrupted()) {
            free(message);
            break;
        }
        struct rondo_error trouble = {0};
        if (message[0] == '/')
            chat_command(r, message, &done);
        else if (message[0] && turn(r, message, length, &trouble)) {
            /* Nothing goes on, or is saved over the session's file, after a start that failed half-way. */
            if (r->engine.context && !r->started) {
                free(message);
                *error = trouble;
                return trouble.status;
            }
            if (!cli_stdout_failed())
                cli_report(&trouble);
        }
        free(message);
        if (cli_check_stdout(error))
            return error->status;
    }
    return RONDO_OK;
}

static int run_chat(struct runner *r, struct rondo_error *error)
{
    const char *session = r->options->session;
    char *messages = session ? messages_path(session, error) : NULL;
    int result = reset_chat(r, error);
    if (!result && messages && is_there(messages)) {
        result = load_chat(r, session, error);
        const struct rondo_chat_message *first = r->chat.messages;
        bool same = r->chat.n && !strcmp(first->role, "system") && r->options->system &&
                    !strcmp(first->content, r->options->system);
        if (!result && r->options->system && !same)
            rondo_log(RONDO_LOG_WARNING,
                      "%s: goes on with its own system message; --system is not used", messages);
    }
    free(messages);
    if (!result && is_conversation(r->options)) {
        result = converse(r, error);
    } else if (!result) {
        size_t length;
        char *text = cli_read_text(r->options->file, &r->options->arguments, &length, error);
        result = text ? turn(r, text, length, error) : (int)error->status;
        free(text);
    }
    if (!result && session)
        result = save_chat(r, session, error);
    return result;
}

/* ---- the command ------------------------------------------------------------------------------- */

static int run(void *user)
{
    struct runner r = {.options = user, .begun = cli_time()};
    struct rondo_error error = {0};
    int result = check_options(r.options);
    if (result)
        return result;
    cli_messages(&r.options->messages);
    cli_interrupt_catch();
    result = open_runner(&r, &error);
    if (!result)
        result = (r.options->chat ? run_chat : run_prompt)(&r, &error);
    if (result)
        cli_report(&error);
    close_runner(&r);
    return result;
}

static const struct cli_option_set sets[] = {
    CLI_SET(cli_model_table, FIELD(model)),
    CLI_SET(cli_check_table, FIELD(check)),
    CLI_SET(table, 0),
    CLI_SET(cli_device_table, FIELD(device)),
    CLI_SET(cli_weight_table, FIELD(weights)),
    CLI_SET(cli_message_table, FIELD(messages)),
};

const struct cli_command cli_run = {
    .name = "run",
    .summary = "continue a prompt, or chat",
    .usage = "-m DIR [options] [PROMPT]",
    .details =
        "The prompt comes from the argument, from --file, from --tokens, or from standard input.\n"
        "\n"
        "  rondo run -m DIR 'Once upon a time'\n"
        "  rondo run -m DIR --chat --temperature 0.6 'Why is the sky blue?'\n"
        "  rondo run -m DIR --chat                            a conversation, on a terminal\n"
        "  rondo run -m DIR --tokens 1,2,3 -n 8 --ids\n",
    .sets = sets,
    .n_sets = sizeof sets / sizeof sets[0],
    .options_size = sizeof(struct run_options),
    .arguments_offset = FIELD(arguments),
    .max_arguments = 1,
    .run = run,
};
