/* The CPU device: instruction-set levels, memory, and the op table put together from its
 * families. */
#include "backend_cpu/cpu.h"
#include "backend_cpu/gemm_internal.h"
#include "backend_cpu/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

/* ---- levels ---------------------------------------------------------------------------------- */

static const char *const level_names[] = {
    [RONDO_CPU_REF] = "ref",       [RONDO_CPU_AVX2] = "avx2",
    [RONDO_CPU_AVX512] = "avx512", [RONDO_CPU_AVX512BF16] = "avx512bf16",
    [RONDO_CPU_NEON] = "neon",
};
#define LEVELS ((int)(sizeof level_names / sizeof level_names[0]))

const char *rondo_cpu_level_name(enum rondo_cpu_level level)
{
    return level_names[level];
}

#if defined(__x86_64__)
/* Whether the processor has the level and the system saves its registers (XCR0). */
static bool x86_has_level(enum rondo_cpu_level level)
{
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx))
        return false;
    const unsigned needed = bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C;
    if ((ecx & needed) != needed)
        return false;
    unsigned state_low, state_high;
    __asm__ volatile("xgetbv" : "=a"(state_low), "=d"(state_high) : "c"(0));
    if ((state_low & 0x6) != 0x6) /* xmm, ymm */
        return false;
    if (!__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) || !(ebx & bit_AVX2))
        return false;
    if (level == RONDO_CPU_AVX2)
        return true;
    const unsigned avx512 = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL;
    if ((state_low & 0xe6) != 0xe6 /* also opmask, zmm */ || (ebx & avx512) != avx512)
        return false;
    if (level == RONDO_CPU_AVX512)
        return true;
    return (ecx & bit_AVX512VBMI) && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) &&
           (eax & bit_AVX512BF16) && rondo_gemm_has_exact_pairs();
}
#endif

bool rondo_cpu_has_level(enum rondo_cpu_level level)
{
    switch (level) {
    case RONDO_CPU_REF:
        return true;
#if defined(__x86_64__)
    case RONDO_CPU_AVX2:
    case RONDO_CPU_AVX512:
    case RONDO_CPU_AVX512BF16:
        return x86_has_level(level);
#elif defined(__aarch64__)
    case RONDO_CPU_NEON:
        return true;
#endif
    default:
        return false;
    }
}

enum rondo_cpu_level rondo_cpu_best_level(void)
{
    for (int level = LEVELS - 1; level > 0; level--)
        if (rondo_cpu_has_level((enum rondo_cpu_level)level))
            return (enum rondo_cpu_level)level;
    return RONDO_CPU_REF;
}

/* ---- memory ---------------------------------------------------------------------------------- */

#define ALIGNMENT 256
#define HUGE_PAGE ((size_t)2 << 20)

/* Stands in the ALIGNMENT bytes before a block. */
struct block {
    void *mapping; /* NULL: from aligned_alloc */
    size_t mapped;
};

/* Maps `size` bytes that begin at a huge-page boundary. */
static void *map_huge(size_t size)
{
    char *mapping = mmap(NULL, size + HUGE_PAGE, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapping == MAP_FAILED)
        return NULL;
    size_t before = (HUGE_PAGE - (uintptr_t)mapping % HUGE_PAGE) % HUGE_PAGE;
    if (before)
        munmap(mapping, before);
    if (before < HUGE_PAGE)
        munmap(mapping + before + size, HUGE_PAGE - before);
#ifdef MADV_HUGEPAGE
    madvise(mapping + before, size, MADV_HUGEPAGE); /* a hint: small pages work too */
#endif
    return mapping + before;
}

