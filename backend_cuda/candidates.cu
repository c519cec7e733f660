// penalize and candidates: what sampling needs of rows of logits, so that a row is rarely read back.
//
// candidates is two launches. The first reads a row once and keeps the largest key (keys.cuh) of every group of logits
// that stand together, some 1000 to 2048 groups a row. The 256th largest of these is a threshold: at least 256 keys of
// the row reach it, and all that do are in the 256 groups whose own reach it. In the second launch one block a row
// sorts the keys of the groups, takes what reaches the threshold from the chosen groups (for logits in no particular
// order some 300 of 32768 that it reads) and sorts that. Should more reach it than there is room for, the 256th of
// those that found room is a higher threshold, and the groups are read again: every time at least 1792 less reach it.
// Other blocks of the same launch add up the mass: integers, in whatever order.
//
// Bytes of a row of V values: 4 V, and 4 V again for the mass, which the L2 mostly still has. One row of 157184:
// 0.6 MB, floor 0.2 us on an H100; the sorts decide: 111 steps of 60 ns between barriers, predicted 12 us for both
// launches, where copying the row takes 25 us at PCIe's 25 GB/s and sampling on the host more. 64 rows: 40 MB, floor
// 12 us; the mass is some 50 instructions a logit, predicted 45 us. Read back: 2064 bytes a row.
// Checked under emulation, never run on a device.
#include "backend_cuda/keys.cuh"
#include "backend_cuda/rows.cuh"

namespace
{

constexpr int GROUP_THREADS = 256;
constexpr int SPANS = 2;         // of a warp of the first launch
constexpr int MAX_GROUPS = 2048; // of a row
constexpr int ROWS_AT_ONCE = 64; // of a launch, as the workspace has room for
constexpr int THREADS = 1024;    // of the second launch
constexpr int SLOTS = 2048;      // keys that a block sorts
constexpr int KEPT = RONDO_CANDIDATES;
constexpr int AT_ONCE = 4; // loads of a thread that are in flight
constexpr int MASS_LOADS = 2;
constexpr int MASS_PIECE = 4 * THREADS * MASS_LOADS; // logits of a block that adds up mass

static_assert(MAX_GROUPS <= SLOTS && KEPT <= SLOTS && SLOTS == 2 * THREADS, "the sort");

struct rows {
    const float *x;
    int64_t stride, n;
    int32_t group_shift; // a group is 1 << group_shift logits, at least 4
    int32_t n_groups;
    uint64_t *groups; // [rows, n_groups] largest keys
    const struct rondo_sampling *sampling;
    struct rondo_candidates *out;
};

__global__ void penalize_kernel(float *x, int64_t stride, const struct rondo_sampling *sampling,
                                const int32_t *seen)
{
    wait_for_previous();
    const struct rondo_sampling &row = sampling[blockIdx.y];
    int32_t i = (int32_t)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= row.n_seen)
        return;
    float *logit = x + blockIdx.y * stride + seen[row.first_seen + i];
    *logit = *logit > 0.0f ? *logit / row.penalty : *logit * row.penalty;
}

// Largest of the four logits from `at` on.
__device__ __forceinline__ uint64_t key_of_four(const float4 &four, int64_t at, int64_t n)
{
    const float value[4] = {four.x, four.y, four.z, four.w};
    uint64_t key = 0;
    for (int j = 0; j < 4; j++)
        key = at + j < n ? larger(key, key_of(value[j], at + j)) : key;
    return key;
}

