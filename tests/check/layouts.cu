// Layouts of the instructions of ptx.cuh, and of tiles: see layouts.h. The expected places are written out here from
// the tables of the PTX manual, in terms of g = lane / 4 and t = lane % 4.
#include "backend_cuda/tile.cuh"
#include "tests/check/layouts.cuh"

namespace
{

#ifndef RONDO_HIP

// ---- ldmatrix --------------------------------------------------------------------------------------------------

// Row j of matrix i stands in slot (5 (8 i + j)) mod 32 of 16 bytes: lanes' addresses are followed, not guessed.
template <int COUNT, bool TRANSPOSED>
__global__ void run_ldmatrix(const uint16_t *in, uint32_t *out)
{
    SHARED_ARRAY(uint4, shared, 32);
    const int lane = (int)threadIdx.x;
    shared[lane] = reinterpret_cast<const uint4 *>(in)[lane];
    WARP_SYNC();
    uint32_t r[COUNT];
    const void *row = &shared[5 * lane % 32];
    if constexpr (COUNT == 1 && !TRANSPOSED)
        load_matrix_1(r, row);
    if constexpr (COUNT == 2 && !TRANSPOSED)
        load_matrix_2(r, row);
    if constexpr (COUNT == 4 && !TRANSPOSED)
        load_matrix_4(r, row);
    if constexpr (COUNT == 1 && TRANSPOSED)
        load_matrix_1_transposed(r, row);
    if constexpr (COUNT == 2 && TRANSPOSED)
        load_matrix_2_transposed(r, row);
    if constexpr (COUNT == 4 && TRANSPOSED)
        load_matrix_4_transposed(r, row);
    for (int i = 0; i < COUNT; i++)
        out[lane * COUNT + i] = r[i];
}

template <int COUNT, bool TRANSPOSED> void check_ldmatrix(FILE *to, int *wrong, const char *name)
{
    Array<uint16_t> in(256);
    Array<uint32_t> out(32 * COUNT);
    for (int matrix = 0; matrix < 4; matrix++)
        for (int row = 0; row < 8; row++)
            for (int column = 0; column < 8; column++)
                in.host[5 * (8 * matrix + row) % 32 * 8 + column] =
                    (uint16_t)(matrix << 8 | row << 4 | column);
    LAUNCH((run_ldmatrix<COUNT, TRANSPOSED>), 1, 32, 0, 0, in.up(), out.device);
    out.down();
    Instruction test(to, wrong, name);
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < COUNT; i++) {
            int g = lane / 4, t = lane % 4;
            int low = TRANSPOSED ? i << 8 | (2 * t) << 4 | g : i << 8 | g << 4 | 2 * t;
            int high = TRANSPOSED ? i << 8 | (2 * t + 1) << 4 | g : i << 8 | g << 4 | (2 * t + 1);
            test.expect("low half of lane, register", lane, i, out.host[lane * COUNT + i] & 0xffff,
                        low);
            test.expect("high half of lane, register", lane, i, out.host[lane * COUNT + i] >> 16,
                        high);
        }
    }
}

// ---- mma -------------------------------------------------------------------------------------------------------

template <bool E4M3> __global__ void run_mma(const uint32_t *a, const uint32_t *b, float *c)
{
    const int lane = (int)threadIdx.x;
    if constexpr (E4M3)
        mma_m16n8k32_e4m3(c + lane * 4, a + lane * 4, b + lane * 2);
    else
        mma_m16n8k16_bf16(c + lane * 4, a + lane * 4, b + lane * 2);
}

