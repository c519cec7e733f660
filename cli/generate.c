/* The generation loop, stop texts, and streaming. */
#include "cli/generate.h"
#include "cli/engine.h"
#include "cli/input.h"
#include "cli/terminal.h"

#include <stdlib.h>
#include <string.h>

int cli_generation_start(struct cli_generation *g, struct rondo_error *error)
{
    const struct rondo_config *config = rondo_model_config(rondo_context_model(g->context));
    if (g->output != CLI_OUTPUT_LOGPROBS)
        return RONDO_OK;
    g->logits = malloc((size_t)config->vocab_size * sizeof *g->logits);
    if (!g->logits)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    return RONDO_OK;
}

void cli_generation_release(struct cli_generation *g)
{
    free(g->logits);
    free(g->tokens);
    free(g->text);
}

int cli_generation_append(struct cli_generation *g, const int32_t *tokens, size_t n,
                          struct rondo_error *error)
{
    const struct rondo_config *config = rondo_model_config(rondo_context_model(g->context));
    int result = cli_tokens_check("prompt", tokens, n, config->vocab_size, error);
    if (result)
        return result;
    if (g->n_tokens + n > g->capacity) {
        size_t capacity = 2 * (g->n_tokens + n) + 64;
        int32_t *grown = realloc(g->tokens, capacity * sizeof *grown);
        if (!grown)
            return rondo_fail(error, RONDO_FAILED, "out of memory");
        g->tokens = grown;
        g->capacity = capacity;
    }
    if (n)
        memcpy(g->tokens + g->n_tokens, tokens, n * sizeof *tokens);
    g->n_tokens += n;
    return RONDO_OK;
}

/* ---- text ------------------------------------------------------------------------------------- */

static int append_text(struct cli_generation *g, const char *bytes, size_t n,
                       struct rondo_error *error)
{
    if (g->n_text + n + 1 > g->text_capacity) {
        size_t capacity = 2 * (g->n_text + n) + 256;
        char *grown = realloc(g->text, capacity);
        if (!grown)
            return rondo_fail(error, RONDO_FAILED, "out of memory");
        g->text = grown;
        g->text_capacity = capacity;
    }
    if (n)
        memcpy(g->text + g->n_text, bytes, n);
    g->n_text += n;
    g->text[g->n_text] = 0;
    return RONDO_OK;
}

/* Cuts the text where the first stop text begins, if one came with the last `fresh` bytes. */
static bool cut_at_stop(struct cli_generation *g, size_t fresh)
{
    char *found = NULL;
    for (size_t i = 0; i < g->stops->n; i++) {
        size_t length = strlen(g->stops->items[i]), old = g->n_text - fresh;
        char *from = g->text + (old + 1 > length ? old + 1 - length : 0);
        char *at = memmem(from, (size_t)(g->text + g->n_text - from), g->stops->items[i], length);
        if (at && (!found || at < found))
            found = at;
    }
    if (!found)
        return false;
    g->n_text = (size_t)(found - g->text);
    *found = 0;
    return true;
}

/* Bytes at the end of the text that may be the beginning of a stop text. */
static size_t held_back(const struct cli_generation *g)
{
    size_t longest = 0;
    for (size_t i = 0; i < g->stops->n; i++) {
        size_t length = strlen(g->stops->items[i]);
        for (size_t k = length - 1; k > longest && length; k--) {
            if (k <= g->n_text && !memcmp(g->text + g->n_text - k, g->stops->items[i], k))
                longest = k;
        }
    }
    return longest;
}

/* Writes the text that can no longer change; all of it when `last`. */
static int emit(struct cli_generation *g, bool last, struct rondo_error *error)
{
    char out[3 * (256 + 4)]; /* a byte that is not UTF-8 becomes three */
    if (g->output != CLI_OUTPUT_TEXT)
        return RONDO_OK;
    size_t held = last ? 0 : held_back(g);
    while (g->n_emitted + held < g->n_text) {
        size_t n = g->n_text - held - g->n_emitted;
        n = n > 256 ? 256 : n;
        size_t ready = rondo_utf8_stream_push(&g->stream, g->text + g->n_emitted, n, true, out);
        fwrite(out, 1, ready, stdout);
        g->n_emitted += n;
    }
    if (last)
        fwrite(out, 1, rondo_utf8_stream_finish(&g->stream, true, out), stdout);
    return cli_check_stdout(error);
}

