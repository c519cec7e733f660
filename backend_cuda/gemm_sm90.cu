// GEMM on Hopper: which tile shape, tensor maps, launches. The kernel is in gemm_sm90.cuh.
//
// Version 1. Checked under emulation, never run on a device. Prediction for an H100 SXM (132 SMs at 1.755 GHz, 4096 e4m3
// multiply-adds a clock and SM, shared memory 128 bytes a clock, 3.35 TB/s):
//   - 128 x 256 tiles, e4m3: 1024 clocks of products a block of 128 of K. Shared memory carries, in that time, the
//     tile's arrival (48 KiB) and its reading: each warpgroup reads its 64 rows of A twice and all of B once, 96 KiB
//     together: 1152 clocks. So shared memory bounds it at 89 % of the products' rate. Adding into f32 takes 64 fma a
//     thread and half tile, while the other warpgroup's products run. L2 gives 48 KiB a 1152 clocks and SM, 9.7 TB/s at
//     full rate: near what L2 can do, so expect 65 to 75 % of peak, 1300 to 1450 TFLOP/s, before power limits.
//   - storing a tile (64 KiB of bf16) is about 1000 clocks in which a warpgroup multiplies nothing: 6 % at K = 2048.
//   - few rows: 128 weight rows a block and stage; about 190 KiB under way in each SM, 25 MB on the device, where
//     latency times bandwidth is 3 MB. Memory bounds it from N K of about 8 MiB on; below, the start of the pipeline
//     (about 2 us) does. Narrow boxes (R = 32, 16, 8) spread small N over more SMs.
// Version 2. Blocks of a dense product ask for the weights of their first stages before the launch before is over: up to
// 10 MB on the device, which is all of most layers' matrices. Predicted: 2 us less for each product of a decoded token.
// The group of a tile is found by halves: one after the other cost 5 us with 8 of 256 groups in use.
// Outcome: none yet.
#include "backend_cuda/gemm_sm90.cuh"
#include "backend_cuda/tensor_map.cuh"

