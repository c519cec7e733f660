/* The yardstick of rondo-check, by a library that stands in for cuBLASLt and for the driver: it multiplies what it was
 * given, on all kinds, and says which function fails.
 *
 *     yardstick FAKE */
#include "tests/check/yardstick.h"
#include "core/dtype.h"
#include "cublaslt_fake.h"
#include "test.h"

#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { M = 3, N = 16, K = 32, SETS = 2, WORKSPACE = 8192 };

static _Alignas(16) uint16_t x[M * K], weights[SETS * N * K], out[M * N];
static _Alignas(16) float scales[(M + 16) * 8];
static _Alignas(256) char workspace[WORKSPACE];

static struct yardstick_gemm make(enum yardstick_kind kind, const void *const *turns)
{
    return (struct yardstick_gemm){.kind = kind,
                                   .m = M,
                                   .n = N,
                                   .k = K,
                                   .x = x,
                                   .weight = turns,
                                   .n_weights = SETS,
                                   .x_scale = scales,
                                   .weight_scale = scales,
                                   .out = out,
                                   .workspace = workspace,
                                   .workspace_size = WORKSPACE};
}

/* The last of the weights that are taken in turns has been multiplied. */
static void expect_product(void)
{
    int wrong = 0;
    for (size_t m = 0; m < M; m++)
        for (size_t n = 0; n < N; n++) {
            float sum = 0;
            for (size_t k = 0; k < K; k++)
                sum += rondo_load(x, RONDO_BF16, m * K + k) *
                       rondo_load(weights, RONDO_BF16, ((SETS - 1) * N + n) * K + k);
            wrong += fabsf(rondo_load(out, RONDO_BF16, m * N + n) - sum) > fabsf(sum) / 256;
        }
    EXPECT(!wrong, "%d values are wrong", wrong);
}

int main(int argc, char **argv)
{
    static const char *const calls[] = {"cublasLtMatmulDescCreate",
                                        "cublasLtMatmulDescSetAttribute",
                                        "cublasLtMatrixLayoutCreate",
                                        "cublasLtMatmulPreferenceCreate",
                                        "cublasLtMatmulPreferenceSetAttribute",
                                        "cublasLtMatmulAlgoGetHeuristic",
                                        "cublasLtMatmul"};
    const void *const turns[SETS] = {weights, weights + N * K};
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW) : NULL;
    cublaslt_fake_fail_function *fail;
    cublaslt_fake_count_function *alive;
    if (!library || !(*(void **)&fail = dlsym(library, "cublaslt_fake_fail")) ||
        !(*(void **)&alive = dlsym(library, "cublaslt_fake_alive")))
        return fprintf(stderr, "usage: yardstick FAKE\n"), 2;
    setenv("RONDO_CUBLASLT", argv[1], 1);
    setenv("RONDO_CHECK_DRIVER", argv[1], 1);
    for (size_t i = 0; i < M * K; i++)
        rondo_store(x, RONDO_BF16, i, (float)((int)(i * 7 % 13) - 6));
    for (size_t i = 0; i < SETS * N * K; i++)
        rondo_store(weights, RONDO_BF16, i, (float)((int)(i * 5 % 11) - 4));

    char why[100] = "";
    struct yardstick *yardstick = yardstick_open(0, why, sizeof why);
    EXPECT(yardstick, "%s", why);
    for (int kind = YARDSTICK_BF16; yardstick && kind <= YARDSTICK_F8_BLOCK; kind++) {
        struct yardstick_gemm gemm = make((enum yardstick_kind)kind, turns);
        memset(out, 0xff, sizeof out);
        double time = yardstick_time(yardstick, &gemm, why, sizeof why);
        EXPECT(time > 0 && time < 1, "kind %d: %g s, %s", kind, time, why);
        if (kind == YARDSTICK_BF16)
            expect_product();
        for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
            fail(calls[i], 14);
            EXPECT(yardstick_time(yardstick, &gemm, why, sizeof why) == 0 &&
                       strstr(why, "error 14"),
                   "kind %d, %s fails: %s", kind, calls[i], why);
            fail(calls[i], 0);
        }
    }
    yardstick_close(yardstick);
    EXPECT(alive() == 0, "%zu objects are alive", alive());
    EXPECT(!yardstick_open(1, why, sizeof why) && strstr(why, "no context of device 1"), "%s", why);
    fail("cublasLtCreate", 1);
    EXPECT(!yardstick_open(0, why, sizeof why) && strstr(why, "cublasLtCreate: error 1"), "%s",
           why);
    setenv("RONDO_CHECK_DRIVER", "/nowhere/libcuda.so", 1);
    EXPECT(!yardstick_open(0, why, sizeof why) && strstr(why, "is not installed"), "%s", why);
    return test_result();
}
