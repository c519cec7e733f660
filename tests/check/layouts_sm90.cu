// Layouts of the instructions of ptx_sm90.cuh: see layouts.h. Where bytes stand is written out here from the PTX manual:
// in 128-byte swizzle, 16-byte unit u of a 128-byte row r stands at unit u ^ (r mod 8); value i of a thread of a
// warpgroup's product is row 16 w + g + 8 (i / 2 mod 2), column 8 (i / 4) + 2 t + i mod 2, with w = warp, g = lane / 4,
// t = lane % 4.
#include "backend_cuda/ptx_sm90.cuh"
#include "backend_cuda/tensor_map.cuh"
#include "tests/check/layouts.cuh"

namespace
{

// Where byte `at` of row `row` of a swizzled matrix stands.
inline int swizzled(int row, int at)
{
    return row * 128 + (at / 16 ^ row % 8) * 16 + at % 16;
}

// More than the 48 KiB a block has without asking.
template <class... P> bool allow_shared(void (*kernel)(P...), int bytes)
{
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                cudaFuncAttributeMaxDynamicSharedMemorySize, bytes) == cudaSuccess;
}

// ---- barriers --------------------------------------------------------------------------------------------------

// Two warps hand a slot back and forth through two barriers, for more turns than parities: every arrival of the
// writers' 32 lanes is needed.
__global__ void run_mbarrier(int *out, int turns)
{
    SHARED_ARRAY(uint64_t, barrier, 2);
    SHARED_ARRAY(int, slot, 32);
    const int thread = (int)threadIdx.x, lane = thread % 32;
    if (thread == 0) {
        mbarrier_init(&barrier[0], 32);
        mbarrier_init(&barrier[1], 1);
        mbarrier_init_fence();
    }
    __syncthreads();
    for (int turn = 0; turn < turns; turn++) {
        if (thread < 32) {
            mbarrier_wait(&barrier[1], (turn & 1) ^ 1); // passes at once in turn 0
            slot[lane] = turn * 100 + lane;
            mbarrier_arrive(&barrier[0]);
        } else {
            mbarrier_wait(&barrier[0], turn & 1);
            out[turn * 32 + lane] = slot[31 - lane];
            WARP_SYNC();
            if (lane == 0)
                mbarrier_arrive(&barrier[1]);
        }
    }
}

void check_mbarrier(FILE *to, int *wrong)
{
    const int turns = 5;
    Array<int> out(turns * 32);
    LAUNCH(run_mbarrier, 1, 64, 0, 0, out.device, turns);
    out.down();
    Instruction test(to, wrong, "mbarrier phases");
    for (int i = 0; i < turns * 32; i++)
        test.expect("turn, lane", i / 32, i % 32, out.host[i], i / 32 * 100 + 31 - i % 32);
}

