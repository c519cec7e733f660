/* The vectors that gemm_kernels.h asks for, with AVX-512 (F, BW, DQ, VL): 16 output channels a vector. */
#ifndef RONDO_BACKEND_CPU_X86_GEMM_AVX512_H
#define RONDO_BACKEND_CPU_X86_GEMM_AVX512_H

#include "backend_cpu/gemm_internal.h"

#include <immintrin.h>

#define LANES 16
#define CHUNK 32
#ifndef GROUPS
#define GROUPS 2
#endif
#define PANEL_GROUPS 2
#define TILE_ROWS 13
#ifndef TILE_USUAL
#define TILE_USUAL TILE_ROWS
#endif
#ifndef PREFETCH_LOCALITY
#define PREFETCH_LOCALITY 3
#endif

typedef __m512 vf;
typedef __m512i vi;

#define vf_load _mm512_loadu_ps
#define vf_store _mm512_storeu_ps
#define vf_set1 _mm512_set1_ps
#define vf_zero _mm512_setzero_ps
#define vf_add _mm512_add_ps
#define vf_mul _mm512_mul_ps
#define vf_fma _mm512_fmadd_ps
#define vf_from_bits _mm512_castsi512_ps
#define vf_bits _mm512_castps_si512
#define vi_load(from) _mm512_loadu_si512(from)
#define vi_store(to, bits) _mm512_storeu_si512(to, bits)
#define vi_set1 _mm512_set1_epi32

static inline void transpose4(const vi in[4], vi out[4])
{
    vi a = _mm512_unpacklo_epi32(in[0], in[1]), b = _mm512_unpackhi_epi32(in[0], in[1]);
    vi c = _mm512_unpacklo_epi32(in[2], in[3]), d = _mm512_unpackhi_epi32(in[2], in[3]);
    out[0] = _mm512_unpacklo_epi64(a, c);
    out[1] = _mm512_unpackhi_epi64(a, c);
    out[2] = _mm512_unpacklo_epi64(b, d);
    out[3] = _mm512_unpackhi_epi64(b, d);
}

static inline vi load_quads(const uint8_t *const quad[4], int64_t offset)
{
    vi all = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(quad[0] + offset)));
    all = _mm512_inserti32x4(all, _mm_loadu_si128((const __m128i *)(quad[1] + offset)), 1);
    all = _mm512_inserti32x4(all, _mm_loadu_si128((const __m128i *)(quad[2] + offset)), 2);
    return _mm512_inserti32x4(all, _mm_loadu_si128((const __m128i *)(quad[3] + offset)), 3);
}

static inline void split_pairs(vi a, vi b, vi to[2])
{
    vf low = vf_from_bits(a), high = vf_from_bits(b);
    to[0] = vf_bits(_mm512_shuffle_ps(low, high, 0x88));
    to[1] = vf_bits(_mm512_shuffle_ps(low, high, 0xdd));
}

static inline vf quads_in_order(vf quads)
{
    const vi order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    return _mm512_permutexvar_ps(order, quads);
}

static inline void transpose(const uint8_t *const *row, int64_t offset, vi *to)
{
    vi low[4], high[4], t[4], u[4];
    for (int r = 0; r < 4; r++) {
        low[r] = _mm512_inserti64x4(
            _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(row[r] + offset))),
            _mm256_loadu_si256((const __m256i *)(row[r + 4] + offset)), 1);
        high[r] = _mm512_inserti64x4(
            _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(row[r + 8] + offset))),
            _mm256_loadu_si256((const __m256i *)(row[r + 12] + offset)), 1);
    }
    transpose4(low, t);
    transpose4(high, u);
    for (int q = 0; q < 4; q++) {
        _mm512_storeu_si512(to + q, _mm512_shuffle_i32x4(t[q], u[q], 0x88));
        _mm512_storeu_si512(to + q + 4, _mm512_shuffle_i32x4(t[q], u[q], 0xdd));
    }
}

/* Keeps a constant in a register: compilers make it anew in every step, on the port that transposes. */
static inline vi held(vi constant)
{
    __asm__("" : "+v"(constant));
    return constant;
}

