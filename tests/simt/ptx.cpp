/* Twins of cp.async, ldmatrix and mma: see ptx.h. */
#include "ptx.h"

#include "ptx_internal.h"
#include "runtime_api.h"

#include <deque>
#include <math.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace simt
{

// ---- numbers --------------------------------------------------------------------------------------

static float bits_value(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float bf16_value(uint16_t bits)
{
    return bits_value((uint32_t)bits << 16);
}

uint16_t bf16_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (value != value)
        return 0x7fff;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

uint8_t e4m3_bits(float value)
{
    int exponent;
    float magnitude = fminf(fabsf(value), 448);
    if (value != value)
        return 0x7f;
    frexpf(magnitude, &exponent); // 2^(exponent - 1) <= magnitude
    exponent = magnitude < 0x1p-6f ? -6 : exponent - 1;
    int eighths = (int)rintf(ldexpf(magnitude, 3 - exponent)); // 16 carries into the exponent
    return (uint8_t)((signbit(value) ? 0x80 : 0) | (((exponent + 7) << 3) + eighths - 8));
}

namespace
{
struct E4m3_table {
    float value[256];
    E4m3_table()
    {
        for (int code = 0; code < 256; code++) {
            int exponent = code >> 3 & 15, mantissa = code & 7;
            float magnitude = exponent ? ldexpf(8.0f + (float)mantissa, exponent - 10)
                                       : ldexpf((float)mantissa, -9);
            if (exponent == 15 && mantissa == 7)
                magnitude = NAN;
            value[code] = code & 0x80 ? -magnitude : magnitude;
        }
    }
};
} // namespace
static const E4m3_table e4m3_table;

float e4m3_value(uint8_t code)
{
    return e4m3_table.value[code];
}

static void multiply_add_plain(float *c, const float *a, const float *b, unsigned columns,
                               unsigned depth)
{
    for (unsigned k = 0; k < depth; k++) {
        for (unsigned j = 0; j < columns; j++)
            c[j] = fmaf(a[k], b[k * columns + j], c[j]);
    }
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static void
multiply_add_avx2(float *c, const float *a, const float *b, unsigned columns, unsigned depth)
{
    for (unsigned j = 0; j < columns; j += 8) {
        __m256 sum = _mm256_loadu_ps(c + j);
        for (unsigned k = 0; k < depth; k++)
            sum = _mm256_fmadd_ps(_mm256_set1_ps(a[k]), _mm256_loadu_ps(b + k * columns + j), sum);
        _mm256_storeu_ps(c + j, sum);
    }
}
#endif

void multiply_add(float *c, const float *a, const float *b, unsigned rows, unsigned columns,
                  unsigned depth)
{
    auto row = multiply_add_plain;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        row = multiply_add_avx2;
#endif
    for (unsigned i = 0; i < rows; i++)
        row(c + i * columns, a + i * depth, b, columns, depth);
}

// ---- cp.async -------------------------------------------------------------------------------------

namespace
{
struct Copy {
    void *shared;
    const void *global;
    unsigned size;
    bool valid;
    uint64_t group;
    Async async;
};

// Of one thread of a block.
struct Copies {
    std::deque<Copy> under_way;
    uint64_t issued = 0, groups = 0;
};

struct Block_copies {
    uint64_t serial = 0;
    Copies threads[max_threads];
};
} // namespace

static Copies *copies_of(unsigned thread)
{
    static thread_local Block_copies copies;
    if (copies.serial != block_serial()) {
        copies.serial = block_serial();
        for (Copies &each : copies.threads)
            each = Copies();
    }
    return &copies.threads[thread];
}

static void do_copy(const Copy &copy)
{
    uint8_t bytes[16] = {0};
    if (copy.valid) {
        note_async_read(copy.async, copy.global, copy.size, "cp.async");
        memcpy(bytes, copy.global, copy.size);
    }
    note_async_write(copy.async, copy.shared, copy.size, "cp.async");
    memcpy(copy.shared, bytes, copy.size);
}

void copy_async(void *shared, const void *global, unsigned size, bool valid, Here here)
{
    must_have_waited("an asynchronous copy", here);
    if ((uintptr_t)shared % size || (valid && (uintptr_t)global % size))
        fail_at(here, cudaErrorMisalignedAddress, "cp.async of %u bytes from %p to %p: not aligned",
                size, global, shared);
    shared_offset(shared); // reports what is not in shared memory
    Copies *copies = copies_of(current->linear);
    copies->issued++;
    copies->under_way.push_back(
        {shared, global, size, valid, copies->groups, note_async_start(here)});
    if (!lazy())
        do_copy(copies->under_way.back());
}

static void finish_oldest(Copies *copies, const void *object)
{
    const Copy &copy = copies->under_way.front();
    if (lazy())
        do_copy(copy);
    note_async_complete(copy.async, object);
    copies->under_way.pop_front();
}

void copy_async_finish(unsigned thread, uint64_t end, const void *object)
{
    Copies *copies = copies_of(thread);
    while (!copies->under_way.empty() && copies->issued - copies->under_way.size() < end)
        finish_oldest(copies, object);
}

uint64_t copy_async_issued()
{
    return copies_of(current->linear)->issued;
}

void copy_async_commit()
{
    copies_of(current->linear)->groups++;
}

void copy_async_wait(unsigned pending, Here here)
{
    (void)here;
    Copies *copies = copies_of(current->linear);
    while (!copies->under_way.empty() && copies->under_way.front().group + pending < copies->groups)
        finish_oldest(copies, copies);
    note_acquire(copies);
}

// ---- ldmatrix -------------------------------------------------------------------------------------

static const mask_t whole_warp = 0xffffffffu;

namespace
{
struct Matrix_lane {
    const void *row;
    uint32_t *r;
};
} // namespace

void load_matrix(uint32_t *r, const void *row, unsigned matrices, bool transposed, Here here)
{
    static const Operation operations[2][5] = {
        {{""}, {"ldmatrix.x1"}, {"ldmatrix.x2"}, {""}, {"ldmatrix.x4"}},
        {{""}, {"ldmatrix.x1.trans"}, {"ldmatrix.x2.trans"}, {""}, {"ldmatrix.x4.trans"}},
    };
    const Operation &operation = operations[transposed][matrices];
    Matrix_lane mine = {row, r};
    auto leader = [&](Lanes<Matrix_lane> lanes, mask_t) {
        uint16_t m[4][8][8];
        for (unsigned i = 0; i < 8 * matrices; i++) {
            const void *from = lanes[i].row;
            if ((uintptr_t)from % 16)
                fail_at(here, cudaErrorMisalignedAddress,
                        "%s: the row of lane %u is not aligned to 16 bytes", operation.name, i);
            shared_offset(from);
            note_read(from, 16, operation.name, here);
            memcpy(m[i / 8][i % 8], from, 16);
        }
        for (unsigned lane = 0; lane < 32; lane++) {
            unsigned g = lane / 4, t = lane % 4;
            for (unsigned i = 0; i < matrices; i++) {
                uint32_t low = transposed ? m[i][2 * t][g] : m[i][g][2 * t];
                uint32_t high = transposed ? m[i][2 * t + 1][g] : m[i][g][2 * t + 1];
                lanes[lane].r[i] = low | high << 16;
            }
        }
    };
    warp_collective(whole_warp, operation, mine, leader, here);
}

// ---- mma ------------------------------------------------------------------------------------------

namespace
{
struct Product_lane {
    float *c;
    const uint32_t *a, *b;
};
} // namespace

// Element e of register r: rows g + 8 (r % 2) of A; k = per * (t + 4 (r / 2)) + e with `per` elements a register.
template <unsigned per, class Value> static void multiply(Lanes<Product_lane> lanes, Value &&value)
{
    constexpr unsigned depth = 8 * per, bits = 32 / per;
    float a[16][depth], b[depth][8], c[16][8];
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned g = lane / 4, t = lane % 4;
        for (unsigned e = 0; e < per; e++) {
            for (unsigned r = 0; r < 4; r++)
                a[g + 8 * (r % 2)][per * (t + 4 * (r / 2)) + e] =
                    value(lanes[lane].a[r] >> bits * e);
            for (unsigned r = 0; r < 2; r++)
                b[per * (t + 4 * r) + e][g] = value(lanes[lane].b[r] >> bits * e);
        }
        for (unsigned i = 0; i < 4; i++)
            c[g + 8 * (i / 2)][2 * t + i % 2] = lanes[lane].c[i];
    }
    multiply_add(c[0], a[0], b[0], 16, 8, depth);
    for (unsigned lane = 0; lane < 32; lane++) {
        for (unsigned i = 0; i < 4; i++)
            lanes[lane].c[i] = c[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
    }
}

void mma_m16n8k16_bf16(float *c, const uint32_t *a, const uint32_t *b, Here here)
{
    static const Operation operation = {"mma.m16n8k16.bf16"};
    Product_lane mine = {c, a, b};
    auto leader = [](Lanes<Product_lane> lanes, mask_t) {
        multiply<2>(lanes, [](uint32_t bits) { return bf16_value((uint16_t)bits); });
    };
    warp_collective(whole_warp, operation, mine, leader, here);
}

void mma_m16n8k32_e4m3(float *c, const uint32_t *a, const uint32_t *b, Here here)
{
    static const Operation operation = {"mma.m16n8k32.e4m3"};
    Product_lane mine = {c, a, b};
    auto leader = [](Lanes<Product_lane> lanes, mask_t) {
        multiply<4>(lanes, [](uint32_t bits) { return e4m3_value((uint8_t)bits); });
    };
    warp_collective(whole_warp, operation, mine, leader, here);
}

} // namespace simt
