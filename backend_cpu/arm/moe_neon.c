/* The moe family, NEON. */
#include "backend_cpu/arm/vector_neon.h"

#include "backend_cpu/moe_kernels.h"
