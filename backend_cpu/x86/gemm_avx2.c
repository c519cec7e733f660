/* GEMM kernels for AVX2 with FMA and F16C: 8 output channels a vector. */
#include "backend_cpu/gemm_internal.h"

#include <immintrin.h>

#define LEVEL avx2
#define LANES 8
#define CHUNK 16
#ifndef GROUPS
#define GROUPS 4
#endif
#define PANEL_GROUPS 2
#define TILE_ROWS 6
#define TILE_USUAL 6
#ifndef PREFETCH_LOCALITY
#define PREFETCH_LOCALITY 3
#endif

typedef __m256 vf;
typedef __m256i vi;

#define vf_load _mm256_loadu_ps
#define vf_store _mm256_storeu_ps
#define vf_set1 _mm256_set1_ps
#define vf_zero _mm256_setzero_ps
#define vf_add _mm256_add_ps
#define vf_mul _mm256_mul_ps
#define vf_fma _mm256_fmadd_ps
#define vf_from_bits _mm256_castsi256_ps
#define vf_bits _mm256_castps_si256
#define vi_load(from) _mm256_loadu_si256(from)
#define vi_store(to, bits) _mm256_storeu_si256((vi *)(to), bits)
#define vi_set1 _mm256_set1_epi32

static inline vi load_pair(const uint8_t *low, const uint8_t *high)
{
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
                                   _mm_loadu_si128((const __m128i *)high), 1);
}

static inline vi load_quads(const uint8_t *const quad[2], int64_t offset)
{
    return load_pair(quad[0] + offset, quad[1] + offset);
}

static inline void transpose4(const vi in[4], vi out[4])
{
    vi a = _mm256_unpacklo_epi32(in[0], in[1]), b = _mm256_unpackhi_epi32(in[0], in[1]);
    vi c = _mm256_unpacklo_epi32(in[2], in[3]), d = _mm256_unpackhi_epi32(in[2], in[3]);
    out[0] = _mm256_unpacklo_epi64(a, c);
    out[1] = _mm256_unpackhi_epi64(a, c);
    out[2] = _mm256_unpacklo_epi64(b, d);
    out[3] = _mm256_unpackhi_epi64(b, d);
}

static inline void transpose(const uint8_t *const *row, int64_t offset, vi *to)
{
    vi in[4], out[4];
    for (int r = 0; r < 4; r++)
        in[r] = load_pair(row[r] + offset, row[r + 4] + offset);
    transpose4(in, out);
    for (int q = 0; q < 4; q++)
        vi_store(to + q, out[q]);
}

static inline void split_pairs(vi a, vi b, vi to[2])
{
    vf low = vf_from_bits(a), high = vf_from_bits(b);
    to[0] = vf_bits(_mm256_shuffle_ps(low, high, 0x88));
    to[1] = vf_bits(_mm256_shuffle_ps(low, high, 0xdd));
}

static inline vf quads_in_order(vf quads)
{
    return _mm256_permutevar8x32_ps(quads, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

static inline void bf16_pair(vi bits, vf to[2])
{
    to[0] = vf_from_bits(_mm256_slli_epi32(bits, 16));
    to[1] = vf_from_bits(_mm256_and_si256(bits, _mm256_set1_epi32((int)0xffff0000)));
}

static inline void f16_pair(vi bits, vf to[2])
{
    vi low = _mm256_and_si256(bits, _mm256_set1_epi32(0xffff)), high = _mm256_srli_epi32(bits, 16);
    vi both = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
    to[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(both));
    to[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(both, 1));
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
    const vi mask = _mm256_set1_epi32((int)0x87f00000);
    vi odd = _mm256_srai_epi16(bits, 4);
    vi even = _mm256_maddubs_epi16(_mm256_set1_epi16(16), bits);
    to[0] = vf_from_bits(_mm256_and_si256(_mm256_slli_epi32(even, 16), mask));
    to[1] = vf_from_bits(_mm256_and_si256(_mm256_slli_epi32(odd, 16), mask));
    to[2] = vf_from_bits(_mm256_and_si256(even, mask));
    to[3] = vf_from_bits(_mm256_and_si256(odd, mask));
}

static inline void e4m3_normal(vi bits, vf to[4])
{
    const vi mask = _mm256_set1_epi16((short)0x87f0), bias = _mm256_set1_epi16(120 << 7);
    vi odd = _mm256_and_si256(_mm256_srai_epi16(bits, 4), mask);
    vi even = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(bits, 8), 4), mask);
    e4m3_spread(_mm256_add_epi16(odd, bias), _mm256_add_epi16(even, bias), to);
}

/* The high byte of the bf16 follows from the code's high nibble and the low byte from its low nibble, but for
 * codes below 8, whose bits are corrected from two more tables. */
static inline void e4m3_exact(vi bits, vf to[4])
{
    const vi high_of = _mm256_setr_epi32(0x3f3e3d3c, 0x43424140, (int)0xbfbebdbc, (int)0xc3c2c1c0,
                                         0x3f3e3d3c, 0x43424140, (int)0xbfbebdbc, (int)0xc3c2c1c0);
    const vi high_fix = _mm256_setr_epi32(0x0707073c, 0, 0, 0, 0x0707073c, 0, 0, 0);
    const vi low_fix =
        _mm256_setr_epi32((int)0xf0a01000, 0x10207040, 0, 0, (int)0xf0a01000, 0x10207040, 0, 0);
    const vi nibble = _mm256_set1_epi8(15), lower = _mm256_set1_epi16(0xff);
    vi code = _mm256_and_si256(bits, _mm256_set1_epi8(0x7f));
    vi index = _mm256_adds_epu8(code, _mm256_set1_epi8(0x70));
    vi high = _mm256_shuffle_epi8(high_of, _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble));
    vi low = _mm256_slli_epi16(_mm256_and_si256(bits, nibble), 4);
    high = _mm256_xor_si256(high, _mm256_shuffle_epi8(high_fix, index));
    low = _mm256_xor_si256(low, _mm256_shuffle_epi8(low_fix, index));
    vi odd = _mm256_or_si256(_mm256_andnot_si256(lower, high), _mm256_srli_epi16(low, 8));
    vi even = _mm256_or_si256(_mm256_slli_epi16(high, 8), _mm256_and_si256(low, lower));
    e4m3_spread(odd, even, to);
}

static inline vi vi_exponents(vi least, vi codes)
{
    return _mm256_min_epu8(least, _mm256_and_si256(codes, _mm256_set1_epi8(0x78)));
}

static inline bool vi_any_zero(vi bytes)
{
    return _mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, _mm256_setzero_si256())) != 0;
}

#include "backend_cpu/gemm_kernels.h"
