/* A context: a model on a device, with its plan and caches; and the running of batches. */
#include "core/context.h"
#include "core/error.h"
#include "core/sampler.h"

#include <stdlib.h>
#include <string.h>

/* ---- settings and sizes ----------------------------------------------------------------------- */

static int fill_settings(const struct rondo_model *model,
                         const struct rondo_context_options *options,
                         struct rondo_context_options *settings, struct rondo_error *error)
{
    const struct rondo_config *config = &model->config;
    *settings = options ? *options : (struct rondo_context_options){0};
    if ((unsigned)settings->mode > RONDO_MODE_FP8)
        return rondo_fail(error, RONDO_USAGE, "mode: unknown (got %d, want f32, bf16 or fp8)",
                          (int)settings->mode);
    if ((unsigned)settings->kv > RONDO_KV_FP8)
        return rondo_fail(error, RONDO_USAGE, "kv: unknown (got %d, want auto or fp8)",
                          (int)settings->kv);
    if (settings->max_context == 0)
        settings->max_context = config->max_position_embeddings;
    if (settings->max_sessions == 0)
        settings->max_sessions = 1;
    if (settings->max_batch_tokens == 0)
        settings->max_batch_tokens = 512;
    if (settings->max_draft == 0)
        settings->max_draft = 64;
    if (settings->snapshots == 0)
        settings->snapshots = 2;

    const struct {
        const char *name;
        int64_t got, low, high;
    } limits[] = {
        {"max_context", settings->max_context, 1, config->max_position_embeddings},
        {"max_sessions", settings->max_sessions, 1, 65536},
        {"max_batch_tokens", settings->max_batch_tokens, 1, 1 << 20},
        {"max_draft", settings->max_draft, 1, 4096},
        {"snapshots", settings->snapshots, -1, 4096},
        {"kv_tokens", settings->kv_tokens, 0, INT64_C(1) << 36},
    };
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        if (limits[i].got < limits[i].low || limits[i].got > limits[i].high)
            return rondo_fail(
                error, RONDO_USAGE, "%s: out of range (got %lld, want %lld to %lld)%s",
                limits[i].name, (long long)limits[i].got, (long long)limits[i].low,
                (long long)limits[i].high,
                i == 0 ? "; the model's max_position_embeddings is the limit, YaRN extends it"
                       : "");
    }
    if (settings->max_batch_tokens < settings->max_draft)
        settings->max_batch_tokens = settings->max_draft;
    if (settings->kv_tokens == 0) {
        int64_t pages = (settings->max_context + RONDO_CHUNK - 1) / RONDO_CHUNK;
        settings->kv_tokens = pages * RONDO_CHUNK * settings->max_sessions;
    }
    if ((settings->kv_tokens + RONDO_CHUNK - 1) / RONDO_CHUNK > INT32_MAX)
        return rondo_fail(error, RONDO_USAGE,
                          "kv_tokens: too many pages (got %lld tokens, want at most %lld)",
                          (long long)settings->kv_tokens, (long long)INT32_MAX * RONDO_CHUNK);
    return RONDO_OK;
}

int32_t rondo_snapshots_per_session(const struct rondo_context_options *settings)
{
    return settings->snapshots > 0 ? settings->snapshots : 0;
}

static struct rondo_cache_sizes cache_sizes(const struct rondo_context_options *settings)
{
    enum rondo_dtype act = settings->mode == RONDO_MODE_F32 ? RONDO_F32 : RONDO_BF16;
    return (struct rondo_cache_sizes){
        .dtype = act,
        .kv_dtype = settings->kv == RONDO_KV_FP8 ? RONDO_F8_E4M3 : act,
        .n_slots = settings->max_sessions,
        .n_snapshots = settings->max_sessions * rondo_snapshots_per_session(settings),
        .n_pages = (int32_t)((settings->kv_tokens + RONDO_CHUNK - 1) / RONDO_CHUNK),
        .max_draft = settings->max_draft,
    };
}

