/* The checkpoints of tests/fixtures/models and what the float64 reference made of them. */
#ifndef RONDO_TESTS_MODEL_FIXTURE_H
#define RONDO_TESTS_MODEL_FIXTURE_H

#include "core/rondo.h"

#define FIXTURE_MAX 64 /* directories */

struct fixture {
    char name[64];
    char directory[512];
    int32_t *tokens;    /* [n_tokens] prompt */
    int32_t *generated; /* [n_generated] greedy continuation */
    size_t n_tokens, n_generated;
    int32_t vocab_size;      /* V */
    float *logits;           /* [n_tokens, V] */
    float *generated_logits; /* [n_generated, V]: row i stands after generated[i] */
};

/* Fills names, ascending, and returns their number; ends the program when the directory is not there. */
size_t fixture_list(const char *root, char names[FIXTURE_MAX][64]);

/* Ends the program with a message when anything is wrong with the files. */
void fixture_open(struct fixture *fixture, const char *root, const char *name);
void fixture_close(struct fixture *fixture);

/* A .npy file of so many rows of float32, malloc'd; *columns is the length of a row. Ends the program too. */
float *fixture_read_npy(const char *path, size_t rows, int32_t *columns);

#endif
