/* Checks of memory accesses: bounds of shared and device memory, shared memory that was never written, and accesses
 * of different threads that nothing orders. */
#include "check.h"

#include "runtime.h"

namespace simt
{

void check_block_begins(Block *)
{
}

void check_warp_ordered(Warp *, mask_t)
{
}

void check_barrier_passed(Block *, const mask_t *, unsigned)
{
}

static void check_bounds(const void *pointer, size_t size, const char *what, Here here)
{
    if (!current)
        return;
    const Shared_memory &shared = current->block->shared;
    if (shared.contains(pointer)) {
        uint32_t offset = shared.offset(pointer);
        if (!shared.find(offset, size))
            fail_at(here, cudaErrorIllegalAddress,
                    "%s of %zu bytes of shared memory out of bounds, %s", what, size,
                    shared.describe(offset).text);
    } else if (const char *error = device_access_error(pointer, size, current_device())) {
        fail_at(here, cudaErrorIllegalAddress, "%s of %zu bytes out of bounds at %s", what, size,
                error);
    }
}

void note_read(const void *pointer, size_t size, const char *what, Here here)
{
    check_bounds(pointer, size, what, here);
}

void note_write(const void *pointer, size_t size, const char *what, Here here)
{
    check_bounds(pointer, size, what, here);
}

void note_atomic(const void *pointer, size_t size, const char *what, Here here)
{
    check_bounds(pointer, size, what, here);
}

void note_release(const void *)
{
}

void note_acquire(const void *)
{
}

Async note_async_start(Here here)
{
    Async copy = {current->linear, here, {}};
    return copy;
}

void note_async_read(const Async &copy, const void *pointer, size_t size, const char *what)
{
    check_bounds(pointer, size, what, copy.here);
}

void note_async_write(const Async &copy, const void *pointer, size_t size, const char *what)
{
    check_bounds(pointer, size, what, copy.here);
}

void note_async_complete(const Async &, const void *)
{
}

} // namespace simt
