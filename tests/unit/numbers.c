/* exp and its kin: accuracy of the scalar functions, and that the vector twins give the very
 * same bits. */
#include "core/numbers.h"
#include "backend_cpu/cpu.h"
#include "tests/unit/numbers.h"
#include "tests/unit/test.h"

#include <math.h>

/* Units in the last place of f32 at a normal value. */
static double ulp(double value)
{
    int exponent;
    frexp(value, &exponent);
    return ldexp(1.0, exponent - 24);
}

static void test_exp(void)
{
    double worst = 0;
    for (uint32_t bits = 0; bits < 0x7f800000u; bits += 997)
        for (int sign = 0; sign < 2; sign++) {
            float x = rondo_bits_to_f32(bits | (uint32_t)sign << 31);
            if (x < RONDO_EXP_LOW || x > RONDO_EXP_HIGH)
                continue;
            double exact = exp((double)x);
            worst = fmax(worst, fabs(rondo_exp(x) - exact) / ulp(exact));
        }
    EXPECT(worst <= 2, "exp is %g units in the last place off", worst);
    EXPECT(rondo_exp(0) == 1 && rondo_exp(-0.0f) == 1, "exp(0)");
    EXPECT(rondo_exp(-INFINITY) == rondo_exp(RONDO_EXP_LOW) && rondo_exp(-INFINITY) < 1.2e-38f,
           "exp(-inf)");
    EXPECT(isfinite(rondo_exp(INFINITY)) && rondo_exp(INFINITY) > 3.4e38f, "exp(inf)");
    EXPECT(isnan(rondo_exp(NAN)), "exp(NaN)");
    EXPECT(rondo_sigmoid(0) == 0.5f && rondo_sigmoid(200) == 1, "sigmoid");
    EXPECT(rondo_silu(0) == 0 && rondo_silu(50) == 50, "silu");
}

static void test_tree(void)
{
    float lane[16];
    for (int i = 0; i < 16; i++)
        lane[i] = ldexpf(1.0f, i);
    EXPECT(rondo_sum_tree16(lane) == 65535, "every lane counts once");
    /* The order is seen where a sum loses: 2^24 + 1 + ... only lanes that meet first survive. */
    for (int i = 0; i < 16; i++)
        lane[i] = i == 0 ? 0x1p24f : i == 8 ? 1.0f : 0.0f;
    EXPECT(rondo_sum_tree16(lane) == 0x1p24f, "lane 0 meets lane 8 first");
    lane[10] = 1.0f;
    lane[2] = 1.0f;
    EXPECT(rondo_sum_tree16(lane) == 0x1p24f + 2, "lane 2 meets lane 10 first");
}

static bool same_bits(float a, float b)
{
    return rondo_f32_to_bits(a) == rondo_f32_to_bits(b) || (isnan(a) && isnan(b));
}

static void compare(const char *level, const float in[16], const struct numbers *got)
{
    for (int i = 0; i < 16; i++) {
        uint16_t bf16 = rondo_f32_to_bf16(in[i]);
        uint8_t e4m3 = rondo_f32_to_e4m3(in[i]);
        EXPECT(same_bits(got->exp[i], rondo_exp(in[i])), "%s exp(%a)", level, (double)in[i]);
        EXPECT(same_bits(got->silu[i], rondo_silu(in[i])), "%s silu(%a)", level, (double)in[i]);
        EXPECT(got->bf16[i] == bf16, "%s bf16(%a) is 0x%x, want 0x%x", level, (double)in[i],
               got->bf16[i], bf16);
        EXPECT(got->e4m3[i] == e4m3, "%s e4m3(%a) is 0x%x, want 0x%x", level, (double)in[i],
               got->e4m3[i], e4m3);
        EXPECT(same_bits(got->from_bf16[i], rondo_bf16_to_f32(bf16)), "%s from bf16 0x%x", level,
               bf16);
        EXPECT(same_bits(got->from_e4m3[i], rondo_e4m3_to_f32(e4m3)), "%s from e4m3 0x%x", level,
               e4m3);
    }
    EXPECT(same_bits(got->sum, rondo_sum_tree16(in)), "%s sum of 16 lanes", level);
}

/* Floats of every exponent and both signs, and what lies at borders. */
static void test_vectors(const char *level, numbers_function *function)
{
    static const float special[16] = {
        0.0f,  -0.0f,  NAN,    -NAN,           INFINITY,  -INFINITY, RONDO_EXP_LOW, RONDO_EXP_HIGH,
        1e38f, -1e38f, 448.0f, 0x1.fffffep-7f, 0x1p-149f, -0x1p-10f, 463.9f,        -464.1f};
    struct numbers got;
    uint32_t bits = 1;
    float in[16];
    function(special, &got);
    compare(level, special, &got);
    for (int round = 0; round < 20000; round++) {
        for (int i = 0; i < 16; i++) {
            bits = bits * 1664525u + 1013904223u;
            in[i] = round & 1 ? rondo_bits_to_f32(bits) : (float)(int32_t)bits * 0x1p-24f;
        }
        function(in, &got);
        compare(level, in, &got);
    }
    for (uint32_t code = 0; code < 256; code += 16) { /* every e4m3 code, through its value */
        for (uint32_t i = 0; i < 16; i++)
            in[i] = rondo_e4m3_to_f32((uint8_t)(code + i));
        function(in, &got);
        compare(level, in, &got);
    }
}

int main(void)
{
    test_exp();
    test_tree();
#if defined(__x86_64__)
    if (rondo_cpu_has_level(RONDO_CPU_AVX2))
        test_vectors("avx2", numbers_avx2);
    if (rondo_cpu_has_level(RONDO_CPU_AVX512))
        test_vectors("avx512", numbers_avx512);
#endif
    return test_result();
}
