/* rondo: a portable engine for hybrid linear-attention mixture-of-experts language models.
 *
 * This is the only public header. Link with -lrondo (pkg-config: rondo).
 *
 * Conventions
 *   errors    Functions that can fail take a `struct rondo_error *` (may be NULL) and return a
 *             rondo_status (0 is success) or a pointer (NULL is failure). On failure nothing the
 *             caller owns has changed unless the function's comment says so.
 *   threads   Objects are not synchronised. Different contexts may be used from different threads at
 *             once if they use different devices; a model may be shared by all of them, read-only.
 *             One device runs one call at a time. A thread's current CUDA or HIP device (and the driver's
 *             current context) is after every call what it was before it.
 *   memory    Whatever a *_create, *_open or *_load returns is released by the matching *_destroy or
 *             *_close, which accept NULL. Nothing allocates inside rondo_context_run once the
 *             context exists.
 *   units     Positions and lengths are counted in tokens, sizes in bytes, logits are natural-log
 *             scale and float32.
 */
#ifndef RONDO_H
#define RONDO_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(RONDO_BUILDING) && defined(__GNUC__)
#define RONDO_API __attribute__((visibility("default")))
#else
#define RONDO_API
#endif

#define RONDO_VERSION_MAJOR 0
#define RONDO_VERSION_MINOR 1
#define RONDO_VERSION_PATCH 0

/* "0.1.0" */
RONDO_API const char *rondo_version(void);

/* ---- errors and messages -------------------------------------------------------------------- */

/* The values are also the exit codes of the command line program. */
enum rondo_status {
    RONDO_OK = 0,
    RONDO_FAILED = 1,     /* a file, a size, a number or the machine is not as it must be */
    RONDO_USAGE = 2,      /* the call itself is wrong: an argument out of its range */
    RONDO_NO_DEVICE = 77, /* the device asked for is not on this machine */
};

struct rondo_error {
    enum rondo_status status;
    char message[1024]; /* one line: "FILE: FIELD: what is wrong (got X, want Y); hint" */
};

enum rondo_log_level { RONDO_LOG_ERROR, RONDO_LOG_WARNING, RONDO_LOG_INFO, RONDO_LOG_DEBUG };

/* One event, one line, no newline at its end. Called from the thread that caused it. */
typedef void rondo_log_function(void *user, enum rondo_log_level level, const char *line);

/* Sets where messages go, process-wide; NULL restores the default (errors and warnings to stderr).
 * Set it before other threads use the library. */
RONDO_API void rondo_log_set(rondo_log_function *function, void *user);

/* Progress of long work: `done` of `total` units of `what`. Return nonzero to cancel. */
typedef int rondo_progress_function(void *user, const char *what, uint64_t done, uint64_t total);

/* ---- numbers -------------------------------------------------------------------------------- */

enum rondo_dtype {
    RONDO_F32,
    RONDO_BF16,
    RONDO_F16,
    RONDO_F8_E4M3, /* OCP: bias 7, no infinity, 0x7f and 0xff are NaN, largest 448 */
    RONDO_I32,
    RONDO_U8,
    RONDO_DTYPE_COUNT
};

RONDO_API size_t rondo_dtype_size(enum rondo_dtype dtype); /* bytes of one element */
RONDO_API const char *
rondo_dtype_name(enum rondo_dtype dtype); /* "f32", "bf16", "f16", "f8_e4m3", ... */

/* Numeric mode of a context. Whatever the mode, the residual stream, norms, RoPE, router, softmax,
 * linear-attention state and logits are computed in f32. */
enum rondo_mode {
    RONDO_MODE_F32,  /* activations and caches f32 */
    RONDO_MODE_BF16, /* activations between ops and caches bf16 */
    RONDO_MODE_FP8, /* as bf16, and inputs of FP8 GEMMs quantised to E4M3 per token and 128 channels */
};

RONDO_API const char *rondo_mode_name(enum rondo_mode mode);

