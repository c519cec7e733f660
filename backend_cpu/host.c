/* Cores and memory of this process: the kernel's files, of control groups in versions 1 and 2. */
#include "backend_cpu/host.h"

#include <inttypes.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { PATH = 1024 };

/* ---- files ----------------------------------------------------------------------------------- */

static FILE *open_below(const char *directory, const char *name)
{
    char path[2 * PATH];
    int n = snprintf(path, sizeof path, "%s/%s", directory, name);
    return n > 0 && n < (int)sizeof path ? fopen(path, "r") : NULL;
}

/* The numbers a file begins with; false when they are not there, as with "max". */
static bool read_numbers(const char *directory, const char *name, int64_t *values, int n)
{
    FILE *file = open_below(directory, name);
    int got = 0;
    while (file && got < n && fscanf(file, "%" SCNd64, &values[got]) == 1)
        got++;
    if (file)
        fclose(file);
    return got == n;
}

/* The number after `field` at the beginning of a line, 0 when there is none. */
static uint64_t read_field(const char *directory, const char *name, const char *field)
{
    char line[256];
    uint64_t value = 0;
    size_t length = strlen(field);
    FILE *file = open_below(directory, name);
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, field, length) == 0)
            value = strtoull(line + length, NULL, 10);
    if (file)
        fclose(file);
    return value;
}

/* ---- control groups -------------------------------------------------------------------------- */

/* Finds this process's group under a controller of version 1, or in version 2 (controller ""): "/a/b". */
static void find_group(const char *root, const char *controller, char group[PATH])
{
    char line[PATH];
    FILE *file = open_below(root, "proc/self/cgroup");
    group[0] = '\0';
    while (file && fgets(line, sizeof line, file)) { /* "4:cpu,cpuacct:/a/b", "0::/a/b" */
        char *list = strchr(line, ':'), *path = list ? strchr(list + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = '\0';
        path[strcspn(path, "\n")] = '\0';
        bool found = !*controller && !list[1];
        for (char *state, *name = strtok_r(list + 1, ",", &state); name && *controller;
             name = strtok_r(NULL, ",", &state))
            found |= strcmp(name, controller) == 0;
        if (found)
            snprintf(group, PATH, "%s", path);
    }
    if (file)
        fclose(file);
    if (strcmp(group, "/") == 0)
        group[0] = '\0';
}

typedef void visit_function(const char *directory, void *user);

/* Visits the directories of a group and of all above it, the mount's own last: in a container that is the
 * container's group, whatever path /proc/self/cgroup gives. */
static void visit_groups(const char *root, const char *mount, const char *controller,
                         visit_function *visit, void *user)
{
    char group[PATH], directory[2 * PATH];
    find_group(root, controller, group);
    for (;;) {
        snprintf(directory, sizeof directory, "%s/%s%s", root, mount, group);
        visit(directory, user);
        char *last = strrchr(group, '/');
        if (!last)
            return;
        *last = '\0';
    }
}

static void limit_memory(struct rondo_host_memory *memory, uint64_t most, uint64_t used,
                         uint64_t files)
{
    uint64_t fixed = used > files ? used - files : 0;
    uint64_t left = most > fixed ? most - fixed : 0;
    if (most < memory->total)
        memory->total = most;
    if (left < memory->available)
        memory->available = left;
}

static void visit_memory_2(const char *directory, void *user)
{
    int64_t most, used;
    if (read_numbers(directory, "memory.max", &most, 1) && most >= 0 &&
        read_numbers(directory, "memory.current", &used, 1))
        limit_memory(user, (uint64_t)most, (uint64_t)used,
                     read_field(directory, "memory.stat", "inactive_file ") +
                         read_field(directory, "memory.stat", "active_file "));
}

static void visit_memory_1(const char *directory, void *user)
{
    int64_t most, used; /* without a limit `most` is near 2^63 */
    if (read_numbers(directory, "memory.limit_in_bytes", &most, 1) && most >= 0 &&
        read_numbers(directory, "memory.usage_in_bytes", &used, 1))
        limit_memory(user, (uint64_t)most, (uint64_t)used,
                     read_field(directory, "memory.stat", "total_inactive_file ") +
                         read_field(directory, "memory.stat", "total_active_file "));
}

struct rondo_host_memory rondo_host_memory_below(const char *root)
{
    struct rondo_host_memory memory = {read_field(root, "proc/meminfo", "MemTotal:") * 1024,
                                       read_field(root, "proc/meminfo", "MemAvailable:") * 1024};
    visit_groups(root, "sys/fs/cgroup", "", visit_memory_2, &memory);
    visit_groups(root, "sys/fs/cgroup/memory", "memory", visit_memory_1, &memory);
    return memory;
}

struct rondo_host_memory rondo_host_memory(void)
{
    return rondo_host_memory_below("");
}

static void limit_cores(int *cores, int64_t quota, int64_t period)
{
    if (quota <= 0 || period <= 0)
        return;
    int64_t limit = (quota + period - 1) / period;
    if (!*cores || limit < *cores)
        *cores = (int)limit;
}

static void visit_cores_2(const char *directory, void *user)
{
    int64_t values[2]; /* "max 100000" where there is no limit */
    if (read_numbers(directory, "cpu.max", values, 2))
        limit_cores(user, values[0], values[1]);
}

static void visit_cores_1(const char *directory, void *user)
{
    int64_t quota, period; /* quota -1 where there is no limit */
    if (read_numbers(directory, "cpu.cfs_quota_us", &quota, 1) &&
        read_numbers(directory, "cpu.cfs_period_us", &period, 1))
        limit_cores(user, quota, period);
}

int rondo_host_quota_below(const char *root)
{
    int cores = 0;
    visit_groups(root, "sys/fs/cgroup", "", visit_cores_2, &cores);
    visit_groups(root, "sys/fs/cgroup/cpu", "cpu", visit_cores_1, &cores);
    return cores;
}

int rondo_host_cores(void)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        cores = CPU_COUNT(&set);
#endif
    int limit = rondo_host_quota_below("");
    if (limit > 0 && limit < cores)
        cores = limit;
    return cores < 1 ? 1 : (int)cores;
}
