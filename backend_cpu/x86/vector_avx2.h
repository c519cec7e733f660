/* The vector of 16 floats of vector_avx512.h, AVX2: two registers. */
#ifndef RONDO_BACKEND_CPU_X86_VECTOR_AVX2_H
#define RONDO_BACKEND_CPU_X86_VECTOR_AVX2_H

#include "backend_cpu/x86/numbers_avx2.h"

#define LEVEL(name) name##_avx2

typedef struct {
    __m256 low, high;
} v16;

static inline v16 v_set(float value)
{
    return (v16){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}

static inline v16 v_load(const float *from)
{
    return (v16){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}

static inline void v_store(float *to, v16 a)
{
    _mm256_storeu_ps(to, a.low);
    _mm256_storeu_ps(to + 8, a.high);
}

static inline v16 v_load_part(const void *from, enum rondo_dtype dtype, int64_t index, int64_t n)
{
    if (n >= 16)
        return (v16){rondo_load_avx2(from, dtype, index), rondo_load_avx2(from, dtype, index + 8)};
    return (v16){rondo_load_part_avx2(from, dtype, index, n),
                 rondo_load_part_avx2(from, dtype, index + 8, n - 8)};
}

static inline void v_store_part(void *to, enum rondo_dtype dtype, int64_t index, int64_t n, v16 a)
{
    if (n >= 16) {
        rondo_store_avx2(to, dtype, index, a.low);
        rondo_store_avx2(to, dtype, index + 8, a.high);
    } else {
        rondo_store_part_avx2(to, dtype, index, n, a.low);
        rondo_store_part_avx2(to, dtype, index + 8, n - 8, a.high);
    }
}

static inline v16 v_load_f16(const uint16_t *from)
{
    return (v16){_mm256_cvtph_ps(_mm_loadu_si128((const void *)from)),
                 _mm256_cvtph_ps(_mm_loadu_si128((const void *)(from + 8)))};
}

static inline v16 v_load_e4m3(const uint8_t *from)
{
    return (v16){rondo_e4m3_to_f32_avx2(_mm_loadl_epi64((const void *)from)),
                 rondo_e4m3_to_f32_avx2(_mm_loadl_epi64((const void *)(from + 8)))};
}

static inline void v_store_e4m3(uint8_t *to, v16 a)
{
    _mm_storel_epi64((void *)to, rondo_f32_to_e4m3_avx2(a.low));
    _mm_storel_epi64((void *)(to + 8), rondo_f32_to_e4m3_avx2(a.high));
}

static inline v16 v_add(v16 a, v16 b)
{
    return (v16){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}

static inline v16 v_sub(v16 a, v16 b)
{
    return (v16){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}

static inline v16 v_mul(v16 a, v16 b)
{
    return (v16){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}

static inline v16 v_div(v16 a, v16 b)
{
    return (v16){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}

static inline v16 v_fma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

static inline v16 v_fnma(v16 a, v16 b, v16 c)
{
    return (v16){_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}

static inline v16 v_abs(v16 a)
{
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return (v16){_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}

static inline v16 v_max(v16 a, v16 b)
{
    return (v16){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}

static inline v16 v_min(v16 a, v16 b)
{
    return (v16){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}

static inline v16 v_replace_nan(v16 a, v16 b)
{
    return (v16){_mm256_blendv_ps(a.low, b.low, _mm256_cmp_ps(a.low, a.low, _CMP_UNORD_Q)),
                 _mm256_blendv_ps(a.high, b.high, _mm256_cmp_ps(a.high, a.high, _CMP_UNORD_Q))};
}

static inline v16 v_exp(v16 a)
{
    return (v16){rondo_exp_avx2(a.low), rondo_exp_avx2(a.high)};
}

static inline v16 v_sigmoid(v16 a)
{
    return (v16){rondo_sigmoid_avx2(a.low), rondo_sigmoid_avx2(a.high)};
}

static inline float v_sum(v16 a)
{
    return rondo_sum_tree16_avx2(a.low, a.high);
}

static inline float v_largest(v16 a)
{
    __m256 b = _mm256_max_ps(a.low, a.high);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    __m128 d = _mm_max_ps(c, _mm_movehl_ps(c, c));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

static inline int v_find(v16 a, float value)
{
    __m256 wanted = _mm256_set1_ps(value);
    unsigned low = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a.low, wanted, _CMP_EQ_OQ));
    unsigned high = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a.high, wanted, _CMP_EQ_OQ));
    return __builtin_ctz(low | high << 8 | 1u << 16);
}

#endif
