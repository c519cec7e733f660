/* UTF-8: validity against a definition by code points, and the stream however its input is cut. */
#include "formats/utf8.h"
#include "tests/unit/test.h"

#include <string.h>

/* Every sequence of up to 4 bytes that encodes a scalar value, and no other, is valid. */
static void test_every_code_point(void)
{
    int wrong = 0;
    for (uint32_t c = 0; c <= 0x10ffff; c++) {
        char bytes[4];
        int n = rondo_utf8_write(c, bytes);
        bool surrogate = c >= 0xd800 && c <= 0xdfff;
        bool valid = rondo_utf8_sequence(bytes, (size_t)n, NULL) == n;
        wrong += valid == surrogate;
        if (valid) {
            wrong += rondo_utf8_read(bytes, n) != c;
            for (int cut = 1; cut < n; cut++)
                wrong += rondo_utf8_sequence(bytes, (size_t)cut, NULL) != RONDO_UTF8_PARTIAL;
        }
    }
    EXPECT(wrong == 0, "%d code points", wrong);
    /* all 2^24 beginnings: the number of valid ones is known */
    long valid[5] = {0};
    for (uint32_t word = 0; word < 1u << 24; word++) {
        char bytes[4] = {(char)(word >> 16), (char)(word >> 8), (char)word, (char)0x80};
        int n = rondo_utf8_sequence(bytes, 4, NULL);
        if (n > 0)
            valid[n]++;
    }
    EXPECT(valid[1] == 128L << 16 && valid[2] == 1920L << 8 && valid[3] == 63488 - 2048 &&
               valid[4] == 1048576 / 64,
           "%ld %ld %ld %ld", valid[1], valid[2], valid[3], valid[4]);
}

static size_t stream(const char *bytes, size_t n, size_t step, bool replace, char *out)
{
    struct rondo_utf8_stream state = {.n_pending = 0};
    size_t written = 0;
    for (size_t i = 0; i < n; i += step) {
        size_t length = n - i < step ? n - i : step;
        size_t m = rondo_utf8_stream_push(&state, bytes + i, length, replace, out + written);
        /* nothing but whole sequences has come out */
        size_t good = rondo_utf8_valid_length(out + written, m);
        EXPECT(!replace || good == m, "%zu of %zu bytes are valid", good, m);
        written += m;
    }
    return written + rondo_utf8_stream_finish(&state, replace, out + written);
}

static void test_stream(void)
{
    /* Unicode 15, section 3.9, tables 3-8 to 3-11: one U+FFFD for each maximal subpart */
    static const struct {
        const char *bytes, *replaced;
    } cases[] = {
        {"a\xc3\xa9\xe4\xb8\xbb\xf0\x9f\x8e\xb5z", "a\xc3\xa9\xe4\xb8\xbb\xf0\x9f\x8e\xb5z"},
        {"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41", "????????A"},
        {"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41", "????????A"},
        {"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42", "?????A??B"},
        {"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41", "????A"},
        {"\xf0\x9f\x8e", "?"},
        {"\xf0\x9f\xf0\x9f\x8e\xb5", "?\xf0\x9f\x8e\xb5"},
        {"\xe4\xb8\n", "?\n"},
        {"\xc3", "?"},
        {"\x80", "?"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char want[64] = "", out[256];
        size_t n = strlen(cases[i].bytes), m = 0;
        for (const char *p = cases[i].replaced; *p; p++) {
            memcpy(want + m, *p == '?' ? "\xef\xbf\xbd" : p, *p == '?' ? 3 : 1);
            m += *p == '?' ? 3 : 1;
        }
        for (size_t step = 1; step <= 9; step++) {
            size_t length = stream(cases[i].bytes, n, step, true, out);
            EXPECT(length == m && memcmp(out, want, m) == 0,
                   "case %zu in steps of %zu: %zu bytes, want %zu", i, step, length, m);
            length = stream(cases[i].bytes, n, step, false, out);
            EXPECT(length == n && memcmp(out, cases[i].bytes, n) == 0, "case %zu, unchanged", i);
        }
    }
    struct rondo_utf8_stream state = {.n_pending = 0};
    char out[16];
    EXPECT(rondo_utf8_stream_push(&state, "a\xf0\x9f", 3, false, out) == 1 && state.n_pending == 2,
           "what is not whole is kept back");
    EXPECT(rondo_utf8_stream_push(&state, "\x8e\xb5", 2, false, out) == 4 && state.n_pending == 0,
           "until it is");
}

int main(void)
{
    test_every_code_point();
    test_stream();
    return test_result();
}