static inline void bf16_pair(vi bits, vf to[2])
{
    to[0] = vf_from_bits(_mm512_slli_epi32(bits, 16));
    to[1] = vf_from_bits(_mm512_and_si512(bits, held(_mm512_set1_epi32((int)0xffff0000))));
}

static inline void f16_pair(vi bits, vf to[2])
{
    to[0] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(bits));
    to[1] = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16)));
}

/* odd: bf16 of bytes 1 and 3 of each dword, even: of bytes 0 and 2. */
static inline void e4m3_spread(vi odd, vi even, vf to[4])
{
    vf pair[2];
    bf16_pair(even, pair);
    to[0] = pair[0];
    to[2] = pair[1];
    bf16_pair(odd, pair);
    to[1] = pair[0];
    to[3] = pair[1];
}

/* A word that is a code times 16 is the upper half of its number but for the bits 11 to 14, which repeat the sign, and
 * 0 to 3, in which another code may be. The product does what two shifts would, on another port. */
static inline void e4m3_scaled(vi bits, vf to[4])
{
    const vi mask = held(_mm512_set1_epi32((int)0x87f00000));
    vi odd = _mm512_srai_epi16(bits, 4);
    vi even = _mm512_maddubs_epi16(held(_mm512_set1_epi16(16)), bits);
    to[0] = vf_from_bits(_mm512_and_si512(_mm512_slli_epi32(even, 16), mask));
    to[1] = vf_from_bits(_mm512_and_si512(_mm512_slli_epi32(odd, 16), mask));
    to[2] = vf_from_bits(_mm512_and_si512(even, mask));
    to[3] = vf_from_bits(_mm512_and_si512(odd, mask));
}

static inline void e4m3_normal(vi bits, vf to[4])
{
    const vi mask = _mm512_set1_epi16((short)0x87f0), bias = _mm512_set1_epi16(120 << 7);
    vi odd = _mm512_and_si512(_mm512_srai_epi16(bits, 4), mask);
    vi even = _mm512_and_si512(_mm512_srai_epi16(_mm512_slli_epi16(bits, 8), 4), mask);
    e4m3_spread(_mm512_add_epi16(odd, bias), _mm512_add_epi16(even, bias), to);
}

/* The high byte of the bf16 follows from the code's high nibble and the low byte from its low nibble, but for
 * codes below 8, whose bits are corrected from two more tables. */
static inline void e4m3_exact(vi bits, vf to[4])
{
    const vi high_of = _mm512_broadcast_i32x4(
        _mm_setr_epi32(0x3f3e3d3c, 0x43424140, (int)0xbfbebdbc, (int)0xc3c2c1c0));
    const vi high_fix = _mm512_broadcast_i32x4(_mm_setr_epi32(0x0707073c, 0, 0, 0));
    const vi low_fix = _mm512_broadcast_i32x4(_mm_setr_epi32((int)0xf0a01000, 0x10207040, 0, 0));
    const vi nibble = _mm512_set1_epi8(15);
    vi code = _mm512_and_si512(bits, _mm512_set1_epi8(0x7f));
    vi index = _mm512_adds_epu8(code, _mm512_set1_epi8(0x70));
    vi high = _mm512_shuffle_epi8(high_of, _mm512_and_si512(_mm512_srli_epi16(bits, 4), nibble));
    vi low = _mm512_slli_epi16(_mm512_and_si512(bits, nibble), 4);
    high = _mm512_xor_si512(high, _mm512_shuffle_epi8(high_fix, index));
    low = _mm512_xor_si512(low, _mm512_shuffle_epi8(low_fix, index));
    const vi upper = _mm512_set1_epi16((short)0xff00);
    vi odd = _mm512_ternarylogic_epi32(upper, high, _mm512_srli_epi16(low, 8), 0xca);
    vi even = _mm512_ternarylogic_epi32(upper, _mm512_slli_epi16(high, 8), low, 0xca);
    e4m3_spread(odd, even, to);
}

static inline vi vi_exponents(vi least, vi codes)
{
    return _mm512_min_epu8(least, _mm512_and_si512(codes, _mm512_set1_epi8(0x78)));
}

static inline bool vi_any_zero(vi bytes)
{
    return _mm512_testn_epi8_mask(bytes, bytes) != 0;
}

#endif
