/* AVX-512 (F, BW, DQ, VL) vectors for the attention kernels. */
#include "backend_cpu/x86/numbers_avx512.h"

#include <immintrin.h>

#define KERNELS rondo_attention_kernels_avx512
#define V __m512
#define U __m512i
#define VW 16
#define TILE_VECTORS 4

#define v_zero() _mm512_setzero_ps()
#define v_set1(x) _mm512_set1_ps(x)
#define v_load(p) _mm512_loadu_ps(p)
#define v_store(p, x) _mm512_storeu_ps(p, x)
#define v_add(a, b) _mm512_add_ps(a, b)
#define v_sub(a, b) _mm512_sub_ps(a, b)
#define v_mul(a, b) _mm512_mul_ps(a, b)
#define v_max(a, b) _mm512_max_ps(a, b)
#define v_fma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define v_exp(x) rondo_exp_avx512(x)
#define v_maximum(x) _mm512_reduce_max_ps(x)
#define v_load_e4m3(p) rondo_e4m3_to_f32_avx512(_mm_loadu_si128((const __m128i *)(p)))
#define u_zero() _mm512_setzero_si512()
#define u_load(p) _mm512_loadu_si512(p)
#define u_load_half(p) _mm512_maskz_loadu_epi32(0xff, p)
#define u_store(p, x) _mm512_storeu_si512(p, x)
#define u_even(x) _mm512_castsi512_ps(_mm512_slli_epi32(x, 16))
#define u_odd(x) _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000)))

static inline __m512 v_load_bf16(const uint16_t *p)
{
    __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}

static inline void v_split(__m512 *x, __m512 *y)
{
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    __m512 low = *x, high = *y;
    *x = _mm512_permutex2var_ps(low, even, high);
    *y = _mm512_permutex2var_ps(low, _mm512_add_epi32(even, _mm512_set1_epi32(1)), high);
}

static inline void v_join(__m512 *x, __m512 *y)
{
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    __m512 even = *x, odd = *y;
    *x = _mm512_permutex2var_ps(even, low, odd);
    *y = _mm512_permutex2var_ps(even, _mm512_add_epi32(low, _mm512_set1_epi32(8)), odd);
}

/* rondo_f32_to_bf16 */
static inline void v_store_bf16(uint16_t *p, __m512 x)
{
    __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
    __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
    __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    __m512i y = _mm512_srli_epi32(up, 16);
    __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    y = _mm512_mask_or_epi32(y, is_nan, high, _mm512_set1_epi32(0x40));
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(y));
}

/* Codes below 8 stand for multiples of 2^-9, the others for their bits with another bias. */
static inline void v_decode_bf16(uint16_t *to, const uint8_t *codes)
{
    const __m512i small = _mm512_castsi128_si512(_mm_setr_epi16(
        0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60)); /* [magnitude] */
    __m512i code = _mm512_cvtepu8_epi16(_mm256_loadu_si256((const __m256i *)codes));
    __m512i magnitude = _mm512_and_si512(code, _mm512_set1_epi16(0x7f));
    __m512i sign = _mm512_slli_epi16(_mm512_xor_si512(code, magnitude), 8);
    __m512i bits = _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(120 << 7));
    __mmask32 is_small = _mm512_cmplt_epu16_mask(magnitude, _mm512_set1_epi16(8));
    __mmask32 is_nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
    bits = _mm512_mask_permutexvar_epi16(bits, is_small, magnitude, small);
    bits = _mm512_mask_mov_epi16(bits, is_nan, _mm512_set1_epi16(0x7fc0));
    _mm512_storeu_si512(to, _mm512_or_si512(bits, sign));
}

/* rondo_sum_tree16 */
static inline float v_tree(const __m512 lanes[1])
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(lanes[0]), _mm512_extractf32x8_ps(lanes[0], 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_movehdup_ps(c)));
}

/* r[i] lane j <-> r[j] lane i: dwords, then pairs inside 128 bits, then 128-bit parts. */
static inline void u_transpose(__m512i r[16])
{
    __m512i t[16], u[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        u[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        u[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        u[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        u[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        __m512i even_low = _mm512_shuffle_i32x4(u[i], u[i + 4], 0x88);
        __m512i odd_low = _mm512_shuffle_i32x4(u[i], u[i + 4], 0xdd);
        __m512i even_high = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0x88);
        __m512i odd_high = _mm512_shuffle_i32x4(u[i + 8], u[i + 12], 0xdd);
        r[i] = _mm512_shuffle_i32x4(even_low, even_high, 0x88);
        r[i + 4] = _mm512_shuffle_i32x4(odd_low, odd_high, 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(even_low, even_high, 0xdd);
        r[i + 12] = _mm512_shuffle_i32x4(odd_low, odd_high, 0xdd);
    }
}

#include "backend_cpu/attention_kernels.h"
