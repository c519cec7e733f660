/* The norm family, AVX-512. */
#include "backend_cpu/x86/vector_avx512.h"

#include "backend_cpu/norm_kernels.h"
