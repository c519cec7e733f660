/* The driver's function that makes tensor maps, with the refusals of the real one. */
#include "tensor_map.h"

#include <stddef.h>
#include <string.h>

static unsigned element_size(CUtensorMapDataType type)
{
    switch (type) {
    case CU_TENSOR_MAP_DATA_TYPE_UINT8:
        return 1;
    case CU_TENSOR_MAP_DATA_TYPE_UINT16:
    case CU_TENSOR_MAP_DATA_TYPE_BFLOAT16:
        return 2;
    case CU_TENSOR_MAP_DATA_TYPE_UINT32:
    case CU_TENSOR_MAP_DATA_TYPE_FLOAT32:
        return 4;
    }
    return 0;
}

CUresult simt_cuTensorMapEncodeTiled(CUtensorMap *map, CUtensorMapDataType type, cuuint32_t rank,
                                     void *base, const cuuint64_t *dim, const cuuint64_t *stride,
                                     const cuuint32_t *box, const cuuint32_t *element_stride,
                                     CUtensorMapInterleave interleave, CUtensorMapSwizzle swizzle,
                                     CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill)
{
    static const unsigned span[] = {256 * 4, 32, 64, 128}; // most bytes of an inner box, by swizzle
    const unsigned element = element_size(type);
    if (!map || (uintptr_t)map % 64 || !element || rank < 1 || rank > simt::tensor_map_rank ||
        !base || (uintptr_t)base % 16 || interleave != CU_TENSOR_MAP_INTERLEAVE_NONE ||
        (unsigned)swizzle > CU_TENSOR_MAP_SWIZZLE_128B ||
        (unsigned)promotion > CU_TENSOR_MAP_L2_PROMOTION_L2_256B ||
        fill != CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE)
        return CUDA_ERROR_INVALID_VALUE;
    simt::Tensor_map made;
    memset(&made, 0, sizeof made);
    made.mark = simt::tensor_map_mark;
    made.element = (uint8_t)element;
    made.rank = (uint8_t)rank;
    made.swizzle = (uint8_t)swizzle;
    made.base = static_cast<const uint8_t *>(base);
    for (unsigned i = 0; i < rank; i++) {
        if (dim[i] < 1 || dim[i] > (1ull << 32) - 1 || box[i] < 1 || box[i] > 256 ||
            element_stride[i] != 1)
            return CUDA_ERROR_INVALID_VALUE;
        if (i && (stride[i - 1] % 16 || stride[i - 1] >= 1ull << 40))
            return CUDA_ERROR_INVALID_VALUE;
        made.dim[i] = (uint32_t)dim[i];
        made.box[i] = (uint16_t)box[i];
        if (i)
            made.stride[i - 1] = stride[i - 1];
    }
    if (box[0] * element % 16 || box[0] * element > span[swizzle])
        return CUDA_ERROR_INVALID_VALUE;
    memset(map, 0, sizeof *map);
    memcpy(map, &made, sizeof made);
    return CUDA_SUCCESS;
}
