/* The AVX2 twins, for numbers.c. */
#include "tests/unit/numbers.h"

#include "backend_cpu/x86/numbers_avx2.h"

void numbers_avx2(const float in[16], struct numbers *out)
{
    __m256 x[2] = {_mm256_loadu_ps(in), _mm256_loadu_ps(in + 8)};
    for (int i = 0; i < 2; i++) {
        _mm256_storeu_ps(out->exp + 8 * i, rondo_exp_avx2(x[i]));
        _mm256_storeu_ps(out->silu + 8 * i, rondo_silu_avx2(x[i]));
        _mm_storeu_si128((void *)(out->bf16 + 8 * i), rondo_f32_to_bf16_avx2(x[i]));
        _mm_storel_epi64((void *)(out->e4m3 + 8 * i), rondo_f32_to_e4m3_avx2(x[i]));
        __m128i bf16 = _mm_loadu_si128((const void *)(out->bf16 + 8 * i));
        __m128i e4m3 = _mm_loadl_epi64((const void *)(out->e4m3 + 8 * i));
        _mm256_storeu_ps(out->from_bf16 + 8 * i, rondo_bf16_to_f32_avx2(bf16));
        _mm256_storeu_ps(out->from_e4m3 + 8 * i, rondo_e4m3_to_f32_avx2(e4m3));
    }
    out->sum = rondo_sum_tree16_avx2(x[0], x[1]);
}
