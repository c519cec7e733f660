/* What the machine gives this process: cores and memory, within the limits of its control groups. */
#ifndef RONDO_BACKEND_CPU_HOST_H
#define RONDO_BACKEND_CPU_HOST_H

#include <stdint.h>

/* Cores this process may use, at least 1: those it may be scheduled on, or its control groups' quota rounded up. */
int rondo_host_cores(void);

struct rondo_host_memory {
    uint64_t total, available; /* bytes; 0 where the system does not say */
};

/* What /proc/meminfo says, or less where a control group allows less. Pages of files, mapped checkpoints among
 * them, count as available: the system takes them back when memory is short. */
struct rondo_host_memory rondo_host_memory(void);

/* The same, and the quota of cores (0: none), of the files below `root` instead of "/": for tests. */
struct rondo_host_memory rondo_host_memory_below(const char *root);
int rondo_host_quota_below(const char *root);

#endif
