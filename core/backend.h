/* Backends and devices. A backend lists and opens devices; a device has memory and an op table. Any number
 * of devices of any backends may be open at once; nothing about a device is global. */
#ifndef RONDO_CORE_BACKEND_H
#define RONDO_CORE_BACKEND_H

#include "core/ops.h"

struct rondo_backend {
    const char *name; /* the part of a device's name before ':' */
    /* Appends this backend's devices; returns how many there are. No driver, no device: 0. */
    size_t (*list)(struct rondo_device_info *devices, size_t capacity);
    /* `which`: the part of the name after ':', or "". */
    struct rondo_device *(*open)(const char *which, const struct rondo_device_options *options,
                                 struct rondo_error *error);
    /* Why `list` gives no device, or leaves some out, in words; "" when it has all there are. NULL: as "". */
    void (*explain)(char *text, size_t size);
};

/* Ops that were recorded, see struct rondo_device. */
struct rondo_recording;

/* What every device begins with; backends put their own fields after it. */
struct rondo_device {
    const struct rondo_backend *backend;
    char description[160];
    bool strict; /* what `fallback` names is an error, not a log line */
    struct rondo_ops ops;

    void (*close)(struct rondo_device *device);
    uint64_t (*memory_available)(struct rondo_device *device); /* 0: not known */
    /* Zeroed memory, aligned to 256 bytes at least. NULL when there is none left. */
    void *(*allocate)(struct rondo_device *device, size_t size);
    void (*release)(struct rondo_device *device, void *memory);
    void (*write)(struct rondo_device *device, void *to, const void *from_host, size_t size);
    /* The same for the e4m3 codes of a weight, none of which is NaN. The device may hold other codes of the same
     * values: 0 for -0. NULL: `write` does. */
    void (*write_codes)(struct rondo_device *device, void *to, const void *from_host, size_t size);
    void (*read)(struct rondo_device *device, void *to_host, const void *from, size_t size);
    void (*copy)(struct rondo_device *device, void *to, const void *from,
                 size_t size); /* on the device */
    void (*synchronize)(struct rondo_device *device);
    /* RONDO_OK, or the first failure of the device since it was opened: after it nothing that is called does
     * anything, and memory holds anything. Asked after synchronize, before results are used. NULL: what this
     * device does can not fail. */
    int (*status)(struct rondo_device *device, struct rondo_error *error);
    /* The device can use host memory at this address as weights, in place. NULL: it can not, weights are
     * copied into memory from `allocate`. */
    bool (*uses_host_memory)(struct rondo_device *device);
    /* Makes the workspace for plans within `limits`; may be called again, workspace only grows. */
    int (*reserve)(struct rondo_device *device, const struct rondo_limits *limits,
                   struct rondo_error *error);
    /* Bytes `reserve` would take. */
    uint64_t (*workspace_size)(struct rondo_device *device, const struct rondo_limits *limits);
    /* NULL when the slot does this as it should; else why not, in words. `args` is the op's struct. */
    const char *(*supports)(struct rondo_device *device, enum rondo_op op, const void *args);
    /* NULL when the slot has a path of its own for this; else what runs instead and why, in words. */
    const char *(*fallback)(struct rondo_device *device, enum rondo_op op, const void *args);
    /* Which of the slot's kernels runs, in a few words, for reports. NULL here or there: it has but one. */
    const char *(*path)(struct rondo_device *device, enum rondo_op op, const void *args);

    /* Recording, to run a list of ops again with one call. Ops called between record_begin and record_end are
     * kept instead of run; nothing else is called between. Each replay runs them with the arguments they had,
     * on what their arrays hold then. record_end gives NULL, and record_begin and replay false, when it could
     * not be done: the caller then calls the ops themselves; replay can fail so because something has moved
     * since. All four NULL: the device has no recordings. */
    bool (*record_begin)(struct rondo_device *device);
    struct rondo_recording *(*record_end)(struct rondo_device *device);
    bool (*replay)(struct rondo_device *device, struct rondo_recording *recording);
    void (*record_release)(struct rondo_device *device, struct rondo_recording *recording);

    /* What the device was asked for since it was opened. NULL: it does not count. */
    void (*counts)(struct rondo_device *device, struct rondo_device_counts *counts);
};

/* Writes a weight of this dtype, by `write` or `write_codes`. */
static inline void rondo_device_write_weight(struct rondo_device *device, enum rondo_dtype dtype,
                                             void *to, const void *from_host, size_t size)
{
    if (dtype == RONDO_F8_E4M3 && device->write_codes)
        device->write_codes(device, to, from_host, size);
    else
        device->write(device, to, from_host, size);
}

/* The device's `status`; RONDO_OK where it has none. */
int rondo_device_status(struct rondo_device *device, struct rondo_error *error);

/* The backends this library was built with, NULL-terminated. Defined by the build (core/backends.c.in). */
extern const struct rondo_backend *const rondo_backends[];

/* Checks an op's arguments: shapes that must agree, dtypes that may meet, alignment, aliasing. `label` names
 * the step in the message. Pointers are not followed. */
int rondo_op_check(enum rondo_op op, const void *args, const char *label,
                   struct rondo_error *error);

#endif
