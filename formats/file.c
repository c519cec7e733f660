/* Small files: whole reads with a limit, and atomic writes. */
#include "formats/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

char *rondo_path_join(const char *directory, const char *name, struct rondo_error *error)
{
    size_t n = strlen(directory), m = strlen(name);
    char *path = malloc(n + m + 2);
    if (!path) {
        rondo_fail(error, RONDO_FAILED, "%s/%s: out of memory for the path", directory, name);
        return NULL;
    }
    memcpy(path, directory, n);
    if (n > 0 && directory[n - 1] != '/')
        path[n++] = '/';
    memcpy(path + n, name, m + 1);
    return path;
}

/* Reads exactly `size` bytes; a file that shrinks meanwhile is an error. */
static int read_all(int file, char *bytes, size_t size, const char *path, struct rondo_error *error)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = read(file, bytes + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rondo_fail(error, RONDO_FAILED, "%s: cannot read: %s", path, strerror(errno));
        if (n == 0)
            return rondo_fail(
                error, RONDO_FAILED,
                "%s: the file became shorter while it was read (got %zu, want %zu bytes)", path,
                done, size);
        done += (size_t)n;
    }
    return RONDO_OK;
}

char *rondo_file_read(const char *path, size_t limit, size_t *length, struct rondo_error *error)
{
    /* O_NONBLOCK: opening a FIFO must not wait for its writer */
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file < 0) {
        rondo_fail(error, RONDO_FAILED, "%s: cannot open: %s", path, strerror(errno));
        return NULL;
    }
    char *bytes = NULL;
    struct stat info;
    if (fstat(file, &info) != 0) {
        rondo_fail(error, RONDO_FAILED, "%s: cannot stat: %s", path, strerror(errno));
    } else if (!S_ISREG(info.st_mode)) {
        rondo_fail(error, RONDO_FAILED, "%s: not a regular file", path);
    } else if ((uint64_t)info.st_size > limit) {
        rondo_fail(error, RONDO_FAILED,
                   "%s: size: the file is too large (got %lld, want at most %zu bytes)", path,
                   (long long)info.st_size, limit);
    } else if (!(bytes = malloc((size_t)info.st_size + 1))) {
        rondo_fail(error, RONDO_FAILED, "%s: out of memory (%lld bytes)", path,
                   (long long)info.st_size);
    } else if (read_all(file, bytes, (size_t)info.st_size, path, error) != RONDO_OK) {
        free(bytes);
        bytes = NULL;
    } else {
        bytes[info.st_size] = '\0';
        if (length)
            *length = (size_t)info.st_size;
    }
    close(file);
    return bytes;
}

static int write_all(int file, const char *bytes, size_t size)
{
    size_t done = 0;
    while (done < size) {
        ssize_t n = write(file, bytes + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

char *rondo_file_target(const char *path, struct rondo_error *error)
{
    struct stat info, link;
    bool there = stat(path, &info) == 0;
    if (there && !S_ISREG(info.st_mode)) {
        rondo_fail(error, RONDO_FAILED, "%s: cannot write: it is %s", path,
                   S_ISDIR(info.st_mode) ? "a directory" : "not a regular file");
        return NULL;
    }
    bool is_link = there && lstat(path, &link) == 0 && S_ISLNK(link.st_mode);
    char *target = is_link ? realpath(path, NULL) : strdup(path);
    if (!target)
        rondo_fail(error, RONDO_FAILED, "%s: cannot write: %s", path, strerror(errno));
    return target;
}

int rondo_file_check_writable(const char *path, struct rondo_error *error)
{
    struct stat info;
    char *directory = rondo_file_target(path, error);
    if (!directory)
        return RONDO_FAILED;
    char *last = strrchr(directory, '/');
    if (last)
        last[last == directory] = '\0'; /* "/name" is in "/" */
    const char *parent = last ? directory : ".";
    int status = RONDO_OK;
    if (stat(parent, &info) != 0)
        status = rondo_fail(error, RONDO_FAILED, "%s: cannot write: %s: %s", path, parent,
                            strerror(errno));
    else if (!S_ISDIR(info.st_mode))
        status = rondo_fail(error, RONDO_FAILED, "%s: cannot write: %s is not a directory", path,
                            parent);
    else if (access(parent, W_OK | X_OK) != 0)
        status = rondo_fail(error, RONDO_FAILED, "%s: cannot write in %s: %s", path, parent,
                            strerror(errno));
    free(directory);
    return status;
}

/* Writes `path` itself. */
static int replace(const char *path, const void *bytes, size_t length, struct rondo_error *error)
{
    size_t n = strlen(path);
    char *temporary = malloc(n + sizeof ".XXXXXX");
    if (!temporary)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory for the path", path);
    memcpy(temporary, path, n);
    memcpy(temporary + n, ".XXXXXX", sizeof ".XXXXXX");
    int file = mkostemp(temporary, O_CLOEXEC);
    if (file < 0) {
        int status =
            rondo_fail(error, RONDO_FAILED, "%s: cannot create: %s", temporary, strerror(errno));
        free(temporary);
        return status;
    }
    mode_t mask = umask(0);
    umask(mask);
    bool good =
        write_all(file, bytes, length) == 0 && fchmod(file, 0666 & ~mask) == 0 && fsync(file) == 0;
    int cause = errno;
    if (close(file) != 0 && good) {
        good = false;
        cause = errno;
    }
    if (good && rename(temporary, path) != 0) {
        good = false;
        cause = errno;
    }
    int status = RONDO_OK;
    if (!good) {
        unlink(temporary);
        status = rondo_fail(error, RONDO_FAILED, "%s: cannot write: %s", path, strerror(cause));
    }
    free(temporary);
    return status;
}

int rondo_file_write(const char *path, const void *bytes, size_t length, struct rondo_error *error)
{
    char *target = rondo_file_target(path, error);
    int status = target ? replace(target, bytes, length, error) : RONDO_FAILED;
    free(target);
    return status;
}
