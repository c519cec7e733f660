/* The same for C. */
#include "hip_runtime.h"
