/* Large output files: written in pieces, from several threads if need be, under a temporary name, and renamed
 * when they are complete. A reader sees the old file, no file, or the whole new one. */
#ifndef RONDO_FORMATS_OUTPUT_H
#define RONDO_FORMATS_OUTPUT_H

#include "core/rondo.h"

struct rondo_output;

/* Opens the temporary file PATH.partial, empty; what a killed process has left there is overwritten. Fails when
 * another process is writing it. */
struct rondo_output *rondo_output_open(const char *path, struct rondo_error *error);
/* Reserves `size` bytes of disk, so that a full disk shows before the work is done; file systems that cannot
 * reserve are left alone. */
int rondo_output_reserve(struct rondo_output *output, uint64_t size, struct rondo_error *error);
/* Several threads may write different parts at once. */
int rondo_output_write(struct rondo_output *output, uint64_t offset, const void *bytes, size_t size,
                       struct rondo_error *error);
/* Syncs the file, renames it and syncs the directory. Releases the output; when that fails nothing is left. */
int rondo_output_finish(struct rondo_output *output, struct rondo_error *error);
/* Removes the temporary file and releases the output. Accepts NULL. */
void rondo_output_abort(struct rondo_output *output);

/* Bytes a user may still write on the file system of `path`. */
int rondo_disk_free(const char *path, uint64_t *bytes, struct rondo_error *error);

#endif