template <bool E4M3> void check_mma(FILE *to, int *wrong, const char *name)
{
    constexpr int depth = E4M3 ? 32 : 16;
    Array<uint32_t> a(128), b(64);
    Array<float> c(128);
    for (int lane = 0; lane < 32; lane++) {
        const int g = lane / 4, t = lane % 4;
        if (E4M3) {
            for (int i = 0; i < 16; i++) // A: 16 values of a lane, 4 a register
                a.host[lane * 4 + i / 4] |=
                    (uint32_t)layout_e4m3(
                        layout_value(i / 4 % 2 == 0 ? g : g + 8, t * 4 + i % 4 + (i < 8 ? 0 : 16)))
                    << 8 * (i % 4);
            for (int i = 0; i < 8; i++)
                b.host[lane * 2 + i / 4] |=
                    (uint32_t)layout_e4m3(layout_value(100 + t * 4 + i % 4 + (i < 4 ? 0 : 16), g))
                    << 8 * (i % 4);
        } else {
            for (int i = 0; i < 8; i++)
                a.host[lane * 4 + i / 2] |=
                    (uint32_t)layout_bf16(layout_value((i < 2 || (i >= 4 && i < 6)) ? g : g + 8,
                                                       t * 2 + i % 2 + (i < 4 ? 0 : 8)))
                    << 16 * (i % 2);
            for (int i = 0; i < 4; i++)
                b.host[lane * 2 + i / 2] |=
                    (uint32_t)layout_bf16(layout_value(100 + t * 2 + i % 2 + (i < 2 ? 0 : 8), g))
                    << 16 * (i % 2);
        }
        for (int i = 0; i < 4; i++)
            c.host[lane * 4 + i] = (float)(4 * lane + i); // FP8 units keep 14 bits of a sum
    }
    LAUNCH(run_mma<E4M3>, 1, 32, 0, 0, a.up(), b.up(), c.up());
    c.down();
    Instruction test(to, wrong, name);
    for (int lane = 0; lane < 32; lane++) {
        for (int i = 0; i < 4; i++) {
            const int row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + (i & 1);
            double sum = 4 * lane + i;
            for (int k = 0; k < depth; k++)
                sum += (double)layout_value(row, k) * layout_value(100 + k, column);
            test.expect("lane, register", lane, i, c.host[lane * 4 + i], sum);
        }
    }
}

// ---- cp.async, named barriers, bf16 ----------------------------------------------------------------------------

template <int SIZE> __global__ void run_copy_async(const unsigned char *in, unsigned char *out)
{
    SHARED_ARRAY(uint4, shared, 128);
    unsigned char *bytes = reinterpret_cast<unsigned char *>(shared);
    const int thread = (int)threadIdx.x;
    for (int i = thread; i < 2048; i += 64)
        bytes[i] = 0xee;
    __syncthreads();
    for (int group = 0; group < 2; group++) {
        const int at = (group * 64 + thread) * SIZE;
        const bool valid = (thread * 7 + group) % 3 != 0;
        if constexpr (SIZE == 4)
            copy_async_4(bytes + at, in + at, valid);
        if constexpr (SIZE == 8)
            copy_async_8(bytes + at, in + at, valid);
        if constexpr (SIZE == 16)
            copy_async_16(bytes + at, in + at, valid);
        copy_async_commit();
    }
    copy_async_wait<1>(); // the thread's own first copy is there
    for (int i = 0; i < SIZE; i++)
        out[2048 + thread * SIZE + i] = bytes[thread * SIZE + i];
    copy_async_wait<0>();
    __syncthreads();
    for (int i = thread; i < 2048; i += 64)
        out[i] = bytes[i];
}

template <int SIZE> void check_copy_async(FILE *to, int *wrong, const char *name)
{
    Array<unsigned char> in(2048), out(2048 + 64 * 16);
    for (int i = 0; i < 2048; i++)
        in.host[i] = (unsigned char)(i * 29 + i / 256 + 1);
    LAUNCH(run_copy_async<SIZE>, 1, 64, 0, 0, in.up(), out.device);
    out.down();
    Instruction test(to, wrong, name);
    for (int i = 0; i < 128 * SIZE; i++) {
        const int group = i / SIZE / 64, thread = i / SIZE % 64;
        const int want = (thread * 7 + group) % 3 != 0 ? in.host[i] : 0;
        test.expect("byte, group", i, group, out.host[i], want);
        if (group == 0)
            test.expect("byte after the first wait, group", i, group, out.host[2048 + i], want);
    }
    for (int i = 128 * SIZE; i < 2048; i++)
        test.expect("byte, not written", i, 0, out.host[i], 0xee);
}

