/* rondo-check: runs every op of a device against the reference on made-up inputs (compare dav1d's
 * checkasm).
 *
 * A family of ops has one file, check_FAMILY.c, with one body per op. A body goes through cases; a
 * case is
 *     check_case(check, "T=%d D=%d %s", ...);        names it, seeds check->random, frees the last one
 *     struct check_tensor *x = check_tensor(...);    memory on both devices, filled alike
 *     struct rondo_op_rmsnorm op[2];                 one op per side: addresses differ
 *     check_run(check, RONDO_OP_RMSNORM, &op[0], &op[1]);
 *     check_compare(check, out, ...);                bits or NMSE, as the op and the device have it
 * and check_case or the end of the body then looks at the guard zones of all memory and at the
 * inputs. Side CHECK_REFERENCE is a device "cpu:ref", side CHECK_TESTED the device under test. */
#ifndef RONDO_TESTS_CHECK_H
#define RONDO_TESTS_CHECK_H

#include "core/backend.h"
#include "core/dtype.h"
#include "core/error.h"

enum { CHECK_REFERENCE, CHECK_TESTED };

struct check_memory; /* what a case allocated */

struct check {
    struct rondo_device *device[2];
    const char *device_name; /* of the tested one */
    bool exact;              /* results of the last check_run must agree bit for bit */
    bool in_place;           /* the tested device reads host memory, aligned or not (a CPU) */
    bool is_reference; /* the tested device is cpu:ref: bodies compare it with double precision */
    bool bench;
    uint64_t seed;   /* of the whole run */
    uint64_t random; /* state of the case's generator */

    double energy; /* see check_energy */

    const char *op_name;
    char case_name[200];
    int n_cases, n_failures;
    bool csv;
    struct check_memory *memory;
};

/* ---- bodies ---------------------------------------------------------------------------------- */

struct check_op {
    const char *name; /* as rondo_op_name says it; several entries may split one op's cases */
    void (*body)(struct check *check);
};

struct check_family {
    const char *name;
    struct check_op ops[8]; /* ends with name NULL */
};

extern const struct check_family check_family_attention, check_family_basic, check_family_gemm,
    check_family_moe, check_family_norm, check_family_sampling;

void check_case(struct check *check, const char *format, ...) RONDO_PRINTF(2, 3);

/* Counts a failure of the current case and prints it with all that is needed to see it again. */
void check_fail(struct check *check, const char *format, ...) RONDO_PRINTF(2, 3);

/* Makes both devices' workspace for ops within the limits; zero fields need none. */
void check_reserve(struct check *check, const struct rondo_limits *limits);

/* Runs the op on both devices and waits. rondo_op_check and the device's `supports` must let it through. The
 * structs are the two sides' `struct rondo_op_...`. */
void check_run(struct check *check, enum rondo_op op, const void *reference, const void *tested);

/* Times the op on the tested device when `check->bench`; the current case's name stands beside
 * the result. `bytes` and `operations` are what one call has to move and to compute (multiply
 * and add count as two). */
void check_bench(struct check *check, enum rondo_op op, const void *tested, double bytes,
                 double operations);

/* ---- random numbers -------------------------------------------------------------------------- */

uint64_t check_random(struct check *check);
int32_t check_random_range(struct check *check, int32_t low,
                           int32_t high);         /* low .. high, both included */
double check_random_uniform(struct check *check); /* [0, 1) */
double check_random_normal(struct check *check);

/* ---- memory ---------------------------------------------------------------------------------- */

/* Bytes on both devices between guard zones, and their image on the host. Released with the
 * case. */
struct check_buffer {
    size_t size;
    void *host;      /* [size] what check_upload writes to both sides */
    void *data[2];   /* [size] on each side's device */
    void *result[2]; /* [size] on the host, as check_download read it */
    const char *name;
    bool constant; /* no op may change it */
    bool weights;  /* e4m3 codes of weights: written as such */
};

/* Zeros on the host side, a pattern of guards on the devices until check_upload. */
struct check_buffer *check_buffer(struct check *check, size_t size, const char *name);
void check_upload(struct check *check, struct check_buffer *buffer);
void check_download(struct check *check, struct check_buffer *buffer);
/* A constant buffer that holds a copy of host data. */
struct check_buffer *check_input(struct check *check, const void *data, size_t size,
                                 const char *name);
/* A buffer of guard bytes, for an op to write. */
struct check_buffer *check_output(struct check *check, size_t size, const char *name);

/* ---- tensors --------------------------------------------------------------------------------- */

