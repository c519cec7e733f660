/* Kernels of the basic family over a vector of 16 floats: included once by each level, after its
 * vector header. */
#include "backend_cpu/quantize_kernels.h"
#include "core/candidates.h"
#include "core/numbers.h"

/* Elements index .. index + 15 of any floating dtype, the first n of them. */
static inline v16 load_any(const void *row, enum rondo_dtype dtype, int64_t index, int64_t n)
{
    float part[16] = {0};
    if (dtype == RONDO_F32 || dtype == RONDO_BF16)
        return v_load_part(row, dtype, index, n);
    if (n >= 16)
        return dtype == RONDO_F16 ? v_load_f16((const uint16_t *)row + index)
                                  : v_load_e4m3((const uint8_t *)row + index);
    for (int64_t i = 0; i < n; i++)
        part[i] = rondo_load(row, dtype, (size_t)(index + i));
    return v_load(part);
}

static void LEVEL(embedding_row)(const struct rondo_op_embedding *op, int64_t token)
{
    const struct rondo_tensor *table = &op->table;
    int64_t id = op->batch->token[token], n = rondo_tensor_columns(table);
    const void *row = rondo_tensor_row(table, id);
    float *out = rondo_tensor_row(&op->out, token);
    const float *scale =
        table->scale ? table->scale + id / table->scale_rows * table->scale_stride : NULL;
    int64_t block = scale ? table->scale_columns : n;
    for (int64_t first = 0; first < n; first += block) {
        int64_t end = first + block < n ? first + block : n;
        v16 factor = v_set(scale ? scale[first / block] : 1.0f);
        for (int64_t i = first; i < end; i += 16)
            v_store_part(out, RONDO_F32, i, end - i,
                         v_mul(load_any(row, table->dtype, i, end - i), factor));
    }
}

static void LEVEL(quantize_row)(const struct rondo_op_quantize *op, int64_t row, int64_t first,
                                int64_t end)
{
    const char *x = rondo_tensor_row(&op->x, row);
    int64_t n = rondo_tensor_columns(&op->x);
    for (int64_t group = first; group < end; group++) {
        int64_t begin = group * RONDO_BLOCK,
                stop = begin + RONDO_BLOCK < n ? begin + RONDO_BLOCK : n;
        quantize_group(x + (size_t)begin * rondo_dtype_size(op->x.dtype), op->x.dtype, &op->out,
                       row, begin, stop, op->power_of_two);
    }
}

/* Channels [first, end) as 16 at a time, to `out` from element first - skip on. */
static inline void swiglu_part(const struct rondo_op_swiglu *op, int64_t row, int64_t first,
                               int64_t end, void *out, enum rondo_dtype dtype, int64_t skip)
{
    const void *x = rondo_tensor_row(&op->x, row);
    int64_t n = rondo_tensor_columns(&op->out);
    for (int64_t i = first; i < end; i += 16) {
        v16 gate = v_load_part(x, op->x.dtype, i, end - i);
        v16 up = v_load_part(x, op->x.dtype, n + i, end - i);
        v_store_part(out, dtype, i - skip, end - i, v_mul(v_mul(gate, v_sigmoid(gate)), up));
    }
}

static void LEVEL(swiglu_row)(const struct rondo_op_swiglu *op, int64_t row, int64_t first,
                              int64_t end)
{
    uint16_t part[RONDO_BLOCK];
    if (op->out.dtype != RONDO_F8_E4M3) {
        swiglu_part(op, row, first, end, rondo_tensor_row(&op->out, row), op->out.dtype, 0);
        return;
    }
    for (int64_t begin = first; begin < end; begin += RONDO_BLOCK) {
        int64_t stop = begin + RONDO_BLOCK < end ? begin + RONDO_BLOCK : end;
        swiglu_part(op, row, begin, stop, part, RONDO_BF16, begin);
        quantize_group(part, RONDO_BF16, &op->out, row, begin, stop, false);
    }
}

/* The largest value and the block that first holds it, then where it first stands in that block. */
static void LEVEL(argmax_row)(const struct rondo_op_argmax *op, int64_t row)
{
    enum { BLOCK = 1024 };
    const float *x = rondo_tensor_row(&op->x, row);
    int64_t n = rondo_tensor_columns(&op->x), whole = n / 16 * 16, i = 0;
    float value = -INFINITY;
    for (int64_t first = 0; first < whole; first += BLOCK) {
        int64_t end = first + BLOCK < whole ? first + BLOCK : whole;
        v16 largest = v_set(-INFINITY);
        for (int64_t j = first; j < end; j += 16)
            largest = v_max(v_load(x + j), largest); /* the second when the first is a NaN */
        float here = v_largest(largest);
        if (here > value) {
            value = here;
            i = first;
        }
    }
    for (int64_t j = whole; j < n; j++)
        if (x[j] > value) {
            value = x[j];
            i = j;
        }
    while (i < n && x[i] != value)
        i++;
    op->ids[row] = i < n ? (int32_t)i : -1;
}

/* Mass of the n logits x. */
static uint64_t mass_of(const float *x, int64_t n, float largest, float temperature)
{
    const v16 top = v_set(largest), divisor = v_set(temperature);
    float weight[16];
    uint64_t mass = 0;
    for (int64_t i = 0; i < n; i += 16) {
        int64_t count = n - i < 16 ? n - i : 16;
        v16 part = v_load_part(x, RONDO_F32, i, count);
        v_store(weight, v_exp(v_div(v_sub(part, top), divisor)));
        for (int64_t j = 0; j < count; j++)
            mass += rondo_candidate_mass(weight[j]);
    }
    return mass;
}

/* Blocks whose largest value is no candidate are passed over. */
static void LEVEL(candidates_row)(const struct rondo_op_candidates *op, int64_t row)
{
    enum { BLOCK = 64 };
    const float *x = rondo_tensor_row(&op->x, row);
    int64_t n = rondo_tensor_columns(&op->x), whole = n / BLOCK * BLOCK;
    struct rondo_candidates *out = &op->out[row];
    float temperature = op->sampling[row].temperature;
    out->count = 0;
    for (int64_t i = 0; i < whole; i += BLOCK) {
        v16 largest = v_set(-INFINITY);
        for (int64_t j = i; j < i + BLOCK; j += 16)
            largest = v_max(v_load(x + j), largest); /* the second when the first is a NaN */
        if (out->count == RONDO_CANDIDATES &&
            !(v_largest(largest) > out->value[RONDO_CANDIDATES - 1]))
            continue;
        for (int64_t j = i; j < i + BLOCK; j++)
            rondo_candidates_offer(out, x[j], (int32_t)j);
    }
    for (int64_t i = whole; i < n; i++)
        rondo_candidates_offer(out, x[i], (int32_t)i);
    rondo_candidates_close(out);
    out->mass =
        rondo_candidates_weigh(out, temperature) ? mass_of(x, n, out->value[0], temperature) : 0;
}

const struct rondo_basic_kernels LEVEL(rondo_basic_kernels) = {
    .embedding = LEVEL(embedding_row),
    .quantize = LEVEL(quantize_row),
    .swiglu = LEVEL(swiglu_row),
    .argmax = LEVEL(argmax_row),
    .candidates = LEVEL(candidates_row),
};
