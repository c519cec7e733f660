/* The basic family, AVX2. */
#include "backend_cpu/x86/vector_avx2.h"

#include "backend_cpu/basic_kernels.h"
