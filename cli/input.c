/* Reading texts and token ids, printing ids and JSON strings. */
#include "cli/input.h"
#include "cli/terminal.h"
#include "formats/file.h"
#include "formats/utf8.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_LIMIT ((size_t)1 << 30)

int cli_report(const struct rondo_error *error)
{
    fprintf(stderr, "rondo: %s\n", error->message);
    return error->status ? (int)error->status : RONDO_FAILED;
}

/* ---- stdout ---------------------------------------------------------------------------------- */

static int stdout_cause;
static bool stdout_failed;

int cli_flush_stdout(void)
{
    errno = 0;
    if ((fflush(stdout) || ferror(stdout)) && !stdout_cause)
        stdout_cause = errno ? errno : EIO;
    return stdout_cause;
}

int cli_check_stdout(struct rondo_error *error)
{
    if (!cli_flush_stdout())
        return RONDO_OK;
    stdout_failed = true;
    return rondo_fail(error, RONDO_FAILED, "standard output: cannot write: %s",
                      strerror(stdout_cause));
}

int cli_write_stdout(const void *bytes, size_t size, struct rondo_error *error)
{
    errno = 0;
    if (fwrite(bytes, 1, size, stdout) != size && !stdout_cause)
        stdout_cause = errno ? errno : EIO;
    return cli_check_stdout(error);
}

bool cli_is_stdout(const char *path)
{
    return path && !strcmp(path, "-");
}

int cli_refuse_stdout(const char *option, const char *path, const char *what)
{
    if (!cli_is_stdout(path))
        return RONDO_OK;
    return cli_usage("%s: got '-', want %s, which standard output can not be; './-' is one of that "
                     "name",
                     option, what);
}

bool cli_stdout_failed(void)
{
    return stdout_failed;
}

/* ---- texts ----------------------------------------------------------------------------------- */

/* All that `stream` has, malloc'ed; `name` stands in messages. */
static char *read_stream(FILE *stream, const char *name, size_t *length, struct rondo_error *error)
{
    size_t capacity = 1 << 16, n = 0;
    char *bytes = malloc(capacity);
    while (bytes) {
        size_t got = fread(bytes + n, 1, capacity - n - 1, stream);
        n += got;
        if (!got)
            break;
        if (n + 1 == capacity) {
            char *more = capacity < TEXT_LIMIT ? realloc(bytes, capacity *= 2) : NULL;
            if (!more)
                free(bytes);
            bytes = more;
        }
    }
    if (!bytes) {
        rondo_fail(error, RONDO_FAILED, "%s: too long (want at most %zu bytes)", name, TEXT_LIMIT);
        return NULL;
    }
    if (ferror(stream)) {
        int cause = errno;
        if (cause != EINTR || !cli_check_interrupt(error))
            rondo_fail(error, RONDO_FAILED, "%s: cannot read: %s", name, strerror(cause));
        free(bytes);
        return NULL;
    }
    bytes[n] = 0;
    *length = n;
    return bytes;
}

static char *read_stdin(size_t *length, struct rondo_error *error)
{
    return read_stream(stdin, "standard input", length, error);
}

char *cli_read_file(const char *path, size_t *length, struct rondo_error *error)
{
    struct stat info;
    if (!strcmp(path, "-"))
        return read_stdin(length, error);
    if (stat(path, &info) != 0 || !(S_ISFIFO(info.st_mode) || S_ISCHR(info.st_mode)))
        return rondo_file_read(path, TEXT_LIMIT, length, error);
    FILE *stream = fopen(path, "rbe");
    if (!stream) {
        int cause = errno;
        if (cause != EINTR || !cli_check_interrupt(error))
            rondo_fail(error, RONDO_FAILED, "%s: cannot open: %s", path, strerror(cause));
        return NULL;
    }
    char *bytes = read_stream(stream, path, length, error);
    fclose(stream);
    return bytes;
}

