/* UTF-8: where valid sequences end. Valid means RFC 3629: no overlong form, no surrogate, at most
 * U+10FFFF. */
#ifndef RONDO_FORMATS_UTF8_H
#define RONDO_FORMATS_UTF8_H

#include "core/rondo.h"

enum {
    RONDO_UTF8_INVALID = 0, /* no continuation makes these bytes valid */
    RONDO_UTF8_PARTIAL = -1 /* a proper prefix of a valid sequence */
};

/* Length (1 to 4) of the valid sequence at the front of bytes[0..length), length >= 1, or one of the two
 * above. With RONDO_UTF8_INVALID, *bad (may be NULL) is how many bytes one U+FFFD stands for: the longest
 * prefix of a valid sequence, at least 1 (the Unicode standard's "maximal subpart"). */
int rondo_utf8_sequence(const char *bytes, size_t length, size_t *bad);

/* How many leading bytes are whole valid sequences. */
size_t rondo_utf8_valid_length(const char *bytes, size_t length);

/* Writes a code point (a scalar value) and returns its length, 1 to 4. */
int rondo_utf8_write(uint32_t code_point, char *out);

/* The code point of a valid sequence of `n` bytes. */
uint32_t rondo_utf8_read(const char *bytes, int n);

#endif
