/* Twins of the instructions of backend_cuda/ptx.cuh, which includes this file in emulated builds.
 *
 * Copies with cp.async are done when their thread waits for them (lazy) or at once. Products add in ascending k
 * from the accumulator, one fused multiply-add each. All accesses to memory are noted for the checks. */
#ifndef SIMT_PTX_H
#define SIMT_PTX_H

#include "block.h"

#include <math.h>

namespace simt
{

void copy_async(void *shared, const void *global, unsigned size, bool valid, Here here);
void copy_async_commit();
void copy_async_wait(unsigned pending, Here here);

// ldmatrix of 1, 2 or 4 matrices.
void load_matrix(uint32_t *r, const void *row, unsigned matrices, bool transposed, Here here);

void mma_m16n8k16_bf16(float *c, const uint32_t *a, const uint32_t *b, Here here);
void mma_m16n8k32_e4m3(float *c, const uint32_t *a, const uint32_t *b, Here here);

// Nearest even; NaN gives 0x7fff.
uint16_t bf16_bits(float value);
float bf16_value(uint16_t bits);
uint8_t e4m3_bits(float value);

} // namespace simt

static inline uint32_t shared_address(const void *shared)
{
    return simt::shared_offset(shared);
}

static inline void copy_async_4(void *shared, const void *global, bool valid,
                                simt::Here here = simt::Here())
{
    simt::copy_async(shared, global, 4, valid, here);
}

static inline void copy_async_8(void *shared, const void *global, bool valid,
                                simt::Here here = simt::Here())
{
    simt::copy_async(shared, global, 8, valid, here);
}

static inline void copy_async_16(void *shared, const void *global, bool valid,
                                 simt::Here here = simt::Here())
{
    simt::copy_async(shared, global, 16, valid, here);
}

static inline void copy_async_commit()
{
    simt::copy_async_commit();
}

template <int N> static inline void copy_async_wait(simt::Here here = simt::Here())
{
    simt::copy_async_wait(N, here);
}

static inline void load_matrix_1(uint32_t (&r)[1], const void *row, simt::Here here = simt::Here())
{
    simt::load_matrix(r, row, 1, false, here);
}

static inline void load_matrix_2(uint32_t (&r)[2], const void *row, simt::Here here = simt::Here())
{
    simt::load_matrix(r, row, 2, false, here);
}

static inline void load_matrix_4(uint32_t (&r)[4], const void *row, simt::Here here = simt::Here())
{
    simt::load_matrix(r, row, 4, false, here);
}

static inline void load_matrix_1_transposed(uint32_t (&r)[1], const void *row,
                                            simt::Here here = simt::Here())
{
    simt::load_matrix(r, row, 1, true, here);
}

static inline void load_matrix_2_transposed(uint32_t (&r)[2], const void *row,
                                            simt::Here here = simt::Here())
{
    simt::load_matrix(r, row, 2, true, here);
}

static inline void load_matrix_4_transposed(uint32_t (&r)[4], const void *row,
                                            simt::Here here = simt::Here())
{
    simt::load_matrix(r, row, 4, true, here);
}

static inline void mma_m16n8k16_bf16(float *c, const uint32_t *a, const uint32_t *b,
                                     simt::Here here = simt::Here())
{
    simt::mma_m16n8k16_bf16(c, a, b, here);
}

static inline void mma_m16n8k32_e4m3(float *c, const uint32_t *a, const uint32_t *b,
                                     simt::Here here = simt::Here())
{
    simt::mma_m16n8k32_e4m3(c, a, b, here);
}

static inline uint32_t pack_bf16(float low, float high)
{
    return simt::bf16_bits(low) | (uint32_t)simt::bf16_bits(high) << 16;
}

static inline uint32_t multiply_bf16x2(uint32_t a, uint32_t b)
{
    float low = simt::bf16_value((uint16_t)a) * simt::bf16_value((uint16_t)b);
    float high = simt::bf16_value((uint16_t)(a >> 16)) * simt::bf16_value((uint16_t)(b >> 16));
    return pack_bf16(low, high);
}

static inline float exp2_approx(float x)
{
    return x < -126 ? 0.0f : exp2f(x);
}

static inline float reciprocal_approx(float x)
{
    return 1.0f / x;
}

static inline uint32_t pack_e4m3(float low, float high)
{
    return simt::e4m3_bits(low) | (uint32_t)simt::e4m3_bits(high) << 8;
}

static inline void wait_for_previous()
{
    simt::wait_for_previous();
}

static inline void named_barrier_sync(int id, int threads, simt::Here here = simt::Here())
{
    simt::barrier((unsigned)id, (unsigned)threads, "named barrier", here);
}

static inline void named_barrier_arrive(int id, int threads, simt::Here here = simt::Here())
{
    simt::barrier_arrive((unsigned)id, (unsigned)threads, here);
}

#endif