static struct rondo_limits plan_limits(const struct rondo_config *config,
                                       const struct rondo_context_options *settings)
{
    return (struct rondo_limits){
        .tokens = settings->max_batch_tokens,
        .experts = config->num_experts,
        .experts_per_token = config->num_experts_per_tok,
        .heads = config->num_attention_heads,
        .kv_heads = config->num_key_value_heads,
        .head_dim = config->head_dim,
        .context = settings->max_context,
        .draft = settings->max_draft,
    };
}

/* Uses a built plan, which knows the widths of the products. */
static void add_up(const struct rondo_model *model, struct rondo_device *device,
                   const struct rondo_context_options *settings, const struct rondo_plan *plan,
                   struct rondo_memory *memory)
{
    struct rondo_cache_sizes sizes = cache_sizes(settings);
    bool in_place = device->uses_host_memory && device->uses_host_memory(device);
    memory->weights =
        rondo_weights_device_bytes(model, in_place) + (in_place ? rondo_model_bytes(model) : 0);
    memory->kv_pages = rondo_cache_kv_bytes(&model->config, &sizes);
    memory->states = rondo_cache_state_bytes(&model->config, &sizes);
    memory->activations = rondo_plan_bytes(plan) + device->workspace_size(device, &plan->limits) +
                          rondo_run_bytes(settings) + rondo_sampling_bytes(settings);
    memory->total = memory->weights + memory->kv_pages + memory->states + memory->activations;
}

int rondo_context_memory(const struct rondo_model *model, struct rondo_device *device,
                         const struct rondo_context_options *options, struct rondo_memory *memory,
                         struct rondo_error *error)
{
    struct rondo_context_options settings;
    struct rondo_weights weights;
    struct rondo_plan plan;
    int status = fill_settings(model, options, &settings, error);
    if (status)
        return status;
    if ((status = rondo_weights_load(&weights, model, NULL, NULL, error)))
        return status;
    struct rondo_limits limits = plan_limits(&model->config, &settings);
    status = rondo_plan_build(&plan, &model->config, &weights, settings.mode, &limits, error);
    if (!status) {
        add_up(model, device, &settings, &plan, memory);
        rondo_plan_destroy(&plan);
    }
    rondo_weights_unload(&weights);
    return status;
}

/* ---- making ----------------------------------------------------------------------------------- */

static int create_run(struct rondo_context *context)
{
    size_t T = (size_t)context->settings.max_batch_tokens,
           B = (size_t)context->settings.max_sessions;
    context->page_stride = (context->settings.max_context + RONDO_CHUNK - 1) / RONDO_CHUNK;
    context->sessions = calloc(B, sizeof *context->sessions);
    context->run.token = calloc(T, sizeof(int32_t));
    context->run.position = calloc(T, sizeof(int32_t));
    context->run.sequence_of = calloc(T, sizeof(int32_t));
    context->run.parent = calloc(T, sizeof(int32_t));
    context->run.logit_row = calloc(T, sizeof(int32_t));
    context->run.logit_targets = calloc(T, sizeof *context->run.logit_targets);
    context->run.sequences = calloc(B, sizeof *context->run.sequences);
    context->run.page_rows = calloc(B, sizeof *context->run.page_rows);
    context->run.n_pages = calloc(B, sizeof *context->run.n_pages);
    context->run.packed = calloc(rondo_run_bytes(&context->settings), 1);
    context->batch_memory =
        context->device->allocate(context->device, rondo_run_bytes(&context->settings));
    context->sampling.seen_capacity = rondo_seen_capacity(&context->settings);
    context->sampling.rows = calloc(rondo_sampling_bytes(&context->settings), 1);
    context->sampling.candidates = calloc(RONDO_LOGIT_ROWS, sizeof *context->sampling.candidates);
    context->sampling.memory =
        context->device->allocate(context->device, rondo_sampling_bytes(&context->settings));
    return !context->sessions || !context->run.token || !context->run.position ||
           !context->run.sequence_of || !context->run.parent || !context->run.logit_row ||
           !context->run.logit_targets || !context->run.sequences || !context->run.page_rows ||
           !context->run.n_pages || !context->run.packed || !context->batch_memory ||
           !context->sampling.rows || !context->sampling.candidates || !context->sampling.memory;
}

