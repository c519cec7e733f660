/* Help: made from the option tables, plus the topics. */
#include "cli/cli.h"

#include <string.h>

#define TEXT_WIDTH 96
#define HELP_COLUMN 30

struct topic {
    const char *name, *summary, *text;
};

static const struct topic topics[] = {
    {"benchmarks", "what bench measures, and how to read it",
     "Every sample has its yardstick beside it, because machines drift: a decode sample is "
     "preceded by\n"
     "one timed read of a large buffer with the device's threads, a prefill sample by one f32 "
     "matrix\n"
     "product of 2048 x 2048 x 2048 in OpenBLAS (when rondo was built with it). The medians of "
     "both are\n"
     "reported, and their ratio as a share. Before the first test every page of the weights is "
     "read, "
     "and 512\n"
     "tokens are computed: the first use of a page takes longer. --mlock keeps the system from "
     "dropping\n"
     "pages between tests, and puts weights into huge pages, which are looked up faster.\n"
     "\n"
     "  gb_s of decode    bytes of weights and caches that a token must touch by the plan, over "
     "time.\n"
     "                    In a batch the weights count once and the KV pages once per session, so "
     "that\n"
     "                    it is a lower bound: a batch reaches more experts than one token does.\n"
     "  gb_s of prefill   bytes of the checkpoint, once per run of --chunk tokens, over time\n"
     "  gflops            2 x multiply-adds of the matrix products on active parameters, over "
     "time\n"
     "  depth             tokens already in the caches; they are made by a real prefill, which is\n"
     "                    reported as test \"fill\", or with --fill repeat by copies of 512 "
     "tokens\n"
     "  time_ratio        time per token over that at depth 0 in the same batch\n"},
    {"checkpoints", "which model directories can be opened",
     "A directory as published on Hugging Face: config.json, *.safetensors (in shards with\n"
     "model.safetensors.index.json), tokenizer.json, tokenizer_config.json, "
     "generation_config.json.\n"
     "Nothing is converted.\n"
     "\n"
     "  architectures  BailingMoeLinearV2ForCausalLM  Ring-linear-2.0: linear and softmax layers\n"
     "                 BailingMoeV2ForCausalLM        Ling-2.0, Ring-2.0: softmax layers only\n"
     "  weights        BF16, F16, F32; FP8 E4M3 with one scale per 128x128 block "
     "(weight_scale_inv) or\n"
     "                 per output row (weight_scale); each tensor as its file says, but norms and "
     "biases\n"
     "                 are not FP8\n"
     "\n"
     "Weights are mapped and used in place. Before the start they are read once, as fast as the "
     "disk "
     "is, and one\n"
     "that is NaN or infinite is an error; with --unchecked the start is immediate, each weight is "
     "read "
     "when it\n"
     "is first used, and such a one gives wrong results. With --mlock all stay in memory, in huge "
     "pages where\n"
     "the system has them.\n"
     "Leave the files as they are meanwhile: when one becomes shorter, rondo ends and names it.\n"
     "`rondo info -m DIR --check` looks for NaN and infinities in tensors that the model does not "
     "use, "
     "too.\n"
     "`rondo synth` makes random checkpoints, `rondo quantize` turns BF16 ones into FP8.\n"},
    {"devices", "where the model runs",
     "  cpu        the best instruction set this processor has, one thread per available core\n"
     "  cpu:LEVEL  at most this instruction set: ref, avx2, avx512, avx512bf16, neon; the same as "
     "--cpu-mask "
     "LEVEL\n"
     "\n"
     "  cuda       the first NVIDIA GPU (compute capability 8.0 or newer), where rondo was built "
     "with "
     "nvcc\n"
     "  cuda:N     that one\n"
     "  cuda:N+cublaslt  products of bf16 by NVIDIA's cuBLASLt, where it is installed. It may "
     "choose "
     "another\n"
     "             algorithm for another number of rows: results then depend on the batch and on "
     "how a\n"
     "             prompt is cut, and are not bit for bit those of cuda:N\n"
     "             RONDO_CUBLASLT in the environment names the library where it is elsewhere. A "
     "product that\n"
     "             it can not do falls back to those of cuda:N, with a line that says so\n"
     "  cuda:N+serial  no launch begins before the one before it is over: slower, the same bits\n"
     "  hip:N      an AMD GPU, where rondo was built with ROCm: the kernels of cuda\n"
     "  simt:N     kernels of the GPU backend, emulated on the CPU: for tests; 0 is like an H100, "
     "1 "
     "like an\n"
     "             A100, 2 like an L40\n"
     "\n"
     "All CPU levels and all thread counts give the same bits. A device that is not there ends "
     "the\n"
     "program with exit code 77. `--strict` makes an operation that would fall back to another "
     "path an\n"
     "error. `rondo info --devices` lists the devices of this machine, and says why a backend has "
     "none. It\n"
     "does not open GPUs, which takes long and some of their memory: what they have free is not "
     "known.\n"},
    {"drafts", "trees of guessed tokens, for speculative decoding",
     "A draft tree is evaluated on top of a session without changing it. Node i is a token and "
     "the\n"
     "index of its parent, an earlier node, or -1 for the last token of the prompt:\n"
     "\n"
     "  [[11, -1], [12, 0], [13, 0], [14, 1]]      11 then 12 or 13, and 14 after 12\n"
     "\n"
     "`rondo logits --draft-tree FILE` writes one row of logits per node. Each row is equal, bit "
     "for\n"
     "bit, to the one got by feeding the path to its node as ordinary tokens.\n"},
    {"exit-codes", "what the program's exit code says",
     "   0  done; compare: everything within tolerance\n"
     "   1  a file, a size, a number or the machine is not as it must be; compare: out of "
     "tolerance\n"
     "   2  wrong usage: an option or an argument\n"
     "  77  the device asked for is not on this machine\n"
     "\n"
     "Results go to stdout and nothing else does. Errors are one line on stderr.\n"
     "\n"
     "SIGINT (Ctrl-C) ends every command soon and cleanly, a second one at once. `run` prints what "
     "it "
     "has\n"
     "generated and saves its session: exit code 0. For all others it is a failure, exit code 1: "
     "bench\n"
     "prints the tests that are finished, eval reports on the problems that are answered, quantize "
     "can go\n"
     "on later; logits and synth leave nothing behind.\n"},
    {"modes", "f32, bf16, fp8: the numbers between operations",
     "  f32   activations and caches in f32: the default, and the yardstick\n"
     "  bf16  activations rounded to bf16 between operations, caches in bf16\n"
     "  fp8   as bf16, and the inputs of products with FP8 weights (of experts, when all of a "
     "layer "
     "are\n"
     "        FP8; not of the head) quantised to E4M3, one scale per token and 128 channels\n"
     "\n"
     "--kv-dtype fp8 keeps keys and values of softmax attention as E4M3 codes with one scale per "
     "token and\n"
     "key/value head, in any mode: about half of what bf16 takes. Tails of linear layers stay as "
     "they are.\n"
     "\n"
     "In all modes residual stream, norms, RoPE, router, softmax, linear state and logits are f32. "
     "The\n"
     "weights stay as the checkpoint stores them. `rondo compare` shows what a mode costs, layer "
     "by layer.\n"},
    {"sampling", "how the next token is picked",
     "Temperature 0, the default, takes the most probable token; ties go to the lower id. "
     "Otherwise, in\n"
     "this order: repetition penalty on the tokens seen, temperature, top-k, top-p, min-p, then "
     "one draw.\n"
     "The n-th draw of a --seed is the same on every machine for the same logits. Logits of a GPU "
     "stay "
     "there:\n"
     "their 256 largest and a sum over all decide nearly every draw; rows that they do not decide "
     "are "
     "read,\n"
     "and counted in the statistics.\n"
     "Generation ends at any of the model's end tokens (unless --ignore-eos), at a --stop text, "
     "after\n"
     "--max-tokens, or when the context is full. The ids printed by --ids include the end "
     "token.\n"},
    {"sessions", "keeping a conversation or a long prompt in a file",
     "`--session FILE` loads tokens and caches from FILE if it is there and saves them at the end, "
     "so\n"
     "that nothing is computed twice. The file is bound to the model's weights and to the mode, "
     "and\n"
     "written atomically.\n"
     "\n"
     "  without --chat  the prompt continues what the session holds; no prompt: generation goes "
     "on\n"
     "  with --chat     the messages are kept beside it in FILE.json, and the prompt is the next "
     "message\n"
     "\n"
     "  rondo run -m DIR --session book.rondo -f book.txt -n 0       read it once\n"
     "  cp book.rondo a.rondo; rondo run -m DIR --session a.rondo 'Question: who did it?'\n"},
};

