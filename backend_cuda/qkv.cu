// qkv: splits a fused row into heads, with silu, norm and RoPE. The order of core/ops.h, bit for bit.
//
// Half a warp takes a head, or two at once where there are many tokens: lane l reads channels 8 l .. 8 l + 7 by one
// 16-byte load (and those 128 further on, in longer heads), applies silu, and puts them into shared memory. From
// there lane l takes channels l, l+16, ... for the sum of squares, and the partners of its own channels for RoPE. No
// barrier is wider than a warp. A block has one token, so that its position is looked up once, beside the first loads.
//
// Bytes of a token of (H + 2 Hkv) hd channels: as many in as out. 8192 tokens in bf16, H100: 16 + 2 x 16 heads of 128
// 201 MB, floor 60 us; 16 + 2 x 4 heads 101 MB, 30 us. With silu about 45 instructions a channel: issue slots are
// filled for 70 us of the former. Predicted 70 % of the floor; without silu 85 %. One token: 3 us.
// Checked under emulation, never run on a device.
#include "backend_cuda/rows.cuh"

namespace
{

constexpr int THREADS = 128;
constexpr int HALVES = THREADS / GROUP_LANES;

struct qkv {
    const char *qkv;
    char *out[3]; // q, k, v
    int64_t qkv_stride, out_stride[3];
    const float *weight[3]; // NULL: no norm
    const float *rope_cos, *rope_sin;
    const int32_t *position, *sequence_of;
    const struct rondo_batch_sequence *sequences;
    int32_t heads, kv_heads, head_dim, half; // half of the rotated channels
    int32_t per_block;                       // heads of a token that a block takes
    int32_t staged;                          // floats from a staged head to the next
    int32_t out_dtype;
    float eps;
    bool silu;
};

// Where head `head` goes, counted over q, k and v.
__device__ __forceinline__ int section_of(const struct qkv &op, int32_t head)
{
    return head < op.heads ? 0 : head < op.heads + op.kv_heads ? 1 : 2;
}

// Reads a head, applies silu, stages it.
template <int DTYPE, bool VECTOR>
__device__ __forceinline__ void stage(const struct qkv &op, int64_t token, int32_t head,
                                      int32_t end, float *to)
{
    const char *from = op.qkv + (token * op.qkv_stride + (int64_t)head * op.head_dim) *
                                    (DTYPE == RONDO_F32 ? 4 : 2);
    for (int32_t at = LANE_CHANNELS * (int32_t)(threadIdx.x % GROUP_LANES); at < end;
         at += RONDO_BLOCK) {
        struct eight x = load8<DTYPE, VECTOR>(from, at, end);
        if (op.silu) {
            struct eight open = sigmoid8(x);
            for (int i = 0; i < LANE_CHANNELS; i++)
                x.v[i] = x.v[i] * open.v[i];
        }
        store8<VECTOR>(to, RONDO_F32, at, end, x);
    }
}

// RoPE of the channels at .. at + 7, which stand normed in x; `partner` are those they turn with. `sign` is -1 for
// the first of a pair.
__device__ __forceinline__ float turn(float x, float partner, float cosine, float sine, bool first)
{
    return first ? fmaf(-partner, sine, x * cosine) : fmaf(partner, sine, x * cosine);
}

// The norm, RoPE and output of a staged head; r is the inverse of its root mean square.
template <bool VECTOR>
__device__ __forceinline__ void finish(const struct qkv &op, int64_t token, int64_t position,
                                       int32_t head, int32_t end, const float *from, float r)
{
    int section = section_of(op, head);
    int32_t first = section == 0   ? head
                    : section == 1 ? head - op.heads
                                   : head - op.heads - op.kv_heads;
    const float *weight = op.weight[section];
    int32_t half = section < 2 ? op.half : 0, n = op.head_dim;
    const float *cosine = op.rope_cos + position * op.half,
                *sine = op.rope_sin + position * op.half;
    char *out = op.out[section] + (token * op.out_stride[section] + (int64_t)first * n) *
                                      (op.out_dtype == RONDO_F32 ? 4 : 2);
    for (int32_t at = LANE_CHANNELS * (int32_t)(threadIdx.x % GROUP_LANES); at < end;
         at += RONDO_BLOCK) {
        struct eight x = load8<RONDO_F32, VECTOR>(from, at, n);
        if (weight) {
            struct eight w = load8<RONDO_F32, VECTOR>(weight, at, n);
            for (int i = 0; i < LANE_CHANNELS; i++)
                x.v[i] = x.v[i] * r * w.v[i];
        }
        if (VECTOR && at < 2 * half) { // eight channels on one side of a pair
            bool low = at < half;
            int32_t other = low ? at + half : at - half, angle = low ? at : at - half;
            struct eight y = load8<RONDO_F32, VECTOR>(from, other, n);
            if (weight) {
                struct eight w = load8<RONDO_F32, VECTOR>(weight, other, n);
                for (int i = 0; i < LANE_CHANNELS; i++)
                    y.v[i] = y.v[i] * r * w.v[i];
            }
            struct eight c = load8<RONDO_F32, VECTOR>(cosine, angle, half);
            struct eight s = load8<RONDO_F32, VECTOR>(sine, angle, half);
            for (int i = 0; i < LANE_CHANNELS; i++)
                x.v[i] = turn(x.v[i], y.v[i], c.v[i], s.v[i], low);
        }
        for (int i = 0; !VECTOR && i < LANE_CHANNELS && at + i < 2 * half && at + i < n; i++) {
            bool low = at + i < half;
            int32_t other = low ? at + i + half : at + i - half, angle = low ? at + i : other;
            float y = weight ? from[other] * r * weight[other] : from[other];
            x.v[i] = turn(x.v[i], y, cosine[angle], sine[angle], low);
        }
        store8<VECTOR>(out, op.out_dtype, at, n, x);
    }
}

template <int DTYPE, bool VECTOR, int AT_ONCE>
__global__ void __launch_bounds__(THREADS) qkv_kernel(struct qkv op)
{
    wait_for_previous();
    DYN_SHARED(float, shared);
    int64_t token = blockIdx.x;
    int32_t total = op.heads + 2 * op.kv_heads, lane = (int32_t)(threadIdx.x % GROUP_LANES);
    int32_t begin = (int32_t)blockIdx.y * op.per_block;
    int32_t stop = begin + op.per_block < total ? begin + op.per_block : total;
    float *area = shared + (int)threadIdx.x / GROUP_LANES * AT_ONCE * op.staged;
    int64_t position = op.position[token];
    if (op.sequences[op.sequence_of[token]].slot < 0)
        return; // padding: its position may be anything
    // Every lane of a warp goes round as often as the others; heads past the end have no channels.
    for (int32_t base = begin; base < stop; base += HALVES * AT_ONCE) {
        int32_t head[AT_ONCE], end[AT_ONCE];
        float sum[AT_ONCE];
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            head[j] = base + j * HALVES + (int32_t)threadIdx.x / GROUP_LANES;
            end[j] = head[j] < stop ? op.head_dim : 0;
            head[j] = head[j] < stop ? head[j] : begin;
            stage<DTYPE, VECTOR>(op, token, head[j], end[j], area + j * op.staged);
            sum[j] = 0.0f;
        }
        WARP_SYNC();
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
#pragma unroll 8
            for (int32_t i = lane; i < end[j]; i += GROUP_LANES)
                sum[j] = fmaf(area[j * op.staged + i], area[j * op.staged + i], sum[j]);
        }
#pragma unroll
        for (int j = 0; j < AT_ONCE; j++) {
            float r = 1.0f / sqrtf(sum_tree16(sum[j]) / (float)op.head_dim + op.eps);
            finish<VECTOR>(op, token, position, head[j], end[j], area + j * op.staged, r);
        }
        WARP_SYNC();
    }
}