char *cli_read_text(const char *file, const struct cli_texts *arguments, size_t *length,
                    struct rondo_error *error)
{
    if (file && arguments->n) {
        rondo_fail(error, RONDO_USAGE, "got both a text and --file; want one");
        return NULL;
    }
    if (file)
        return cli_read_file(file, length, error);
    if (arguments->n && strcmp(arguments->items[0], "-")) {
        char *copy = strdup(arguments->items[0]);
        if (!copy)
            rondo_fail(error, RONDO_FAILED, "out of memory");
        else
            *length = strlen(copy);
        return copy;
    }
    if (!arguments->n && isatty(STDIN_FILENO)) {
        rondo_fail(error, RONDO_USAGE,
                   "no text; give it as an argument, with --file, or on standard input");
        return NULL;
    }
    return read_stdin(length, error);
}

/* ---- token ids ------------------------------------------------------------------------------- */

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static const char *skip_blanks(const char *c, const char *end)
{
    while (c < end && is_blank(*c))
        c++;
    return c;
}

/* The number at *c, which moves past it. */
static bool read_id(const char **c, const char *end, int32_t *id)
{
    const char *digits = *c + (*c < end && **c == '-');
    int64_t value = 0;
    const char *p = digits;
    for (; p < end && *p >= '0' && *p <= '9' && p - digits < 10; p++)
        value = 10 * value + (*p - '0');
    if (p == digits || value > INT32_MAX || (p < end && *p >= '0' && *p <= '9'))
        return false;
    *id = (int32_t)(**c == '-' ? -value : value);
    *c = p;
    return true;
}

int cli_parse_tokens(const char *name, const char *text, size_t length, int32_t **tokens, size_t *n,
                     struct rondo_error *error)
{
    const char *c = skip_blanks(text, text + length), *end = text + length;
    bool bracket = c < end && *c == '[';
    int32_t *ids = malloc((length / 2 + 1) * sizeof *ids);
    size_t count = 0;
    const char *wrong = NULL;
    if (!ids)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory", name);
    c = skip_blanks(c + bracket, end);
    while (c < end && !wrong && !(bracket && *c == ']')) {
        if (!read_id(&c, end, &ids[count++])) {
            wrong = "not a token id";
            break;
        }
        const char *after = c;
        c = skip_blanks(c, end);
        bool comma = c < end && *c == ',';
        c = skip_blanks(c + comma, end);
        bool closes = c == end || (bracket && *c == ']');
        if ((comma && closes) || (!closes && !comma && (bracket || c == after)))
            wrong = "want numbers, and commas between them";
    }
    if (!wrong && bracket && (c == end || skip_blanks(c + 1, end) != end))
        wrong = "the array does not end where the text does";
    if (wrong) {
        free(ids);
        return rondo_fail(error, RONDO_FAILED, "%s: byte %zu: %s; want a JSON array like [1,2,3]",
                          name, (size_t)(c - text), wrong);
    }
    *tokens = ids;
    *n = count;
    return RONDO_OK;
}

int32_t *cli_copy_tokens(const struct cli_integers *list, struct rondo_error *error)
{
    int32_t *tokens = malloc((list->n + 1) * sizeof *tokens);
    if (!tokens)
        rondo_fail(error, RONDO_FAILED, "out of memory");
    for (size_t i = 0; tokens && i < list->n; i++)
        tokens[i] = (int32_t)list->items[i];
    return tokens;
}

int cli_tokens_check(const char *name, const int32_t *tokens, size_t n, int32_t vocab_size,
                     struct rondo_error *error)
{
    for (size_t i = 0; i < n; i++)
        if (tokens[i] < 0 || tokens[i] >= vocab_size)
            return rondo_fail(error, RONDO_FAILED,
                              "%s: token %zu is not in the vocabulary (got %d, want 0..%d)", name,
                              i, tokens[i], vocab_size - 1);
    return RONDO_OK;
}

#define FIELD(name) offsetof(struct cli_token_options, name)

const struct cli_option cli_token_table[CLI_TOKEN_OPTIONS] = {
    {.name = "--tokens",
     .kind = CLI_INTEGERS,
     .offset = FIELD(tokens),
     .argument = "1,2,3",
     .group = "Input",
     .high = INT32_MAX,
     .help = "token ids"},
    {.name = "--tokens-file",
     .kind = CLI_TEXT,
     .offset = FIELD(tokens_file),
     .argument = "FILE",
     .group = "Input",
     .help = "token ids from a file ('-': standard input): a JSON array, or numbers between blanks "
             "or commas"},
    {.name = "--prompt",
     .kind = CLI_TEXT,
     .offset = FIELD(prompt),
     .argument = "TEXT",
     .group = "Input",
     .help = "a text, tokenized"},
    {.name = "--file",
     .letter = 'f',
     .kind = CLI_TEXT,
     .offset = FIELD(file),
     .argument = "FILE",
     .group = "Input",
     .help = "a text from a file ('-': standard input), tokenized"},
    {.name = "--special",
     .kind = CLI_FLAG,
     .offset = FIELD(special),
     .group = "Input",
     .help = "recognise special tokens in the text"},
};

