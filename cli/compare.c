/* rondo compare: one model on two devices or in two modes, side by side. */
#include "cli/commands.h"
#include "cli/compare_report.h"
#include "cli/engine.h"
#include "cli/input.h"
#include "cli/terminal.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct compare_options {
    struct cli_model_options model;
    struct cli_check_options check;
    struct cli_token_options tokens;
    struct cli_message_options messages;
    const char *a, *b;
    const char *a_mode, *b_mode;
    int64_t a_threads, b_threads, layer;
    double tolerance;
    bool strict, report, json;
    struct cli_texts arguments;
};

#define FIELD(name) offsetof(struct compare_options, name)

#define PIECE                                                                                      \
    512 /* tokens at a time, as other commands cut prompts: the end of a layer of them is never far */

static const struct cli_option table[] = {
    {.name = "--a",
     .kind = CLI_TEXT,
     .offset = FIELD(a),
     .argument = "DEVICE[,MODE[,KV]]",
     .group = "Sides",
     .help = "the side that is right: a device as in 'rondo help devices', a mode, and auto or fp8 "
             "for keys and values",
     .fallback = "cpu:ref,f32"},
    {.name = "--b",
     .kind = CLI_TEXT,
     .offset = FIELD(b),
     .argument = "DEVICE[,MODE[,KV]]",
     .group = "Sides",
     .help = "the side that is checked",
     .fallback = "cpu,f32"},
    {.name = "--a-mode",
     .kind = CLI_TEXT,
     .offset = FIELD(a_mode),
     .argument = "MODE",
     .group = "Sides",
     .help = "mode of A: f32, bf16, fp8"},
    {.name = "--b-mode",
     .kind = CLI_TEXT,
     .offset = FIELD(b_mode),
     .argument = "MODE",
     .group = "Sides",
     .help = "mode of B"},
    {.name = "--a-threads",
     .kind = CLI_INTEGER,
     .offset = FIELD(a_threads),
     .argument = "N",
     .group = "Sides",
     .help = "threads of A; 0: one per available core",
     .fallback = "0",
     .high = 1024},
    {.name = "--b-threads",
     .kind = CLI_INTEGER,
     .offset = FIELD(b_threads),
     .argument = "N",
     .group = "Sides",
     .help = "threads of B; 0: one per available core",
     .fallback = "0",
     .high = 1024},
    {.name = "--strict",
     .kind = CLI_FLAG,
     .offset = FIELD(strict),
     .group = "Sides",
     .help = "an operation that would fall back to another path is an error"},
    {.name = "--tolerance",
     .kind = CLI_REAL,
     .offset = FIELD(tolerance),
     .argument = "NMSE",
     .group = "Output",
     .help = "normalised mean squared error that is allowed",
     .fallback = "-1",
     .fallback_help = "1e-10 for two f32 sides, 1e-3 when bf16 is involved, 3e-2 with fp8",
     .high = 1e9},
    {.name = "--layer",
     .kind = CLI_INTEGER,
     .offset = FIELD(layer),
     .argument = "N",
     .group = "Output",
     .help = "show the steps of this layer",
     .fallback = "-1",
     .fallback_help = "the first one out of tolerance",
     .high = 1 << 20},
    {.name = "--report",
     .kind = CLI_FLAG,
     .offset = FIELD(report),
     .group = "Output",
     .help = "end with a report to paste into a bug: versions, devices, model, tokens, how B "
             "computes its products, the steps of the layer out of tolerance"},
    {.name = "--json",
     .kind = CLI_FLAG,
     .offset = FIELD(json),
     .group = "Output",
     .help = "print one JSON object"},
};

/* ---- the two sides ------------------------------------------------------------------------------ */

struct side {
    char device[64];
    enum rondo_mode mode;
    enum rondo_kv kv;
};

static int parse_mode(const char *option, const char *text, enum rondo_mode *mode)
{
    for (int i = 0; cli_mode_names[i]; i++) {
        if (!strcmp(text, cli_mode_names[i])) {
            *mode = (enum rondo_mode)i;
            return RONDO_OK;
        }
    }
    return cli_usage("%s: got mode '%s', want one of f32, bf16, fp8", option, text);
}

