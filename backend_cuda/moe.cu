// group_tokens and combine of the mixture of experts. The orders of core/ops.h, bit for bit.
//
// group_tokens is a stable counting sort of the T*K pairs by expert. The pairs are cut into tiles, a tile into one
// run for each warp. Counting how many pairs of each expert a run has gives, by sums over the runs before it, where
// the run's first pair of each expert goes; the pairs of a run are then placed in ascending order, a warp's worth
// at a time: lanes that have the same expert find each other by ballots over the bits of the expert and line up by
// lane. Nothing depends on the order in which anything arrives: counters are only added to. One tile: one launch of
// one block. More tiles: count, sum over the tiles, place.
//   Bytes: 4 in for each pass, 8 out a pair, 8192 tokens top-8: 1 MB; latency decides. Predicted 4 us for one token,
//   12 us for 8192.
//
// combine: a thread has eight channels of a token and four of the K rows in flight. Bytes of a token: 2 K D of y and
// 2 D of shared in (bf16), 8 D of h in and out; 8192 tokens, top-8, 2048 channels: 436 MB, floor 130 us on an H100.
// Predicted 85 %. With the norm of the new h, to bf16, 2 D more out (34 MB, 10 us) instead of 6 D of a launch of its
// own (101 MB, 30 us): a block has a token, whose row goes through shared memory as in norm.cu. Predicted 80 %.
// Checked under emulation, never run on a device.
#include "backend_cuda/rows.cuh"

