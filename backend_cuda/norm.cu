// The norm family: rmsnorm, group_norm_gate, quantize. The orders of core/ops.h, bit for bit.
//
// A norm. A row of x is staged in shared memory by 16-byte loads, all of them in flight at once. Half a warp then
// sums the squares of a group: lane l takes channels l, l+16, ..., one chain of fma as the contract has it (4
// cycles a link: 0.3 us for 2048 channels). Last, all threads of the row write the outputs, eight channels each,
// from shared memory. Few rows get a block of 256 threads each, so that loads, weights and outputs of one row
// spread over a multiprocessor; many rows share blocks of two, whose chains fill one warp, and the chains of some
// blocks run under the loads of others. Rows that do not fit into shared memory are read twice.
//
// Bytes of a row of D channels, bf16 out, with H100's 3.35 TB/s for 8192 rows of 2048:
//   rmsnorm          4 D in, 2 D out                     101 MB, floor 30 us
//   rmsnorm to e4m3  4 D in, D + D / 32 out               85 MB, floor 25 us
//   group_norm_gate  4 D + 2 D in, 2 D out               134 MB, floor 40 us; to e4m3 118 MB, 35 us
//   quantize         2 D in, D + D / 32 out               51 MB, floor 15 us
// Predicted: rmsnorm and quantize 85 % of the floor, group_norm_gate 75 % (a sigmoid is some 30 instructions; the
// issue slots of a multiprocessor are then as busy as memory), codes 5 points less. One row: 3 us.
// Checked under emulation, never run on a device.
#include "backend_cuda/rows.cuh"