// cp.async of 32 threads arrives on a barrier when it is complete, with an arrival that was counted at init.
__global__ void run_copy_async_arrive(const int *in, int *out)
{
    SHARED_ARRAY(uint64_t, barrier, 1);
    SHARED_ARRAY(int, slot, 32);
    const int thread = (int)threadIdx.x, lane = thread % 32;
    if (thread == 0) {
        mbarrier_init(barrier, 33);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (thread < 32) {
        copy_async_4(&slot[lane], in + lane, lane != 7);
        copy_async_arrive(barrier);
        if (lane == 3)
            mbarrier_arrive(barrier);
    } else {
        mbarrier_wait(barrier, 0);
        out[lane] = slot[lane];
    }
}

void check_copy_async_arrive(FILE *to, int *wrong)
{
    Array<int> in(32), out(32);
    for (int i = 0; i < 32; i++)
        in.host[i] = 1000 + i;
    LAUNCH(run_copy_async_arrive, 1, 64, 0, 0, in.up(), out.device);
    out.down();
    Instruction test(to, wrong, "cp.async.mbarrier.arrive.noinc");
    for (int i = 0; i < 32; i++)
        test.expect("lane", i, 0, out.host[i], i == 7 ? 0 : 1000 + i);
}

__global__ void run_elect(int *out)
{
    out[threadIdx.x] = elect_one();
}

void check_elect(FILE *to, int *wrong)
{
    Array<int> out(64);
    LAUNCH(run_elect, 1, 64, 0, 0, out.device);
    out.down();
    Instruction test(to, wrong, "elect.sync");
    for (int warp = 0; warp < 2; warp++) {
        int elected = 0;
        for (int lane = 0; lane < 32; lane++)
            elected += out.host[warp * 32 + lane];
        test.expect("lanes of warp", warp, 0, elected, 1);
    }
}

// ---- the copy engine -------------------------------------------------------------------------------------------

enum { BOX_ROWS = 24, BOX_BYTES = BOX_ROWS * 128, PLANES = 2 };

// The box of planes at (x, y, z) as it stands in shared memory; two dimensions when z < 0.
__global__ void run_tma(const __grid_constant__ CUtensorMap map, int x, int y, int z,
                        unsigned char *out)
{
    DYN_SHARED(unsigned char, shared);
    SHARED_ARRAY(uint64_t, barrier, 1);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_init_fence();
        tma_prefetch_map(&map);
    }
    __syncthreads();
    const int bytes = z < 0 ? BOX_BYTES : PLANES * BOX_BYTES;
    if (threadIdx.x < 32 && elect_one()) {
        mbarrier_arrive_expect(barrier, bytes);
        if (z < 0)
            tma_load_2d(shared, &map, barrier, x, y);
        else
            tma_load_3d(shared, &map, barrier, x, y, z);
    }
    mbarrier_wait(barrier, 0);
    for (int i = (int)threadIdx.x; i < bytes; i += 64)
        out[i] = shared[i];
}

// A tensor of `element` bytes, 3 planes of 40 rows of 200 bytes, 208 apart. The box, 128 bytes by 24 rows by 2 planes, is
// placed inside, across every edge, and outside.
void check_tma(FILE *to, int *wrong, const char *name, int element, bool flat)
{
    enum { WIDTH = 200, PITCH = 208, ROWS = 40, DEPTH = 3 };
    Array<unsigned char> in(PITCH * ROWS * DEPTH), out(PLANES * BOX_BYTES);
    for (size_t i = 0; i < in.host.size(); i++)
        in.host[i] = (unsigned char)(i * 37 + i / 251 + 1);
    const tensor_map_encoder encode = tensor_map_find_encoder();
    CUtensorMap map;
    const uint64_t dim[3] = {(uint64_t)(WIDTH / element), ROWS, DEPTH},
                   stride[2] = {PITCH, PITCH * ROWS};
    const uint32_t box[3] = {(uint32_t)(128 / element), BOX_ROWS, PLANES};
    Instruction test(to, wrong, name);
    bool encoded =
        encode && tensor_map_encode(encode, &map, element, flat ? 2 : 3, in.up(), dim, stride, box);
    test.expect("encoding", 0, 0, encoded, true);
    static const int places[][3] = {{0, 0, 0},   {32, 5, 1},  {-16, -3, -1}, {128, 20, 2},
                                    {96, 39, 1}, {256, 0, 0}, {0, 48, 0},    {16, -24, 3}};
    for (const int *place : places) {
        const int x = place[0] / element, y = place[1], z = place[2];
        if (!encoded || (!flat && z < 0))
            continue;
        LAUNCH(run_tma, 1, 64, PLANES * BOX_BYTES, 0, map, x, y, flat ? -1 : z, out.device);
        out.down();
        for (int i = 0; i < (flat ? 1 : PLANES) * BOX_BYTES; i++) {
            const int row = i / 128, gy = y + row % BOX_ROWS, gx = x * element + i % 128;
            const int gz = flat ? 0 : z + row / BOX_ROWS;
            bool inside = gx >= 0 && gx < WIDTH && gy >= 0 && gy < ROWS && gz >= 0 && gz < DEPTH;
            test.expect("byte, row of the box", i % 128, row, out.host[swizzled(row, i % 128)],
                        inside ? in.host[(gz * ROWS + gy) * PITCH + gx] : 0);
        }
    }
}