enum check_fill {
    CHECK_UNIFORM,   /* [-1, 1) */
    CHECK_NORMAL,    /* standard normal */
    CHECK_TINY,      /* normal * 1e-18: squares underflow */
    CHECK_HUGE,      /* normal * 1e15 (f16: 1e3, f8: saturated) */
    CHECK_ONE_HOT,   /* one 1 in a row, else 0 */
    CHECK_SUBNORMAL, /* of the tensor's own dtype, both signs */
    CHECK_ZEROS,     /* both signs */
    CHECK_FILLS
};
const char *check_fill_name(enum check_fill fill);

enum check_scale {
    CHECK_SCALE_NONE,
    CHECK_SCALE_BLOCK,      /* weights, one per 128 x 128 */
    CHECK_SCALE_ROW,        /* weights, one per row */
    CHECK_SCALE_ACTIVATION, /* one per row and 128 channels */
};

struct check_tensor {
    struct check_buffer *buffer, *scale; /* scale NULL: not quantised */
    struct rondo_tensor side[2];         /* with each side's addresses */
    struct rondo_tensor host;            /* the image on the host, for evaluations in double */
};

/* An input. Rows stand columns + gap elements apart; the gap holds guards, and is larger where a device
 * that is not in_place wants aligned rows. FP8 tensors never
 * hold NaN codes; with scales, these lie in 2^-10 .. 2^-2. */
struct check_tensor *check_tensor(struct check *check, enum rondo_dtype dtype, int64_t rows,
                                  int64_t columns, int64_t gap, enum check_scale scale,
                                  enum check_fill fill, const char *name);
/* `n` inputs of one shape, [n], evenly spaced in one buffer with guards between them. */
struct check_tensor *check_tensors(struct check *check, int32_t n, enum rondo_dtype dtype,
                                   int64_t rows, int64_t columns, enum check_scale scale,
                                   enum check_fill fill, const char *name);
/* An output, holding guards. With scales these are outputs, too. */
struct check_tensor *check_tensor_output(struct check *check, enum rondo_dtype dtype, int64_t rows,
                                         int64_t columns, int64_t gap, enum check_scale scale,
                                         const char *name);
/* `n` floats that no op may change. */
struct check_buffer *check_floats(struct check *check, int64_t n, enum check_fill fill,
                                  const char *name);
/* `n` rows of floats that no op may change, *stride elements apart with guards between them. */
struct check_buffer *check_float_rows(struct check *check, int32_t n, int64_t columns,
                                      enum check_fill fill, const char *name, int64_t *stride);

/* ---- batches --------------------------------------------------------------------------------- */

struct check_batch_options {
    int32_t n_sequences;
    int32_t min_tokens, max_tokens; /* of a sequence; a draft has one at least */
    int32_t max_start;
    int32_t vocab_size;
    bool drafts;  /* some sequences are draft trees of at most max_tokens nodes */
    bool padding; /* some sequences have slot -1 */
};

/* A random ragged batch. Positions and tokens of padding are -1. Slots and pages are a random
 * choice without repetition out of n_slots and n_pages; entries of the page table that are not
 * needed are -1. */
struct check_batch {
    struct rondo_batch side[2], host;
    struct rondo_batch_sequence *sequences; /* [B] host */
    bool *padding;                          /* [T] rows of outputs that are undefined */
    int32_t n_slots, n_pages, max_draft;
};
struct check_batch *check_batch(struct check *check, const struct check_batch_options *options);

/* ---- comparison ------------------------------------------------------------------------------ */

/* The next comparison measures squared errors against at least `energy`: for a few outputs of long sums, the
 * squares of what is summed, which stay when the sums cancel. */
void check_energy(struct check *check, double energy);
/* Compares an output of both sides, gaps between rows included: bit for bit (any NaN equals any NaN) where
 * `exact`, that is on CPUs and for ops of a fixed order, else by NMSE over defined rows. `undefined` [rows]:
 * rows to leave out, or NULL. */
void check_compare(struct check *check, struct check_tensor *tensor, const bool *undefined,
                   double nmse);
/* The same for a plain array of `n` elements; `undefined` [n]: elements to leave out, or NULL.
 * i32 must agree exactly on every device. */
void check_compare_array(struct check *check, struct check_buffer *buffer, enum rondo_dtype dtype,
                         int64_t n, const bool *undefined, double nmse);
/* Two outputs of one shape that must hold the same bits on each side. */
void check_compare_same(struct check *check, struct check_tensor *a, struct check_tensor *b);
/* Codes that an op made beside or instead of `plain`, which is bf16 and the same op's: on each side they must be
 * what quantize makes of that side's plain, bit for bit. */
void check_compare_codes(struct check *check, const struct check_tensor *plain,
                         struct check_tensor *codes);
/* Compares the reference's output with values in double [rows, columns]: NMSE over all rows but
 * those `undefined`. For is_reference. */
void check_compare_double(struct check *check, struct check_tensor *tensor, const double *expected,
                          const bool *undefined, double nmse);

#endif
