// linear_attention: which kernels do what.
//
// Tensor cores: bf16 activations, head_dim 64 or 128, rows on 16-byte boundaries. Everything else goes the exact path.
// A launch of a kernel covers all sequences of the batch, and each block leaves those that are not its own:
//   linear_attention_chunks.cu  ordinary sequences of more than SHORT_ROWS tokens
//   linear_attention_drafts.cu  draft trees
//   linear_attention_rows.cu    ordinary sequences of up to SHORT_ROWS tokens, tails of the longer ones
// Which of them a sequence meets depends on bounds and on its neighbours in the batch; its bits do not. A decode step
// is one launch, one prompt three, all kinds mixed five.
#include "backend_cuda/linear_attention.cuh"

static bool is_aligned(const struct rondo_tensor *tensor)
{
    size_t size = rondo_dtype_size(tensor->dtype);
    return (uintptr_t)tensor->data % 16 == 0 && (size_t)tensor->row_stride * size % 16 == 0;
}

static bool uses_tiles(const struct rondo_op_linear_attention *op)
{
    return op->cache.dtype == RONDO_BF16 && (op->head_dim == 64 || op->head_dim == 128) &&
           is_aligned(&op->q) && is_aligned(&op->k) && is_aligned(&op->v) && is_aligned(&op->out);
}

const char *GPU(linear_attention_path)(const struct gpu_device *device,
                                       const struct rondo_op_linear_attention *op)
{
    (void)device;
    return uses_tiles(op) ? "mma bf16" : "fma f32";
}

const char *GPU(linear_attention_supports)(const struct gpu_device *device,
                                           const struct rondo_op_linear_attention *op)
{
    (void)device;
    if (op->cache.dtype != RONDO_F32 && op->cache.dtype != RONDO_BF16)
        return "linear_attention: activations that are not f32 or bf16";
    return NULL;
}

size_t GPU(linear_attention_workspace)(const struct gpu_device *device,
                                       const struct rondo_limits *limits)
{
    if (limits->head_dim != 64 && limits->head_dim != 128)
        return 0;
    size_t chunks = GPU(linear_attention_chunks_workspace)(device, limits);
    size_t drafts = GPU(linear_attention_drafts_workspace)(device, limits);
    return chunks > drafts ? chunks : drafts;
}

void GPU(linear_attention)(struct rondo_device *base, const struct rondo_op_linear_attention *op)
{
    struct gpu_device *device = gpu_device_of(base);
    const struct rondo_batch *batch = op->batch;
    if (batch->n_tokens == 0 || batch->n_sequences == 0)
        return;
    if (!uses_tiles(op)) {
        GPU(linear_attention_exact)(device, op);
        return;
    }
    // One long sequence is not asked whether it is short after all.
    bool has_long = batch->max_sequence_tokens > SHORT_ROWS;
    int short_rows = has_long && batch->n_sequences == 1 ? 0 : SHORT_ROWS;
    if (has_long)
        GPU(linear_attention_chunks)(device, op, short_rows);
    if (batch->n_drafts > 0)
        GPU(linear_attention_drafts)(device, op);
    GPU(linear_attention_rows)(device, op, short_rows);
}
