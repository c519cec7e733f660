/* The self-test of instructions: fragments, swizzles, descriptors, zero fill and barriers of backend_cuda/ptx*.cuh
 * and tile.cuh against the layouts of the PTX manual, on a device. What runs first on new hardware, and says
 * whether the emulator's idea of it is right. */
#ifndef RONDO_CHECK_LAYOUTS_H
#define RONDO_CHECK_LAYOUTS_H

#include "backend_cuda/gpu.h"

#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Prints a line for each instruction; returns how many are not as expected. Device failures count as one. */
int GPU(layouts)(int ordinal, FILE *to);
/* Those of ptx_sm90.cuh: layouts calls it on such devices. */
int GPU(layouts_sm90)(int ordinal, FILE *to);

#ifdef __cplusplus
}
#endif

#endif