static int parse_kv(const char *option, const char *text, enum rondo_kv *kv)
{
    for (int i = 0; cli_kv_names[i]; i++) {
        if (!strcmp(text, cli_kv_names[i])) {
            *kv = (enum rondo_kv)i;
            return RONDO_OK;
        }
    }
    return cli_usage("%s: got '%s' for keys and values, want auto or fp8", option, text);
}

/* "DEVICE[,MODE[,KV]]" and the mode option that overrides it. */
static int parse_side(const char *option, const char *text, const char *mode, struct side *side)
{
    char copy[128], *comma, *second = NULL;
    if (strlen(text) >= sizeof copy)
        return cli_usage("%s: got '%s', want DEVICE[,MODE[,KV]]", option, text);
    strcpy(copy, text);
    if ((comma = strchr(copy, ',')))
        *comma++ = 0;
    if (comma && (second = strchr(comma, ',')))
        *second++ = 0;
    if (!*copy || strlen(copy) >= sizeof side->device)
        return cli_usage("%s: got '%s', want DEVICE[,MODE[,KV]]", option, text);
    strcpy(side->device, copy);
    side->mode = RONDO_MODE_F32;
    side->kv = RONDO_KV_AUTO;
    int result = second ? parse_kv(option, second, &side->kv) : RONDO_OK;
    if (!result && (mode || comma))
        result = parse_mode(option, mode ? mode : comma, &side->mode);
    return result;
}

static double default_tolerance(const struct side *a, const struct side *b)
{
    if (a->mode == RONDO_MODE_FP8 || b->mode == RONDO_MODE_FP8 || a->kv != b->kv)
        return 3e-2;
    return a->mode == RONDO_MODE_BF16 || b->mode == RONDO_MODE_BF16 ? 1e-3 : 1e-10;
}

/* ---- rows ---------------------------------------------------------------------------------------- */

struct report {
    const char *kind;
    bool json;
    size_t n_rows;
    struct cli_compare_finding *first_out; /* of this kind */
};

static void print_json_number(const char *key, double value)
{
    if (isfinite(value))
        printf(",\"%s\":%.9g", key, value);
    else
        printf(",\"%s\":null", key);
}

static void print_row(void *user, const struct rondo_compare_row *row)
{
    struct report *report = user;
    char label[64];
    cli_progress_clear();
    if (!strcmp(row->label, "layer"))
        snprintf(label, sizeof label, "layer %d", row->layer);
    else
        snprintf(label, sizeof label, "%s", row->label);
    if (!row->within && !report->first_out->found) {
        *report->first_out = (struct cli_compare_finding){.found = true,
                                                          .layer = row->layer,
                                                          .max_abs = row->max_abs,
                                                          .nmse = row->nmse,
                                                          .worst = row->worst};
        memcpy(report->first_out->label, label, sizeof label);
    }
    if (!report->json) {
        printf("%-7s %-28s %12.4g %12.4g %12.9f %12" PRId64 "  %s\n", report->kind, label,
               row->max_abs, row->nmse, row->cosine, row->worst, row->within ? "ok" : "OUT");
        return;
    }
    printf("%s\n  {\"kind\":\"%s\",\"label\":", report->n_rows++ ? "," : "", report->kind);
    cli_print_json_string(stdout, label, strlen(label));
    printf(",\"layer\":%d", row->layer);
    print_json_number("max_abs", row->max_abs);
    print_json_number("nmse", row->nmse);
    print_json_number("cosine", row->cosine);
    printf(",\"worst\":%" PRId64, row->worst);
    print_json_number("tolerance", row->tolerance);
    printf(",\"within\":%s}", row->within ? "true" : "false");
}

/* ---- the comparison ------------------------------------------------------------------------------ */

struct comparison {
    struct rondo_context *a, *b;
    const int32_t *tokens;
    size_t n;
    double tolerance;
    bool within;
    struct cli_compare_finding free, forced, steps; /* first out of tolerance */
};

