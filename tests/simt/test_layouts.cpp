/* The self-test of instructions (tests/check/layouts*.cu) on all emulated devices, lazy and eager. */
#include "tests/check/layouts.cu"
#include "tests/check/layouts_sm90.cu"

#include "test.h"

int main()
{
    for (int lazy = 0; lazy < 2; lazy++) {
        simt_set_lazy(lazy);
        int devices = 0;
        CHECK(cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0);
        for (int i = 0; i < devices; i++)
            CHECK(GPU(layouts)(i, stdout) == 0);
    }
    return finish("layouts");
}
