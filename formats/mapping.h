/* Files mapped read-only, and which of them an address belongs to. */
#ifndef RONDO_FORMATS_MAPPING_H
#define RONDO_FORMATS_MAPPING_H

#include "core/rondo.h"

/* A mapped file. rondo_mapped_file (core/rondo.h) finds it by address while it is open. */
struct rondo_mapping {
    void *bytes; /* [size]; NULL when the file is empty */
    size_t size;
};

/* Maps a regular file whole. Reading where the file has become shorter since raises SIGBUS. */
int rondo_mapping_open(struct rondo_mapping *mapping, const char *path, struct rondo_error *error);
void rondo_mapping_close(struct rondo_mapping *mapping);

/* Reads `size` bytes from `offset`, whole pages but for the file's last, and keeps them in memory until the file is
 * closed or unlocked. */
int rondo_mapping_lock(const struct rondo_mapping *mapping, size_t offset, size_t size,
                       const char *path, struct rondo_error *error);
void rondo_mapping_unlock(const struct rondo_mapping *mapping);

/* Of what is locked: whether it lies in small pages where it could lie in huge ones; and puts a part, from whole pages
 * on, into huge pages and locks it again. What is changed in the file from then on is not seen. */
bool rondo_mapping_is_small(const struct rondo_mapping *mapping);
int rondo_mapping_enlarge(const struct rondo_mapping *mapping, size_t offset, size_t size,
                          const char *path, struct rondo_error *error);

#endif
