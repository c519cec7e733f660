/* Inside of a context and its sessions: what core/context.c, session.c, draft.c, compare.c and the session
 * files share. */
#ifndef RONDO_CORE_CONTEXT_H
#define RONDO_CORE_CONTEXT_H

#include "core/plan.h"

/* State kept at a chunk boundary, to go back to. */
struct rondo_snapshot {
    int32_t position; /* tokens it stands after */
    int32_t slot;     /* of the state pool */
};

struct rondo_session {
    struct rondo_context *context;
    int32_t slot;
    int32_t length;
    int32_t *tokens;     /* [max_context] */
    int32_t *page_table; /* [pages of max_context]; the first n_pages are held */
    int32_t n_pages;
    struct rondo_snapshot *snapshots; /* [rondo_snapshots_per_session] oldest first */
    int32_t n_snapshots;
    int32_t n_drafts;                      /* nodes of the tree that stands in the caches */
    int32_t *draft_tokens, *draft_parents; /* [max_draft] */
};

/* What a run does, in this order; sets of these. */
enum rondo_run_part {
    RONDO_RUN_LAYERS = 1,
    RONDO_RUN_LOGITS = 2, /* of a slice; these and all below are its tail */
    RONDO_RUN_BEST = 4,
    RONDO_RUN_PENALIZE = 8,
    RONDO_RUN_CANDIDATES = 16,
};

/* Decoding runs of `rows` sequences, none longer than max_length, and these parts of them as recorded. */
struct rondo_decode_class {
    int32_t rows, max_length;
    unsigned parts;
    bool was_run;
    struct rondo_recording *recording; /* NULL: not yet */
};

#define RONDO_DECODE_CLASSES 64

/* What is wanted of a row of logits; NULL: not that. */
struct rondo_logit_target {
    float *logits; /* [V] */
    int32_t *best; /* [1] id of the largest, or what `sampler` picks; see struct rondo_run_item */
    struct rondo_sampler *sampler;
    const int32_t *history; /* [n_history] of the sampler; stays until the run is over */
    size_t n_history;
};

/* Different ids that are penalised on the device in a row; of more, the row is read. */
#define RONDO_SEEN_MAX 8192

struct rondo_context {
    struct rondo_model *model;
    struct rondo_device *device;
    struct rondo_context_options settings; /* with all defaults filled in; give the same again */
    struct rondo_weights weights;
    struct rondo_plan plan;
    struct rondo_cache cache;
    struct rondo_session **sessions; /* [max_sessions] by slot, NULL where free */
    int32_t page_stride;             /* pages of a session of max_context */

    /* One run, on the host; copied to the arrays of plan.batch. */
    struct {
        int32_t *token, *position, *sequence_of, *parent; /* [max_batch_tokens] */
        struct rondo_batch_sequence *sequences;           /* [max_sessions] */
        const int32_t **page_rows;                        /* [max_sessions] sessions' page tables */
        int32_t *n_pages;                                 /* [max_sessions] of them */
        int32_t *logit_row;                               /* [max_batch_tokens] */
        struct rondo_logit_target *logit_targets; /* [max_batch_tokens] where each row goes */
        char *packed; /* [rondo_run_bytes] all arrays as they go to the device */
        int32_t n_tokens, n_sequences, n_logits;
        int32_t rows;        /* tokens of the batch: n_tokens and padding */
        int32_t first_logit; /* of the slice of logits that runs */
        bool recordable;     /* a decoding run in the shape of its class */
        bool has_tail;       /* recordable too: a row of logits for each token, padding included */
    } run;
    void *batch_memory; /* device, [rondo_run_bytes]: all arrays of plan.batch */

    /* How rows of the run are sampled, and what came of a slice of them. */
    struct {
        int32_t seen_capacity;       /* seen ids of a row at most; of more, the row is read */
        struct rondo_sampling *rows; /* [max_batch_tokens], and seen ids of those behind the last */
        struct rondo_candidates *candidates; /* [RONDO_LOGIT_ROWS] */
        void *memory;                        /* device, [rondo_sampling_bytes]: as rows */
    } sampling;

    struct rondo_decode_class classes[RONDO_DECODE_CLASSES];
    int32_t n_classes, next_class;
    bool no_recordings; /* the device could not make one */

