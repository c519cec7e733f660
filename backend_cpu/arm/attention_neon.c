/* NEON (aarch64) vectors for the attention kernels. */
#include "core/numbers.h"

#include <arm_neon.h>

#define KERNELS rondo_attention_kernels_neon
#define V float32x4_t
#define U uint32x4_t
#define VW 4
#define TILE_VECTORS 4

#define v_zero() vdupq_n_f32(0)
#define v_set1(x) vdupq_n_f32(x)
#define v_load(p) vld1q_f32(p)
#define v_store(p, x) vst1q_f32(p, x)
#define v_add(a, b) vaddq_f32(a, b)
#define v_sub(a, b) vsubq_f32(a, b)
#define v_mul(a, b) vmulq_f32(a, b)
#define v_max(a, b) vbslq_f32(vcgtq_f32(a, b), a, b)
#define v_fma(a, b, c) vfmaq_f32(c, a, b)
#define v_maximum(x) vmaxvq_f32(x)
#define v_load_bf16(p) vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))
#define u_zero() vdupq_n_u32(0)
#define u_load(p) vreinterpretq_u32_u8(vld1q_u8((const uint8_t *)(p)))
#define u_store(p, x) vst1q_u8((uint8_t *)(p), vreinterpretq_u8_u32(x))
#define u_even(x) vreinterpretq_f32_u32(vshlq_n_u32(x, 16))
#define u_odd(x) vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000)))

/* rondo_exp; minnm and maxnm would drop a NaN, min and max keep it. */
static inline float32x4_t v_exp(float32x4_t x)
{
    x = vmaxq_f32(x, vdupq_n_f32(RONDO_EXP_LOW));
    x = vminq_f32(x, vdupq_n_f32(RONDO_EXP_HIGH));
    float32x4_t n = vrndnq_f32(vmulq_f32(x, vdupq_n_f32(RONDO_EXP_LOG2E)));
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-RONDO_EXP_LN2_HIGH));
    r = vfmaq_f32(r, n, vdupq_n_f32(-RONDO_EXP_LN2_LOW));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(RONDO_EXP_C1), vdupq_n_f32(RONDO_EXP_C0), r);
    p = vfmaq_f32(vdupq_n_f32(RONDO_EXP_C2), p, r);
    p = vfmaq_f32(vdupq_n_f32(RONDO_EXP_C3), p, r);
    p = vfmaq_f32(vdupq_n_f32(RONDO_EXP_C4), p, r);
    p = vfmaq_f32(vdupq_n_f32(RONDO_EXP_C5), p, r);
    float32x4_t e = vaddq_f32(vfmaq_f32(r, vmulq_f32(p, r), r), vdupq_n_f32(1.0f));
    int32x4_t k = vcvtq_s32_f32(n), half = vshrq_n_s32(k, 1), bias = vdupq_n_s32(127);
    int32x4_t low = vshlq_n_s32(vaddq_s32(half, bias), 23);
    int32x4_t high = vshlq_n_s32(vaddq_s32(vsubq_s32(k, half), bias), 23);
    e = vmulq_f32(e, vreinterpretq_f32_s32(low));
    return vmulq_f32(e, vreinterpretq_f32_s32(high));
}

/* Exponent and mantissa move to where f32 has them, and the bias is put right by a product, which makes subnormal
 * codes right as well. */
static inline float32x4_t v_load_e4m3(const uint8_t *p)
{
    uint32_t four;
    memcpy(&four, p, sizeof four);
    uint8x8_t bytes = vreinterpret_u8_u32(vdup_n_u32(four));
    uint32x4_t code = vmovl_u16(vget_low_u16(vmovl_u8(bytes)));
    uint32x4_t magnitude = vandq_u32(code, vdupq_n_u32(0x7f));
    uint32x4_t sign = vshlq_n_u32(veorq_u32(code, magnitude), 24);
    float32x4_t x =
        vmulq_f32(vreinterpretq_f32_u32(vshlq_n_u32(magnitude, 20)), vdupq_n_f32(0x1p120f));
    uint32x4_t nan = vceqq_u32(magnitude, vdupq_n_u32(0x7f));
    uint32x4_t bits = vbslq_u32(nan, vdupq_n_u32(0x7fc00000), vreinterpretq_u32_f32(x));
    return vreinterpretq_f32_u32(vorrq_u32(bits, sign));
}

static inline void v_split(float32x4_t *x, float32x4_t *y)
{
    float32x4x2_t parts = vuzpq_f32(*x, *y);
    *x = parts.val[0];
    *y = parts.val[1];
}

static inline void v_join(float32x4_t *x, float32x4_t *y)
{
    float32x4x2_t parts = vzipq_f32(*x, *y);
    *x = parts.val[0];
    *y = parts.val[1];
}

/* rondo_f32_to_bf16 */
static inline void v_store_bf16(uint16_t *p, float32x4_t x)
{
    uint32x4_t bits = vreinterpretq_u32_f32(x), high = vshrq_n_u32(bits, 16);
    uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
    uint32x4_t up = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
    uint32x4_t y = vbslq_u32(vceqq_f32(x, x), vshrq_n_u32(up, 16), quiet);
    vst1_u16(p, vmovn_u32(y));
}

static inline void v_decode_bf16(uint16_t *to, const uint8_t *codes)
{
    v_store_bf16(to, v_load_e4m3(codes));
    v_store_bf16(to + 4, v_load_e4m3(codes + 4));
}

/* rondo_sum_tree16 */
static inline float v_tree(const float32x4_t lanes[4])
{
    float32x4_t a = vaddq_f32(vaddq_f32(lanes[0], lanes[2]), vaddq_f32(lanes[1], lanes[3]));
    float32x2_t b = vadd_f32(vget_low_f32(a), vget_high_f32(a));
    return vget_lane_f32(b, 0) + vget_lane_f32(b, 1);
}

/* r[i] lane j <-> r[j] lane i. */
static inline void u_transpose(uint32x4_t r[4])
{
    uint32x4_t a = vtrn1q_u32(r[0], r[1]), b = vtrn2q_u32(r[0], r[1]);
    uint32x4_t c = vtrn1q_u32(r[2], r[3]), d = vtrn2q_u32(r[2], r[3]);
    r[0] = vcombine_u32(vget_low_u32(a), vget_low_u32(c));
    r[1] = vcombine_u32(vget_low_u32(b), vget_low_u32(d));
    r[2] = vcombine_u32(vget_high_u32(a), vget_high_u32(c));
    r[3] = vcombine_u32(vget_high_u32(b), vget_high_u32(d));
}

#include "backend_cpu/attention_kernels.h"