/* One kind of rows. Out of tolerance is noted, not a failure. */
static int compare_kind(struct comparison *c, const char *name, enum rondo_compare_kind kind,
                        int32_t layer, struct cli_compare_finding *first_out, struct report *report,
                        struct rondo_error *error)
{
    *error = (struct rondo_error){0};
    report->kind = name;
    report->first_out = first_out;
    int result = rondo_compare(c->a, c->b, c->tokens, c->n, kind, layer, c->tolerance, print_row,
                               report, error);
    cli_progress_clear();
    if (result && error->status != RONDO_OK)
        return result;
    if (result)
        c->within = false;
    return RONDO_OK;
}

static int compare_all(struct comparison *c, const struct compare_options *options,
                       struct rondo_error *error)
{
    struct report report = {.json = options->json};
    if (!options->json)
        printf("%-7s %-28s %12s %12s %12s %12s\n", "run", "output", "max abs", "NMSE", "cosine",
               "worst at");
    int result = compare_kind(c, "free", RONDO_COMPARE_FREE, -1, &c->free, &report, error);
    if (!result)
        result = compare_kind(c, "forced", RONDO_COMPARE_FORCED, -1, &c->forced, &report, error);
    int32_t layer = c->forced.found && c->forced.layer >= 0 ? c->forced.layer
                    : c->free.found                         ? c->free.layer
                                                            : -1;
    if (options->layer >= 0)
        layer = (int32_t)options->layer;
    if (!result && layer >= 0)
        result = compare_kind(c, "steps", RONDO_COMPARE_STEPS, layer, &c->steps, &report, error);
    return result;
}

static void print_head(const struct compare_options *options, const struct side *a,
                       const struct rondo_device *device_a, const struct side *b,
                       const struct rondo_device *device_b, const struct comparison *c)
{
    const char *name_a = rondo_device_description(device_a);
    const char *name_b = rondo_device_description(device_b);
    if (!options->json) {
        printf("A: %s, mode %s\nB: %s, mode %s\n%zu tokens, NMSE allowed %.3g\n\n", name_a,
               cli_mode_label((int)a->mode, (int)a->kv), name_b,
               cli_mode_label((int)b->mode, (int)b->kv), c->n, c->tolerance);
        return;
    }
    printf("{\"a\":{\"device\":");
    cli_print_json_string(stdout, name_a, strlen(name_a));
    printf(",\"mode\":\"%s\"},\"b\":{\"device\":", cli_mode_label((int)a->mode, (int)a->kv));
    cli_print_json_string(stdout, name_b, strlen(name_b));
    printf(",\"mode\":\"%s\"},\"tokens\":%zu,\"tolerance\":%.9g,\"rows\":[",
           cli_mode_label((int)b->mode, (int)b->kv), c->n, c->tolerance);
}

static int compare_sides(const struct compare_options *options, const struct side *a,
                         const struct side *b, struct cli_engine *first, struct cli_engine *second,
                         struct comparison *c, struct rondo_error *error)
{
    int32_t *tokens;
    int result = cli_tokens_get(&options->tokens, first->model, &tokens, &c->n, error);
    if (result)
        return result;
    const struct rondo_config *config = rondo_model_config(first->model);
    if (options->layer >= config->num_hidden_layers)
        result = rondo_fail(error, RONDO_USAGE, "--layer: got %" PRId64 ", want 0..%d",
                            options->layer, config->num_hidden_layers - 1);
    if (!result)
        result =
            cli_check_length("input", c->n, config->max_position_embeddings, CLI_HINT_LIMIT, error);
    struct rondo_context_options settings = {
        .mode = a->mode,
        .kv = a->kv,
        .max_context = (int32_t)c->n,
        .max_batch_tokens = c->n < PIECE ? (int32_t)c->n : PIECE,
        .snapshots = -1,
        .unchecked = options->check.unchecked,
    };
    if (!result)
        result = cli_engine_start(first, &settings, error);
    settings.mode = b->mode;
    settings.kv = b->kv;
    if (!result)
        result = cli_engine_start(second, &settings, error);
    c->a = first->context;
    c->b = second->context;
    c->tokens = tokens;
    if (!result) {
        print_head(options, a, first->device, b, second->device, c);
        result = compare_all(c, options, error);
        if (options->json)
            printf("],\"within\":%s}\n", result ? "null" : c->within ? "true" : "false");
        else if (!result)
            printf("\n%s\n", c->within ? "within tolerance"
                             : options->report
                                 ? "OUT OF TOLERANCE"
                                 : "OUT OF TOLERANCE; --report adds what a bug needs");
        if (!result && options->report) {
            struct cli_compare_report report = {.model = first->model,
                                                .device = {first->device, second->device},
                                                .context = {c->a, c->b},
                                                .mode = {a->mode, b->mode},
                                                .kv = {a->kv, b->kv},
                                                .tokens = tokens,
                                                .n = c->n,
                                                .tolerance = c->tolerance,
                                                .free = c->free,
                                                .forced = c->forced,
                                                .steps = c->steps};
            cli_compare_report_print(&report, stdout);
        }
    }
    free(tokens);
    return result;
}

