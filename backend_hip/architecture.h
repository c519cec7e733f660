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

#ifdef RONDO_HIP_NVIDIA /* see backend_hip/nvidia */

#define GPU_API "CUDA"
#define GPU_VISIBLE "CUDA_VISIBLE_DEVICES"
#define GPU_OPTION "gpu_arch"
#define GPU_WANTED "sm_80 or newer"

static inline const char *gpu_version(int version, char text[16])
{
    snprintf(text, 16, "%d.%d", version / 1000, version % 1000 / 10);
    return text;
}

static inline size_t gpu_shared_limit(const struct cudaDeviceProp *properties)
{
    return properties->sharedMemPerBlockOptin < 65536 ? properties->sharedMemPerBlockOptin : 65536;
}

static inline const char *gpu_architecture(const struct cudaDeviceProp *properties, char text[32])
{
    snprintf(text, 32, "sm_%d for HIP", 10 * properties->major + properties->minor);
    return text;
}

/* Like gfx1201, whatever the device: its products are made of shuffles. */
static inline enum gpu_fp8 gpu_fp8(const struct cudaDeviceProp *properties)
{
    (void)properties;
    return GPU_FP8_OCP;
}

static inline bool gpu_usable(const struct cudaDeviceProp *properties)
{
    return properties->major >= 8;
}

#else

/* Words of messages: the interface, the variable that hides devices, the options of the build. */
#define GPU_API "HIP"
#define GPU_VISIBLE "HIP_VISIBLE_DEVICES"
#if RONDO_WAVE == 64
#define GPU_OPTION "hip_arch_wave64"
#else
#define GPU_OPTION "hip_arch_wave32"
#endif
#if defined(RONDO_HIP_BOTH_WAVES)
#define GPU_WANTED "gfx90a, gfx942, gfx11 or gfx12"
#elif RONDO_WAVE == 64
#define GPU_WANTED "gfx90a or gfx942"
#else
#define GPU_WANTED "gfx11 or gfx12"
#endif

/* "5.2" of the driver's and the runtime's numbers, 50200000 and what counts builds. The emulator counts as CUDA. */
static inline const char *gpu_version(int version, char text[16])
{
#ifdef RONDO_SIMT
    snprintf(text, 16, "%d.%d", version / 1000, version % 1000 / 10);
#else
    snprintf(text, 16, "%d.%d", version / 10000000, version / 100000 % 100);
#endif
    return text;
}

/* Local memory of a workgroup on all of them, whose properties may count it otherwise. */
static inline size_t gpu_shared_limit(const struct cudaDeviceProp *properties)
{
    (void)properties;
    return 65536;
}

#ifdef RONDO_SIMT

/* Any device will do: those that are sm_89 elsewhere stand for gfx942 and gfx1201, the others for gfx90a and gfx1100. */
static inline enum gpu_fp8 gpu_fp8(const struct cudaDeviceProp *properties)
{
    return properties->minor != 9 ? GPU_FP8_NONE : RONDO_WAVE == 64 ? GPU_FP8_FNUZ : GPU_FP8_OCP;
}

static inline const char *gpu_architecture(const struct cudaDeviceProp *properties, char text[32])
{
    snprintf(text, 32, "waves of %d%s", RONDO_WAVE,
             gpu_fp8(properties) == GPU_FP8_NONE ? "" : " with FP8");
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

static inline enum gpu_fp8 gpu_fp8(const struct cudaDeviceProp *properties)
{
    char text[32];
    gpu_architecture(properties, text);
    return !strncmp(text, "gfx94", 5) ? GPU_FP8_FNUZ
           : !strncmp(text, "gfx12", 5) ? GPU_FP8_OCP
                                        : GPU_FP8_NONE;
}

/* Whether kernels for waves of so many lanes are for such a device. */
static inline bool gpu_takes_wave(const struct cudaDeviceProp *properties, int wave)
{
    char text[32];
    gpu_architecture(properties, text);
    if (properties->warpSize != wave)
        return false;
    return wave == 64 ? !strcmp(text, "gfx90a") || !strncmp(text, "gfx94", 5)
                      : !strncmp(text, "gfx11", 5) || !strncmp(text, "gfx12", 5);
}

static inline bool gpu_usable(const struct cudaDeviceProp *properties)
{
    return gpu_takes_wave(properties, RONDO_WAVE);
}

#ifdef RONDO_HIP_BOTH_WAVES
static inline bool gpu_is_others(const struct cudaDeviceProp *properties)
{
    return gpu_takes_wave(properties, 96 - RONDO_WAVE);
}
#endif

#endif

#endif

#ifndef RONDO_HIP_BOTH_WAVES
static inline bool gpu_is_others(const struct cudaDeviceProp *properties)
{
    (void)properties;
    return false;
}
#endif

#endif
