// States from chunk to chunk: the kernels that only fold, for long prompts whose outputs are made by many blocks
// afterwards, and for accepted drafts.
#ifndef RONDO_BACKEND_CUDA_LINEAR_ATTENTION_FOLD_CUH
#define RONDO_BACKEND_CUDA_LINEAR_ATTENTION_FOLD_CUH

#include "backend_cuda/linear_attention.cuh"

// A block has FOLD_KEYS x VALUE_TILE of a head's state, four warps with 16 x 32 each.
#define FOLD_KEYS 32
#define FOLD_WARPS 4
#define FOLD_STAGES 4

struct fold_shared {
    static constexpr int K = FOLD_KEYS + ROW_PAD, V = VALUE_TILE + ROW_PAD;
    uint16_t k[FOLD_STAGES][CHUNK * K], v[FOLD_STAGES][CHUNK * V];
    float decay[CHUNK + 4];
};

// What a block of a fold is of: column of its first keys and values.
struct fold_tile_place {
    int key, value;
};

static __device__ __forceinline__ fold_tile_place fold_place(int tile, int head_dim)
{
    fold_tile_place place;
    place.key = tile % (head_dim / FOLD_KEYS) * FOLD_KEYS;
    place.value = tile / (head_dim / FOLD_KEYS) * VALUE_TILE;
    return place;
}

// Folds whole chunks 0 .. n_whole - 1, which begin at position `origin`, into the warp's part of `state`, which is
// that of chunk 0; before(chunk) is called before each fold. s->decay may have been written without a barrier.
template <class ROWS, class BEFORE>
static __device__ __forceinline__ void fold_chunks(tile_c (&state)[2], fold_shared *s,
                                                   const ROWS &rows, fold_tile_place place,
                                                   int origin, int n_whole, BEFORE before)
{
    int warp = (int)threadIdx.x / WARP_SIZE, key = warp % 2 * 16, value = warp / 2 * 32;
    auto stage = [&](int chunk) {
        if (chunk < n_whole) {
            int first = origin + chunk * CHUNK, slot = chunk % FOLD_STAGES;
            stage_rows<FOLD_KEYS, fold_shared::K>(
                s->k[slot], CHUNK, NULL, [&](int j) { return rows.k(first + j) + place.key; });
            stage_rows<VALUE_TILE, fold_shared::V>(
                s->v[slot], CHUNK, NULL, [&](int j) { return rows.v(first + j) + place.value; });
        }
        copy_async_commit(); // empty groups keep the count
    };
    for (int chunk = 0; chunk < FOLD_STAGES - 1; chunk++)
        stage(chunk);
    for (int chunk = 0; chunk < n_whole; chunk++) {
        copy_async_wait<FOLD_STAGES - 2>();
        __syncthreads(); // the chunk is there, and all are done with the one before
        stage(chunk + FOLD_STAGES - 1);
        before(chunk);
        const uint16_t *k = s->k[chunk % FOLD_STAGES] + key;
        const uint16_t *v = s->v[chunk % FOLD_STAGES] + value;
        tile_c u[2];
        tile_clear(u[0]);
        tile_clear(u[1]);
#pragma unroll
        for (int j = 0; j < CHUNK; j += 16) {
            tile_a high, low;
            load_decayed_keys(high, low, k + j * fold_shared::K, fold_shared::K, s->decay, j);
#pragma unroll
            for (int t = 0; t < 2; t++) {
                tile_b b;
                tile_load_b_transposed(b, v + j * fold_shared::V + t * 16, fold_shared::V);
                tile_mma(u[t], high, b);
                tile_mma(u[t], low, b);
            }
        }
        fold_tile(state[0], u[0], s->decay[CHUNK]);
        fold_tile(state[1], u[1], s->decay[CHUNK]);
    }
}

// The warp's part of a state [D, D] in memory.
template <int D>
static __device__ __forceinline__ void load_fold_state(tile_c (&state)[2], const float *from,
                                                       fold_tile_place place)
{
    int warp = (int)threadIdx.x / WARP_SIZE;
    from += (place.key + warp % 2 * 16) * D + place.value + warp / 2 * 32;
    load_tile(state[0], from, D);
    load_tile(state[1], from + 16, D);
}

template <int D>
static __device__ __forceinline__ void store_fold_state(float *to, const tile_c (&state)[2],
                                                        fold_tile_place place)
{
    int warp = (int)threadIdx.x / WARP_SIZE;
    to += (place.key + warp % 2 * 16) * D + place.value + warp / 2 * 32;
    store_tile(to, D, state[0], 0, 16);
    store_tile(to + 16, D, state[1], 0, 16);
}

#endif
