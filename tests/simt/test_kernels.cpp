/* Correct kernels give correct results: reductions, tiles in shared memory, warps, atomics, ragged blocks, early
 * exits, named barriers. */
#include <cuda_runtime.h>

#include "test.h"

#include <math.h>

#include <algorithm>
#include <numeric>

namespace
{

// One block a row: sum of squares through shuffles and shared memory.
__global__ void __launch_bounds__(256)
    rmsnorm(const float *__restrict__ x, float *__restrict__ y, int n)
{
    SHARED_ARRAY(float, partial, 32);
    const float *row = x + (size_t)blockIdx.x * n;
    const int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    float sum = 0;
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        sum += row[i] * row[i];
    for (int mask = WARP_SIZE / 2; mask; mask /= 2)
        sum += WARP_XOR(sum, mask);
    if (lane == 0)
        partial[warp] = sum;
    __syncthreads();
    if (warp == 0) {
        sum = lane < (int)blockDim.x / WARP_SIZE ? partial[lane] : 0;
        for (int mask = WARP_SIZE / 2; mask; mask /= 2)
            sum += WARP_XOR(sum, mask);
        if (lane == 0)
            partial[0] = sum;
    }
    __syncthreads();
    const float scale = rsqrtf(partial[0] / n + 1e-6f);
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        y[(size_t)blockIdx.x * n + i] = row[i] * scale;
}

void test_rmsnorm()
{
    const int rows = 5, n = 700;
    std::vector<float> x = random_values(rows * n, 1);
    Device_array<float> in(x), out(rows * n);
    LAUNCH(rmsnorm, rows, 256, 0, 0, in.get(), out.get(), n);
    CHECK(clean());
    std::vector<float> y = out.values();
    for (int r = 0; r < rows; r++) {
        double sum = 0, worst = 0;
        for (int i = 0; i < n; i++)
            sum += (double)x[r * n + i] * x[r * n + i];
        for (int i = 0; i < n; i++)
            worst = fmax(worst, fabs(y[r * n + i] - x[r * n + i] / sqrt(sum / n + 1e-6)));
        CHECK(worst < 1e-5);
    }
}

// C = A B^T by tiles, edges predicated.
template <int TILE>
__global__ void gemm(const float *a, const float *b, float *c, int m, int n, int k)
{
    SHARED_ARRAY(float, tile_a, TILE *TILE);
    SHARED_ARRAY(float, tile_b, TILE *(TILE + 1));
    const int row = blockIdx.y * TILE + threadIdx.y, column = blockIdx.x * TILE + threadIdx.x;
    const int other = blockIdx.x * TILE + threadIdx.y;
    float sum = 0;
    for (int k0 = 0; k0 < k; k0 += TILE) {
        const int at = k0 + threadIdx.x;
        tile_a[threadIdx.y * TILE + threadIdx.x] = row < m && at < k ? a[row * k + at] : 0;
        tile_b[threadIdx.y * (TILE + 1) + threadIdx.x] =
            other < n && at < k ? b[other * k + at] : 0;
        __syncthreads();
        for (int i = 0; i < TILE; i++)
            sum += tile_a[threadIdx.y * TILE + i] * tile_b[threadIdx.x * (TILE + 1) + i];
        __syncthreads();
    }
    if (row < m && column < n)
        c[row * n + column] = sum;
}

void test_gemm()
{
    const int m = 33, n = 50, k = 70;
    std::vector<float> a = random_values(m * k, 2), b = random_values(n * k, 3);
    Device_array<float> da(a), db(b), dc(m * n);
    LAUNCH((gemm<16>), dim3((n + 15) / 16, (m + 15) / 16), dim3(16, 16), 0, 0, da.get(), db.get(),
           dc.get(), m, n, k);
    CHECK(clean());
    std::vector<float> c = dc.values();
    double worst = 0;
    for (int i = 0; i < m; i++) {
        for (int j = 0; j < n; j++) {
            double sum = 0;
            for (int l = 0; l < k; l++)
                sum += (double)a[i * k + l] * b[j * k + l];
            worst = fmax(worst, fabs(sum - c[i * n + j]));
        }
    }
    CHECK(worst < 1e-4);
}

// One warp a row, the row in dynamic shared memory; surplus warps leave at once.
__global__ void softmax(const float *x, float *y, int rows, int n)
{
    DYN_SHARED(float, shared);
    const int warp = threadIdx.x / WARP_SIZE, lane = threadIdx.x % WARP_SIZE;
    const int row = blockIdx.x * (blockDim.x / WARP_SIZE) + warp;
    if (row >= rows)
        return;
    float *mine = shared + warp * n, largest = -INFINITY, sum = 0;
    for (int i = lane; i < n; i += WARP_SIZE) {
        mine[i] = x[row * n + i];
        largest = fmaxf(largest, mine[i]);
    }
    for (int mask = WARP_SIZE / 2; mask; mask /= 2)
        largest = fmaxf(largest, WARP_XOR(largest, mask));
    for (int i = lane; i < n; i += WARP_SIZE)
        sum += mine[i] = __expf(mine[i] - largest);
    for (int mask = WARP_SIZE / 2; mask; mask /= 2)
        sum += WARP_XOR(sum, mask);
    sum = WARP_READ(sum, 0);
    for (int i = lane; i < n; i += WARP_SIZE)
        y[row * n + i] = mine[i] / sum;
}

void test_softmax()
{
    const int rows = 7, n = 100, warps = 4;
    std::vector<float> x = random_values(rows * n, 4);
    Device_array<float> in(x), out(rows * n);
    LAUNCH(softmax, (rows + warps - 1) / warps, warps * WARP_SIZE, warps * n * sizeof(float), 0,
           in.get(), out.get(), rows, n);
    CHECK(clean());
    std::vector<float> y = out.values();
    double worst = 0;
    for (int r = 0; r < rows; r++) {
        double sum = 0;
        for (int i = 0; i < n; i++)
            sum += exp(x[r * n + i]);
        for (int i = 0; i < n; i++)
            worst = fmax(worst, fabs(y[r * n + i] - exp(x[r * n + i]) / sum));
    }
    CHECK(worst < 1e-6);
}

__global__ void histogram(const int *x, int n, unsigned *bins)
{
    SHARED_ARRAY(unsigned, local, 64);
    if (threadIdx.x < 64)
        local[threadIdx.x] = 0;
    __syncthreads();
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x)
        atomicAdd(&local[x[i] & 63], 1u);
    __syncthreads();
    if (threadIdx.x < 64)
        atomicAdd(&bins[threadIdx.x], local[threadIdx.x]);
}

