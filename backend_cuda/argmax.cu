// argmax: the index of the largest value of each row of logits, so that greedy decoding reads back ids only.
//
// A row is cut into pieces, a block each, whose largest keys (keys.cuh) go to the workspace; a second launch, a warp a
// row, takes the largest of the pieces.
//
// Bytes of a row of V values: 4 V. One row of 157184: 0.6 MB, floor 0.2 us on an H100, so that the two launches decide:
// predicted 5 us, where copying the row to the host takes 25 us at PCIe's 25 GB/s and more. 64 rows: 40 MB, floor 12 us,
// predicted 80 %.
// Checked under emulation, never run on a device.
#include "backend_cuda/keys.cuh"
#include "backend_cuda/rows.cuh"

namespace
{

constexpr int THREADS = 256;
constexpr int AT_ONCE = 4;       // loads of a thread that are in flight
constexpr int MAX_PIECES = 64;   // of a row
constexpr int ROWS_AT_ONCE = 64; // of a launch, as the workspace has room for

template <bool VECTOR>
__global__ void __launch_bounds__(THREADS)
    piece_kernel(const float *x, int64_t stride, int64_t n, int64_t piece, uint64_t *largest)
{
    wait_for_previous();
    SHARED_ARRAY(uint64_t, of_warp, THREADS / WARP_SIZE);
    int64_t begin = blockIdx.x * piece, end = begin + piece < n ? begin + piece : n;
    uint64_t key = 0;
    x += blockIdx.y * stride;
    for (int64_t first = begin + 4 * threadIdx.x; first < end; first += 4 * THREADS * AT_ONCE) {
        float4 part[AT_ONCE];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            part[i] = load4_f32<VECTOR>(x, first + 4 * THREADS * i, end);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const float value[4] = {part[i].x, part[i].y, part[i].z, part[i].w};
            for (int j = 0; j < 4; j++) {
                int64_t index = first + 4 * THREADS * i + j;
                key = index < end ? larger(key, key_of(value[j], index)) : key;
            }
        }
    }
    key = lanes_largest(key, WARP_SIZE);
    if (threadIdx.x % WARP_SIZE == 0)
        of_warp[threadIdx.x / WARP_SIZE] = key;
    __syncthreads();
    if (threadIdx.x < WARP_SIZE) {
        key = threadIdx.x < THREADS / WARP_SIZE ? of_warp[threadIdx.x] : 0;
        key = lanes_largest(key, WARP_SIZE);
        if (threadIdx.x == 0)
            largest[blockIdx.y * gridDim.x + blockIdx.x] = key;
    }
}

__global__ void __launch_bounds__(WARP_SIZE)
    row_kernel(const uint64_t *largest, int32_t pieces, int32_t *ids)
{
    wait_for_previous();
    uint64_t key = 0;
    for (int32_t i = (int32_t)threadIdx.x; i < pieces; i += WARP_SIZE)
        key = larger(key, largest[blockIdx.x * (int64_t)pieces + i]);
    key = lanes_largest(key, WARP_SIZE);
    if (threadIdx.x == 0)
        ids[blockIdx.x] = key ? key_index(key) : -1;
}

} // namespace

size_t GPU(argmax_workspace)(const struct gpu_device *device, const struct rondo_limits *limits)
{
    return (size_t)ROWS_AT_ONCE * MAX_PIECES * sizeof(uint64_t);
}

void GPU(argmax)(struct rondo_device *device, const struct rondo_op_argmax *op)
{
    struct gpu_device *gpu = gpu_device_of(device);
    int64_t rows = rondo_tensor_rows(&op->x), n = rondo_tensor_columns(&op->x);
    int64_t step = 4 * THREADS * AT_ONCE, pieces = ceil_div(n, step);
    pieces = pieces < MAX_PIECES ? pieces : MAX_PIECES;
    int64_t piece = ceil_div(n, pieces * step) * step;
    pieces = ceil_div(n, piece);
    uint64_t *largest = static_cast<uint64_t *>(gpu->workspace);
    bool vector = n % 4 == 0 && op->x.row_stride % 4 == 0 && is_vector_address(op->x.data);
    for (int64_t first = 0; first < rows; first += ROWS_AT_ONCE) {
        int64_t count = rows - first < ROWS_AT_ONCE ? rows - first : ROWS_AT_ONCE;
        const float *x = static_cast<const float *>(op->x.data) + first * op->x.row_stride;
        dim3 grid((unsigned)pieces, (unsigned)count), block(THREADS);
        if (vector)
            LAUNCH_NEXT(gpu, (piece_kernel<true>), grid, block, 0, x, op->x.row_stride, n, piece,
                        largest);
        else
            LAUNCH_NEXT(gpu, (piece_kernel<false>), grid, block, 0, x, op->x.row_stride, n, piece,
                        largest);
        GPU_LAUNCHED(gpu, "argmax");
        LAUNCH_NEXT(gpu, row_kernel, dim3((unsigned)count), dim3(WARP_SIZE), 0, largest,
                    (int32_t)pieces, op->ids + first);
        GPU_LAUNCHED(gpu, "argmax");
    }
}
