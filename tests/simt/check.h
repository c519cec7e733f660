/* Checks of memory accesses: the scheduler reports what orders threads, accesses come through the note_* calls of
 * block.h and, in checked builds, from the compiler's instrumentation. */
#ifndef SIMT_CHECK_H
#define SIMT_CHECK_H

#include "block.h"

namespace simt
{

void check_block_begins(Block *block);
// The lanes of `mask` met: what each did before, all see after.
void check_warp_ordered(Warp *warp, mask_t mask);
// The threads of `joined` (by warp) met at a barrier.
void check_barrier_passed(Block *block, const mask_t *joined, unsigned id);

} // namespace simt

#endif
