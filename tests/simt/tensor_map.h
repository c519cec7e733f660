/* What the emulator keeps in a CUtensorMap. */
#ifndef SIMT_TENSOR_MAP_H
#define SIMT_TENSOR_MAP_H

#include <cuda.h>

namespace simt
{

enum : unsigned { tensor_map_mark = 0x70616d74, tensor_map_rank = 5 };

struct Tensor_map {
    uint32_t mark;
    uint8_t element, rank, swizzle; // bytes of an element; CUtensorMapSwizzle
    const uint8_t *base;
    uint32_t dim[tensor_map_rank];
    uint16_t box[tensor_map_rank];
    uint64_t stride[tensor_map_rank - 1]; // bytes, of dimensions 1 and up
};
static_assert(sizeof(Tensor_map) <= sizeof(CUtensorMap), "");

} // namespace simt

#endif
