// What the files of the layout self-test share: memory, inputs, comparing and reporting.
#ifndef RONDO_CHECK_LAYOUTS_CUH
#define RONDO_CHECK_LAYOUTS_CUH

#include "backend_cuda/kernel.cuh"
#include "tests/check/layouts.h"

#include <stdlib.h>
#include <string.h>

#include <vector>

namespace
{

// Device memory with a copy on the host.
template <class T> struct Array {
    std::vector<T> host;
    T *device = nullptr;

    explicit Array(size_t count) : host(count)
    {
        cudaMalloc(reinterpret_cast<void **>(&device), count * sizeof(T));
    }
    ~Array()
    {
        cudaFree(device);
    }
    Array(const Array &) = delete;
    Array &operator=(const Array &) = delete;
    T *up()
    {
        cudaMemcpy(device, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice);
        return device;
    }
    void down()
    {
        cudaMemcpy(host.data(), device, host.size() * sizeof(T), cudaMemcpyDeviceToHost);
    }
};

// One instruction's comparison. The report is printed when it ends.
class Instruction
{
  public:
    Instruction(FILE *to_, int *wrong_total_, const char *name_)
        : to(to_), wrong_total(wrong_total_), name(name_)
    {
    }
    // `a` and `b` say where: thread and register, row and column, ...
    void expect(const char *where, int a, int b, double got, double want)
    {
        checks++;
        if (got == want)
            return;
        if (!wrong++)
            snprintf(first, sizeof first, "%s %d, %d is %g, not %g", where, a, b, got, want);
    }
    ~Instruction()
    {
        cudaError_t error = cudaDeviceSynchronize();
        if (!error)
            error = cudaGetLastError();
        if (error)
            fprintf(to, "  %-34s FAILED: %s\n", name, cudaGetErrorString(error));
        else if (wrong)
            fprintf(to, "  %-34s WRONG: %d of %d; %s\n", name, wrong, checks, first);
        else
            fprintf(to, "  %-34s ok, %d values\n", name, checks);
        *wrong_total += error || wrong;
    }

  private:
    FILE *to;
    int *wrong_total;
    const char *name;
    int checks = 0, wrong = 0;
    char first[128];
};

// Small integers that bf16 and e4m3 hold exactly, different enough that a misplaced one shows.
inline int layout_value(int row, int column)
{
    uint32_t mixed = (uint32_t)(row * 131 + column) * 2654435761u;
    return (int)(mixed >> 28) - 8;
}

inline uint16_t layout_bf16(int value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (uint16_t)(bits >> 16);
}

// Of an integer from -16 to 16.
inline uint8_t layout_e4m3(int value)
{
    uint32_t bits;
    float f = (float)value;
    memcpy(&bits, &f, sizeof bits);
    if (!value)
        return 0;
    return (uint8_t)((bits >> 24 & 0x80) | (((bits >> 20 & 0x7ff) - (120 << 3)) & 0x7f));
}

} // namespace

#endif
