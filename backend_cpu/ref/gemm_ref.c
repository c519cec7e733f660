/* Definition of gemm and grouped_gemm: one thread, plain C, in the order core/ops.h states. */
#include "backend_cpu/cpu.h"
#include "core/dtype.h"

#include <math.h>

/* Scale of the 128 channels of x that begin at k, row `row`; 1 when x is not quantised. */
static float input_scale(const struct rondo_tensor *x, int64_t row, int64_t k)
{
    return x->scale ? x->scale[row * x->scale_stride + k / RONDO_BLOCK] : 1.0f;
}

static bool has_row_scales(const struct rondo_tensor *weight)
{
    return weight->scale && weight->scale_rows == 1;
}

/* Scale of the weight's block that holds output channel n and input channel k; 1 without block scales. */
static float block_scale(const struct rondo_tensor *weight, int64_t n, int64_t k)
{
    if (!weight->scale || has_row_scales(weight))
        return 1.0f;
    return weight->scale[n / weight->scale_rows * weight->scale_stride + k / weight->scale_columns];
}

/* One output before bias, residual and rounding. */
static float dot_ref(const struct rondo_tensor *x, int64_t row, const struct rondo_tensor *weight,
                     int64_t n)
{
    const void *x_row = rondo_tensor_row(x, row), *w_row = rondo_tensor_row(weight, n);
    int64_t width = rondo_tensor_columns(x);
    float y = 0.0f;
    for (int64_t first = 0; first < width; first += RONDO_BLOCK) {
        int64_t end = first + RONDO_BLOCK < width ? first + RONDO_BLOCK : width;
        float scale = input_scale(x, row, first) * block_scale(weight, n, first);
        float a[RONDO_QUARTERS] = {0};
        for (int64_t k = first; k < end; k++) {
            int64_t j = k / RONDO_QUARTER_RUN % RONDO_QUARTERS;
            a[j] = fmaf(rondo_load(x_row, x->dtype, (size_t)k),
                        rondo_load(w_row, weight->dtype, (size_t)k), a[j]);
        }
        y = fmaf((a[0] + a[1]) + (a[2] + a[3]), scale, y);
    }
    if (has_row_scales(weight))
        y *= weight->scale[n * weight->scale_stride];
    return y;
}

void rondo_gemm_ref(struct rondo_device *device, const struct rondo_op_gemm *op)
{
    int64_t rows = rondo_tensor_rows(&op->x);
    for (int32_t p = 0; p < op->n_parts; p++) {
        const struct rondo_gemm_part *part = &op->part[p];
        int64_t columns = rondo_tensor_rows(&part->weight);
        for (int64_t m = 0; m < rows; m++) {
            void *out = rondo_tensor_row(&part->out, m);
            for (int64_t n = 0; n < columns; n++) {
                float y = dot_ref(&op->x, m, &part->weight, n);
                if (part->bias)
                    y += part->bias[n];
                if (op->residual)
                    y = rondo_load(out, part->out.dtype, (size_t)n) + y;
                rondo_store(out, part->out.dtype, (size_t)n, y);
            }
        }
    }
}

void rondo_grouped_gemm_ref(struct rondo_device *device, const struct rondo_op_grouped_gemm *op)
{
    for (int32_t p = 0; p < op->n_parts; p++) {
        for (int32_t e = 0; e < op->n_experts; e++) {
            const struct rondo_tensor *weight = &op->weight[p][e];
            const float *bias = op->bias[p] ? op->bias[p][e] : NULL;
            int64_t columns = rondo_tensor_rows(weight);
            for (int64_t r = op->offsets[e]; r < op->offsets[e + 1]; r++) {
                void *out = rondo_tensor_row(&op->out, r);
                for (int64_t n = 0; n < columns; n++) {
                    float y = dot_ref(&op->x, op->gather ? op->gather[r] : r, weight, n);
                    if (bias)
                        y += bias[n];
                    rondo_store(out, op->out.dtype, (size_t)(p * columns + n), y);
                }
            }
        }
    }
}
