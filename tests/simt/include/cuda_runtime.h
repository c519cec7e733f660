/* Found in place of CUDA's own header in emulated builds: the runtime API, and in C++ what kernels are written
 * in. See tests/simt/README.md. */
#ifndef SIMT_CUDA_RUNTIME_H
#define SIMT_CUDA_RUNTIME_H

#include "../runtime_api.h"
#ifdef __cplusplus
#include "../kernel.h"
#endif

#endif
