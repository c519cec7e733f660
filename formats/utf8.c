/* UTF-8: validity, and the stream that hands out whole sequences only. */
#include "formats/utf8.h"

#include <string.h>

int rondo_utf8_sequence(const char *text, size_t length, size_t *bad)
{
    const unsigned char *bytes = (const unsigned char *)text;
    unsigned char first = bytes[0];
    if (first < 0x80)
        return 1;
    int n = first >= 0xc2 && first <= 0xdf   ? 2
            : first >= 0xe0 && first <= 0xef ? 3
            : first >= 0xf0 && first <= 0xf4 ? 4
                                             : 0;
    /* the second byte's range excludes overlong forms, surrogates and code points past U+10FFFF */
    unsigned char low = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    unsigned char high = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    size_t i = 1;
    for (; i < (size_t)n; i++) {
        if (i == length)
            return RONDO_UTF8_PARTIAL;
        if (bytes[i] < low || bytes[i] > high)
            break;
        low = 0x80;
        high = 0xbf;
    }
    if (i == (size_t)n)
        return n;
    if (bad)
        *bad = i;
    return RONDO_UTF8_INVALID;
}

size_t rondo_utf8_valid_length(const char *bytes, size_t length)
{
    size_t i = 0;
    while (i < length) {
        uint64_t eight;
        if (length - i >= sizeof eight) {
            memcpy(&eight, bytes + i, sizeof eight);
            if (!(eight & 0x8080808080808080u)) {
                i += sizeof eight;
                continue;
            }
        }
        int n = rondo_utf8_sequence(bytes + i, length - i, NULL);
        if (n <= 0)
            break;
        i += (size_t)n;
    }
    return i;
}

int rondo_utf8_write(uint32_t c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 0x3f));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 0x3f));
        out[2] = (char)(0x80 | (c & 0x3f));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 0x3f));
    out[2] = (char)(0x80 | (c >> 6 & 0x3f));
    out[3] = (char)(0x80 | (c & 0x3f));
    return 4;
}

uint32_t rondo_utf8_read(const char *text, int n)
{
    const unsigned char *bytes = (const unsigned char *)text;
    static const unsigned char mask[5] = {0, 0x7f, 0x1f, 0x0f, 0x07};
    uint32_t c = bytes[0] & mask[n];
    for (int i = 1; i < n; i++)
        c = c << 6 | (bytes[i] & 0x3f);
    return c;
}

/* ---- streaming ------------------------------------------------------------------------------ */

static size_t write_bad(const unsigned char *bytes, size_t n, bool replace, char *out)
{
    if (replace) {
        memcpy(out, "\xef\xbf\xbd", 3);
        return 3;
    }
    memcpy(out, bytes, n);
    return n;
}

/* What is pending is always a proper prefix of a valid sequence when a call returns. */
size_t rondo_utf8_stream_push(struct rondo_utf8_stream *stream, const char *bytes, size_t length,
                              bool replace, char *out)
{
    size_t written = 0;
    for (size_t i = 0; i < length; i++) {
        stream->pending[stream->n_pending++] = (unsigned char)bytes[i];
        while (stream->n_pending > 0) {
            size_t bad = 0, pending = (size_t)stream->n_pending;
            int n = rondo_utf8_sequence((const char *)stream->pending, pending, &bad);
            if (n == RONDO_UTF8_PARTIAL)
                break;
            size_t taken = n > 0 ? (size_t)n : bad;
            if (n > 0) {
                memcpy(out + written, stream->pending, taken);
                written += taken;
            } else {
                written += write_bad(stream->pending, taken, replace, out + written);
            }
            memmove(stream->pending, stream->pending + taken, pending - taken);
            stream->n_pending -= (int)taken;
        }
    }
    return written;
}

size_t rondo_utf8_stream_finish(struct rondo_utf8_stream *stream, bool replace, char *out)
{
    size_t pending = (size_t)stream->n_pending;
    stream->n_pending = 0;
    return pending ? write_bad(stream->pending, pending, replace, out) : 0;
}
