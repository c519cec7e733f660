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
        int32_t *page_table;                              /* [max_sessions, page_stride] */
        int32_t *logit_row;                               /* [max_batch_tokens] */
        float **logit_out; /* [max_batch_tokens] where each row goes */
        int32_t n_tokens, n_sequences, n_logits;
    } run;
    void *batch_memory;   /* device: all arrays of plan.batch */
    int32_t *accept_path; /* [max_draft] device, in batch_memory */

    bool timing;
    struct rondo_step_time times[32]; /* by label_index of the plan */
};

/* Of filled settings, where -1 stands for none. */
int32_t rondo_snapshots_per_session(const struct rondo_context_options *settings);

/* ---- one run, in pieces ------------------------------------------------------------------------- */

void rondo_run_begin(struct rondo_context *context);
/* Adds `n` tokens of a session; with parents they are draft nodes. Logits of the last `n_logits` of them will
 * be made. The caller has seen to room in the batch and to pages (rondo_session_make_room). */
void rondo_run_add(struct rondo_context *context, struct rondo_session *session,
                   const int32_t *tokens, const int32_t *parents, int32_t n, int32_t n_logits);
/* Copies the batch to the device and sets the plan's row counts. */
void rondo_run_upload(struct rondo_context *context);
/* Runs steps [first, end) of the plan. */
void rondo_run_steps(struct rondo_context *context, int32_t first, int32_t end);
/* Makes all rows of logits, in slices; row i goes to out[i]. */
void rondo_run_logits(struct rondo_context *context, float *const *out);

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

int rondo_check_tokens(const struct rondo_context *context, const int32_t *tokens, size_t n,
                       struct rondo_error *error);

#endif
