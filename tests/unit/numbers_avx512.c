/* The AVX-512 twins, for numbers.c. */
#include "tests/unit/numbers.h"

#include "backend_cpu/x86/numbers_avx512.h"

void numbers_avx512(const float in[16], struct numbers *out)
{
    __m512 x = _mm512_loadu_ps(in);
    _mm512_storeu_ps(out->exp, rondo_exp_avx512(x));
    _mm512_storeu_ps(out->silu, rondo_silu_avx512(x));
    _mm256_storeu_si256((void *)out->bf16, rondo_f32_to_bf16_avx512(x));
    _mm_storeu_si128((void *)out->e4m3, rondo_f32_to_e4m3_avx512(x));
    _mm512_storeu_ps(out->from_bf16,
                     rondo_bf16_to_f32_avx512(_mm256_loadu_si256((const void *)out->bf16)));
    _mm512_storeu_ps(out->from_e4m3,
                     rondo_e4m3_to_f32_avx512(_mm_loadu_si128((const void *)out->e4m3)));
    out->sum = rondo_sum_tree16_avx512(x);
}
