// Rows of activations as elementwise kernels read and write them: a lane holds eight neighbouring channels, 16
// lanes the 128 that share an activation scale.
//
// VECTOR variants move 16 bytes at a time and need rows that begin at multiples of 16 bytes and a width that is a
// multiple of 8; the others take any row. Channels past the end of a row read as 0 and are not written.
#ifndef RONDO_BACKEND_CUDA_ROWS_CUH
#define RONDO_BACKEND_CUDA_ROWS_CUH

#include "backend_cuda/ptx.cuh"

#define GROUP_LANES 16
#define LANE_CHANNELS 8

struct eight {
    float v[LANE_CHANNELS];
};

// ---- loads -----------------------------------------------------------------------------------------------------

template <int DTYPE> static __device__ __forceinline__ float load_value(const void *row, int64_t at)
{
    if constexpr (DTYPE == RONDO_F32)
        return static_cast<const float *>(row)[at];
    else if constexpr (DTYPE == RONDO_BF16)
        return bf16_f32(static_cast<const uint16_t *>(row)[at]);
    else if constexpr (DTYPE == RONDO_F16)
        return f16_f32(static_cast<const uint16_t *>(row)[at]);
    else
        return e4m3_f32_nan(static_cast<const uint8_t *>(row)[at]);
}

// Two 16-bit values of a register, the lower half first.
template <int DTYPE> static __device__ __forceinline__ void unpack2(uint32_t word, float *v)
{
    if constexpr (DTYPE == RONDO_BF16) {
        v[0] = bits_f32(word << 16);
        v[1] = bits_f32(word & 0xffff0000u);
    } else {
        v[0] = f16_f32((uint16_t)word);
        v[1] = f16_f32((uint16_t)(word >> 16));
    }
}

static __device__ __forceinline__ void unpack4_e4m3(uint32_t word, float *v)
{
    for (int i = 0; i < 4; i++)
        v[i] = e4m3_f32_nan((uint8_t)(word >> 8 * i));
}

// Channels at .. at + 7 of a row of n.
template <int DTYPE, bool VECTOR>
static __device__ __forceinline__ eight load8(const void *row, int64_t at, int64_t n)
{
    eight x;
    if constexpr (!VECTOR) {
        for (int i = 0; i < LANE_CHANNELS; i++)
            x.v[i] = at + i < n ? load_value<DTYPE>(row, at + i) : 0.0f;
    } else if (at >= n) {
        for (int i = 0; i < LANE_CHANNELS; i++)
            x.v[i] = 0.0f;
    } else if constexpr (DTYPE == RONDO_F32) {
        const float4 *from = reinterpret_cast<const float4 *>(static_cast<const float *>(row) + at);
        float4 a = from[0], b = from[1];
        x.v[0] = a.x, x.v[1] = a.y, x.v[2] = a.z, x.v[3] = a.w;
        x.v[4] = b.x, x.v[5] = b.y, x.v[6] = b.z, x.v[7] = b.w;
    } else if constexpr (DTYPE == RONDO_F8_E4M3) {
        uint2 word = *reinterpret_cast<const uint2 *>(static_cast<const uint8_t *>(row) + at);
        unpack4_e4m3(word.x, x.v);
        unpack4_e4m3(word.y, x.v + 4);
    } else {
        uint4 word = *reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(row) + at);
        unpack2<DTYPE>(word.x, x.v);
        unpack2<DTYPE>(word.y, x.v + 2);
        unpack2<DTYPE>(word.z, x.v + 4);
        unpack2<DTYPE>(word.w, x.v + 6);
    }
    return x;
}

// Channels at .. at + 3 of a row of f32.
template <bool VECTOR>
static __device__ __forceinline__ float4 load4_f32(const float *row, int64_t at, int64_t n)
{
    if constexpr (VECTOR)
        return at < n ? *reinterpret_cast<const float4 *>(row + at) : make_float4(0, 0, 0, 0);
    return make_float4(at < n ? row[at] : 0.0f, at + 1 < n ? row[at + 1] : 0.0f,
                       at + 2 < n ? row[at + 2] : 0.0f, at + 3 < n ? row[at + 3] : 0.0f);
}

// ---- stores ----------------------------------------------------------------------------------------------------

