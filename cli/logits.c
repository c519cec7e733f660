/* rondo logits: the logits of every token of a prompt, or of every node of a draft tree, as a .npy file. */
#include "cli/commands.h"
#include "cli/engine.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "core/dtype.h"
#include "formats/file.h"
#include "formats/json.h"
#include "formats/npy.h"

#include <stdlib.h>
#include <unistd.h>

struct logits_options {
    struct cli_model_options model;
    struct cli_check_options check;
    struct cli_token_options tokens;
    struct cli_device_options device;
    struct cli_message_options messages;
    const char *output, *tree;
    int64_t chunk;
    struct cli_texts arguments;
};

#define FIELD(name) offsetof(struct logits_options, name)

static const struct cli_option table[] = {
    {.name = "--draft-tree",
     .kind = CLI_TEXT,
     .offset = FIELD(tree),
     .argument = "FILE",
     .group = "Input",
     .help =
         "JSON array of [token, parent]; parent -1: the last token of the input. Writes one row "
         "per node instead; see 'rondo help drafts'"},
    {.name = "--output",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = FIELD(output),
     .argument = "FILE.npy",
     .group = "Output",
     .help = "where to write: float32 [tokens, vocabulary]; '-': standard output"},
    {.name = "--chunk",
     .kind = CLI_INTEGER,
     .offset = FIELD(chunk),
     .argument = "N",
     .group = "Output",
     .help = "feed the input in calls of N tokens; changes time and memory, never the result",
     .fallback = "0",
     .fallback_help = "as many as 64 MiB of logits allow, 512 at most",
     .low = 1,
     .high = 1 << 20},
};

struct tree {
    int32_t *tokens, *parents; /* [n] */
    size_t n;
};

static void release_tree(struct tree *tree)
{
    free(tree->tokens);
    free(tree->parents);
}

/* A whole number within low..high. */
static bool get_number(const cJSON *value, double low, double high, int32_t *number)
{
    if (!cJSON_IsNumber(value) || value->valuedouble < low || value->valuedouble > high ||
        value->valuedouble != (double)(int32_t)value->valuedouble)
        return false;
    *number = (int32_t)value->valuedouble;
    return true;
}

static int parse_tree(const char *path, const cJSON *root, int32_t vocab_size, struct tree *tree,
                      struct rondo_error *error)
{
    size_t n = cJSON_IsArray(root) ? (size_t)cJSON_GetArraySize(root) : 0;
    if (!n)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: want an array of [token, parent] with at least one node", path);
    tree->tokens = malloc(n * sizeof *tree->tokens);
    tree->parents = malloc(n * sizeof *tree->parents);
    if (!tree->tokens || !tree->parents)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory", path);
    const cJSON *node = root->child;
    for (size_t i = 0; i < n; i++, node = node->next) {
        if (!cJSON_IsArray(node) || cJSON_GetArraySize(node) != 2)
            return rondo_fail(error, RONDO_FAILED, "%s: node %zu: want [token, parent]", path, i);
        if (!get_number(node->child, 0, vocab_size - 1, &tree->tokens[i]))
            return rondo_fail(error, RONDO_FAILED, "%s: node %zu: token (want 0..%d)", path, i,
                              vocab_size - 1);
        if (!get_number(node->child->next, -1, (double)i - 1, &tree->parents[i]))
            return rondo_fail(error, RONDO_FAILED,
                              "%s: node %zu: parent (want an earlier node or -1: -1..%d)", path, i,
                              (int)i - 1);
    }
    tree->n = n;
    return RONDO_OK;
}

static int read_tree(const char *path, int32_t vocab_size, struct tree *tree,
                     struct rondo_error *error)
{
    if (!path)
        return RONDO_OK;
    cJSON *root = rondo_json_read(path, RONDO_JSON_LIMIT, error);
    int result = root ? parse_tree(path, root, vocab_size, tree, error) : RONDO_FAILED;
    cJSON_Delete(root);
    return result;
}

struct rows {
    struct rondo_npy_writer *writer; /* NULL: they go to stdout */
    size_t vocab_size;
};

/* Begins n rows. */
static int open_rows(struct rows *rows, const char *path, size_t n, struct rondo_error *error)
{
    char header[RONDO_NPY_HEADER];
    if (!cli_is_stdout(path)) {
        rows->writer = rondo_npy_create(path, n, rows->vocab_size, error);
        return rows->writer ? RONDO_OK : (int)error->status;
    }
    int result = rondo_npy_header(header, "standard output", n, rows->vocab_size, error);
    return result ? result : cli_write_stdout(header, sizeof header, error);
}

static int write_rows(void *user, const float *logits, size_t first, size_t n,
                      struct rondo_error *error)
{
    const struct rows *rows = user;
    size_t count = n * rows->vocab_size;
    size_t found = rondo_find_not_finite(logits, RONDO_F32, count);
    if (found < count)
        return rondo_fail(error, RONDO_FAILED,
                          "model: row %zu of the logits has %g for token %zu; the weights may be "
                          "damaged, 'rondo info --check' looks for NaN",
                          first + found / rows->vocab_size, (double)logits[found],
                          found % rows->vocab_size);
    return rows->writer ? rondo_npy_append(rows->writer, logits, n, error)
                        : cli_write_stdout(logits, count * sizeof *logits, error);
}

