/* The check of op arguments, once, when a plan is placed: kernels trust what passes here. */
#include "core/backend.h"
#include "core/error.h"

/* A check that fails names the step, the field, and what stands there. */
struct check {
    const char *label;
    struct rondo_error *error;
    int status;
};

static void want(struct check *check, bool good, const char *field, const char *rule)
{
    if (!good && !check->status)
        check->status =
            rondo_fail(check->error, RONDO_USAGE, "%s: %s: %s", check->label, field, rule);
}

static void want_size(struct check *check, const char *field, int64_t got, int64_t expected)
{
    if (got != expected && !check->status)
        check->status =
            rondo_fail(check->error, RONDO_USAGE, "%s: %s: wrong size (got %lld, want %lld)",
                       check->label, field, (long long)got, (long long)expected);
}

static bool is_act(enum rondo_dtype dtype)
{
    return dtype == RONDO_F32 || dtype == RONDO_BF16;
}

static bool is_weight(enum rondo_dtype dtype)
{
    return is_act(dtype) || dtype == RONDO_F16 || dtype == RONDO_F8_E4M3;
}

/* Activations: aligned to their elements, rows at least as far apart as they are long. */
static void want_tensor(struct check *check, const char *field, const struct rondo_tensor *tensor,
                        int64_t rows, int64_t columns)
{
    want(check, tensor->data || rows == 0, field, "has no data");
    want(check, tensor->n_dims == 2, field, "is not a matrix");
    want(check, (uintptr_t)tensor->data % rondo_dtype_size(tensor->dtype) == 0, field,
         "is not aligned to its elements");
    want(check, tensor->row_stride >= tensor->shape[1], field, "has overlapping rows");
    want_size(check, field, tensor->shape[0], rows);
    want_size(check, field, tensor->shape[1], columns);
}

static void want_apart(struct check *check, const struct rondo_tensor *a,
                       const struct rondo_tensor *b, const char *field)
{
    if (!a->shape[0] || !b->shape[0])
        return;
    const char *a_end = (char *)rondo_tensor_row(a, a->shape[0] - 1) +
                        (size_t)a->shape[1] * rondo_dtype_size(a->dtype);
    const char *b_end = (char *)rondo_tensor_row(b, b->shape[0] - 1) +
                        (size_t)b->shape[1] * rondo_dtype_size(b->dtype);
    want(check, a_end <= (char *)b->data || b_end <= (char *)a->data, field, "overlaps an input");
}

/* Weights may stand anywhere in a file; their scales are f32. */
static void want_weight(struct check *check, const char *field, const struct rondo_tensor *weight)
{
    want(check, weight->data != NULL, field, "has no data");
    want(check, is_weight(weight->dtype), field,
         "is not a weight dtype (want f32, bf16, f16 or f8_e4m3)");
    want(check, weight->n_dims == 2 && weight->row_stride == weight->shape[1], field,
         "is not a dense matrix");
    want(check, weight->dtype != RONDO_F8_E4M3 || weight->scale, field,
         "is f8_e4m3 without scales");
    if (weight->scale) {
        bool block = weight->scale_rows == RONDO_BLOCK && weight->scale_columns == RONDO_BLOCK;
        bool row = weight->scale_rows == 1 && weight->scale_columns >= weight->shape[1];
        want(check, block || row, field,
             "has scales that are neither of 128x128 blocks nor of rows");
    }
}

/* The input of a product: an activation, or codes with one scale per 128. */
static void want_input(struct check *check, const struct rondo_tensor *x)
{
    if (x->dtype != RONDO_F8_E4M3) {
        want(check, is_act(x->dtype), "x", "is not f32, bf16 or quantised");
        return;
    }
    want(check, x->scale && x->scale_rows == 1 && x->scale_columns == RONDO_BLOCK, "x",
         "is f8_e4m3 without scales of 1x128");
}

