/* rondo tokenize: text to ids, and back. */
#include "cli/commands.h"
#include "cli/input.h"

#include <stdlib.h>
#include <string.h>

struct tokenize_options {
    const char *directory, *file;
    bool decode, special, pieces;
    struct cli_texts arguments;
};

#define FIELD(name) offsetof(struct tokenize_options, name)

static const struct cli_option table[] = {
    {.name = "--model",
     .letter = 'm',
     .kind = CLI_TEXT,
     .offset = FIELD(directory),
     .argument = "DIR",
     .group = "Input",
     .help = "checkpoint directory; only its tokenizer is read"},
    {.name = "--file",
     .letter = 'f',
     .kind = CLI_TEXT,
     .offset = FIELD(file),
     .argument = "FILE",
     .group = "Input",
     .help = "read the text, or the ids, from a file"},
    {.name = "--special",
     .kind = CLI_FLAG,
     .offset = FIELD(special),
     .group = "Input",
     .help = "recognise special tokens in the text"},
    {.name = "--decode",
     .kind = CLI_FLAG,
     .offset = FIELD(decode),
     .group = "Output",
     .help = "from ids to text: writes exactly the bytes they stand for"},
    {.name = "--pieces",
     .kind = CLI_FLAG,
     .offset = FIELD(pieces),
     .group = "Output",
     .help = "one line per token: its id, and its bytes as a JSON string"},
};

static void print_pieces(const struct rondo_tokenizer *tokenizer, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t length;
        const char *piece = rondo_tokenizer_piece(tokenizer, ids[i], &length);
        printf("%d\t", ids[i]);
        cli_print_json_string(stdout, piece, length);
        putchar('\n');
    }
}

static int encode(const struct tokenize_options *options, const struct rondo_tokenizer *tokenizer,
                  const char *text, size_t length, struct rondo_error *error)
{
    int32_t *ids = NULL;
    int64_t n = rondo_tokenizer_encode(tokenizer, text, length, options->special, &ids, error);
    if (n < 0)
        return error->status;
    if (options->pieces)
        print_pieces(tokenizer, ids, (size_t)n);
    else
        cli_print_tokens(stdout, ids, (size_t)n);
    free(ids);
    return RONDO_OK;
}

static int decode(const struct tokenize_options *options, const struct rondo_tokenizer *tokenizer,
                  const char *text, size_t length, struct rondo_error *error)
{
    int32_t *ids = NULL;
    size_t n;
    int result = cli_parse_tokens("ids", text, length, &ids, &n, error);
    if (!result)
        result = cli_tokens_check("ids", ids, n, rondo_tokenizer_size(tokenizer), error);
    if (!result && options->pieces) {
        print_pieces(tokenizer, ids, n);
    } else if (!result) {
        for (size_t i = 0; i < n; i++) {
            size_t bytes;
            const char *piece = rondo_tokenizer_piece(tokenizer, ids[i], &bytes);
            if (bytes)
                fwrite(piece, 1, bytes, stdout);
        }
    }
    free(ids);
    return result;
}

static int run(void *user)
{
    const struct tokenize_options *options = user;
    struct rondo_error error = {0};
    if (!options->directory)
        return cli_usage("tokenize: no model; give its directory with -m DIR");
    struct rondo_tokenizer *tokenizer = rondo_tokenizer_open(options->directory, &error);
    if (!tokenizer)
        return cli_report(&error);
    size_t length;
    char *text = cli_read_text(options->file, &options->arguments, &length, &error);
    int result = RONDO_FAILED;
    if (text)
        result = (options->decode ? decode : encode)(options, tokenizer, text, length, &error);
    free(text);
    rondo_tokenizer_close(tokenizer);
    return result ? cli_report(&error) : RONDO_OK;
}

static const struct cli_option_set sets[] = {CLI_SET(table, 0)};

const struct cli_command cli_tokenize = {
    .name = "tokenize",
    .summary = "turn a text into token ids, or ids into text",
    .usage = "-m DIR [options] [TEXT]",
    .details =
        "The text comes from the argument, from --file, or from standard input. Prints the ids\n"
        "as a JSON array; with --decode reads them like that, or between blanks or commas.\n"
        "\n"
        "  rondo tokenize -m DIR 'Hello' | rondo tokenize -m DIR --decode\n",
    .sets = sets,
    .n_sets = 1,
    .options_size = sizeof(struct tokenize_options),
    .arguments_offset = FIELD(arguments),
    .max_arguments = 1,
    .run = run,
};
