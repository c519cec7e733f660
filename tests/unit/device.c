/* Devices: listing, opening by name, errors, memory. */
#include "core/backend.h"
#include "tests/unit/test.h"

#include <stdint.h>
#include <string.h>

static void test_open(void)
{
    enum { MOST = 64 };
    struct rondo_device_info devices[MOST];
    struct rondo_error error;
    size_t n = rondo_device_list(devices, MOST);
    EXPECT(n >= 2 && n <= MOST && strcmp(devices[0].name, "cpu") == 0, "%d devices", (int)n);
    EXPECT(rondo_device_list(devices, 1) == n && rondo_device_list(NULL, 0) == n,
           "count without room");
    for (size_t i = 0; i < n; i++) {
        struct rondo_device *device = rondo_device_open(devices[i].name, NULL, &error);
        EXPECT(device, "%s", devices[i].name);
        bool host = !strncmp(devices[i].name, "cpu", 3); /* others say it when they are open */
        EXPECT(devices[i].memory_total > 0 && (devices[i].memory_available > 0) == host, "%s",
               devices[i].name);
        rondo_device_close(device);
    }
    struct rondo_device_options options = {.threads = 3, .cpu_mask = "ref"};
    struct rondo_device *device = rondo_device_open("cpu", &options, &error);
    EXPECT(device && strcmp(rondo_device_description(device), "cpu (ref, 3 threads)") == 0,
           "description");
    rondo_device_close(device);
    rondo_device_close(NULL);
}

static void expect_error(const char *name, const struct rondo_device_options *options,
                         enum rondo_status status, const char *part)
{
    struct rondo_error error = {0};
    struct rondo_device *device = rondo_device_open(name, options, &error);
    EXPECT(!device && error.status == status && strstr(error.message, part), "\"%s\": %d %s", name,
           error.status, error.message);
    rondo_device_close(device);
}

static void test_errors(void)
{
    struct rondo_device_options mask = {.cpu_mask = "ref"}, threads = {.threads = -1};
    expect_error("cpu:mmx", NULL, RONDO_NO_DEVICE, "want one of ref");
    expect_error("tpu", NULL, RONDO_NO_DEVICE, "want one of cpu, cpu:ref");
    expect_error("", NULL, RONDO_NO_DEVICE, "want one of cpu");
    expect_error("cp", NULL, RONDO_NO_DEVICE, "want one of cpu");
    expect_error("cpu:mmx", &mask, RONDO_USAGE, "named twice");
    expect_error("cpu", &threads, RONDO_USAGE, "threads");
}

static void test_memory(void)
{
    static const size_t sizes[] = {
        0, 1, 255, 4096, ((size_t)2 << 20) - 256, ((size_t)2 << 20) - 255, 5000001};
    struct rondo_device *device = rondo_device_open("cpu", NULL, NULL);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        unsigned char *memory = device->allocate(device, sizes[i]), any = 0;
        EXPECT(memory && (uintptr_t)memory % 256 == 0, "%d bytes", (int)sizes[i]);
        for (size_t j = 0; j < sizes[i]; j++)
            any |= memory[j];
        EXPECT(!any, "%d bytes are zero", (int)sizes[i]);
        memset(memory, 1, sizes[i]);
        device->release(device, memory);
    }
    EXPECT(!device->allocate(device, SIZE_MAX - 5), "more than there can be");
    device->release(device, NULL);
    rondo_device_close(device);
}

static void test_workspace(void)
{
    struct rondo_device *device = rondo_device_open("cpu", NULL, NULL);
    struct rondo_limits limits = {.tokens = 8,
                                  .experts = 64,
                                  .experts_per_token = 4,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .head_dim = 64,
                                  .max_k = 256,
                                  .max_n = 256,
                                  .context = 128,
                                  .draft = 8};
    uint64_t small = device->workspace_size(device, &limits);
    EXPECT(device->reserve(device, &limits, NULL) == RONDO_OK, "reserve");
    limits.experts = 4096;
    EXPECT(device->workspace_size(device, &limits) >= small, "workspace grows");
    EXPECT(device->reserve(device, &limits, NULL) == RONDO_OK, "reserve more");
    rondo_device_close(device);
}

int main(void)
{
    test_open();
    test_errors();
    test_memory();
    test_workspace();
    return test_result();
}
