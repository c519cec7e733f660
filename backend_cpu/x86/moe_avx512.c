/* The moe family, AVX-512. */
#include "backend_cpu/x86/vector_avx512.h"

#include "backend_cpu/moe_kernels.h"
