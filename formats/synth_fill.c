/* The numbers of random checkpoints. */
#include "formats/synth_fill.h"

#include "core/dtype.h"

#include <math.h>
#include <string.h>

/* Output function of the SplitMix64 generator (Steele, Lea and Flood 2014) at position `counter`. */
static inline uint64_t random_word(uint64_t key, uint64_t counter)
{
    uint64_t z = key + (counter + 1) * UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint64_t rondo_synth_key(uint64_t seed, const char *name)
{
    uint64_t key = random_word(seed, 0);
    for (; *name; name++)
        key = random_word(key ^ (unsigned char)*name, 1);
    return key;
}

/* The z with P(normal < z) = p, by Newton's method from 0; p in (1e-6, 0.5]. */
static double normal_quantile(double p)
{
    double z = 0;
    for (int i = 0; i < 60; i++) {
        double density = 0.3989422804014327 * exp(-0.5 * z * z);
        double step = (0.5 * erfc(-z * 0.7071067811865476) - p) / density;
        z -= step > 0.5 ? 0.5 : step; /* the first steps overshoot where the density is flat */
        if (fabs(step) < 1e-13)
            break;
    }
    return z;
}

void rondo_synth_tables_fill(struct rondo_synth_tables *tables)
{
    for (int i = 0; i < 32768; i++) {
        float z = (float)normal_quantile((i + 0.5) / 65536);
        tables->normal[i] = z;
        tables->normal[65535 - i] = -z;
    }
    double largest = -normal_quantile(0.5 / 256), squares = 0;
    for (int i = 0; i < 128; i++) {
        float value = (float)(-normal_quantile((i + 0.5) / 256) / largest * RONDO_E4M3_MAX);
        uint8_t code = rondo_f32_to_e4m3(value);
        tables->codes[2 * i] = code;
        tables->codes[2 * i + 1] = code | 0x80;
        squares += 2.0 * rondo_e4m3_to_f32(code) * rondo_e4m3_to_f32(code);
    }
    tables->code_deviation = (float)sqrt(squares / 256);
}

static void fill_codes(const uint8_t codes[256], uint64_t key, uint64_t first, size_t n,
                       uint8_t *out)
{
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        uint64_t word = random_word(key, (first + i) / 8);
        for (int j = 0; j < 8; j++)
            out[i + (size_t)j] = codes[(word >> (8 * j)) & 0xff];
    }
    uint64_t word = i < n ? random_word(key, (first + i) / 8) : 0;
    for (int j = 0; i < n; i++, j++)
        out[i] = codes[(word >> (8 * j)) & 0xff];
}

/* Four elements share a word. */
static inline float normal_at(const struct rondo_synth_tables *tables, uint64_t word,
                              uint64_t index)
{
    return tables->normal[(word >> (16 * (index & 3))) & 0xffff];
}

void rondo_synth_elements(const struct rondo_synth_tables *tables, enum rondo_synth_fill fill,
                          uint64_t key, float deviation, enum rondo_dtype dtype, uint64_t first,
                          size_t n, void *out)
{
    float factor = fill == RONDO_SYNTH_NORM ? 0.1f : deviation,
          offset = fill == RONDO_SYNTH_NORM ? 1.0f : 0.0f;
    if (fill == RONDO_SYNTH_CODES) {
        fill_codes(tables->codes, key, first, n, out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint64_t word = random_word(key, (first + i) / 4);
        float value;
        if (fill ==
            RONDO_SYNTH_SCALES) /* 0.75 to 1.25 times the mean: a scale in the wrong place shows */
            value =
                deviation / tables->code_deviation *
                (0.75f + 0.5f * (float)((word >> (16 * ((first + i) & 3))) & 0xffff) / 65536.0f);
        else
            value = offset + factor * normal_at(tables, word, first + i);
        if (dtype == RONDO_BF16)
            ((uint16_t *)out)[i] = rondo_f32_to_bf16(value);
        else
            rondo_store(out, dtype, i, value);
    }
}