namespace
{

// Rows of x and weight rows of a tile.
struct Sm90_kind {
    int rows, weights;
};
enum { SM90_WIDE, SM90_SQUARE, SM90_FEW64, SM90_FEW32, SM90_KINDS };
const Sm90_kind sm90_kinds[SM90_KINDS] = {{128, 256}, {128, 128}, {64, 128}, {32, 128}};

struct Sm90_plan {
    int kind, weight_rows; // of a box
    int64_t tiles_x;       // at most
    int64_t tiles_n;
};

int64_t tiles_of_parts(const gemm_launch *launch, int weights)
{
    int64_t tiles = 0;
    for (int p = 0; p < launch->n_parts; p++)
        tiles += ceil_div(launch->part[p].n, weights);
    return tiles;
}

int64_t groups_with_rows(const gemm_launch *launch)
{
    if (!launch->offsets)
        return 1;
    return launch->n_experts < launch->rows ? launch->n_experts : launch->rows;
}

// The tiles of a shape, with boxes of `narrow` weight rows where weights are operand A.
Sm90_plan sm90_plan_of(const gemm_launch *launch, int kind, int narrow)
{
    const bool few = kind >= SM90_FEW64;
    Sm90_plan plan = {kind, few ? narrow : sm90_kinds[kind].weights, 0, 0};
    plan.tiles_n = tiles_of_parts(launch, few ? SM90_GROUPS * narrow : plan.weight_rows);
    plan.tiles_x = ceil_div(launch->rows, sm90_kinds[kind].rows);
    if (launch->offsets) // every group's last
        plan.tiles_x += groups_with_rows(launch);
    return plan;
}

// Clocks that a tile takes for 128 bytes of K: those of shared memory, 128 bytes each, which the tile's arrival and its
// reading by two warpgroups share, or those of the way from L2, 48 bytes each.
int64_t sm90_clocks(const Sm90_plan &plan)
{
    const Sm90_kind &kind = sm90_kinds[plan.kind];
    const bool few = plan.kind >= SM90_FEW64;
    const int64_t a = few ? SM90_GROUPS * plan.weight_rows : kind.rows,
                  b = few ? kind.rows : kind.weights;
    const int64_t halves = ceil_div(b, 128), arrives = (a + b) * SM90_SLAB;
    const int64_t read = SM90_GROUPS * (halves * 64 + b) * SM90_SLAB;
    const int64_t shared = (arrives + read) / 128, way = arrives / 48;
    return shared > way ? shared : way;
}

// The shape with the fewest rounds of the device times clocks. Every one gives the same bits. Logits are routed from
// tiles of 32 rows: four rows for each warp of the block that routes them.
Sm90_plan sm90_choose(const gpu_device *device, const gemm_launch *launch)
{
    Sm90_plan best = {};
    int64_t best_cost = INT64_MAX;
    const int64_t groups = groups_with_rows(launch);
    for (int kind = launch->route ? SM90_FEW32 : SM90_WIDE; kind < SM90_KINDS; kind++) {
        for (int narrow = 64; narrow >= (kind >= SM90_FEW64 ? 8 : 64); narrow /= 2) {
            const Sm90_plan plan = sm90_plan_of(launch, kind, narrow);
            int64_t expected = ceil_div(launch->expected_rows, sm90_kinds[kind].rows);
            if (launch->offsets) // the last tile of a group is half full, more or less
                expected += groups / 2;
            expected = (expected < groups ? groups : expected) * plan.tiles_n;
            const int64_t cost = ceil_div(expected, device->multiprocessors) * sm90_clocks(plan);
            if (cost < best_cost && plan.tiles_x * plan.tiles_n <= INT32_MAX / 2) {
                best_cost = cost;
                best = plan;
            }
        }
    }
    return best;
}

bool sm90_maps(const gemm_launch *launch, const Sm90_plan &plan, sm90_arguments *arguments)
{
    const tensor_map_encoder encode = tensor_map_find_encoder();
    if (!encode)
        return false;
    const uint64_t size = launch->x_dtype == RONDO_F8_E4M3 ? 1 : 2, slab = SM90_SLAB / size;
    const uint64_t k = (uint64_t)launch->k,
                   groups = launch->offsets ? (uint64_t)launch->n_experts : 1;
    if (!launch->gather) {
        const uint64_t dim[2] = {k, (uint64_t)launch->rows};
        const uint64_t stride[1] = {(uint64_t)launch->x_stride * size};
        const uint32_t box[2] = {(uint32_t)slab, (uint32_t)sm90_kinds[plan.kind].rows};
        if (!tensor_map_encode(encode, &arguments->x, (int)size, 2, launch->x, dim, stride, box))
            return false;
    }
    for (int p = 0; p < launch->n_parts; p++) {
        const gemm_part &part = launch->part[p];
        const uint64_t dim[3] = {k, (uint64_t)part.n, groups};
        const uint64_t stride[2] = {k * size, groups > 1 ? (uint64_t)part.weight_step
                                                         : k * size * (uint64_t)part.n};
        const uint32_t box[3] = {(uint32_t)slab, (uint32_t)plan.weight_rows, 1};
        if (!tensor_map_encode(encode, &arguments->weight[p], (int)size, 3, part.weight, dim,
                               stride, box))
            return false;
    }
    return true;
}

void sm90_fill(const gemm_launch *launch, const Sm90_plan &plan, sm90_arguments *arguments)
{
    const int64_t size = launch->x_dtype == RONDO_F8_E4M3 ? 1 : 2;
    arguments->x_rows = launch->x;
    arguments->x_stride = launch->x_stride * size;
    arguments->x_scale = launch->x_scale;
    arguments->x_scale_stride = launch->x_scale_stride;
    arguments->offsets = launch->offsets;
    arguments->gather = launch->gather;
    arguments->groups = launch->offsets ? launch->n_experts : 1;
    arguments->rows = launch->rows;
    arguments->k_bytes = (int32_t)(launch->k * size);
    arguments->n_parts = launch->n_parts;
    arguments->tiles_n = (int32_t)plan.tiles_n;
    arguments->blocks = (int32_t)ceil_div(launch->k, RONDO_BLOCK);
    arguments->weight_rows = plan.weight_rows;
    arguments->residual = launch->residual;
    const int weights = plan.kind >= SM90_FEW64 ? SM90_GROUPS * plan.weight_rows : plan.weight_rows;
    int32_t first_tile = 0;
    for (int p = 0; p < launch->n_parts; p++) {
        const gemm_part &from = launch->part[p];
        sm90_part &to = arguments->part[p];
        const int64_t out_size = from.out_is_bf16 ? 2 : 4;
        to.block_scale = from.scales == GEMM_SCALES_BLOCK ? from.scale : nullptr;
        to.row_scale = from.scales == GEMM_SCALES_ROW ? from.scale : nullptr;
        to.block_scale_stride = from.scale_stride;
        to.block_scale_step = to.row_scale_step = from.scale_step;
        to.bias = from.bias;
        to.bias_step = from.bias_step;
        to.out = static_cast<char *>(from.out);
        to.out_stride = from.out_stride * out_size;
        to.n = from.n;
        to.first_tile = first_tile;
        to.out_is_bf16 = from.out_is_bf16;
        to.vectors = reinterpret_cast<uintptr_t>(to.out) % 16 == 0 && to.out_stride % 16 == 0 &&
                     to.n % 8 == 0;
        first_tile += (int32_t)ceil_div(from.n, weights);
    }
}

template <class S, class Route>
void sm90_launch(gpu_device *device, const sm90_arguments &arguments, int64_t tiles,
                 const Route &route)
{
    const size_t words = arguments.offsets ? (size_t)arguments.groups + 1 + SM90_THREADS / 32
                         : Route::routes   ? 1 + GROUPED_PAIRS
                                           : 0;
    const size_t shared = S::SHARED + words * sizeof(int32_t);
    const int64_t blocks = tiles < device->multiprocessors ? tiles : device->multiprocessors;
    if (!allow_shared_memory(device, gemm_sm90_kernel<S, Route>, shared,
                             "gemm_sm90: shared memory"))
        return;
    LAUNCH_NEXT(device, (gemm_sm90_kernel<S, Route>), (unsigned)blocks, SM90_THREADS, shared,
                arguments, route);
    GPU_LAUNCHED(device, "gemm_sm90");
}

template <class T, bool GATHER>
void sm90_launch_kind(gpu_device *device, int kind, const sm90_arguments &arguments, int64_t tiles)
{
    const gemm_no_router none = {};
    switch (kind) {
    case SM90_WIDE:
        sm90_launch<Sm90_shape<T, true, 128, 2, 4, GATHER>>(device, arguments, tiles, none);
        break;
    case SM90_SQUARE:
        sm90_launch<Sm90_shape<T, true, 128, 1, 6, GATHER>>(device, arguments, tiles, none);
        break;
    case SM90_FEW64:
        sm90_launch<Sm90_shape<T, false, 64, 1, 8, GATHER>>(device, arguments, tiles, none);
        break;
    case SM90_FEW32:
        sm90_launch<Sm90_shape<T, false, 32, 1, 10, GATHER>>(device, arguments, tiles, none);
        break;
    }
}

template <class T>
void sm90_launch_routed(gpu_device *device, const gemm_launch *launch, const Sm90_plan &plan,
                        const sm90_arguments &arguments, int64_t tiles)
{
    sm90_launch<Sm90_shape<T, false, 32, 1, 10, false>>(
        device, arguments, tiles, gemm_routes(*launch, SM90_GROUPS * plan.weight_rows));
}

void sm90_run(gpu_device *device, gemm_family family, const gemm_launch *launch,
              const Sm90_plan &plan)
{
    sm90_arguments arguments = {};
    if (!sm90_maps(launch, plan, &arguments)) {
        GPU(failed)(device, cudaErrorInvalidValue, "gemm_sm90: tensor map");
        return;
    }
    sm90_fill(launch, plan, &arguments);
    const int64_t tiles = plan.tiles_x * plan.tiles_n;
    if (launch->route && family == GEMM_E4M3_E4M3)
        sm90_launch_routed<uint8_t>(device, launch, plan, arguments, tiles);
    else if (launch->route)
        sm90_launch_routed<uint16_t>(device, launch, plan, arguments, tiles);
    else if (family == GEMM_E4M3_E4M3 && launch->gather)
        sm90_launch_kind<uint8_t, true>(device, plan.kind, arguments, tiles);
    else if (family == GEMM_E4M3_E4M3)
        sm90_launch_kind<uint8_t, false>(device, plan.kind, arguments, tiles);
    else if (launch->gather)
        sm90_launch_kind<uint16_t, true>(device, plan.kind, arguments, tiles);
    else
        sm90_launch_kind<uint16_t, false>(device, plan.kind, arguments, tiles);
}

} // namespace

int GPU(gemm_sm90_takes)(const gpu_device *device, gemm_family family, const gemm_launch *launch)
{
    if (device->capability != 90 || (family != GEMM_E4M3_E4M3 && family != GEMM_BF16_BF16))
        return 0;
    if (!launch->x_vectors || !launch->weight_vectors)
        return 0; // rows that do not begin at 16 bytes
    return launch->n_experts <= SM90_MAX_EXPERTS;
}

void GPU(gemm_launch_sm90)(gpu_device *device, gemm_family family, const gemm_launch *launch)
{
    sm90_run(device, family, launch, sm90_choose(device, launch));
}
