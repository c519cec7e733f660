/* Atomic operations of kernels. Blocks may run on several OS threads, so they are atomic for these too. */
#ifndef SIMT_ATOMIC_H
#define SIMT_ATOMIC_H

#include "block.h"

#include <cstring>
#include <type_traits>

namespace simt
{
namespace
{

// Replaces *address by update(*address); returns what was there.
template <class T, class Update>
SIMT_UNCHECKED inline T atomic_update(T *address, const char *what, bool reads, Here here,
                                      Update &&update)
{
    if (reads)
        note_atomic(address, sizeof(T), what, here);
    else
        note_exchange(address, sizeof(T), what, here);
    T old, wanted;
    __atomic_load(address, &old, __ATOMIC_RELAXED);
    do {
        wanted = update(old);
    } while (!__atomic_compare_exchange(address, &old, &wanted, false, __ATOMIC_ACQ_REL,
                                        __ATOMIC_RELAXED));
    return old;
}

} // namespace
} // namespace simt

#define SIMT_ATOMIC(name, reads, expression)                                                       \
    template <class T>                                                                             \
    static inline T name(T *address, std::common_type_t<T> value, simt::Here here = simt::Here())  \
    {                                                                                              \
        return simt::atomic_update(address, #name, reads, here,                                    \
                                   [value](T old) SIMT_UNCHECKED -> T { return expression; });     \
    }
SIMT_ATOMIC(atomicAdd, true, old + value)
SIMT_ATOMIC(atomicSub, true, old - value)
SIMT_ATOMIC(atomicMax, true, old < value ? value : old)
SIMT_ATOMIC(atomicMin, true, value < old ? value : old)
SIMT_ATOMIC(atomicAnd, true, old &value)
SIMT_ATOMIC(atomicOr, true, old | value)
SIMT_ATOMIC(atomicXor, true, old ^ value)
SIMT_ATOMIC(atomicExch, false, ((void)old, value))
SIMT_ATOMIC(atomicInc, true, old >= value ? 0 : old + 1)
SIMT_ATOMIC(atomicDec, true, old == 0 || old > value ? value : old - 1)
#undef SIMT_ATOMIC

template <class T>
static inline T atomicCAS(T *address, std::common_type_t<T> compare, std::common_type_t<T> value,
                          simt::Here here = simt::Here())
{
    return simt::atomic_update(address, "atomicCAS", true, here, [=](T old) SIMT_UNCHECKED -> T {
        return std::memcmp(&old, &compare, sizeof old) == 0 ? value : old;
    });
}

#define atomicAdd_block atomicAdd
#define atomicAdd_system atomicAdd

#endif
