/* The files of a checkpoint directory: which shards there are and which of them holds each tensor. Shared by
 * opening a model and by quantising one. */
#ifndef RONDO_FORMATS_CHECKPOINT_H
#define RONDO_FORMATS_CHECKPOINT_H

#include "core/model.h"
#include "formats/config.h"
#include "formats/safetensors.h"

#include <cjson/cJSON.h>

#define RONDO_SINGLE_FILE "model.safetensors"
#define RONDO_INDEX_FILE "model.safetensors.index.json"
#define RONDO_MAX_SHARDS 4096

struct rondo_checkpoint_files {
    struct rondo_safetensors *shards; /* [n_shards] open, in the order of their names */
    char **names;                     /* [n_shards] file names without directory */
    size_t n_shards;
    bool indexed;
};

/* Opens model.safetensors, or all shards that model.safetensors.index.json names. Fills tensors with all that
 * the index assigns (or the single file holds), ascending by name; both are malloc'ed. The names belong to
 * *files. On failure nothing stays open. */
int rondo_checkpoint_open_files(const char *directory, struct rondo_checkpoint_files *files,
                                struct rondo_file_tensor **tensors, size_t *n_tensors,
                                struct rondo_error *error);
void rondo_checkpoint_close_files(struct rondo_checkpoint_files *files);

/* Text of an index: checks shard names (no directories) and gives the distinct ones, ascending, in *names
 * (malloc'ed, each malloc'ed). The tree stays the caller's. */
int rondo_index_shards(const cJSON *root, const char *path, char ***names, size_t *n_names,
                       struct rondo_error *error);

/* Identifies what a model computes: the config's numbers, every tensor's name, dtype and shape, and the first
 * 64 bytes of the tensors that are not of a routed expert. Independent of how tensors are spread over files. */
uint64_t rondo_model_fingerprint(const struct rondo_model *model);

#endif
