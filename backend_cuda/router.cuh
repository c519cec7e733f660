// The routing of a token by one warp, for the kernels of router.cu and for products that route what they have made.
//
// The lanes are dealt out to the groups, a power of two to each, and a lane keeps its experts in registers,
// neighbouring ones, so that lower lanes have lower experts and a ballot settles ties. What decides is kept as an
// integer that is ordered as the ranks are; 0 stands behind every rank and means out of the race: an expert that is
// taken, or of a group that does not stay.
#ifndef RONDO_BACKEND_CUDA_ROUTER_CUH
#define RONDO_BACKEND_CUDA_ROUTER_CUH

#include "backend_cuda/gemm.h"
#include "backend_cuda/ptx.cuh"

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

static __device__ __forceinline__ float probability(const struct score &score, int32_t expert)
{
    if (!score.softmax)
        return sigmoid_f32(score.logits[expert]);
    return exp_f32(score.logits[expert] - score.largest) / score.sum;
}

// Whole warps.
static __device__ __forceinline__ struct score score_of(const struct router &op, int64_t token)
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
static __device__ __forceinline__ float ranked(float a, float b)
{
    float sum = a + b;
    return sum != sum ? -INFINITY : sum;
}

// Greater for greater ranks, and never 0. +0 and -0 are one.
static __device__ __forceinline__ uint32_t key_of(float rank)
{
    uint32_t bits = f32_bits(rank + 0.0f);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static __device__ __forceinline__ uint32_t warp_max_key(uint32_t key)
{
    for (int mask = WARP_SIZE / 2; mask; mask /= 2) {
        uint32_t other = WARP_XOR(key, mask);
        key = other > key ? other : key;
    }
    return key;
}

static __device__ __forceinline__ int lowest_lane(uint64_t lanes)
{
    return __ffsll((long long)lanes) - 1;
}

// Keeps the two largest ranks.
static __device__ __forceinline__ void add_to_top(float *first, float *second, float rank)
{
    *second = fmaxf(*second, fminf(*first, rank));
    *first = fmaxf(*first, rank);
}

// Weight of choice `lane` of a token, from its probability; lanes past top_k have none. Whole warps.
static __device__ __forceinline__ float normalized(const struct router &op, float weight)
{
    float sum = 0.0f;
    for (int32_t k = 0; k < op.top_k && op.normalize; k++)
        sum += WARP_READ(weight, k);
    if (op.normalize)
        weight = weight / (sum + 1e-20f);
    return weight * op.scale;
}

// Routes a token, by a whole warp: PER experts a lane, `lanes` lanes a group, both powers of two, and as many groups as
// lanes at most. Returns choice `lane`.
template <int PER>
static __device__ int32_t route_token(const struct router &op, int32_t lanes, int64_t token)
{
    int32_t lane = (int32_t)threadIdx.x % WARP_SIZE, group = lane / lanes;
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
    return chosen;
}

// ---- for the host -------------------------------------------------------------------------------------------------

static inline struct router router_arguments(const struct rondo_op_router *op)
{
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
    return args;
}

// Lanes of a group.
static inline int32_t router_lanes(const struct router &op)
{
    int32_t lanes = WARP_SIZE;
    while (lanes > 1 && lanes * op.n_group > WARP_SIZE)
        lanes /= 2;
    return lanes;
}

// Experts that a lane keeps, at least; more than any kernel has registers for: route_token does not take it.
static inline int64_t router_per_lane(const struct router &op)
{
    if (op.n_group > WARP_SIZE || op.top_k > WARP_SIZE)
        return INT64_MAX;
    return ceil_div(op.group_size, router_lanes(op));
}

// ---- products that route ------------------------------------------------------------------------------------------

// A product whose first part makes logits routes them in the same launch: the block that stores the last tile of
// these rows does it. Who is last is counted in tickets, one of each tile of rows, which go from 0 to tiles - 1 and
// then are 0 again. Whoever is last, logits and routing have the same bits.
// Few rows are grouped by their experts there, too: they are of one tile, so that one block has routed them all.
struct router_groups {
    int32_t *offsets, *row_of, *token_of; // offsets NULL: not grouped here
    int32_t n_pairs, n_all; // n_all: tokens of the shared expert, 0 where there is none
};
struct gemm_router {
    static constexpr bool routes = true;
    struct router op;
    int32_t lanes, tiles; // tiles: of N that the logits have
    uint32_t *tickets;
    struct router_groups group;
};
struct gemm_no_router {
    static constexpr bool routes = false;
};

constexpr int ROUTED_PER_LANE = 8; // experts that a lane keeps here
constexpr int ROUTED_ROWS = 64;    // of a launch, at most
constexpr int GROUPED_ROWS = 8;    // of a tile, at least
constexpr int GROUPED_PAIRS =
    128; // of a launch that groups: every pair is compared with every other
static_assert(ROUTED_ROWS / GROUPED_ROWS <= GPU_TICKETS, "a ticket for each tile");

// Whether a tile is the last of its rows. By one thread, after a barrier behind gemm_router_stored of all threads.
static __device__ __forceinline__ bool gemm_router_last(const gemm_router &route, int row_tile)
{
    uint32_t *ticket = &route.tickets[row_tile];
    bool is_last = atomicAdd(ticket, 1u) == (uint32_t)route.tiles - 1;
    if (is_last) // no atomicInc: Debian's device libraries of HIP lack its instruction
        atomicExch(ticket, 0u);
    return is_last;
}

// By every thread that has stored logits, before that barrier, and again by the last block before it reads them.
static __device__ __forceinline__ void gemm_router_stored()
{
    __threadfence();
}

// Routes rows first .. first + count, by `warps` warps of which this one is number `warp`. ids: [GROUPED_PAIRS] in shared
// memory, written where these rows are to be grouped.
static __device__ __forceinline__ void
gemm_router_rows(const gemm_router &route, int first, int count, int warp, int warps, int32_t *ids)
{
    int32_t lane = (int32_t)threadIdx.x % WARP_SIZE, top_k = route.op.top_k;
    for (int row = warp; row < count; row += warps) {
        int32_t chosen = route_token<ROUTED_PER_LANE>(route.op, route.lanes, first + row);
        if (route.group.offsets && lane < top_k)
            ids[(first + row) * top_k + lane] = chosen;
    }
}

// group_tokens of all rows, by `threads` threads of which this one is number `thread`, after a barrier behind
// gemm_router_rows. A pair's row is how many pairs stand before it.
static __device__ __forceinline__ void
gemm_router_group(const gemm_router &route, const int32_t *ids, int thread, int threads)
{
    const struct router_groups &group = route.group;
    for (int i = thread; i < group.n_pairs; i += threads) {
        int32_t expert = ids[i], row = 0;
        for (int j = 0; j < group.n_pairs; j++)
            row += ids[j] < expert || (ids[j] == expert && j < i);
        group.row_of[i] = row;
        group.token_of[row] = i / route.op.top_k;
    }
    for (int e = thread; e <= route.op.n_experts; e += threads) {
        int32_t before = 0;
        for (int j = 0; j < group.n_pairs; j++)
            before += ids[j] < e;
        group.offsets[e] = before;
    }
    for (int t = thread; t < group.n_all; t += threads)
        group.token_of[group.n_pairs + t] = t;
    if (group.n_all && thread == 0)
        group.offsets[route.op.n_experts + 1] = group.n_pairs + group.n_all;
}

// The end of a tile of the logits, by all threads of a block: all of the above. ids: as above, not in use.
static __device__ __forceinline__ void gemm_router_tile(const gemm_router &route, int row_tile,
                                                        int first, int count, int32_t *ids)
{
    gemm_router_stored();
    __syncthreads();
    if (!__syncthreads_or(threadIdx.x == 0 && gemm_router_last(route, row_tile)))
        return;
    gemm_router_stored();
    gemm_router_rows(route, first, count, (int)threadIdx.x / WARP_SIZE, (int)blockDim.x / WARP_SIZE,
                     ids);
    if (!route.group.offsets)
        return;
    __syncthreads();
    gemm_router_group(route, ids, (int)threadIdx.x, (int)blockDim.x);
    __syncthreads(); // ids may be used for something else
}

static __device__ __forceinline__ void gemm_router_tile(const gemm_no_router &, int, int, int,
                                                        int32_t *)
{
}

// For the host: the routing of a launch whose tiles have `width` channels.
static inline gemm_router gemm_routes(const gemm_launch &g, int width)
{
    gemm_router route = *g.route;
    route.tiles = (int32_t)ceil_div(g.part[0].n, width);
    return route;
}

#endif
