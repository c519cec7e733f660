/* Large output files, written atomically. */
#include "formats/output.h"

#include "core/error.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

struct rondo_output {
    int descriptor;
    char *path, *temporary;
};

static void release(struct rondo_output *output)
{
    if (output->descriptor >= 0)
        close(output->descriptor);
    free(output->path);
    free(output->temporary);
    free(output);
}

/* Says how much room there is, which is what a reader of "no space left" wants to know next. */
static int fail_write(const struct rondo_output *output, uint64_t offset, uint64_t size, int cause,
                      struct rondo_error *error)
{
    uint64_t bytes = 0;
    if (cause == ENOSPC && rondo_disk_free(output->temporary, &bytes, NULL) == RONDO_OK)
        return rondo_fail(
            error, RONDO_FAILED,
            "%s: cannot write: the disk is full (writing %llu bytes at %llu; %llu bytes are free)",
            output->path, (unsigned long long)size, (unsigned long long)offset,
            (unsigned long long)bytes);
    return rondo_fail(error, RONDO_FAILED, "%s: cannot write: %s (%llu bytes at %llu)",
                      output->path, strerror(cause), (unsigned long long)size,
                      (unsigned long long)offset);
}

/* Whether the open file still has the temporary's name: a writer that held the lock until now has renamed it. */
static bool is_still_temporary(const struct rondo_output *output)
{
    struct stat opened, named;
    return fstat(output->descriptor, &opened) == 0 && stat(output->temporary, &named) == 0 &&
           opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

struct rondo_output *rondo_output_open(const char *path, struct rondo_error *error)
{
    struct rondo_output *output = calloc(1, sizeof *output);
    size_t length = strlen(path);
    if (output) {
        output->descriptor = -1;
        output->path = strdup(path);
        output->temporary = malloc(length + sizeof ".partial");
    }
    if (!output || !output->path || !output->temporary) {
        rondo_fail(error, RONDO_FAILED, "%s: out of memory", path);
        if (output)
            release(output);
        return NULL;
    }
    memcpy(output->temporary, path, length);
    memcpy(output->temporary + length, ".partial", sizeof ".partial");
    output->descriptor = open(output->temporary, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666);
    if (output->descriptor < 0) {
        rondo_fail(error, RONDO_FAILED, "%s: cannot create: %s", output->temporary,
                   strerror(errno));
    } else if (flock(output->descriptor, LOCK_EX | LOCK_NB) != 0 || !is_still_temporary(output)) {
        rondo_fail(error, RONDO_FAILED, "%s: another process is writing this file",
                   output->temporary);
    } else if (ftruncate(output->descriptor, 0) != 0) {
        rondo_fail(error, RONDO_FAILED, "%s: cannot truncate: %s", output->temporary,
                   strerror(errno));
    } else {
        return output;
    }
    release(output);
    return NULL;
}

int rondo_output_reserve(struct rondo_output *output, uint64_t size, struct rondo_error *error)
{
#ifdef __linux__
    /* The glibc fallback of posix_fallocate writes to every block; the system call does not. */
    if (size > 0 && fallocate(output->descriptor, 0, 0, (off_t)size) != 0 && errno == ENOSPC)
        return fail_write(output, 0, size, ENOSPC, error);
#endif
    return RONDO_OK;
}

int rondo_output_write(struct rondo_output *output, uint64_t offset, const void *bytes, size_t size,
                       struct rondo_error *error)
{
    const char *at = bytes;
    while (size > 0) {
        ssize_t n = pwrite(output->descriptor, at, size, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return fail_write(output, offset, size, n < 0 ? errno : EIO, error);
        at += n;
        size -= (size_t)n;
        offset += (uint64_t)n;
    }
    return RONDO_OK;
}

/* A rename is on disk only once its directory is. */
static int sync_directory(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *directory =
        slash ? strndup(path, slash == path ? 1 : (size_t)(slash - path)) : strdup(".");
    if (!directory)
        return -1;
    int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    free(directory);
    if (descriptor < 0)
        return -1;
    int result = fsync(descriptor);
    /* some file systems have nothing to sync here, and say so */
    if (result != 0 && (errno == EINVAL || errno == ENOTSUP))
        result = 0;
    close(descriptor);
    return result;
}

/* Written pages stay in memory in the small units they came in. Read back from disk, a file system with large
 * folios maps them as huge pages (see rondo_safetensors_open), which was measured to be read 1.5 times as fast.
 * Small files are better kept. */
static void forget_pages(int descriptor)
{
    struct stat info;
    if (fstat(descriptor, &info) == 0 && info.st_size >= (off_t)64 << 20)
        posix_fadvise(descriptor, 0, 0, POSIX_FADV_DONTNEED);
}

int rondo_output_finish(struct rondo_output *output, struct rondo_error *error)
{
    int status = RONDO_OK;
    if (fsync(output->descriptor) != 0)
        status =
            rondo_fail(error, RONDO_FAILED, "%s: cannot sync: %s", output->path, strerror(errno));
    else if (rename(output->temporary, output->path) != 0)
        status = rondo_fail(error, RONDO_FAILED, "%s: cannot rename %s: %s", output->path,
                            output->temporary, strerror(errno));
    else if (sync_directory(output->path) != 0)
        rondo_log(RONDO_LOG_WARNING, "%s: cannot sync the directory: %s", output->path,
                  strerror(errno));
    if (!status)
        forget_pages(output->descriptor);
    if (status) {
        rondo_output_abort(output);
        return status;
    }
    release(output);
    return RONDO_OK;
}

void rondo_output_abort(struct rondo_output *output)
{
    if (!output)
        return;
    unlink(output->temporary);
    release(output);
}

int rondo_disk_free(const char *path, uint64_t *bytes, struct rondo_error *error)
{
    struct statvfs info;
    if (statvfs(path, &info) != 0)
        return rondo_fail(error, RONDO_FAILED, "%s: cannot tell the free disk space: %s", path,
                          strerror(errno));
    *bytes = (uint64_t)info.f_bavail * info.f_frsize;
    return RONDO_OK;
}
