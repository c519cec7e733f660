/* What each layer of a config is. */
#include "core/rondo.h"

/* Every layer_group_size-th layer is softmax attention, and so are the layers after the last whole group
 * (spec 4). */
enum rondo_attention rondo_config_attention(const struct rondo_config *config, int32_t layer)
{
    int32_t group = config->layer_group_size;
    if (group <= 0)
        return RONDO_ATTENTION_SOFTMAX;
    if ((layer + 1) % group == 0 || layer >= config->num_hidden_layers / group * group)
        return RONDO_ATTENTION_SOFTMAX;
    return RONDO_ATTENTION_LINEAR;
}

enum rondo_ffn rondo_config_ffn(const struct rondo_config *config, int32_t layer)
{
    return layer < config->first_k_dense_replace ? RONDO_FFN_DENSE : RONDO_FFN_MOE;
}
