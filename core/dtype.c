/* Element types: names, sizes, conversions. */
#include "core/dtype.h"

#include <math.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[RONDO_DTYPE_COUNT] = {
    [RONDO_F32] = {"f32", 4},         [RONDO_BF16] = {"bf16", 2}, [RONDO_F16] = {"f16", 2},
    [RONDO_F8_E4M3] = {"f8_e4m3", 1}, [RONDO_I32] = {"i32", 4},   [RONDO_U8] = {"u8", 1},
};

size_t rondo_dtype_size(enum rondo_dtype dtype)
{
    return dtype < RONDO_DTYPE_COUNT ? dtypes[dtype].size : 0;
}

const char *rondo_dtype_name(enum rondo_dtype dtype)
{
    return dtype < RONDO_DTYPE_COUNT ? dtypes[dtype].name : "unknown";
}

const char *rondo_mode_name(enum rondo_mode mode)
{
    return mode == RONDO_MODE_F32 ? "f32" : mode == RONDO_MODE_BF16 ? "bf16" : "fp8";
}

const char *rondo_kv_name(enum rondo_kv kv)
{
    return kv == RONDO_KV_FP8 ? "fp8" : "auto";
}

float rondo_f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = (bits >> 10) & 0x1fu, mantissa = bits & 0x3ffu;
    if (exponent == 31)
        return rondo_bits_to_f32(sign | 0x7f800000u | mantissa << 13);
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return rondo_bits_to_f32(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t rondo_f32_to_f16(float value)
{
    uint32_t bits = rondo_f32_to_bits(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return sign | 0x7e00;
    if (magnitude >= 0x477ff000u) /* 65520: half a step over the largest half, rounds to infinity */
        return sign | 0x7c00;
    if (magnitude < 0x38800000u) { /* below 2^-14: the result counts in units of 2^-24 */
        float scaled = rondo_bits_to_f32(magnitude) * 0x1p24f;
        return sign | (uint16_t)lrintf(scaled);
    }
    uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    return sign | (uint16_t)((rounded >> 13) - (112u << 10));
}

float rondo_e4m3_to_f32(uint8_t code)
{
    uint32_t exponent = (code >> 3) & 0xfu, mantissa = code & 7u;
    float magnitude;
    if (rondo_e4m3_is_nan(code))
        return NAN;
    if (exponent == 0)
        magnitude = (float)mantissa * 0x1p-9f;
    else
        magnitude = rondo_bits_to_f32((exponent + 120) << 23 | mantissa << 20);
    return code & 0x80 ? -magnitude : magnitude;
}

uint8_t rondo_f32_to_e4m3(float value)
{
    uint32_t bits = rondo_f32_to_bits(value);
    uint8_t sign = (uint8_t)(bits >> 24 & 0x80u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return 0x7f;
    if (magnitude >= 0x43e00000u) /* 448 and everything above saturates */
        return sign | 0x7e;
    if (magnitude < 0x3c800000u) { /* below 2^-6: the result counts in units of 2^-9 */
        float scaled = rondo_bits_to_f32(magnitude) * 0x1p9f;
        return sign | (uint8_t)lrintf(scaled);
    }
    uint32_t rounded = magnitude + 0x7ffffu + ((magnitude >> 20) & 1u);
    return sign | (uint8_t)((rounded >> 20) - (120u << 3));
}

/* Both roundings are computed and one is chosen, so that compilers use vectors. Below 2^-6 the sum with 2^14,
 * whose last place is 2^-9, rounds to the step of the subnormal codes. */
void rondo_f32_to_e4m3_row(const float *values, float divisor, uint8_t *codes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = rondo_f32_to_bits(values[i] / divisor), magnitude = bits & 0x7fffffffu;
        uint32_t subnormal =
            rondo_f32_to_bits(rondo_bits_to_f32(magnitude) + 0x1p14f) - 0x46800000u;
        uint32_t normal = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1u)) >> 20) - (120u << 3);
        uint32_t code = magnitude < 0x3c800000u ? subnormal : normal;
        code = magnitude >= 0x43e00000u ? 0x7eu : code;
        code |= bits >> 24 & 0x80u;
        codes[i] = (uint8_t)(magnitude > 0x7f800000u ? 0x7fu : code);
    }
}

float rondo_load_rare(const void *data, enum rondo_dtype dtype, size_t index)
{
    switch (dtype) {
    case RONDO_F16:
        return rondo_f16_to_f32(((const uint16_t *)data)[index]);
    case RONDO_F8_E4M3:
        return rondo_e4m3_to_f32(((const uint8_t *)data)[index]);
    case RONDO_I32:
        return (float)((const int32_t *)data)[index];
    default:
        return (float)((const uint8_t *)data)[index];
    }
}

void rondo_store(void *data, enum rondo_dtype dtype, size_t index, float value)
{
    switch (dtype) {
    case RONDO_F32:
        ((float *)data)[index] = value;
        break;
    case RONDO_BF16:
        ((uint16_t *)data)[index] = rondo_f32_to_bf16(value);
        break;
    case RONDO_F16:
        ((uint16_t *)data)[index] = rondo_f32_to_f16(value);
        break;
    case RONDO_F8_E4M3:
        ((uint8_t *)data)[index] = rondo_f32_to_e4m3(value);
        break;
    case RONDO_I32:
        ((int32_t *)data)[index] = (int32_t)value;
        break;
    default:
        ((uint8_t *)data)[index] = (uint8_t)value;
        break;
    }
}

/* ---- search for what is not finite ------------------------------------------------------------ */

size_t rondo_e4m3_find_nan(const uint8_t *codes, size_t n)
{
    size_t at = 0;
    /* Blocks first, without a branch per code, so that compilers use vectors. */
    for (; at + 4096 <= n; at += 4096) {
        uint8_t found = 0;
        for (size_t i = 0; i < 4096; i++)
            found |= (uint8_t)((codes[at + i] & 0x7f) == 0x7f);
        if (found)
            break;
    }
    while (at < n && !rondo_e4m3_is_nan(codes[at]))
        at++;
    return at;
}

/* Whether all bits of `exponent` are set in one of n numbers: a NaN or an infinity. */
static bool has_special_16(const uint16_t *bits, uint16_t exponent, size_t n)
{
    uint16_t found = 0;
    for (size_t i = 0; i < n; i++)
        found |= (uint16_t)((bits[i] & exponent) == exponent);
    return found;
}

static bool has_special_32(const uint32_t *bits, uint32_t exponent, size_t n)
{
    uint32_t found = 0;
    for (size_t i = 0; i < n; i++)
        found |= (uint32_t)((bits[i] & exponent) == exponent);
    return found;
}

size_t rondo_find_not_finite(const void *values, enum rondo_dtype dtype, size_t n)
{
    const size_t block = 4096;
    const char *bytes = values;
    size_t at = 0, element = rondo_dtype_size(dtype);
    if (dtype == RONDO_F8_E4M3)
        return rondo_e4m3_find_nan(values, n);
    /* Blocks first, without a branch per number, so that compilers use vectors. */
    for (; at + block <= n; at += block) {
        const void *first = bytes + at * element;
        if (dtype == RONDO_F32
                ? has_special_32(first, 0x7f800000, block)
                : has_special_16(first, dtype == RONDO_BF16 ? 0x7f80 : 0x7c00, block))
            break;
    }
    while (at < n && isfinite(rondo_load(values, dtype, at)))
        at++;
    return at;
}