/* The session holds the prompt: evaluates the tree on top of it. */
static int write_tree(struct rondo_session *session, const struct tree *tree, struct rows *rows,
                      struct rondo_error *error)
{
    size_t vocab_size = rows->vocab_size;
    if (tree->n > SIZE_MAX / sizeof(float) / vocab_size)
        return rondo_fail(error, RONDO_FAILED, "--draft-tree: too large (got %zu nodes)", tree->n);
    float *logits = malloc(tree->n * vocab_size * sizeof *logits);
    if (!logits)
        return rondo_fail(error, RONDO_FAILED, "--draft-tree: out of memory for %zu rows of logits",
                          tree->n);
    int result = rondo_session_draft(session, tree->tokens, tree->parents, tree->n, logits, error);
    if (!result)
        result = write_rows(rows, logits, 0, tree->n, error);
    free(logits);
    return result;
}

static int evaluate(const struct logits_options *options, struct cli_engine *engine,
                    const int32_t *tokens, size_t n, const struct tree *tree,
                    struct rondo_error *error)
{
    size_t vocab_size = (size_t)rondo_model_config(engine->model)->vocab_size;
    struct rondo_session *session = rondo_session_create(engine->context, error);
    if (!session)
        return error->status;
    struct rows rows = {.vocab_size = vocab_size};
    int result = open_rows(&rows, options->output, tree->n ? tree->n : n, error);
    if (!result)
        result = cli_feed_rows(engine->context, session, tokens, n, tree->n ? n : 0,
                               (size_t)options->chunk, write_rows, &rows, error);
    if (!result && tree->n && !(result = cli_check_interrupt(error)))
        result = write_tree(session, tree, &rows, error);
    if (!result && rows.writer)
        result = rondo_npy_finish(rows.writer, error);
    else
        rondo_npy_abort(rows.writer);
    rondo_session_destroy(session);
    return result;
}

static int start(const struct logits_options *options, struct cli_engine *engine, size_t n,
                 size_t n_nodes, struct rondo_error *error)
{
    int32_t limit = rondo_model_config(engine->model)->max_position_embeddings;
    int result = cli_check_length("input", n + n_nodes, limit, CLI_HINT_LIMIT, error);
    if (result)
        return result;
    struct rondo_context_options settings = {
        .mode = (enum rondo_mode)options->device.mode,
        .kv = (enum rondo_kv)options->device.kv,
        .max_context = (int32_t)(n + n_nodes),
        .max_batch_tokens = options->chunk > 512 ? (int32_t)options->chunk : 512,
        .max_draft = (int32_t)n_nodes,
        .snapshots = -1,
        .unchecked = options->check.unchecked,
    };
    if ((size_t)settings.max_batch_tokens > n + n_nodes)
        settings.max_batch_tokens = (int32_t)(n + n_nodes);
    return cli_engine_start(engine, &settings, error);
}

static int run(void *user)
{
    const struct logits_options *options = user;
    struct rondo_error error = {0};
    struct cli_engine engine;
    struct tree tree = {0};
    int32_t *tokens = NULL;
    size_t n = 0;
    if (!options->output)
        return cli_usage("logits: nowhere to write; give a file with -o FILE.npy");
    if (cli_is_stdout(options->output) && isatty(STDOUT_FILENO))
        return cli_usage("--output: got '-', and standard output is a terminal; give a file, or "
                         "lead the numbers elsewhere");
    cli_messages(&options->messages);
    cli_interrupt_catch();
    int result = cli_is_stdout(options->output)
                     ? RONDO_OK
                     : rondo_file_check_writable(options->output, &error);
    if (result)
        return cli_report(&error);
    result = cli_engine_open(&engine, &options->model, &options->device, &error);
    if (!result)
        result = cli_tokens_get(&options->tokens, engine.model, &tokens, &n, &error);
    if (!result)
        result =
            read_tree(options->tree, rondo_model_config(engine.model)->vocab_size, &tree, &error);
    if (!result)
        result = start(options, &engine, n, tree.n, &error);
    if (!result)
        result = evaluate(options, &engine, tokens, n, &tree, &error);
    release_tree(&tree);
    free(tokens);
    cli_engine_close(&engine);
    return result ? cli_report(&error) : RONDO_OK;
}

static const struct cli_option_set sets[] = {
    CLI_SET(cli_model_table, FIELD(model)),   CLI_SET(cli_check_table, FIELD(check)),
    CLI_SET(cli_token_table, FIELD(tokens)),  CLI_SET(table, 0),
    CLI_SET(cli_device_table, FIELD(device)), CLI_SET(cli_message_table, FIELD(messages)),
};

const struct cli_command cli_logits = {
    .name = "logits",
    .summary = "write the logits of every token to a .npy file",
    .usage =
        "-m DIR (--tokens 1,2,3 | --tokens-file FILE | --prompt TEXT | --file FILE) -o OUT.npy",
    .details =
        "The file is written atomically: it is whole, or not there. Of '-', standard output, "
        "the exit\n"
        "code says whether it is whole.\n"
        "\n"
        "  rondo logits -m DIR --tokens 1,2,3 -o out.npy\n"
        "  rondo logits -m DIR --tokens-file ids.json --draft-tree tree.json -o out.npy\n"
        "  rondo logits -m DIR --tokens 1,2,3 -o - | xz >out.npy.xz\n",
    .sets = sets,
    .n_sets = sizeof sets / sizeof sets[0],
    .options_size = sizeof(struct logits_options),
    .arguments_offset = FIELD(arguments),
    .max_arguments = 0,
    .run = run,
};
