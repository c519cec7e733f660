/* The functions of the CUDA driver that rondo-check's yardstick takes from libcuda.so.1, beside those of
 * cublaslt_fake.c in one library: one device, streams that work at once, and graphs that do again what was submitted
 * while a stream captured. Calls out of order fail. */
#include "tests/unit/cublaslt_fake.h"

#include <stdbool.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))
#define FUNCTION(name, ...)                                                                        \
    EXPORT int name(__VA_ARGS__);                                                                  \
    EXPORT int name(__VA_ARGS__)

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101, INVALID_CONTEXT = 201 };

struct work {
    void (*run)(void *data);
    void *data;
};

struct graph {
    struct work *work; /* [n] */
    size_t n;
};

struct stream {
    struct graph *captures; /* NULL: it does not */
    struct stream *next;
};

static struct stream *streams;
static int context, depth; /* the only context, and how often it is on the stack */

static struct stream *find(const void *stream)
{
    struct stream *found = streams;
    while (found && found != stream)
        found = found->next;
    return found;
}

int cuda_fake_submit(void *stream, void (*run)(void *data), void *data)
{
    struct stream *own = find(stream);
    if (!own)
        return 0;
    if (!own->captures) {
        run(data);
        return 1;
    }
    struct graph *graph = own->captures;
    struct work *grown = realloc(graph->work, (graph->n + 1) * sizeof *grown);
    if (!grown)
        abort();
    grown[graph->n++] = (struct work){run, data};
    graph->work = grown;
    return 1;
}

FUNCTION(cuDeviceGet, int *device, int ordinal)
{
    *device = ordinal;
    return ordinal == 0 ? 0 : INVALID_DEVICE;
}

FUNCTION(cuDevicePrimaryCtxRetain, void **out, int device)
{
    *out = &context;
    return device == 0 ? 0 : INVALID_DEVICE;
}

FUNCTION(cuCtxPushCurrent_v2, void *which)
{
    depth += which == &context;
    return which == &context ? 0 : INVALID_CONTEXT;
}

FUNCTION(cuCtxPopCurrent_v2, void **out)
{
    *out = &context;
    return depth-- > 0 ? 0 : INVALID_CONTEXT;
}

FUNCTION(cuStreamCreate, void **out, unsigned flags)
{
    if (!depth || flags > 1)
        return INVALID_CONTEXT;
    struct stream *stream = calloc(1, sizeof *stream);
    if (!stream)
        return OUT_OF_MEMORY;
    stream->next = streams;
    *out = streams = stream;
    return 0;
}

FUNCTION(cuStreamDestroy_v2, void *stream)
{
    struct stream **at = &streams;
    while (*at && *at != stream)
        at = &(*at)->next;
    if (!*at || !depth)
        return INVALID_VALUE;
    *at = (*at)->next;
    free(stream);
    return 0;
}

FUNCTION(cuStreamSynchronize, void *stream)
{
    const struct stream *own = find(stream);
    return own && !own->captures && depth ? 0 : INVALID_VALUE;
}

FUNCTION(cuStreamBeginCapture_v2, void *stream, int mode)
{
    struct stream *own = find(stream);
    if (!own || own->captures || mode < 0 || mode > 2 || !depth)
        return INVALID_VALUE;
    own->captures = calloc(1, sizeof *own->captures);
    return own->captures ? 0 : OUT_OF_MEMORY;
}

FUNCTION(cuStreamEndCapture, void *stream, void **graph)
{
    struct stream *own = find(stream);
    if (!own || !own->captures)
        return INVALID_VALUE;
    *graph = own->captures;
    own->captures = NULL;
    return 0;
}

static int release(struct graph *graph)
{
    free(graph->work);
    free(graph);
    return 0;
}

FUNCTION(cuGraphInstantiateWithFlags, void **executable, void *graph, unsigned long long flags)
{
    const struct graph *from = graph;
    struct graph *copy = calloc(1, sizeof *copy);
    if (!copy || flags)
        return free(copy), OUT_OF_MEMORY;
    for (size_t i = 0; i < from->n; i++) {
        struct work *grown = realloc(copy->work, (i + 1) * sizeof *grown);
        if (!grown)
            abort();
        copy->work = grown;
        copy->work[copy->n++] = from->work[i];
    }
    *executable = copy;
    return 0;
}

FUNCTION(cuGraphLaunch, void *executable, void *stream)
{
    const struct graph *graph = executable;
    if (!find(stream) || !depth)
        return INVALID_VALUE;
    for (size_t i = 0; i < graph->n; i++)
        graph->work[i].run(graph->work[i].data);
    return 0;
}

FUNCTION(cuGraphDestroy, void *graph)
{
    return release(graph);
}

FUNCTION(cuGraphExecDestroy, void *executable)
{
    return release(executable);
}
