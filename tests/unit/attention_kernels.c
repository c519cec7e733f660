/* Kernels of the attention family that the checks of whole ops see little of: codes of a cache that are rare in
 * quantised rows, and rows that are asked for ahead of sizes that no cache has. */
#include "backend_cpu/attention_internal.h"
#include "core/dtype.h"
#include "tests/unit/test.h"

#include <math.h>
#include <string.h>

enum { CODES = 256 + 16 }; /* no multiple of what a level decodes at a time */

static void test_decode(const struct rondo_attention_kernels *kernels, const char *name)
{
    uint8_t codes[CODES];
    float wide[CODES];
    uint16_t narrow[CODES];
    for (int i = 0; i < CODES; i++)
        codes[i] = (uint8_t)i;
    kernels->decode(wide, RONDO_F32, codes, CODES);
    kernels->decode(narrow, RONDO_BF16, codes, CODES);
    for (int i = 0; i < CODES; i++) {
        float want = rondo_e4m3_to_f32(codes[i]), got = rondo_bf16_to_f32(narrow[i]);
        bool is_nan = isnan(want);
        EXPECT(is_nan ? isnan(wide[i]) : rondo_f32_to_bits(wide[i]) == rondo_f32_to_bits(want),
               "%s: code %d in f32: got %g, want %g", name, i & 255, wide[i], want);
        EXPECT(is_nan ? isnan(got) : rondo_f32_to_bits(got) == rondo_f32_to_bits(want),
               "%s: code %d in bf16: got %g, want %g", name, i & 255, got, want);
    }
}

/* x [rows, keys] is what the chain of fused multiply-adds gives, whatever is asked for ahead. */
static void test_dots(const struct rondo_attention_kernels *kernels, const char *name,
                      enum rondo_dtype dtype, int32_t rows, int32_t n_keys, int32_t head_dim,
                      int64_t ahead)
{
    enum { MOST = 160 };
    static float q[16 * MOST], keys[RONDO_CHUNK * MOST], x[16 * RONDO_CHUNK];
    static uint16_t keys_bf16[RONDO_CHUNK * MOST];
    for (int i = 0; i < rows * head_dim; i++)
        q[i] = (float)(i * 37 % 101 - 50) / 64;
    for (int i = 0; i < n_keys * head_dim; i++) {
        keys_bf16[i] = rondo_f32_to_bf16((float)(i * 53 % 211 - 105) / 32);
        keys[i] = rondo_bf16_to_f32(keys_bf16[i]);
    }
    const void *data = dtype == RONDO_BF16 ? (const void *)keys_bf16 : keys;
    kernels->dots(&(struct rondo_dots){.x = x,
                                       .x_stride = RONDO_CHUNK,
                                       .q = q,
                                       .keys = data,
                                       .dtype = dtype,
                                       .rows = rows,
                                       .n_keys = n_keys,
                                       .head_dim = head_dim,
                                       .ahead = {ahead ? data : NULL, NULL, ahead}});
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < n_keys; j++) {
            float want = 0, got = x[r * RONDO_CHUNK + j];
            for (int d = 0; d < head_dim; d++)
                want = fmaf(q[r * head_dim + d], keys[j * head_dim + d], want);
            EXPECT(rondo_f32_to_bits(got) == rondo_f32_to_bits(want),
                   "%s: %s, %d rows, %d keys, head_dim %d: x[%d][%d] is %.9g, want %.9g", name,
                   rondo_dtype_name(dtype), rows, n_keys, head_dim, r, j, got, want);
        }
}

int main(void)
{
    static const int32_t rows[] = {1, 4, 7, 16}, n_keys[] = {1, 15, 17, 64},
                         head_dims[] = {16, 48, 128, 160};
    for (enum rondo_cpu_level level = RONDO_CPU_REF; level <= RONDO_CPU_NEON; level++) {
        const char *name = rondo_cpu_level_name(level);
        const struct rondo_attention_kernels *kernels = rondo_attention_kernels(level, 16);
        EXPECT(level == RONDO_CPU_REF ? !kernels : true, "the reference has kernels");
        if (!kernels || !rondo_cpu_has_level(level))
            continue;
        test_decode(kernels, name);
        for (int i = 0; i < 4 * 4 * 4; i++)
            for (int narrow = 0; narrow < 2; narrow++)
                test_dots(kernels, name, narrow ? RONDO_BF16 : RONDO_F32, rows[i % 4],
                          n_keys[i / 4 % 4], head_dims[i / 16], i % 3 * 1000);
    }
    return test_result();
}
