/* Which devices a build is for. AMD builds take backend_hip/architecture.h. */
#ifndef RONDO_BACKEND_CUDA_ARCHITECTURE_H
#define RONDO_BACKEND_CUDA_ARCHITECTURE_H

#ifdef RONDO_HIP
#include "backend_hip/architecture.h"
#else

#include <stdio.h>

/* Oldest devices that can be used: bf16 mma and cp.async. */
#define GPU_MIN_CAPABILITY 80
#define GPU_WANTED "sm_80 or newer"
/* Words of messages: the interface, the variable that hides devices, the option of the build. */
#define GPU_API "CUDA"
#define GPU_VISIBLE "CUDA_VISIBLE_DEVICES"
#define GPU_OPTION "gpu_arch"

/* "13.0" of the driver's and the runtime's numbers, 13000. */
static inline const char *gpu_version(int version, char text[16])
{
    snprintf(text, 16, "%d.%d", version / 1000, version % 1000 / 10);
    return text;
}

static inline int gpu_capability(const struct cudaDeviceProp *properties)
{
    return 10 * properties->major + properties->minor;
}

/* mma e4m3; sm_90 has wgmma for it too. */
static inline enum gpu_fp8 gpu_fp8(const struct cudaDeviceProp *properties)
{
    return gpu_capability(properties) >= 89 ? GPU_FP8_OCP : GPU_FP8_NONE;
}

static inline size_t gpu_shared_limit(const struct cudaDeviceProp *properties)
{
    return properties->sharedMemPerBlockOptin;
}

static inline const char *gpu_architecture(const struct cudaDeviceProp *properties, char text[32])
{
    snprintf(text, 32, "sm_%d", gpu_capability(properties));
    return text;
}

static inline bool gpu_usable(const struct cudaDeviceProp *properties)
{
    return gpu_capability(properties) >= GPU_MIN_CAPABILITY;
}

/* A device that another backend of the same name takes: nothing to explain. */
static inline bool gpu_is_others(const struct cudaDeviceProp *properties)
{
    (void)properties;
    return false;
}

#endif
#endif
