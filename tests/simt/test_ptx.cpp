/* Mistakes with asynchronous copies, matrix loads, barriers in shared memory and products of warpgroups are reported,
 * and what is read too early is not there yet (lazy). That correct uses give correct results is the matter of
 * tests/check/layouts*.cu. */
#include "backend_cuda/ptx_sm90.cuh"
#include "backend_cuda/tensor_map.cuh"

#include "test.h"

#include <math.h>

#ifdef SIMT_CHECKED
#define CHECKED true
#else
#define CHECKED false
#endif

namespace
{

// ---- copies and matrix loads ----------------------------------------------------------------------

__global__ void copy(const float *in, float *out, int shift, bool wait)
{
    SHARED_ARRAY(float, to, 64);
    copy_async_16(to + 4 * threadIdx.x, in + 4 * threadIdx.x + shift, true);
    copy_async_commit();
    if (wait)
        copy_async_wait<0>();
    out[threadIdx.x] = to[4 * threadIdx.x];
}

__global__ void load_matrices(uint32_t *out, int shift)
{
    SHARED_ARRAY(uint4, rows, 40);
    for (int i = threadIdx.x; i < 40; i += 32)
        rows[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    uint32_t r[4];
    load_matrix_4(r, reinterpret_cast<char *>(rows + threadIdx.x) + shift);
    out[threadIdx.x] = r[0];
}

__global__ void diverging_mma(float *out)
{
    float c[4] = {};
    uint32_t a[4] = {}, b[2] = {};
    if (threadIdx.x < 16)
        mma_m16n8k16_bf16(c, a, b);
    else
        mma_m16n8k32_e4m3(c, a, b);
    out[threadIdx.x] = c[0];
}

void test_copies()
{
    Device_array<float> in(std::vector<float>(40, 3.0f)), out(40);
    LAUNCH(copy, 1, 8, 0, 0, in.get(), out.get(), 0, true);
    CHECK(clean() && out.values()[7] == 3.0f);
    for (int lazy = 0; lazy < 2; lazy++) {
        simt_set_lazy(lazy);
        LAUNCH(copy, 1, 8, 0, 0, in.get(), out.get(), 0, false);
        CHECK(CHECKED ? reported(lazy ? cudaErrorIllegalAddress : cudaErrorLaunchFailure,
                                 {"shared memory"})
                      : clean() && (out.values()[7] == 3.0f) == !lazy);
    }
    LAUNCH(copy, 1, 8, 0, 0, in.get(), out.get(), 1, true);
    CHECK(reported(cudaErrorMisalignedAddress, {"cp.async", "not aligned", "test_ptx.cpp"}));
    LAUNCH(copy, 1, 8, 0, 0, in.get(), out.get(), 12, true);
    CHECK(reported(cudaErrorIllegalAddress, {"cp.async", "thread 7"}));
    Device_array<uint32_t> words(32);
    LAUNCH(load_matrices, 1, 32, 0, 0, words.get(), 0);
    CHECK(clean());
    LAUNCH(load_matrices, 1, 32, 0, 0, words.get(), 8);
    CHECK(reported(cudaErrorMisalignedAddress, {"ldmatrix.x4", "lane 0"}));
    LAUNCH(load_matrices, 1, 32, 0, 0, words.get(), 16 * 10);
    CHECK(reported(cudaErrorIllegalAddress, {"ldmatrix.x4"}));
    LAUNCH(diverging_mma, 1, 32, 0, 0, out.get());
    CHECK(reported(cudaErrorIllegalInstruction, {"mma.m16n8k16.bf16", "mma.m16n8k32.e4m3"}));
}

// ---- barriers in shared memory --------------------------------------------------------------------

enum Mistake { none, no_init, no_fence, too_many, never, bytes_missing, misplaced, early };

__global__ void barriers(const __grid_constant__ CUtensorMap map, float *out, Mistake mistake)
{
    DYN_SHARED(float, to);
    SHARED_ARRAY(uint64_t, barrier, 2);
    if (threadIdx.x == 0 && mistake != no_init)
        mbarrier_init(barrier, mistake == never ? 2 : 1);
    if (threadIdx.x == 0 && mistake != no_fence)
        mbarrier_init_fence();
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect(barrier, mistake == bytes_missing ? 2048 : 1024);
        if (mistake == too_many)
            mbarrier_arrive(barrier);
        tma_load_2d(to + (mistake == misplaced ? 32 : 0), &map, barrier, 0, 0);
    }
    __syncthreads();
    if (mistake != early)
        mbarrier_wait(barrier, 0);
    out[threadIdx.x] = to[threadIdx.x];
}

__global__ void wrong_rank(const __grid_constant__ CUtensorMap map)
{
    DYN_SHARED(float, to);
    SHARED_ARRAY(uint64_t, barrier, 1);
    mbarrier_init(barrier, 1);
    mbarrier_init_fence();
    tma_load_3d(to, &map, barrier, 0, 0, 0);
}

void test_barriers()
{
    Device_array<float> in(std::vector<float>(8 * 32, 5.0f)), out(32);
    CUtensorMap map;
    const uint64_t dim[2] = {64, 8}, stride[1] = {128};
    const uint32_t box[2] = {64, 8};
    CHECK(tensor_map_encode(tensor_map_find_encoder(), &map, 2, 2, in.get(), dim, stride, box));
    auto run = [&](Mistake mistake) { LAUNCH(barriers, 1, 32, 2048, 0, map, out.get(), mistake); };
    for (int lazy = 0; lazy < 2; lazy++) {
        simt_set_lazy(lazy);
        run(none);
        CHECK(clean() && out.values()[31] == 5.0f);
        run(early);
        CHECK(CHECKED ? reported(lazy ? cudaErrorIllegalAddress : cudaErrorLaunchFailure,
                                 {"shared memory"})
                      : clean() && (out.values()[31] == 5.0f) == !lazy);
        run(no_init);
        CHECK(reported(cudaErrorIllegalInstruction, {"mbarrier is not initialised"}));
        run(no_fence);
        CHECK(reported(cudaErrorIllegalInstruction, {"no fence"}));
        run(too_many);
        CHECK(reported(cudaErrorIllegalInstruction, {"more arrivals", "the 1 it was"}));
        run(never);
        CHECK(reported(cudaErrorLaunchTimeout, {"deadlock", "mbarrier"}));
        run(bytes_missing);
        CHECK(reported(cudaErrorLaunchTimeout, {"deadlock", "mbarrier"}));
        run(misplaced);
        CHECK(reported(cudaErrorMisalignedAddress, {"aligned to 1024"}));
    }
    LAUNCH(wrong_rank, 1, 1, 2048, 0, map);
    CHECK(reported(cudaErrorIllegalInstruction, {"tensor map of 3 dimensions"}));
}

void test_tensor_maps()
{
    Device_array<float> in(64 * 64);
    const tensor_map_encoder encode = tensor_map_find_encoder();
    CUtensorMap map;
    auto encodes = [&](const char *data, uint64_t width, uint64_t pitch, uint32_t box_width,
                       uint32_t box_rows) {
        const uint64_t dim[2] = {width, 8}, stride[1] = {pitch};
        const uint32_t box[2] = {box_width, box_rows};
        return tensor_map_encode(encode, &map, 1, 2, data, dim, stride, box);
    };
    const char *data = reinterpret_cast<const char *>(in.get());
    CHECK(encodes(data, 200, 208, 128, 8));
    CHECK(!encodes(data + 8, 200, 208, 128, 8)); // not aligned to 16
    CHECK(!encodes(data, 200, 200, 128, 8));     // pitch not a multiple of 16
    CHECK(!encodes(data, 200, 208, 144, 8));     // wider than the swizzle
    CHECK(!encodes(data, 200, 208, 120, 8));     // box rows of no whole 16 bytes
    CHECK(!encodes(data, 200, 208, 128, 257));
    CHECK(!encodes(data, 0, 208, 128, 8));
}

// ---- products of warpgroups -----------------------------------------------------------------------

enum Product_mistake {
    right,
    no_proxy_fence,
    no_wgmma_fence,
    no_wait,
    descriptors_differ,
    matrix_misplaced,
    half_a_group
};

__global__ void product(float *out, Product_mistake mistake)
{
    DYN_SHARED(uint8_t, shared);
    for (int i = threadIdx.x; i < 16384; i += 128)
        shared[i] = 0x38; // 1
    if (mistake != no_proxy_fence)
        fence_async_proxy();
    __syncthreads();
    float d[32];
    for (float &value : d)
        value = -1;
    if (mistake == half_a_group && threadIdx.x >= 64)
        return;
    const int misplaced = mistake == matrix_misplaced ? 128 : 0;
    const uint64_t a = wgmma_matrix(shared + misplaced), b = wgmma_matrix(shared + 8192);
    if (mistake != no_wgmma_fence)
        wgmma_fence();
    wgmma_e4m3(d, a + (mistake == descriptors_differ && threadIdx.x == 77 ? 2 : 0), b, false);
    wgmma_commit();
    if (mistake != no_wait)
        wgmma_wait<0>();
    wgmma_settle(d);
    out[threadIdx.x] = d[31];
}

void test_products()
{
    Device_array<float> out(128);
    auto run = [&](Product_mistake mistake) {
        LAUNCH(product, 1, 128, 32768, 0, out.get(), mistake);
    };
    for (int lazy = 0; lazy < 2; lazy++) {
        simt_set_lazy(lazy);
        run(right);
        CHECK(clean() && out.values()[100] == 32);
        run(no_proxy_fence);
        CHECK(CHECKED ? reported(cudaErrorLaunchFailure, {"wgmma", "no fence.proxy.async"})
                      : clean());
        run(no_wait);
        CHECK(clean() && out.values()[100] == (lazy ? -1 : 32));
        run(no_wgmma_fence);
        CHECK(reported(cudaErrorIllegalInstruction, {"without a wgmma.fence"}));
        run(descriptors_differ);
        CHECK(reported(cudaErrorIllegalInstruction, {"descriptors differ"}));
        run(matrix_misplaced);
        CHECK(reported(cudaErrorMisalignedAddress, {"aligned to 1024"}));
        run(half_a_group);
        CHECK(reported(cudaErrorLaunchTimeout, {"wgmma"}));
    }
}

} // namespace

int main()
{
    simt_set_quiet(1);
    test_copies();
    test_barriers();
    test_tensor_maps();
    test_products();
    return finish("ptx");
}