static int print_logprob(struct cli_generation *g, int32_t id, double logprob,
                         struct rondo_error *error)
{
    size_t length;
    const char *piece = rondo_tokenizer_piece(g->tokenizer, id, &length);
    printf("{\"id\":%d,\"logprob\":%.6f,\"piece\":", id, logprob);
    cli_print_json_string(stdout, piece, length);
    puts("}");
    return cli_check_stdout(error);
}

/* ---- the loop --------------------------------------------------------------------------------- */

static bool is_end(const struct cli_generation *g, int32_t id)
{
    const struct rondo_config *config = rondo_model_config(rondo_context_model(g->context));
    for (int32_t i = 0; i < config->n_eos_token_ids; i++)
        if (config->eos_token_ids[i] == id)
            return true;
    return false;
}

/* A part of a run that says what is wanted of its last row of logits: the row itself only where it is printed. Else the
 * device makes the pick, or what decides it. */
static struct rondo_run_item item_of(struct cli_generation *g, const int32_t *tokens, size_t n)
{
    struct rondo_run_item item = {
        .session = g->session, .tokens = tokens, .n = n, .logits = RONDO_LOGITS_LAST};
    if (g->output == CLI_OUTPUT_LOGPROBS) {
        item.out = g->logits;
    } else {
        item.best = &g->pick;
        item.sampler = g->sampler;
    }
    return item;
}

/* Picks the next token and does with it what the output asks for. Sets `reason` when it is the last. */
static int next_token(struct cli_generation *g, int32_t *id, struct rondo_error *error)
{
    const struct rondo_config *config = rondo_model_config(rondo_context_model(g->context));
    *id = g->pick;
    if (g->output == CLI_OUTPUT_LOGPROBS)
        *id = rondo_sampler_pick(g->sampler, g->logits, g->tokens, g->n_tokens);
    if (*id < 0)
        return rondo_fail(
            error, RONDO_FAILED,
            "model: no logit at position %zu is a number; the weights may be damaged, "
            "'rondo info --check' looks for NaN",
            g->n_tokens);
    int result = cli_generation_append(g, id, 1, error);
    g->n_generated++;
    if (!result && g->output == CLI_OUTPUT_LOGPROBS)
        result =
            print_logprob(g, *id, rondo_log_probability(g->logits, config->vocab_size, *id), error);
    if (!result && is_end(g, *id)) {
        g->at_end_token = true;
        if (!g->ignore_end) {
            g->reason = "end token";
            return RONDO_OK;
        }
    } else {
        g->at_end_token = false;
    }
    if (result || !g->tokenizer)
        return result;
    size_t length;
    const char *piece = rondo_tokenizer_piece(g->tokenizer, *id, &length);
    if (rondo_tokenizer_is_special(g->tokenizer, *id) && !g->special)
        length = 0;
    result = append_text(g, piece, length, error);
    if (!result && cut_at_stop(g, length))
        g->reason = "stop text";
    return result ? result : emit(g, false, error);
}