// Warps 0, 1 write, warps 2, 3 read, in turns.
__global__ void run_named_barriers(int *out)
{
    SHARED_ARRAY(int, value, 64);
    const int thread = (int)threadIdx.x;
    for (int turn = 0; turn < 4; turn++) {
        if (thread < 64) {
            if (turn)
                named_barrier_sync(2, 128);
            value[thread] = turn * 100 + thread;
            named_barrier_arrive(1, 128);
        } else {
            named_barrier_sync(1, 128);
            out[turn * 64 + thread - 64] = value[127 - thread];
            if (turn < 3)
                named_barrier_arrive(2, 128);
        }
    }
}

void check_named_barriers(FILE *to, int *wrong)
{
    Array<int> out(256);
    LAUNCH(run_named_barriers, 1, 128, 0, 0, out.device);
    out.down();
    Instruction test(to, wrong, "barrier.sync, barrier.arrive");
    for (int i = 0; i < 256; i++)
        test.expect("turn, thread", i / 64, i % 64, out.host[i], i / 64 * 100 + 63 - i % 64);
}

__global__ void run_pack(const float *in, uint32_t *out)
{
    out[threadIdx.x] = pack_bf16(in[2 * threadIdx.x], in[2 * threadIdx.x + 1]);
}

void check_pack(FILE *to, int *wrong)
{
    // value, bf16: ties to even both ways, just above a tie, the largest, overflow, a subnormal
    static const struct {
        float value;
        uint16_t bits;
    } pairs[] = {{1.0f, 0x3f80},        {1.00390625f, 0x3f80}, {1.01171875f, 0x3f82},
                 {1.00390637f, 0x3f81}, {-3.140625f, 0xc049},  {3.3895314e38f, 0x7f7f},
                 {3.4e38f, 0x7f80},     {9.2e-41f, 0x0001}};
    Array<float> in(64);
    Array<uint32_t> out(32);
    for (int i = 0; i < 64; i++)
        in.host[i] = pairs[i * 3 % 8].value;
    LAUNCH(run_pack, 1, 32, 0, 0, in.up(), out.device);
    out.down();
    Instruction test(to, wrong, "cvt.rn.bf16x2");
    for (int i = 0; i < 64; i++)
        test.expect("lane, half", i / 2, i % 2, out.host[i / 2] >> 16 * (i % 2) & 0xffff,
                    pairs[i * 3 % 8].bits);
}

#endif

// ---- tiles -----------------------------------------------------------------------------------------------------

enum { TILE_STRIDE = 24 };

// MODE bits: A transposed, B transposed, A made in registers, B made in registers, then a second product with the first
// one's result as A.
template <int MODE> __global__ void run_tile(const uint16_t *a_in, const uint16_t *b_in, float *out)
{
    SHARED_ARRAY(uint4, a_units, 48);
    SHARED_ARRAY(uint4, b_units, 48);
    SHARED_ARRAY(uint4, scratch, 32);
    uint16_t *a = reinterpret_cast<uint16_t *>(a_units), *b = reinterpret_cast<uint16_t *>(b_units);
    for (int i = (int)threadIdx.x; i < 16 * TILE_STRIDE; i += WARP_SIZE) {
        a[i] = a_in[i];
        b[i] = b_in[i];
    }
    __syncthreads();
    tile_a ta;
    tile_b tb;
    tile_c c;
    tile_clear(c);
    if constexpr (MODE & 4) {
        for (int p = 0; p < TILE_AB / 2; p++)
            tile_set_a2(ta, p,
                        tile_pack(a[tile_a_row(2 * p) * TILE_STRIDE + tile_a_k(2 * p)],
                                  a[tile_a_row(2 * p + 1) * TILE_STRIDE + tile_a_k(2 * p + 1)]));
    } else if constexpr (MODE & 1) {
        tile_load_a_transposed(ta, a, TILE_STRIDE);
    } else {
        tile_load_a(ta, a, TILE_STRIDE);
    }
    if constexpr (MODE & 8) {
        for (int p = 0; p < TILE_AB / 2; p++)
            tile_set_b2(tb, p,
                        tile_pack(b[tile_b_column(2 * p) * TILE_STRIDE + tile_b_k(2 * p)],
                                  b[tile_b_column(2 * p + 1) * TILE_STRIDE + tile_b_k(2 * p + 1)]));
    } else if constexpr (MODE & 2) {
        tile_load_b_transposed(tb, b, TILE_STRIDE);
    } else {
        tile_load_b(tb, b, TILE_STRIDE);
    }
    tile_mma(c, ta, tb);
    tile_mma(c, ta, tb);
    if constexpr (MODE & 16) {
        tile_a_from_c(ta, c, reinterpret_cast<uint16_t *>(scratch));
        tile_clear(c);
        tile_mma(c, ta, tb);
    }
    for (int i = 0; i < TILE_C; i++)
        out[tile_row(i) * 16 + tile_column(i)] = c.r[i];
}

