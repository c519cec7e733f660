/* AVX2 (with FMA and F16C) vectors for the attention kernels. */
#include "backend_cpu/x86/numbers_avx2.h"

#include <immintrin.h>

#define KERNELS rondo_attention_kernels_avx2
#define V __m256
#define U __m256i
#define VW 8
#define TILE_VECTORS 2

#define v_zero() _mm256_setzero_ps()
#define v_set1(x) _mm256_set1_ps(x)
#define v_load(p) _mm256_loadu_ps(p)
#define v_store(p, x) _mm256_storeu_ps(p, x)
#define v_add(a, b) _mm256_add_ps(a, b)
#define v_sub(a, b) _mm256_sub_ps(a, b)
#define v_mul(a, b) _mm256_mul_ps(a, b)
#define v_max(a, b) _mm256_max_ps(a, b)
#define v_fma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define v_exp(x) rondo_exp_avx2(x)
#define v_load_e4m3(p) rondo_e4m3_to_f32_avx2(_mm_loadl_epi64((const __m128i *)(p)))
#define u_zero() _mm256_setzero_si256()
#define u_load(p) _mm256_loadu_si256((const __m256i *)(p))
#define u_store(p, x) _mm256_storeu_si256((__m256i *)(p), x)
#define u_even(x) _mm256_castsi256_ps(_mm256_slli_epi32(x, 16))
#define u_odd(x) _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000)))

static inline __m256 v_load_bf16(const uint16_t *p)
{
    __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
}

static inline void v_split(__m256 *x, __m256 *y)
{
    __m256 low = *x, high = *y;
    *x = _mm256_shuffle_ps(low, high, 0x88);
    *y = _mm256_shuffle_ps(low, high, 0xdd);
    *x = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(*x), 0xd8));
    *y = _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(*y), 0xd8));
}

static inline void v_join(__m256 *x, __m256 *y)
{
    __m256 low = _mm256_unpacklo_ps(*x, *y), high = _mm256_unpackhi_ps(*x, *y);
    *x = _mm256_permute2f128_ps(low, high, 0x20);
    *y = _mm256_permute2f128_ps(low, high, 0x31);
}

/* rondo_f32_to_bf16 */
static inline void v_store_bf16(uint16_t *p, __m256 x)
{
    __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
    __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    __m256i y = _mm256_blendv_epi8(_mm256_srli_epi32(up, 16), quiet, is_nan);
    y = _mm256_permute4x64_epi64(_mm256_packus_epi32(y, y), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(y));
}

/* Codes below 8 stand for multiples of 2^-9, the others for their bits with another bias. */
static inline void v_decode_bf16(uint16_t *to, const uint8_t *codes)
{
    /* Bytes [magnitude] of the small ones; a set high bit in the index gives 0. */
    const __m256i low =
        _mm256_broadcastsi128_si256(_mm_setr_epi32((int)0xc0800000, 0x60402000, 0, 0));
    const __m256i high = _mm256_broadcastsi128_si256(_mm_setr_epi32(0x3b3b3b00, 0x3c3c3c3c, 0, 0));
    const __m256i upper = _mm256_set1_epi16((short)0xff00);
    __m256i code = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)codes));
    __m256i magnitude = _mm256_and_si256(code, _mm256_set1_epi16(0x7f));
    __m256i sign = _mm256_slli_epi16(_mm256_xor_si256(code, magnitude), 8);
    __m256i bits = _mm256_add_epi16(_mm256_slli_epi16(magnitude, 4), _mm256_set1_epi16(120 << 7));
    __m256i is_small = _mm256_cmpgt_epi16(_mm256_set1_epi16(8), magnitude);
    __m256i is_nan = _mm256_cmpeq_epi16(magnitude, _mm256_set1_epi16(0x7f));
    __m256i index = _mm256_or_si256(magnitude, upper);
    __m256i small = _mm256_or_si256(_mm256_shuffle_epi8(low, index),
                                    _mm256_slli_epi16(_mm256_shuffle_epi8(high, index), 8));
    bits = _mm256_blendv_epi8(bits, small, is_small);
    bits = _mm256_blendv_epi8(bits, _mm256_set1_epi16(0x7fc0), is_nan);
    _mm256_storeu_si256((__m256i *)to, _mm256_or_si256(bits, sign));
}

static inline float v_maximum(__m256 x)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    __m128 b = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

/* rondo_sum_tree16 */
static inline float v_tree(const __m256 lanes[2])
{
    __m256 a = _mm256_add_ps(lanes[0], lanes[1]);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* r[i] lane j <-> r[j] lane i: dwords, then pairs inside 128 bits, then 128-bit parts. */
static inline void u_transpose(__m256i r[8])
{
    __m256i t[8], u[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        u[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
        r[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
    }
}

#include "backend_cpu/attention_kernels.h"