    struct {
        bool on;
        void *values;             /* [largest value] */
        struct rondo_error found; /* status RONDO_OK: nothing yet */
    } checks;

    bool timing;
    struct rondo_step_time times[RONDO_MAX_LABELS]; /* by label_index of the plan */
};

/* Of filled settings, where -1 stands for none. */
int32_t rondo_snapshots_per_session(const struct rondo_context_options *settings);

/* ---- one run, in pieces ------------------------------------------------------------------------- */

/* Bytes of the largest batch. */
size_t rondo_run_bytes(const struct rondo_context_options *settings);
void rondo_run_begin(struct rondo_context *context);
/* Adds `n` tokens of a session; with parents they are draft nodes. Logits of the last `n_logits` of them will
 * be made. The caller has seen to room in the batch and to pages (rondo_session_make_room). */
void rondo_run_add(struct rondo_context *context, struct rondo_session *session,
                   const int32_t *tokens, const int32_t *parents, int32_t n, int32_t n_logits);
/* Runs the batch as a whole: row i of logits goes to run.logit_targets[i]. */
void rondo_run_batch(struct rondo_context *context);
/* The same in pieces, of which nothing is recorded. First: copies the batch to the device and sets the plan's row
 * counts. */
void rondo_run_upload(struct rondo_context *context);
/* Runs steps [first, end) of the plan. */
void rondo_run_steps(struct rondo_context *context, int32_t first, int32_t end);
/* Makes `n` rows of logits from row `first` of those asked for, in slices; row first + i goes to targets[i]. */
void rondo_run_logits(struct rondo_context *context, int32_t first, int32_t n,
                      const struct rondo_logit_target *targets);
/* Seen ids of a row that there is room for. */
int32_t rondo_seen_capacity(const struct rondo_context_options *settings);
/* Bytes of how the rows of the largest batch are sampled. */
size_t rondo_sampling_bytes(const struct rondo_context_options *settings);
/* Copies to the device how rows of logits are to be sampled, if any of the first `n` is; up to `rows`, the others are
 * padding. */
void rondo_sampling_upload(struct rondo_context *context, int32_t n, int32_t rows,
                           const struct rondo_logit_target *targets);
/* The parts that choose from a slice of `rows` rows of logits, the first of them row `first` of those uploaded. */
unsigned rondo_sampling_parts(const struct rondo_context *context, int32_t first, int32_t rows,
                              const struct rondo_logit_target *targets);
/* Runs them. */
void rondo_sampling_run(struct rondo_context *context, int32_t first, unsigned parts);
/* Gives the targets of the slice their ids from what they have made. */
void rondo_sampling_take(struct rondo_context *context, int32_t first, int32_t rows, unsigned parts,
                         const struct rondo_logit_target *targets);

/* Waits for the device. Fails when the device has failed or when a check of steps has found something: what
 * the run wrote, caches included, is worth nothing then. */
int rondo_run_end(struct rondo_context *context, struct rondo_error *error);
/* Releases the recordings. */
void rondo_run_release(struct rondo_context *context);
/* Looks at the results of a step that has just run; true when the run need not go on. */
bool rondo_run_check_step(struct rondo_context *context, int32_t step);

/* ---- sessions ----------------------------------------------------------------------------------- */

/* The page that appending n tokens writes to and that a fork holds too, so that it is copied first; -1: none. */
int32_t rondo_session_shared_page(const struct rondo_session *session, int32_t n);
/* Pages that appending n tokens takes from the pool: new ones and copies of shared ones. */
int32_t rondo_session_pages_needed(const struct rondo_session *session, int32_t n);
/* Takes them; the pool has them. */
void rondo_session_make_room(struct rondo_session *session, int32_t n);
/* Tokens and pages become part of the session after a run. */
void rondo_session_append(struct rondo_session *session, const int32_t *tokens, int32_t n);
/* Gives back pages past what `length` needs and snapshots past it. */
void rondo_session_trim(struct rondo_session *session);

/* Whether what an item wants of its logits can be given; `index` names it in the error. */
int rondo_check_wanted(const struct rondo_context *context, const struct rondo_run_item *item,
                       size_t index, struct rondo_error *error);
int rondo_check_tokens(const struct rondo_context *context, const int32_t *tokens, size_t n,
                       struct rondo_error *error);

#endif