#define N_TOPICS (sizeof topics / sizeof topics[0])

/* Prints `text` from `column` on, wrapped at words; later lines are indented to `indent`. */
static void print_wrapped(FILE *out, const char *text, int column, int indent)
{
    while (*text) {
        int length = (int)strcspn(text, " ");
        if (column > indent && column + 1 + length > TEXT_WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
        } else if (column > indent) {
            fputc(' ', out);
            column++;
        }
        fprintf(out, "%.*s", length, text);
        column += length;
        text += length;
        text += strspn(text, " ");
    }
    fputc('\n', out);
}

static void describe(const struct cli_option *option, char *text, size_t size)
{
    int used = snprintf(text, size, "%s", option->help);
    if (option->kind == CLI_CHOICE) {
        used += snprintf(text + used, size - (size_t)used, ":");
        for (int i = 0; option->choices[i]; i++)
            used += snprintf(text + used, size - (size_t)used, " %s", option->choices[i]);
    }
    const char *fallback = option->fallback_help ? option->fallback_help : option->fallback;
    if (fallback)
        snprintf(text + used, size - (size_t)used, " (default: %s)", fallback);
}

static void print_option(const struct cli_option *option, FILE *out)
{
    char text[800];
    int column = option->letter ? fprintf(out, "  -%c, %s", option->letter, option->name)
                                : fprintf(out, "      %s", option->name);
    if (option->argument)
        column += fprintf(out, " %s", option->argument);
    if (column > HELP_COLUMN - 2)
        column = (fputc('\n', out), 0);
    fprintf(out, "%*s", HELP_COLUMN - column, "");
    describe(option, text, sizeof text);
    print_wrapped(out, text, HELP_COLUMN, HELP_COLUMN);
}