/* An output of channels: act, or codes with room for their scales. */
static void want_output(struct check *check, const char *field, const struct rondo_tensor *out)
{
    if (out->dtype != RONDO_F8_E4M3) {
        want(check, is_act(out->dtype), field, "is not f32, bf16 or f8_e4m3");
        return;
    }
    want(check,
         out->scale && out->scale_stride * RONDO_BLOCK >= out->shape[1] && out->scale_rows == 1 &&
             out->scale_columns == RONDO_BLOCK,
         field, "has no room for scales of 1x128");
}

static void check_embedding(struct check *check, const struct rondo_op_embedding *op)
{
    want(check, is_weight(op->table.dtype) && op->table.data, "table",
         "is not a table of floating point rows");
    want(check, op->out.dtype == RONDO_F32, "out", "is not f32");
    want_tensor(check, "out", &op->out, op->out.shape[0], op->table.shape[1]);
}

static void check_rmsnorm(struct check *check, const struct rondo_op_rmsnorm *op)
{
    want(check, op->x.dtype == RONDO_F32, "x", "is not f32");
    want_output(check, "out", &op->out);
    want(check, op->weight != NULL, "weight", "is missing");
    want_tensor(check, "x", &op->x, op->x.shape[0], op->x.shape[1]);
    want_tensor(check, "out", &op->out, op->n_rows, op->x.shape[1]);
    want(check, op->rows || op->x.shape[0] >= op->n_rows, "n_rows", "is more than x has");
    want_apart(check, &op->x, &op->out, "out");
    if (!op->codes.data)
        return;
    want(check, op->codes.dtype == RONDO_F8_E4M3 && op->out.dtype == RONDO_BF16, "codes",
         "are not f8_e4m3 of bf16");
    want_output(check, "codes", &op->codes);
    want_tensor(check, "codes", &op->codes, op->n_rows, op->x.shape[1]);
    want_apart(check, &op->x, &op->codes, "codes");
    want_apart(check, &op->out, &op->codes, "codes");
}

static void check_quantize(struct check *check, const struct rondo_op_quantize *op)
{
    want(check, is_act(op->x.dtype), "x", "is not f32 or bf16");
    want(check, op->out.dtype == RONDO_F8_E4M3, "out", "is not f8_e4m3");
    want_output(check, "out", &op->out);
    want_tensor(check, "out", &op->out, op->x.shape[0], op->x.shape[1]);
    want_apart(check, &op->x, &op->out, "out");
}

static void check_gemm(struct check *check, const struct rondo_op_gemm *op)
{
    want_input(check, &op->x);
    want(check, op->n_parts >= 1 && op->n_parts <= 4, "n_parts", "is not 1 to 4");
    for (int i = 0; i < op->n_parts && !check->status; i++) {
        const struct rondo_gemm_part *part = &op->part[i];
        want_weight(check, "weight", &part->weight);
        want_size(check, "weight", part->weight.shape[1], op->x.shape[1]);
        want_tensor(check, "out", &part->out, op->x.shape[0], part->weight.shape[0]);
        want(check, is_act(part->out.dtype), "out", "is not f32 or bf16");
        want(check, !op->residual || part->out.dtype == RONDO_F32, "out",
             "is a residual and not f32");
        want_apart(check, &op->x, &part->out, "out");
    }
}

static void check_grouped_gemm(struct check *check, const struct rondo_op_grouped_gemm *op)
{
    want_input(check, &op->x);
    want(check, op->n_parts == 1 || op->n_parts == 2, "n_parts", "is not 1 or 2");
    want(check, op->n_experts >= 1 && op->offsets, "offsets", "is missing");
    int64_t width = 0;
    for (int i = 0; i < op->n_parts && !check->status; i++) {
        const struct rondo_tensor *first = &op->weight[i][0];
        width += first->shape[0];
        for (int32_t e = 0; e < op->n_experts && !check->status; e++) {
            const struct rondo_tensor *weight = &op->weight[i][e];
            want_weight(check, "weight", weight);
            want_size(check, "weight", weight->shape[0], op->weight[0][0].shape[0]);
            want_size(check, "weight", weight->shape[1], op->x.shape[1]);
            want(check, op->mixed || rondo_tensor_stored_alike(weight, first), "weight",
                 "is stored unlike expert 0's, and the experts are not said to be mixed");
        }
    }
    want(check, is_act(op->out.dtype), "out", "is not f32 or bf16");
    want_tensor(check, "out", &op->out, op->n_rows, width);
    want_apart(check, &op->x, &op->out, "out");
}

