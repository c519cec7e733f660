/* Twins of mbarrier, the copy engine and wgmma: see ptx_sm90.h. */
#include "ptx_sm90.h"

#include "ptx_internal.h"
#include "runtime_api.h"
#include "tensor_map.h"

#include <algorithm>
#include <deque>
#include <string.h>
#include <vector>

namespace simt
{

// ---- mbarrier -------------------------------------------------------------------------------------

namespace
{
// What the 64 bits hold.
struct Mbarrier {
    int16_t pending, arrivals; // still to come in this phase; of a phase
    int32_t bytes_and_phase;   // bytes announced and not come, and in bit 0 the parity of the phase
};
static_assert(sizeof(Mbarrier) == 8, "");

// Barriers whose init no fence has followed yet.
struct Unfenced {
    uint64_t serial = 0;
    std::vector<const Mbarrier *> barriers;
};
} // namespace

static std::vector<const Mbarrier *> &unfenced()
{
    static thread_local Unfenced state;
    if (state.serial != block_serial()) {
        state.serial = block_serial();
        state.barriers.clear();
    }
    return state.barriers;
}

static Mbarrier *barrier_at(uint64_t *barrier, Here here)
{
    if ((uintptr_t)barrier % 8)
        fail_at(here, cudaErrorMisalignedAddress, "mbarrier at %p: not aligned to 8 bytes",
                (void *)barrier);
    shared_offset(barrier);
    Mbarrier *at = reinterpret_cast<Mbarrier *>(barrier);
    if (at->arrivals <= 0 || at->pending < 0 || at->pending > at->arrivals)
        fail_at(here, cudaErrorIllegalInstruction,
                "the mbarrier is not initialised, or was overwritten");
    return at;
}

void mbarrier_init(uint64_t *barrier, int arrivals, Here here)
{
    if ((uintptr_t)barrier % 8 || arrivals < 1 || arrivals > 0x7fff)
        fail_at(here, cudaErrorIllegalInstruction, "mbarrier.init: misaligned, or %d arrivals",
                arrivals);
    note_write(barrier, 8, "mbarrier.init", here);
    Mbarrier *at = reinterpret_cast<Mbarrier *>(barrier);
    at->pending = at->arrivals = (int16_t)arrivals;
    at->bytes_and_phase = 0;
    unfenced().push_back(at);
}

void mbarrier_init_fence()
{
    unfenced().clear();
}

static void step(Mbarrier *at)
{
    if (at->pending == 0 && at->bytes_and_phase >> 1 == 0) {
        at->pending = at->arrivals;
        at->bytes_and_phase ^= 1;
        notify();
    }
}

static void arrive(Mbarrier *at, int bytes, Here here)
{
    if (at->pending == 0)
        fail_at(here, cudaErrorIllegalInstruction,
                "more arrivals at an mbarrier than the %d it was initialised for", at->arrivals);
    at->bytes_and_phase += 2 * bytes;
    at->pending--;
    step(at);
}

void mbarrier_arrive(uint64_t *barrier, int bytes, Here here)
{
    Mbarrier *at = barrier_at(barrier, here);
    note_atomic(barrier, 8, "mbarrier.arrive", here);
    note_release(barrier);
    arrive(at, bytes, here);
}

void mbarrier_wait(uint64_t *barrier, int parity, Here here)
{
    if (parity != 0 && parity != 1)
        fail_at(here, cudaErrorIllegalInstruction, "mbarrier.try_wait: parity %d", parity);
    volatile const Mbarrier *at = barrier_at(barrier, here);
    note_atomic(barrier, 8, "mbarrier.try_wait", here);
    wait_until(
        "mbarrier", [=] { return (at->bytes_and_phase & 1) != parity; }, here);
    note_acquire(barrier);
}

static void bytes_came(uint64_t *barrier, unsigned bytes, Here here)
{
    Mbarrier *at = barrier_at(barrier, here);
    at->bytes_and_phase -= 2 * (int)bytes;
    step(at);
}

static void check_usable_by_copies(uint64_t *barrier, Here here)
{
    const Mbarrier *at = barrier_at(barrier, here);
    const std::vector<const Mbarrier *> &waiting = unfenced();
    if (std::find(waiting.begin(), waiting.end(), at) != waiting.end())
        fail_at(here, cudaErrorIllegalInstruction,
                "the copy engine is given an mbarrier whose initialisation no fence has followed");
}

void copy_async_arrive(uint64_t *barrier, Here here)
{
    check_usable_by_copies(barrier, here);
    note_release(barrier);
    unsigned thread = current->linear;
    uint64_t end = copy_async_issued();
    auto work = [=] {
        copy_async_finish(thread, end, barrier);
        arrive(barrier_at(barrier, here), 0, here);
    };
    if (lazy())
        defer(work, here);
    else
        work();
}

// ---- the copy engine ------------------------------------------------------------------------------

static uint32_t swizzle_128(uint32_t offset)
{
    return offset ^ (offset >> 3 & 0x70);
}

namespace
{
struct Box {
    Tensor_map map;
    uint32_t target; // offset in shared memory
    uint64_t *barrier;
    int at[3];
    Async async;
    Here here;
};
} // namespace

// A row of the box: 16 bytes at a time, of which any number may lie outside of the tensor.
static void copy_row(const Box &box, const uint8_t *row, bool inside, uint32_t target)
{
    const Tensor_map &map = box.map;
    const int64_t width = (int64_t)map.dim[0] * map.element;
    const unsigned bytes = map.box[0] * map.element;
    for (unsigned i = 0; i < bytes; i += 16) {
        uint8_t unit[16] = {0};
        int64_t from = (int64_t)box.at[0] * map.element + i;
        int64_t first = std::max<int64_t>(from, 0), last = std::min<int64_t>(from + 16, width);
        if (inside && first < last) {
            note_async_read(box.async, row + first, (size_t)(last - first), "tensor copy");
            memcpy(unit + (first - from), row + first, (size_t)(last - first));
        }
        uint32_t to = target + i;
        void *shared =
            shared_pointer(map.swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? swizzle_128(to) : to);
        note_async_write(box.async, shared, 16, "tensor copy");
        memcpy(shared, unit, 16);
    }
}

static void copy_box(const Box &box)
{
    const Tensor_map &map = box.map;
    const unsigned rows = map.box[1], planes = map.rank == 3 ? map.box[2] : 1;
    const unsigned bytes = map.box[0] * map.element;
    for (unsigned z = 0; z < planes; z++) {
        for (unsigned y = 0; y < rows; y++) {
            int64_t row = (int64_t)box.at[1] + y,
                    plane = map.rank == 3 ? (int64_t)box.at[2] + z : 0;
            bool inside = row >= 0 && row < map.dim[1] &&
                          (map.rank == 2 || (plane >= 0 && plane < map.dim[2]));
            const uint8_t *from = map.base;
            if (inside)
                from += (uint64_t)row * map.stride[0] + (uint64_t)plane * map.stride[1];
            copy_row(box, from, inside, box.target + (z * rows + y) * bytes);
        }
    }
    note_async_complete(box.async, box.barrier);
    bytes_came(box.barrier, bytes * rows * planes, box.here);
}

void tma_load(void *shared, const CUtensorMap *map, uint64_t *barrier, unsigned rank, const int *at,
              bool early, Here here)
{
    Box box;
    if (!early)
        must_have_waited("a tensor copy", here);
    memcpy(&box.map, map, sizeof box.map);
    if (box.map.mark != tensor_map_mark || box.map.rank != rank)
        fail_at(here, cudaErrorIllegalInstruction, "not a tensor map of %u dimensions", rank);
    if (box.map.swizzle != CU_TENSOR_MAP_SWIZZLE_128B &&
        box.map.swizzle != CU_TENSOR_MAP_SWIZZLE_NONE)
        fail_at(here, cudaErrorNotSupported, "the emulator has no swizzle %u", box.map.swizzle);
    unsigned align = box.map.swizzle == CU_TENSOR_MAP_SWIZZLE_128B ? 1024 : 128;
    box.target = shared_offset(shared);
    if (box.target % align)
        fail_at(here, cudaErrorMisalignedAddress,
                "the target of a tensor copy is not aligned to %u bytes", align);
    check_usable_by_copies(barrier, here);
    box.barrier = barrier;
    for (unsigned i = 0; i < rank; i++)
        box.at[i] = at[i];
    box.async = note_async_start(here, true);
    box.here = here;
    if (lazy())
        defer([box] { copy_box(box); }, here);
    else
        copy_box(box);
}

void bulk_load(void *shared, const void *global, int bytes, uint64_t *barrier, Here here)
{
    if ((uintptr_t)shared % 16 || (uintptr_t)global % 16 || bytes % 16 || bytes <= 0)
        fail_at(here, cudaErrorMisalignedAddress, "bulk copy of %d bytes: not multiples of 16",
                bytes);
    must_have_waited("a bulk copy", here);
    shared_offset(shared);
    check_usable_by_copies(barrier, here);
    Async async = note_async_start(here, true);
    auto work = [=] {
        note_async_read(async, global, (size_t)bytes, "bulk copy");
        note_async_write(async, shared, (size_t)bytes, "bulk copy");
        memcpy(shared, global, (size_t)bytes);
        note_async_complete(async, barrier);
        bytes_came(barrier, (unsigned)bytes, here);
    };
    if (lazy())
        defer(work, here);
    else
        work();
}

void fence_async_proxy()
{
    note_proxy_fence();
}

// ---- roles ----------------------------------------------------------------------------------------

bool elect_one(Here here)
{
    static const Operation operation = {"elect.sync"};
    struct {
    } nothing;
    warp_collective(
        0xffffffffu, operation, nothing, [](auto, mask_t) {}, here);
    return current->lane == 31; // any, but always the same one; kernels must not count on lane 0
}

// ---- wgmma ----------------------------------------------------------------------------------------

namespace
{
struct Product {
    bool bf16, accumulate;
    unsigned columns;
    float *d[group_threads];
    const uint32_t *a_registers[group_threads]; // null: A is in shared memory
    uint64_t a, b;
    uint64_t group;
    Async async;
    Here here;
};

struct Product_thread {
    float *d;
    const uint32_t *a_registers;
    uint64_t a, b;
    bool accumulate;
};

// Of a warpgroup.
struct Products {
    std::deque<Product> under_way;
    uint64_t groups = 0;
    bool fenced = false;
};

struct Block_products {
    uint64_t serial = 0;
    Products groups[simt::groups];
};
struct Nothing {
};
} // namespace

static Products *products()
{
    static thread_local Block_products state;
    if (state.serial != block_serial()) {
        state.serial = block_serial();
        for (Products &each : state.groups)
            each = Products();
    }
    return &state.groups[current->linear / group_threads];
}

uint64_t wgmma_matrix(const void *shared, Here here)
{
    uint32_t offset = shared_offset(shared);
    if (offset % 1024)
        fail_at(here, cudaErrorMisalignedAddress, "a matrix of wgmma is not aligned to 1024 bytes");
    return (uint64_t)(offset >> 4) | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

void wgmma_fence(Here here)
{
    static const Operation operation = {"wgmma.fence"};
    Nothing nothing;
    group_collective(
        operation, nothing, [](Group<Nothing>) { products()->fenced = true; }, here);
}

void wgmma_commit(Here here)
{
    static const Operation operation = {"wgmma.commit_group"};
    Nothing nothing;
    group_collective(
        operation, nothing, [](Group<Nothing>) { products()->groups++; }, here);
}

// Rows of 32 bytes of k of a matrix in shared memory.
static void read_matrix(const Product &product, uint64_t descriptor, unsigned rows, float *values)
{
    const uint32_t start = (uint32_t)(descriptor & 0x3fff) << 4;
    const uint32_t stride = (uint32_t)(descriptor >> 32 & 0x3fff) << 4;
    if (descriptor >> 62 != 1 || descriptor >> 49 & 7 || start & 0x380)
        fail_at(
            product.here, cudaErrorNotSupported,
            "the emulator has matrices of wgmma in 128-byte swizzle, aligned to 1024 bytes, alone");
    for (unsigned row = 0; row < rows; row++) {
        uint32_t offset = start + row / 8 * stride + row % 8 * 128;
        uint8_t bytes[32];
        for (unsigned i = 0; i < 32; i += 16) {
            const void *unit = shared_pointer(swizzle_128(offset + i));
            note_async_read(product.async, unit, 16, "wgmma");
            memcpy(bytes + i, unit, 16);
        }
        for (unsigned i = 0; i < 32 && !product.bf16; i++)
            *values++ = e4m3_value(bytes[i]);
        for (unsigned i = 0; i < 32 && product.bf16; i += 2)
            *values++ = bf16_value((uint16_t)(bytes[i] | bytes[i + 1] << 8));
    }
}

static void read_registers(const Product &product, float *values)
{
    for (unsigned thread = 0; thread < group_threads; thread++) {
        unsigned warp = thread / 32, g = thread % 32 / 4, t = thread % 4;
        for (unsigned e = 0; e < 8; e++) {
            unsigned row = 16 * warp + g + 8 * (e / 2 % 2), k = 2 * t + e % 2 + 8 * (e / 4);
            uint32_t bits = product.a_registers[thread][e / 2] >> 16 * (e % 2);
            values[row * 16 + k] = bf16_value((uint16_t)bits);
        }
    }
}

static void do_product(const Product &product)
{
    enum { rows = 64, most_columns = 256, most_depth = 32 };
    static thread_local float a[rows * most_depth], b[most_columns * most_depth];
    static thread_local float by_k[most_depth * most_columns], c[rows * most_columns];
    const unsigned columns = product.columns, depth = product.bf16 ? 16 : 32;
    if (product.a_registers[0])
        read_registers(product, a);
    else
        read_matrix(product, product.a, rows, a);
    read_matrix(product, product.b, columns, b);
    for (unsigned k = 0; k < depth; k++) {
        for (unsigned j = 0; j < columns; j++)
            by_k[k * columns + j] = b[j * depth + k];
    }
    auto each = [&](auto &&f) {
        for (unsigned thread = 0; thread < group_threads; thread++) {
            unsigned warp = thread / 32, g = thread % 32 / 4, t = thread % 4;
            for (unsigned i = 0; i < columns / 2; i++)
                f(c[(16 * warp + g + 8 * (i / 2 % 2)) * columns + 8 * (i / 4) + 2 * t + i % 2],
                  product.d[thread][i]);
        }
    };
    each([&](float &sum, float &d) { sum = product.accumulate ? d : 0; });
    multiply_add(c, a, by_k, rows, columns, depth);
    each([&](float &sum, float &d) { d = sum; });
}

void wgmma_wait(unsigned pending, Here here)
{
    static const Operation operation = {"wgmma.wait_group"};
    Nothing nothing;
    auto leader = [&](Group<Nothing>) {
        Products *mine = products();
        while (!mine->under_way.empty() && mine->under_way.front().group + pending < mine->groups) {
            if (lazy())
                do_product(mine->under_way.front());
            note_async_complete(mine->under_way.front().async, mine);
            mine->under_way.pop_front();
        }
        mine->fenced = false;
    };
    group_collective(operation, nothing, leader, here);
    note_acquire(products());
}

void wgmma(bool bf16, unsigned columns, float *d, const uint32_t *a_registers, uint64_t a,
           uint64_t b, bool accumulate, Here here)
{
    static const Operation e4m3 = {"wgmma.e4m3"}, bf16_matrix = {"wgmma.bf16"},
                           bf16_registers = {"wgmma.bf16 with A in registers"};
    Product_thread mine = {d, a_registers, a, b, accumulate};
    auto leader = [&](Group<Product_thread> threads) {
        Products *state = products();
        if (!state->fenced)
            fail_at(here, cudaErrorIllegalInstruction,
                    "wgmma without a wgmma.fence since the last wait");
        state->under_way.push_back({bf16,
                                    accumulate,
                                    columns,
                                    {},
                                    {},
                                    a,
                                    b,
                                    state->groups,
                                    note_async_start(here, true),
                                    here});
        Product &product = state->under_way.back();
        for (unsigned i = 0; i < group_threads; i++) {
            const Product_thread &thread = threads[i];
            if (thread.a != a || thread.b != b || thread.accumulate != accumulate)
                fail_at(here, cudaErrorIllegalInstruction, "descriptors differ inside a warpgroup");
            product.d[i] = thread.d;
            product.a_registers[i] = thread.a_registers;
        }
        if (!lazy())
            do_product(product);
    };
    group_collective(!bf16 ? e4m3 : a_registers ? bf16_registers : bf16_matrix, mine, leader, here);
}

} // namespace simt