static bool is_cpu(const struct rondo_device *device)
{
    return strcmp(device->backend->name, "cpu") == 0;
}

static int check_memory(struct rondo_context *context, struct rondo_error *error)
{
    struct rondo_memory memory;
    add_up(context->model, context->device, &context->settings, &context->plan, &memory);
    uint64_t available = context->device->memory_available(context->device);
    rondo_log(RONDO_LOG_INFO,
              "memory: %.1f MB weights, %.1f MB KV pages, %.1f MB linear states, %.1f MB "
              "activations; %.1f MB available",
              (double)memory.weights / 1e6, (double)memory.kv_pages / 1e6,
              (double)memory.states / 1e6, (double)memory.activations / 1e6,
              (double)available / 1e6);
    if (available && memory.total > available)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: does not fit %s (want %.2f GB: weights %.2f, KV pages %.2f, states "
                          "%.2f, activations "
                          "%.2f; got %.2f GB); try a smaller context or fewer sessions%s",
                          context->model->directory, context->device->description,
                          (double)memory.total / 1e9, (double)memory.weights / 1e9,
                          (double)memory.kv_pages / 1e9, (double)memory.states / 1e9,
                          (double)memory.activations / 1e9, (double)available / 1e9,
                          is_cpu(context->device) ? "" : ", or --device cpu");
    return RONDO_OK;
}

/* The plan is first built over the files, to know the sizes, then over the loaded weights. */
static int create_parts(struct rondo_context *context, struct rondo_error *error)
{
    struct rondo_limits limits = plan_limits(&context->model->config, &context->settings);
    const struct rondo_config *config = &context->model->config;
    enum rondo_mode mode = context->settings.mode;
    struct rondo_cache_sizes sizes = cache_sizes(&context->settings);
    struct rondo_load_progress progress = {context->settings.progress,
                                           context->settings.progress_user};
    int status;

    if ((status = rondo_weights_load(&context->weights, context->model, NULL, NULL, error)) ||
        (status =
             rondo_plan_build(&context->plan, config, &context->weights, mode, &limits, error)) ||
        (status = check_memory(context, error)))
        return status;
    rondo_plan_destroy(&context->plan);
    rondo_weights_unload(&context->weights);

    if (!context->settings.unchecked &&
        (status = rondo_weights_check_numbers(context->model, &progress, error)))
        return status;
    if ((status = rondo_weights_load(&context->weights, context->model, context->device, &progress,
                                     error)) ||
        (status =
             rondo_plan_build(&context->plan, config, &context->weights, mode, &limits, error)) ||
        (status = rondo_cache_create(&context->cache, config, &sizes, context->device, error)) ||
        (status = context->device->reserve(context->device, &context->plan.limits, error)) ||
        (status = rondo_plan_place(&context->plan, context->device, &context->cache, error)))
        return status;
    bool made = !create_run(context);
    /* What a device that fails has been given counts for nothing, whatever the calls said. */
    context->device->synchronize(context->device);
    if ((status = rondo_device_status(context->device, error)))
        return status;
    if (!made)
        return rondo_fail(error, RONDO_FAILED, "no memory for a batch of %d tokens and %d sessions",
                          context->settings.max_batch_tokens, context->settings.max_sessions);
    return RONDO_OK;
}

struct rondo_context *rondo_context_create(struct rondo_model *model, struct rondo_device *device,
                                           const struct rondo_context_options *options,
                                           struct rondo_error *error)
{
    struct rondo_context_options settings;
    if (fill_settings(model, options, &settings, error))
        return NULL;
    struct rondo_context *context = calloc(1, sizeof *context);
    if (!context) {
        rondo_fail(error, RONDO_FAILED, "out of memory for a context");
        return NULL;
    }
    context->model = model;
    context->device = device;
    context->settings = settings;
    if (create_parts(context, error)) {
        rondo_context_destroy(context);
        return NULL;
    }
    for (int32_t i = 0; i < context->plan.n_labels; i++)
        context->times[i].label = context->plan.labels[i];
    return context;
}

