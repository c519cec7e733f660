/* Model, device and context as commands open them, and feeding a session piece by piece. */
#ifndef RONDO_CLI_ENGINE_H
#define RONDO_CLI_ENGINE_H

#include "cli/options.h"
#include "core/error.h"

/* ---- shared options --------------------------------------------------------------------------- */

struct cli_model_options {
    const char *directory;
    int64_t decay_offset;
    double yarn;
};

struct cli_device_options {
    const char *device;
    int64_t threads;
    const char *cpu_mask;
    int mode; /* enum rondo_mode */
    int kv;   /* enum rondo_kv */
    bool strict;
};

struct cli_check_options {
    bool unchecked;
};

struct cli_weight_options {
    bool mlock;
};

/* Options every command that works has. */
struct cli_message_options {
    bool quiet, verbose;
};

#define CLI_MODEL_OPTIONS 3
#define CLI_DEVICE_OPTIONS 6
#define CLI_CHECK_OPTIONS 1
#define CLI_WEIGHT_OPTIONS 1
#define CLI_MESSAGE_OPTIONS 2
extern const struct cli_option cli_model_table[CLI_MODEL_OPTIONS];
extern const struct cli_option cli_device_table[CLI_DEVICE_OPTIONS];
extern const struct cli_option cli_check_table[CLI_CHECK_OPTIONS];
extern const struct cli_option cli_weight_table[CLI_WEIGHT_OPTIONS];
extern const struct cli_option cli_message_table[CLI_MESSAGE_OPTIONS];
extern const char *const cli_mode_names[]; /* NULL-terminated, by enum rondo_mode */
extern const char *const cli_kv_names[];   /* and by enum rondo_kv */

/* "bf16", or "bf16 kv-fp8" */
const char *cli_mode_label(int mode, int kv);

/* ---- opening ---------------------------------------------------------------------------------- */

struct cli_engine {
    struct rondo_model *model;
    struct rondo_device *device;
    struct rondo_context *context;
};

/* Sets what is printed on stderr: log lines and progress. */
void cli_messages(const struct cli_message_options *options);

/* NULL with an error; the directory must have been given. */
struct rondo_model *cli_model_open(const struct cli_model_options *options,
                                   struct rondo_error *error);
struct rondo_device *cli_device_open(const struct cli_device_options *options,
                                     struct rondo_error *error);
/* Model, then device. On failure nothing stays open. */
int cli_engine_open(struct cli_engine *engine, const struct cli_model_options *model,
                    const struct cli_device_options *device, struct rondo_error *error);
/* Prints the memory on stderr, then allocates it. */
int cli_engine_start(struct cli_engine *engine, const struct rondo_context_options *options,
                     struct rondo_error *error);
/* What the options say of the weights of a started engine. */
int cli_engine_weights(struct cli_engine *engine, const struct cli_weight_options *options,
                       struct rondo_error *error);
void cli_engine_close(struct cli_engine *engine);

/* Fails when `n` tokens do not fit a context of max_context, naming both numbers and `hint`: what would help. */
int cli_check_length(const char *what, size_t n, int64_t max_context, const char *hint,
                     struct rondo_error *error);

/* The hint where the context is the model's limit. */
#define CLI_HINT_LIMIT "that is the model's limit, --yarn extends it"

/* ---- feeding ---------------------------------------------------------------------------------- */

/* Makes the item's session hold its tokens, in calls of `chunk` tokens, with progress, and gives what the item wants of
 * the last row of logits. *reused (may be NULL): leading tokens whose caches were kept. After an interruption the
 * session holds fewer tokens, nothing is given and the result is RONDO_OK: ask cli_interrupted. */
int cli_feed(struct rondo_context *context, const struct rondo_run_item *item, size_t chunk,
             size_t *reused, struct rondo_error *error);

/* Takes rows [first, first + n) of logits, n rows of V. Returns a status. */
typedef int cli_rows_function(void *user, const float *logits, size_t first, size_t n,
                              struct rondo_error *error);

/* Appends tokens[0..n) in calls of `chunk` (0: chosen so that a call's logits take some tens of MB) and
 * hands over the logits of every token from `from` on. */
int cli_feed_rows(struct rondo_context *context, struct rondo_session *session,
                  const int32_t *tokens, size_t n, size_t from, size_t chunk,
                  cli_rows_function *take, void *user, struct rondo_error *error);

#endif