/* How a context keeps the keys and values of softmax-attention layers. Tails of linear layers are activations. */
enum rondo_kv {
    RONDO_KV_AUTO, /* as activations: f32 in mode f32, else bf16 */
    RONDO_KV_FP8, /* E4M3 codes with an f32 scale for each token and head: 1 + 4 / head_dim bytes */
};

RONDO_API const char *rondo_kv_name(enum rondo_kv kv); /* "auto", "fp8" */

/* ---- devices -------------------------------------------------------------------------------- */

struct rondo_device_info {
    char name[32];         /* as rondo_device_open takes it: "cpu", "cpu:avx2", ... */
    char description[160]; /* for people */
    uint64_t memory_total,
        memory_available; /* 0: not known, as what a GPU has free before it is opened */
};

/* Fills up to `capacity` entries and returns how many devices there are. */
RONDO_API size_t rondo_device_list(struct rondo_device_info *devices, size_t capacity);

struct rondo_backend_info {
    char name[16];    /* the part of its devices' names before ':' */
    size_t n_devices; /* of rondo_device_list */
    char reason[200]; /* why there is none, or not every one; "" */
};

/* Fills up to `capacity` entries and returns how many backends this library was built with. */
RONDO_API size_t rondo_backend_list(struct rondo_backend_info *backends, size_t capacity);

struct rondo_device_options {
    int threads; /* 0: one per available core */
    /* highest instruction set used: "ref", "avx2", "avx512", "avx512bf16", "neon"; NULL: best */
    const char *cpu_mask;
    bool strict; /* an op that would fall back to another path is an error, not a log line */
};

struct rondo_device;

/* `name`: "cpu", or "cpu:LEVEL" which is "cpu" with cpu_mask = LEVEL; "cuda" for the first GPU, "cuda:N",
 * "cuda:N+cublaslt" (products of bf16 by cuBLASLt, which the environment variable RONDO_CUBLASLT may name: results may
 * then depend on what shares a batch).
 * `options` may be NULL. */
RONDO_API struct rondo_device *rondo_device_open(const char *name,
                                                 const struct rondo_device_options *options,
                                                 struct rondo_error *error);
RONDO_API void rondo_device_close(struct rondo_device *device);

/* "cpu (avx2, 2 threads)" */
RONDO_API const char *rondo_device_description(const struct rondo_device *device);

struct rondo_device_counts {
    uint64_t kernels;     /* run, those of recordings included */
    uint64_t submissions; /* calls to the driver that started work: kernels, recordings, copies */
};

/* What the device has done since it was opened; false where it does not count. */
RONDO_API bool rondo_device_count(const struct rondo_device *device,
                                  struct rondo_device_counts *counts);

/* ---- model ---------------------------------------------------------------------------------- */

enum rondo_attention { RONDO_ATTENTION_LINEAR, RONDO_ATTENTION_SOFTMAX };
enum rondo_ffn { RONDO_FFN_DENSE, RONDO_FFN_MOE };
enum rondo_score { RONDO_SCORE_SIGMOID, RONDO_SCORE_SOFTMAX };