__global__ void run_bulk(const unsigned char *in, unsigned char *out)
{
    SHARED_ARRAY(uint4, shared, 64);
    SHARED_ARRAY(uint64_t, barrier, 1);
    if (threadIdx.x == 0) {
        mbarrier_init(barrier, 1);
        mbarrier_init_fence();
        mbarrier_arrive_expect(barrier, 1024);
        bulk_load(shared, in, 512, barrier);
        bulk_load(shared + 32, in + 1024, 512, barrier);
    }
    __syncthreads();
    mbarrier_wait(barrier, 0);
    for (int i = (int)threadIdx.x; i < 1024; i += 32)
        out[i] = reinterpret_cast<unsigned char *>(shared)[i];
}

void check_bulk(FILE *to, int *wrong)
{
    Array<unsigned char> in(2048), out(1024);
    for (int i = 0; i < 2048; i++)
        in.host[i] = (unsigned char)(i * 29 + i / 256);
    LAUNCH(run_bulk, 1, 32, 0, 0, in.up(), out.device);
    out.down();
    Instruction test(to, wrong, "cp.async.bulk");
    for (int i = 0; i < 1024; i++)
        test.expect("byte", i, 0, out.host[i], in.host[i < 512 ? i : i + 512]);
}

// ---- launches that follow one another --------------------------------------------------------------------------

enum { NEXT_BLOCKS = 40, NEXT_THREADS = 64, NEXT_LAUNCHES = 12 };

// Each launch adds one to what the launch before it has stored, late, at the other end of the grid.
__global__ void run_next(const int *from, int *to, int rounds)
{
    wait_for_previous();
    const int i = (int)(blockIdx.x * NEXT_THREADS + threadIdx.x);
    float x = (float)i;
    for (int round = 0; round < rounds; round++)
        x = fmaf(x, 0.999f, 1.0f);
    to[i] = from[NEXT_BLOCKS * NEXT_THREADS - 1 - i] + (x < 0 ? 2 : 1);
}

void launch_in_a_row(const gpu_device *device, int *a, int *b)
{
    for (int i = 0; i < NEXT_LAUNCHES; i += 2) {
        LAUNCH_NEXT(device, run_next, NEXT_BLOCKS, NEXT_THREADS, 0, a, b, 2000);
        LAUNCH_NEXT(device, run_next, NEXT_BLOCKS, NEXT_THREADS, 0, b, a, 20);
    }
}

// Called one by one, and as a recording that is replayed twice.
void check_next(FILE *to, int *wrong)
{
    const int n = NEXT_BLOCKS * NEXT_THREADS;
    Array<int> a(n), b(n);
    gpu_device device = {};
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    Instruction test(to, wrong, "griddepcontrol, launches in a row");
    device.overlaps = 1;
    cudaStreamCreateWithFlags(&device.stream, cudaStreamNonBlocking);
    a.up();
    launch_in_a_row(&device, a.device, b.device);
    cudaStreamBeginCapture(device.stream, cudaStreamCaptureModeThreadLocal);
    launch_in_a_row(&device, a.device, b.device);
    cudaError_t error = cudaStreamEndCapture(device.stream, &graph);
    error = error ? error : cudaGraphInstantiate(&exec, graph, 0);
    for (int i = 0; i < 2 && !error; i++)
        error = cudaGraphLaunch(exec, device.stream);
    test.expect("recording: error", 0, 0, error, cudaSuccess);
    cudaStreamSynchronize(device.stream);
    a.down();
    for (int i = 0; i < n; i++)
        test.expect("thread", i, 0, a.host[i], 3 * NEXT_LAUNCHES);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(device.stream);
}

// ---- wgmma -----------------------------------------------------------------------------------------------------

enum { SHARED_MATRIX = 256 * 128 }; // bytes: the largest N

