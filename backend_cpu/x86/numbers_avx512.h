/* core/numbers.h and core/dtype.h, 16 lanes at a time with AVX-512: the same bits as the scalar
 * functions, lane by lane. Include only in files built with -mavx512f -mavx512bw -mavx512dq
 * -mavx512vl. */
#ifndef RONDO_BACKEND_CPU_X86_NUMBERS_AVX512_H
#define RONDO_BACKEND_CPU_X86_NUMBERS_AVX512_H

#include "core/numbers.h"

#include <immintrin.h>

/* rondo_exp. The clamps keep a NaN because max and min return their second operand then; scaling
 * by 2^n in one step equals two exact halves. */
static inline __m512 rondo_exp_avx512(__m512 x)
{
    x = _mm512_max_ps(_mm512_set1_ps(RONDO_EXP_LOW), x);
    x = _mm512_min_ps(_mm512_set1_ps(RONDO_EXP_HIGH), x);
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(RONDO_EXP_LOG2E)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(RONDO_EXP_LN2_HIGH), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(RONDO_EXP_LN2_LOW), r);
    __m512 p = _mm512_fmadd_ps(_mm512_set1_ps(RONDO_EXP_C0), r, _mm512_set1_ps(RONDO_EXP_C1));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(RONDO_EXP_C2));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(RONDO_EXP_C3));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(RONDO_EXP_C4));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(RONDO_EXP_C5));
    __m512 e = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, r);
    return _mm512_scalef_ps(_mm512_add_ps(e, _mm512_set1_ps(1.0f)), n);
}

static inline __m512 rondo_sigmoid_avx512(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1.0f);
    __m512 negative = _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
    return _mm512_div_ps(one, _mm512_add_ps(one, rondo_exp_avx512(negative)));
}

static inline __m512 rondo_silu_avx512(__m512 x)
{
    return _mm512_mul_ps(x, rondo_sigmoid_avx512(x));
}

/* rondo_sum_tree16 of the lanes. */
static inline float rondo_sum_tree16_avx512(__m512 lanes)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps(lanes, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}

static inline __m512 rondo_bf16_to_f32_avx512(__m256i bits)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

static inline __m256i rondo_f32_to_bf16_avx512(__m512 value)
{
    __m512i bits = _mm512_castps_si512(value), high = _mm512_srli_epi32(bits, 16);
    __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, bias), 16);
    rounded = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
    return _mm512_cvtepi32_epi16(rounded);
}

static inline __m512 rondo_e4m3_to_f32_avx512(__m128i codes)
{
    __m512i code = _mm512_cvtepu8_epi32(codes);
    __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi32(0x7f));
    __m512i sign = _mm512_slli_epi32(_mm512_xor_si512(code, magnitude), 24);
    __m512i bits = _mm512_add_epi32(_mm512_slli_epi32(magnitude, 20), _mm512_set1_epi32(120 << 23));
    __mmask16 small = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(8));
    __m512 fixed = _mm512_mul_ps(_mm512_cvtepi32_ps(magnitude), _mm512_set1_ps(0x1p-9f));
    bits = _mm512_mask_mov_epi32(bits, small, _mm512_castps_si512(fixed));
    __mmask16 nan = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
    bits = _mm512_mask_mov_epi32(bits, nan, _mm512_set1_epi32(0x7fc00000));
    return _mm512_castsi512_ps(_mm512_or_si512(bits, sign));
}

static inline __m128i rondo_f32_to_e4m3_avx512(__m512 value)
{
    __m512i bits = _mm512_castps_si512(value);
    __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
    __m512i sign = _mm512_and_si512(_mm512_srli_epi32(bits, 24), _mm512_set1_epi32(0x80));
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(magnitude, 20), _mm512_set1_epi32(1));
    __m512i rounded =
        _mm512_add_epi32(magnitude, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7ffff)));
    __m512i code = _mm512_sub_epi32(_mm512_srli_epi32(rounded, 20), _mm512_set1_epi32(120 << 3));
    __mmask16 small = _mm512_cmplt_epi32_mask(magnitude, _mm512_set1_epi32(0x3c800000));
    __m512 scaled = _mm512_mul_ps(_mm512_castsi512_ps(magnitude), _mm512_set1_ps(0x1p9f));
    code = _mm512_mask_cvtps_epi32(code, small, scaled);
    __mmask16 large = _mm512_cmpge_epi32_mask(magnitude, _mm512_set1_epi32(0x43e00000));
    code = _mm512_mask_mov_epi32(code, large, _mm512_set1_epi32(0x7e));
    code = _mm512_or_si512(code, sign);
    __mmask16 nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi8(_mm512_mask_mov_epi32(code, nan, _mm512_set1_epi32(0x7f)));
}

/* The first n lanes, n in 0 .. 16. */
static inline __mmask16 rondo_mask_avx512(int64_t n)
{
    return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1);
}

/* Elements index .. index + 15 of an f32 or bf16 array where `mask` has them, else +0. */
static inline __m512 rondo_load_avx512(const void *data, enum rondo_dtype dtype, int64_t index,
                                       __mmask16 mask)
{
    if (dtype == RONDO_F32)
        return _mm512_maskz_loadu_ps(mask, (const float *)data + index);
    return rondo_bf16_to_f32_avx512(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)data + index));
}

static inline void rondo_store_avx512(void *data, enum rondo_dtype dtype, int64_t index,
                                      __mmask16 mask, __m512 value)
{
    if (dtype == RONDO_F32)
        _mm512_mask_storeu_ps((float *)data + index, mask, value);
    else
        _mm256_mask_storeu_epi16((uint16_t *)data + index, mask, rondo_f32_to_bf16_avx512(value));
}

#endif