/* A model's config.json, checked and completed. Names follow the file's where it has one. */
struct rondo_config {
    char architecture[64];
    int32_t vocab_size;          /* V */
    int32_t hidden_size;         /* D */
    int32_t num_hidden_layers;   /* L */
    int32_t num_attention_heads; /* H */
    int32_t num_key_value_heads; /* Hkv, softmax layers only */
    int32_t head_dim;            /* hd */
    int32_t intermediate_size;   /* of dense layers */
    int32_t moe_intermediate_size;
    int32_t shared_intermediate_size; /* of all shared experts together; 0: none */
    int32_t num_experts;              /* E */
    int32_t num_experts_per_tok;      /* K */
    int32_t num_shared_experts;
    int32_t n_group, topk_group;
    int32_t first_k_dense_replace;
    int32_t layer_group_size; /* 0: no linear layer at all */
    int32_t group_norm_size;  /* number of groups of the gated norm */
    int32_t rotary_dim;       /* channels of a head that rotate, even */
    int32_t max_position_embeddings;
    int32_t decay_offset; /* 0 or 1: layer factor of the decay is 1 - (l - offset)/(L-1) + 1e-5 */
    double rope_theta;
    double rms_norm_eps;
    double routed_scaling_factor;
    enum rondo_score score_function;
    bool norm_topk_prob;
    bool use_expert_bias;
    bool use_qk_norm;
    bool linear_silu;
    bool use_qkv_bias;
    bool use_bias;
    bool tie_word_embeddings;
    struct {
        bool enabled;
        double factor, beta_fast, beta_slow,
            attention_factor; /* attention_factor: of cos and sin */
        int32_t original_max_position_embeddings;
    } yarn;
    int32_t bos_token_id; /* -1: none */
    int32_t pad_token_id; /* -1: none */
    int32_t eos_token_ids[8], n_eos_token_ids;
};

struct rondo_model_options {
    int decay_offset;   /* -1: as the file says (0 when it says nothing) */
    double yarn_factor; /* 0: as the file says; > 1: extend the context by YaRN */
    rondo_progress_function *progress;
    void *progress_user;
};

struct rondo_model;

/* Opens a checkpoint directory as published: config.json, *.safetensors (with an index when sharded),
 * generation_config.json when present. Maps the weights, checks that every tensor is there with the
 * shape config.json implies, and that FP8 tensors have scales. Reads no weight data: a file that becomes
 * shorter while the model is open makes later reads of it raise SIGBUS (see rondo_mapped_file). */
RONDO_API struct rondo_model *rondo_model_open(const char *directory,
                                               const struct rondo_model_options *options,
                                               struct rondo_error *error);
RONDO_API void rondo_model_close(struct rondo_model *model);
RONDO_API const struct rondo_config *rondo_model_config(const struct rondo_model *model);
RONDO_API const char *rondo_model_directory(const struct rondo_model *model);

/* The path of the mapped file that an address lies in, NULL when there is none. A handler of SIGBUS may call it, to
 * say which file has changed or could not be read. */
RONDO_API const char *rondo_mapped_file(const void *address);

/* Reads the files into memory and keeps them there until the model is closed, for devices that use weights in place:
 * otherwise the system may drop what was not used for long, and reads it again. Files that the
 * system keeps in small pages are copied to huge ones, where it has them: weights stay at their addresses, and
 * change no more with the file. Contexts are made first, because memory that is locked is no longer available.
 * No weight may be in use meanwhile. Fails, and locks nothing, where the process may not lock so much, and
 * when `progress` (may be NULL) says so. */
RONDO_API int rondo_model_lock(struct rondo_model *model, rondo_progress_function *progress,
                               void *user, struct rondo_error *error);

/* Identifies the weights: file headers, config and samples of the data. Sessions on disk are bound to it. */
RONDO_API uint64_t rondo_model_hash(const struct rondo_model *model);

RONDO_API enum rondo_attention rondo_config_attention(const struct rondo_config *config,
                                                      int32_t layer);
RONDO_API enum rondo_ffn rondo_config_ffn(const struct rondo_config *config, int32_t layer);

/* Reads every weight and scale of the files, those not in use too, and fails at the first NaN or infinity, naming its
 * tensor and place. rondo_context_create checks those in use. */
RONDO_API int rondo_model_check_weights(const struct rondo_model *model,
                                        rondo_progress_function *progress, void *user,
                                        struct rondo_error *error);

struct rondo_tensor_info {
    const char *name;
    enum rondo_dtype dtype;
    int n_dims;
    int64_t shape[4];
    uint64_t size; /* bytes */
    const char *file;
};

RONDO_API size_t rondo_model_tensor_count(const struct rondo_model *model);
RONDO_API void rondo_model_tensor(const struct rondo_model *model, size_t index,
                                  struct rondo_tensor_info *info);

/* ---- context: a model on a device, with its caches ------------------------------------------- */

