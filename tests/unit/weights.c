/* Weights in the memory of a device that does not use host memory in place: copies that are equal to the
 * files, and experts that stand evenly spaced, or each run of those that are stored alike. The device is a CPU
 * that was told to copy.
 *
 *     weights FIXTURES */
#include "core/weights.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

static struct rondo_device *device;
static struct rondo_error error;

static void check_spacing(const char *name, int32_t layer, const struct rondo_tensor *copies,
                          int32_t n)
{
    ptrdiff_t step = n > 1 ? (char *)copies[1].data - (char *)copies[0].data : 0;
    ptrdiff_t scale_step = n > 1 && copies[0].scale ? copies[1].scale - copies[0].scale : 0;
    for (int32_t e = 0; e < n; e++) {
        EXPECT((char *)copies[e].data == (char *)copies[0].data + e * step,
               "%s, layer %d: expert %d is not where even spacing has it", name, layer, e);
        EXPECT((uintptr_t)copies[e].data % 256 == 0, "%s, layer %d, expert %d", name, layer, e);
        EXPECT(!copies[0].scale || copies[e].scale == copies[0].scale + e * scale_step,
               "%s, layer %d: scales of expert %d", name, layer, e);
    }
}

/* Returns the runs. */
static int check_runs(const char *name, int32_t layer, const struct rondo_tensor *copies, int32_t n)
{
    int runs = 0;
    for (int32_t first = 0, end; first < n; first = end, runs++) {
        for (end = first + 1; end < n; end++)
            if (copies[end].dtype != copies[first].dtype ||
                copies[end].scale_rows != copies[first].scale_rows)
                break;
        check_spacing(name, layer, copies + first, end - first);
    }
    return runs;
}

static void check_copy(const char *name, const struct rondo_tensor *copy,
                       const struct rondo_tensor *original)
{
    size_t size = (size_t)(copy->shape[0] * copy->shape[1]) * rondo_dtype_size(copy->dtype);
    EXPECT(copy->data != original->data, "%s: %s is not a copy", name, copy->name);
    EXPECT(!memcmp(copy->data, original->data, size), "%s: %s differs", name, copy->name);
    EXPECT(!copy->scale == !original->scale, "%s: %s: scales", name, copy->name);
    int64_t rows =
        copy->scale_rows ? (copy->shape[0] + copy->scale_rows - 1) / copy->scale_rows : 0;
    if (copy->scale)
        EXPECT(!memcmp(copy->scale, original->scale,
                       (size_t)(rows * copy->scale_stride) * sizeof(float)),
               "%s: scales of %s differ", name, copy->name);
}

static void check_model(const char *root, const char *name, bool mixed)
{
    char directory[600];
    struct rondo_weights copies, originals;
    snprintf(directory, sizeof directory, "%.500s/%.63s", root, name);
    struct rondo_model *model = rondo_model_open(directory, NULL, &error);
    EXPECT(model, "%s", error.message);
    if (!model)
        return;
    bool (*in_place)(struct rondo_device *) = device->uses_host_memory;
    EXPECT(!rondo_weights_load(&originals, model, device, NULL, &error), "%s", error.message);
    device->uses_host_memory = NULL;
    EXPECT(!rondo_weights_load(&copies, model, device, NULL, &error), "%s", error.message);
    EXPECT(copies.owned_bytes == rondo_weights_device_bytes(model, false),
           "%s: took %llu bytes, announced %llu", name, (unsigned long long)copies.owned_bytes,
           (unsigned long long)rondo_weights_device_bytes(model, false));
    int32_t E = model->config.num_experts, moe_layers = 0, cut = 0; /* parts of several runs */
    int32_t alike = 0; /* parts whose shared expert goes on with the last run */
    check_copy(name, &copies.embedding, &originals.embedding);
    for (int32_t l = 0; l < model->config.num_hidden_layers; l++) {
        const struct rondo_layer_weights *a = &copies.layers[l], *b = &originals.layers[l];
        const struct rondo_tensor *of_a[3] = {a->expert_gate, a->expert_up, a->expert_down};
        const struct rondo_tensor *of_b[3] = {b->expert_gate, b->expert_up, b->expert_down};
        check_copy(name, &a->qkv, &b->qkv);
        if (rondo_config_ffn(&model->config, l) != RONDO_FFN_MOE)
            continue;
        moe_layers++;
        check_copy(name, &a->router, &b->router);
        const struct rondo_tensor *shared[3] = {&a->shared.gate, &a->shared.up, &a->shared.down};
        for (int part = 0; part < 3; part++) {
            int32_t goes_on = rondo_tensor_stored_alike(shared[part], &of_a[part][E - 1]);
            alike += goes_on;
            cut += check_runs(name, l, of_a[part], E + goes_on) > 1;
            for (int32_t e = 0; e <= E; e++)
                check_copy(name, &of_a[part][e], &of_b[part][e]);
            EXPECT(shared[part]->data == of_a[part][E].data, "%s, layer %d: shared", name, l);
        }
    }
    EXPECT(moe_layers > 0 && E > 1, "%s: no experts", name);
    EXPECT((cut > 3) == mixed, "%s: %d parts have several runs of experts", name, cut);
    int32_t want = !strcmp(name, "mixed") ? 0 : 3 * moe_layers;
    EXPECT(mixed || alike == want, "%s: %d parts of shared experts are alike", name, alike);
    rondo_weights_unload(&copies);
    device->uses_host_memory = in_place;
    rondo_weights_unload(&originals);
    rondo_model_close(model);
}

int main(int argc, char **argv)
{
    static const char *const names[] = {"base-bf16", "fp8-block", "fp8-row",
                                        "mixed",     "f16",       "random-types"};
    if (argc != 2) {
        fprintf(stderr, "usage: weights FIXTURES\n");
        return 2;
    }
    struct rondo_device_options options = {.threads = 1};
    device = rondo_device_open("cpu", &options, &error);
    for (size_t i = 0; i < sizeof names / sizeof *names && device; i++)
        check_model(argv[1], names[i], !strcmp(names[i], "random-types"));
    rondo_device_close(device);
    return test_result();
}
