/* The twin of AMD's matrix instructions: included by backend_hip/matrix.cuh, whose layouts it follows. */
#ifndef SIMT_MATRIX_H
#define SIMT_MATRIX_H

#include "tests/simt/block.h"

namespace simt
{

// c += A B for the 16 x 16 x 16 product of a wave of 32 or 64 lanes; ascending k, one fused multiply-add each.
void matrix_multiply(float *c, const uint32_t *a, const uint32_t *b, unsigned lanes,
                     Here here = Here());
// The same for eight codes a lane: 16 x 16 x 16 of OCP's e4m3 for 32 lanes, 16 x 16 x 32 of e4m3fnuz for 64.
void matrix_multiply_e4m3(float *c, const uint32_t *a, const uint32_t *b, unsigned lanes,
                          Here here = Here());
// The value of an e4m3fnuz code.
float e4m3fnuz_value(uint8_t code);

} // namespace simt

#if defined(WARP_SIZE) && !defined(RONDO_MATRIX_BY_SHUFFLES) // in kernels
static inline void matrix_multiply(float *c, const uint32_t *a, const uint32_t *b,
                                   simt::Here here = simt::Here())
{
    simt::matrix_multiply(c, a, b, WARP_SIZE, here);
}

static inline void matrix_multiply_e4m3(float *c, const uint32_t *a, const uint32_t *b,
                                        simt::Here here = simt::Here())
{
    simt::matrix_multiply_e4m3(c, a, b, WARP_SIZE, here);
}
#endif

#endif