namespace
{

// ---- group_tokens ------------------------------------------------------------------------------------------------

constexpr int SORT_THREADS = 512;
constexpr int MAX_WARPS = SORT_THREADS / WARP_SIZE;
constexpr int SHARED_INTS = 48 * 1024 / 4; // what every device gives a block unasked
constexpr int ONE_TILE = 8192;             // pairs that one block sorts alone

struct sort {
    const int32_t *ids;
    int32_t *offsets, *row_of, *token_of;
    int32_t
        *before; // [n_experts, n_tiles] pairs of the expert in a tile, then in the tiles before it
    int32_t *total; // [n_experts]
    int32_t n_pairs, top_k, n_experts, n_tiles, tile;
    int32_t warps; // that a tile is dealt out to, as far as shared memory has counters for them
    int32_t bits;  // of an expert's number
    int32_t n_all; // tokens of the shared expert: all, or 0 where there is none
};

// The part of a tile that a warp has: a multiple of the warp size, the last one shorter.
struct run {
    int32_t begin, end;
};

__device__ __forceinline__ struct run run_of(const struct sort &op, int32_t tile, int32_t warp)
{
    int32_t length = (int32_t)ceil_div(op.tile, op.warps * WARP_SIZE) * WARP_SIZE;
    int64_t tile_begin = (int64_t)tile * op.tile, tile_end = tile_begin + op.tile;
    tile_end = tile_end < op.n_pairs ? tile_end : op.n_pairs;
    int64_t begin = tile_begin + (int64_t)warp * length, end = begin + length;
    begin = begin < tile_end ? begin : tile_end;
    end = end < tile_end ? end : tile_end;
    struct run run = {(int32_t)begin, (int32_t)end};
    if (warp >= op.warps)
        run.begin = run.end = 0;
    return run;
}

// count[warp][expert] of the block's tile.
__device__ __forceinline__ void count_runs(const struct sort &op, int32_t tile, int32_t *count)
{
    int32_t warp = (int32_t)threadIdx.x / WARP_SIZE;
    for (int32_t i = (int32_t)threadIdx.x; i < op.warps * op.n_experts; i += SORT_THREADS)
        count[i] = 0;
    __syncthreads();
    struct run run = run_of(op, tile, warp);
    for (int32_t i = run.begin + (int32_t)threadIdx.x % WARP_SIZE; i < run.end; i += WARP_SIZE)
        atomicAdd(&count[warp * op.n_experts + op.ids[i]], 1);
    __syncthreads();
}

// Turns the counts of the runs into what stands before each run in its tile; returns by expert in `total`, when
// that is there, the count of the tile.
__device__ __forceinline__ void sum_runs(const struct sort &op, int32_t *count, int32_t *total,
                                         int32_t stride)
{
    for (int32_t e = (int32_t)threadIdx.x; e < op.n_experts; e += SORT_THREADS) {
        int32_t sum = 0;
        for (int32_t warp = 0; warp < op.warps; warp++) {
            int32_t n = count[warp * op.n_experts + e];
            count[warp * op.n_experts + e] = sum;
            sum += n;
        }
        if (total)
            total[(int64_t)e * stride] = sum;
    }
}

// Sum of the values of lower lanes.
__device__ __forceinline__ int32_t sum_before(int32_t value)
{
    int32_t lane = (int32_t)threadIdx.x % WARP_SIZE, sum = value;
    for (int delta = 1; delta < WARP_SIZE; delta *= 2) {
        int32_t other = WARP_UP(sum, delta);
        sum += lane >= delta ? other : 0;
    }
    return sum - value;
}

// offsets[e] = sum of total[0 .. e), by the first warp; offsets has room for n_experts + 1 and may be total.
__device__ __forceinline__ void sum_experts(const struct sort &op, const int32_t *total,
                                            int32_t *offsets)
{
    int32_t lane = (int32_t)threadIdx.x, carry = 0;
    if (lane >= WARP_SIZE)
        return;
    for (int32_t first = 0; first < op.n_experts; first += WARP_SIZE) {
        int32_t e = first + lane, n = e < op.n_experts ? total[e] : 0;
        int32_t before = carry + sum_before(n);
        if (e < op.n_experts)
            offsets[e] = before;
        carry = WARP_READ(before + n, WARP_SIZE - 1);
    }
    if (lane == 0)
        offsets[op.n_experts] = carry;
}

// Places the pairs of the warp's run; next[expert] is the row of the run's next pair of the expert.
__device__ __forceinline__ void place_run(const struct sort &op, int32_t tile, int32_t *next)
{
    int32_t lane = (int32_t)threadIdx.x % WARP_SIZE;
    struct run run = run_of(op, tile, (int32_t)threadIdx.x / WARP_SIZE);
    for (int32_t first = run.begin; first < run.end; first += WARP_SIZE) {
        int32_t i = first + lane;
        bool valid = i < run.end;
        int32_t expert = valid ? op.ids[i] : 0;
        uint64_t same = (uint64_t)WARP_BALLOT(valid);
        for (int32_t bit = 0; bit < op.bits; bit++) {
            bool set = expert >> bit & 1;
            uint64_t lanes = (uint64_t)WARP_BALLOT(set);
            same &= set ? lanes : ~lanes;
        }
        int32_t rank = __popcll((long long)(same & (((uint64_t)1 << lane) - 1)));
        int32_t row = valid ? next[expert] + rank : 0;
        WARP_SYNC();
        if (valid) {
            if (rank == 0)
                next[expert] = row + __popcll((long long)same);
            op.row_of[i] = row;
            op.token_of[row] = i / op.top_k;
        }
        WARP_SYNC();
    }
}

// Adds what stands before the tile to next[warp][expert] and places the tile's pairs.
__device__ __forceinline__ void place_tile(const struct sort &op, int32_t tile, int32_t *next,
                                           const int32_t *offsets)
{
    for (int32_t e = (int32_t)threadIdx.x; e < op.n_experts; e += SORT_THREADS) {
        int32_t begin = offsets[e] + (op.before ? op.before[(int64_t)e * op.n_tiles + tile] : 0);
        for (int32_t warp = 0; warp < op.warps; warp++)
            next[warp * op.n_experts + e] += begin;
    }
    __syncthreads();
    if ((int32_t)threadIdx.x / WARP_SIZE < op.warps)
        place_run(op, tile, next + (int32_t)threadIdx.x / WARP_SIZE * op.n_experts);
}

// Offsets for all to read, and the shared expert's rows, by all blocks of a launch.
__device__ __forceinline__ void store_offsets(const struct sort &op, const int32_t *offsets)
{
    int32_t thread = (int32_t)(blockIdx.x * SORT_THREADS + threadIdx.x);
    int32_t threads = (int32_t)(gridDim.x * SORT_THREADS);
    for (int32_t e = thread; e <= op.n_experts; e += threads)
        op.offsets[e] = offsets[e];
    for (int32_t t = thread; t < op.n_all; t += threads)
        op.token_of[op.n_pairs + t] = t;
    if (op.n_all && thread == 0)
        op.offsets[op.n_experts + 1] = op.n_pairs + op.n_all;
}

__global__ void __launch_bounds__(SORT_THREADS) sort_one_kernel(struct sort op)
{
    wait_for_previous();
    DYN_SHARED(int32_t, next);                         // [warps, n_experts]
    int32_t *offsets = next + op.warps * op.n_experts; // [n_experts + 1]
    count_runs(op, 0, next);
    sum_runs(op, next, offsets, 1);
    __syncthreads();
    sum_experts(op, offsets, offsets);
    __syncthreads();
    store_offsets(op, offsets);
    place_tile(op, 0, next, offsets);
}

__global__ void __launch_bounds__(SORT_THREADS) sort_count_kernel(struct sort op)
{
    wait_for_previous();
    DYN_SHARED(int32_t, count); // [warps, n_experts]
    count_runs(op, (int32_t)blockIdx.x, count);
    sum_runs(op, count, op.before + blockIdx.x, op.n_tiles);
}

// A warp an expert: counts of its tiles become what stands before each.
__global__ void __launch_bounds__(SORT_THREADS) sort_sum_kernel(struct sort op)
{
    wait_for_previous();
    int32_t expert = (int32_t)(blockIdx.x * MAX_WARPS + threadIdx.x / WARP_SIZE);
    int32_t lane = (int32_t)threadIdx.x % WARP_SIZE, carry = 0;
    if (expert >= op.n_experts)
        return;
    int32_t *before = op.before + (int64_t)expert * op.n_tiles;
    for (int32_t first = 0; first < op.n_tiles; first += WARP_SIZE) {
        int32_t tile = first + lane, n = tile < op.n_tiles ? before[tile] : 0;
        int32_t sum = carry + sum_before(n);
        if (tile < op.n_tiles)
            before[tile] = sum;
        carry = WARP_READ(sum + n, WARP_SIZE - 1);
    }
    if (lane == 0)
        op.total[expert] = carry;
}

__global__ void __launch_bounds__(SORT_THREADS) sort_place_kernel(struct sort op)
{
    wait_for_previous();
    DYN_SHARED(int32_t, next);                         // [warps, n_experts]
    int32_t *offsets = next + op.warps * op.n_experts; // [n_experts + 1]
    count_runs(op, (int32_t)blockIdx.x, next);
    sum_runs(op, next, nullptr, 0);
    sum_experts(op, op.total, offsets);
    __syncthreads();
    store_offsets(op, offsets);
    place_tile(op, (int32_t)blockIdx.x, next, offsets);
}

// Pairs of a tile: enough tiles to keep the device busy, and no more than a few hundred.
int32_t tile_of(const struct gpu_device *device, int64_t n_pairs)
{
    int64_t tile = ceil_div(n_pairs, 2 * (int64_t)device->multiprocessors);
    tile = ceil_div(tile, SORT_THREADS) * SORT_THREADS;
    return (int32_t)(tile < 2 * SORT_THREADS ? 2 * SORT_THREADS : tile);
}

// ---- combine -----------------------------------------------------------------------------------------------------

constexpr int COMBINE_THREADS = 128;
constexpr int COMBINE_AT_ONCE = 4; // rows that a thread has in flight
constexpr int NORM_THREADS = 256;  // of a token whose norm is made, too

struct combine {
    const char *y, *shared; // shared NULL: none
    float *h;
    const int32_t *row_of;
    const float *weights;
    int64_t y_stride, shared_stride, h_stride;
    int32_t columns, top_k, shared_dtype;
    int32_t staged; // floats of a row in shared memory
};

// Adds to channels at .. at + 7 of a token's h what its experts gave, and returns them.
template <int DTYPE, bool VECTOR>
__device__ __forceinline__ struct eight combine8(const struct combine &op, int64_t token,
                                                 int32_t at)
{
    constexpr int SIZE = DTYPE == RONDO_F32 ? 4 : 2;
    int32_t n = op.columns;
    const int32_t *row_of = op.row_of + token * op.top_k;
    const float *weights = op.weights + token * op.top_k;
    float *h = op.h + token * op.h_stride;
    struct eight sum = {};
    for (int32_t k = 0; k < op.top_k; k += COMBINE_AT_ONCE) {
        struct eight y[COMBINE_AT_ONCE];
#pragma unroll
        for (int j = 0; j < COMBINE_AT_ONCE; j++)
            if (k + j < op.top_k)
                y[j] = load8<DTYPE, VECTOR>(op.y + row_of[k + j] * op.y_stride * SIZE, at, n);
#pragma unroll
        for (int j = 0; j < COMBINE_AT_ONCE; j++)
            for (int i = 0; i < LANE_CHANNELS && k + j < op.top_k; i++)
                sum.v[i] = fmaf(weights[k + j], y[j].v[i], sum.v[i]);
    }
    if (op.shared) {
        struct eight shared;
        if (op.shared_dtype == RONDO_F32)
            shared = load8<RONDO_F32, VECTOR>(op.shared + token * op.shared_stride * 4, at, n);
        else
            shared = load8<RONDO_BF16, VECTOR>(op.shared + token * op.shared_stride * 2, at, n);
        for (int i = 0; i < LANE_CHANNELS; i++)
            sum.v[i] = sum.v[i] + shared.v[i];
    }
    struct eight x = load8<RONDO_F32, VECTOR>(h, at, n);
    for (int i = 0; i < LANE_CHANNELS; i++)
        x.v[i] = x.v[i] + sum.v[i];
    store8<VECTOR>(h, RONDO_F32, at, n, x);
    return x;
}

template <int DTYPE, bool VECTOR>
__global__ void __launch_bounds__(COMBINE_THREADS) combine_kernel(struct combine op)
{
    wait_for_previous();
    int32_t at = LANE_CHANNELS * (int32_t)(blockIdx.y * COMBINE_THREADS + threadIdx.x);
    if (at < op.columns)
        combine8<DTYPE, VECTOR>(op, blockIdx.x, at);
}

// A block has a token, whose new h it keeps in shared memory for the norm.
template <int DTYPE, bool VECTOR>
__global__ void __launch_bounds__(NORM_THREADS)
    combine_norm_kernel(struct combine op, const float *weight, float eps, struct act_rows out)
{
    wait_for_previous();
    DYN_SHARED(float, row); // [columns], then the inverse of the root mean square
    float *inverse = row + op.staged;
    int32_t n = op.columns, at = LANE_CHANNELS * (int32_t)threadIdx.x;
    struct eight w = load8<RONDO_F32, VECTOR>(weight, at, n); // under way early
    for (; at < n; at += LANE_CHANNELS * NORM_THREADS)
        store8<VECTOR>(row, RONDO_F32, at, n, combine8<DTYPE, VECTOR>(op, blockIdx.x, at));
    __syncthreads();
    if (threadIdx.x < WARP_SIZE) {
        float r = inverse_rms(row, n, n, eps);
        if (threadIdx.x == 0)
            *inverse = r;
    }
    __syncthreads();
    float r = *inverse;
    // Every lane of a warp goes round as often as the others: quantisation takes whole warps.
    for (int32_t first = 0; first < n; first += LANE_CHANNELS * NORM_THREADS) {
        at = first + LANE_CHANNELS * (int32_t)threadIdx.x;
        struct eight x = load8<RONDO_F32, VECTOR>(row, at, n);
        if (first)
            w = load8<RONDO_F32, VECTOR>(weight, at, n);
        for (int i = 0; i < LANE_CHANNELS; i++)
            x.v[i] = x.v[i] * r * w.v[i];
        store_act8<VECTOR>(out, blockIdx.x, at, n, x);
    }
}

template <int DTYPE, bool VECTOR>
void launch_combine(struct gpu_device *device, const struct combine *op, int64_t n_tokens)
{
    dim3 grid((unsigned)n_tokens, (unsigned)ceil_div(op->columns, LANE_CHANNELS * COMBINE_THREADS));
    LAUNCH_NEXT(device, (combine_kernel<DTYPE, VECTOR>), grid, dim3(COMBINE_THREADS), 0, *op);
    GPU_LAUNCHED(device, "combine");
}

template <int DTYPE, bool VECTOR>
void launch_combine_norm(struct gpu_device *device, const struct combine *op,
                         const struct rondo_op_rmsnorm *norm)
{
    LAUNCH_NEXT(device, (combine_norm_kernel<DTYPE, VECTOR>), dim3((unsigned)norm->n_rows),
                dim3(NORM_THREADS), (size_t)(op->staged + 1) * sizeof(float), *op, norm->weight,
                norm->eps, act_rows_of(&norm->out, &norm->codes));
    GPU_LAUNCHED(device, "combine");
}

// With the norm in the same kernel where a row fits into shared memory, else after it.
template <int DTYPE, bool VECTOR>
void run_combine(struct gpu_device *device, const struct combine *args,
                 const struct rondo_op_combine *op)
{
    struct rondo_op_rmsnorm norm = rondo_combine_norm(op);
    if (op->norm.data && args->staged < SHARED_INTS) {
        launch_combine_norm<DTYPE, VECTOR>(device, args, &norm);
        return;
    }
    launch_combine<DTYPE, VECTOR>(device, args, rondo_tensor_rows(&op->h));
    if (op->norm.data)
        GPU(rmsnorm)(&device->base, &norm);
}

} // namespace