// A warp takes spans of whole groups, at least four logits a lane.
template <bool VECTOR>
__global__ void __launch_bounds__(GROUP_THREADS) groups_kernel(const struct rows rows)
{
    wait_for_previous();
    int64_t row = blockIdx.y, group = (int64_t)1 << rows.group_shift;
    int64_t span = group > 4 * WARP_SIZE ? group : 4 * WARP_SIZE;
    int64_t warp = (int64_t)blockIdx.x * (GROUP_THREADS / WARP_SIZE) + (int)threadIdx.x / WARP_SIZE;
    int lane = (int)threadIdx.x % WARP_SIZE;
    int lanes = group < span ? (int)group / 4 : WARP_SIZE;
    const float *x = rows.x + row * rows.stride;
    if (!rows.sampling[row].wanted)
        return;
    if (blockIdx.x == 0 && threadIdx.x == 0)
        rows.out[row].mass = 0;
    uint64_t key[SPANS];
#pragma unroll
    for (int i = 0; i < SPANS; i++) {
        int64_t first = (warp * SPANS + i) * span;
        key[i] = 0;
        for (int64_t at = first + 4 * lane; at < first + span; at += 4 * WARP_SIZE)
            key[i] = larger(key[i], key_of_four(load4_f32<VECTOR>(x, at, rows.n), at, rows.n));
    }
#pragma unroll
    for (int i = 0; i < SPANS; i++) {
        int64_t at = (warp * SPANS + i) * span + 4 * lane;
        uint64_t largest = lanes_largest(key[i], lanes);
        if (lane % lanes == 0 && at < rows.n)
            rows.groups[row * rows.n_groups + (at >> rows.group_shift)] = largest;
    }
}

// ---- mass ------------------------------------------------------------------------------------------------------

// What an exponential adds to the mass: rondo_candidate_mass.
__device__ __forceinline__ uint64_t mass_of(float logit, float largest, float temperature)
{
    float weight = exp_f32((logit - largest) / temperature);
    return weight == weight ? (uint64_t)(weight * RONDO_MASS_ONE) : 0;
}

// Block `piece` of those that add up a row's mass. `of_warp` is shared memory.
template <bool VECTOR>
__device__ __forceinline__ void add_mass(const struct rows &rows, int64_t row, int64_t piece,
                                         uint64_t *of_warp)
{
    const int warps = THREADS / WARP_SIZE, warp = (int)threadIdx.x / WARP_SIZE;
    const int lane = (int)threadIdx.x % WARP_SIZE;
    float temperature = rows.sampling[row].temperature;
    const float *x = rows.x + row * rows.stride;
    uint64_t key = 0, mass = 0;
    for (int i = (int)threadIdx.x; i < rows.n_groups; i += THREADS)
        key = larger(key, rows.groups[row * rows.n_groups + i]);
    key = lanes_largest(key, WARP_SIZE);
    if (lane == 0)
        of_warp[warp] = key;
    __syncthreads();
    for (int i = 0; i < warps; i++)
        key = larger(key, of_warp[i]);
    __syncthreads();
    if (key == 0)
        return;
    float largest =
        key_value(key); // an infinite one leaves differences without mass: infinities and NaN

    float4 part[MASS_LOADS];
    int64_t first = piece * MASS_PIECE + 4 * (int)threadIdx.x;
#pragma unroll
    for (int i = 0; i < MASS_LOADS; i++)
        part[i] = load4_f32<VECTOR>(x, first + 4 * THREADS * i, rows.n);
#pragma unroll
    for (int i = 0; i < MASS_LOADS; i++) {
        const float value[4] = {part[i].x, part[i].y, part[i].z, part[i].w};
        for (int j = 0; j < 4; j++) {
            if (first + 4 * THREADS * i + j < rows.n)
                mass += mass_of(value[j], largest, temperature);
        }
    }
    for (int mask = WARP_SIZE / 2; mask; mask /= 2)
        mass += warp_xor_64(mass, mask);
    if (lane == 0)
        of_warp[warp] = mass;
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < warps; i++)
            mass += of_warp[i];
        atomicAdd(reinterpret_cast<unsigned long long *>(&rows.out[row].mass),
                  (unsigned long long)mass);
    }
}

// ---- the largest -----------------------------------------------------------------------------------------------

// Sorts `size` keys in shared memory, a power of two up to SLOTS, the largest first: bitonic. Barriers stand before
// the first access and after the last.
__device__ __forceinline__ void sort_keys(uint64_t *keys, int size)
{
    for (int run = 2; run <= size; run *= 2) {
        for (int step = run / 2; step; step /= 2) {
            __syncthreads();
            int i = (int)threadIdx.x;
            if (i < size / 2) {
                int low = 2 * i - (i & (step - 1)), high = low + step;
                uint64_t a = keys[low], b = keys[high];
                if ((a < b) == ((low & run) == 0)) {
                    keys[low] = b;
                    keys[high] = a;
                }
            }
        }
    }
    __syncthreads();
}