void rondo_context_destroy(struct rondo_context *context)
{
    if (!context)
        return;
    for (int32_t i = 0; context->sessions && i < context->settings.max_sessions; i++)
        rondo_session_destroy(context->sessions[i]);
    rondo_run_release(context);
    if (context->batch_memory)
        context->device->release(context->device, context->batch_memory);
    if (context->sampling.memory)
        context->device->release(context->device, context->sampling.memory);
    free(context->sampling.rows);
    free(context->sampling.candidates);
    free(context->sessions);
    free(context->run.token);
    free(context->run.position);
    free(context->run.sequence_of);
    free(context->run.parent);
    free(context->run.logit_row);
    free(context->run.logit_targets);
    free(context->run.sequences);
    free(context->run.page_rows);
    free(context->run.n_pages);
    free(context->run.packed);
    free(context->checks.values);
    rondo_plan_destroy(&context->plan);
    if (context->cache.device)
        rondo_cache_destroy(&context->cache);
    rondo_weights_unload(&context->weights);
    free(context);
}

const struct rondo_model *rondo_context_model(const struct rondo_context *context)
{
    return context->model;
}

const struct rondo_context_options *rondo_context_settings(const struct rondo_context *context)
{
    return &context->settings;
}

/* ---- batches of sessions ---------------------------------------------------------------------- */

int rondo_check_tokens(const struct rondo_context *context, const int32_t *tokens, size_t n,
                       struct rondo_error *error)
{
    int32_t vocabulary = context->model->config.vocab_size;
    if (n && !tokens)
        return rondo_fail(error, RONDO_USAGE, "tokens: NULL (want %zu ids)", n);
    for (size_t i = 0; i < n; i++) {
        if (tokens[i] < 0 || tokens[i] >= vocabulary)
            return rondo_fail(error, RONDO_USAGE,
                              "token %zu: id out of range (got %d, want 0 to %d)", i, tokens[i],
                              vocabulary - 1);
    }
    return RONDO_OK;
}

int rondo_check_wanted(const struct rondo_context *context, const struct rondo_run_item *item,
                       size_t index, struct rondo_error *error)
{
    int32_t vocabulary = context->model->config.vocab_size;
    if ((unsigned)item->logits > RONDO_LOGITS_ALL)
        return rondo_fail(error, RONDO_USAGE, "item %zu: logits: unknown (got %d, want %d to %d)",
                          index, (int)item->logits, RONDO_LOGITS_NONE, RONDO_LOGITS_ALL);
    if (item->logits != RONDO_LOGITS_NONE && item->n && !item->out && !item->best)
        return rondo_fail(error, RONDO_USAGE,
                          "item %zu: logits are asked for, and out and best are NULL", index);
    if (item->sampler && (item->logits != RONDO_LOGITS_LAST || !item->best))
        return rondo_fail(error, RONDO_USAGE,
                          "item %zu: a sampler is given (want logits of the last token, and best)",
                          index);
    if (item->sampler && rondo_sampler_vocabulary(item->sampler) != vocabulary)
        return rondo_fail(error, RONDO_USAGE,
                          "item %zu: the sampler has another vocabulary (got %d, want %d)", index,
                          rondo_sampler_vocabulary(item->sampler), vocabulary);
    return RONDO_OK;
}

/* Whether all other holders of the page that item `last` writes to come before it in the run: they copy it, and
 * leave it to this one. */
static bool inherits_page(const struct rondo_context *context, const struct rondo_run_item *items,
                          size_t last)
{
    int32_t page = rondo_session_shared_page(items[last].session, (int32_t)items[last].n);
    if (page < 0)
        return false;
    int32_t others = 0;
    for (size_t i = 0; i < last; i++)
        others += rondo_session_shared_page(items[i].session, (int32_t)items[i].n) == page;
    return others + 1 == context->cache.page_references[page];
}

