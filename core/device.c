/* Devices by name, over all backends of this build. */
#include "core/backend.h"
#include "core/error.h"

#include <stdio.h>
#include <string.h>

size_t rondo_device_list(struct rondo_device_info *devices, size_t capacity)
{
    size_t count = 0;
    for (size_t i = 0; rondo_backends[i]; i++) {
        size_t used = count < capacity ? count : capacity;
        count += rondo_backends[i]->list(devices ? devices + used : NULL, capacity - used);
    }
    return count;
}

static void fail_unknown(const char *name, struct rondo_error *error)
{
    struct rondo_device_info devices[32];
    char names[512] = "";
    size_t count = rondo_device_list(devices, 32), length = 0;
    for (size_t i = 0; i < count && i < 32 && length < sizeof names; i++)
        length += (size_t)snprintf(names + length, sizeof names - length, "%s%s", i ? ", " : "",
                                   devices[i].name);
    rondo_fail(error, RONDO_NO_DEVICE,
               "device: this machine does not have it (got \"%s\", want one of %s)", name, names);
}

struct rondo_device *rondo_device_open(const char *name, const struct rondo_device_options *options,
                                       struct rondo_error *error)
{
    const char *colon = strchr(name, ':');
    size_t length = colon ? (size_t)(colon - name) : strlen(name);
    for (size_t i = 0; rondo_backends[i]; i++) {
        const struct rondo_backend *backend = rondo_backends[i];
        if (strlen(backend->name) == length && strncmp(backend->name, name, length) == 0)
            return backend->open(colon ? colon + 1 : "", options, error);
    }
    fail_unknown(name, error);
    return NULL;
}

void rondo_device_close(struct rondo_device *device)
{
    if (device)
        device->close(device);
}

const char *rondo_device_description(const struct rondo_device *device)
{
    return device->description;
}
