/* A vector of 16 floats for the kernels of the norm, basic and moe families, AVX-512. The same
 * names stand in vector_avx2.h and arm/vector_neon.h. Partial accesses take n, the count of
 * elements left: 16 or more is a whole vector; lanes past n are read as +0 and not written. */
#ifndef RONDO_BACKEND_CPU_X86_VECTOR_AVX512_H
#define RONDO_BACKEND_CPU_X86_VECTOR_AVX512_H

#include "backend_cpu/x86/numbers_avx512.h"

#define LEVEL(name) name##_avx512

typedef __m512 v16;

static inline v16 v_set(float value)
{
    return _mm512_set1_ps(value);
}

static inline v16 v_load(const float *from)
{
    return _mm512_loadu_ps(from);
}

static inline void v_store(float *to, v16 a)
{
    _mm512_storeu_ps(to, a);
}

/* f32 or bf16 */
static inline v16 v_load_part(const void *from, enum rondo_dtype dtype, int64_t index, int64_t n)
{
    return rondo_load_avx512(from, dtype, index, rondo_mask_avx512(n));
}

static inline void v_store_part(void *to, enum rondo_dtype dtype, int64_t index, int64_t n, v16 a)
{
    rondo_store_avx512(to, dtype, index, rondo_mask_avx512(n), a);
}

static inline v16 v_load_f16(const uint16_t *from)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)from));
}

static inline v16 v_load_e4m3(const uint8_t *from)
{
    return rondo_e4m3_to_f32_avx512(_mm_loadu_si128((const void *)from));
}

static inline void v_store_e4m3(uint8_t *to, v16 a)
{
    _mm_storeu_si128((void *)to, rondo_f32_to_e4m3_avx512(a));
}

static inline v16 v_add(v16 a, v16 b)
{
    return _mm512_add_ps(a, b);
}

static inline v16 v_sub(v16 a, v16 b)
{
    return _mm512_sub_ps(a, b);
}

static inline v16 v_mul(v16 a, v16 b)
{
    return _mm512_mul_ps(a, b);
}

static inline v16 v_div(v16 a, v16 b)
{
    return _mm512_div_ps(a, b);
}

/* a * b + c */
static inline v16 v_fma(v16 a, v16 b, v16 c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* c - a * b */
static inline v16 v_fnma(v16 a, v16 b, v16 c)
{
    return _mm512_fnmadd_ps(a, b, c);
}

static inline v16 v_abs(v16 a)
{
    return _mm512_abs_ps(a);
}

/* a > b ? a : b; so b where a is NaN */
static inline v16 v_max(v16 a, v16 b)
{
    return _mm512_max_ps(a, b);
}

/* a < b ? a : b; so b where a is NaN */
static inline v16 v_min(v16 a, v16 b)
{
    return _mm512_min_ps(a, b);
}

/* b where a is NaN, else a */
static inline v16 v_replace_nan(v16 a, v16 b)
{
    return _mm512_mask_mov_ps(a, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), b);
}

static inline v16 v_exp(v16 a)
{
    return rondo_exp_avx512(a);
}

static inline v16 v_sigmoid(v16 a)
{
    return rondo_sigmoid_avx512(a);
}

/* rondo_sum_tree16 */
static inline float v_sum(v16 a)
{
    return rondo_sum_tree16_avx512(a);
}

/* Largest lane; no lane is NaN. */
static inline float v_largest(v16 a)
{
    return _mm512_reduce_max_ps(a);
}

/* First lane that equals `value`, 16 when none does. */
static inline int v_find(v16 a, float value)
{
    return __builtin_ctz(_mm512_cmp_ps_mask(a, _mm512_set1_ps(value), _CMP_EQ_OQ) | 1u << 16);
}

#endif
