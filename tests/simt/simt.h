/* What tests ask of the emulator: settings, injected faults, the last report. C and C++.
 *
 * Settings are read from the environment when the emulator is first used:
 *   SIMT_ABORT=1     a report ends the program (abort) instead of letting the launch fail
 *   SIMT_QUIET=1     reports are not printed
 *   SIMT_EAGER=1     asynchronous copies inside kernels happen at once, instead of as late as possible
 *   SIMT_STREAMS=lazy  work of streams is done when something waits for it, instead of when it is submitted
 *   SIMT_BLOCKS=reverse   blocks run from the last to the first, instead of from the first to the last
 *   SIMT_BLOCKS=shuffle   in an order drawn for each launch, whose seed is printed
 *   SIMT_BLOCKS=N    the same from seed N
 *   SIMT_THREADS=N   blocks run on N OS threads (1)
 *   SIMT_MEMORY=N    MiB of memory of each device (4096) */
#ifndef SIMT_SIMT_H
#define SIMT_SIMT_H

#include "runtime_api.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The next call of a function of the runtime API ("cudaMalloc", "cudaLaunchKernel" for launches, "*" for any)
 * fails with `error`; errors that a device does not recover from (illegal address, launch failure, ECC, ...) stay,
 * as on hardware, until simt_recover or cudaDeviceReset. */
void simt_fail_next(const char *call, cudaError_t error);
/* The same after `skip` calls that succeed. */
void simt_fail_after(const char *call, int skip, cudaError_t error);
/* Every call fails: cudaErrorNoDevice, cudaErrorInsufficientDriver (driver too old), ... */
void simt_fail_always(const char *call, cudaError_t error);
/* Takes back injected faults and clears the errors of devices and of this thread. */
void simt_recover(void);

/* The last report ("simt: kernel ..., block ..., thread ...: what is wrong"), "" if there was none; and
 * forgetting it. */
const char *simt_last_report(void);
void simt_clear_report(void);

void simt_set_quiet(int quiet);
void simt_set_lazy(int lazy);
void simt_set_lazy_streams(int lazy);
enum simt_blocks { SIMT_BLOCKS_FORWARD, SIMT_BLOCKS_REVERSE, SIMT_BLOCKS_SHUFFLE };
/* The order of the blocks of a launch; `seed` is of SIMT_BLOCKS_SHUFFLE, which starts anew. */
void simt_set_blocks(enum simt_blocks order, unsigned long long seed);
void simt_set_os_threads(int threads);
/* The architecture (80, 90, ...) that kernels say they were compiled for; 0, as at first: the device's own. */
void simt_set_code(int capability);
/* Whether something has made a context on a device. */
int simt_has_context(int device);
/* Bytes of memory of a device. */
void simt_set_memory(int device, size_t size);

/* Allocations of all devices that are alive, for tests of leaks. */
size_t simt_live_allocations(void);
/* Kernels that were launched since the program began, graph replays included. */
unsigned long long simt_launches(void);
/* Fiber switches of the last launch. */
unsigned long long simt_switches(void);

/* Makes `function` what cudaGetDriverEntryPoint finds under `symbol`, a string constant. */
void simt_driver_function(const char *symbol, void *function);

#ifdef __cplusplus
}
#endif

#endif
