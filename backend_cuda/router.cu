// router: which experts a token goes to. The order of core/ops.h, bit for bit.
//
// One warp a token (router.cuh), four tokens a block. Shapes with more groups than lanes or more experts than registers
// take a second kernel, which keeps the integers that decide in shared memory.
//
// Bytes of a token: 4 E in, 8 K out; 8192 tokens, 256 experts: 9 MB, floor 3 us on an H100. Some 900 instructions of
// a warp: 8 us for 8192 tokens, half of them the eight rounds of selection. One token takes 2 us, for each round
// waits for the one before it.
// Checked under emulation, never run on a device.
#include "backend_cuda/router.cuh"

namespace
{

constexpr int THREADS = 128;
constexpr int MAX_PER_LANE = 16; // experts of a lane of the fast kernel

template <int PER>
__global__ void __launch_bounds__(THREADS) router_kernel(struct router op, int32_t lanes)
{
    wait_for_previous();
    int64_t token = (int64_t)blockIdx.x * (THREADS / WARP_SIZE) + threadIdx.x / WARP_SIZE;
    if (token < op.n_tokens)
        route_token<PER>(op, lanes, token);
}

// Any shape: a block of one warp a token; keys of experts and ranks of groups in shared memory.
__global__ void __launch_bounds__(WARP_SIZE) router_any_kernel(struct router op)
{
    wait_for_previous();
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
    const struct router args = router_arguments(op);
    if (args.n_tokens == 0)
        return;

    const int32_t lanes = router_lanes(args);
    const int64_t per_lane = router_per_lane(args);
    dim3 grid((unsigned)ceil_div(args.n_tokens, THREADS / WARP_SIZE)), block(THREADS);
    if (per_lane > MAX_PER_LANE)
        LAUNCH_NEXT(gpu, router_any_kernel, dim3((unsigned)args.n_tokens), dim3(WARP_SIZE),
                    (size_t)(args.n_experts + args.n_group) * sizeof(float), args);
    else if (per_lane > 8)
        LAUNCH_NEXT(gpu, (router_kernel<16>), grid, block, 0, args, lanes);
    else if (per_lane > 4)
        LAUNCH_NEXT(gpu, (router_kernel<8>), grid, block, 0, args, lanes);
    else if (per_lane > 1)
        LAUNCH_NEXT(gpu, (router_kernel<4>), grid, block, 0, args, lanes);
    else
        LAUNCH_NEXT(gpu, (router_kernel<1>), grid, block, 0, args, lanes);
    GPU_LAUNCHED(gpu, "router");
}
