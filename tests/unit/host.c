/* Limits of control groups, from trees of files as kernels and containers show them. */
#include "backend_cpu/host.h"
#include "tests/unit/test.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MEMINFO "MemTotal:       16384 kB\nMemFree:  100 kB\nMemAvailable:    8192 kB\n"
#define MIB ((uint64_t)1 << 20)

static char root[200];

/* Writes root/path, with the directories above it. */
static void put(const char *path, const char *text)
{
    char full[600];
    snprintf(full, sizeof full, "%s/%s", root, path);
    for (char *slash = full + strlen(root) + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = '\0';
        mkdir(full, 0777);
    }
    FILE *file = fopen(full, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) {
        perror(full);
        exit(1);
    }
}

/* A new machine of 16 MiB, 8 of them available. */
static void begin(const char *scratch, const char *name, const char *groups)
{
    snprintf(root, sizeof root, "%s/%s", scratch, name);
    mkdir(scratch, 0777);
    mkdir(root, 0777);
    put("proc/meminfo", MEMINFO);
    if (groups)
        put("proc/self/cgroup", groups);
}

static void expect(uint64_t total, uint64_t available, int quota)
{
    struct rondo_host_memory memory = rondo_host_memory_below(root);
    EXPECT(memory.total == total && memory.available == available,
           "%s: got %llu, %llu; want %llu, %llu", root, (unsigned long long)memory.total,
           (unsigned long long)memory.available, (unsigned long long)total,
           (unsigned long long)available);
    EXPECT(rondo_host_quota_below(root) == quota, "%s: got %d cores, want %d", root,
           rondo_host_quota_below(root), quota);
}

int main(int argc, char **argv)
{
    const char *scratch = argc > 1 ? argv[1] : "host.scratch";

    begin(scratch, "none", NULL);
    expect(16 * MIB, 8 * MIB, 0);

    /* Version 2, limits at two levels: the tighter one counts; files in memory are no use of it. */
    begin(scratch, "nested", "0::/user/job\n");
    put("sys/fs/cgroup/user/job/memory.max", "6291456\n");
    put("sys/fs/cgroup/user/job/memory.current", "5242880\n");
    put("sys/fs/cgroup/user/job/memory.stat",
        "anon 1048576\nfile 4194304\nactive_file 1048576\ninactive_file 3145728\n");
    put("sys/fs/cgroup/user/memory.max", "max\n");
    put("sys/fs/cgroup/user/memory.current", "7340032\n");
    put("sys/fs/cgroup/user/job/cpu.max", "max 100000\n");
    put("sys/fs/cgroup/user/cpu.max", "150000 100000\n");
    expect(6 * MIB, 5 * MIB, 2);
    put("sys/fs/cgroup/user/memory.max", "8388608\n");
    expect(6 * MIB, 1 * MIB, 2); /* 8 - 7 MiB, and no files there */

    /* A container: its own group is the mount's root, whatever path the kernel names. */
    begin(scratch, "container", "0::/../../kubepods/pod\n");
    put("sys/fs/cgroup/memory.max", "4194304\n");
    put("sys/fs/cgroup/memory.current", "5242880\n"); /* over the limit for a moment */
    put("sys/fs/cgroup/cpu.max", "50000 100000\n");
    expect(4 * MIB, 0, 1);

    /* No limit. */
    begin(scratch, "unlimited", "0::/\n");
    put("sys/fs/cgroup/memory.max", "max\n");
    put("sys/fs/cgroup/memory.current", "1048576\n");
    put("sys/fs/cgroup/cpu.max", "max 100000\n");
    expect(16 * MIB, 8 * MIB, 0);

    /* Version 1, controllers apart. */
    begin(scratch, "one", "4:memory:/docker/a\n3:cpu,cpuacct:/docker/a\n1:name=systemd:/b\n");
    put("sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes", "3145728\n");
    put("sys/fs/cgroup/memory/docker/a/memory.usage_in_bytes", "2097152\n");
    put("sys/fs/cgroup/memory/docker/a/memory.stat",
        "inactive_file 99\ntotal_inactive_file 524288\ntotal_active_file 524288\n");
    put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
    put("sys/fs/cgroup/memory/memory.usage_in_bytes", "9437184\n");
    put("sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us", "250000\n");
    put("sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us", "100000\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
    put("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    expect(3 * MIB, 2 * MIB, 3);

    EXPECT(rondo_host_cores() >= 1 && rondo_host_memory().total > rondo_host_memory().available,
           "this machine");
    return test_result();
}
