// Keys and values of a cache of codes for the tensor core kernels of softmax_attention: the ring of
// softmax_attention_tile.cuh, with codes on their way and the round that is computed widened to bf16.
//
// A block of positions is half the bytes of bf16 on its way; widening reads 16 KiB of shared memory and writes 32
// for keys and values of 128 channels, some 600 cycles of a multiprocessor, while their 16.5 KiB take about 1150
// cycles to arrive at its share of an H100's bandwidth. Prediction: decoding at 64 Ki 0.6 times the time of bf16.
// Checked under emulation, never run on a device.
#ifndef RONDO_BACKEND_CUDA_SOFTMAX_ATTENTION_CODES_CUH
#define RONDO_BACKEND_CUDA_SOFTMAX_ATTENTION_CODES_CUH

#include "backend_cuda/softmax_attention_tile.cuh"

// 16 codes, as bf16.
static __device__ __forceinline__ void attention_widen(uint16_t *to, const uint4 &codes)
{
    uint4 *out = reinterpret_cast<uint4 *>(to);
    out[0] = make_uint4(widen_e4m3<0>(codes.x), widen_e4m3<1>(codes.x), widen_e4m3<0>(codes.y),
                        widen_e4m3<1>(codes.y));
    out[1] = make_uint4(widen_e4m3<0>(codes.z), widen_e4m3<1>(codes.z), widen_e4m3<0>(codes.w),
                        widen_e4m3<1>(codes.w));
}

// Rounds of P steps. Shared memory: keys and values of one round in bf16, then `stages` slots, each the scales of
// keys and of values of P steps, then their codes. With no stages codes come straight from the caches, when they are
// needed, and there is one slot, of scales alone.
template <int HD, int P> struct attention_codes_ring {
    static constexpr int32_t fewest = 0;      // stages
    static constexpr int32_t units = HD / 16; // of 16 codes, of a row
    static constexpr int32_t scales = P * 2 * RONDO_CHUNK * (int32_t)sizeof(float);
    static constexpr int32_t slot_bytes = scales + P * 2 * RONDO_CHUNK * HD;

    uint16_t *memory;
    int32_t stages;

    __host__ __device__ static constexpr size_t fixed()
    {
        return P * 2 * ATTENTION_BLOCK(HD) * sizeof(uint16_t);
    }
    __host__ __device__ static constexpr size_t bytes(int32_t stages)
    {
        return fixed() + (stages ? (size_t)stages * slot_bytes : (size_t)scales);
    }

    __device__ __forceinline__ uint16_t *keys(int32_t step) const
    {
        return memory + step % P * 2 * ATTENTION_BLOCK(HD);
    }
    __device__ __forceinline__ uint16_t *values(int32_t step) const
    {
        return keys(step) + ATTENTION_BLOCK(HD);
    }
    __device__ __forceinline__ unsigned char *slot(int32_t round) const
    {
        return reinterpret_cast<unsigned char *>(memory) + fixed() +
               (stages ? round % stages * slot_bytes : 0);
    }
    // [C] of the keys; those of the values follow.
    __device__ __forceinline__ float *key_scales(int32_t step) const
    {
        return reinterpret_cast<float *>(slot(step / P)) + step % P * 2 * RONDO_CHUNK;
    }
    __device__ __forceinline__ float *value_scales(int32_t step) const
    {
        return key_scales(step) + RONDO_CHUNK;
    }

    // Codes of a step to shared memory, or, with no stages, widened. Rows that no query row sees become zeros.
    __device__ __forceinline__ void load_step(const attention_args &a, const attention_tile &tile,
                                              const attention_steps &steps, int32_t number,
                                              int32_t head) const
    {
        attention_step step = attention_step_at(tile, steps, number);
        int32_t page = attention_page(a, tile, step.block);
        unsigned char *codes =
            slot(number / P) + scales + number % P * 2 * RONDO_CHUNK * HD; // unused without stages
#pragma unroll 1
        for (int32_t i = (int32_t)threadIdx.x; i < RONDO_CHUNK * units; i += (int32_t)blockDim.x) {
            int32_t row = i / units, column = i % units * 16;
            attention_codes_row at = attention_find_codes(a, tile, step, page, head, row);
            bool exists = at.codes >= 0;
            const char *k = (const char *)(at.is_draft ? a.draft_k : a.cache_k);
            const char *v = (const char *)(at.is_draft ? a.draft_v : a.cache_v);
            int64_t from = exists ? at.codes + column : 0, scale = exists ? at.scale : 0;
            if (column == 0) {
                copy_async_4(key_scales(number) + row, k + scale, exists);
                copy_async_4(value_scales(number) + row, v + scale, exists);
            }
            if (stages) {
                copy_async_16(codes + row * HD + column, k + from, exists);
                copy_async_16(codes + (RONDO_CHUNK + row) * HD + column, v + from, exists);
            } else {
                uint4 zero = make_uint4(0, 0, 0, 0);
                uint4 key = exists ? *reinterpret_cast<const uint4 *>(k + from) : zero;
                uint4 value = exists ? *reinterpret_cast<const uint4 *>(v + from) : zero;
                attention_widen(keys(number) + row * ATTENTION_STRIDE(HD) + column, key);
                attention_widen(values(number) + row * ATTENTION_STRIDE(HD) + column, value);
            }
        }
    }

    // Starts copying the steps of a round that exist, as a group of copies.
    __device__ __forceinline__ void load(const attention_args &a, const attention_tile &tile,
                                         const attention_steps &steps, int32_t round,
                                         int32_t head) const
    {
        for (int32_t i = round * P; i < round * P + P && i < steps.n; i++)
            load_step(a, tile, steps, i, head);
        copy_async_commit();
    }

    __device__ __forceinline__ void widen(int32_t round, int32_t n_steps) const
    {
        const unsigned char *codes = slot(round) + scales;
        for (int32_t i = (int32_t)threadIdx.x; i < n_steps * 2 * RONDO_CHUNK * units;
             i += (int32_t)blockDim.x) {
            int32_t row = i / units, column = i % units * 16;
            attention_widen(memory + row * ATTENTION_STRIDE(HD) + column,
                            *reinterpret_cast<const uint4 *>(codes + row * HD + column));
        }
    }

    // Before round 0. What was copied before belongs to its group.
    __device__ __forceinline__ void begin(const attention_args &a, const attention_tile &tile,
                                          const attention_steps &steps, int32_t head) const
    {
        for (int32_t round = 0; round + 1 < stages; round++)
            load(a, tile, steps, round, head);
    }

    // Before a round is computed: it has come and is widened. All threads have done the round before it. All threads
    // of the block.
    __device__ __forceinline__ void next(const attention_args &a, const attention_tile &tile,
                                         const attention_steps &steps, int32_t round,
                                         int32_t head) const
    {
        if (stages <= 1) {
            __syncthreads();
            load(a, tile, steps, round, head);
            copy_async_wait<0>();
        } else {
            attention_wait_but(stages - 2);
        }
        __syncthreads();
        if (stages == 0)
            return;
        if (stages > 1)
            load(a, tile, steps, round + stages - 1, head);
        int32_t left = steps.n - round * P;
        widen(round, left < P ? left : P);
        __syncthreads();
    }
};

