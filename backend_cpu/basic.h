/* Row kernels of the basic family: what basic.c calls and the levels provide. One row or a part
 * of it, one thread. */
#ifndef RONDO_BACKEND_CPU_BASIC_H
#define RONDO_BACKEND_CPU_BASIC_H

#include "backend_cpu/cpu.h"
#include "core/dtype.h"

/* Output row `token`. */
typedef void rondo_embedding_row(const struct rondo_op_embedding *op, int64_t token);
/* Groups of 128 channels [first, end) of row `row`. */
typedef void rondo_quantize_row(const struct rondo_op_quantize *op, int64_t row, int64_t first,
                                int64_t end);
/* Channels [first, end) of row `row` of the output. */
typedef void rondo_swiglu_row(const struct rondo_op_swiglu *op, int64_t row, int64_t first,
                              int64_t end);

/* Row `row`. */
typedef void rondo_argmax_row(const struct rondo_op_argmax *op, int64_t row);

typedef void rondo_candidates_row(const struct rondo_op_candidates *op, int64_t row);

struct rondo_basic_kernels {
    rondo_embedding_row *embedding;
    rondo_quantize_row *quantize;
    rondo_swiglu_row *swiglu;
    rondo_argmax_row *argmax;
    rondo_candidates_row *candidates;
};

extern const struct rondo_basic_kernels rondo_basic_kernels_ref, rondo_basic_kernels_avx2,
    rondo_basic_kernels_avx512, rondo_basic_kernels_neon;

/* Scale of a group from the largest magnitude in it. */
static inline float rondo_quantize_scale(float largest, bool power_of_two)
{
    if (largest == 0.0f)
        return 1.0f;
    float scale = largest / RONDO_E4M3_MAX;
    scale = scale < 1e-30f ? 1e-30f : scale;
    if (power_of_two) /* a mantissa other than zero carries into the exponent */
        scale = rondo_bits_to_f32((rondo_f32_to_bits(scale) + 0x7fffffu) & 0xff800000u);
    return scale;
}

/* Where the scale of a group goes. The tensor's view of it is const because only this op writes
 * it. */
static inline float *rondo_quantize_scale_at(const struct rondo_tensor *out, int64_t row,
                                             int64_t group)
{
    return (float *)out->scale + row * out->scale_stride + group;
}

/* An output row that may be codes: `part` keeps a group's bf16 values until it is whole. The reference's own way
 * to store; other levels do the same by vectors. */
struct rondo_row_out {
    const struct rondo_tensor *out;
    int64_t row;
    uint16_t part[RONDO_BLOCK];
};

/* Codes and scale of channels [begin, end) of a row, at most a group of 128; x[0] is the first of them. */
void rondo_quantize_group_ref(const void *x, enum rondo_dtype dtype, const struct rondo_tensor *out,
                              int64_t row, int64_t begin, int64_t end, bool power_of_two);

/* Stores channel i; channels come in ascending order, beginning at a multiple of 128. */
static inline void rondo_row_put(struct rondo_row_out *to, int64_t i, float value)
{
    if (to->out->dtype != RONDO_F8_E4M3) {
        rondo_store(rondo_tensor_row(to->out, to->row), to->out->dtype, (size_t)i, value);
        return;
    }
    to->part[i % RONDO_BLOCK] = rondo_f32_to_bf16(value);
    if ((i + 1) % RONDO_BLOCK == 0 || i + 1 == rondo_tensor_columns(to->out))
        rondo_quantize_group_ref(to->part, RONDO_BF16, to->out, to->row,
                                 i / RONDO_BLOCK * RONDO_BLOCK, i + 1, false);
}

#endif
