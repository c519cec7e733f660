/* Errors and log lines: how the inside of the library fills what core/rondo.h hands out. */
#ifndef RONDO_CORE_ERROR_H
#define RONDO_CORE_ERROR_H

#include "core/rondo.h"

#if defined(__GNUC__)
#define RONDO_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define RONDO_PRINTF(format_index, first)
#endif

/* Fills `error` (may be NULL) at the deepest point that knows what is wrong, and returns `status`, so that
 * callers can `return rondo_fail(...)`. Form: "FILE: FIELD: what is wrong (got X, want Y); hint". */
int rondo_fail(struct rondo_error *error, enum rondo_status status, const char *format, ...)
    RONDO_PRINTF(3, 4);

void rondo_log(enum rondo_log_level level, const char *format, ...) RONDO_PRINTF(2, 3);

#endif