static int check_items(const struct rondo_context *context, const struct rondo_run_item *items,
                       size_t n_items, struct rondo_error *error)
{
    int64_t pages = 0;
    for (size_t i = 0; i < n_items; i++) {
        const struct rondo_run_item *item = &items[i];
        if (!item->session || item->session->context != context)
            return rondo_fail(error, RONDO_USAGE,
                              "item %zu: its session belongs to another context", i);
        for (size_t j = 0; j < i; j++) {
            if (items[j].session == item->session)
                return rondo_fail(error, RONDO_USAGE, "item %zu: its session is item %zu's too", i,
                                  j);
        }
        int status = rondo_check_wanted(context, item, i, error);
        if (status)
            return status;
        size_t room = (size_t)(context->settings.max_context - item->session->length);
        if (item->n > room)
            return rondo_fail(
                error, RONDO_FAILED,
                "item %zu: the context is full (got %d tokens and %zu more, want at most %d)", i,
                item->session->length, item->n, context->settings.max_context);
        if ((status = rondo_check_tokens(context, item->tokens, item->n, error)))
            return status;
        pages += rondo_session_pages_needed(item->session, (int32_t)item->n) -
                 inherits_page(context, items, i);
    }
    if (pages > context->cache.n_free_pages)
        return rondo_fail(error, RONDO_FAILED,
                          "the KV pool is full (want %lld more pages of %d tokens, got %d); "
                          "end a session or make the pool larger (kv_tokens)",
                          (long long)pages, RONDO_CHUNK, context->cache.n_free_pages);
    return RONDO_OK;
}

/* Where the logits of an item's tokens [from, from + n) go, and how many rows there are. */
static int32_t logit_targets(const struct rondo_context *context, const struct rondo_run_item *item,
                             size_t from, size_t n, struct rondo_logit_target *targets)
{
    size_t V = (size_t)context->model->config.vocab_size;
    if (item->logits == RONDO_LOGITS_ALL) {
        for (size_t i = 0; i < n; i++) {
            targets[i].logits = item->out ? item->out + (from + i) * V : NULL;
            targets[i].best = item->best ? item->best + from + i : NULL;
        }
        return (int32_t)n;
    }
    if (item->logits == RONDO_LOGITS_LAST && from + n == item->n) {
        struct rondo_session *session = item->session;
        *targets = (struct rondo_logit_target){.logits = item->out, .best = item->best};
        if (item->sampler && !rondo_sampler_is_greedy(item->sampler)) {
            /* The tokens become part of the session after the run; the history is all of them. */
            memmove(session->tokens + session->length, item->tokens + from,
                    n * sizeof *item->tokens);
            targets->sampler = item->sampler;
            targets->history = session->tokens;
            targets->n_history = (size_t)session->length + n;
        }
        return 1;
    }
    return 0;
}

/* The next token to run. */
struct cursor {
    const struct rondo_run_item *items; /* [n_items] */
    size_t n_items, item, token;
};

/* Tokens of the cursor's item that lie before `end`. */
static size_t tokens_until(const struct cursor *at, const struct cursor *end)
{
    return (at->item == end->item ? end->token : at->items[at->item].n) - at->token;
}

/* Fills a batch from the cursor on, as far as it has room. */
static void fill_run(struct rondo_context *context, struct cursor *at)
{
    rondo_run_begin(context);
    while (at->item < at->n_items && context->run.n_tokens < context->settings.max_batch_tokens) {
        const struct rondo_run_item *item = &at->items[at->item];
        size_t left = item->n - at->token,
               room = (size_t)(context->settings.max_batch_tokens - context->run.n_tokens);
        size_t n = left < room ? left : room;
        if (n) {
            rondo_session_make_room(item->session, (int32_t)n);
            int32_t rows = logit_targets(context, item, at->token, n,
                                         context->run.logit_targets + context->run.n_logits);
            rondo_run_add(context, item->session, item->tokens + at->token, NULL, (int32_t)n, rows);
        }
        at->token += n;
        if (at->token < item->n)
            break;
        at->item++;
        at->token = 0;
    }
}

