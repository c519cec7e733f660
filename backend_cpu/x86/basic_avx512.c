/* The basic family, AVX-512. */
#include "backend_cpu/x86/vector_avx512.h"

#include "backend_cpu/basic_kernels.h"
