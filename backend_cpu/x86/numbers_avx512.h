/* core/numbers.h over 16 lanes: the very same steps, the very same bits (but for the payload of a NaN). */
#ifndef RONDO_BACKEND_CPU_X86_NUMBERS_AVX512_H
#define RONDO_BACKEND_CPU_X86_NUMBERS_AVX512_H

#include "core/numbers.h"

#include <immintrin.h>

static inline __m512 rondo_exp_avx512(__m512 x)
{
    /* max and min give their second operand when one is NaN. */
    x = _mm512_max_ps(_mm512_set1_ps(RONDO_EXP_LOW), x);
    x = _mm512_min_ps(_mm512_set1_ps(RONDO_EXP_HIGH), x);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(RONDO_EXP_LOG2E)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-RONDO_EXP_LN2_HIGH), x);
    r = _mm512_fmadd_ps(n, _mm512_set1_ps(-RONDO_EXP_LN2_LOW), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(RONDO_EXP_C0), r, _mm512_set1_ps(RONDO_EXP_C1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(RONDO_EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(RONDO_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(RONDO_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(RONDO_EXP_C5));
    __m512 e = _mm512_add_ps(_mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r), _mm512_set1_ps(1.0f));
    /* e * 2^n is a normal number, so one exact scaling equals the two exact halves. */
    return _mm512_scalef_ps(e, n);
}

#endif
