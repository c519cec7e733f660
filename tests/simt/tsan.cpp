/* The functions that compilers call under -fsanitize=thread, at every load and store of a kernel. TSan's library is
 * not linked: these check the access instead (check.h). Host code that was compiled so, too, passes through. */
#include "check.h"

#include <string.h>

using namespace simt;

static inline void touch(const void *pointer, size_t size, Checker::Kind kind, size_t align,
                         const void *code)
{
    if (current)
        check_access(pointer, size, kind, align, kind == Checker::read ? "a read" : "a write",
                     {Here(nullptr, 0), (const char *)code - 1});
}

#define CODE __builtin_return_address(0)

extern "C" {

#define ACCESS(size)                                                                               \
    void __tsan_read##size(void *pointer);                                                         \
    void __tsan_write##size(void *pointer);                                                        \
    void __tsan_volatile_read##size(void *pointer);                                                \
    void __tsan_volatile_write##size(void *pointer);                                               \
    void __tsan_unaligned_read##size(void *pointer);                                               \
    void __tsan_unaligned_write##size(void *pointer);                                              \
    void __tsan_read_write##size(void *pointer);                                                   \
    void __tsan_unaligned_read_write##size(void *pointer);                                         \
    void __tsan_read##size(void *pointer)                                                          \
    {                                                                                              \
        touch(pointer, size, Checker::read, size, CODE);                                           \
    }                                                                                              \
    void __tsan_write##size(void *pointer)                                                         \
    {                                                                                              \
        touch(pointer, size, Checker::write, size, CODE);                                          \
    }                                                                                              \
    void __tsan_volatile_read##size(void *pointer)                                                 \
    {                                                                                              \
        touch(pointer, size, Checker::read, size, CODE);                                           \
    }                                                                                              \
    void __tsan_volatile_write##size(void *pointer)                                                \
    {                                                                                              \
        touch(pointer, size, Checker::write, size, CODE);                                          \
    }                                                                                              \
    void __tsan_unaligned_read##size(void *pointer)                                                \
    {                                                                                              \
        touch(pointer, size, Checker::read, 0, CODE);                                              \
    }                                                                                              \
    void __tsan_unaligned_write##size(void *pointer)                                               \
    {                                                                                              \
        touch(pointer, size, Checker::write, 0, CODE);                                             \
    }                                                                                              \
    void __tsan_read_write##size(void *pointer)                                                    \
    {                                                                                              \
        touch(pointer, size, Checker::read, size, CODE);                                           \
        touch(pointer, size, Checker::write, size, CODE);                                          \
    }                                                                                              \
    void __tsan_unaligned_read_write##size(void *pointer)                                          \
    {                                                                                              \
        touch(pointer, size, Checker::read, 0, CODE);                                              \
        touch(pointer, size, Checker::write, 0, CODE);                                             \
    }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)
#undef ACCESS

void __tsan_init(void);
void __tsan_func_entry(void *code);
void __tsan_func_exit(void);
void __tsan_read_range(void *pointer, size_t size);
void __tsan_write_range(void *pointer, size_t size);
void __tsan_vptr_read(void **pointer);
void __tsan_vptr_update(void **pointer, void *value);
void *__tsan_memcpy(void *to, const void *from, size_t size);
void *__tsan_memmove(void *to, const void *from, size_t size);
void *__tsan_memset(void *memory, int value, size_t size);

void __tsan_init(void)
{
}

void __tsan_func_entry(void *)
{
}

void __tsan_func_exit(void)
{
}

void __tsan_read_range(void *pointer, size_t size)
{
    touch(pointer, size, Checker::read, 0, CODE);
}

void __tsan_write_range(void *pointer, size_t size)
{
    touch(pointer, size, Checker::write, 0, CODE);
}

void __tsan_vptr_read(void **)
{
}

void __tsan_vptr_update(void **, void *)
{
}

