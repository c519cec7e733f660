/* Elementary functions with one definition for every CPU path.
 *
 * CPU implementations of an op give the same bits at every instruction-set level, the portable C one
 * included: each documents its order of operations, uses fused multiply-add where that order says so, and
 * takes exp from here. Vector versions perform these very steps lane by lane. Build with
 * -ffp-contract=off: a compiler must neither add nor remove a fusion. */
#ifndef RONDO_CORE_NUMBERS_H
#define RONDO_CORE_NUMBERS_H

#include "core/dtype.h"

#include <math.h>

/* exp(x) in f32, at most 2 ulp from the exact value where the result is normal; x is first clamped to
 * [-87.33654, 88.72283], so results are never subnormal, infinite or zero: below the range the result is
 * RONDO_EXP_MIN (1.1755e-38). NaN gives NaN.
 *   n = rint(x * log2(e)); r = fma(n, -ln2_high, x); r = fma(n, -ln2_low, r);
 *   p = Horner by fma with the coefficients below; e = fma(p * r, r, r) + 1; result = e * 2^n in two exact
 *   halves (n may be 128). */
#define RONDO_EXP_LOW -87.33654f
#define RONDO_EXP_HIGH 88.72283f
#define RONDO_EXP_LOG2E 1.44269504088896341f
#define RONDO_EXP_LN2_HIGH 0.693359375f
#define RONDO_EXP_LN2_LOW -2.12194440e-4f
#define RONDO_EXP_C0 1.9875691500e-4f
#define RONDO_EXP_C1 1.3981999507e-3f
#define RONDO_EXP_C2 8.3334519073e-3f
#define RONDO_EXP_C3 4.1665795894e-2f
#define RONDO_EXP_C4 1.6666665459e-1f
#define RONDO_EXP_C5 5.0000001201e-1f

static inline float rondo_exp(float x)
{
    if (x != x)
        return x;
    x = x < RONDO_EXP_LOW ? RONDO_EXP_LOW : x;
    x = x > RONDO_EXP_HIGH ? RONDO_EXP_HIGH : x;
    float n = rintf(x * RONDO_EXP_LOG2E);
    float r = fmaf(n, -RONDO_EXP_LN2_HIGH, x);
    r = fmaf(n, -RONDO_EXP_LN2_LOW, r);
    float p = fmaf(RONDO_EXP_C0, r, RONDO_EXP_C1);
    p = fmaf(p, r, RONDO_EXP_C2);
    p = fmaf(p, r, RONDO_EXP_C3);
    p = fmaf(p, r, RONDO_EXP_C4);
    p = fmaf(p, r, RONDO_EXP_C5);
    float e = fmaf(p * r, r, r) + 1.0f;
    int32_t k = (int32_t)n, half = k >> 1;
    float low = rondo_bits_to_f32((uint32_t)(half + 127) << 23);
    float high = rondo_bits_to_f32((uint32_t)(k - half + 127) << 23);
    return e * low * high;
}

/* 1 / (1 + exp(-x)), one rounding per operation. */
static inline float rondo_sigmoid(float x)
{
    return 1.0f / (1.0f + rondo_exp(-x));
}

/* x * sigmoid(x) */
static inline float rondo_silu(float x)
{
    return x * rondo_sigmoid(x);
}

/* Sum of squares over n channels in 16 interleaved partial sums, added as a fixed tree: lane l takes
 * channels l, l+16, ... by fma; then lanes l and l+8, l and l+4, l and l+2, l and l+1 are added. */
static inline float rondo_sum_tree16(const float lane[16])
{
    float a[8], b[4];
    for (int i = 0; i < 8; i++)
        a[i] = lane[i] + lane[i + 8];
    for (int i = 0; i < 4; i++)
        b[i] = a[i] + a[i + 4];
    return (b[0] + b[2]) + (b[1] + b[3]);
}

#endif
