/* The twin of AMD's matrix instructions: included by backend_hip/matrix.cuh, whose layouts it follows. */
#ifndef SIMT_MATRIX_H
#define SIMT_MATRIX_H

#include "tests/simt/block.h"

namespace simt
{

// c += A B for the 16 x 16 x 16 product of a wave of 32 or 64 lanes; ascending k, one fused multiply-add each.
void matrix_multiply(float *c, const uint32_t *a, const uint32_t *b, unsigned lanes,
                     Here here = Here());

} // namespace simt

#ifdef WARP_SIZE // in kernels
static inline void matrix_multiply(float *c, const uint32_t *a, const uint32_t *b,
                                   simt::Here here = simt::Here())
{
    simt::matrix_multiply(c, a, b, WARP_SIZE, here);
}
#endif

#endif