// Two matrices of 128 bytes of k, already swizzled, written by ordinary stores. d = A B over all of k, four products;
// before it, `garbage` in d, which the first product must not add. REGISTERS: A of 64 x 16 from registers, k 0..15 only.
template <class T, int N, bool REGISTERS>
__global__ void __launch_bounds__(128)
    run_wgmma(const uint4 *a, const uint4 *b, const uint32_t *a_registers, float *out)
{
    DYN_SHARED(unsigned char, shared);
    const int thread = (int)threadIdx.x;
    uint4 *to_a = reinterpret_cast<uint4 *>(shared),
          *to_b = reinterpret_cast<uint4 *>(shared + 64 * 128);
    for (int i = thread; i < 64 * 8; i += 128)
        to_a[i] = a[i];
    for (int i = thread; i < N * 8; i += 128)
        to_b[i] = b[i];
    fence_async_proxy();
    __syncthreads();
    float d[N / 2];
    for (int i = 0; i < N / 2; i++)
        d[i] = (float)(thread + i);
    const uint64_t da = wgmma_matrix(to_a), db = wgmma_matrix(to_b);
    uint32_t ra[4] = {};
    if constexpr (REGISTERS) {
        for (int i = 0; i < 4; i++)
            ra[i] = a_registers[thread * 4 + i];
    }
    wgmma_fence();
    if constexpr (REGISTERS) {
        wgmma_bf16(d, ra, db, false);
        wgmma_bf16(d, ra, db, true);
    } else {
        for (int k = 0; k < 4; k++) {
            if constexpr (sizeof(T) == 1)
                wgmma_e4m3(d, da + 2 * k, db + 2 * k, k > 0);
            else
                wgmma_bf16(d, da + 2 * k, db + 2 * k, k > 0);
        }
    }
    wgmma_commit();
    wgmma_wait<0>();
    wgmma_settle(d);
    for (int i = 0; i < N / 2; i++)
        out[thread * (N / 2) + i] = d[i];
}

inline void put(std::vector<unsigned char> &bytes, int row, int k, int value, bool e4m3)
{
    if (e4m3) {
        bytes[swizzled(row, k)] = layout_e4m3(value);
    } else {
        bytes[swizzled(row, 2 * k)] = (unsigned char)layout_bf16(value);
        bytes[swizzled(row, 2 * k + 1)] = (unsigned char)(layout_bf16(value) >> 8);
    }
}

template <class T, int N, bool REGISTERS> void check_wgmma(FILE *to, int *wrong, const char *name)
{
    constexpr bool e4m3 = sizeof(T) == 1;
    constexpr int depth = REGISTERS ? 16 : 128 / (int)sizeof(T), shared = 64 * 128 + SHARED_MATRIX;
    Array<unsigned char> a(64 * 128), b(SHARED_MATRIX);
    Array<uint32_t> registers(128 * 4);
    Array<float> out(128 * (N / 2));
    for (int k = 0; k < 128 / (int)sizeof(T); k++) {
        for (int m = 0; m < 64; m++)
            put(a.host, m, k, layout_value(m, k), e4m3);
        for (int n = 0; n < N; n++)
            put(b.host, n, k, layout_value(1000 + n, k), e4m3);
    }
    for (int i = 0; i < 128 * 8; i++) { // value i of a thread: as A of mma.m16n8k16, 16 rows a warp
        const int thread = i / 8, w = thread / 32, g = thread % 32 / 4, t = thread % 4, e = i % 8;
        const int row = 16 * w + g + (e / 2 % 2 ? 8 : 0), k = 2 * t + e % 2 + (e < 4 ? 0 : 8);
        registers.host[thread * 4 + e / 2] |= (uint32_t)layout_bf16(layout_value(row, k))
                                              << 16 * (e % 2);
    }
    Instruction test(to, wrong, name);
    test.expect("shared memory", 0, 0, allow_shared(run_wgmma<T, N, REGISTERS>, shared), true);
    LAUNCH((run_wgmma<T, N, REGISTERS>), 1, 128, shared, 0, reinterpret_cast<const uint4 *>(a.up()),
           reinterpret_cast<const uint4 *>(b.up()), registers.up(), out.device);
    out.down();
    for (int thread = 0; thread < 128; thread++) {
        const int w = thread / 32, g = thread % 32 / 4, t = thread % 4;
        for (int i = 0; i < N / 2; i++) {
            const int row = 16 * w + g + 8 * (i / 2 % 2), column = 8 * (i / 4) + 2 * t + i % 2;
            double sum = 0;
            for (int k = 0; k < depth; k++)
                sum += (double)layout_value(row, k) * layout_value(1000 + column, k);
            test.expect("thread, value", thread, i, out.host[thread * (N / 2) + i],
                        REGISTERS ? 2 * sum : sum);
        }
    }
}