struct rondo_context_options {
    enum rondo_mode mode;
    enum rondo_kv kv;
    int32_t max_context;      /* tokens one session may hold; 0: max_position_embeddings */
    int32_t max_sessions;     /* sessions alive at once; 0: 1 */
    int32_t max_batch_tokens; /* tokens of one run; longer prompts are cut; 0: 512 */
    int32_t max_draft;        /* nodes of a draft tree; 0: 64 */
    int32_t snapshots; /* state snapshots for prefix reuse kept per session; -1: none; 0: 2 */
    int64_t kv_tokens; /* capacity of the KV pool in tokens; 0: max_context * max_sessions */
    bool unchecked;    /* do not read the weights first; see rondo_context_create */
    /* Of weights that are checked, and copied to the device, and of rondo_compare (that of its `a`); may be NULL. */
    rondo_progress_function *progress;
    void *progress_user;
};

/* Bytes, as rondo_context_create will allocate them. */
struct rondo_memory {
    uint64_t weights;     /* mapped or uploaded */
    uint64_t kv_pages;    /* pool of softmax layers */
    uint64_t states;      /* pool of linear layers: states, tails, snapshots, drafts */
    uint64_t activations; /* arena, workspace and logits */
    uint64_t total;
};

struct rondo_context;

RONDO_API int rondo_context_memory(const struct rondo_model *model, struct rondo_device *device,
                                   const struct rondo_context_options *options,
                                   struct rondo_memory *memory, struct rondo_error *error);
/* Refuses, with both numbers, what does not fit the device. A model's first context reads all weights in use, with every
 * core, and refuses one that is NaN or infinite, naming its tensor and place: several gigabytes a second from memory,
 * the speed of the disk else. With `unchecked` weights are read when they are first used, and such a one gives
 * wrong results: a NaN among FP8 codes may count as 480. */
RONDO_API struct rondo_context *rondo_context_create(struct rondo_model *model,
                                                     struct rondo_device *device,
                                                     const struct rondo_context_options *options,
                                                     struct rondo_error *error);
/* Destroys its sessions too: no pointer to one is valid afterwards. The model and the device outlive it. */
RONDO_API void rondo_context_destroy(struct rondo_context *context);
RONDO_API const struct rondo_model *rondo_context_model(const struct rondo_context *context);
RONDO_API const struct rondo_context_options *
rondo_context_settings(const struct rondo_context *context);

/* Writes the plan, one step a line, to `print` (called once a line). */
RONDO_API void rondo_context_print_plan(const struct rondo_context *context,
                                        void (*print)(void *user, const char *line), void *user);

/* Time per step label since the last reset. `seconds` is the sum over `calls`. */
struct rondo_step_time {
    const char *label;
    uint64_t calls;
    double seconds;
};
RONDO_API void rondo_context_timing(struct rondo_context *context, bool enable); /* also resets */
RONDO_API size_t rondo_context_times(const struct rondo_context *context,
                                     struct rondo_step_time *times, size_t capacity);

/* Looks for the first NaN or infinity: from now on a run reads the results of every step, and fails with the
 * step, layer, row and column where one is met. Slow. */
RONDO_API int rondo_context_check_steps(struct rondo_context *context, bool enable,
                                        struct rondo_error *error);

/* Bytes of weights and caches that decoding one token at `position` reads and writes, by the plan:
 * each weight once (K routed experts), the linear state and tail, the KV pages up to `position`. */
RONDO_API uint64_t rondo_context_decode_bytes(const struct rondo_context *context,
                                              int64_t position);
/* Multiply-adds of GEMMs per token, without the logits' and with K routed experts. */
RONDO_API uint64_t rondo_context_active_macs(const struct rondo_context *context);

/* ---- sessions: one sequence of tokens and its caches ----------------------------------------- */

struct rondo_session;

RONDO_API struct rondo_session *rondo_session_create(struct rondo_context *context,
                                                     struct rondo_error *error);
