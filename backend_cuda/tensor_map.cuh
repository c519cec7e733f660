// Tensor maps for the copy engine, made on the host. The driver's function is found at run time, so that nothing
// links against the driver's library.
#ifndef RONDO_BACKEND_CUDA_TENSOR_MAP_CUH
#define RONDO_BACKEND_CUDA_TENSOR_MAP_CUH

#include "backend_cuda/kernel.cuh"

#include <cuda.h>

typedef CUresult (*tensor_map_encoder)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *,
                                       const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                       const cuuint32_t *, CUtensorMapInterleave,
                                       CUtensorMapSwizzle, CUtensorMapL2promotion,
                                       CUtensorMapFloatOOBfill);

// NULL where the driver has none. Looked up once; the same for all devices.
static tensor_map_encoder tensor_map_known_encoder;

static inline tensor_map_encoder tensor_map_find_encoder()
{
    tensor_map_encoder known = __atomic_load_n(&tensor_map_known_encoder, __ATOMIC_RELAXED);
    if (known)
        return known;
    void *function = nullptr;
    enum cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, 0, &result) !=
            cudaSuccess ||
        result != cudaDriverEntryPointSuccess)
        return nullptr;
    known = reinterpret_cast<tensor_map_encoder>(function);
    __atomic_store_n(&tensor_map_known_encoder, known, __ATOMIC_RELAXED);
    return known;
}

// A tensor of up to three dimensions, innermost first, of 1- or 2-byte elements: dim elements, stride bytes of
// dimensions 1 and 2 (multiples of 16), and the box of one copy, whose rows are 128 bytes in 128-byte swizzle.
static inline bool tensor_map_encode(tensor_map_encoder encode, CUtensorMap *map, int element,
                                     unsigned rank, const void *data, const uint64_t *dim,
                                     const uint64_t *stride, const uint32_t *box)
{
    const cuuint64_t dims[3] = {dim[0], dim[1], rank > 2 ? dim[2] : 1};
    const cuuint64_t strides[2] = {stride[0], rank > 2 ? stride[1] : 0};
    const cuuint32_t boxes[3] = {box[0], box[1], rank > 2 ? box[2] : 1}, ones[3] = {1, 1, 1};
    return encode(map,
                  element == 1 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
                  rank, const_cast<void *>(data), dims, strides, boxes, ones,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                  CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

#endif