void *__tsan_memcpy(void *to, const void *from, size_t size)
{
    touch(from, size, Checker::read, 0, CODE);
    touch(to, size, Checker::write, 0, CODE);
    return memcpy(to, from, size);
}

void *__tsan_memmove(void *to, const void *from, size_t size)
{
    touch(from, size, Checker::read, 0, CODE);
    touch(to, size, Checker::write, 0, CODE);
    return memmove(to, from, size);
}

void *__tsan_memset(void *memory, int value, size_t size)
{
    touch(memory, size, Checker::write, 0, CODE);
    return memset(memory, value, size);
}

// Atomic operations: atomic.h has said what they access.
#define ATOMIC(bits, type)                                                                         \
    type __tsan_atomic##bits##_load(const volatile type *p, int order);                            \
    void __tsan_atomic##bits##_store(volatile type *p, type value, int order);                     \
    type __tsan_atomic##bits##_exchange(volatile type *p, type value, int order);                  \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type *p, type *expected,            \
                                                      type value, int order, int failure);         \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile type *p, type *expected, type value,  \
                                                    int order, int failure);                       \
    type __tsan_atomic##bits##_compare_exchange_val(volatile type *p, type expected, type value,   \
                                                    int order, int failure);                       \
    type __tsan_atomic##bits##_fetch_add(volatile type *p, type value, int order);                 \
    type __tsan_atomic##bits##_fetch_sub(volatile type *p, type value, int order);                 \
    type __tsan_atomic##bits##_load(const volatile type *p, int)                                   \
    {                                                                                              \
        return __atomic_load_n(p, __ATOMIC_SEQ_CST);                                               \
    }                                                                                              \
    void __tsan_atomic##bits##_store(volatile type *p, type value, int)                            \
    {                                                                                              \
        __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                              \
    }                                                                                              \
    type __tsan_atomic##bits##_exchange(volatile type *p, type value, int)                         \
    {                                                                                              \
        return __atomic_exchange_n(p, value, __ATOMIC_SEQ_CST);                                    \
    }                                                                                              \
    int __tsan_atomic##bits##_compare_exchange_strong(volatile type *p, type *expected,            \
                                                      type value, int, int)                        \
    {                                                                                              \
        return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST,            \
                                           __ATOMIC_SEQ_CST);                                      \
    }                                                                                              \
    int __tsan_atomic##bits##_compare_exchange_weak(volatile type *p, type *expected, type value,  \
                                                    int, int)                                      \
    {                                                                                              \
        return __atomic_compare_exchange_n(p, expected, value, false, __ATOMIC_SEQ_CST,            \
                                           __ATOMIC_SEQ_CST);                                      \
    }                                                                                              \
    type __tsan_atomic##bits##_compare_exchange_val(volatile type *p, type expected, type value,   \
                                                    int, int)                                      \
    {                                                                                              \
        __atomic_compare_exchange_n(p, &expected, value, false, __ATOMIC_SEQ_CST,                  \
                                    __ATOMIC_SEQ_CST);                                             \
        return expected;                                                                           \
    }                                                                                              \
    type __tsan_atomic##bits##_fetch_add(volatile type *p, type value, int)                        \
    {                                                                                              \
        return __atomic_fetch_add(p, value, __ATOMIC_SEQ_CST);                                     \
    }                                                                                              \
    type __tsan_atomic##bits##_fetch_sub(volatile type *p, type value, int)                        \
    {                                                                                              \
        return __atomic_fetch_sub(p, value, __ATOMIC_SEQ_CST);                                     \
    }
ATOMIC(8, uint8_t)
ATOMIC(16, uint16_t)
ATOMIC(32, uint32_t)
ATOMIC(64, uint64_t)
#undef ATOMIC

void __tsan_atomic_thread_fence(int order);
void __tsan_atomic_signal_fence(int order);

void __tsan_atomic_thread_fence(int)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void __tsan_atomic_signal_fence(int)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

} // extern "C"
