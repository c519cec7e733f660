/* What this machine can do at best, measured in the same run as the thing that is compared with it. */
#ifndef RONDO_CLI_YARDSTICK_H
#define RONDO_CLI_YARDSTICK_H

#include "core/rondo.h"

/* Threads of the device; 1 when it does not say. */
int cli_yardstick_threads(struct rondo_device *device);

/* Reads from every page of the weights that the device uses in place: the first use of a page takes longer, above
 * all on virtual machines, and of many experts that is long after the start. */
void cli_yardstick_touch(struct rondo_device *device, const struct rondo_model *model);

/* Bytes per second at which the device's threads read a large buffer, once; on a GPU, bytes read and written by
 * a copy of one. 0 when it cannot be measured. */
double cli_yardstick_read_bandwidth(struct rondo_device *device);

/* Floating-point operations per second of OpenBLAS' sgemm on 2048 x 2048 x 2048 with so many threads. 0 when
 * rondo was built without OpenBLAS or the device is no CPU. Waits until OpenBLAS' threads have gone to sleep. */
double cli_yardstick_sgemm(const struct rondo_device *device, int threads);

#endif
