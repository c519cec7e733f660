/* The vector of 16 floats of x86/vector_avx512.h, NEON: four registers. AArch64 rounds as x86
 * does; its default NaN differs in sign only. */
#ifndef RONDO_BACKEND_CPU_ARM_VECTOR_NEON_H
#define RONDO_BACKEND_CPU_ARM_VECTOR_NEON_H

#include "core/numbers.h"

#include <arm_neon.h>

#define LEVEL(name) name##_neon

typedef struct {
    float32x4_t r[4];
} v16;

#define FOR_EACH(expression)                                                                       \
    v16 result;                                                                                    \
    for (int i = 0; i < 4; i++)                                                                    \
        result.r[i] = (expression);                                                                \
    return result

static inline v16 v_set(float value)
{
    FOR_EACH(vdupq_n_f32(value));
}

static inline v16 v_load(const float *from)
{
    FOR_EACH(vld1q_f32(from + 4 * i));
}

static inline void v_store(float *to, v16 a)
{
    for (int i = 0; i < 4; i++)
        vst1q_f32(to + 4 * i, a.r[i]);
}

static inline v16 v_load_part(const void *from, enum rondo_dtype dtype, int64_t index, int64_t n)
{
    float part[16] = {0};
    if (n >= 16 && dtype == RONDO_F32)
        return v_load((const float *)from + index);
    if (n >= 16) {
        const uint16_t *bits = (const uint16_t *)from + index;
        FOR_EACH(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(bits + 4 * i), 16)));
    }
    for (int64_t i = 0; i < n; i++)
        part[i] = rondo_load(from, dtype, (size_t)(index + i));
    return v_load(part);
}

/* rondo_f32_to_bf16 */
static inline uint16x4_t v_to_bf16(float32x4_t a)
{
    uint32x4_t bits = vreinterpretq_u32_f32(a), high = vshrq_n_u32(bits, 16);
    uint32x4_t bias = vaddq_u32(vandq_u32(high, vdupq_n_u32(1)), vdupq_n_u32(0x7fff));
    uint32x4_t rounded = vshrq_n_u32(vaddq_u32(bits, bias), 16);
    return vmovn_u32(vbslq_u32(vceqq_f32(a, a), rounded, vorrq_u32(high, vdupq_n_u32(0x40))));
}

static inline void v_store_part(void *to, enum rondo_dtype dtype, int64_t index, int64_t n, v16 a)
{
    float part[16];
    if (n >= 16 && dtype == RONDO_F32) {
        v_store((float *)to + index, a);
    } else if (n >= 16) {
        for (int i = 0; i < 4; i++)
            vst1_u16((uint16_t *)to + index + 4 * i, v_to_bf16(a.r[i]));
    } else {
        v_store(part, a);
        for (int64_t i = 0; i < n; i++)
            rondo_store(to, dtype, (size_t)(index + i), part[i]);
    }
}

static inline v16 v_load_f16(const uint16_t *from)
{
    FOR_EACH(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * i))));
}

static inline v16 v_load_e4m3(const uint8_t *from)
{
    float values[16];
    for (int i = 0; i < 16; i++)
        values[i] = rondo_e4m3_to_f32(from[i]);
    return v_load(values);
}

static inline void v_store_e4m3(uint8_t *to, v16 a)
{
    float values[16];
    v_store(values, a);
    for (int i = 0; i < 16; i++)
        to[i] = rondo_f32_to_e4m3(values[i]);
}

static inline v16 v_add(v16 a, v16 b)
{
    FOR_EACH(vaddq_f32(a.r[i], b.r[i]));
}

static inline v16 v_sub(v16 a, v16 b)
{
    FOR_EACH(vsubq_f32(a.r[i], b.r[i]));
}

static inline v16 v_mul(v16 a, v16 b)
{
    FOR_EACH(vmulq_f32(a.r[i], b.r[i]));
}

