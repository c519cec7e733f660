/* The rondo program: finds the subcommand, parses its options, and makes sure that what was printed has
 * reached stdout before it says that all went well. */
#include "cli/cli.h"
#include "cli/commands.h"
#include "cli/input.h"
#include "cli/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const struct cli_command *const cli_commands[] = {
    &cli_run,   &cli_tokenize, &cli_logits,   &cli_perplexity, &cli_eval, &cli_compare,
    &cli_bench, &cli_info,     &cli_quantize, &cli_synth,      NULL,
};

const struct cli_command *cli_command_find(const char *name)
{
    for (size_t i = 0; cli_commands[i]; i++)
        if (!strcmp(cli_commands[i]->name, name))
            return cli_commands[i];
    return NULL;
}

static int run_command(const struct cli_command *command, int argc, char **argv)
{
    bool help;
    void *options = calloc(1, command->options_size);
    if (!options) {
        fprintf(stderr, "rondo: out of memory\n");
        return RONDO_FAILED;
    }
    int result = cli_options_parse(command, options, argc, argv, &help);
    if (!result && help)
        cli_help_print_command(command, stdout);
    else if (!result)
        result = command->run(options);
    cli_progress_clear();
    cli_options_release(command, options);
    free(options);
    return result;
}

static int unknown_command(const char *name)
{
    const char *names[32];
    size_t n = 0;
    for (size_t i = 0; cli_commands[i] && n < 28; i++)
        names[n++] = cli_commands[i]->name;
    names[n++] = "help";
    names[n++] = "--help";
    names[n++] = "--version";
    names[n] = NULL;
    const char *nearest = cli_nearest(name, names);
    if (nearest)
        return cli_usage("unknown command '%s'; did you mean %s?", name, nearest);
    return cli_usage("unknown command '%s'; 'rondo help' lists the commands", name);
}

static int dispatch(int argc, char **argv)
{
    if (argc < 2) {
        cli_help_print(stderr);
        return RONDO_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--version") || !strcmp(name, "version")) {
        printf("rondo %s\n", rondo_version());
        return RONDO_OK;
    }
    if (!strcmp(name, "help") || !strcmp(name, "--help") || !strcmp(name, "-h")) {
        if (argc > 3)
            return cli_usage("help: one word at a time (got '%s' and '%s')", argv[2], argv[3]);
        if (argc > 2)
            return cli_help_about(argv[2]);
        cli_help_print(stdout);
        return RONDO_OK;
    }
    const struct cli_command *command = cli_command_find(name);
    return command ? run_command(command, argc - 2, argv + 2) : unknown_command(name);
}

/* A standard stream that was closed must not be the next file that is opened, and have messages written into it. What
 * is written to one of these still fails. */
static void fill_closed_streams(void)
{
    for (int stream = 0; stream < 3; stream++)
        if (fcntl(stream, F_GETFD) < 0 && errno == EBADF &&
            open("/dev/null", stream ? O_RDONLY : O_WRONLY) != stream)
            _exit(RONDO_FAILED);
}

int main(int argc, char **argv)
{
    fill_closed_streams();
    cli_lost_file_catch();
    int result = dispatch(argc, argv);
    int cause = cli_flush_stdout();
    if (cause && !cli_stdout_failed())
        fprintf(stderr, "rondo: standard output: cannot write: %s\n", strerror(cause));
    return cause && !result ? RONDO_FAILED : result;
}
