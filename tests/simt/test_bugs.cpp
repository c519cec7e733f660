/* Kernels with planted bugs: each must be reported, and its launch must fail. Some bugs show in checked builds only. */
#include <cuda_runtime.h>

#include "test.h"

#include <limits.h>

namespace
{

#ifdef SIMT_CHECKED
const bool is_checked = true;
#else
const bool is_checked = false;
#endif

enum { LANES = 32 }; // the test is built for warps of 32
const unsigned all = 0xffffffffu;

// ---- races ----------------------------------------------------------------------------------------

// Neighbours exchange through shared memory.
__global__ void neighbours(const float *x, float *y, int bug)
{
    SHARED_ARRAY(float, shared, 64);
    shared[threadIdx.x] = 0;
    __syncthreads();
    shared[threadIdx.x] = x[threadIdx.x];
    if (!bug)
        __syncthreads();
    y[threadIdx.x] = shared[(threadIdx.x + 1) % 64];
}

// The next round overwrites what others have still to read.
__global__ void overwritten(float *y, int bug)
{
    SHARED_ARRAY(float, shared, 64);
    float sum = 0;
    for (int i = 0; i < 3; i++) {
        shared[threadIdx.x] = (float)i;
        __syncthreads();
        sum += shared[63 - threadIdx.x];
        if (!bug)
            __syncthreads();
    }
    y[threadIdx.x] = sum;
}

// Lanes of one warp, which nothing but __syncwarp orders.
__global__ void lanes(float *y, int bug)
{
    SHARED_ARRAY(float, shared, LANES);
    shared[threadIdx.x] = 0;
    __syncthreads();
    shared[threadIdx.x] = (float)threadIdx.x;
    if (!bug)
        __syncwarp();
    y[threadIdx.x] = shared[threadIdx.x ^ 1];
}

// Two halves of a warp, each in order but not with the other.
__global__ void halves(float *y, int bug)
{
    SHARED_ARRAY(float, shared, LANES);
    shared[threadIdx.x] = 0;
    __syncthreads();
    shared[threadIdx.x] = (float)threadIdx.x;
    __syncwarp(threadIdx.x < 16 ? 0xffffu : 0xffff0000u);
    y[threadIdx.x] = shared[threadIdx.x ^ (bug ? 16 : 1)];
}

// Bytes of one word belong to different threads.
__global__ void bytes(uint8_t *y, int bug)
{
    SHARED_ARRAY(uint8_t, shared, 128);
    shared[threadIdx.x] = (uint8_t)threadIdx.x;
    __syncthreads();
    if (bug && threadIdx.x == 70)
        shared[3] = 9;
    y[threadIdx.x] = shared[threadIdx.x];
}

// A plain read of what others change atomically.
__global__ void counter(int *y, int bug)
{
    SHARED_ARRAY(int, shared, 1);
    if (threadIdx.x == 0)
        shared[0] = 0;
    __syncthreads();
    atomicAdd(&shared[0], 1);
    if (!bug)
        __syncthreads();
    y[threadIdx.x] = shared[0];
}

// Producer and consumer: the producer does not wait until the buffer is empty again.
__global__ void producer(int *y, int bug)
{
    SHARED_ARRAY(int, buffer, LANES);
    const unsigned lane = threadIdx.x % LANES;
    int sum = 0;
    for (int i = 0; i < 3; i++) {
        if (threadIdx.x < LANES) {
            buffer[lane] = i;
            simt::barrier_arrive(1 + i, 2 * LANES);
            if (!bug)
                simt::barrier(4 + i, 2 * LANES);
        } else {
            simt::barrier(1 + i, 2 * LANES);
            sum += buffer[lane];
            if (!bug)
                simt::barrier_arrive(4 + i, 2 * LANES);
        }
    }
    if (threadIdx.x >= LANES)
        y[lane] = sum;
}

// An object in memory orders: what is released before and acquired after.
__global__ void object(int *y, int bug)
{
    SHARED_ARRAY(int, shared, 2);
    volatile int *flag = &shared[1];
    if (threadIdx.x == 0)
        shared[1] = 0;
    __syncthreads();
    if (threadIdx.x == 0) {
        shared[0] = 7;
        simt::note_release(&shared[1]);
        atomicExch(&shared[1], 1);
        simt::notify();
    } else if (threadIdx.x == LANES) {
        simt::wait_until("the flag", [=]() SIMT_UNCHECKED { return *flag == 1; });
        if (!bug)
            simt::note_acquire(&shared[1]);
        y[0] = shared[0];
    }
}

// A copy that is under way while its source is overwritten or its target read.
__global__ void copies(int *y, int bug)
{
    SHARED_ARRAY(int, shared, 2);
    if (threadIdx.x == 0) {
        shared[0] = 1;
        const simt::Async copy = simt::note_async_start();
        int *target = &shared[1], *source = &shared[0];
        simt::note_async_read(copy, source, 4, "a copy");
        simt::note_async_write(copy, target, 4, "a copy");
        *(volatile int *)&y[1] = 0;
        simt::note_async_complete(copy, target);
        if (!bug)
            simt::note_acquire(target);
        shared[0] = 2;
        y[0] = shared[0];
    }
}

template <class T>
void race(void (*kernel)(T *, int), const char *name, int threads, const char *word)
{
    Device_array<T> y(threads);
    LAUNCH(kernel, 1, threads, 0, 0, y.get(), 0);
    CHECK(clean());
    if (!is_checked)
        return;
    LAUNCH(kernel, 2, threads, 0, 0, y.get(), 1);
    if (!reported(cudaErrorLaunchFailure,
                  {"race: shared memory", "block (0, 0, 0)", "test_bugs.cpp:", word})) {
        printf("in %s\n", name);
        CHECK(false);
    }
}

void test_races()
{
    Device_array<float> x(random_values(64, 1)), y(64);
    LAUNCH(neighbours, 1, 64, 0, 0, x.get(), y.get(), 0);
    CHECK(clean());
    LAUNCH(neighbours, 1, 64, 0, 0, x.get(), y.get(), 1);
    if (is_checked)
        CHECK(reported(cudaErrorLaunchFailure,
                       {"kernel neighbours, block (0, 0, 0)", "race: shared memory at byte ",
                        "is written here",
                        "was read by thread 32 (warp 1, lane 0) at test_bugs.cpp:"}));
    else
        CHECK(y.values()[0] == 0); // threads run one after the other, so that missing barriers show
    race(overwritten, "overwritten", 64, "thread 63");
    race(lanes, "lanes", LANES, "written");
    race(halves, "halves", LANES, "by thread 31");
    race(bytes, "bytes", 128, "byte 3 of shared");
    race(counter, "counter", 64, "changed atomically");
    race(producer, "producer", 2 * LANES, "buffer");
    race(object, "object", 2 * LANES, "was written by thread 0");
    race(copies, "copies", LANES, "an asynchronous copy");
}

// ---- bounds ---------------------------------------------------------------------------------------

__global__ void shared_overrun(int *y, int past)
{
    SHARED_ARRAY(int, shared, 32);
    SHARED_ARRAY(int, other, 32);
    shared[threadIdx.x] = 1;
    other[threadIdx.x] = 2;
    if (threadIdx.x == 3 && past >= 0)
        (&shared[31])[past + 1] = 5;
    __syncthreads();
    y[threadIdx.x] = shared[threadIdx.x] + other[threadIdx.x];
}

__global__ void dynamic_overrun(float *y, int count)
{
    DYN_SHARED(float, shared);
    for (int i = threadIdx.x; i < count; i += blockDim.x)
        shared[i] = (float)i;
    __syncthreads();
    y[threadIdx.x] = shared[threadIdx.x];
}

__global__ void fill(float *y, int n)
{
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        y[i] = 1;
}

__global__ void sum(const float *x, float *y, int n)
{
    float total = 0;
    for (int i = 0; i < n; i++)
        total += x[i];
    *y = total;
}

__global__ void uninitialised(float *y, int bug)
{
    SHARED_ARRAY(float, shared, 64);
    if (threadIdx.x < 60 || !bug)
        shared[threadIdx.x] = 1;
    __syncthreads();
    y[threadIdx.x] = shared[63 - threadIdx.x];
}

[[maybe_unused]] __global__ void vectors(float4 *y, const float *x, int offset)
{
    y[threadIdx.x] = *(const float4 *)(x + offset);
}

__global__ void atomics(int *y, int i)
{
    atomicAdd(&y[i], 1);
}

__global__ void deep(int *y, int depth)
{
    volatile char local[1 << 12];
    local[depth] = 1;
    if (depth)
        deep(y, depth - 1);
    y[0] = local[depth];
}

void test_shared_bounds()
{
    Device_array<int> y(32);
    Device_array<float> z(64);
    LAUNCH(shared_overrun, 1, 32, 0, 0, y.get(), -1);
    CHECK(clean());
    LAUNCH(shared_overrun, 1, 32, 0, 0, y.get(), 0);
    CHECK(reported(cudaErrorIllegalAddress,
                   {"kernel shared_overrun", "0 bytes past the end of shared (128 bytes)"}));
    const size_t size = 64 * sizeof(float);
    LAUNCH(dynamic_overrun, 1, 64, size, 0, z.get(), 64);
    CHECK(clean());
    LAUNCH(dynamic_overrun, 1, 64, size, 0, z.get(), 65);
    CHECK(reported(cudaErrorIllegalAddress,
                   {"0 bytes past the end of dynamic shared memory (256 bytes)"}));
    LAUNCH(uninitialised, 1, 64, 0, 0, z.get(), 0);
    CHECK(clean());
    LAUNCH(uninitialised, 1, 64, 0, 0, z.get(), 1);
    if (is_checked)
        CHECK(reported(cudaErrorIllegalAddress,
                       {"never written", "of shared (256 bytes)", "thread 0"}));
    else
        CHECK(z.values()[0] != z.values()[0]); // NaN
}

void test_device_bounds()
{
    const int n = 1000;
    Device_array<float> one(1);
    float *y;
    cudaMalloc(&y, n * sizeof *y);
    LAUNCH(fill, 4, 256, 0, 0, y, n);
    CHECK(clean());
    if (is_checked) {
        LAUNCH(fill, 4, 256, 0, 0, y, n + 1);
        CHECK(reported(cudaErrorIllegalAddress,
                       {"kernel fill, block (3, 0, 0), thread 232",
                        "a write of 4 bytes out of bounds",
                        "0 bytes past the end of an allocation of 4000 bytes", "test_bugs.cpp:"}));
        LAUNCH(sum, 1, 1, 0, 0, y, one.get(), n + 1);
        CHECK(reported(cudaErrorIllegalAddress, {"a read of 4 bytes out of bounds"}));
#ifndef __clang__ // which copies float4 by a function that says nothing of alignment
        LAUNCH(vectors, 1, 1, 0, 0, (float4 *)y, y, 2);
        CHECK(reported(cudaErrorMisalignedAddress, {"not aligned to 16 bytes"}));
#endif
    } else {
        float *victim;
        cudaMalloc(&victim, n * sizeof *victim);
        LAUNCH(fill, 4, 256, 0, 0, victim, n + 1);
        CHECK(clean());
        CHECK(cudaFree(victim) == cudaErrorIllegalAddress); // notices when the memory is freed
        CHECK(reported(cudaErrorIllegalAddress,
                       {"0 bytes past the end of device memory (4000 bytes"}));
    }
    LAUNCH(atomics, 1, 1, 0, 0, (int *)y, n);
    CHECK(reported(cudaErrorIllegalAddress, {"atomicAdd", "out of bounds", "past the end"}));
    float *freed;
    cudaMalloc(&freed, 4096);
    cudaFree(freed);
#ifndef __SANITIZE_ADDRESS__
    LAUNCH(fill, 1, 32, 0, 0, freed, 32);
    CHECK(reported(cudaErrorIllegalAddress, {"kernel fill", "that were freed"}));
    LAUNCH(fill, 20, 256, 0, 0, y, 5000); // into the gap after the allocation
    CHECK(reported(cudaErrorIllegalAddress, {"kernel fill", "past the end"}));
    LAUNCH(deep, 1, 1, 0, 0, (int *)y, 100);
    CHECK(reported(cudaErrorHardwareStackError, {"kernel deep", "local memory"}));
#endif
    std::vector<float> host(100);
    LAUNCH(fill, 1, 32, 0, 0, host.data(), 32);
    CHECK(reported(cudaErrorIllegalAddress, {"launch of fill", "host memory"}));
    if (is_checked) {
        cudaSetDevice(1);
        LAUNCH(fill, 1, 32, 0, 0, y, 32);
        CHECK(reported(cudaErrorIllegalAddress, {"memory of device 0 used on device 1"}));
        cudaSetDevice(0);
    }
    cudaFree(y);
    simt_recover(); // without checks, it is only now that what was written past its end is found
}

// ---- meeting --------------------------------------------------------------------------------------

__global__ void divergent(int *y, int which)
{
    if (which == 0) {
        if (threadIdx.x < 40)
            __syncthreads();
        else
            __syncthreads(); // another one
    } else if (which == 1) {
        if (threadIdx.x < 40)
            __syncthreads();
        y[threadIdx.x] = __shfl_xor_sync(all, 1, 1);
        __syncthreads();
    } else if (which == 2) {
        if (threadIdx.x % 2)
            __syncwarp();
        else
            y[threadIdx.x] = __any_sync(all, 1);
    } else if (which == 3) {
        if (threadIdx.x == 5)
            return;
        y[threadIdx.x] = __shfl_sync(all, 1, 0);
    } else if (which == 4) {
        y[threadIdx.x] = __shfl_sync(0xffu, 1, 0);
    } else if (which == 5) {
        y[threadIdx.x] = __shfl_sync(threadIdx.x < 16 ? 0xffffu : all, 1, 0);
    } else if (which == 6) {
        simt::barrier(1, 96);
    } else if (which == 7) {
        if (threadIdx.x < 32)
            simt::wait_until("what never comes", [] { return false; });
        __syncthreads();
    } else if (which == 8) {
        if (threadIdx.x % 2)
            simt::barrier(1, 32);
        __syncthreads();
    } else if (which == 9) {
        y[threadIdx.x] = __shfl_sync(threadIdx.x % 2 ? all : 0x55555555u, 1, 0);
    } else if (which == 10) {
        simt::shared_offset(y);
    } else if (which == 11) {
        if (threadIdx.x == 0)
            simt::defer([] { simt::fail(cudaErrorIllegalInstruction, "a bad copy"); });
        __syncthreads();
    } else if (which == 12) {
        __trap();
    }
}

void test_meeting()
{
    Device_array<int> y(64);
    const struct {
        cudaError_t error;
        std::initializer_list<const char *> words;
    } expected[] = {
        {cudaErrorIllegalInstruction, {"kernel divergent", "divergent barrier", "test_bugs.cpp:"}},
        {cudaErrorLaunchTimeout,
         {"deadlock", "threads 0-39 wait at __syncthreads",
          "threads 40-63 wait for their warp in __shfl_xor_sync", "barrier 0: 40 of 64"}},
        {cudaErrorIllegalInstruction, {"meet in different operations", "__syncwarp", "vote"}},
        {cudaErrorIllegalInstruction, {"__shfl_sync", "exited: 5"}},
        {cudaErrorIllegalInstruction, {"leaves out its own lane 8"}},
        {cudaErrorIllegalInstruction, {"__shfl_sync", "exited: 15"}},
        {cudaErrorLaunchTimeout, {"deadlock", "barrier 1: 64 of 96 threads"}},
        {cudaErrorLaunchTimeout,
         {"deadlock", "threads 0-31 wait for what never comes", "threads 32-63 wait at"}},
        {cudaErrorIllegalInstruction, {"barrier 1", "a part of warp 0", "lanes 0, 2, 4"}},
        {cudaErrorIllegalInstruction, {"different masks", "lanes 0-31 here", "lanes 0, 2, 4"}},
        {cudaErrorInvalidAddressSpace, {"no address of shared memory"}},
        {cudaErrorIllegalInstruction, {"deferred by thread 0", "a bad copy"}},
        {cudaErrorLaunchFailure, {"__trap"}},
    };
    for (int which = 0; which < (int)(sizeof expected / sizeof *expected); which++) {
        LAUNCH(divergent, 2, 64, 0, 0, y.get(), which);
        if (!reported(expected[which].error, expected[which].words)) {
            printf("case %d\n", which);
            CHECK(false);
        }
    }
    LAUNCH(divergent, 1, 64, 0, 0, y.get(), -1); // and nothing is left behind
    CHECK(clean());
}

// ---- launches -------------------------------------------------------------------------------------

__global__ void much_static(int *y)
{
    SHARED_ARRAY(int, large, 13 * 1024);
    large[threadIdx.x] = 1;
    y[threadIdx.x] = large[threadIdx.x];
}

__global__ void much_in_all(int *y)
{
    SHARED_ARRAY(int, large, 10 * 1024);
    large[threadIdx.x] = 1;
    y[threadIdx.x] = large[threadIdx.x];
}

void test_launches()
{
    Device_array<float> y(64);
    int *z = (int *)y.get();
    LAUNCH(fill, 1, 1025, 0, 0, y.get(), 0);
    CHECK(reported(cudaErrorInvalidConfiguration,
                   {"launch of fill at", "1025 x 1 x 1 threads (at most 1024)"}));
    LAUNCH(fill, dim3(1, 65536), 32, 0, 0, y.get(), 0);
    CHECK(reported(cudaErrorInvalidConfiguration, {"65536"}));
    LAUNCH(fill, 0, 32, 0, 0, y.get(), 0);
    CHECK(reported(cudaErrorInvalidConfiguration, {"a grid of 0"}));
    LAUNCH(dynamic_overrun, 1, 64, 48 * 1024, 0, y.get(), 64);
    CHECK(clean());
    LAUNCH(dynamic_overrun, 1, 64, 48 * 1024 + 1, 0, y.get(), 64);
    CHECK(reported(cudaErrorInvalidValue,
                   {"49153 bytes of dynamic shared memory, 49152 are allowed"}));
    const cudaFuncAttribute largest = cudaFuncAttributeMaxDynamicSharedMemorySize;
    CHECK(cudaFuncSetAttribute(dynamic_overrun, largest, 227 * 1024) == cudaSuccess);
    LAUNCH(dynamic_overrun, 1, 64, 227 * 1024, 0, y.get(), 227 * 256);
    CHECK(clean());
    CHECK(cudaFuncSetAttribute(dynamic_overrun, largest, 227 * 1024 + 1) == cudaErrorInvalidValue);
    cudaGetLastError();
    for (int device = 1; device < 3; device++) { // sm_80: 163 KiB, sm_89: 99 KiB
        cudaSetDevice(device);
        const int limit = device == 1 ? 163 : 99;
        CHECK(cudaFuncSetAttribute(dynamic_overrun, largest, limit * 1024) == cudaSuccess);
        CHECK(cudaFuncSetAttribute(dynamic_overrun, largest, limit * 1024 + 1) ==
              cudaErrorInvalidValue);
        cudaGetLastError();
    }
    cudaSetDevice(0);
    LAUNCH(much_static, 1, 64, 0, 0, z);
    CHECK(reported(cudaErrorInvalidConfiguration, {"53248 bytes of SHARED_ARRAY with large"}));
    CHECK(cudaFuncSetAttribute(much_in_all, largest, 200 * 1024) == cudaSuccess);
    LAUNCH(much_in_all, 1, 64, 100 * 1024, 0, z);
    CHECK(clean());
    LAUNCH(much_in_all, 1, 64, 200 * 1024, 0, z);
    CHECK(reported(cudaErrorInvalidConfiguration,
                   {"40960 bytes of SHARED_ARRAY and 204800 of dynamic"}));
}

// ---- launches that begin before the one before them is over ----------------------------------------

enum { waits, never_waits, one_does_not, reads_first, writes_first };

__global__ void next_kernel(const float *x, float *y, int how)
{
    float value = 0;
    if (how == reads_first)
        value = x[threadIdx.x];
    if (how == writes_first)
        y[threadIdx.x] = 1;
    if (how != never_waits && (how != one_does_not || threadIdx.x != 40))
        simt::wait_for_previous();
    if (how == never_waits || threadIdx.x == 40)
        return;
    y[threadIdx.x] = value + x[threadIdx.x];
}

void test_next()
{
    struct {
        bool overlaps;
        cudaStream_t stream;
    } device = {true, 0};
    Device_array<float> x(64), y(64);
    LAUNCH_NEXT(&device, next_kernel, 1, 64, 0, x.get(), y.get(), (int)waits);
    CHECK(clean());
    for (int how : {never_waits, one_does_not}) {
        LAUNCH_NEXT(&device, next_kernel, 1, 64, 0, x.get(), y.get(), how);
        CHECK(reported(cudaErrorLaunchFailure, {"the end comes before wait_for_previous"}));
        simt_recover();
    }
    for (int how : {reads_first, writes_first}) {
        LAUNCH_NEXT(&device, next_kernel, 1, 64, 0, x.get(), y.get(), how);
        CHECK(is_checked ? reported(cudaErrorLaunchFailure,
                                    {"device memory comes before wait_for_previous"})
                         : clean());
        simt_recover();
    }
    device.overlaps = false; // launches follow one another
    for (int how : {never_waits, reads_first, writes_first}) {
        LAUNCH_NEXT(&device, next_kernel, 1, 64, 0, x.get(), y.get(), how);
        CHECK(clean());
    }
}

// ---- arithmetic ------------------------------------------------------------------------------------

__global__ void local_array(const int *x, int *y)
{
    int local[4] = {x[0], x[1], x[2], x[3]};
    y[0] = local[x[4]];
}

__global__ void shifted(const int *x, int *y)
{
    y[0] = x[0] << x[1];
}

__global__ void shifted_unsigned(const int *x, int *y)
{
    y[0] = (int)((unsigned)x[0] >> x[1]);
}

__global__ void added(const int *x, int *y)
{
    y[0] = x[0] + x[1];
}

__global__ void negated(const int *x, int *y)
{
    y[0] = -x[0];
}

__global__ void multiplied(const int *x, int *y)
{
    y[0] = (int)((int64_t)x[0] * x[0] * x[1] >> 32);
}

__global__ void divided(const int *x, int *y)
{
    y[0] = x[0] / x[1];
}

__global__ void converted(const int *x, int *y)
{
    y[0] = (int)((float)x[0] * (float)x[1]);
}

// In other builds what these give is nobody's business, and is left out.
void test_arithmetic()
{
    struct {
        void (*kernel)(const int *, int *);
        std::vector<int> good, bad;
        const char *report;
    } cases[] = {
        {local_array, {1, 2, 3, 4, 3}, {1, 2, 3, 4, 4}, "index 4 of an array of type 'int"},
        {local_array, {1, 2, 3, 4, 0}, {1, 2, 3, 4, -1}, "index -1 of an array"},
        {shifted, {1, 30}, {1, 32}, "1 of type 'int' shifted by 32"},
        {shifted_unsigned, {-1, 31}, {-1, -1}, "4294967295 of type 'unsigned int' shifted by -1"},
        {added, {INT_MAX, 0}, {INT_MAX, 1}, "2147483647 + 1 is more than 'int' holds"},
        {negated, {INT_MAX}, {INT_MIN}, "- -2147483648 is more than"},
        {multiplied, {INT_MAX, 2}, {INT_MAX, 3}, "* 3 is more than"},
        {divided, {6, 2}, {6, 0}, "6 divided by 0"},
        {converted, {1 << 15, 1 << 15}, {1 << 16, 1 << 16}, "a value of type 'float' that 'int'"},
    };
    Device_array<int> y(1);
    for (const auto &c : cases) {
        Device_array<int> good(c.good), bad(c.bad);
        LAUNCH(c.kernel, 1, 1, 0, 0, good.get(), y.get());
        CHECK(clean());
        if (!is_checked)
            continue;
        LAUNCH(c.kernel, 1, 1, 0, 0, bad.get(), y.get());
        CHECK(reported(c.report[0] == 'i' ? cudaErrorIllegalAddress : cudaErrorLaunchFailure,
                       {c.report, "test_bugs.cpp:"}));
    }
}

} // namespace

int main()
{
    simt_set_quiet(getenv("SIMT_LOUD") == nullptr);
    test_races();
    test_shared_bounds();
    test_device_bounds();
    test_meeting();
    test_launches();
    test_next();
    test_arithmetic();
    return finish(is_checked ? "bugs, checked" : "bugs");
}