// ---- entries -----------------------------------------------------------------------------------------------------

// Counts of every expert in every tile, and in all of them.
size_t GPU(moe_workspace)(const struct gpu_device *device, const struct rondo_limits *limits)
{
    int64_t pairs = (int64_t)limits->tokens * limits->experts_per_token;
    if (pairs <= ONE_TILE)
        return 0;
    int64_t tiles = 2 * (int64_t)device->multiprocessors; // the most that tile_of makes
    return (size_t)limits->experts * (size_t)(tiles + 1) * sizeof(int32_t);
}

void GPU(group_tokens)(struct rondo_device *device, const struct rondo_op_group_tokens *op)
{
    struct gpu_device *gpu = gpu_device_of(device);
    struct sort args = {};
    if (op->n_tokens == 0)
        return;
    args.ids = op->ids;
    args.offsets = op->offsets;
    args.row_of = op->row_of;
    args.token_of = op->token_of;
    args.n_pairs = op->n_tokens * op->experts_per_token;
    args.top_k = op->experts_per_token;
    args.n_experts = op->n_experts;
    args.n_all = op->shared ? op->n_tokens : 0;
    args.warps = SHARED_INTS / op->n_experts - 2;
    args.warps = args.warps < 1 ? 1 : args.warps > MAX_WARPS ? MAX_WARPS : args.warps;
    if (args.n_pairs <= args.warps * WARP_SIZE)
        args.warps = (int32_t)ceil_div(args.n_pairs, WARP_SIZE);
    while (op->n_experts > 1 << args.bits)
        args.bits++;
    size_t row = (size_t)op->n_experts * sizeof(int32_t);
    size_t runs = (size_t)args.warps * row;
    if (args.n_pairs <= ONE_TILE) {
        args.n_tiles = 1;
        args.tile = args.n_pairs;
        LAUNCH_NEXT(gpu, sort_one_kernel, dim3(1), dim3(SORT_THREADS), runs + row + sizeof(int32_t),
                    args);
        GPU_LAUNCHED(gpu, "group_tokens");
        return;
    }
    args.tile = tile_of(gpu, args.n_pairs);
    args.n_tiles = (int32_t)ceil_div(args.n_pairs, args.tile);
    args.total = static_cast<int32_t *>(gpu->workspace);
    args.before = args.total + op->n_experts;
    LAUNCH_NEXT(gpu, sort_count_kernel, dim3((unsigned)args.n_tiles), dim3(SORT_THREADS), runs,
                args);
    GPU_LAUNCHED(gpu, "group_tokens");
    LAUNCH_NEXT(gpu, sort_sum_kernel, dim3((unsigned)ceil_div(op->n_experts, MAX_WARPS)),
                dim3(SORT_THREADS), 0, args);
    GPU_LAUNCHED(gpu, "group_tokens");
    LAUNCH_NEXT(gpu, sort_place_kernel, dim3((unsigned)args.n_tiles), dim3(SORT_THREADS),
                runs + row + sizeof(int32_t), args);
    GPU_LAUNCHED(gpu, "group_tokens");
}

