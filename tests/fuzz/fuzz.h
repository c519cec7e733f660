/* What every fuzz target defines: reads `size` bytes as its input, returns 0, and never crashes, leaks or
 * hangs. libFuzzer calls it in builds with -Dfuzz=true; standalone.c runs it over the corpus in all. */
#ifndef RONDO_TESTS_FUZZ_FUZZ_H
#define RONDO_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
