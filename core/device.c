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

size_t rondo_backend_list(struct rondo_backend_info *backends, size_t capacity)
{
    size_t count = 0;
    for (size_t i = 0; rondo_backends[i]; i++) {
        const struct rondo_backend *backend = rondo_backends[i];
        size_t at = 0;
        while (at < count && at < capacity && strcmp(backends[at].name, backend->name) != 0)
            at++;
        bool known = at < count && at < capacity; /* another one of this name */
        count += !known;
        if (at >= capacity)
            continue;
        struct rondo_backend_info *info = &backends[at];
        if (!known)
            *info = (struct rondo_backend_info){0};
        snprintf(info->name, sizeof info->name, "%s", backend->name);
        info->n_devices += backend->list(NULL, 0);
        if (backend->explain && !*info->reason)
            backend->explain(info->reason, sizeof info->reason);
    }
    return count;
}

/* Appends to a list of names, as far as it has room. */
static void add_name(char *names, size_t size, const char *name)
{
    size_t length = strlen(names);
    snprintf(names + length, size - length, "%s%.31s", length ? ", " : "", name);
}

static void fail_unknown(const char *name, struct rondo_error *error)
{
    struct rondo_device_info devices[32];
    char names[512] = "", backends[128] = "";
    size_t count = rondo_device_list(devices, 32);
    for (size_t i = 0; i < count && i < 32; i++)
        add_name(names, sizeof names, devices[i].name);
    for (size_t i = 0; rondo_backends[i]; i++)
        add_name(backends, sizeof backends, rondo_backends[i]->name);
    rondo_fail(error, RONDO_NO_DEVICE,
               "device: this machine does not have it (got \"%s\", want one of %s); this build has "
               "the backends %s",
               name, names, backends);
}

struct rondo_device *rondo_device_open(const char *name, const struct rondo_device_options *options,
                                       struct rondo_error *error)
{
    const char *colon = strchr(name, ':');
    size_t length = colon ? (size_t)(colon - name) : strlen(name);
    bool known = false;
    /* Several backends may share a name, each for its own kind of device. */
    for (size_t i = 0; rondo_backends[i]; i++) {
        const struct rondo_backend *backend = rondo_backends[i];
        if (strlen(backend->name) != length || strncmp(backend->name, name, length) != 0)
            continue;
        struct rondo_error failure = {0};
        struct rondo_device *device = backend->open(colon ? colon + 1 : "", options, &failure);
        if (device)
            return device;
        if (error && !known)
            *error = failure;
        known = true;
        if (failure.status != RONDO_NO_DEVICE)
            return NULL;
    }
    if (!known)
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

int rondo_device_status(struct rondo_device *device, struct rondo_error *error)
{
    return device->status ? device->status(device, error) : RONDO_OK;
}

bool rondo_device_count(const struct rondo_device *device, struct rondo_device_counts *counts)
{
    *counts = (struct rondo_device_counts){0};
    if (device->counts)
        device->counts((struct rondo_device *)device, counts);
    return device->counts;
}