void GPU(combine)(struct rondo_device *device, const struct rondo_op_combine *op)
{
    struct gpu_device *gpu = gpu_device_of(device);
    struct combine args = {};
    args.y = static_cast<const char *>(op->y.data);
    args.shared = static_cast<const char *>(op->shared.data);
    args.h = static_cast<float *>(op->h.data);
    args.row_of = op->row_of;
    args.weights = op->weights;
    args.y_stride = op->y.row_stride;
    args.shared_stride = op->shared.row_stride;
    args.h_stride = op->h.row_stride;
    args.columns = (int32_t)rondo_tensor_columns(&op->h);
    args.top_k = op->experts_per_token;
    args.shared_dtype = op->shared.dtype;
    args.staged = (args.columns + 3) / 4 * 4;
    bool vector = rows_are_vectors(&op->y) && rows_are_vectors(&op->h) &&
                  (!op->shared.data || rows_are_vectors(&op->shared));
    if (op->norm.data)
        vector = vector && rows_are_vectors(&op->norm) && is_vector_address(op->norm_weight) &&
                 (!op->norm_codes.data || rows_are_vectors(&op->norm_codes));
    if (rondo_tensor_rows(&op->h) == 0)
        return;
    if (op->y.dtype == RONDO_F32 && vector)
        run_combine<RONDO_F32, true>(gpu, &args, op);
    else if (op->y.dtype == RONDO_F32)
        run_combine<RONDO_F32, false>(gpu, &args, op);
    else if (vector)
        run_combine<RONDO_BF16, true>(gpu, &args, op);
    else
        run_combine<RONDO_BF16, false>(gpu, &args, op);
}