__device__ __forceinline__ int power_above(int n, int least)
{
    int power = least;
    while (power < n)
        power *= 2;
    return power;
}

// Puts the keys of the chosen groups that reach the threshold into `keys`, as far as there is room, and counts them.
template <bool VECTOR>
__device__ __forceinline__ void collect(const struct rows &rows, int64_t row, const int32_t *chosen,
                                        int n_chosen, uint64_t threshold, uint64_t *keys,
                                        int32_t *count)
{
    const float *x = rows.x + row * rows.stride;
    int shift = rows.group_shift - 2, total = n_chosen << shift; // in fours
    for (int begin = (int)threadIdx.x; begin < total; begin += THREADS * AT_ONCE) {
        float4 part[AT_ONCE];
        int64_t at[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            int four = begin + THREADS * i, group = four < total ? chosen[four >> shift] : -1;
            at[i] = group < 0
                        ? rows.n
                        : ((int64_t)group << rows.group_shift) + 4 * (four & ((1 << shift) - 1));
            part[i] = load4_f32<VECTOR>(x, at[i], rows.n);
        }
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const float value[4] = {part[i].x, part[i].y, part[i].z, part[i].w};
            for (int j = 0; j < 4; j++) {
                uint64_t key = at[i] + j < rows.n ? key_of(value[j], at[i] + j) : 0;
                if (key < threshold)
                    continue;
                int32_t slot = atomicAdd(count, 1);
                if (slot < SLOTS)
                    keys[slot] = key;
            }
        }
    }
}

// Chooses groups by their largest keys and gives the threshold, which is above 0. A barrier has to follow.
__device__ __forceinline__ uint64_t choose(const struct rows &rows, int64_t row, uint64_t *keys,
                                           int32_t *chosen)
{
    uint64_t threshold = 1;
    if (rows.n_groups <= KEPT) {
        if ((int)threadIdx.x < KEPT)
            chosen[threadIdx.x] = (int)threadIdx.x < rows.n_groups ? (int)threadIdx.x : -1;
    } else {
        int size = power_above(rows.n_groups, KEPT);
        for (int i = (int)threadIdx.x; i < size; i += THREADS)
            keys[i] = i < rows.n_groups ? rows.groups[row * rows.n_groups + i] : 0;
        sort_keys(keys, size);
        threshold = larger(threshold, keys[KEPT - 1]);
        if ((int)threadIdx.x < KEPT) {
            uint64_t key = keys[threadIdx.x];
            chosen[threadIdx.x] = key ? key_index(key) >> rows.group_shift : -1;
        }
    }
    return threshold;
}

template <bool VECTOR>
__device__ __forceinline__ void select_row(const struct rows &rows, int64_t row, uint64_t *keys,
                                           int32_t *chosen, int32_t *count)
{
    struct rondo_candidates *out = &rows.out[row];
    uint64_t threshold = choose(rows, row, keys, chosen);
    int n_chosen = rows.n_groups < KEPT ? rows.n_groups : KEPT, found;
    for (;;) {
        if (threadIdx.x == 0)
            *count = 0;
        __syncthreads(); // all have read what they need of `keys`
        collect<VECTOR>(rows, row, chosen, n_chosen, threshold, keys, count);
        __syncthreads();
        found = *count;
        if (found <= SLOTS)
            break;
        sort_keys(keys, SLOTS);
        threshold = keys[KEPT - 1];
    }
    int size = power_above(found, KEPT);
    for (int i = found + (int)threadIdx.x; i < size; i += THREADS)
        keys[i] = 0;
    sort_keys(keys, size);
    if (threadIdx.x == 0) {
        out->count = found < KEPT ? found : KEPT;
        out->padding = 0;
    }
    if (threadIdx.x < KEPT) {
        uint64_t key = keys[threadIdx.x];
        out->value[threadIdx.x] = key ? key_value(key) : bits_f32(0xff800000u);
        out->id[threadIdx.x] = key ? key_index(key) : -1;
    }
}

