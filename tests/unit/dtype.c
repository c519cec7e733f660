/* Conversions of every code of the small dtypes, and rounding to them, against their definitions
 * in double. */
#include "core/dtype.h"
#include "tests/unit/test.h"

#include <math.h>

/* The value of a code with the given field widths, from the definition; NaN and infinity are the
 * caller's. */
static double value_of(uint32_t code, int exponent_bits, int mantissa_bits)
{
    int bias = (1 << (exponent_bits - 1)) - 1;
    int exponent = (int)(code >> mantissa_bits) & ((1 << exponent_bits) - 1);
    int mantissa = (int)(code & ((1u << mantissa_bits) - 1));
    bool negative = code >> (exponent_bits + mantissa_bits) & 1;
    double magnitude = exponent
                           ? ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits)
                           : ldexp(mantissa, 1 - bias - mantissa_bits);
    return negative ? -magnitude : magnitude;
}

static bool same(float a, double b)
{
    return (double)a == b && !signbit(a) == !signbit(b);
}

static void test_e4m3(void)
{
    for (uint32_t code = 0; code < 256; code++) {
        float value = rondo_e4m3_to_f32((uint8_t)code);
        if ((code & 0x7f) == 0x7f) {
            EXPECT(isnan(value) && rondo_e4m3_is_nan((uint8_t)code), "code 0x%02x", code);
            continue;
        }
        EXPECT(same(value, value_of(code, 4, 3)), "code 0x%02x is %g", code, (double)value);
        EXPECT(rondo_f32_to_e4m3(value) == code, "code 0x%02x came back as 0x%02x", code,
               rondo_f32_to_e4m3(value));
    }
    EXPECT(rondo_f32_to_e4m3(NAN) == 0x7f && rondo_f32_to_e4m3(-NAN) == 0x7f, "NaN");
    EXPECT(rondo_f32_to_e4m3(INFINITY) == 0x7e && rondo_f32_to_e4m3(-1e30f) == 0xfe, "saturation");
    EXPECT(rondo_f32_to_e4m3(464.1f) == 0x7e, "saturation");
    /* Between neighbours: the middle goes to the even code, either side of it to the nearer one. */
    for (uint32_t code = 0; code < 0x7e; code++) {
        float low = rondo_e4m3_to_f32((uint8_t)code), high = rondo_e4m3_to_f32((uint8_t)(code + 1));
        float middle = 0.5f * (low + high);
        EXPECT(rondo_f32_to_e4m3(middle) == (code & 1 ? code + 1 : code), "above 0x%02x", code);
        EXPECT(rondo_f32_to_e4m3(nextafterf(middle, low)) == code, "above 0x%02x", code);
        EXPECT(rondo_f32_to_e4m3(-nextafterf(middle, high)) == (code + 1) + 0x80, "above 0x%02x",
               code);
    }
}

static void test_f16(void)
{
    for (uint32_t code = 0; code < 65536; code++) {
        float value = rondo_f16_to_f32((uint16_t)code);
        if ((code & 0x7c00) == 0x7c00) {
            EXPECT(code & 0x3ff ? isnan(value) : isinf(value), "code 0x%04x", code);
            EXPECT(code & 0x3ff || (signbit(value) != 0) == (code >> 15), "code 0x%04x", code);
        } else {
            EXPECT(same(value, value_of(code, 5, 10)), "code 0x%04x is %g", code, (double)value);
        }
        EXPECT(isnan(value) ? (rondo_f32_to_f16(value) & 0x7fff) > 0x7c00
                            : rondo_f32_to_f16(value) == code,
               "code 0x%04x came back as 0x%04x", code, rondo_f32_to_f16(value));
    }
    for (uint32_t code = 0; code < 0x7bff; code++) {
        float low = rondo_f16_to_f32((uint16_t)code), high = rondo_f16_to_f32((uint16_t)(code + 1));
        float middle = 0.5f * (low + high);
        EXPECT(rondo_f32_to_f16(middle) == (code & 1 ? code + 1 : code), "above 0x%04x", code);
        EXPECT(rondo_f32_to_f16(nextafterf(middle, low)) == code, "above 0x%04x", code);
        EXPECT(rondo_f32_to_f16(-nextafterf(middle, high)) == (code + 1) + 0x8000, "above 0x%04x",
               code);
    }
    EXPECT(rondo_f32_to_f16(65519.0f) == 0x7bff && rondo_f32_to_f16(65520.0f) == 0x7c00,
           "overflow");
    EXPECT(rondo_f32_to_f16(-1e30f) == 0xfc00, "overflow");
}

static void test_bf16(void)
{
    for (uint32_t code = 0; code < 65536; code++) {
        float value = rondo_bf16_to_f32((uint16_t)code);
        if ((code & 0x7f80) == 0x7f80)
            EXPECT(code & 0x7f ? isnan(value) : isinf(value), "code 0x%04x", code);
        else
            EXPECT(same(value, value_of(code, 8, 7)), "code 0x%04x is %g", code, (double)value);
        EXPECT(isnan(value) ? (rondo_f32_to_bf16(value) & 0x7fff) > 0x7f80
                            : rondo_f32_to_bf16(value) == code,
               "code 0x%04x came back as 0x%04x", code, rondo_f32_to_bf16(value));
        if ((code & 0x7f80) == 0x7f80)
            continue;
        /* The middle between this code and the next in magnitude, and its neighbours. */
        uint32_t middle = code << 16 | 0x8000;
        EXPECT(rondo_f32_to_bf16(rondo_bits_to_f32(middle)) == code + (code & 1), "above 0x%04x",
               code);
        EXPECT(rondo_f32_to_bf16(rondo_bits_to_f32(middle - 1)) == code, "above 0x%04x", code);
        EXPECT(rondo_f32_to_bf16(rondo_bits_to_f32(middle + 1)) == code + 1, "above 0x%04x", code);
    }
    EXPECT((rondo_f32_to_bf16(rondo_bits_to_f32(0x7f800001)) & 0x7fff) > 0x7f80,
           "a NaN of small payload");
}

static void test_names(void)
{
    static const size_t sizes[RONDO_DTYPE_COUNT] = {4, 2, 2, 1, 4, 1};
    for (int i = 0; i < RONDO_DTYPE_COUNT; i++)
        EXPECT(rondo_dtype_size((enum rondo_dtype)i) == sizes[i], "%s",
               rondo_dtype_name((enum rondo_dtype)i));
    EXPECT(rondo_dtype_size(RONDO_DTYPE_COUNT) == 0, "size of no dtype");
}

int main(void)
{
    test_e4m3();
    test_f16();
    test_bf16();
    test_names();
    return test_result();
}
