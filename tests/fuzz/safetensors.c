/* Fuzz target: the header of a safetensors file, and the check of its tensors against a config. */
#include "core/weights.h"
#include "formats/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>

static void ignore(void *user, enum rondo_log_level level, const char *line)
{
}

/* One linear layer, with names and shapes that the corpus has. */
static const struct rondo_config config = {.vocab_size = 4,
                                           .hidden_size = 2,
                                           .num_hidden_layers = 1,
                                           .num_attention_heads = 1,
                                           .num_key_value_heads = 1,
                                           .head_dim = 2,
                                           .intermediate_size = 3,
                                           .first_k_dense_replace = 1,
                                           .layer_group_size = 2,
                                           .tie_word_embeddings = true};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rondo_error error = {0};
    struct rondo_safetensors file;
    unsigned sum = 0;
    rondo_log_set(ignore, NULL);
    if (rondo_safetensors_parse(&file, "fuzz.safetensors", data, size, &error))
        return 0;
    struct rondo_model model = {
        .config = config, .directory = (char *)"fuzz", .n_tensors = file.n_tensors};
    model.tensors = calloc(file.n_tensors + 1, sizeof *model.tensors);
    for (size_t i = 0; i < file.n_tensors; i++) {
        const struct rondo_safetensors_tensor *tensor = &file.tensors[i];
        const uint8_t *bytes = tensor->data;
        if (tensor->size)
            sum += bytes[0] + bytes[tensor->size - 1]; /* must be inside `data` */
        if (rondo_safetensors_find(&file, tensor->name) != tensor)
            abort();
        struct rondo_tensor_info *info = &model.tensors[i].info;
        *info = (struct rondo_tensor_info){.name = tensor->name,
                                           .dtype = tensor->dtype,
                                           .n_dims = tensor->n_dims,
                                           .size = tensor->size,
                                           .file = file.path};
        for (int d = 0; d < 4; d++)
            info->shape[d] = tensor->shape[d];
        model.tensors[i].data = bytes;
    }
    rondo_weights_check(&model, &error);
    free(model.tensors);
    rondo_safetensors_close(&file);
    return sum == 0xffffffffu;
}