static int encode(const struct cli_token_options *options, const struct rondo_model *model,
                  int32_t **tokens, size_t *n, struct rondo_error *error)
{
    size_t length = 0;
    char *read = NULL;
    int result = RONDO_FAILED;
    if (options->file && !(read = cli_read_file(options->file, &length, error)))
        return RONDO_FAILED;
    const char *text = read ? read : options->prompt;
    struct rondo_tokenizer *tokenizer = rondo_tokenizer_open(rondo_model_directory(model), error);
    if (tokenizer) {
        int64_t count = rondo_tokenizer_encode(tokenizer, text, read ? length : strlen(text),
                                               options->special, tokens, error);
        *n = count < 0 ? 0 : (size_t)count;
        result = count < 0 ? RONDO_FAILED : RONDO_OK;
    }
    rondo_tokenizer_close(tokenizer);
    free(read);
    return result;
}

static int get_tokens(const struct cli_token_options *options, const struct rondo_model *model,
                      int32_t **tokens, size_t *n, struct rondo_error *error)
{
    if (options->tokens.n) {
        *n = options->tokens.n;
        *tokens = cli_copy_tokens(&options->tokens, error);
        return *tokens ? RONDO_OK : RONDO_FAILED;
    }
    if (!options->tokens_file)
        return encode(options, model, tokens, n, error);
    size_t length;
    char *text = cli_read_file(options->tokens_file, &length, error);
    if (!text)
        return RONDO_FAILED;
    int result = cli_parse_tokens(options->tokens_file, text, length, tokens, n, error);
    free(text);
    return result;
}

int cli_tokens_get(const struct cli_token_options *options, const struct rondo_model *model,
                   int32_t **tokens, size_t *n, struct rondo_error *error)
{
    int sources = (options->tokens.n > 0) + (options->tokens_file != NULL) +
                  (options->prompt != NULL) + (options->file != NULL);
    *tokens = NULL;
    if (sources != 1)
        return rondo_fail(error, RONDO_USAGE,
                          "%s; give one of --tokens, --tokens-file, --prompt, --file",
                          sources ? "more than one input" : "no input");
    int result = get_tokens(options, model, tokens, n, error);
    if (result == RONDO_OK && !*n)
        result = rondo_fail(error, RONDO_FAILED, "input: no tokens (got 0, want at least 1)");
    if (result == RONDO_OK)
        result =
            cli_tokens_check("input", *tokens, *n, rondo_model_config(model)->vocab_size, error);
    if (result != RONDO_OK) {
        free(*tokens);
        *tokens = NULL;
    }
    return result;
}

/* ---- printing -------------------------------------------------------------------------------- */

void cli_print_tokens(FILE *out, const int32_t *tokens, size_t n)
{
    fputc('[', out);
    for (size_t i = 0; i < n; i++)
        fprintf(out, i ? ",%d" : "%d", tokens[i]);
    fputs("]\n", out);
}

void cli_print_json_string(FILE *out, const char *bytes, size_t length)
{
    fputc('"', out);
    for (size_t i = 0; i < length;) {
        size_t bad = 1;
        int n = rondo_utf8_sequence(bytes + i, length - i, &bad);
        unsigned char c = (unsigned char)bytes[i];
        if (n == RONDO_UTF8_PARTIAL)
            bad = length - i;
        if (n <= 0)
            fputs("\\ufffd", out);
        else if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c == '\n')
            fputs("\\n", out);
        else if (c < 0x20 || c == 0x7f)
            fprintf(out, "\\u%04x", c);
        else
            fwrite(bytes + i, 1, (size_t)n, out);
        i += n > 0 ? (size_t)n : bad;
    }
    fputc('"', out);
}
