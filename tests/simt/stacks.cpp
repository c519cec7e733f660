/* Stacks for fibers: one mapping, pages that can not be accessed below each stack, handed out last in first out so that few pages are
 * ever touched. */
#include "internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace simt
{

Stack_pool::Stack_pool()
{
    void *memory = mmap(nullptr, max_threads * stack_stride, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        fputs("simt: no memory for stacks\n", stderr);
        abort();
    }
    base = (char *)memory;
    for (int i = 0; i < max_threads; i++)
        mprotect(base + (size_t)i * stack_stride, stack_guard, PROT_NONE);
    take_back_all();
}

Stack_pool::~Stack_pool()
{
    munmap(base, max_threads * stack_stride);
}

int Stack_pool::take()
{
    return free_list[--free_count];
}

void Stack_pool::give(int stack)
{
    free_list[free_count++] = stack;
}

void Stack_pool::take_back_all()
{
    free_count = max_threads;
    for (int i = 0; i < max_threads; i++)
        free_list[i] = max_threads - 1 - i;
}

char *Stack_pool::bottom(int stack) const
{
    return base + (size_t)stack * stack_stride + stack_guard;
}

bool Stack_pool::is_guard(const void *address) const
{
    size_t offset = (size_t)((const char *)address - base);
    return offset < max_threads * stack_stride && offset % stack_stride < stack_guard;
}

void *Stack_pool::prepare(int stack, void (*entry)()) const
{
    char *low = bottom(stack);
#ifdef SIMT_ASAN
    ASAN_UNPOISON_MEMORY_REGION(low, stack_size);
#endif
    // Tops at equal offsets in their pages would put all frames into the same cache sets.
    char *top = low + stack_size - 128 - (size_t)stack * 320 % 8192 / 64 * 64;
#if defined(__x86_64__)
    // As simt_switch leaves it: six registers, then the address to go on at; above, a null return address where a
    // call would have put one.
    void **pointer = (void **)(top - 8 - 7 * 8);
    for (int i = 0; i < 8; i++)
        pointer[i] = nullptr;
    pointer[6] = (void *)entry;
#else
    void **pointer = (void **)(top - 160);
    for (int i = 0; i < 20; i++)
        pointer[i] = nullptr;
    pointer[11] = (void *)entry; // x30
#endif
    return pointer;
}

} // namespace simt