RONDO_API void rondo_session_destroy(struct rondo_session *session);

RONDO_API size_t rondo_session_length(const struct rondo_session *session);
RONDO_API const int32_t *rondo_session_tokens(const struct rondo_session *session);

/* Which rows of logits a run computes. */
enum rondo_logits { RONDO_LOGITS_NONE, RONDO_LOGITS_LAST, RONDO_LOGITS_ALL };

struct rondo_sampler; /* see below */

/* One session's part of a run: `n` tokens appended to what the session holds. */
struct rondo_run_item {
    struct rondo_session *session;
    const int32_t *tokens; /* [n] */
    size_t n;              /* 0 is allowed and does nothing */
    enum rondo_logits logits;
    float *out;    /* LAST: [V]; ALL: [n, V]; may be NULL with NONE, or with `best` */
    int32_t *best; /* LAST: [1]; ALL: [n]; NULL: not wanted. See below */
    struct rondo_sampler *sampler; /* with LAST and `best` only; NULL: greedy */
};

/* `best` is what the sampler picks of the last row of logits, where the history is what the session holds after the
 * run: what rondo_sampler_pick would. Without a sampler it is what greedy sampling takes of each row: the id of the
 * largest, the lowest one of equals. -1 when no logit is a number. Without `out` the logits stay on the device (see
 * rondo_sampler_rows_read). Of items that share a sampler the first picks first. After a run that failed, draws may
 * have been used.
 *
 * Appends tokens to several sessions at once, each session at most once. Any mix of prompts, pieces of
 * prompts and single tokens is the same call. The numbers of a session do not depend on the other
 * items, on their order, or on how a prompt is cut. Cuts runs longer than max_batch_tokens itself.
 * When the device fails, or a check of steps finds something, the sessions it was working on are empty
 * afterwards. */
RONDO_API int rondo_context_run(struct rondo_context *context, const struct rondo_run_item *items,
                                size_t n_items, struct rondo_error *error);

struct rondo_sync_result {
    size_t reused;      /* leading tokens whose caches were kept */
    size_t computed;    /* tokens that were run */
    const char *reason; /* why reuse stopped there, in words; static string */
};

/* Makes the session hold exactly tokens[0..n) and gives the logits after the last one. Keeps the longest
 * prefix the caches allow: any cut inside the open chunk or past a snapshot. n >= 1; the last token is
 * always run, so that its logits exist. Takes a snapshot itself when it computes a chunk or more. On failure
 * the session holds a prefix of `tokens`. logits: [V], or NULL. */
RONDO_API int rondo_session_sync(struct rondo_session *session, const int32_t *tokens, size_t n,
                                 float *logits, struct rondo_sync_result *result,
                                 struct rondo_error *error);

/* The same for item->session and the tokens of the item, which says what is wanted of the last row of logits as for
 * rondo_context_run, without RONDO_LOGITS_ALL: with `best` and no `out` the first token after a prompt is chosen on
 * the device as the later ones are. */
RONDO_API int rondo_session_sync_item(const struct rondo_run_item *item,
                                      struct rondo_sync_result *result, struct rondo_error *error);

/* Drops tokens past `n`, to the nearest length <= n the caches can go back to; returns that length. */
RONDO_API size_t rondo_session_truncate(struct rondo_session *session, size_t n);

/* A second session with the same tokens. Full KV pages are shared. NULL when no session is free. */
RONDO_API struct rondo_session *rondo_session_fork(struct rondo_session *session,
                                                   struct rondo_error *error);

/* Keeps the state at the last chunk boundary so that a later sync or truncate can return to it. The
 * oldest snapshot gives way when all are in use. Returns the position kept, 0 when there is none. */
RONDO_API size_t rondo_session_snapshot(struct rondo_session *session);

/* Makes the session n tokens long by repeating the tokens it holds, whose number must be a multiple of 64, together
 * with their keys and values; nothing is computed. What is run after that costs what it costs in a context of n
 * tokens, and its logits mean nothing: for benchmarks. */