void test_histogram()
{
    const int n = 5000;
    std::vector<int> x(n);
    std::vector<unsigned> expected(64), zero(64);
    for (int i = 0; i < n; i++) {
        x[i] = (int)((unsigned)i * 2654435761u >> 8);
        expected[x[i] & 63]++;
    }
    Device_array<int> in(x);
    for (int os_threads = 1; os_threads <= 2; os_threads++) {
        Device_array<unsigned> bins(zero);
        simt_set_os_threads(os_threads);
        LAUNCH(histogram, 6, 128, 0, 0, in.get(), n, bins.get());
        CHECK(clean());
        CHECK(bins.values() == expected);
    }
    simt_set_os_threads(1);
}

// The last warp is a part of one, and half of the threads return before the barrier.
__global__ void ragged(int *out)
{
    SHARED_ARRAY(int, sum, 1);
    if (threadIdx.x == 0)
        sum[0] = 0;
    __syncthreads();
    if (threadIdx.x % 2)
        return;
    atomicAdd(&sum[0], (int)threadIdx.x);
    __syncthreads();
    out[threadIdx.x] = sum[0];
}

void test_ragged()
{
    const int threads = WARP_SIZE + 13;
    Device_array<int> out(threads);
    LAUNCH(ragged, 1, threads, 0, 0, out.get());
    CHECK(clean());
    std::vector<int> got = out.values();
    int expected = 0;
    for (int i = 0; i < threads; i += 2)
        expected += i;
    for (int i = 0; i < threads; i++)
        CHECK(got[i] == (i % 2 ? -1 : expected));
}

__global__ void warp_operations(uint64_t *out)
{
    const unsigned lane = threadIdx.x % WARP_SIZE;
    uint64_t *mine = out + threadIdx.x * 8;
    mine[0] = __shfl_up_sync(simt::all_lanes, lane, 1);
    mine[1] = __shfl_down_sync(simt::all_lanes, lane, 2, 8);
    mine[2] = __shfl_sync(simt::all_lanes, (double)lane, 5, 16) == (lane & ~15u) + 5;
    mine[3] = __ballot_sync(simt::all_lanes, lane % 3 == 0);
    mine[4] = __any_sync(simt::all_lanes, lane == 7) && !__any_sync(simt::all_lanes, lane == 99);
    mine[5] = __all_sync(simt::all_lanes, lane < 64) && !__all_sync(simt::all_lanes, lane < 7);
    mine[6] = __reduce_add_sync(simt::all_lanes, lane) +
              __reduce_max_sync(simt::all_lanes, (int)lane - 100);
    // Two halves at different places at the same time.
    const simt::mask_t low = ((simt::mask_t)1 << WARP_SIZE / 2) - 1;
    if (lane < WARP_SIZE / 2)
        mine[7] = __shfl_xor_sync(low, lane, 1);
    else
        mine[7] = __match_any_sync(~low, lane % 2);
}

