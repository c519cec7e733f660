// router: which experts a token goes to. The order of core/ops.h, bit for bit.
//
// One warp a token. The lanes are dealt out to the groups, a power of two to each, and a lane keeps its experts in
// registers, neighbouring ones, so that lower lanes have lower experts and a ballot settles ties. What decides is
// kept as an integer that is ordered as the ranks are; 0 stands behind every rank and means out of the race: an
// expert that is taken, or of a group that does not stay. Shapes with more groups than lanes or more experts than
// registers take a second kernel, which keeps the integers in shared memory.
//
// Bytes of a token: 4 E in, 8 K out; 8192 tokens, 256 experts: 9 MB, floor 3 us on an H100. Some 600 instructions of
// a warp: 5 us for 8192 tokens, half of them the eight rounds of selection. Predicted 50 % of the floor, as nothing
// here waits for memory; one token 3 us.
// Checked under emulation, never run on a device.
#include "backend_cuda/kernel.cuh"

namespace
{

constexpr int THREADS = 128;
constexpr int MAX_PER_LANE = 16; // experts of a lane of the fast kernel

struct router {
    const float *logits, *bias; // bias NULL: none
    int32_t *ids;
    float *weights;
    int64_t stride;
    int32_t n_tokens, n_experts, n_group, topk_group, group_size, top_k;
    bool softmax, normalize;
    float scale;
};

// What the scores of a row are made with: the largest logit and the sum over the row, for softmax only.
struct score {
    const float *logits;
    float largest, sum;
    bool softmax;
};

__device__ __forceinline__ float probability(const struct score &score, int32_t expert)
{
    if (!score.softmax)
        return sigmoid_f32(score.logits[expert]);
    return exp_f32(score.logits[expert] - score.largest) / score.sum;
}

// Whole warps.
__device__ __forceinline__ struct score score_of(const struct router &op, int64_t token)
{
    struct score score = {op.logits + token * op.stride, -INFINITY, 0.0f, op.softmax};
    if (!op.softmax)
        return score;
    for (int32_t i = (int32_t)threadIdx.x % WARP_SIZE; i < op.n_experts; i += WARP_SIZE)
        score.largest = fmaxf(score.largest, score.logits[i]);
    score.largest = warp_max(score.largest);
    for (int32_t i = (int32_t)threadIdx.x % 16; i < op.n_experts; i += 16)
        score.sum += exp_f32(score.logits[i] - score.largest);
    score.sum = sum_tree16(score.sum);
    return score;
}

// NaN ranks as -inf.
__device__ __forceinline__ float ranked(float a, float b)
{
    float sum = a + b;
    return sum != sum ? -INFINITY : sum;
}

// Greater for greater ranks, and never 0. +0 and -0 are one.
__device__ __forceinline__ uint32_t key_of(float rank)
{
    uint32_t bits = f32_bits(rank + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ uint32_t warp_max_key(uint32_t key)
{
    for (int mask = WARP_SIZE / 2; mask; mask /= 2) {
        uint32_t other = WARP_XOR(key, mask);
        key = other > key ? other : key;
    }
    return key;
}

__device__ __forceinline__ int lowest_lane(uint64_t lanes)
{
    return __ffsll((long long)lanes) - 1;
}

// Keeps the two largest ranks.
__device__ __forceinline__ void add_to_top(float *first, float *second, float rank)
{
    *second = fmaxf(*second, fminf(*first, rank));
    *first = fmaxf(*first, rank);
}

// Weight of choice `lane` of a token, from its probability; lanes past top_k have none. Whole warps.
__device__ __forceinline__ float normalized(const struct router &op, float weight)
{
    float sum = 0.0f;
    for (int32_t k = 0; k < op.top_k && op.normalize; k++)
        sum += WARP_READ(weight, k);
    if (op.normalize)
        weight = weight / (sum + 1e-20f);
    return weight * op.scale;
}

// PER experts a lane, LANES lanes a group: both powers of two, and as many groups as lanes at most.
template <int PER>
__global__ void __launch_bounds__(THREADS) router_kernel(struct router op, int32_t lanes)
{
    int32_t lane = (int32_t)threadIdx.x % WARP_SIZE, group = lane / lanes;
    int64_t token = (int64_t)blockIdx.x * (THREADS / WARP_SIZE) + threadIdx.x / WARP_SIZE;
    if (token >= op.n_tokens)
        return;
    struct score score = score_of(op, token);
    int32_t begin = lane % lanes * PER; // in the group
    int32_t first_expert = group * op.group_size + begin;
    int32_t count =
        group < op.n_group ? op.group_size - begin : 0; // experts of this lane, PER at most

    float rank[PER], first = -INFINITY, second = -INFINITY;
#pragma unroll
    for (int i = 0; i < PER; i++) {
        rank[i] = -INFINITY;
        if (i < count)
            rank[i] = ranked(probability(score, first_expert + i),
                             op.bias ? op.bias[first_expert + i] : 0.0f);
        add_to_top(&first, &second, rank[i]);
    }
    for (int32_t mask = lanes / 2; mask; mask /= 2) {
        float other_first = WARP_XOR(first, mask), other_second = WARP_XOR(second, mask);
        second = fmaxf(fminf(first, other_first), fmaxf(second, other_second));
        first = fmaxf(first, other_first);
    }
    float group_rank = op.group_size > 1 ? ranked(first, second) : first;
    int32_t before = 0; // groups that are better
    for (int32_t g = 0; g < op.n_group; g++) {
        float other = WARP_READ(group_rank, g * lanes);
        before += other > group_rank || (other == group_rank && g < group);
    }

    uint32_t key[PER];
#pragma unroll
    for (int i = 0; i < PER; i++)
        key[i] = i < count && before < op.topk_group ? key_of(rank[i]) : 0;
    int32_t chosen = 0; // by choice `lane`
    for (int32_t k = 0; k < op.top_k; k++) {
        uint32_t best = key[0];
        int32_t at = 0;
#pragma unroll
        for (int i = 1; i < PER; i++)
            if (key[i] > best) {
                best = key[i];
                at = i;
            }
        uint32_t largest = warp_max_key(best);
        int winner = lowest_lane(WARP_BALLOT(best == largest));
#pragma unroll
        for (int i = 0; i < PER; i++)
            key[i] = lane == winner && i == at ? 0 : key[i];
        int32_t expert = WARP_READ(first_expert + at, winner);
        chosen = lane == k ? expert : chosen;
    }
    float weight = lane < op.top_k ? probability(score, chosen) : 0.0f;
    weight = normalized(op, weight);
    if (lane < op.top_k) {
        op.ids[token * op.top_k + lane] = chosen;
        op.weights[token * op.top_k + lane] = weight;
    }
}

// Any shape: a block of one warp a token; keys of experts and ranks of groups in shared memory.
__global__ void __launch_bounds__(WARP_SIZE) router_any_kernel(struct router op)
{
    DYN_SHARED(uint32_t, key);                                         // [n_experts]
    float *group_rank = reinterpret_cast<float *>(key + op.n_experts); // [n_group]
    int32_t lane = (int32_t)threadIdx.x;
    int64_t token = blockIdx.x;
    struct score score = score_of(op, token);
    for (int32_t g = lane; g < op.n_group; g += WARP_SIZE) {
        float first = -INFINITY, second = -INFINITY;
        for (int32_t e = g * op.group_size; e < (g + 1) * op.group_size; e++) {
            float rank = ranked(probability(score, e), op.bias ? op.bias[e] : 0.0f);
            add_to_top(&first, &second, rank);
            key[e] = key_of(rank);
        }
        group_rank[g] = op.group_size > 1 ? ranked(first, second) : first;
    }
    WARP_SYNC();
    for (int32_t g = lane; g < op.n_group; g += WARP_SIZE) {
        int32_t before = 0;
        for (int32_t other = 0; other < op.n_group; other++)
            before += group_rank[other] > group_rank[g] ||
                      (group_rank[other] == group_rank[g] && other < g);
        for (int32_t e = g * op.group_size; before >= op.topk_group && e < (g + 1) * op.group_size;
             e++)
            key[e] = 0;
    }
    WARP_SYNC();
    float sum = 0.0f;
    for (int32_t k = 0; k < op.top_k; k++) {
        uint32_t best = 0;
        int32_t at = INT32_MAX;
        for (int32_t e = lane; e < op.n_experts; e += WARP_SIZE)
            if (key[e] > best) {
                best = key[e];
                at = e;
            }
        uint32_t largest = warp_max_key(best);
        at = best == largest ? at : INT32_MAX;
        for (int mask = WARP_SIZE / 2; mask; mask /= 2) {
            int32_t other = WARP_XOR(at, mask);
            at = other < at ? other : at;
        }
        sum += probability(score, at);
        WARP_SYNC();
        if (lane == 0) {
            key[at] = 0;
            op.ids[token * op.top_k + k] = at;
        }
        WARP_SYNC();
    }
    for (int32_t k = lane; k < op.top_k; k += WARP_SIZE) {
        float weight = probability(score, op.ids[token * op.top_k + k]);
        weight = op.normalize ? weight / (sum + 1e-20f) : weight;
        op.weights[token * op.top_k + k] = weight * op.scale;
    }
}

} // namespace

void GPU(router)(struct rondo_device *device, const struct rondo_op_router *op)
{
    struct gpu_device *gpu = gpu_device_of(device);
    struct router args = {};
    args.logits = static_cast<const float *>(op->logits.data);
    args.bias = op->bias;
    args.ids = op->ids;
    args.weights = op->weights;
    args.stride = op->logits.row_stride;
    args.n_tokens = (int32_t)rondo_tensor_rows(&op->logits);
    args.n_experts = (int32_t)rondo_tensor_columns(&op->logits);
    args.n_group = op->n_group;
    args.topk_group = op->topk_group;
    args.group_size = args.n_experts / op->n_group;
    args.top_k = op->experts_per_token;
    args.softmax = op->score == RONDO_SCORE_SOFTMAX;
    args.normalize = op->normalize;
    args.scale = op->scale;
    if (args.n_tokens == 0)
        return;

    int32_t lanes = WARP_SIZE;
    while (lanes > 1 && lanes * op->n_group > WARP_SIZE)
        lanes /= 2;
    int64_t per_lane = ceil_div(args.group_size, lanes);
    dim3 grid((unsigned)ceil_div(args.n_tokens, THREADS / WARP_SIZE)), block(THREADS);
    if (op->n_group > WARP_SIZE || op->experts_per_token > WARP_SIZE || per_lane > MAX_PER_LANE)
        LAUNCH(router_any_kernel, dim3((unsigned)args.n_tokens), dim3(WARP_SIZE),
               (size_t)(args.n_experts + args.n_group) * sizeof(float), gpu->stream, args);
    else if (per_lane > 8)
        LAUNCH((router_kernel<16>), grid, block, 0, gpu->stream, args, lanes);
    else if (per_lane > 4)
        LAUNCH((router_kernel<8>), grid, block, 0, gpu->stream, args, lanes);
    else if (per_lane > 1)
        LAUNCH((router_kernel<4>), grid, block, 0, gpu->stream, args, lanes);
    else
        LAUNCH((router_kernel<1>), grid, block, 0, gpu->stream, args, lanes);
    GPU_LAUNCHED(gpu, "router");
}