static void check_qkv(struct check *check, const struct rondo_op_qkv *op)
{
    int64_t T = op->qkv.shape[0], hd = op->head_dim;
    want(check, hd > 0 && op->heads > 0 && op->kv_heads > 0 && op->heads % op->kv_heads == 0,
         "heads", "do not divide into key/value heads");
    want(check, op->rotary_dim >= 0 && op->rotary_dim <= hd && op->rotary_dim % 2 == 0,
         "rotary_dim", "is not an even part of the head");
    want(check, !op->rotary_dim || (op->rope_cos && op->rope_sin), "rope_cos", "is missing");
    want_tensor(check, "qkv", &op->qkv, T, (op->heads + 2 * op->kv_heads) * hd);
    want_tensor(check, "q", &op->q, T, op->heads * hd);
    want_tensor(check, "k", &op->k, T, op->kv_heads * hd);
    want_tensor(check, "v", &op->v, T, op->kv_heads * hd);
    want(check, is_act(op->qkv.dtype) && op->q.dtype == op->k.dtype && op->q.dtype == op->v.dtype,
         "q", "is not stored like k and v");
    want_apart(check, &op->qkv, &op->q, "q");
    want_apart(check, &op->qkv, &op->k, "k");
    want_apart(check, &op->qkv, &op->v, "v");
}

static void check_linear_attention(struct check *check, const struct rondo_op_linear_attention *op)
{
    int64_t T = op->q.shape[0], width = (int64_t)op->heads * op->head_dim;
    want_tensor(check, "q", &op->q, T, width);
    want_tensor(check, "k", &op->k, T, width);
    want_tensor(check, "v", &op->v, T, width);
    want_tensor(check, "out", &op->out, T, width);
    want(check, op->out.dtype == RONDO_F32, "out", "is not f32");
    want(check, op->cache.state && op->cache.tail_k && op->cache.tail_v, "cache", "is missing");
    want(check,
         op->cache.dtype == op->k.dtype && op->q.dtype == op->k.dtype && op->v.dtype == op->k.dtype,
         "cache", "is not of the dtype of q, k and v");
    want(check, op->decay_power != NULL, "decay_power", "is missing");
    want_apart(check, &op->q, &op->out, "out");
    want_apart(check, &op->k, &op->out, "out");
    want_apart(check, &op->v, &op->out, "out");
}

static void check_softmax_attention(struct check *check,
                                    const struct rondo_op_softmax_attention *op)
{
    int64_t T = op->q.shape[0], hd = op->head_dim;
    want(check, op->kv_heads > 0 && op->heads % op->kv_heads == 0, "heads",
         "do not divide into key/value heads");
    want_tensor(check, "q", &op->q, T, op->heads * hd);
    want_tensor(check, "k", &op->k, T, op->kv_heads * hd);
    want_tensor(check, "v", &op->v, T, op->kv_heads * hd);
    want_tensor(check, "out", &op->out, T, op->heads * hd);
    want(check, is_act(op->out.dtype), "out", "is not f32 or bf16");
    want(check, op->cache.k && op->cache.v, "cache", "is missing");
    want(check, op->q.dtype == op->k.dtype && op->v.dtype == op->k.dtype, "q",
         "is not stored like k and v");
    want(check, op->cache.dtype == op->k.dtype || op->cache.dtype == RONDO_F8_E4M3, "cache",
         "is neither of the dtype of k and v nor f8_e4m3");
    want_apart(check, &op->q, &op->out, "out");
    want_apart(check, &op->k, &op->out, "out");
    want_apart(check, &op->v, &op->out, "out");
}