static int decode(struct cli_generation *g, struct rondo_error *error)
{
    size_t max_context = (size_t)rondo_context_settings(g->context)->max_context;
    double start = cli_time();
    struct rondo_device_counts before, after;
    int result = RONDO_OK;
    rondo_device_count(g->device, &before);
    while (!result && !g->reason) {
        int32_t id;
        if (cli_interrupted()) {
            g->reason = "interrupted";
        } else if (g->max_tokens >= 0 && g->n_generated >= (size_t)g->max_tokens) {
            g->reason = "--max-tokens";
        } else if ((result = next_token(g, &id, error)) || g->reason) {
            break;
        } else if (g->max_tokens >= 0 && g->n_generated >= (size_t)g->max_tokens) {
            g->reason = "--max-tokens";
        } else if (g->n_tokens > max_context) {
            g->reason = "context full";
        } else {
            struct rondo_run_item item = item_of(g, &id, 1);
            result = rondo_context_run(g->context, &item, 1, error);
            g->n_runs++;
        }
    }
    g->decode_seconds = cli_time() - start;
    rondo_device_count(g->device, &after);
    g->decode_counts = (struct rondo_device_counts){
        .kernels = after.kernels - before.kernels,
        .submissions = after.submissions - before.submissions,
    };
    return result;
}

int cli_generate(struct cli_generation *g, struct rondo_error *error)
{
    g->n_prompt = g->n_tokens;
    g->n_reused = g->n_generated = g->n_runs = g->n_rows_read = g->n_text = g->n_emitted = 0;
    g->prompt_seconds = g->decode_seconds = 0;
    g->reason = NULL;
    g->at_end_token = false;
    memset(&g->stream, 0, sizeof g->stream);
    int result = append_text(g, "", 0, error);
    if (!result)
        result =
            cli_check_length("prompt", g->n_tokens, rondo_context_settings(g->context)->max_context,
                             "see --ctx", error);
    if (result)
        return result;
    double start = cli_time();
    uint64_t rows_read = rondo_sampler_rows_read(g->sampler);
    struct rondo_run_item prompt = item_of(g, g->tokens, g->n_tokens);
    result = cli_feed(g->context, &prompt, g->chunk, &g->n_reused, error);
    g->prompt_seconds = cli_time() - start;
    if (!result && cli_interrupted()) {
        g->reason = "interrupted";
        return RONDO_OK;
    }
    if (!result)
        result = decode(g, error);
    g->n_rows_read = (size_t)(rondo_sampler_rows_read(g->sampler) - rows_read);
    if (!result)
        result = emit(g, true, error);
    return result;
}

int cli_generation_settle(struct cli_generation *g, struct rondo_error *error)
{
    size_t length = rondo_session_length(g->session);
    if (length + 1 != g->n_tokens || g->at_end_token ||
        length >= (size_t)rondo_context_settings(g->context)->max_context)
        return RONDO_OK;
    struct rondo_run_item item = {
        .session = g->session, .tokens = g->tokens + length, .n = 1, .logits = RONDO_LOGITS_NONE};
    return rondo_context_run(g->context, &item, 1, error);
}

void cli_generation_print_statistics(const struct cli_generation *g)
{
    char prompt[24], decode_rate[24];
    size_t computed = g->n_prompt - g->n_reused;
    if (cli_terminal_is_quiet())
        return;
    fprintf(
        stderr,
        "prompt: %zu tokens (%zu reused), %.2f s, %s tok/s; decode: %zu tokens, %.2f s, %s "
        "tok/s; ended by: %s\n",
        g->n_prompt, g->n_reused, g->prompt_seconds,
        cli_format_rate(g->prompt_seconds > 0 ? (double)computed / g->prompt_seconds : 0, prompt),
        g->n_generated, g->decode_seconds,
        cli_format_rate(g->decode_seconds > 0 ? (double)g->n_runs / g->decode_seconds : 0,
                        decode_rate),
        g->reason ? g->reason : "an error");
    if (g->n_runs && g->decode_counts.kernels)
        fprintf(stderr, "a decoded token: %.1f kernels, by %.1f calls to the driver\n",
                (double)g->decode_counts.kernels / (double)g->n_runs,
                (double)g->decode_counts.submissions / (double)g->n_runs);
    struct rondo_device_counts counts;
    rondo_device_count(g->device, &counts);
    if (g->n_rows_read && counts.kernels) /* the prompt's last row may be one of them */
        fprintf(stderr, "whole rows of logits that sampling had to read: %zu of %zu\n",
                g->n_rows_read, g->n_runs + 1);
}