RONDO_API int rondo_session_repeat(struct rondo_session *session, size_t n,
                                   struct rondo_error *error);

/* Evaluates a tree of draft tokens on top of the session without changing it: parents[i] < i, or -1 for
 * the session's last token. logits: [n, V]. Replaces the drafts of an earlier call. */
RONDO_API int rondo_session_draft(struct rondo_session *session, const int32_t *tokens,
                                  const int32_t *parents, size_t n, float *logits,
                                  struct rondo_error *error);
/* Appends a path of the last draft tree: nodes[0] has parent -1, nodes[i+1] has parent nodes[i]. No model
 * evaluation. The other drafts are dropped; n = 0 drops all. */
RONDO_API int rondo_session_accept(struct rondo_session *session, const int32_t *nodes, size_t n,
                                   struct rondo_error *error);

/* Whole session (tokens, KV pages, states, tails, snapshots) to and from a file: versioned, checksummed,
 * bound to the model's hash, to the mode and to how keys and values are kept. Written atomically. load replaces what the session held; a file
 * that is refused changes nothing, one that can not be read to its end a second time leaves it empty. */
RONDO_API int rondo_session_save(const struct rondo_session *session, const char *path,
                                 struct rondo_error *error);
RONDO_API int rondo_session_load(struct rondo_session *session, const char *path,
                                 struct rondo_error *error);

/* ---- sampling ------------------------------------------------------------------------------- */

struct rondo_sampler_options {
    float temperature; /* 0: greedy */
    int32_t top_k;     /* 0: all */
    float top_p;       /* 1: all */
    float min_p;       /* 0: all; keeps tokens with p >= min_p * p_max */
    float
        repetition_penalty; /* 1: none; logits of seen tokens are divided (> 0) or multiplied (< 0) by it */
    int32_t repetition_window; /* how many of the last tokens count as seen; 0: all */
    uint64_t seed;
};

RONDO_API void rondo_sampler_defaults(struct rondo_sampler_options *options);

struct rondo_sampler;

RONDO_API struct rondo_sampler *rondo_sampler_create(int32_t vocab_size,
                                                     const struct rondo_sampler_options *options,
                                                     struct rondo_error *error);
RONDO_API void rondo_sampler_destroy(struct rondo_sampler *sampler);

/* Picks a token. The n-th pick of a seed is the same on every machine for the same logits. `history`
 * [n_history] feeds the repetition penalty. Ties go to the lower id; a NaN logit is never picked.
 * Returns -1 when no logit is a number. */
RONDO_API int32_t rondo_sampler_pick(struct rondo_sampler *sampler, const float *logits,
                                     const int32_t *history, size_t n_history);

/* How often rondo_context_run had to read a whole row of logits from the device for a pick, because the largest 256 of
 * them and the sum over all did not decide it, or because more than 8192 different ids were penalised. */
RONDO_API uint64_t rondo_sampler_rows_read(const struct rondo_sampler *sampler);

/* log softmax(logits)[token] in double precision, before any sampling option. */
RONDO_API double rondo_log_probability(const float *logits, int32_t vocab_size, int32_t token);

/* ---- text ----------------------------------------------------------------------------------- */

struct rondo_tokenizer;

/* Reads tokenizer.json (byte-level BPE) of a checkpoint directory. */
RONDO_API struct rondo_tokenizer *rondo_tokenizer_open(const char *directory,
                                                       struct rondo_error *error);
RONDO_API void rondo_tokenizer_close(struct rondo_tokenizer *tokenizer);

/* Ids of a text of `length` bytes. Special tokens in the text are recognised only with `special`.
 * *ids is allocated with malloc. Returns their number, -1 on failure. */
RONDO_API int64_t rondo_tokenizer_encode(const struct rondo_tokenizer *tokenizer, const char *text,
                                         size_t length, bool special, int32_t **ids,
                                         struct rondo_error *error);
/* The bytes of one token, not terminated; *length 0 for an id that stands for nothing. Special tokens
 * give their text. */
