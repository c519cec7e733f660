/* Small files: read whole, or written so that a reader sees the old one or the new one, never a part. */
#ifndef RONDO_FORMATS_FILE_H
#define RONDO_FORMATS_FILE_H

#include "core/error.h"

/* The bytes of a regular file of at most `limit` bytes, malloc'ed, with a NUL after the last; NULL on
 * failure. `length` may be NULL. */
char *rondo_file_read(const char *path, size_t limit, size_t *length, struct rondo_error *error);

/* Writes to a temporary name beside rondo_file_target(path), fsyncs, renames. Nothing is left behind on failure. */
int rondo_file_write(const char *path, const void *bytes, size_t length, struct rondo_error *error);

/* Where a result goes that is to be called `path`: the file a symbolic link leads to, else `path` itself; malloc'ed. NULL
 * when something other than a regular file is there: a device must not be replaced by a file. */
char *rondo_file_target(const char *path, struct rondo_error *error);

/* Fails where rondo_file_write or rondo_output_open surely would: asked before work whose result goes to `path`. */
int rondo_file_check_writable(const char *path, struct rondo_error *error);

/* "directory/name", malloc'ed; NULL with an error when memory is short. */
char *rondo_path_join(const char *directory, const char *name, struct rondo_error *error);

#endif