// `dtype` is f32 or bf16.
template <bool VECTOR>
static __device__ __forceinline__ void store8(void *row, int dtype, int64_t at, int64_t n,
                                              const eight &x)
{
    float *f32 = static_cast<float *>(row) + at;
    uint16_t *bf16 = static_cast<uint16_t *>(row) + at;
    if (at >= n)
        return;
    if constexpr (!VECTOR) {
        for (int i = 0; i < LANE_CHANNELS && at + i < n; i++) {
            if (dtype == RONDO_F32)
                f32[i] = x.v[i];
            else
                bf16[i] = f32_bf16(x.v[i]);
        }
    } else if (dtype == RONDO_F32) {
        float4 *to = reinterpret_cast<float4 *>(f32);
        to[0] = make_float4(x.v[0], x.v[1], x.v[2], x.v[3]);
        to[1] = make_float4(x.v[4], x.v[5], x.v[6], x.v[7]);
    } else {
        *reinterpret_cast<uint4 *>(bf16) =
            make_uint4(pack_bf16(x.v[0], x.v[1]), pack_bf16(x.v[2], x.v[3]),
                       pack_bf16(x.v[4], x.v[5]), pack_bf16(x.v[6], x.v[7]));
    }
}

// ---- arithmetic without branches -------------------------------------------------------------------------------

// 1 / x as the division rounds it, for 2^-126 <= |x| < 2^126: what the division itself does for these, without its
// branches, which keep the work on neighbouring channels apart.
static __device__ __forceinline__ float reciprocal(float x)
{
    float y = reciprocal_approx(x);
    return fmaf(fmaf(-x, y, 1.0f), y, y);
}

// sigmoid_f32 of each channel, to the bit.
static __device__ __forceinline__ struct eight sigmoid8(const struct eight &x)
{
    struct eight y;
    float largest = 0.0f;
    for (int i = 0; i < LANE_CHANNELS; i++) {
        y.v[i] = 1.0f + exp_f32(-x.v[i]);
        largest = fmaxf(largest, y.v[i]);
    }
    if (largest < 0x1p126f) {
        for (int i = 0; i < LANE_CHANNELS; i++)
            y.v[i] = reciprocal(y.v[i]);
    } else {
        for (int i = 0; i < LANE_CHANNELS; i++)
            y.v[i] = 1.0f / y.v[i];
    }
    return y;
}

// x / divisor as the division rounds it, by two corrections of x * (1 / divisor), whose residuals are exact
// (Markstein). Takes finite x (or NaN) and quotients that do not overflow; where |x| is below 2^-100 a residual
// may underflow and the quotient is only near.
static __device__ __forceinline__ float divide(float x, float divisor, float inverse)
{
    float q = x * inverse;
    q = fmaf(fmaf(-q, divisor, x), inverse, q);
    q = fmaf(fmaf(-q, divisor, x), inverse, q);
    return bits_f32((f32_bits(q) & 0x7fffffffu) | (f32_bits(x) & 0x80000000u));
}

// ---- norms -----------------------------------------------------------------------------------------------------

// 1 / sqrt(mean of squares + eps) of n channels, to each of the 16 lanes that call it; with `end` 0 instead of n
// they only go along. Whole warps.
static __device__ __forceinline__ float inverse_rms(const float *x, int32_t end, int32_t n,
                                                    float eps)
{
    float sum = 0.0f;
#pragma unroll 16
    for (int32_t i = (int32_t)(threadIdx.x % GROUP_LANES); i < end; i += GROUP_LANES)
        sum = fmaf(x[i], x[i], sum);
    return 1.0f / sqrtf(sum_tree16(sum) / (float)n + eps);
}

// ---- 1x128 quantisation ----------------------------------------------------------------------------------------

// Where codes and scales go.
struct code_rows {
    uint8_t *codes;
    float *scale;
    int64_t stride, scale_stride; // in elements
};

static inline struct code_rows code_rows_of(const struct rondo_tensor *out)
{
    struct code_rows rows = {static_cast<uint8_t *>(out->data), const_cast<float *>(out->scale),
                             out->row_stride, out->scale_stride};
    return rows;
}