// Block 0 of a row takes its largest logits, the others add up its mass.
template <bool VECTOR>
__global__ void __launch_bounds__(THREADS) candidates_kernel(const struct rows rows)
{
    wait_for_previous();
    SHARED_ARRAY(uint64_t, keys, SLOTS);
    SHARED_ARRAY(int32_t, chosen, KEPT);
    SHARED_ARRAY(int32_t, count, 1);
    int64_t row = blockIdx.y;
    if (!rows.sampling[row].wanted)
        return;
    if (blockIdx.x == 0)
        select_row<VECTOR>(rows, row, keys, chosen, count);
    else if (rows.sampling[row].temperature > 0.0f)
        add_mass<VECTOR>(rows, row, (int64_t)blockIdx.x - 1, keys);
}

template <bool VECTOR> void run_rows(struct gpu_device *gpu, const struct rows &rows, int64_t count)
{
    int64_t group = (int64_t)1 << rows.group_shift;
    int64_t span = group > 4 * WARP_SIZE ? group : 4 * WARP_SIZE;
    int64_t blocks = ceil_div(rows.n, span * SPANS * (GROUP_THREADS / WARP_SIZE));
    int64_t pieces = ceil_div(rows.n, MASS_PIECE);
    LAUNCH_NEXT(gpu, (groups_kernel<VECTOR>), dim3((unsigned)blocks, (unsigned)count),
                dim3(GROUP_THREADS), 0, rows);
    GPU_LAUNCHED(gpu, "candidates");
    LAUNCH_NEXT(gpu, (candidates_kernel<VECTOR>), dim3((unsigned)pieces + 1, (unsigned)count),
                dim3(THREADS), 0, rows);
    GPU_LAUNCHED(gpu, "candidates");
}

} // namespace

size_t GPU(candidates_workspace)(const struct gpu_device *device, const struct rondo_limits *limits)
{
    return (size_t)ROWS_AT_ONCE * MAX_GROUPS * sizeof(uint64_t);
}

void GPU(penalize)(struct rondo_device *device, const struct rondo_op_penalize *op)
{
    struct gpu_device *gpu = gpu_device_of(device);
    int64_t rows = rondo_tensor_rows(&op->x);
    if (rows == 0 || op->max_seen == 0)
        return;
    LAUNCH_NEXT(gpu, penalize_kernel,
                dim3((unsigned)ceil_div(op->max_seen, GROUP_THREADS), (unsigned)rows),
                dim3(GROUP_THREADS), 0, static_cast<float *>(op->x.data), op->x.row_stride,
                op->sampling, op->seen);
    GPU_LAUNCHED(gpu, "penalize");
}

void GPU(candidates)(struct rondo_device *device, const struct rondo_op_candidates *op)
{
    struct gpu_device *gpu = gpu_device_of(device);
    int64_t n_rows = rondo_tensor_rows(&op->x), n = rondo_tensor_columns(&op->x);
    bool vector = n % 4 == 0 && op->x.row_stride % 4 == 0 && is_vector_address(op->x.data);
    int32_t shift = 2;
    while (ceil_div(n, (int64_t)1 << shift) > MAX_GROUPS)
        shift++;
    for (int64_t first = 0; first < n_rows; first += ROWS_AT_ONCE) {
        int64_t count = n_rows - first < ROWS_AT_ONCE ? n_rows - first : ROWS_AT_ONCE;
        struct rows rows = {static_cast<const float *>(op->x.data) + first * op->x.row_stride,
                            op->x.row_stride,
                            n,
                            shift,
                            (int32_t)ceil_div(n, (int64_t)1 << shift),
                            static_cast<uint64_t *>(gpu->workspace),
                            op->sampling + first,
                            op->out + first};
        if (vector)
            run_rows<true>(gpu, rows, count);
        else
            run_rows<false>(gpu, rows, count);
    }
}
