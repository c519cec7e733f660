/* What the tests of the emulator share: checks that count, device memory with values, expected reports. */
#ifndef SIMT_TEST_H
#define SIMT_TEST_H

#include "simt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <string>
#include <vector>

static int checks, failures;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        checks++;                                                                                  \
        if (!(condition)) {                                                                        \
            failures++;                                                                            \
            printf("%s:%d: %s\n", __FILE__, __LINE__, #condition);                                 \
        }                                                                                          \
    } while (0)

static inline int finish(const char *name)
{
    printf("%s: %d checks, %d failures\n", name, checks, failures);
    return failures != 0;
}

// The launches since the last call failed with `error`, and the report contains each of `words`. Then forgets both.
static inline bool reported(cudaError_t error, std::initializer_list<const char *> words)
{
    cudaError_t got = cudaDeviceSynchronize();
    cudaError_t last = cudaGetLastError();
    std::string report = simt_last_report();
    bool ok = got == error || last == error;
    if (!ok)
        printf("got %s and %s, want %s\n", cudaGetErrorName(got), cudaGetErrorName(last),
               cudaGetErrorName(error));
    for (const char *word : words) {
        if (report.find(word) == std::string::npos) {
            printf("not in the report: \"%s\"\n", word);
            ok = false;
        }
    }
    if (!ok)
        printf("report: %s\n", report.c_str());
    simt_clear_report();
    simt_recover();
    return ok;
}

// No launch failed.
static inline bool clean()
{
    cudaError_t got = cudaDeviceSynchronize();
    cudaError_t last = cudaGetLastError();
    bool ok = !got && !last && !*simt_last_report();
    if (!ok)
        printf("%s, %s, report: %s\n", cudaGetErrorName(got), cudaGetErrorName(last),
               simt_last_report());
    simt_clear_report();
    simt_recover();
    return ok;
}

// An array in the memory of the current device.
template <class T> class Device_array
{
  public:
    explicit Device_array(size_t count_) : count(count_)
    {
        if (cudaMalloc(&pointer, count * sizeof(T))) {
            puts("out of memory");
            exit(1);
        }
    }
    explicit Device_array(const std::vector<T> &values) : Device_array(values.size())
    {
        cudaMemcpy(pointer, values.data(), count * sizeof(T), cudaMemcpyHostToDevice);
    }
    Device_array(const Device_array &) = delete;
    Device_array &operator=(const Device_array &) = delete;
    ~Device_array()
    {
        cudaFree(pointer);
    }
    std::vector<T> values() const
    {
        std::vector<T> host(count);
        cudaMemcpy(host.data(), pointer, count * sizeof(T), cudaMemcpyDeviceToHost);
        return host;
    }
    T *get() const
    {
        return pointer;
    }

  private:
    T *pointer = nullptr;
    size_t count;
};

// Values in [-1, 1) from a fixed sequence.
static inline std::vector<float> random_values(size_t count, unsigned seed)
{
    std::vector<float> values(count);
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    for (float &value : values) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        value = (float)(int32_t)(state >> 32) * 0x1p-31f;
    }
    return values;
}

#endif
