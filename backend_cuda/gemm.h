/* Inside of gemm and grouped_gemm: what gemm.cu hands to the kernels of gemm_f32.cu, gemm_mma.cu, gemm_small.cu
 * and gemm_sm90.cu.
 *
 * One launch does up to four parts that share x and are stored alike. Dense products are grouped ones with a
 * single group. Which kernels a part may take depends on its dtypes, N, K and the device, never on the
 * number of rows: all kernels of one family (f32, mma bf16, mma e4m3) give the same bits for a row. */
#ifndef RONDO_BACKEND_CUDA_GEMM_H
#define RONDO_BACKEND_CUDA_GEMM_H

#include "backend_cuda/gpu.h"

#ifdef __cplusplus
extern "C" {
#endif

enum gemm_scales { GEMM_SCALES_NONE, GEMM_SCALES_BLOCK, GEMM_SCALES_ROW };

/* What computes a part, see gemm.cu. */
enum gemm_family {
    GEMM_F32,        /* FMA in the order of core/ops.h, any dtypes */
    GEMM_BF16_BF16,  /* x bf16, W bf16, mma bf16 */
    GEMM_BF16_E4M3,  /* x bf16, W e4m3 widened, mma bf16 */
    GEMM_E4M3_WIDEN, /* x and W e4m3, both widened, mma bf16 */
    GEMM_E4M3_E4M3,  /* x and W e4m3, mma e4m3: devices that have it */
    GEMM_FAMILIES
};

/* Steps lead from one expert's weight, scales and bias to the next expert's. */
struct gemm_part {
    const char *weight; /* [N, K] dense */
    int64_t weight_step;
    const float *scale; /* [ceil(N/128), ceil(K/128)] or [N] */
    int64_t scale_stride, scale_step;
    const float *bias; /* [N] or NULL */
    int64_t bias_step;
    void *out; /* [rows, N] */
    int64_t out_stride;
    int32_t n;
    int32_t first_tile; /* tiles of N that the parts before this one have; set for each launch */
    uint8_t scales;     /* enum gemm_scales */
    uint8_t weight_dtype, out_is_bf16;
    uint8_t out_vectors; /* rows of out begin at multiples of four values and of 16 or 8 bytes */
};

struct gemm_launch {
    const char *x;
    int64_t x_stride;     /* values */
    const float *x_scale; /* [*, ceil(K/128)] or NULL */
    int64_t x_scale_stride;
    const int32_t *offsets; /* [E + 1]; NULL: one group of all rows */
    const int32_t *gather;  /* [rows] or NULL */
    int32_t n_experts;
    int32_t rows; /* of the output, of all experts together; of a run of mixed ones: at most */
    int32_t expected_rows; /* for choosing tiles, by the host: of a run its share, else `rows` */
    int32_t k;
    int32_t n_parts;
    int32_t n_tiles; /* of N, of all parts; set for each launch */
    uint8_t x_dtype, residual;
    uint8_t x_vectors, weight_vectors; /* rows are whole 16-byte units: cp.async may copy them */
    struct gemm_part part[4];
    const struct gemm_router *route; /* host memory; NULL: nothing is routed, see router.cuh */
};

void GPU(gemm_launch_f32)(struct gpu_device *device, struct gemm_launch *launch);
/* Tiles of 64 x 64 and 128 x 128, any number of rows. */
void GPU(gemm_launch_mma)(struct gpu_device *device, enum gemm_family family,
                          struct gemm_launch *launch);
/* Strips of 16 or 32 weight rows times 8 to 64 rows of x (`rows`, at least). Returns 0, and does nothing,
 * where the device has not the shared memory for it. */
int GPU(gemm_launch_small)(struct gpu_device *device, enum gemm_family family,
                           struct gemm_launch *launch, int rows);

/* gemm_sm90.cu, tensor copies and warpgroup products, in builds that have it (they define RONDO_GEMM_SM90): whether it
 * does such launches (by dtypes, K, strides and the device, never the number of rows), and does one. */
int GPU(gemm_sm90_takes)(const struct gpu_device *device, enum gemm_family family,
                         const struct gemm_launch *launch);
void GPU(gemm_launch_sm90)(struct gpu_device *device, enum gemm_family family,
                           const struct gemm_launch *launch);

#ifdef __cplusplus
}
#endif

#endif