static int run(void *user)
{
    const struct compare_options *options = user;
    struct rondo_error error = {0};
    struct side a, b;
    int result = parse_side("--a", options->a, options->a_mode, &a);
    if (!result)
        result = parse_side("--b", options->b, options->b_mode, &b);
    if (result)
        return result;
    if (options->report && options->json)
        return cli_usage("--report: is text; drop --json");
    cli_messages(&options->messages);
    struct cli_device_options device_a = {
        .device = a.device, .threads = options->a_threads, .strict = options->strict};
    struct cli_device_options device_b = {
        .device = b.device, .threads = options->b_threads, .strict = options->strict};
    cli_interrupt_catch();
    struct cli_engine first = {0}, second = {0};
    struct comparison c = {.within = true, .tolerance = options->tolerance};
    if (c.tolerance < 0) /* not given */
        c.tolerance = default_tolerance(&a, &b);
    result = cli_engine_open(&first, &options->model, &device_a, &error);
    if (!result && !(second.device = cli_device_open(&device_b, &error)))
        result = error.status;
    second.model = first.model;
    if (!result)
        result = compare_sides(options, &a, &b, &first, &second, &c, &error);
    second.model = NULL;
    cli_engine_close(&second);
    cli_engine_close(&first);
    if (result)
        return cli_report(&error);
    return c.within ? RONDO_OK : RONDO_FAILED;
}

static const struct cli_option_set sets[] = {
    CLI_SET(cli_model_table, FIELD(model)),      CLI_SET(cli_check_table, FIELD(check)),
    CLI_SET(cli_token_table, FIELD(tokens)),     CLI_SET(table, 0),
    CLI_SET(cli_message_table, FIELD(messages)),
};

const struct cli_command cli_compare = {
    .name = "compare",
    .summary = "compare two devices, or two modes, layer by layer",
    .usage = "-m DIR [--a DEVICE[,MODE[,KV]]] [--b ...] (--tokens 1,2,3 | --prompt TEXT | ...)",
    .details = "Three views of the same tokens:\n"
               "  free    both sides run alone, so that errors add up from layer to layer\n"
               "  forced  B gets A's input of every layer, so that a layer answers for itself\n"
               "  steps   B gets A's input of every step of one layer\n"
               "Out of tolerance it ends with a report of all that a bug needs: versions, devices, "
               "model,\n"
               "tokens, how B computes its products, the steps of the layer. Paste all of it.\n"
               "Exit code 0: within tolerance; 1: out of tolerance; 77: a device is missing.\n"
               "\n"
               "  rondo compare -m DIR --a cpu:ref --b cpu:avx2 --tokens 1,2,3\n"
               "  rondo compare -m DIR --a cpu,f32 --b cpu,fp8 --prompt 'Hello'\n",
    .sets = sets,
    .n_sets = sizeof sets / sizeof sets[0],
    .options_size = sizeof(struct compare_options),
    .arguments_offset = FIELD(arguments),
    .max_arguments = 0,
    .run = run,
};
