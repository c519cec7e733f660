/* The vector twins of core/numbers.h and core/dtype.h, applied to 16 floats: one function per
 * level, each in a file built with its flags. */
#ifndef RONDO_TESTS_UNIT_NUMBERS_H
#define RONDO_TESTS_UNIT_NUMBERS_H

#include <stdint.h>

struct numbers {
    float exp[16], silu[16], sum;
    uint16_t bf16[16];
    uint8_t e4m3[16];
    float from_bf16[16], from_e4m3[16]; /* of the two above */
};

typedef void numbers_function(const float in[16], struct numbers *out);
numbers_function numbers_avx2, numbers_avx512;

#endif