static void *cpu_allocate(struct rondo_device *device, size_t size)
{
    if (size > SIZE_MAX / 2)
        return NULL;
    size += ALIGNMENT;
    struct block block = {0};
    char *base;
    if (size >= HUGE_PAGE) {
        block.mapped = (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
        base = map_huge(block.mapped);
        block.mapping = base;
    } else {
        size = (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        base = aligned_alloc(ALIGNMENT, size);
        if (base)
            memset(base, 0, size);
    }
    if (!base)
        return NULL;
    memcpy(base, &block, sizeof block);
    return base + ALIGNMENT;
}

static void cpu_release(struct rondo_device *device, void *memory)
{
    if (!memory)
        return;
    char *base = (char *)memory - ALIGNMENT;
    struct block block;
    memcpy(&block, base, sizeof block);
    if (block.mapping)
        munmap(block.mapping, block.mapped);
    else
        free(base);
}

static void cpu_write(struct rondo_device *device, void *to, const void *from, size_t size)
{
    if (size)
        memcpy(to, from, size);
}

static uint64_t cpu_memory_available(struct rondo_device *device)
{
    return rondo_host_memory().available;
}

static void cpu_synchronize(struct rondo_device *device)
{
}

static bool cpu_uses_host_memory(struct rondo_device *device)
{
    return true;
}

static const char *cpu_supports(struct rondo_device *device, enum rondo_op op,
                                const void *arguments)
{
    return NULL; /* every slot takes all that rondo_op_check lets through */
}

static const char *cpu_fallback(struct rondo_device *device, enum rondo_op op,
                                const void *arguments)
{
    return rondo_cpu_attention_fallback(rondo_cpu(device)->level, op, arguments);
}

/* ---- workspace ------------------------------------------------------------------------------- */

typedef size_t workspace_function(const struct rondo_limits *limits, int threads);

/* One op runs at a time, so the families share one block. */
static uint64_t cpu_workspace_size(struct rondo_device *device, const struct rondo_limits *limits)
{
    static workspace_function *const families[] = {
        /* gemm */ rondo_cpu_gemm_workspace,
        /* attention */ rondo_cpu_attention_workspace,
        rondo_cpu_norm_workspace,
        rondo_cpu_moe_workspace,
        rondo_cpu_basic_workspace,
    };
    size_t largest = 0;
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        size_t size = families[i](limits, rondo_pool_threads(rondo_cpu(device)->pool));
        largest = size > largest ? size : largest;
    }
    return largest;
}

static int cpu_reserve(struct rondo_device *device, const struct rondo_limits *limits,
                       struct rondo_error *error)
{
    struct rondo_cpu_device *cpu = rondo_cpu(device);
    size_t size = cpu_workspace_size(device, limits);
    if (size <= cpu->workspace_size)
        return RONDO_OK;
    char *workspace = cpu_allocate(device, size);
    if (!workspace)
        return rondo_fail(error, RONDO_FAILED, "cpu: workspace: out of memory (want %zu bytes)",
                          size);
    cpu_release(device, cpu->workspace);
    cpu->workspace = workspace;
    cpu->workspace_size = size;
    return RONDO_OK;
}

/* ---- devices --------------------------------------------------------------------------------- */

static void cpu_close(struct rondo_device *device)
{
    struct rondo_cpu_device *cpu = rondo_cpu(device);
    cpu_release(device, cpu->workspace);
    rondo_pool_destroy(cpu->pool);
    free(cpu);
}

/* "cpu", then every level this machine has. */
static size_t cpu_list(struct rondo_device_info *devices, size_t capacity)
{
    size_t count = 0;
    struct rondo_host_memory memory = rondo_host_memory();
    for (int i = -1; i < LEVELS; i++) {
        enum rondo_cpu_level level = i < 0 ? rondo_cpu_best_level() : (enum rondo_cpu_level)i;
        if (!rondo_cpu_has_level(level))
            continue;
        if (count < capacity) {
            struct rondo_device_info *info = &devices[count];
            *info = (struct rondo_device_info){.memory_total = memory.total,
                                               .memory_available = memory.available};
            if (i < 0)
                snprintf(info->name, sizeof info->name, "cpu");
            else
                snprintf(info->name, sizeof info->name, "cpu:%s", level_names[level]);
            snprintf(info->description, sizeof info->description, "%s, %d cores",
                     level_names[level], rondo_host_cores());
        }
        count++;
    }
    return count;
}

static int find_level(const char *name, enum rondo_cpu_level *level, struct rondo_error *error)
{
    char have[64] = "";
    for (int i = 0; i < LEVELS; i++) {
        if (!rondo_cpu_has_level((enum rondo_cpu_level)i))
            continue;
        *level = (enum rondo_cpu_level)i;
        if (strcmp(name, level_names[i]) == 0)
            return RONDO_OK;
        size_t length = strlen(have);
        snprintf(have + length, sizeof have - length, "%s%s", length ? ", " : "", level_names[i]);
    }
    return rondo_fail(error, RONDO_NO_DEVICE,
                      "cpu: level: this machine does not have it (got \"%s\", want one of %s)",
                      name, have);
}

static void set_operations(struct rondo_device *device, enum rondo_cpu_level level)
{
    device->close = cpu_close;
    device->memory_available = cpu_memory_available;
    device->allocate = cpu_allocate;
    device->release = cpu_release;
    device->write = cpu_write;
    device->read = cpu_write;
    device->copy = cpu_write;
    device->synchronize = cpu_synchronize;
    device->uses_host_memory = cpu_uses_host_memory;
    device->reserve = cpu_reserve;
    device->workspace_size = cpu_workspace_size;
    device->supports = cpu_supports;
    device->fallback = cpu_fallback;
    /* gemm */ rondo_cpu_gemm_init(&device->ops, level);
    /* attention */ rondo_cpu_attention_init(&device->ops, level);
    rondo_cpu_norm_init(&device->ops, level);
    rondo_cpu_moe_init(&device->ops, level);
    rondo_cpu_basic_init(&device->ops, level);
}

static struct rondo_device *cpu_open(const char *which, const struct rondo_device_options *options,
                                     struct rondo_error *error)
{
    enum rondo_cpu_level level = rondo_cpu_best_level();
    const char *mask = options && options->cpu_mask ? options->cpu_mask : "";
    int threads = options ? options->threads : 0;
    if (*which && *mask && strcmp(which, mask) != 0) {
        rondo_fail(error, RONDO_USAGE, "cpu: level: named twice (got \"%s\" and \"%s\")", which,
                   mask);
        return NULL;
    }
    if (!*which)
        which = mask;
    if (*which && find_level(which, &level, error) != RONDO_OK)
        return NULL;
    if (threads < 0 || threads > 4096) {
        rondo_fail(error, RONDO_USAGE, "cpu: threads: out of range (got %d, want 0 to 4096)",
                   threads);
        return NULL;
    }
    if (threads == 0)
        threads = rondo_host_cores();

    struct rondo_cpu_device *cpu = calloc(1, sizeof *cpu);
    if (!cpu) {
        rondo_fail(error, RONDO_FAILED, "cpu: out of memory");
        return NULL;
    }
    cpu->base.backend = &rondo_backend_cpu;
    cpu->base.strict = options && options->strict;
    cpu->level = level;
    cpu->pool = rondo_pool_create(threads, error);
    if (!cpu->pool) {
        free(cpu);
        return NULL;
    }
    set_operations(&cpu->base, level);
    snprintf(cpu->base.description, sizeof cpu->base.description, "cpu (%s, %d thread%s)",
             level_names[level], threads, threads == 1 ? "" : "s");
    return &cpu->base;
}

const struct rondo_backend rondo_backend_cpu = {.name = "cpu", .list = cpu_list, .open = cpu_open};