namespace
{

constexpr int NO_GATE = -1;
constexpr int MAX_GROUPS = 1024;             // of a launch
constexpr int SHARED_FLOATS = 48 * 1024 / 4; // what every device gives a block unasked

struct norm {
    const float *x;
    const int32_t *rows; // NULL: the row itself
    const float *weight;
    const void *gate;
    struct act_rows out;
    int64_t n_rows, x_stride, gate_stride;
    int32_t columns, n_groups;
    int32_t staged; // floats from a staged row to the next; 0: rows are read from x
    float eps;
};

// The thread's part of a row, to shared memory: eight loads of 16 bytes at a time.
template <bool VECTOR, int THREADS>
__device__ __forceinline__ void stage_row(const float *x, float *to, int32_t n, int thread)
{
    constexpr int AT_ONCE = 2048 / (4 * THREADS) < 1 ? 1 : 2048 / (4 * THREADS);
    for (int32_t first = 4 * thread; first < n; first += 4 * THREADS * AT_ONCE) {
        float4 part[AT_ONCE];
        for (int i = 0; i < AT_ONCE; i++)
            part[i] = load4_f32<VECTOR>(x, first + 4 * THREADS * i, n);
        for (int i = 0; i < AT_ONCE; i++)
            if (first + 4 * THREADS * i < n)
                *reinterpret_cast<float4 *>(to + first + 4 * THREADS * i) = part[i];
    }
}

// ROWS rows a block, THREADS threads a row.
template <int GATE, bool VECTOR, int ROWS, int THREADS>
__global__ void __launch_bounds__(ROWS *THREADS) norm_kernel(struct norm op)
{
    wait_for_previous();
    DYN_SHARED(float, shared);
    float *inverse = shared + ROWS * op.staged; // [ROWS, n_groups]
    int sub = (int)threadIdx.x / THREADS, thread = (int)threadIdx.x % THREADS;
    int64_t row = (int64_t)blockIdx.x * ROWS + sub;
    bool valid = row < op.n_rows;
    int32_t n = op.columns, group = n / op.n_groups, at = LANE_CHANNELS * thread;
    const float *x = op.x + (valid ? op.rows ? op.rows[row] : row : 0) * op.x_stride;
    const char *gate = static_cast<const char *>(op.gate) +
                       (valid ? row : 0) * op.gate_stride * (GATE == RONDO_F32 ? 4 : 2);

    // What the first channels need later is under way while the row is summed.
    struct eight weight = load8<RONDO_F32, VECTOR>(op.weight, at, n), open = {};
    if constexpr (GATE != NO_GATE)
        open = load8<GATE, VECTOR>(gate, at, n);
    if (op.staged) {
        if (valid)
            stage_row<VECTOR, THREADS>(x, shared + sub * op.staged, n, thread);
        x = shared + sub * op.staged;
    }
    __syncthreads();

    int half = (int)threadIdx.x / GROUP_LANES;
    for (int32_t first = 0; first < ROWS * op.n_groups; first += ROWS * THREADS / GROUP_LANES) {
        int32_t unit = first + half, unit_row = unit / op.n_groups, g = unit % op.n_groups;
        int64_t of = (int64_t)blockIdx.x * ROWS + unit_row;
        bool active = unit < ROWS * op.n_groups && of < op.n_rows;
        const float *from = shared + unit_row * op.staged;
        if (!op.staged)
            from = op.x + (active ? op.rows ? op.rows[of] : of : 0) * op.x_stride;
        float r = inverse_rms(from + g * group, active ? group : 0, group, op.eps);
        if (active && threadIdx.x % GROUP_LANES == 0)
            inverse[unit] = r;
    }
    __syncthreads();

    // Every lane of a warp goes round as often as the others: quantisation takes whole warps.
    for (int32_t first = 0; first < n; first += LANE_CHANNELS * THREADS) {
        at = first + LANE_CHANNELS * thread;
        int32_t end = valid ? n : 0;
        struct eight y = load8<RONDO_F32, VECTOR>(x, at, end);
        if (first) {
            weight = load8<RONDO_F32, VECTOR>(op.weight, at, n);
            if constexpr (GATE != NO_GATE)
                open = load8<GATE, VECTOR>(gate, at, n);
        }
        float r = at < end ? inverse[sub * op.n_groups + at / group] : 0.0f;
        for (int i = 0; i < LANE_CHANNELS; i++) {
            if (!VECTOR && at + i < end)
                r = inverse[sub * op.n_groups + (at + i) / group];
            y.v[i] = y.v[i] * r * weight.v[i];
        }
        if constexpr (GATE != NO_GATE) {
            open = sigmoid8(open);
            for (int i = 0; i < LANE_CHANNELS; i++)
                y.v[i] = y.v[i] * open.v[i];
        }
        store_act8<VECTOR>(op.out, row, at, end, y);
    }
}

template <int GATE, bool VECTOR, int ROWS, int THREADS>
void launch_norm(struct gpu_device *device, struct norm op, const char *what)
{
    int32_t padded = (op.columns + 31) / 32 * 32 + 16; // the rows of a warp's halves in other banks
    op.staged = ROWS * (padded + op.n_groups) <= SHARED_FLOATS ? padded : 0;
    size_t size = (size_t)ROWS * (size_t)(op.staged + op.n_groups) * sizeof(float);
    LAUNCH_NEXT(device, (norm_kernel<GATE, VECTOR, ROWS, THREADS>),
                dim3((unsigned)ceil_div(op.n_rows, ROWS)), dim3(ROWS * THREADS), size, op);
    GPU_LAUNCHED(device, what);
}

template <int GATE>
void run_norm(struct gpu_device *device, const struct norm *op, bool vector, const char *what)
{
    if (!vector)
        launch_norm<GATE, false, 1, 256>(device, *op, what);
    else if (op->n_rows <= 2 * device->multiprocessors)
        launch_norm<GATE, true, 1, 256>(device, *op, what);
    else if (op->columns <= 2048)
        launch_norm<GATE, true, 2, 64>(device, *op, what);
    else
        launch_norm<GATE, true, 2, 128>(device, *op, what);
}

// ---- quantize ----------------------------------------------------------------------------------------------------

constexpr int QUANTIZE_THREADS = 128;
constexpr int QUANTIZE_AT_ONCE = 4; // loads of a thread that are in flight

// Each 16 lanes take groups [first, first + QUANTIZE_AT_ONCE) of a row: `pieces` of them to a row.
template <int DTYPE, bool VECTOR, int AT_ONCE>
__global__ void __launch_bounds__(QUANTIZE_THREADS)
    quantize_kernel(const char *x, int64_t x_stride, struct code_rows out, int64_t n_rows,
                    int32_t columns, int32_t pieces, bool power_of_two)
{
    wait_for_previous();
    uint32_t unit = blockIdx.x * (QUANTIZE_THREADS / GROUP_LANES) + threadIdx.x / GROUP_LANES;
    int64_t row = unit / (uint32_t)pieces;
    int32_t end = row < n_rows ? columns : 0; // lanes without work go along
    int32_t at = (int32_t)(unit - row * pieces) * RONDO_BLOCK +
                 LANE_CHANNELS * (int32_t)(threadIdx.x % GROUP_LANES);
    x += (row < n_rows ? row : 0) * x_stride * (DTYPE == RONDO_F32 ? 4 : 2);
    struct eight part[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++)
        part[i] = load8<DTYPE, VECTOR>(x, at + i * pieces * RONDO_BLOCK, end);
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++)
        quantize8<VECTOR>(out, row, at + i * pieces * RONDO_BLOCK, end, part[i], power_of_two);
}

