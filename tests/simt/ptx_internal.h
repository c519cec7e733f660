/* What the twins of instructions share: number formats, sums of products, copies that are under way. */
#ifndef SIMT_PTX_INTERNAL_H
#define SIMT_PTX_INTERNAL_H

#include "block.h"

namespace simt
{

float e4m3_value(uint8_t code); // NaN codes are NaN
float bf16_value(uint16_t bits);

// c[row][column] += sum over k of a[row][k] b[k][column], ascending k, one fused multiply-add each. Rows of a hold
// depth values, rows of b and c hold columns, a multiple of 8.
void multiply_add(float *c, const float *a, const float *b, unsigned rows, unsigned columns,
                  unsigned depth);

// Does the copies of `thread` below number `end` that are not done; note_acquire(object) will show them. Copies are
// numbered from 0 in the order of issue; copy_async_issued is the number of the next of the current thread.
void copy_async_finish(unsigned thread, uint64_t end, const void *object);
uint64_t copy_async_issued();

} // namespace simt

#endif
