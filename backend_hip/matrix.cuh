// The matrix instructions of AMD devices: one 16 x 16 x 16 product of a wave, bf16 in and f32 out; and one of e4m3
// codes, 16 x 16 x 32 of FNUZ codes (MFMA of gfx942) or 16 x 16 x 16 of OCP codes (WMMA of gfx12).
//
// Which lane holds what, as AMD's matrix instruction calculator and the ISA documents give it (l = lane):
//
//   MFMA, gfx90a and gfx942, 64 lanes      A: row l%16, k 4(l/16) .. +3      4 values
//                                          B: column l%16, the same k        4 values
//                                          C: column l%16, rows 4(l/16) + i  4 values
//   WMMA, gfx11, 32 lanes                  A: row l%16, k 0..15              16 values, lanes 16..31 repeat
//                                          B: column l%16, the same k        16 values
//                                          C: column l%16, rows 2i + l/16    8 values
//   WMMA, gfx12, 32 lanes                  A: row l%16, k 8(l/16) .. +7      8 values
//                                          B: column l%16, the same k        8 values
//                                          C: column l%16, rows 8(l/16) + i  8 values
//   codes, both kinds                      A: row l%16, k 8(l/16) .. +7      8 codes
//                                          B: column l%16, the same k        8 codes
//                                          C: as bf16's
//
// Builds for 32 lanes use the layout of gfx12 for operands in memory and fill up what gfx11 wants from the other
// half of the wave, so that one layout is tested under emulation. Checked under emulation, never run on a device.
#ifndef RONDO_BACKEND_HIP_MATRIX_CUH
#define RONDO_BACKEND_HIP_MATRIX_CUH

#include "backend_cuda/kernel.cuh"

// Values a lane holds of an operand and of the product.
#define MATRIX_AB (256 / WARP_SIZE)
#define MATRIX_C (256 / WARP_SIZE)
// K of a product of codes: lanes have eight each.
#define MATRIX_E4M3_K (WARP_SIZE / 2)

// Whether the GPU that is being compiled for has it; the host and the emulator do not know better than yes.
#if defined(__HIP_DEVICE_COMPILE__) && !defined(__gfx940__) && !defined(__gfx941__) &&             \
    !defined(__gfx942__) && !defined(__GFX12__)
#define MATRIX_HAS_E4M3 false
#else
#define MATRIX_HAS_E4M3 true
#endif

static __device__ __forceinline__ int matrix_lane()
{
    return (int)(threadIdx.x % WARP_SIZE);
}

// Row of A and column of B; first k; column and row i of C.
static __device__ __forceinline__ int matrix_ab_line()
{
    return matrix_lane() % 16;
}

static __device__ __forceinline__ int matrix_ab_k()
{
    return matrix_lane() / 16 * MATRIX_AB;
}

static __device__ __forceinline__ int matrix_c_column()
{
    return matrix_lane() % 16;
}

static __device__ __forceinline__ int matrix_c_row(int i)
{
#if defined(__GFX11__)
    return 2 * i + matrix_lane() / 16;
#else
    return matrix_lane() / 16 * MATRIX_C + i;
#endif
}

#if defined(RONDO_MATRIX_BY_SHUFFLES) || defined(RONDO_HIP_NVIDIA)

// Without the instructions: lanes trade their operands and sum in ascending k, with the bits of the emulator. For
// NVIDIA devices, whose own products have other layouts. Lanes r and r + 16 hold row r of A, lanes n and n + 16
// column n of B; each in Words registers; value(register, i) is one of them. Waves of 32 lanes.
// Not inlined by nvcc: a product is several hundred instructions, and a kernel has up to a hundred products.
#ifdef RONDO_HIP_NVIDIA
#define MATRIX_SHUFFLES __noinline__
#else
#define MATRIX_SHUFFLES __forceinline__
#endif
template <int Words, class Value>
static __device__ MATRIX_SHUFFLES void matrix_by_shuffles(float *c, const uint32_t *a,
                                                          const uint32_t *b, Value value)
{
    constexpr int held = 8 / Words; // values of a register
    uint32_t column[2][Words];
#pragma unroll
    for (int half = 0; half < 2; half++)
#pragma unroll
        for (int w = 0; w < Words; w++)
            column[half][w] = WARP_READ(b[w], matrix_lane() % 16 + 16 * half);
#pragma unroll
    for (int i = 0; i < MATRIX_C; i++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int w = 0; w < Words; w++) {
                uint32_t row = WARP_READ(a[w], matrix_c_row(i) + 16 * half);
#pragma unroll
                for (int v = 0; v < held; v++)
                    c[i] = fmaf(value(row, v), value(column[half][w], v), c[i]);
            }
}

struct matrix_bf16_value {
    __device__ __forceinline__ float operator()(uint32_t word, int i) const
    {
        return bf16_f32((uint16_t)(word >> 16 * i));
    }
};

struct matrix_e4m3_value {
    __device__ __forceinline__ float operator()(uint32_t word, int i) const
    {
        return e4m3_f32_nan((uint8_t)(word >> 8 * i));
    }
};

