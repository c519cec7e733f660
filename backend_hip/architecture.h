/* Which AMD devices a build is for: what list.c and device.c of backend_cuda ask about a device. */
#ifndef RONDO_BACKEND_HIP_ARCHITECTURE_H
#define RONDO_BACKEND_HIP_ARCHITECTURE_H

#include <stdio.h>
#include <string.h>

/* No tensor core path of NVIDIA's. */
static inline int gpu_capability(const struct cudaDeviceProp *properties)
{
    (void)properties;
    return 0;
}

/* Local memory of a workgroup on all of them. */
static inline size_t gpu_shared_limit(const struct cudaDeviceProp *properties)
{
    size_t limit = properties->sharedMemPerBlock;
    return limit < 65536 ? limit : 65536;
}

#ifdef RONDO_SIMT

/* Any device will do. */
static inline const char *gpu_architecture(const struct cudaDeviceProp *properties, char text[32])
{
    (void)properties;
    snprintf(text, 32, "waves of %d", RONDO_WAVE);
    return text;
}

static inline bool gpu_usable(const struct cudaDeviceProp *properties)
{
    (void)properties;
    return true;
}

#else

/* "gfx90a", without the features that follow a colon. */
static inline const char *gpu_architecture(const struct cudaDeviceProp *properties, char text[32])
{
    snprintf(text, 32, "%.*s", (int)strcspn(properties->gcnArchName, ":"), properties->gcnArchName);
    return text;
}

/* The other build of the backend takes the devices of the other wave size. */
static inline bool gpu_usable(const struct cudaDeviceProp *properties)
{
    char text[32];
    gpu_architecture(properties, text);
    if (properties->warpSize != RONDO_WAVE)
        return false;
#if RONDO_WAVE == 64
    return !strcmp(text, "gfx90a") || !strncmp(text, "gfx94", 5);
#else
    return !strncmp(text, "gfx11", 5) || !strncmp(text, "gfx12", 5);
#endif
}

#endif

#define GPU_WANTED (RONDO_WAVE == 64 ? "gfx90a or gfx942" : "gfx11 or gfx12")

#endif