template <int HD, int P, bool CODES> struct attention_ring_of {
    typedef attention_ring<HD, P> type;
};
template <int HD, int P> struct attention_ring_of<HD, P, true> {
    typedef attention_codes_ring<HD, P> type;
};

// x times the scales of its columns, [C] in shared memory.
static __device__ __forceinline__ void attention_scale_columns(tile_c (&x)[ATTENTION_TILES],
                                                               const float *scales)
{
#pragma unroll
    for (int n = 0; n < ATTENTION_TILES; n++)
#pragma unroll
        for (int i = 0; i < TILE_C; i++)
            x[n].r[i] *= scales[n * 16 + tile_column(i)];
}

// ---- for the host -------------------------------------------------------------------------------------------------

// What tensor core kernels are compiled for: a head size, and whether the cache is of codes.
template <int Head, bool Codes> struct attention_shape {
    static constexpr int HD = Head;
    static constexpr bool CODES = Codes;
};

// f(an attention_shape), where there is one; else false.
template <class F> static inline bool attention_by_shape(int32_t head_dim, bool codes, const F &f)
{
    switch (2 * head_dim + codes) {
    case 2 * 64:
        return f(attention_shape<64, false>());
    case 2 * 96:
        return f(attention_shape<96, false>());
    case 2 * 128:
        return f(attention_shape<128, false>());
    case 2 * 256:
        return f(attention_shape<256, false>());
    case 2 * 64 + 1:
        return f(attention_shape<64, true>());
    case 2 * 128 + 1:
        return f(attention_shape<128, true>());
    }
    return false;
}

#endif
