/* The norm family, NEON. */
#include "backend_cpu/arm/vector_neon.h"

#include "backend_cpu/norm_kernels.h"
