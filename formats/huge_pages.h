/* Memory of mapped files in huge pages. */
#ifndef RONDO_FORMATS_HUGE_PAGES_H
#define RONDO_FORMATS_HUGE_PAGES_H

#include <stdbool.h>
#include <stddef.h>

/* Whether copying pages of files that are in memory to huge pages would change them: the system gives huge pages to
 * those who ask, and of the `size` bytes mapped from `bytes` on, which are in memory, less than nine tenths are in
 * huge pages now. False where the system does not say. */
bool rondo_huge_pages_wanted(const void *bytes, size_t size);

/* Replaces whole pages of a mapping by a private copy of them in huge pages, at the same addresses and read-only.
 * Leaves them as they are where memory or address space is short. */
void rondo_huge_pages_copy(void *bytes, size_t size);

#endif
