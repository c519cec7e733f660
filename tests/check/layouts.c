/* rondo-check --layouts: the self-test of instructions on every GPU, real or emulated. */
#include "tests/check/internal.h"

#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* See layouts.h; there is one for each backend that this program was built with. */
typedef int self_test(int ordinal, FILE *to);
self_test rondo_cuda_layouts, rondo_simt_layouts;

static const struct {
    const char *backend; /* and ':' */
    self_test *run;
} self_tests[] = {
#ifdef CHECK_CUDA_LAYOUTS
    {"cuda:", rondo_cuda_layouts},
#endif
#ifdef CHECK_SIMT_LAYOUTS
    {"simt:", rondo_simt_layouts},
#endif
    {NULL, NULL},
};

int check_layouts(const char *pattern)
{
    struct rondo_device_info devices[32];
    size_t n = rondo_device_list(devices, 32);
    int n_devices = 0, wrong = 0;
    for (size_t i = 0; i < n && i < 32; i++) {
        const char *name = devices[i].name;
        if (fnmatch(pattern, name, 0) != 0)
            continue;
        for (int t = 0; self_tests[t].backend; t++) {
            size_t length = strlen(self_tests[t].backend);
            if (strncmp(name, self_tests[t].backend, length) != 0)
                continue;
            printf("%s  %s\n", name, devices[i].description);
            wrong += self_tests[t].run(atoi(name + length), stdout);
            n_devices++;
        }
    }
    if (n_devices == 0) {
        fprintf(stderr, "rondo-check: --layouts: no GPU of this machine matches (got \"%s\")\n",
                pattern);
        return RONDO_NO_DEVICE;
    }
    printf("%d devices, %d instructions are not as expected\n", n_devices, wrong);
    return wrong ? RONDO_FAILED : RONDO_OK;
}
