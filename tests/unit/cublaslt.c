/* Products by cuBLASLt: what the library is asked for, of a library that does what NVIDIA's manual says; and why one can
 * not be used.
 *
 *     cublaslt FAKE */
#include "backend_cuda/cublaslt.h"
#include "core/dtype.h"
#include "cublaslt_fake.h"
#include "test.h"

#include <dlfcn.h>
#include <math.h>
#include <string.h>

enum { M = 5, N = 16, K = 24, X_STRIDE = 32, OUT_STRIDE = 40 };

static void test_product(struct cublaslt *library, int out_type, int add)
{
    static _Alignas(16) uint16_t x[M * X_STRIDE], weight[N * K];
    static _Alignas(16) float out[M * OUT_STRIDE]; /* of either type */
    enum rondo_dtype dtype = out_type == CUBLASLT_BF16 ? RONDO_BF16 : RONDO_F32;
    for (size_t i = 0; i < M * X_STRIDE; i++)
        rondo_store(x, RONDO_BF16, i, (float)((int)(i * 7 % 13) - 6));
    for (size_t i = 0; i < N * K; i++)
        rondo_store(weight, RONDO_BF16, i, (float)((int)(i * 5 % 11) - 4));
    for (size_t i = 0; i < M * OUT_STRIDE; i++)
        rondo_store(out, dtype, i, (float)(i % 3));
    struct cublaslt_product product = {.m = M,
                                       .n = N,
                                       .k = K,
                                       .x = x,
                                       .weight = weight,
                                       .x_stride = X_STRIDE,
                                       .out = out,
                                       .out_stride = OUT_STRIDE,
                                       .out_type = out_type,
                                       .add = add};
    int status = rondo_cublaslt_multiply(library, &product, NULL), wrong = 0;
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < OUT_STRIDE; n++) {
            float was = (float)((m * OUT_STRIDE + n) % 3), want = n < N && !add ? 0 : was;
            for (size_t k = 0; k < K && n < N; k++)
                want += rondo_load(x, RONDO_BF16, m * X_STRIDE + k) *
                        rondo_load(weight, RONDO_BF16, n * K + k);
            wrong += fabsf(rondo_load(out, dtype, m * OUT_STRIDE + n) - want) >
                     (out_type == CUBLASLT_BF16 ? fabsf(want) / 256 : 0);
        }
    EXPECT(!status && !wrong, "type %d, add %d: error %d, %d values are wrong", out_type, add,
           status, wrong);
    product.m = 13; /* what the library has no algorithm for */
    product.out_stride = N;
    EXPECT(rondo_cublaslt_multiply(library, &product, NULL) == 15, "13 rows");
}

static void expect_none(const char *path, const char *reason)
{
    char why[100] = "";
    int status = -1;
    EXPECT(!rondo_cublaslt_open(path, why, sizeof why, &status) && strstr(why, reason) && !status,
           "%s: %s, %d", path, why, status);
}

int main(int argc, char **argv)
{
    char why[100] = "";
    struct cublaslt *library =
        argc == 2 ? rondo_cublaslt_open(argv[1], why, sizeof why, NULL) : NULL;
    EXPECT(library, "%s", why);
    if (library) {
        EXPECT(!strcmp(library->version, "13.0.2"), "%s", library->version);
        test_product(library, CUBLASLT_BF16, 0);
        test_product(library, CUBLASLT_F32, 0);
        test_product(library, CUBLASLT_F32, 1);
    }
    rondo_cublaslt_close(library);
    void *loaded = dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD);
    EXPECT(loaded, "the library has been unloaded");
    cublaslt_fake_count_function *alive;
    if (loaded && (*(void **)&alive = dlsym(loaded, "cublaslt_fake_alive")))
        EXPECT(alive() == 0, "%zu objects are alive", alive());
    expect_none("/nowhere/libcublasLt.so", "can not be loaded");
    expect_none("libm.so.6", "it has no cublasLtCreate");
    return test_result();
}