static void check_group_norm_gate(struct check *check, const struct rondo_op_group_norm_gate *op)
{
    want(check, op->x.dtype == RONDO_F32, "x", "is not f32");
    want(check, op->n_groups > 0 && op->x.shape[1] % op->n_groups == 0, "n_groups",
         "does not divide the channels");
    want_tensor(check, "gate", &op->gate, op->x.shape[0], op->x.shape[1]);
    want_tensor(check, "out", &op->out, op->x.shape[0], op->x.shape[1]);
    want(check, is_act(op->gate.dtype), "gate", "is not f32 or bf16");
    want_output(check, "out", &op->out);
    want(check, op->weight != NULL, "weight", "is missing");
    want_apart(check, &op->x, &op->out, "out");
    want_apart(check, &op->gate, &op->out, "out");
}

static void check_router(struct check *check, const struct rondo_op_router *op)
{
    int64_t E = op->logits.shape[1];
    want(check, op->logits.dtype == RONDO_F32, "logits", "are not f32");
    want_tensor(check, "logits", &op->logits, op->logits.shape[0], E);
    want(check, op->n_group > 0 && E % op->n_group == 0, "n_group", "does not divide the experts");
    want(check, op->topk_group > 0 && op->topk_group <= op->n_group, "topk_group",
         "is not 1 to n_group");
    want(check,
         op->n_group > 0 && op->experts_per_token > 0 &&
             op->experts_per_token <= op->topk_group * (E / op->n_group),
         "experts_per_token", "is more than the chosen groups have");
    want(check, op->ids && op->weights, "ids", "are missing");
}

static void check_group_tokens(struct check *check, const struct rondo_op_group_tokens *op)
{
    want(check, op->ids && op->offsets && op->row_of && op->token_of, "ids",
         "or a result is missing");
    want(check, op->n_experts > 0 && op->experts_per_token > 0, "n_experts", "is not positive");
}

static void check_gemm_router(struct check *check, const struct rondo_op_gemm_router *op)
{
    const struct rondo_tensor *made = &op->gemm.part[0].out, *routed = &op->router.logits;
    check_gemm(check, &op->gemm);
    check_router(check, &op->router);
    want(check, !op->gemm.residual, "logits", "are a residual");
    want(check, made->data == routed->data && made->row_stride == routed->row_stride, "logits",
         "are not what the first part makes");
    want_size(check, "logits", routed->shape[0], made->shape[0]);
    want_size(check, "logits", routed->shape[1], made->shape[1]);
    want(check, made->dtype == RONDO_F32, "logits", "are not made as f32");
    if (!op->group.offsets)
        return;
    check_group_tokens(check, &op->group);
    want(check, op->group.ids == op->router.ids, "ids", "are not the router's");
    want_size(check, "n_experts", op->group.n_experts, routed->shape[1]);
    want_size(check, "experts_per_token", op->group.experts_per_token,
              op->router.experts_per_token);
    want_size(check, "n_tokens", op->group.n_tokens, routed->shape[0]);
}

static void check_swiglu(struct check *check, const struct rondo_op_swiglu *op)
{
    want(check, is_act(op->x.dtype), "x", "is not f32 or bf16");
    want_output(check, "out", &op->out);
    want_tensor(check, "x", &op->x, op->x.shape[0], 2 * op->out.shape[1]);
    want_tensor(check, "out", &op->out, op->x.shape[0], op->out.shape[1]);
    want_apart(check, &op->x, &op->out, "out");
}

static void check_combine(struct check *check, const struct rondo_op_combine *op)
{
    int64_t T = op->h.shape[0], D = op->h.shape[1];
    want(check, op->h.dtype == RONDO_F32, "h", "is not f32");
    want_tensor(check, "h", &op->h, T, D);
    want_tensor(check, "y", &op->y, T * op->experts_per_token, D);
    if (op->shared.data)
        want_tensor(check, "shared", &op->shared, T, D);
    want(check, op->row_of && op->weights, "row_of", "or weights are missing");
    want_apart(check, &op->y, &op->h, "h");
    if (op->norm.data) {
        struct rondo_op_rmsnorm norm = rondo_combine_norm(op);
        check_rmsnorm(check, &norm);
    }
}