RONDO_API const char *rondo_tokenizer_piece(const struct rondo_tokenizer *tokenizer, int32_t id,
                                            size_t *length);
RONDO_API bool rondo_tokenizer_is_special(const struct rondo_tokenizer *tokenizer, int32_t id);
RONDO_API int32_t rondo_tokenizer_find(const struct rondo_tokenizer *tokenizer,
                                       const char *piece); /* -1: none */
RONDO_API int32_t rondo_tokenizer_size(const struct rondo_tokenizer *tokenizer);

/* Streaming decode: collects bytes and gives them back only in whole UTF-8 sequences. */
struct rondo_utf8_stream {
    unsigned char pending[4];
    int n_pending;
};
/* Appends `length` bytes; writes what is complete to `out` and returns its length. Capacity of out: length
 * + 4, with `replace` 3 * (length + 4). Bytes that can never become valid UTF-8 come out as U+FFFD only
 * when `replace`, else unchanged. */
RONDO_API size_t rondo_utf8_stream_push(struct rondo_utf8_stream *stream, const char *bytes,
                                        size_t length, bool replace, char *out);
/* Writes what is pending, at most 4 bytes: a sequence that was cut short. */
RONDO_API size_t rondo_utf8_stream_finish(struct rondo_utf8_stream *stream, bool replace,
                                          char *out);

struct rondo_chat_message {
    const char *role; /* "system", "user", "assistant", "tool" */
    const char *content;
    const char *reasoning; /* of assistant messages, may be NULL */
};

struct rondo_chat_options {
    bool thinking;              /* open a <think> block where the template leaves the choice */
    bool add_generation_prompt; /* end with the assistant's header */
    const char *tools_json;     /* JSON array of tool descriptions, or NULL */
};

struct rondo_chat_template;

/* Recognises the template that tokenizer_config.json (or chat_template.jinja) of a directory holds. */
RONDO_API struct rondo_chat_template *rondo_chat_template_open(const char *directory,
                                                               struct rondo_error *error);
RONDO_API void rondo_chat_template_close(struct rondo_chat_template *chat);
RONDO_API const char *rondo_chat_template_name(const struct rondo_chat_template *chat);
/* The prompt as text, malloc'ed. */
RONDO_API char *rondo_chat_template_render(const struct rondo_chat_template *chat,
                                           const struct rondo_chat_message *messages,
                                           size_t n_messages,
                                           const struct rondo_chat_options *options,
                                           struct rondo_error *error);

/* ---- comparison of two contexts --------------------------------------------------------------- */

struct rondo_compare_row {
    const char *label; /* step label, "layer" for the hidden state after a layer, or "logits" */
    int32_t layer;     /* -1: not in a layer */
    double max_abs, nmse, cosine;
    int64_t worst;    /* flat index of the largest difference */
    double tolerance; /* NMSE allowed */
    bool within;
};

enum rondo_compare_kind {
    RONDO_COMPARE_FREE, /* both run alone; one row per layer, and one for the logits */
    RONDO_COMPARE_FORCED, /* B gets A's input of every layer; one row per layer, and one for the logits */
    RONDO_COMPARE_STEPS, /* B gets A's input of every step of layer `layer`; one row per step output */
};

/* Runs the same tokens through fresh sessions of two contexts of one model and reports every row to
 * `row`. Returns RONDO_OK within tolerance, RONDO_FAILED with error->status RONDO_OK when a row is out
 * of tolerance, RONDO_FAILED with a message on failure, and when the progress function of `a` cancels: it is
 * called once a layer. A NaN is always out of tolerance. */
RONDO_API int rondo_compare(struct rondo_context *a, struct rondo_context *b, const int32_t *tokens,
                            size_t n, enum rondo_compare_kind kind, int32_t layer, double tolerance,
                            void (*row)(void *user, const struct rondo_compare_row *row),
                            void *user, struct rondo_error *error);

#ifdef __cplusplus
}
#endif
#endif
