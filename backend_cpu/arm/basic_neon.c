/* The basic family, NEON. */
#include "backend_cpu/arm/vector_neon.h"

#include "backend_cpu/basic_kernels.h"