void test_warp_operations()
{
    Device_array<uint64_t> out(2 * WARP_SIZE * 8);
    LAUNCH(warp_operations, 1, 2 * WARP_SIZE, 0, 0, out.get());
    CHECK(clean());
    std::vector<uint64_t> got = out.values();
    uint64_t votes = 0, odd = 0, high = WARP_SIZE == 64 ? 0xffffffff00000000u : 0xffff0000u;
    for (unsigned lane = 0; lane < WARP_SIZE; lane += 3)
        votes |= (uint64_t)1 << lane;
    for (unsigned lane = 1; lane < WARP_SIZE; lane += 2)
        odd |= (uint64_t)1 << lane;
    for (unsigned i = 0; i < 2 * WARP_SIZE; i++) {
        const uint64_t *mine = &got[i * 8];
        unsigned lane = i % WARP_SIZE;
        CHECK(mine[0] == (lane ? lane - 1 : 0));
        CHECK(mine[1] == (lane % 8 < 6 ? lane + 2 : lane));
        CHECK(mine[2] && mine[4] && mine[5]);
        CHECK(mine[3] == votes);
        CHECK((uint32_t)mine[6] ==
              WARP_SIZE * (WARP_SIZE - 1) / 2 + (uint32_t)(WARP_SIZE - 1 - 100));
        CHECK(mine[7] == (lane < WARP_SIZE / 2 ? lane ^ 1 : high & (lane % 2 ? odd : ~odd)));
    }
}

// Producer and consumer warps with two buffers, full and empty barriers: bar.arrive and bar.sync.
__global__ void pipeline(int *out, int rounds)
{
    SHARED_ARRAY(int, buffer, 2 * WARP_SIZE);
    const unsigned lane = threadIdx.x % WARP_SIZE, both = 2 * WARP_SIZE;
    if (threadIdx.x < WARP_SIZE) {
        for (int i = 0; i < rounds; i++) {
            if (i >= 2)
                simt::barrier(3 + i % 2, both);
            buffer[i % 2 * WARP_SIZE + lane] = i * 100 + lane;
            simt::barrier_arrive(1 + i % 2, both);
        }
    } else {
        int sum = 0;
        for (int i = 0; i < rounds; i++) {
            simt::barrier(1 + i % 2, both);
            sum += buffer[i % 2 * WARP_SIZE + (lane + 1) % WARP_SIZE];
            if (i + 2 < rounds)
                simt::barrier_arrive(3 + i % 2, both);
        }
        out[lane] = sum;
    }
}

void test_pipeline()
{
    const int rounds = 9;
    Device_array<int> out(WARP_SIZE);
    LAUNCH(pipeline, 1, 2 * WARP_SIZE, 0, 0, out.get(), rounds);
    CHECK(clean());
    std::vector<int> got = out.values();
    for (int lane = 0; lane < WARP_SIZE; lane++)
        CHECK(got[lane] == 100 * rounds * (rounds - 1) / 2 + rounds * ((lane + 1) % WARP_SIZE));
}

__global__ void block_votes(int *out)
{
    const int odd = threadIdx.x % 2, none = 0;
    const int count = __syncthreads_count(odd), any = __syncthreads_or(none),
              all = __syncthreads_and(odd || !odd);
    out[threadIdx.x] = count * 4 + any * 2 + all;
}

void test_block_votes()
{
    Device_array<int> out(100);
    LAUNCH(block_votes, 1, 100, 0, 0, out.get());
    CHECK(clean());
    for (int value : out.values())
        CHECK(value == 50 * 4 + 1);
}

// Another warp changes what this one waits for; a deferred copy comes last.
__global__ void waiting(int *out)
{
    SHARED_ARRAY(int, flags, 2);
    if (threadIdx.x == 0)
        flags[0] = flags[1] = 0;
    __syncthreads();
    int *second = &flags[1];
    if (threadIdx.x == WARP_SIZE) {
        simt::defer([second]() SIMT_UNCHECKED { *second = 5; });
        atomicExch(&flags[0], 3);
        simt::note_release(flags);
        simt::notify();
    }
    const int *first = &flags[0];
    if (threadIdx.x < WARP_SIZE) {
        simt::wait_until("a flag", [=]() SIMT_UNCHECKED { return *first == 3; });
        simt::note_acquire(flags);
        simt::wait_until("deferred work", [=]() SIMT_UNCHECKED { return *second == 5; });
        out[threadIdx.x] = *first + *second;
    }
}

void test_waiting()
{
    Device_array<int> out(WARP_SIZE);
    LAUNCH(waiting, 1, 2 * WARP_SIZE, 0, 0, out.get());
    CHECK(clean());
    for (int value : out.values())
        CHECK(value == 8);
}

