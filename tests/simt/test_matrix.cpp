// AMD's products, and what takes their place on other devices: the codes that backend_cuda/gemm_tile.cuh makes of OCP's for FNUZ devices, all 256
// of them, and the twins of the instructions against sums over the operands they are said to hold.
extern "C" {
#include "core/dtype.h"
}
#include "backend_cuda/gemm_tile.cuh"
#include "matrix.h"
#include "test.h"

#include <cmath>

static uint32_t random_state = 1;

static uint32_t random_bits()
{
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8 | random_state << 24;
}

// In each of the four places, beside any others.
static void test_fnuz_codes()
{
    for (unsigned code = 0; code < 256; code++)
        for (int place = 0; place < 4; place++) {
            uint32_t others = random_bits() & ~(0xffu << 8 * place);
            uint32_t fnuz = gemm_fnuz_codes(others | code << 8 * place);
            float want = rondo_e4m3_to_f32((uint8_t)code);
            float got = 2 * simt::e4m3fnuz_value((uint8_t)(fnuz >> 8 * place));
            CHECK(std::isnan(want) ? std::isnan(got) : got == want);
            CHECK(!(want == 0 && std::signbit(got)));
            for (int i = 0; i < 4; i++)
                CHECK(i == place || (uint8_t)(fnuz >> 8 * i) ==
                                        (uint8_t)gemm_fnuz_codes((others >> 8 * i) & 0xff));
        }
    CHECK(std::isnan(simt::e4m3fnuz_value(0x80)) && simt::e4m3fnuz_value(0x7f) == 240 &&
          simt::e4m3fnuz_value(0xff) == -240 && simt::e4m3fnuz_value(0x40) == 1 &&
          simt::e4m3fnuz_value(0x01) == 0x1p-10f && simt::e4m3fnuz_value(0x08) == 0x1p-7f);
}

static __global__ void multiply(const uint8_t *a, const uint8_t *b, float *c)
{
    gemm_math_e4m3::weight_type wa;
    gemm_math_e4m3::input_type wb;
    tile_c sum;
    gemm_math_e4m3::load_weight(wa, a, MATRIX_E4M3_K);
    gemm_math_e4m3::load_input(wb, b, MATRIX_E4M3_K);
    for (int i = 0; i < TILE_C; i++)
        sum.r[i] = c[tile_row(i) * 16 + tile_column(i)];
    gemm_math_e4m3::multiply(sum, wa, wb);
    for (int i = 0; i < TILE_C; i++)
        c[tile_row(i) * 16 + tile_column(i)] = sum.r[i];
}

static __global__ void multiply_bf16(const uint16_t *a, const uint16_t *b, float *c)
{
    tile_a ta;
    tile_b tb;
    tile_c sum;
    tile_load_a(ta, a, 16);
    tile_load_b(tb, b, 16);
    for (int i = 0; i < TILE_C; i++)
        sum.r[i] = c[tile_row(i) * 16 + tile_column(i)];
    tile_mma(sum, ta, tb);
    for (int i = 0; i < TILE_C; i++)
        c[tile_row(i) * 16 + tile_column(i)] = sum.r[i];
}

// Values whose sums are exact.
static void test_product_bf16()
{
    std::vector<uint16_t> a(256), b(256);
    std::vector<float> start(256), want(256);
    for (int i = 0; i < 256; i++) {
        a[i] = f32_bf16((float)(int)(random_bits() % 32) - 15);
        b[i] = f32_bf16((float)(int)(random_bits() % 32) - 15);
    }
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sum = start[m * 16 + n] = (float)(m * 16 + n);
            for (int k = 0; k < 16; k++)
                sum += bf16_f32(a[m * 16 + k]) * bf16_f32(b[n * 16 + k]);
            want[m * 16 + n] = sum;
        }
    Device_array<uint16_t> device_a(a), device_b(b);
    Device_array<float> c(start);
    LAUNCH(multiply_bf16, 1, WARP_SIZE, 0, NULL, device_a.get(), device_b.get(), c.get());
    CHECK(clean());
    std::vector<float> got = c.values();
    for (int i = 0; i < 256; i++)
        CHECK(got[i] == want[i]);
}

// Rows of codes by rows of codes; values are those that the device takes the codes for.
static void test_product()
{
    constexpr int K = MATRIX_E4M3_K;
    std::vector<uint8_t> a(16 * K), b(16 * K);
    std::vector<float> start(256), want(256);
    for (int i = 0; i < 16 * K; i++) {
        a[i] = (uint8_t)((random_bits() & 0x87u) | 0x38u); // 1 to 2 and -1 to -2: sums are exact
        b[i] = (uint8_t)((random_bits() & 0x87u) | 0x38u);
    }
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            float sum = start[m * 16 + n] = (float)(m * 16 + n);
            for (int k = 0; k < K; k++) {
                float product = rondo_e4m3_to_f32(a[m * K + k]) * rondo_e4m3_to_f32(b[n * K + k]);
                sum += WARP_SIZE == 64 ? product / 4 : product;
            }
            want[m * 16 + n] = sum;
        }
    Device_array<uint8_t> device_a(a), device_b(b);
    Device_array<float> c(start);
    LAUNCH(multiply, 1, WARP_SIZE, 0, NULL, device_a.get(), device_b.get(), c.get());
    CHECK(clean());
    std::vector<float> got = c.values();
    for (int i = 0; i < 256; i++)
        CHECK(got[i] == want[i]);
}

int main()
{
    test_fnuz_codes();
    test_product_bf16();
    test_product();
    return finish("matrix products");
}