/* Group `group` of the command, under its heading. */
static void print_group(const struct cli_command *command, const char *group, FILE *out)
{
    fprintf(out, "\n%s\n", group);
    for (size_t s = 0; s < command->n_sets; s++)
        for (size_t i = 0; i < command->sets[s].n; i++)
            if (!strcmp(command->sets[s].options[i].group, group))
                print_option(&command->sets[s].options[i], out);
}

void cli_help_print_command(const struct cli_command *command, FILE *out)
{
    const char *groups[16];
    size_t n_groups = 0;
    fprintf(out, "rondo %s: %s\n\nusage: rondo %s %s\n", command->name, command->summary,
            command->name, command->usage);
    if (command->details)
        fprintf(out, "\n%s", command->details);
    for (size_t s = 0; s < command->n_sets; s++) {
        for (size_t i = 0; i < command->sets[s].n; i++) {
            const char *group = command->sets[s].options[i].group;
            size_t seen = 0;
            while (seen < n_groups && strcmp(groups[seen], group))
                seen++;
            if (seen == n_groups && n_groups < 16) {
                groups[n_groups++] = group;
                print_group(command, group, out);
            }
        }
    }
}

void cli_help_print(FILE *out)
{
    fprintf(
        out,
        "rondo %s: runs and compares hybrid linear-attention mixture-of-experts language models\n\n"
        "usage: rondo COMMAND [options]\n\nCommands\n",
        rondo_version());
    for (size_t i = 0; cli_commands[i]; i++)
        fprintf(out, "  %-12s %s\n", cli_commands[i]->name, cli_commands[i]->summary);
    fprintf(out, "\nTopics\n");
    for (size_t i = 0; i < N_TOPICS; i++)
        fprintf(out, "  %-12s %s\n", topics[i].name, topics[i].summary);
    fprintf(
        out,
        "\n'rondo help COMMAND' shows a command's options, 'rondo help TOPIC' explains a topic,\n"
        "'rondo --version' prints the version.\n");
}

int cli_help_about(const char *word)
{
    const struct cli_command *command = cli_command_find(word);
    if (command) {
        cli_help_print_command(command, stdout);
        return 0;
    }
    const char *names[N_TOPICS + 32];
    size_t n = 0;
    for (size_t i = 0; i < N_TOPICS; i++) {
        if (!strcmp(topics[i].name, word)) {
            printf("%s: %s\n\n%s", topics[i].name, topics[i].summary, topics[i].text);
            return 0;
        }
        names[n++] = topics[i].name;
    }
    for (size_t i = 0; cli_commands[i] && i < 31; i++)
        names[n++] = cli_commands[i]->name;
    names[n] = NULL;
    const char *nearest = cli_nearest(word, names);
    if (nearest)
        return cli_usage("help: nothing about '%s'; did you mean %s?", word, nearest);
    return cli_usage("help: nothing about '%s'; 'rondo help' lists commands and topics", word);
}
