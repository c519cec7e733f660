/* core/numbers.h over 8 lanes: the very same steps, the very same bits (but for the payload of a NaN). */
#ifndef RONDO_BACKEND_CPU_X86_NUMBERS_AVX2_H
#define RONDO_BACKEND_CPU_X86_NUMBERS_AVX2_H

#include "core/numbers.h"

#include <immintrin.h>

static inline __m256 rondo_exp_avx2(__m256 x)
{
    /* max and min give their second operand when one is NaN. */
    x = _mm256_max_ps(_mm256_set1_ps(RONDO_EXP_LOW), x);
    x = _mm256_min_ps(_mm256_set1_ps(RONDO_EXP_HIGH), x);
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(RONDO_EXP_LOG2E)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fmadd_ps(n, _mm256_set1_ps(-RONDO_EXP_LN2_HIGH), x);
    r = _mm256_fmadd_ps(n, _mm256_set1_ps(-RONDO_EXP_LN2_LOW), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(RONDO_EXP_C0), r, _mm256_set1_ps(RONDO_EXP_C1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(RONDO_EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(RONDO_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(RONDO_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(RONDO_EXP_C5));
    __m256 e = _mm256_add_ps(_mm256_fmadd_ps(_mm256_mul_ps(p, r), r, r), _mm256_set1_ps(1.0f));
    __m256i k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1);
    __m256i bias = _mm256_set1_epi32(127);
    __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, half), bias), 23);
    e = _mm256_mul_ps(e, _mm256_castsi256_ps(low));
    return _mm256_mul_ps(e, _mm256_castsi256_ps(high));
}

#endif