static void check_argmax(struct check *check, const struct rondo_op_argmax *op)
{
    want(check, op->x.dtype == RONDO_F32, "x", "is not f32");
    want_tensor(check, "x", &op->x, op->x.shape[0], op->x.shape[1]);
    want(check, op->ids != NULL, "ids", "are missing");
}

static void check_penalize(struct check *check, const struct rondo_op_penalize *op)
{
    want(check, op->x.dtype == RONDO_F32, "x", "is not f32");
    want_tensor(check, "x", &op->x, op->x.shape[0], op->x.shape[1]);
    want(check, op->max_seen >= 0, "max_seen", "is negative");
}

static void check_candidates(struct check *check, const struct rondo_op_candidates *op)
{
    want(check, op->x.dtype == RONDO_F32, "x", "is not f32");
    want_tensor(check, "x", &op->x, op->x.shape[0], op->x.shape[1]);
    want(check, op->x.shape[1] <= RONDO_MAX_VOCABULARY, "x", "has more than 2^23 columns");
    want(check, op->out && (uintptr_t)op->out % sizeof(uint64_t) == 0, "out",
         "is missing or not aligned to 8 bytes");
}

static void check_accept(struct check *check, const struct rondo_op_accept *op)
{
    want(check, op->slot >= 0 && op->start >= 0 && op->n >= 0, "slot", "or a count is negative");
    want(check, (op->linear.state != NULL) != (op->kv.k != NULL), "linear",
         "and kv: want exactly one of them");
    want(check, !op->linear.state || op->decay_power, "decay_power", "is missing");
    want(check, op->heads > 0 && op->head_dim > 0, "heads", "is not positive");
}

int rondo_op_check(enum rondo_op op, const void *args, const char *label, struct rondo_error *error)
{
    struct check check = {.label = label, .error = error};
    switch (op) {
    case RONDO_OP_EMBEDDING:
        check_embedding(&check, args);
        break;
    case RONDO_OP_RMSNORM:
        check_rmsnorm(&check, args);
        break;
    case RONDO_OP_QUANTIZE:
        check_quantize(&check, args);
        break;
    case RONDO_OP_GEMM:
        check_gemm(&check, args);
        break;
    case RONDO_OP_GROUPED_GEMM:
        check_grouped_gemm(&check, args);
        break;
    case RONDO_OP_QKV:
        check_qkv(&check, args);
        break;
    case RONDO_OP_LINEAR_ATTENTION:
        check_linear_attention(&check, args);
        break;
    case RONDO_OP_SOFTMAX_ATTENTION:
        check_softmax_attention(&check, args);
        break;
    case RONDO_OP_ACCEPT:
        check_accept(&check, args);
        break;
    case RONDO_OP_GROUP_NORM_GATE:
        check_group_norm_gate(&check, args);
        break;
    case RONDO_OP_ROUTER:
        check_router(&check, args);
        break;
    case RONDO_OP_GEMM_ROUTER:
        check_gemm_router(&check, args);
        break;
    case RONDO_OP_GROUP_TOKENS:
        check_group_tokens(&check, args);
        break;
    case RONDO_OP_SWIGLU:
        check_swiglu(&check, args);
        break;
    case RONDO_OP_COMBINE:
        check_combine(&check, args);
        break;
    case RONDO_OP_ARGMAX:
        check_argmax(&check, args);
        break;
    case RONDO_OP_PENALIZE:
        check_penalize(&check, args);
        break;
    case RONDO_OP_CANDIDATES:
        check_candidates(&check, args);
        break;
    case RONDO_OP_COUNT:
        want(&check, false, "op", "is unknown");
        break;
    }
    return check.status;
}
