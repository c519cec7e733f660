/* GEMM kernels for AVX-512 (F, BW, DQ, VL). */
#define LEVEL avx512
#include "backend_cpu/x86/gemm_avx512.h"

#include "backend_cpu/gemm_kernels.h"
