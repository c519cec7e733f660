/* What tests ask of the library that stands in for cuBLASLt, by dlsym: it is loaded like the real one. */
#ifndef RONDO_TESTS_UNIT_CUBLASLT_FAKE_H
#define RONDO_TESTS_UNIT_CUBLASLT_FAKE_H

#include <stddef.h>

/* From now on the function `name` of the library returns `status`; 0: it works again. The environment variable
 * CUBLASLT_FAKE_FAIL, "cublasLtMatmul:13", does the same for programs. */
typedef void cublaslt_fake_fail_function(const char *name, int status);
/* How products get into a stream: calls `run` with `data`, each time that the stream comes there. NULL, as at first: at
 * once. Returns 0, or an error. */
typedef int cublaslt_fake_launch(void *stream, void (*run)(void *data), void *data);
typedef void cublaslt_fake_set_launch_function(cublaslt_fake_launch *launch);
/* Products that were started, and handles, descriptions, layouts and preferences that are alive. */
typedef size_t cublaslt_fake_count_function(void);

/* Of tests/unit/cuda_fake.c: whether a stream is one of its own. It has then taken the work, or done it. */
int cuda_fake_submit(void *stream, void (*run)(void *data), void *data);

#endif