template <int DTYPE, bool VECTOR, int AT_ONCE>
void launch_qkv(struct gpu_device *device, struct qkv op, int32_t n_tokens)
{
    int32_t total = op.heads + 2 * op.kv_heads, step = HALVES * AT_ONCE;
    // Few tokens: as many blocks as heads allow. Many: a block has a whole token.
    int32_t blocks = n_tokens <= 2 * device->multiprocessors ? (total + step - 1) / step : 1;
    int32_t steps = (int32_t)ceil_div(total, (int64_t)blocks * step);
    op.per_block = steps * step;
    size_t size = (size_t)step * (size_t)op.staged * sizeof(float);
    LAUNCH_NEXT(device, (qkv_kernel<DTYPE, VECTOR, AT_ONCE>),
                dim3((unsigned)n_tokens, (unsigned)ceil_div(total, op.per_block)), dim3(THREADS),
                size, op);
    GPU_LAUNCHED(device, "qkv");
}

template <int DTYPE>
void run_qkv(struct gpu_device *device, const struct qkv *op, int32_t n_tokens, bool vector)
{
    if (!vector)
        launch_qkv<DTYPE, false, 1>(device, *op, n_tokens);
    else if (n_tokens <= 2 * device->multiprocessors)
        launch_qkv<DTYPE, true, 1>(device, *op, n_tokens);
    else
        launch_qkv<DTYPE, true, 2>(device, *op, n_tokens);
}

} // namespace

void GPU(qkv)(struct rondo_device *device, const struct rondo_op_qkv *op)
{
    const struct rondo_tensor *out[3] = {&op->q, &op->k, &op->v};
    const float *weight[3] = {op->q_weight, op->k_weight, nullptr};
    struct qkv args = {};
    bool vector = rows_are_vectors(&op->qkv) && op->head_dim % LANE_CHANNELS == 0 &&
                  op->rotary_dim % (2 * LANE_CHANNELS) == 0 && is_vector_address(op->rope_cos) &&
                  is_vector_address(op->rope_sin);
    for (int i = 0; i < 3; i++) {
        args.out[i] = static_cast<char *>(out[i]->data);
        args.out_stride[i] = out[i]->row_stride;
        args.weight[i] = weight[i];
        vector = vector && rows_are_vectors(out[i]) && is_vector_address(weight[i]);
    }
    args.qkv = static_cast<const char *>(op->qkv.data);
    args.qkv_stride = op->qkv.row_stride;
    args.rope_cos = op->rope_cos;
    args.rope_sin = op->rope_sin;
    args.position = op->batch->position;
    args.sequence_of = op->batch->sequence_of;
    args.sequences = op->batch->sequences;
    args.heads = op->heads;
    args.kv_heads = op->kv_heads;
    args.head_dim = op->head_dim;
    args.half = op->rotary_dim / 2;
    args.staged = (op->head_dim + 31) / 32 * 32 + 16; // a warp's two heads in other banks
    args.out_dtype = op->q.dtype;
    args.eps = op->eps;
    args.silu = op->silu;
    if (op->batch->n_tokens == 0)
        return;
    if (op->qkv.dtype == RONDO_F32)
        run_qkv<RONDO_F32>(gpu_device_of(device), &args, op->batch->n_tokens, vector);
    else
        run_qkv<RONDO_BF16>(gpu_device_of(device), &args, op->batch->n_tokens, vector);
}