// Scale of the 128 channels that an aligned group of 16 lanes holds; whole warps. A NaN does not count.
static __device__ __forceinline__ float group_scale(const eight &x, bool power_of_two)
{
    float largest = 0.0f;
    for (int i = 0; i < LANE_CHANNELS; i++)
        largest = fmaxf(largest, fabsf(x.v[i]));
    for (int mask = GROUP_LANES / 2; mask; mask /= 2)
        largest = fmaxf(largest, WARP_XOR(largest, mask));
    if (largest == 0.0f)
        return 1.0f;
    float scale = largest < INFINITY ? divide(largest, 448.0f, 1.0f / 448.0f) : largest;
    scale = scale < 1e-30f ? 1e-30f : scale;
    if (power_of_two) // a mantissa other than zero carries into the exponent
        scale = bits_f32((f32_bits(scale) + 0x7fffffu) & 0xff800000u);
    return scale;
}

// Codes of the lane's channels at .. at + 7, and the group's scale, to row `row`. Whole warps.
template <bool VECTOR>
static __device__ __forceinline__ void quantize8(const struct code_rows &out, int64_t row,
                                                 int64_t at, int64_t n, const eight &x,
                                                 bool power_of_two)
{
    float scale = group_scale(x, power_of_two);
    uint8_t *codes = out.codes + row * out.stride + at;
    uint32_t word[2] = {0, 0};
    if (at >= n)
        return;
    struct eight q;
    if (scale >= 0x1p-90f &&
        scale <= 0x1p120f) { // quotients that are only near lie below all codes
        float inverse = reciprocal(scale);
        for (int i = 0; i < LANE_CHANNELS; i++)
            q.v[i] = divide(x.v[i], scale, inverse);
    } else {
        for (int i = 0; i < LANE_CHANNELS; i++)
            q.v[i] = x.v[i] / scale;
    }
    for (int i = 0; i < LANE_CHANNELS; i += 2)
        word[i / 4] |= pack_e4m3(q.v[i], q.v[i + 1]) << i % 4 * 8;
    if constexpr (VECTOR) {
        *reinterpret_cast<uint2 *>(codes) = make_uint2(word[0], word[1]);
    } else {
        for (int i = 0; i < LANE_CHANNELS && at + i < n; i++)
            codes[i] = (uint8_t)(word[i / 4] >> i % 4 * 8);
    }
    if (threadIdx.x % GROUP_LANES == 0)
        out.scale[row * out.scale_stride + at / RONDO_BLOCK] = scale;
}

// Values as mode fp8 has them before it quantises: rounded to bf16.
static __device__ __forceinline__ void round_to_bf16(eight &x)
{
    for (int i = 0; i < LANE_CHANNELS; i += 2)
        unpack2<RONDO_BF16>(pack_bf16(x.v[i], x.v[i + 1]), x.v + i);
}

// An output of f32, bf16, or codes, or bf16 and codes.
struct act_rows {
    void *data;
    int64_t stride;
    int dtype;
    struct code_rows codes; // codes NULL: none
};

static inline struct act_rows act_rows_of(const struct rondo_tensor *out,
                                          const struct rondo_tensor *codes)
{
    struct act_rows rows = {out->data, out->row_stride, (int)out->dtype, {}};
    if (out->dtype == RONDO_F8_E4M3)
        rows.codes = code_rows_of(out);
    else if (codes && codes->data)
        rows.codes = code_rows_of(codes);
    return rows;
}

// Stores a lane's channels in any of these forms. Whole warps, whose lanes hold neighbouring channels.
template <bool VECTOR>
static __device__ __forceinline__ void store_act8(const struct act_rows &out, int64_t row,
                                                  int64_t at, int64_t n, eight &x)
{
    if (out.dtype != RONDO_F8_E4M3) {
        int64_t size = out.dtype == RONDO_F32 ? 4 : 2;
        store8<VECTOR>(static_cast<char *>(out.data) + row * out.stride * size, out.dtype, at, n,
                       x);
    }
    if (out.codes.codes) {
        round_to_bf16(x);
        quantize8<VECTOR>(out.codes, row, at, n, x, false);
    }
}

// ---- on the host -----------------------------------------------------------------------------------------------

// Whether VECTOR variants can take the tensor's rows.
static inline bool rows_are_vectors(const struct rondo_tensor *tensor)
{
    size_t row_bytes = (size_t)tensor->row_stride * rondo_dtype_size(tensor->dtype);
    return rondo_tensor_columns(tensor) % LANE_CHANNELS == 0 &&
           reinterpret_cast<uintptr_t>(tensor->data) % 16 == 0 &&
           (row_bytes % 16 == 0 || rondo_tensor_rows(tensor) <= 1);
}

static inline bool is_vector_address(const void *address)
{
    return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

#endif