template <int MODE> void check_tile(FILE *to, int *wrong, const char *name)
{
    Array<uint16_t> a(16 * TILE_STRIDE), b(16 * TILE_STRIDE);
    Array<float> out(256);
    int va[16][16], vb[16][16]; // A[m][k], B[k][n]
    for (int i = 0; i < 16; i++) {
        for (int k = 0; k < 16; k++) {
            va[i][k] = layout_value(i, k) / (MODE & 16 ? 4 : 1);
            vb[k][i] = layout_value(200 + k, i) / (MODE & 16 ? 4 : 1);
            a.host[MODE & 1 ? k * TILE_STRIDE + i : i * TILE_STRIDE + k] = layout_bf16(va[i][k]);
            b.host[MODE & 2 ? k * TILE_STRIDE + i : i * TILE_STRIDE + k] = layout_bf16(vb[k][i]);
        }
    }
    LAUNCH(run_tile<MODE>, 1, WARP_SIZE, 0, 0, a.up(), b.up(), out.device);
    out.down();
    Instruction test(to, wrong, name);
    double first[16][16];
    for (int i = 0; i < 256; i++) {
        double &sum = first[i / 16][i % 16] = 0;
        for (int k = 0; k < 16; k++)
            sum += 2.0 * va[i / 16][k] * vb[k][i % 16];
    }
    for (int i = 0; i < 256; i++) {
        double want = first[i / 16][i % 16];
        if (MODE & 16) {
            want = 0;
            for (int k = 0; k < 16; k++)
                want += first[i / 16][k] * vb[k][i % 16];
        }
        test.expect("row, column", i / 16, i % 16, out.host[i], want);
    }
}

} // namespace

int GPU(layouts)(int ordinal, FILE *to)
{
    int wrong = 0, major = 0, minor = 0;
    if (cudaSetDevice(ordinal))
        return 1;
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, ordinal);
    cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, ordinal);
#ifndef RONDO_HIP
    check_ldmatrix<1, false>(to, &wrong, "ldmatrix.x1");
    check_ldmatrix<2, false>(to, &wrong, "ldmatrix.x2");
    check_ldmatrix<4, false>(to, &wrong, "ldmatrix.x4");
    check_ldmatrix<1, true>(to, &wrong, "ldmatrix.x1.trans");
    check_ldmatrix<2, true>(to, &wrong, "ldmatrix.x2.trans");
    check_ldmatrix<4, true>(to, &wrong, "ldmatrix.x4.trans");
    check_mma<false>(to, &wrong, "mma.m16n8k16 bf16");
    if (10 * major + minor >= 89)
        check_mma<true>(to, &wrong, "mma.m16n8k32 e4m3");
    check_copy_async<4>(to, &wrong, "cp.async 4 bytes, zero fill");
    check_copy_async<8>(to, &wrong, "cp.async 8 bytes, zero fill");
    check_copy_async<16>(to, &wrong, "cp.async 16 bytes, zero fill");
    check_named_barriers(to, &wrong);
    check_pack(to, &wrong);
#endif
    check_tile<0>(to, &wrong, "tile: A, B by rows");
    check_tile<1>(to, &wrong, "tile: A by columns");
    check_tile<2>(to, &wrong, "tile: B by rows of k");
    check_tile<12>(to, &wrong, "tile: A, B in registers");
    check_tile<16>(to, &wrong, "tile: product as A");
#ifndef RONDO_HIP
    if (major == 9)
        wrong += GPU(layouts_sm90)(ordinal, to);
#endif
    return wrong;
}