static inline v16 v_div(v16 a, v16 b)
{
    FOR_EACH(vdivq_f32(a.r[i], b.r[i]));
}

static inline v16 v_fma(v16 a, v16 b, v16 c)
{
    FOR_EACH(vfmaq_f32(c.r[i], a.r[i], b.r[i]));
}

static inline v16 v_fnma(v16 a, v16 b, v16 c)
{
    FOR_EACH(vfmsq_f32(c.r[i], a.r[i], b.r[i]));
}

static inline v16 v_abs(v16 a)
{
    FOR_EACH(vabsq_f32(a.r[i]));
}

static inline v16 v_max(v16 a, v16 b)
{
    FOR_EACH(vbslq_f32(vcgtq_f32(a.r[i], b.r[i]), a.r[i], b.r[i]));
}

static inline v16 v_min(v16 a, v16 b)
{
    FOR_EACH(vbslq_f32(vcltq_f32(a.r[i], b.r[i]), a.r[i], b.r[i]));
}

static inline v16 v_replace_nan(v16 a, v16 b)
{
    FOR_EACH(vbslq_f32(vceqq_f32(a.r[i], a.r[i]), a.r[i], b.r[i]));
}

/* rondo_exp */
static inline float32x4_t exp_neon(float32x4_t x)
{
    float32x4_t low = vdupq_n_f32(RONDO_EXP_LOW), high = vdupq_n_f32(RONDO_EXP_HIGH);
    x = vbslq_f32(vcltq_f32(x, low), low, x);
    x = vbslq_f32(vcgtq_f32(x, high), high, x);
    float32x4_t n = vrndnq_f32(vmulq_n_f32(x, RONDO_EXP_LOG2E));
    float32x4_t r = vfmsq_f32(x, n, vdupq_n_f32(RONDO_EXP_LN2_HIGH));
    r = vfmsq_f32(r, n, vdupq_n_f32(RONDO_EXP_LN2_LOW));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(RONDO_EXP_C1), vdupq_n_f32(RONDO_EXP_C0), r);
    p = vfmaq_f32(vdupq_n_f32(RONDO_EXP_C2), p, r);
    p = vfmaq_f32(vdupq_n_f32(RONDO_EXP_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(RONDO_EXP_C4), p, r);
    p = vfmaq_f32(vdupq_n_f32(RONDO_EXP_C5), p, r);
    float32x4_t e = vaddq_f32(vfmaq_f32(r, vmulq_f32(p, r), r), vdupq_n_f32(1.0f));
    int32x4_t k = vcvtq_s32_f32(n), half = vshrq_n_s32(k, 1), bias = vdupq_n_s32(127);
    int32x4_t first = vshlq_n_s32(vaddq_s32(half, bias), 23);
    int32x4_t second = vshlq_n_s32(vaddq_s32(vsubq_s32(k, half), bias), 23);
    return vmulq_f32(vmulq_f32(e, vreinterpretq_f32_s32(first)), vreinterpretq_f32_s32(second));
}

static inline v16 v_exp(v16 a)
{
    FOR_EACH(exp_neon(a.r[i]));
}

static inline v16 v_sigmoid(v16 a)
{
    const float32x4_t one = vdupq_n_f32(1.0f);
    FOR_EACH(vdivq_f32(one, vaddq_f32(one, exp_neon(vnegq_f32(a.r[i])))));
}

static inline float v_sum(v16 a)
{
    float lanes[16];
    v_store(lanes, a);
    return rondo_sum_tree16(lanes);
}

static inline float v_largest(v16 a)
{
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(a.r[0], a.r[1]), vmaxq_f32(a.r[2], a.r[3])));
}

static inline int v_find(v16 a, float value)
{
    float lanes[16];
    int i = 0;
    v_store(lanes, a);
    while (i < 16 && lanes[i] != value)
        i++;
    return i;
}

#undef FOR_EACH

#endif
