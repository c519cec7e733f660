/* rondo synth: a random checkpoint of a preset size. */
#include "cli/commands.h"
#include "cli/engine.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "formats/synth.h"

#include <inttypes.h>

struct synth_options {
    struct cli_message_options messages;
    const char *output;
    int dtype; /* enum rondo_synth_dtype */
    int64_t layers, threads;
    uint64_t seed;
    bool lm_head_fp8, list;
    struct cli_texts arguments;
};

#define FIELD(name) offsetof(struct synth_options, name)

/* By enum rondo_synth_dtype. */
static const char *const dtypes[] = {"bf16", "f16", "f32", "fp8-block", "fp8-row", NULL};

static const struct cli_option table[] = {
    {.name = "--output",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = FIELD(output),
     .argument = "DIR",
     .group = "Checkpoint",
     .help = "directory to make; must be empty or not there"},
    {.name = "--dtype",
     .kind = CLI_CHOICE,
     .offset = FIELD(dtype),
     .argument = "DTYPE",
     .group = "Checkpoint",
     .help = "of the weights",
     .fallback = "bf16",
     .choices = dtypes},
    {.name = "--lm-head-fp8",
     .kind = CLI_FLAG,
     .offset = FIELD(lm_head_fp8),
     .group = "Checkpoint",
     .help = "with an FP8 dtype: the output head too"},
    {.name = "--layers",
     .kind = CLI_INTEGER,
     .offset = FIELD(layers),
     .argument = "N",
     .group = "Checkpoint",
     .help = "layers; 0: as many as the preset has",
     .fallback = "0",
     .high = 1024},
    {.name = "--seed",
     .kind = CLI_SEED,
     .offset = FIELD(seed),
     .argument = "N",
     .group = "Checkpoint",
     .help = "the same seed gives the same bytes",
     .fallback = "0"},
    {.name = "--list",
     .kind = CLI_FLAG,
     .offset = FIELD(list),
     .group = "Checkpoint",
     .help = "list the presets"},
    {.name = "--threads",
     .kind = CLI_INTEGER,
     .offset = FIELD(threads),
     .argument = "N",
     .group = "Checkpoint",
     .help = "threads; 0: one per available core",
     .fallback = "0",
     .high = 1024},
};

static int run(void *user)
{
    const struct synth_options *options = user;
    struct rondo_error error = {0};
    char size[24];
    uint64_t bytes;
    if (options->list) {
        const struct rondo_synth_preset *preset = rondo_synth_presets();
        for (; preset->name; preset++)
            printf("%-24s %s\n", preset->name, preset->description);
        return RONDO_OK;
    }
    if (!options->arguments.n)
        return cli_usage("synth: no preset; 'rondo synth --list' shows them");
    if (!options->output)
        return cli_usage("synth: nowhere to write; give a directory with -o DIR");
    if (cli_refuse_stdout("--output", options->output, "a directory"))
        return RONDO_USAGE;
    cli_messages(&options->messages);
    struct rondo_synth_options settings = {
        .preset = options->arguments.items[0],
        .dtype = (enum rondo_synth_dtype)options->dtype,
        .lm_head_fp8 = options->lm_head_fp8,
        .seed = options->seed,
        .layers = (int32_t)options->layers,
        .threads = (int)options->threads,
        .progress = cli_progress,
    };
    int result = rondo_synth_size(&settings, &bytes, &error);
    if (!result && !cli_terminal_is_quiet())
        fprintf(stderr, "writing %s to %s\n", cli_format_size(bytes, size), options->output);
    cli_interrupt_catch();
    if (!result)
        result = rondo_synth(&settings, options->output, &error);
    cli_progress_clear();
    return result ? cli_report(&error) : RONDO_OK;
}

static const struct cli_option_set sets[] = {
    CLI_SET(table, 0),
    CLI_SET(cli_message_table, FIELD(messages)),
};

const struct cli_command cli_synth = {
    .name = "synth",
    .summary = "make a random checkpoint, for benchmarks and tests",
    .usage = "PRESET -o DIR [options]",
    .details =
        "The text it generates means nothing; shapes, speed and memory are those of a real model.\n"
        "\n"
        "  rondo synth ring-mini-linear-2.0 --dtype fp8-block -o ring-mini\n",
    .sets = sets,
    .n_sets = sizeof sets / sizeof sets[0],
    .options_size = sizeof(struct synth_options),
    .arguments_offset = FIELD(arguments),
    .max_arguments = 1,
    .run = run,
};