static __device__ __forceinline__ void matrix_multiply(float *c, const uint32_t *a,
                                                       const uint32_t *b)
{
    matrix_by_shuffles<4>(c, a, b, matrix_bf16_value());
}

static __device__ __forceinline__ void matrix_multiply_e4m3(float *c, const uint32_t *a,
                                                            const uint32_t *b)
{
    matrix_by_shuffles<2>(c, a, b, matrix_e4m3_value());
}

#elif defined(RONDO_SIMT)

// The product with the layouts above, in ascending k.
#include "tests/simt/matrix.h"

#elif WARP_SIZE == 64

static __device__ __forceinline__ void matrix_multiply(float *c, const uint32_t *a,
                                                       const uint32_t *b)
{
#if defined(__gfx90a__) || defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__)
    typedef short short4_t __attribute__((ext_vector_type(4)));
    typedef float float4_t __attribute__((ext_vector_type(4)));
    short4_t va, vb;
    float4_t vc = {c[0], c[1], c[2], c[3]};
    __builtin_memcpy(&va, a, sizeof va);
    __builtin_memcpy(&vb, b, sizeof vb);
    vc = __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(va, vb, vc, 0, 0, 0);
    for (int i = 0; i < 4; i++)
        c[i] = vc[i];
#elif defined(__HIP_DEVICE_COMPILE__)
#error "waves of 64 lanes: want gfx90a or gfx942"
#else
    (void)c, (void)a, (void)b;
#endif
}

static __device__ __forceinline__ void matrix_multiply_e4m3(float *c, const uint32_t *a,
                                                            const uint32_t *b)
{
#if defined(__gfx940__) || defined(__gfx941__) || defined(__gfx942__)
    typedef float float4_t __attribute__((ext_vector_type(4)));
    long va, vb;
    float4_t vc = {c[0], c[1], c[2], c[3]};
    __builtin_memcpy(&va, a, sizeof va);
    __builtin_memcpy(&vb, b, sizeof vb);
    vc = __builtin_amdgcn_mfma_f32_16x16x32_fp8_fp8(va, vb, vc, 0, 0, 0);
    for (int i = 0; i < 4; i++)
        c[i] = vc[i];
#else
    (void)c, (void)a, (void)b;
#endif
}

#else

static __device__ __forceinline__ void matrix_multiply(float *c, const uint32_t *a,
                                                       const uint32_t *b)
{
#if defined(__GFX11__)
    // Lane l and lane l ^ 16 hold the halves of one line: both get all of it.
    typedef short short16_t __attribute__((ext_vector_type(16)));
    typedef float float8_t __attribute__((ext_vector_type(8)));
    uint32_t wide_a[8], wide_b[8];
    bool upper = matrix_lane() / 16;
    for (int i = 0; i < 4; i++) {
        uint32_t other_a = WARP_XOR(a[i], 16), other_b = WARP_XOR(b[i], 16);
        wide_a[i] = upper ? other_a : a[i];
        wide_a[i + 4] = upper ? a[i] : other_a;
        wide_b[i] = upper ? other_b : b[i];
        wide_b[i + 4] = upper ? b[i] : other_b;
    }
    short16_t va, vb;
    float8_t vc;
    __builtin_memcpy(&va, wide_a, sizeof va);
    __builtin_memcpy(&vb, wide_b, sizeof vb);
    __builtin_memcpy(&vc, c, sizeof vc);
    vc = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(va, vb, vc);
    __builtin_memcpy(c, &vc, sizeof vc);
#elif defined(__GFX12__)
    typedef short short8_t __attribute__((ext_vector_type(8)));
    typedef float float8_t __attribute__((ext_vector_type(8)));
    short8_t va, vb;
    float8_t vc;
    __builtin_memcpy(&va, a, sizeof va);
    __builtin_memcpy(&vb, b, sizeof vb);
    __builtin_memcpy(&vc, c, sizeof vc);
    vc = __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(va, vb, vc);
    __builtin_memcpy(c, &vc, sizeof vc);
#elif defined(__HIP_DEVICE_COMPILE__)
#error "waves of 32 lanes: want gfx11 or gfx12"
#else
    (void)c, (void)a, (void)b;
#endif
}

static __device__ __forceinline__ void matrix_multiply_e4m3(float *c, const uint32_t *a,
                                                            const uint32_t *b)
{
#if defined(__GFX12__)
    typedef int int2_t __attribute__((ext_vector_type(2)));
    typedef float float8_t __attribute__((ext_vector_type(8)));
    int2_t va, vb;
    float8_t vc;
    __builtin_memcpy(&va, a, sizeof va);
    __builtin_memcpy(&vb, b, sizeof vb);
    __builtin_memcpy(&vc, c, sizeof vc);
    vc = __builtin_amdgcn_wmma_f32_16x16x16_fp8_fp8_w32_gfx12(va, vb, vc);
    __builtin_memcpy(c, &vc, sizeof vc);
#else
    (void)c, (void)a, (void)b;
#endif
}

#endif
#endif