__global__ void group_sum(int *out)
{
    static constexpr simt::Operation operation = {"sum of a warpgroup"};
    int value = threadIdx.x;
    simt::group_collective(operation, value, [](simt::Group<int> threads) {
        int sum = 0;
        for (int i = 0; i < simt::group_threads; i++)
            sum += threads[i];
        for (int i = 0; i < simt::group_threads; i++)
            threads[i] = sum;
    });
    out[threadIdx.x] = value;
}

void test_group()
{
    Device_array<int> out(256);
    LAUNCH(group_sum, 1, 256, 0, 0, out.get());
    CHECK(clean());
    std::vector<int> got = out.values();
    CHECK(got[0] == 127 * 64 && got[127] == 127 * 64);
    CHECK(got[128] == 127 * 64 + 128 * 128 && got[255] == got[128]);
}

__global__ void empty(int)
{
}

// Threads that never wait do not switch.
void test_switches()
{
    LAUNCH(empty, 3, 1024, 0, 0, 1);
    CHECK(clean());
    CHECK(simt_switches() == 3);
}

__global__ void intrinsics(unsigned *out)
{
    out[0] = __byte_perm(0x33221100u, 0x77665544u, 0x7531u);
    out[1] = __brev(0x80000001u) + __clz(1) + __popc(0xf0u) + __ffs(8);
    out[2] = __float_as_uint(__fmaf_rn(2.0f, 3.0f, 1.0f));
    out[3] = __funnelshift_l(0x80000000u, 1u, 1);
    out[4] = __umulhi(0x80000000u, 6u);
    out[5] = min(3, 7u) + max(2.0f, NAN);
    out[6] = make_uint4(1, 2, 3, 4).w + sizeof(float4) + alignof(float4);
}

void test_intrinsics()
{
    Device_array<unsigned> out(7);
    LAUNCH(intrinsics, 1, 1, 0, 0, out.get());
    CHECK(clean());
    std::vector<unsigned> got = out.values();
    CHECK(got[0] == 0x77553311u);
    CHECK(got[1] == 0x80000001u + 31 + 4 + 4);
    CHECK(got[2] == 0x40e00000u);
    CHECK(got[3] == 3);
    CHECK(got[4] == 3);
    CHECK(got[5] == 5);
    CHECK(got[6] == 4 + 16 + 16);
}

// ---- the order of blocks --------------------------------------------------------------------------

__global__ void in_turn(unsigned *count, unsigned *order)
{
    order[atomicAdd(count, 1u)] = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
}

enum { GRID_X = 5, GRID_Y = 3, GRID_Z = 2, BLOCKS = GRID_X * GRID_Y * GRID_Z };

std::vector<unsigned> order_of_blocks()
{
    Device_array<unsigned> count(std::vector<unsigned>{0}), order(BLOCKS);
    LAUNCH(in_turn, dim3(GRID_X, GRID_Y, GRID_Z), 1, 0, 0, count.get(), order.get());
    CHECK(clean());
    return order.values();
}

void test_order_of_blocks()
{
    std::vector<unsigned> forward(BLOCKS);
    std::iota(forward.begin(), forward.end(), 0);
    std::vector<unsigned> reverse(forward.rbegin(), forward.rend());
    simt_set_blocks(SIMT_BLOCKS_FORWARD, 0);
    CHECK(order_of_blocks() == forward);
    simt_set_blocks(SIMT_BLOCKS_REVERSE, 0);
    CHECK(order_of_blocks() == reverse);
    simt_set_blocks(SIMT_BLOCKS_SHUFFLE, 7);
    std::vector<unsigned> first = order_of_blocks(), second = order_of_blocks();
    CHECK(first != second && first != forward && first != reverse);
    simt_set_blocks(SIMT_BLOCKS_SHUFFLE, 7);
    CHECK(order_of_blocks() == first && order_of_blocks() == second);
    simt_set_blocks(SIMT_BLOCKS_SHUFFLE, 8);
    CHECK(order_of_blocks() != first);
    std::sort(first.begin(), first.end());
    std::sort(second.begin(), second.end());
    CHECK(first == forward && second == forward);
}

} // namespace

int main()
{
    test_order_of_blocks();
    for (simt_blocks order : {SIMT_BLOCKS_FORWARD, SIMT_BLOCKS_REVERSE, SIMT_BLOCKS_SHUFFLE}) {
        simt_set_blocks(order, 1);
        test_rmsnorm();
        test_gemm();
        test_softmax();
        test_histogram();
        test_ragged();
        test_warp_operations();
        test_pipeline();
        test_block_votes();
        test_waiting();
        test_group();
        test_switches();
        test_intrinsics();
    }
    return finish("kernels");
}
