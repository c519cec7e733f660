/* The functions that compilers call under -fsanitize=bounds and others of its kind where a kernel does what has no
 * defined result: as in tsan.cpp, the sanitizer's library is not linked, and these report it as the emulator does. */
#include "internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

using namespace simt;

namespace
{

// What compilers lay out: see compiler-rt/lib/ubsan/ubsan_value.h and ubsan_handlers.h of LLVM, which gcc follows.
struct Location {
    const char *file;
    uint32_t line, column;
};
struct Type {
    uint16_t kind; // 0: integer
    uint16_t info; // of integers: bit 0 signed, above it the logarithm of the bits
    char name[1];
};
struct Binary {
    Location at;
    const Type *type;
};
struct Index {
    Location at;
    const Type *array, *index;
};
struct Shift {
    Location at;
    const Type *left, *right;
};
struct Conversion {
    Location at;
    const Type *from, *to;
};

struct Text {
    char text[32];
};

// An integer of up to 64 bits; wider ones are addresses.
Text number(const Type *type, uintptr_t value)
{
    Text t;
    const unsigned bits = type->kind ? 0 : 1u << (type->info >> 1);
    if (!bits || bits > 64)
        snprintf(t.text, sizeof t.text, "a value");
    else if (type->info & 1)
        snprintf(t.text, sizeof t.text, "%" PRId64,
                 (int64_t)((uint64_t)value << (64 - bits)) >> (64 - bits));
    else
        snprintf(t.text, sizeof t.text, "%" PRIu64, (uint64_t)value);
    return t;
}

Here here_of(const Location &at)
{
    return Here(at.file ? at.file : "", (int)at.line);
}

[[noreturn]] void overflow(const void *data, uintptr_t a, const char *operation, uintptr_t b)
{
    const Binary *binary = (const Binary *)data;
    fail_at(here_of(binary->at), cudaErrorLaunchFailure, "%s %s %s is more than %s holds",
            number(binary->type, a).text, operation, number(binary->type, b).text,
            binary->type->name);
}

} // namespace

extern "C" {

void __ubsan_handle_out_of_bounds(void *data, uintptr_t index);
void __ubsan_handle_shift_out_of_bounds(void *data, uintptr_t left, uintptr_t right);
void __ubsan_handle_add_overflow(void *data, uintptr_t a, uintptr_t b);
void __ubsan_handle_sub_overflow(void *data, uintptr_t a, uintptr_t b);
void __ubsan_handle_mul_overflow(void *data, uintptr_t a, uintptr_t b);
void __ubsan_handle_negate_overflow(void *data, uintptr_t a);
void __ubsan_handle_divrem_overflow(void *data, uintptr_t a, uintptr_t b);
void __ubsan_handle_float_cast_overflow(void *data, uintptr_t value);
void __ubsan_handle_load_invalid_value(void *data, uintptr_t value);

void __ubsan_handle_out_of_bounds(void *data, uintptr_t index)
{
    const Index *access = (const Index *)data;
    fail_at(here_of(access->at), cudaErrorIllegalAddress, "index %s of an array of type %s",
            number(access->index, index).text, access->array->name);
}

void __ubsan_handle_shift_out_of_bounds(void *data, uintptr_t left, uintptr_t right)
{
    const Shift *shift = (const Shift *)data;
    fail_at(here_of(shift->at), cudaErrorLaunchFailure, "%s of type %s shifted by %s",
            number(shift->left, left).text, shift->left->name, number(shift->right, right).text);
}

void __ubsan_handle_add_overflow(void *data, uintptr_t a, uintptr_t b)
{
    overflow(data, a, "+", b);
}

void __ubsan_handle_sub_overflow(void *data, uintptr_t a, uintptr_t b)
{
    overflow(data, a, "-", b);
}

void __ubsan_handle_mul_overflow(void *data, uintptr_t a, uintptr_t b)
{
    overflow(data, a, "*", b);
}

void __ubsan_handle_negate_overflow(void *data, uintptr_t a)
{
    overflow(data, 0, "-", a);
}

void __ubsan_handle_divrem_overflow(void *data, uintptr_t a, uintptr_t b)
{
    const Binary *binary = (const Binary *)data;
    fail_at(here_of(binary->at), cudaErrorLaunchFailure, "%s divided by %s",
            number(binary->type, a).text, number(binary->type, b).text);
}

void __ubsan_handle_float_cast_overflow(void *data, uintptr_t)
{
    const Conversion *conversion = (const Conversion *)data;
    fail_at(here_of(conversion->at), cudaErrorLaunchFailure,
            "a value of type %s that %s does not hold", conversion->from->name,
            conversion->to->name);
}

void __ubsan_handle_load_invalid_value(void *data, uintptr_t value)
{
    const Binary *load = (const Binary *)data;
    fail_at(here_of(load->at), cudaErrorLaunchFailure, "%s read as %s",
            number(load->type, value).text, load->type->name);
}

} // extern "C"
