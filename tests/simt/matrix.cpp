/* AMD's matrix instructions, of bf16. Lane l of a wave holds 256 / lanes values of line l % 16 of an operand, from
 * k = l / 16 * (256 / lanes) on, and as many rows of column l % 16 of the product, from that same number on.
 * Of codes: eight a lane, from k = l / 16 * 8 on, and the same product. */
#include "matrix.h"
#include "ptx_internal.h"

#include <cmath>

namespace simt
{

namespace
{
struct Wave_lane {
    float *c;
    const uint32_t *a, *b;
};

// One operand's value number i of a lane.
float bf16_of(const uint32_t *r, unsigned i)
{
    return bf16_value((uint16_t)(r[i / 2] >> i % 2 * 16));
}

float ocp_of(const uint32_t *r, unsigned i)
{
    return e4m3_value((uint8_t)(r[i / 4] >> i % 4 * 8));
}

float fnuz_of(const uint32_t *r, unsigned i)
{
    return e4m3fnuz_value((uint8_t)(r[i / 4] >> i % 4 * 8));
}

// Lanes hold `held` values of operands.
void multiply(const Lanes<Wave_lane> &lanes, unsigned n, unsigned held,
              float (*value)(const uint32_t *, unsigned))
{
    unsigned rows = 256 / n, depth = n / 16 * held;
    float a[16 * 32] = {}, b[32][16] = {}, c[16][16];
    for (unsigned lane = 0; lane < n; lane++) {
        for (unsigned i = 0; i < held; i++) {
            unsigned k = lane / 16 * held + i, line = lane % 16;
            a[line * depth + k] = value(lanes[lane].a, i);
            b[k][line] = value(lanes[lane].b, i);
        }
        for (unsigned i = 0; i < rows; i++)
            c[lane / 16 * rows + i][lane % 16] = lanes[lane].c[i];
    }
    multiply_add(c[0], a, b[0], 16, 16, depth);
    for (unsigned lane = 0; lane < n; lane++)
        for (unsigned i = 0; i < rows; i++)
            lanes[lane].c[i] = c[lane / 16 * rows + i][lane % 16];
}

void multiply_wave(float *c, const uint32_t *a, const uint32_t *b, unsigned lanes, unsigned held,
                   float (*value)(const uint32_t *, unsigned), Here here)
{
    static const Operation operation = {"matrix product of a wave"};
    Wave_lane mine = {c, a, b};
    mask_t whole = lanes == 64 ? ~mask_t(0) : (mask_t)0xffffffff;
    auto leader = [=](Lanes<Wave_lane> all, mask_t present) {
        if (present != whole)
            fail_at(here, 715 /* cudaErrorIllegalInstruction */,
                    "a matrix product of part of a wave");
        multiply(all, lanes, held, value);
    };
    warp_collective(whole, operation, mine, leader, here);
}
} // namespace

float e4m3fnuz_value(uint8_t code)
{
    int exponent = code >> 3 & 15, mantissa = code & 7;
    if (code == 0x80)
        return NAN;
    float magnitude = exponent ? std::ldexp((float)(8 + mantissa), exponent - 8 - 3)
                               : std::ldexp((float)mantissa, 1 - 8 - 3);
    return code & 0x80 ? -magnitude : magnitude;
}

void matrix_multiply(float *c, const uint32_t *a, const uint32_t *b, unsigned lanes, Here here)
{
    multiply_wave(c, a, b, lanes, 256 / lanes, bf16_of, here);
}

void matrix_multiply_e4m3(float *c, const uint32_t *a, const uint32_t *b, unsigned lanes, Here here)
{
    multiply_wave(c, a, b, lanes, 8, lanes == 64 ? fnuz_of : ocp_of, here);
}

} // namespace simt