// What batch invariance rests on: a sum has the same bits whichever operand is A, and whatever N is. Values are not
// integers, so that rounding shows.
template <class T, int N>
void product_bits(const std::vector<unsigned char> &a, const std::vector<unsigned char> &b,
                  std::vector<float> &d)
{
    Array<unsigned char> da(64 * 128), db(SHARED_MATRIX);
    Array<uint32_t> none(1);
    Array<float> out(128 * (N / 2));
    da.host.assign(a.begin(), a.begin() + 64 * 128);
    std::copy(b.begin(), b.begin() + N * 128, db.host.begin());
    allow_shared(run_wgmma<T, N, false>, 64 * 128 + SHARED_MATRIX);
    LAUNCH((run_wgmma<T, N, false>), 1, 128, 64 * 128 + SHARED_MATRIX, 0,
           reinterpret_cast<const uint4 *>(da.up()), reinterpret_cast<const uint4 *>(db.up()),
           none.up(), out.device);
    out.down();
    d.resize(64 * N);
    for (int i = 0; i < 64 * N; i++) {
        const int thread = i / (N / 2), v = i % (N / 2), g = thread % 32 / 4, t = thread % 4;
        d[(16 * (thread / 32) + g + 8 * (v / 2 % 2)) * N + 8 * (v / 4) + 2 * t + v % 2] =
            out.host[i];
    }
}

template <class T> void check_order(FILE *to, int *wrong, const char *name)
{
    std::vector<unsigned char> a(64 * 128), b(64 * 128);
    for (int i = 0; i < 64 * 128; i++) { // any bits but those of NaN, infinity and huge values
        uint32_t mixed = (uint32_t)i * 2654435761u ^ (uint32_t)i << 7;
        a[i] = (unsigned char)(mixed >> 9 & 0xbf);
        b[i] = (unsigned char)(mixed >> 17 & 0xbf);
    }
    std::vector<float> d, swapped, narrow;
    product_bits<T, 64>(a, b, d);
    product_bits<T, 64>(b, a, swapped);
    product_bits<T, 32>(a, b, narrow);
    Instruction test(to, wrong, name);
    for (int i = 0; i < 64 * 64; i++) {
        test.expect("A and B swapped, row, column", i / 64, i % 64, swapped[i % 64 * 64 + i / 64],
                    d[i]);
        if (i % 64 < 32)
            test.expect("N 32 and 64, row, column", i / 64, i % 64, narrow[i / 64 * 32 + i % 64],
                        d[i]);
    }
}

} // namespace

int GPU(layouts_sm90)(int ordinal, FILE *to)
{
    int wrong = 0;
    if (cudaSetDevice(ordinal))
        return 1;
    check_mbarrier(to, &wrong);
    check_copy_async_arrive(to, &wrong);
    check_elect(to, &wrong);
    check_tma(to, &wrong, "tensor copy 2d, 1 byte, swizzled", 1, true);
    check_tma(to, &wrong, "tensor copy 2d, bf16, swizzled", 2, true);
    check_tma(to, &wrong, "tensor copy 3d, 1 byte, swizzled", 1, false);
    check_bulk(to, &wrong);
    check_next(to, &wrong);
    check_wgmma<uint8_t, 8, false>(to, &wrong, "wgmma.m64n8k32 e4m3");
    check_wgmma<uint8_t, 32, false>(to, &wrong, "wgmma.m64n32k32 e4m3");
    check_wgmma<uint8_t, 64, false>(to, &wrong, "wgmma.m64n64k32 e4m3");
    check_wgmma<uint8_t, 128, false>(to, &wrong, "wgmma.m64n128k32 e4m3");
    check_wgmma<uint8_t, 256, false>(to, &wrong, "wgmma.m64n256k32 e4m3");
    check_wgmma<uint16_t, 16, false>(to, &wrong, "wgmma.m64n16k16 bf16");
    check_wgmma<uint16_t, 128, false>(to, &wrong, "wgmma.m64n128k16 bf16");
    check_wgmma<uint16_t, 64, true>(to, &wrong, "wgmma.m64n64k16 bf16, A registers");
    check_order<uint8_t>(to, &wrong, "wgmma e4m3: same bits, any role");
    check_order<uint16_t>(to, &wrong, "wgmma bf16: same bits, any role");
    return wrong;
}
