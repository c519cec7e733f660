/* core/numbers.h and core/dtype.h, 8 lanes at a time with AVX2: the same bits as the scalar
 * functions, lane by lane. Include only in files built with -mavx2 -mfma. */
#ifndef RONDO_BACKEND_CPU_X86_NUMBERS_AVX2_H
#define RONDO_BACKEND_CPU_X86_NUMBERS_AVX2_H

#include "core/numbers.h"

#include <immintrin.h>

/* rondo_exp. The clamps keep a NaN because max and min return their second operand then. */
static inline __m256 rondo_exp_avx2(__m256 x)
{
    x = _mm256_max_ps(_mm256_set1_ps(RONDO_EXP_LOW), x);
    x = _mm256_min_ps(_mm256_set1_ps(RONDO_EXP_HIGH), x);
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(RONDO_EXP_LOG2E)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(RONDO_EXP_LN2_HIGH), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(RONDO_EXP_LN2_LOW), r);
    __m256 p = _mm256_fmadd_ps(_mm256_set1_ps(RONDO_EXP_C0), r, _mm256_set1_ps(RONDO_EXP_C1));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(RONDO_EXP_C2));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(RONDO_EXP_C3));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(RONDO_EXP_C4));
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(RONDO_EXP_C5));
    __m256 e = _mm256_fmadd_ps(_mm256_mul_ps(p, r), r, r);
    e = _mm256_add_ps(e, _mm256_set1_ps(1.0f));
    const __m256i bias = _mm256_set1_epi32(127);
    __m256i k = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(k, 1);
    __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
    __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(k, half), bias), 23);
    return _mm256_mul_ps(_mm256_mul_ps(e, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high));
}

static inline __m256 rondo_sigmoid_avx2(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1.0f);
    __m256 negative = _mm256_xor_ps(x, _mm256_set1_ps(-0.0f));
    return _mm256_div_ps(one, _mm256_add_ps(one, rondo_exp_avx2(negative)));
}

static inline __m256 rondo_silu_avx2(__m256 x)
{
    return _mm256_mul_ps(x, rondo_sigmoid_avx2(x));
}

/* rondo_sum_tree16 of lanes 0 .. 7 and 8 .. 15. */
static inline float rondo_sum_tree16_avx2(__m256 low, __m256 high)
{
    __m256 a = _mm256_add_ps(low, high);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
}

static inline __m256 rondo_bf16_to_f32_avx2(__m128i bits)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}

static inline __m128i rondo_f32_to_bf16_avx2(__m256 value)
{
    __m256i bits = _mm256_castps_si256(value), high = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    rounded = _mm256_blendv_epi8(rounded, quiet, nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
}

/* Of the lower 8 bytes. */
static inline __m256 rondo_e4m3_to_f32_avx2(__m128i codes)
{
    __m256i code = _mm256_cvtepu8_epi32(codes);
    __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi32(0x7f));
    __m256i sign = _mm256_slli_epi32(_mm256_xor_si256(code, magnitude), 24);
    __m256i bits = _mm256_add_epi32(_mm256_slli_epi32(magnitude, 20), _mm256_set1_epi32(120 << 23));
    __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(8), magnitude);
    __m256 fixed = _mm256_mul_ps(_mm256_cvtepi32_ps(magnitude), _mm256_set1_ps(0x1p-9f));
    bits = _mm256_blendv_epi8(bits, _mm256_castps_si256(fixed), small);
    __m256i nan = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
    bits = _mm256_blendv_epi8(bits, _mm256_set1_epi32(0x7fc00000), nan);
    return _mm256_castsi256_ps(_mm256_or_si256(bits, sign));
}

/* Gives the lower 8 bytes. */
static inline __m128i rondo_f32_to_e4m3_avx2(__m256 value)
{
    __m256i bits = _mm256_castps_si256(value);
    __m256i magnitude = _mm256_and_si256(bits, _mm256_set1_epi32(0x7fffffff));
    __m256i sign = _mm256_and_si256(_mm256_srli_epi32(bits, 24), _mm256_set1_epi32(0x80));
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(magnitude, 20), _mm256_set1_epi32(1));
    __m256i rounded =
        _mm256_add_epi32(magnitude, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7ffff)));
    __m256i code = _mm256_sub_epi32(_mm256_srli_epi32(rounded, 20), _mm256_set1_epi32(120 << 3));
    __m256i small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x3c800000), magnitude);
    __m256 scaled = _mm256_mul_ps(_mm256_castsi256_ps(magnitude), _mm256_set1_ps(0x1p9f));
    code = _mm256_blendv_epi8(code, _mm256_cvtps_epi32(scaled), small);
    __m256i large = _mm256_cmpgt_epi32(magnitude, _mm256_set1_epi32(0x43dfffff));
    code = _mm256_or_si256(_mm256_blendv_epi8(code, _mm256_set1_epi32(0x7e), large), sign);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    code = _mm256_blendv_epi8(code, _mm256_set1_epi32(0x7f), nan);
    __m128i words =
        _mm_packus_epi32(_mm256_castsi256_si128(code), _mm256_extracti128_si256(code, 1));
    return _mm_packus_epi16(words, words);
}

/* Elements index .. index + 7 of an f32 or bf16 array. */
static inline __m256 rondo_load_avx2(const void *data, enum rondo_dtype dtype, int64_t index)
{
    if (dtype == RONDO_F32)
        return _mm256_loadu_ps((const float *)data + index);
    return rondo_bf16_to_f32_avx2(_mm_loadu_si128((const void *)((const uint16_t *)data + index)));
}

static inline void rondo_store_avx2(void *data, enum rondo_dtype dtype, int64_t index, __m256 value)
{
    if (dtype == RONDO_F32)
        _mm256_storeu_ps((float *)data + index, value);
    else
        _mm_storeu_si128((void *)((uint16_t *)data + index), rondo_f32_to_bf16_avx2(value));
}

/* The first n of 8 elements, n in 0 .. 8; the other lanes are +0. */
static inline __m256 rondo_load_part_avx2(const void *data, enum rondo_dtype dtype, int64_t index,
                                          int64_t n)
{
    float part[8] = {0};
    if (n >= 8)
        return rondo_load_avx2(data, dtype, index);
    for (int64_t i = 0; i < n; i++)
        part[i] = dtype == RONDO_F32 ? ((const float *)data)[index + i]
                                     : rondo_bf16_to_f32(((const uint16_t *)data)[index + i]);
    return _mm256_loadu_ps(part);
}

static inline void rondo_store_part_avx2(void *data, enum rondo_dtype dtype, int64_t index,
                                         int64_t n, __m256 value)
{
    float part[8];
    if (n >= 8) {
        rondo_store_avx2(data, dtype, index, value);
        return;
    }
    _mm256_storeu_ps(part, value);
    for (int64_t i = 0; i < n; i++) {
        if (dtype == RONDO_F32)
            ((float *)data)[index + i] = part[i];
        else
            ((uint16_t *)data)[index + i] = rondo_f32_to_bf16(part[i]);
    }
}

#endif
