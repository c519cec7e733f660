/* Element types and their conversions. Rounding and saturation rules live here and nowhere else. */
#ifndef RONDO_CORE_DTYPE_H
#define RONDO_CORE_DTYPE_H

#include "core/rondo.h"

#include <string.h>

#define RONDO_E4M3_MAX 448.0f

static inline float rondo_bits_to_f32(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t rondo_f32_to_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float rondo_bf16_to_f32(uint16_t bits)
{
    return rondo_bits_to_f32((uint32_t)bits << 16);
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t rondo_f32_to_bf16(float value)
{
    uint32_t bits = rondo_f32_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

float rondo_f16_to_f32(uint16_t bits);
uint16_t rondo_f32_to_f16(float value); /* to nearest even; overflow gives infinity */

/* All 256 codes; the two NaN codes give NaN. */
float rondo_e4m3_to_f32(uint8_t code);
/* To nearest even, saturating to +-448; NaN gives 0x7f. Keeps the sign of zero. */
uint8_t rondo_f32_to_e4m3(float value);

/* rondo_f32_to_e4m3(values[i] / divisor) for n values, many times faster. */
void rondo_f32_to_e4m3_row(const float *values, float divisor, uint8_t *codes, size_t n);

static inline bool rondo_e4m3_is_nan(uint8_t code)
{
    return (code & 0x7f) == 0x7f;
}

/* Element `index` of an array of a floating dtype, and the way back with rounding. */
float rondo_load_rare(const void *data, enum rondo_dtype dtype,
                      size_t index); /* any but f32, bf16 */
static inline float rondo_load(const void *data, enum rondo_dtype dtype, size_t index)
{
    if (dtype == RONDO_F32)
        return ((const float *)data)[index];
    if (dtype == RONDO_BF16)
        return rondo_bf16_to_f32(((const uint16_t *)data)[index]);
    return rondo_load_rare(data, dtype, index);
}
void rondo_store(void *data, enum rondo_dtype dtype, size_t index, float value);

/* Index of the first NaN code in n FP8 codes, n when there is none. */
size_t rondo_e4m3_find_nan(const uint8_t *codes, size_t n);

/* Index of the first NaN or infinity in n numbers of a floating dtype, n when there is none. */
size_t rondo_find_not_finite(const void *values, enum rondo_dtype dtype, size_t n);

#endif