template <int DTYPE, bool VECTOR, int AT_ONCE>
void launch_quantize(struct gpu_device *device, const struct rondo_op_quantize *op)
{
    int64_t rows = rondo_tensor_rows(&op->x), columns = rondo_tensor_columns(&op->x);
    int64_t pieces = ceil_div(columns, RONDO_BLOCK * AT_ONCE);
    int64_t blocks = ceil_div(rows * pieces * GROUP_LANES, QUANTIZE_THREADS);
    LAUNCH_NEXT(device, (quantize_kernel<DTYPE, VECTOR, AT_ONCE>), dim3((unsigned)blocks),
                dim3(QUANTIZE_THREADS), 0, static_cast<const char *>(op->x.data), op->x.row_stride,
                code_rows_of(&op->out), rows, (int32_t)columns, (int32_t)pieces, op->power_of_two);
    GPU_LAUNCHED(device, "quantize");
}

template <int DTYPE>
void run_quantize(struct gpu_device *device, const struct rondo_op_quantize *op)
{
    int64_t elements = rondo_tensor_rows(&op->x) * rondo_tensor_columns(&op->x);
    if (!rows_are_vectors(&op->x) || !rows_are_vectors(&op->out))
        launch_quantize<DTYPE, false, 1>(device, op);
    else if (elements <= (int64_t)device->multiprocessors * 4096)
        launch_quantize<DTYPE, true, 1>(device, op);
    else
        launch_quantize<DTYPE, true, QUANTIZE_AT_ONCE>(device, op);
}

} // namespace

// ---- entries -----------------------------------------------------------------------------------------------------

void GPU(rmsnorm)(struct rondo_device *device, const struct rondo_op_rmsnorm *op)
{
    struct norm args = {};
    args.x = static_cast<const float *>(op->x.data);
    args.rows = op->rows;
    args.weight = op->weight;
    args.out = act_rows_of(&op->out, &op->codes);
    args.n_rows = op->n_rows;
    args.x_stride = op->x.row_stride;
    args.columns = (int32_t)rondo_tensor_columns(&op->x);
    args.n_groups = 1;
    args.eps = op->eps;
    if (args.n_rows > 0)
        run_norm<NO_GATE>(gpu_device_of(device), &args,
                          rows_are_vectors(&op->x) && rows_are_vectors(&op->out) &&
                              (!op->codes.data || rows_are_vectors(&op->codes)) &&
                              is_vector_address(op->weight),
                          "rmsnorm");
}

void GPU(group_norm_gate)(struct rondo_device *device, const struct rondo_op_group_norm_gate *op)
{
    int32_t columns = (int32_t)rondo_tensor_columns(&op->x), group = columns / op->n_groups;
    bool vector = rows_are_vectors(&op->x) && rows_are_vectors(&op->gate) &&
                  rows_are_vectors(&op->out) && is_vector_address(op->weight) &&
                  group % LANE_CHANNELS == 0;
    size_t gate_size = rondo_dtype_size(op->gate.dtype), out_size = rondo_dtype_size(op->out.dtype);
    for (int32_t first = 0; first < op->n_groups; first += MAX_GROUPS) {
        struct norm args = {};
        int64_t skip = (int64_t)first * group; // a multiple of 128 channels
        args.x = static_cast<const float *>(op->x.data) + skip;
        args.weight = op->weight + skip;
        args.gate = static_cast<const char *>(op->gate.data) + (size_t)skip * gate_size;
        args.out = act_rows_of(&op->out, NULL);
        args.out.data = static_cast<char *>(args.out.data) + (size_t)skip * out_size;
        if (op->out.dtype == RONDO_F8_E4M3) {
            args.out.codes.codes += skip;
            args.out.codes.scale += skip / RONDO_BLOCK;
        }
        args.n_rows = rondo_tensor_rows(&op->x);
        args.x_stride = op->x.row_stride;
        args.gate_stride = op->gate.row_stride;
        args.n_groups = op->n_groups - first < MAX_GROUPS ? op->n_groups - first : MAX_GROUPS;
        args.columns = args.n_groups * group;
        args.eps = op->eps;
        if (args.n_rows == 0)
            return;
        if (op->gate.dtype == RONDO_F32)
            run_norm<RONDO_F32>(gpu_device_of(device), &args, vector, "group_norm_gate");
        else
            run_norm<RONDO_BF16>(gpu_device_of(device), &args, vector, "group_norm_gate");
    }
}

void GPU(quantize)(struct rondo_device *device, const struct rondo_op_quantize *op)
{
    if (rondo_tensor_rows(&op->x) == 0)
        return;
    if (op->x.dtype == RONDO_F32)
        run_quantize<RONDO_F32>(gpu_device_of(device), op);
    else
        run_quantize<RONDO_BF16>(gpu_device_of(device), op);
}