/* Sessions of a run that failed: their caches are worth nothing. */
static void empty_run(const struct cursor *start, const struct cursor *end)
{
    for (size_t i = start->item; i < start->n_items && i <= end->item; i++) {
        start->items[i].session->length = 0;
        rondo_session_trim(start->items[i].session);
    }
}

static void append_run(const struct cursor *start, const struct cursor *end)
{
    for (struct cursor at = *start; at.item < at.n_items && at.item <= end->item;
         at.item++, at.token = 0) {
        size_t n = tokens_until(&at, end);
        rondo_session_append(at.items[at.item].session, at.items[at.item].tokens + at.token,
                             (int32_t)n);
    }
}

int rondo_context_run(struct rondo_context *context, const struct rondo_run_item *items,
                      size_t n_items, struct rondo_error *error)
{
    int status = check_items(context, items, n_items, error);
    if (status)
        return status;
    struct cursor cursor = {items, n_items, 0, 0};
    while (cursor.item < n_items) {
        struct cursor start = cursor;
        fill_run(context, &cursor);
        if (!context->run.n_tokens)
            continue;
        rondo_run_batch(context);
        if ((status = rondo_run_end(context, error))) {
            empty_run(&start, &cursor);
            return status;
        }
        append_run(&start, &cursor);
    }
    return RONDO_OK;
}

/* ---- plan, times, sizes ------------------------------------------------------------------------ */

void rondo_context_print_plan(const struct rondo_context *context,
                              void (*print)(void *user, const char *line), void *user)
{
    for (int32_t i = 0; i < context->plan.n_steps; i++) {
        char line[512];
        rondo_step_print(&context->plan, i, line, sizeof line);
        print(user, line);
    }
}

void rondo_context_timing(struct rondo_context *context, bool enable)
{
    context->timing = enable;
    for (int32_t i = 0; i < context->plan.n_labels; i++) {
        context->times[i].calls = 0;
        context->times[i].seconds = 0;
    }
}

size_t rondo_context_times(const struct rondo_context *context, struct rondo_step_time *times,
                           size_t capacity)
{
    size_t count = (size_t)context->plan.n_labels;
    for (size_t i = 0; i < count && i < capacity; i++)
        times[i] = context->times[i];
    return count < capacity ? count : capacity;
}

uint64_t rondo_context_decode_bytes(const struct rondo_context *context, int64_t position)
{
    const struct rondo_plan *plan = &context->plan;
    const struct rondo_config *config = plan->config;
    uint64_t hd = (uint64_t)config->head_dim, element = rondo_dtype_size(context->cache.dtype);
    uint64_t page = rondo_cache_page_bytes(&context->cache); /* keys or values of C positions */
    uint64_t bytes = 0;
    for (int32_t i = 0; i < plan->n_steps; i++) {
        const struct rondo_step *step = &plan->steps[i];
        bytes += step->weight_bytes;
        if (step->op == RONDO_OP_LINEAR_ATTENTION) {
            uint64_t H = (uint64_t)config->num_attention_heads,
                     rows = (uint64_t)(position % RONDO_CHUNK) + 1;
            bytes += H * hd * hd * sizeof(float) + 2 * rows * H * hd * element;
        } else if (step->op == RONDO_OP_SOFTMAX_ATTENTION) {
            bytes += 2 * ((uint64_t)position + 1) * page / RONDO_CHUNK;
        }
    }
    return bytes;
}

uint64_t rondo_context_active_macs(const struct rondo_context *context)
{
    const struct rondo_plan *plan = &context->plan;
    uint64_t macs = 0;
    for (int32_t i = 0; i < plan->layer_first[plan->config->num_hidden_layers]; i++)
        macs += plan->steps[i].macs;
    return macs;
}
