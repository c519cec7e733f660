/* What the checks of an attention's order share: texts of tokens, and the parts of them that are a call's batch. */
#ifndef RONDO_TESTS_CHECK_ORDER_H
#define RONDO_TESTS_CHECK_ORDER_H

#include "tests/check/internal.h"

/* Rows of q, k and v. */
struct order_text {
    void *row[3];
    int32_t n;
};

/* Tokens first .. first + n - 1 of a text as a sequence of a call. */
struct order_part {
    const struct order_text *text;
    int32_t first, n, slot, start;
    const int32_t *parent; /* [n] of a draft, or NULL */
    void *out;             /* [n] rows, or NULL */
    int32_t first_page;    /* page i of the sequence is order_page(first_page, i) */
};

enum { ORDER_PAGES = 50 };
int32_t order_page(int32_t first_page, int32_t i);

/* n rows of each kind, normal values. `width`: values in a row of q, k, v. */
struct order_text order_text(struct check *check, enum rondo_dtype dtype, const size_t width[3],
                             int32_t n);
/* Rows `rows` [n] of a text. */
struct order_text order_take(struct check *check, const struct order_text *text,
                             const size_t row_size[3], const int32_t *rows, int32_t n);

/* A batch of the parts, for both sides. `extra` is added to its bounds; `pages` of each sequence are in its table. */
void order_batch(struct check *check, const struct order_part *parts, int n, int32_t extra,
                 int32_t pages, struct rondo_batch batch[2]);
/* The parts' rows of q (0), k or v, behind one another. */
struct check_buffer *order_rows(struct check *check, const struct order_part *parts, int n, int i,
                                size_t row_size);
/* Downloads rows of a call, and gives each part its own. */
void order_results(struct check *check, const struct order_part *parts, int n,
                   struct check_buffer *out, size_t row_size);

#endif
