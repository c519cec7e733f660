/* The shared memory of a block: placing arrays, finding them, noticing writes past their ends. */
#include "shared.h"

#include "internal.h"
#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

namespace simt
{

Shared_memory::Shared_memory() : used(shared_base), statics(0)
{
    // Aligned to its own size, so that an offset is the low bits of an address.
    size_t length = 2 * (size_t)shared_window;
    void *memory =
        mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        fputs("simt: no memory for shared memory\n", stderr);
        abort();
    }
    uintptr_t start = (uintptr_t)memory;
    uintptr_t aligned = (start + shared_window - 1) & ~(uintptr_t)(shared_window - 1);
    if (aligned > start)
        munmap(memory, aligned - start);
    munmap((void *)(aligned + shared_window), start + length - aligned - shared_window);
    window = (char *)aligned;
    memset(window, 0xff, shared_window);
}

Shared_memory::~Shared_memory()
{
    munmap(window, shared_window);
}

void Shared_memory::begin(size_t dynamic_size, size_t static_limit_, size_t total_limit_)
{
    memset(window + shared_base, 0xff, used - shared_base);
    dynamic = dynamic_size;
    static_limit = static_limit_;
    total_limit = total_limit_;
    statics = 0;
    arrays.clear();
    arrays.push_back({nullptr, "dynamic shared memory", shared_base, (uint32_t)dynamic_size});
    used = shared_base + (uint32_t)dynamic_size + shared_gap;
}

void *Shared_memory::array(const void *key, const char *name, size_t size, size_t align)
{
    for (const Shared_array &known : arrays) {
        if (known.key == key)
            return window + known.offset;
    }
    statics += size;
    if (statics > static_limit)
        fail(cudaErrorInvalidConfiguration,
             "%zu bytes of SHARED_ARRAY with %s, more than the %zu a block may have", statics, name,
             static_limit);
    if (statics + dynamic > total_limit)
        fail(cudaErrorInvalidConfiguration,
             "%zu bytes of SHARED_ARRAY and %zu of dynamic shared memory, more than the %zu of a "
             "block",
             statics, dynamic, total_limit);
    align = align < 16 ? 16 : align;
    uint32_t offset = (used + (uint32_t)align - 1) & ~((uint32_t)align - 1);
    arrays.push_back({key, name, offset, (uint32_t)size});
    used = offset + (uint32_t)size + shared_gap;
    return window + offset;
}

const Shared_array *Shared_memory::find(uint32_t offset, size_t size) const
{
    for (const Shared_array &array : arrays) {
        if (offset >= array.offset && offset + size <= array.offset + (size_t)array.size)
            return &array;
    }
    return nullptr;
}

Shared_memory::Description Shared_memory::describe(uint32_t offset) const
{
    Description d;
    const Shared_array *before = nullptr;
    for (const Shared_array &array : arrays) {
        if (array.offset <= offset)
            before = &array;
    }
    if (!before)
        snprintf(d.text, sizeof d.text, "%u bytes before dynamic shared memory",
                 shared_base - offset);
    else if (offset < before->offset + before->size)
        snprintf(d.text, sizeof d.text, "at byte %u of %s (%u bytes)", offset - before->offset,
                 before->name, before->size);
    else
        snprintf(d.text, sizeof d.text, "%u bytes past the end of %s (%u bytes)",
                 offset - before->offset - before->size, before->name, before->size);
    return d;
}

const Shared_array *Shared_memory::overrun(uint32_t *distance) const
{
    for (size_t i = 0; i < arrays.size(); i++) {
        uint32_t from = arrays[i].offset + arrays[i].size;
        uint32_t to = i + 1 < arrays.size() ? arrays[i + 1].offset : used;
        for (uint32_t at = from; at < to; at++) {
            if ((unsigned char)window[at] != 0xff) {
                *distance = at - from;
                return &arrays[i];
            }
        }
    }
    return nullptr;
}

// ---- of the running block -------------------------------------------------------------------------

void *dynamic_shared()
{
    return current->block->shared.pointer(shared_base);
}

void *shared_array(const void *key, const char *name, size_t size, size_t align)
{
    return current->block->shared.array(key, name, size, align);
}

bool in_shared(const void *pointer)
{
    return current && current->block->shared.contains(pointer);
}

uint32_t shared_offset(const void *pointer)
{
    if (!in_shared(pointer))
        fail(cudaErrorInvalidAddressSpace, "%p is no address of shared memory", pointer);
    return current->block->shared.offset(pointer);
}

void *shared_pointer(uint32_t offset)
{
    if (offset >= shared_window)
        fail(cudaErrorInvalidAddressSpace, "%#x is no offset of shared memory", offset);
    return current->block->shared.pointer(offset);
}

} // namespace simt
