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

static inline int gpu_capability(const struct cudaDeviceProp *properties)
{
    return 10 * properties->major + properties->minor;
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

#endif
#endif
