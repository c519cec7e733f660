/* AMD's matrix instructions. Lane l of a wave holds 256 / lanes values of line l % 16 of an operand, from
 * k = l / 16 * (256 / lanes) on, and as many rows of column l % 16 of the product, from that same number on. */
#include "matrix.h"
#include "ptx_internal.h"

namespace simt
{

namespace
{
struct Wave_lane {
    float *c;
    const uint32_t *a, *b;
};

void multiply(const Lanes<Wave_lane> &lanes, unsigned n)
{
    unsigned held = 256 / n;
    float a[16][16] = {}, b[16][16] = {}, c[16][16] = {};
    for (unsigned lane = 0; lane < n; lane++)
        for (unsigned i = 0; i < held; i++) {
            unsigned k = lane / 16 * held + i, line = lane % 16;
            a[line][k] = bf16_value((uint16_t)(lanes[lane].a[i / 2] >> i % 2 * 16));
            b[k][line] = bf16_value((uint16_t)(lanes[lane].b[i / 2] >> i % 2 * 16));
            c[k][line] = lanes[lane].c[i];
        }
    multiply_add(c[0], a[0], b[0], 16, 16, 16);
    for (unsigned lane = 0; lane < n; lane++)
        for (unsigned i = 0; i < held; i++)
            lanes[lane].c[i] = c[lane / 16 * held + i][lane % 16];
}
} // namespace

void matrix_multiply(float *c, const uint32_t *a, const uint32_t *b, unsigned lanes, Here here)
{
    static const Operation operation = {"matrix product of a wave"};
    Wave_lane mine = {c, a, b};
    mask_t whole = lanes == 64 ? ~mask_t(0) : (mask_t)0xffffffff;
    auto leader = [=](Lanes<Wave_lane> all, mask_t present) {
        if (present != whole)
            fail_at(here, 715 /* cudaErrorIllegalInstruction */,
                    "a matrix product of part of a wave");
        multiply(all, lanes);
    };
    warp_collective(whole, operation, mine, leader, here);
}

} // namespace simt
