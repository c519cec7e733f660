// The basic family: embedding and swiglu. The orders of core/ops.h, bit for bit; quantize stands in norm.cu.
//
// embedding: a block a token, eight channels a thread. Bytes of a row of D: 2 D (bf16 table) in, 4 D out; 8192
// tokens of 2048: 101 MB, floor 30 us on an H100. Predicted 85 %.
//
// swiglu: 16 lanes have 128 channels of the output and read both halves of the input 16 bytes at a time. Bytes of a
// row of I: 4 I in, 2 I out in bf16 (I + I / 32 as codes); 65536 rows of 512: 201 MB, floor 60 us (168 MB, 50 us).
// A silu is some 35 instructions: at that rate the issue slots of a multiprocessor are filled for 70 us. Predicted 75 %
// of the floor, 65 % with codes.
// Checked under emulation, never run on a device.
#include "backend_cuda/rows.cuh"

namespace
{

// ---- embedding ---------------------------------------------------------------------------------------------------

constexpr int EMBEDDING_THREADS = 256;

struct table_rows {
    const char *data;
    const float *scale; // NULL: none
    int64_t stride, scale_stride;
    int32_t scale_rows, scale_columns;
};

template <int DTYPE, bool VECTOR>
__global__ void __launch_bounds__(EMBEDDING_THREADS)
    embedding_kernel(struct rondo_batch batch, struct table_rows table, float *out,
                     int64_t out_stride, int32_t n)
{
    wait_for_previous();
    constexpr int SIZE = DTYPE == RONDO_F32 ? 4 : DTYPE == RONDO_F8_E4M3 ? 1 : 2;
    int64_t token = blockIdx.x;
    if (batch.sequences[batch.sequence_of[token]].slot < 0)
        return;
    int32_t id = batch.token[token];
    const char *row = table.data + (int64_t)id * table.stride * SIZE;
    const float *scale =
        table.scale ? table.scale + (int64_t)(id / table.scale_rows) * table.scale_stride : nullptr;
    out += token * out_stride;
    for (int32_t at = LANE_CHANNELS * (int32_t)threadIdx.x; at < n;
         at += LANE_CHANNELS * EMBEDDING_THREADS) {
        struct eight x = load8<DTYPE, VECTOR>(row, at, n);
        for (int i = 0; i < LANE_CHANNELS && scale; i++)
            if (at + i < n)
                x.v[i] = x.v[i] * scale[(at + i) / table.scale_columns];
        store8<VECTOR>(out, RONDO_F32, at, n, x);
    }
}

template <int DTYPE>
void run_embedding(struct gpu_device *device, const struct rondo_op_embedding *op)
{
    struct table_rows table = {static_cast<const char *>(op->table.data),
                               op->table.scale,
                               op->table.row_stride,
                               op->table.scale_stride,
                               op->table.scale_rows,
                               op->table.scale_columns};
    float *out = static_cast<float *>(op->out.data);
    int32_t n = (int32_t)rondo_tensor_columns(&op->out);
    dim3 grid((unsigned)op->batch->n_tokens), block(EMBEDDING_THREADS);
    if (rows_are_vectors(&op->table) && rows_are_vectors(&op->out))
        LAUNCH_NEXT(device, (embedding_kernel<DTYPE, true>), grid, block, 0, *op->batch, table, out,
                    op->out.row_stride, n);
    else
        LAUNCH_NEXT(device, (embedding_kernel<DTYPE, false>), grid, block, 0, *op->batch, table,
                    out, op->out.row_stride, n);
    GPU_LAUNCHED(device, "embedding");
}

// ---- swiglu ------------------------------------------------------------------------------------------------------

constexpr int SWIGLU_THREADS = 128;
constexpr int SWIGLU_AT_ONCE = 2; // groups of 128 channels that 16 lanes have in flight

template <int DTYPE, bool VECTOR, int AT_ONCE>
__global__ void __launch_bounds__(SWIGLU_THREADS)
    swiglu_kernel(const char *x, int64_t x_stride, struct act_rows out, int64_t n_rows,
                  int32_t columns, int32_t pieces)
{
    wait_for_previous();
    constexpr int SIZE = DTYPE == RONDO_F32 ? 4 : 2;
    uint32_t unit = blockIdx.x * (SWIGLU_THREADS / GROUP_LANES) + threadIdx.x / GROUP_LANES;
    int64_t row = unit / (uint32_t)pieces;
    int32_t end = row < n_rows ? columns : 0; // lanes without work go along
    int32_t at = (int32_t)(unit - row * pieces) * RONDO_BLOCK +
                 LANE_CHANNELS * (int32_t)(threadIdx.x % GROUP_LANES);
    x += (row < n_rows ? row : 0) * x_stride * SIZE;
    struct eight gate[AT_ONCE], up[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
        gate[i] = load8<DTYPE, VECTOR>(x, at + i * pieces * RONDO_BLOCK, end);
        up[i] =
            load8<DTYPE, VECTOR>(x + (int64_t)columns * SIZE, at + i * pieces * RONDO_BLOCK, end);
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) {
        struct eight open = sigmoid8(gate[i]);
        for (int c = 0; c < LANE_CHANNELS; c++)
            gate[i].v[c] = gate[i].v[c] * open.v[c] * up[i].v[c];
        store_act8<VECTOR>(out, row, at + i * pieces * RONDO_BLOCK, end, gate[i]);
    }
}

template <int DTYPE, bool VECTOR, int AT_ONCE>
void launch_swiglu(struct gpu_device *device, const struct rondo_op_swiglu *op)
{
    int64_t rows = rondo_tensor_rows(&op->out), columns = rondo_tensor_columns(&op->out);
    int64_t pieces = ceil_div(columns, RONDO_BLOCK * AT_ONCE);
    int64_t blocks = ceil_div(rows * pieces * GROUP_LANES, SWIGLU_THREADS);
    LAUNCH_NEXT(device, (swiglu_kernel<DTYPE, VECTOR, AT_ONCE>), dim3((unsigned)blocks),
                dim3(SWIGLU_THREADS), 0, static_cast<const char *>(op->x.data), op->x.row_stride,
                act_rows_of(&op->out, NULL), rows, (int32_t)columns, (int32_t)pieces);
    GPU_LAUNCHED(device, "swiglu");
}

template <int DTYPE> void run_swiglu(struct gpu_device *device, const struct rondo_op_swiglu *op)
{
    int64_t elements = rondo_tensor_rows(&op->out) * rondo_tensor_columns(&op->out);
    bool vector = rows_are_vectors(&op->x) && rows_are_vectors(&op->out);
    if (!vector)
        launch_swiglu<DTYPE, false, 1>(device, op);
    else if (elements <= (int64_t)device->multiprocessors * 4096)
        launch_swiglu<DTYPE, true, 1>(device, op);
    else
        launch_swiglu<DTYPE, true, SWIGLU_AT_ONCE>(device, op);
}

} // namespace

// ---- entries -----------------------------------------------------------------------------------------------------

void GPU(embedding)(struct rondo_device *device, const struct rondo_op_embedding *op)
{
    struct gpu_device *gpu = gpu_device_of(device);
    if (op->batch->n_tokens == 0)
        return;
    switch (op->table.dtype) {
    case RONDO_F32:
        run_embedding<RONDO_F32>(gpu, op);
        break;
    case RONDO_BF16:
        run_embedding<RONDO_BF16>(gpu, op);
        break;
    case RONDO_F16:
        run_embedding<RONDO_F16>(gpu, op);
        break;
    default:
        run_embedding<RONDO_F8_E4M3>(gpu, op);
        break;
    }
}

void GPU(swiglu)(struct rondo_device *device, const struct rondo_op_swiglu *op)
{
    if (rondo_tensor_rows(&op->out) == 0)
        return;
    if (op->x.dtype == RONDO_F32)
        run_swiglu<RONDO_F32>(gpu_device_of(device), op);
    else
        run_swiglu<RONDO_BF16>(gpu_device_of(device), op);
}
