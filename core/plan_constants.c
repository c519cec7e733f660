/* Constants of a plan, in double: decays of the linear layers and RoPE frequencies (spec 3.6.1, 3.6.2, 1.3). */
#include "core/plan.h"

#include <math.h>

/* Slope of head h of n, n a power of two. */
static double slope_of_power(int32_t h, int32_t n)
{
    return exp2(-8.0 * (h + 1) / n);
}

/* Other head counts take the slopes of the power of two below, then every second one of the power above. */
static double slope(int32_t h, int32_t heads)
{
    int32_t power = 1;
    while (power * 2 <= heads)
        power *= 2;
    return h < power ? slope_of_power(h, power) : slope_of_power(2 * (h - power), 2 * power);
}

void rondo_decay_powers(const struct rondo_config *config, int32_t layer, float *decay_power)
{
    int32_t L = config->num_hidden_layers, H = config->num_attention_heads;
    double factor = 1.0 + 1e-5;
    if (L > 1)
        factor -= (double)(layer - config->decay_offset) / (L - 1);
    for (int32_t h = 0; h < H; h++) {
        for (int32_t i = 0; i <= RONDO_CHUNK; i++)
            decay_power[h * (RONDO_CHUNK + 1) + i] = (float)exp(-slope(h, H) * factor * i);
    }
}

/* Index of the pair that turns `rotations` times within the original context. */
static double yarn_correction(const struct rondo_config *config, double rotations)
{
    double L0 = config->yarn.original_max_position_embeddings;
    return config->rotary_dim * log(L0 / (rotations * 2.0 * 3.14159265358979323846)) /
           (2.0 * log(config->rope_theta));
}

void rondo_rope_frequencies(const struct rondo_config *config, double *frequency)
{
    int32_t d = config->rotary_dim;
    double low = 0, high = 0;
    if (config->yarn.enabled) {
        low = fmax(floor(yarn_correction(config, config->yarn.beta_fast)), 0);
        high = fmin(ceil(yarn_correction(config, config->yarn.beta_slow)), d - 1);
        if (high <= low)
            high = low + 0.001; /* a step instead of a ramp, without a division by zero */
    }
    for (int32_t i = 0; i < d / 2; i++) {
        frequency[i] = pow(config->rope_theta, -2.0 * i / d);
        if (config->yarn.enabled) {
            double ramp = fmin(fmax((i - low) / (high - low), 0.0), 1.0);
            frequency[i] *= (1.0 - ramp) + ramp / config->yarn.factor;
        }
    }
}
