/* The report at the end of `rondo compare`. */
#include "cli/compare_report.h"
#include "cli/engine.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

enum { SHOWN_TOKENS = 64, PRODUCTS = 64, PRODUCT_SIZE = 160 };

static void print_versions(FILE *out)
{
    struct utsname system;
    fprintf(out, "rondo    %s", rondo_version());
#ifdef __VERSION__
    fprintf(out, ", compiled by %s %s",
#ifdef __clang__
            "clang",
#else
            "gcc",
#endif
            __VERSION__);
#endif
    if (uname(&system) == 0)
        fprintf(out, "\nsystem   %s %s, %s", system.sysname, system.release, system.machine);
    fputc('\n', out);
}

static void print_model(const struct cli_compare_report *report, FILE *out)
{
    const struct rondo_config *c = rondo_model_config(report->model);
    fprintf(
        out,
        "model    %s, hash %016" PRIx64 "\n"
        "         %d layers in groups of %d, hidden %d, %d heads, %d of keys, %d wide, rotary %d;\n"
        "         FFN %d; %d dense layers, then %d experts of %d, %d a token, %d of %d groups\n",
        c->architecture, rondo_model_hash(report->model), c->num_hidden_layers, c->layer_group_size,
        c->hidden_size, c->num_attention_heads, c->num_key_value_heads, c->head_dim, c->rotary_dim,
        c->intermediate_size, c->first_k_dense_replace, c->num_experts, c->moe_intermediate_size,
        c->num_experts_per_tok, c->topk_group, c->n_group);
    fprintf(out, "tokens   %zu:", report->n);
    for (size_t i = 0; i < report->n && i < SHOWN_TOKENS; i++)
        fprintf(out, "%s%d", i ? "," : " ", report->tokens[i]);
    fprintf(out, "%s\n", report->n > SHOWN_TOKENS ? ",..." : "");
}

static void print_finding(const char *name, const struct cli_compare_finding *finding,
                          const char *otherwise, FILE *out)
{
    if (!finding->found) {
        fprintf(out, "%-8s %s\n", name, otherwise);
        return;
    }
    fprintf(out, "%-8s %s", name, finding->label);
    if (finding->layer >= 0 && strncmp(finding->label, "layer", 5) != 0)
        fprintf(out, " of layer %d", finding->layer);
    fprintf(out, ": NMSE %.4g, largest difference %.4g at %" PRId64 "\n", finding->nmse,
            finding->max_abs, finding->worst);
}

/* ---- how B computes -------------------------------------------------------------------------- */

struct products {
    char text[PRODUCTS][PRODUCT_SIZE]; /* from the inputs on, without the step's place */
    int count[PRODUCTS];
    int n;
};

/* Steps with weights, as rondo_context_print_plan writes them; equal ones are counted. */
static void take_product(void *user, const char *line)
{
    struct products *products = user;
    const char *weights = strstr(line, "  * "), *by = strstr(line, "  by ");
    char text[PRODUCT_SIZE];
    if (!weights)
        return;
    const char *end = strstr(weights, " -> ");
    int length = end ? (int)(end - weights) - 4 : (int)strlen(weights + 4);
    snprintf(text, sizeof text, "%.*s%s", length, weights + 4, by ? by : "");
    for (int i = 0; i < products->n; i++)
        if (strcmp(products->text[i], text) == 0) {
            products->count[i]++;
            return;
        }
    if (products->n == PRODUCTS)
        return;
    strcpy(products->text[products->n], text);
    products->count[products->n++] = 1;
}

struct layer_lines {
    FILE *out;
    int32_t layer;
};

static void print_layer_line(void *user, const char *line)
{
    const struct layer_lines *lines = user;
    int index, layer;
    if (sscanf(line, "%d layer %d", &index, &layer) == 2 && layer == lines->layer)
        fprintf(lines->out, "  %s\n", line);
}

static int32_t guilty_layer(const struct cli_compare_report *report)
{
    return report->steps.found    ? report->steps.layer
           : report->forced.found ? report->forced.layer
           : report->free.found   ? report->free.layer
                                  : -1;
}

void cli_compare_report_print(const struct cli_compare_report *report, FILE *out)
{
    fputs("\n---- report: paste all of it -----------------------------------------------------\n",
          out);
    print_versions(out);
    for (int side = 0; side < 2; side++)
        fprintf(out, "%c        %s, mode %s\n", "AB"[side],
                rondo_device_description(report->device[side]),
                cli_mode_label((int)report->mode[side], (int)report->kv[side]));
    print_model(report, out);
    fprintf(out, "allowed  NMSE %.4g; first out of tolerance:\n", report->tolerance);
    print_finding("free", &report->free, "nothing", out);
    print_finding("forced", &report->forced, "nothing", out);
    print_finding("steps", &report->steps, "no single step", out);

    struct products *products = calloc(1, sizeof *products);
    if (products)
        rondo_context_print_plan(report->context[1], take_product, products);
    if (products && products->n)
        fputs("products of B\n", out);
    for (int i = 0; products && i < products->n; i++)
        fprintf(out, "  %3d x  %s\n", products->count[i], products->text[i]);
    free(products);

    struct layer_lines lines = {out, guilty_layer(report)};
    if (lines.layer >= 0) {
        fprintf(out, "steps of layer %d of B\n", lines.layer);
        rondo_context_print_plan(report->context[1], print_layer_line, &lines);
    }
    fputs("----------------------------------------------------------------------------------\n",
          out);
}
