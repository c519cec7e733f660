/* rondo quantize: a checkpoint with FP8 weights from one without. */
#include "cli/commands.h"
#include "cli/engine.h"
#include "cli/input.h"
#include "cli/terminal.h"
#include "formats/quantize.h"

struct quantize_options {
    struct cli_message_options messages;
    const char *source, *output;
    int format; /* index into formats */
    int64_t threads;
    bool lm_head, power_of_two;
    struct cli_texts arguments;
};

#define FIELD(name) offsetof(struct quantize_options, name)

static const char *const formats[] = {"block", "row", NULL};
static const enum rondo_quantization kinds[] = {RONDO_QUANTIZATION_BLOCK, RONDO_QUANTIZATION_ROW};

static const struct cli_option table[] = {
    {.name = "--model",
     .letter = 'm',
     .kind = CLI_TEXT,
     .offset = FIELD(source),
     .argument = "DIR",
     .group = "Checkpoint",
     .help = "checkpoint directory to read; it is not changed"},
    {.name = "--output",
     .letter = 'o',
     .kind = CLI_TEXT,
     .offset = FIELD(output),
     .argument = "DIR",
     .group = "Checkpoint",
     .help = "directory to make, or to go on with"},
    {.name = "--format",
     .kind = CLI_CHOICE,
     .offset = FIELD(format),
     .argument = "FORMAT",
     .group = "Checkpoint",
     .help = "one scale per 128x128 block, or per output row",
     .fallback = "block",
     .choices = formats},
    {.name = "--lm-head",
     .kind = CLI_FLAG,
     .offset = FIELD(lm_head),
     .group = "Checkpoint",
     .help = "the output head too, or the table when they are tied: a third fewer bytes per token, "
             "at some loss of precision"},
    {.name = "--power-of-two",
     .kind = CLI_FLAG,
     .offset = FIELD(power_of_two),
     .group = "Checkpoint",
     .help = "round scales up to powers of two"},
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
    const struct quantize_options *options = user;
    struct rondo_error error = {0};
    if (!options->source)
        return cli_usage("quantize: no model; give its directory with -m DIR");
    if (!options->output)
        return cli_usage("quantize: nowhere to write; give a directory with -o DIR");
    if (cli_refuse_stdout("--output", options->output, "a directory"))
        return RONDO_USAGE;
    cli_messages(&options->messages);
    cli_interrupt_catch();
    struct rondo_quantize_options settings = {
        .kind = kinds[options->format],
        .lm_head = options->lm_head,
        .power_of_two = options->power_of_two,
        .threads = (int)options->threads,
        .progress = cli_progress,
    };
    int result = rondo_quantize(options->source, options->output, &settings, &error);
    cli_progress_clear();
    return result ? cli_report(&error) : RONDO_OK;
}

static const struct cli_option_set sets[] = {
    CLI_SET(table, 0),
    CLI_SET(cli_message_table, FIELD(messages)),
};

const struct cli_command cli_quantize = {
    .name = "quantize",
    .summary = "make an FP8 checkpoint from a BF16, F16 or F32 one",
    .usage = "-m DIR -o DIR [options]",
    .details = "Works shard by shard with memory for a few rows. A run that was ended goes on "
               "where it was\n"
               "when it is started again with the same options.\n"
               "\n"
               "  rondo quantize -m ring-mini -o ring-mini-fp8 --lm-head\n",
    .sets = sets,
    .n_sets = sizeof sets / sizeof sets[0],
    .options_size = sizeof(struct quantize_options),
    .arguments_offset = FIELD(arguments),
    .max_arguments = 0,
    .run = run,
};
