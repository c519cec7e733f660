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
SIMT_UNCHECKED inline T atomic_update(T *address, const char *what, Here here, Update &&update)
{
    note_atomic(address, sizeof(T), what, here);
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

#define SIMT_ATOMIC(name, expression)                                                              \
    template <class T>                                                                             \
    static inline T name(T *address, std::common_type_t<T> value, simt::Here here = simt::Here())  \
    {                                                                                              \
        return simt::atomic_update(address, #name, here,                                           \
                                   [value](T old) SIMT_UNCHECKED -> T { return expression; });     \
    }
SIMT_ATOMIC(atomicAdd, old + value)
SIMT_ATOMIC(atomicSub, old - value)
SIMT_ATOMIC(atomicMax, old < value ? value : old)
SIMT_ATOMIC(atomicMin, value < old ? value : old)
SIMT_ATOMIC(atomicAnd, old &value)
SIMT_ATOMIC(atomicOr, old | value)
SIMT_ATOMIC(atomicXor, old ^ value)
SIMT_ATOMIC(atomicExch, ((void)old, value))
SIMT_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
SIMT_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
#undef SIMT_ATOMIC

template <class T>
static inline T atomicCAS(T *address, std::common_type_t<T> compare, std::common_type_t<T> value,
                          simt::Here here = simt::Here())
{
    return simt::atomic_update(address, "atomicCAS", here, [=](T old) SIMT_UNCHECKED -> T {
        return std::memcmp(&old, &compare, sizeof old) == 0 ? value : old;
    });
}

#define atomicAdd_block atomicAdd
#define atomicAdd_system atomicAdd

#endif
