/* Generation: a sequence of tokens is read and continued, and what comes is streamed to stdout. */
#ifndef RONDO_CLI_GENERATE_H
#define RONDO_CLI_GENERATE_H

#include "cli/options.h"
#include "core/rondo.h"

enum cli_output {
    CLI_OUTPUT_TEXT,     /* streamed, special tokens left out */
    CLI_OUTPUT_IDS,      /* nothing while generating; see cli_generation_ids */
    CLI_OUTPUT_LOGPROBS, /* one JSON object per token and line */
};

struct cli_generation {
    /* Set by the caller; pointers stay the caller's. */
    struct rondo_context *context;
    const struct rondo_device *device; /* the context's */
    struct rondo_session *session;
    struct rondo_sampler *sampler;
    const struct rondo_tokenizer *tokenizer; /* may be NULL with CLI_OUTPUT_IDS and no stop text */
    const struct cli_texts *stops;
    enum cli_output output;
    int64_t max_tokens; /* -1: until the context is full */
    size_t chunk;       /* tokens per call while the prompt is read */
    bool ignore_end;    /* go on after end tokens */
    bool special;       /* special tokens are part of the text */

    /* The sequence: the caller puts the prompt in, cli_generate appends. */
    int32_t *tokens; /* [capacity] */
    size_t n_tokens, capacity;

    /* What the last cli_generate did. */
    size_t n_prompt, n_reused, n_generated, n_runs;
    double prompt_seconds, decode_seconds;
    struct rondo_device_counts decode_counts; /* zeros where the device does not count */
    size_t n_rows_read;                       /* of logits, by the sampler */
    const char *reason;                       /* why it ended, in words */
    bool at_end_token;                        /* the last token is an end token */
    char *text; /* [n_text] bytes generated, without a stop text; a NUL follows */
    size_t n_text, text_capacity;

    float *logits; /* [V] with CLI_OUTPUT_LOGPROBS, else NULL */
    int32_t pick;  /* the sampler's of the last row, where that is NULL */
    size_t n_emitted;
    struct rondo_utf8_stream stream;
};

/* Allocates what the output needs by the size of the vocabulary. */
int cli_generation_start(struct cli_generation *generation, struct rondo_error *error);
void cli_generation_release(struct cli_generation *generation);

/* Appends to the sequence; checks the ids. */
int cli_generation_append(struct cli_generation *generation, const int32_t *tokens, size_t n,
                          struct rondo_error *error);

/* Reads the sequence into the session and continues it until an end token, a stop text, max_tokens, the
 * end of the context, or an interruption: all of them are success. */
int cli_generate(struct cli_generation *generation, struct rondo_error *error);

/* Puts the last generated token into the session too, if it is not there and is no end token, so that a
 * saved session can go on after it. */
int cli_generation_settle(struct cli_generation *generation, struct rondo_error *error);

/* One line of statistics on stderr, unless quiet. */
void cli_generation_print_statistics(const struct cli_generation *generation);

#endif
