/* Codes of a group of channels over a vector of 16 floats: included by the kernel headers of the families, once by
 * each level, after its vector header. */
#include "backend_cpu/basic.h"

/* Codes and scale of channels [begin, end) of a row, at most a group of 128; x[0] is the first of them. */
static inline void quantize_group(const void *x, enum rondo_dtype dtype,
                                  const struct rondo_tensor *out, int64_t row, int64_t begin,
                                  int64_t end, bool power_of_two)
{
    uint8_t *codes = (uint8_t *)rondo_tensor_row(out, row) + begin, last[16];
    int64_t n = end - begin;
    v16 largest = v_set(0);
    for (int64_t i = 0; i < n; i += 16)
        largest = v_max(v_abs(v_load_part(x, dtype, i, n - i)), largest);
    float scale = rondo_quantize_scale(v_largest(largest), power_of_two);
    for (int64_t i = 0; i < n; i += 16) {
        v16 value = v_div(v_load_part(x, dtype, i, n - i), v_set(scale));
        v_store_e4m3(n - i >= 16 ? codes + i : last, value);
        if (n - i < 16)
            memcpy(codes + i, last, (size_t)(n - i));
    }
    *rondo_quantize_scale_at(out, row, begin / RONDO_BLOCK) = scale;
}
