/* GEMM kernels for AArch64 NEON: 4 output channels a vector. */
#include "backend_cpu/gemm_internal.h"

#include <arm_neon.h>

#define LEVEL neon
#define LANES 4
#define CHUNK 16
#define GROUPS 8
#define PANEL_GROUPS 4
#define TILE_ROWS 6
#define TILE_USUAL 6
#define PREFETCH_LOCALITY 2

typedef float32x4_t vf;
typedef uint32x4_t vi;

#define vf_load vld1q_f32
#define vf_store vst1q_f32
#define vf_set1 vdupq_n_f32
#define vf_zero() vdupq_n_f32(0.0f)
#define vf_add vaddq_f32
#define vf_mul vmulq_f32
#define vf_fma(a, b, c) vfmaq_f32(c, a, b)
#define vf_from_bits vreinterpretq_f32_u32
#define vf_bits vreinterpretq_u32_f32
#define vi_load(from) vld1q_u32((const uint32_t *)(from))
#define vi_store(to, bits) vst1q_u32((uint32_t *)(to), bits)
#define vi_set1(value) vdupq_n_u32((uint32_t)(value))

static inline vi load_quads(const uint8_t *const quad[1], int64_t offset)
{
    return vreinterpretq_u32_u8(vld1q_u8(quad[0] + offset));
}

static inline void transpose4(const vi in[4], vi out[4])
{
    uint64x2_t a = vreinterpretq_u64_u32(vzip1q_u32(in[0], in[1]));
    uint64x2_t b = vreinterpretq_u64_u32(vzip2q_u32(in[0], in[1]));
    uint64x2_t c = vreinterpretq_u64_u32(vzip1q_u32(in[2], in[3]));
    uint64x2_t d = vreinterpretq_u64_u32(vzip2q_u32(in[2], in[3]));
    out[0] = vreinterpretq_u32_u64(vzip1q_u64(a, c));
    out[1] = vreinterpretq_u32_u64(vzip2q_u64(a, c));
    out[2] = vreinterpretq_u32_u64(vzip1q_u64(b, d));
    out[3] = vreinterpretq_u32_u64(vzip2q_u64(b, d));
}

static inline void transpose(const uint8_t *const *row, int64_t offset, vi *to)
{
    vi in[4];
    for (int i = 0; i < 4; i++)
        in[i] = vreinterpretq_u32_u8(vld1q_u8(row[i] + offset));
    transpose4(in, to);
}

static inline void split_pairs(vi a, vi b, vi to[2])
{
    to[0] = vuzp1q_u32(a, b);
    to[1] = vuzp2q_u32(a, b);
}

static inline vf quads_in_order(vf quads)
{
    return quads;
}

static inline void bf16_pair(vi bits, vf to[2])
{
    to[0] = vf_from_bits(vshlq_n_u32(bits, 16));
    to[1] = vf_from_bits(vandq_u32(bits, vdupq_n_u32(0xffff0000u)));
}

static inline void f16_pair(vi bits, vf to[2])
{
    to[0] = vcvt_f32_f16(vreinterpret_f16_u16(vmovn_u32(bits)));
    to[1] = vcvt_f32_f16(vreinterpret_f16_u16(vshrn_n_u32(bits, 16)));
}

/* odd: bf16 of bytes 1 and 3 of each dword, even: of bytes 0 and 2. */
static inline void e4m3_spread(uint16x8_t odd, uint16x8_t even, vf to[4])
{
    vf pair[2];
    bf16_pair(vreinterpretq_u32_u16(even), pair);
    to[0] = pair[0];
    to[2] = pair[1];
    bf16_pair(vreinterpretq_u32_u16(odd), pair);
    to[1] = pair[0];
    to[3] = pair[1];
}

static inline uint16x8_t e4m3_place(uint16x8_t code_in_high_byte)
{
    int16x8_t shifted = vshrq_n_s16(vreinterpretq_s16_u16(code_in_high_byte), 4);
    return vandq_u16(vreinterpretq_u16_s16(shifted), vdupq_n_u16(0x87f0));
}

static inline void e4m3_scaled(vi bits, vf to[4])
{
    uint16x8_t codes = vreinterpretq_u16_u32(bits);
    e4m3_spread(e4m3_place(codes), e4m3_place(vshlq_n_u16(codes, 8)), to);
}

static inline void e4m3_normal(vi bits, vf to[4])
{
    uint16x8_t codes = vreinterpretq_u16_u32(bits), bias = vdupq_n_u16(120 << 7);
    e4m3_spread(vaddq_u16(e4m3_place(codes), bias),
                vaddq_u16(e4m3_place(vshlq_n_u16(codes, 8)), bias), to);
}

/* A product with 2^120 is exact for every code. */
static inline void e4m3_exact(vi bits, vf to[4])
{
    e4m3_scaled(bits, to);
    for (int i = 0; i < 4; i++)
        to[i] = vmulq_n_f32(to[i], 0x1p120f);
}

static inline vi vi_exponents(vi least, vi codes)
{
    uint8x16_t exponents = vandq_u8(vreinterpretq_u8_u32(codes), vdupq_n_u8(0x78));
    return vreinterpretq_u32_u8(vminq_u8(vreinterpretq_u8_u32(least), exponents));
}

static inline bool vi_any_zero(vi bytes)
{
    return vminvq_u8(vreinterpretq_u8_u32(bytes)) == 0;
}

#include "backend_cpu/gemm_kernels.h"
