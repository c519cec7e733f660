/* Fuzz target: a tokenizer.json, a NUL, and a text to encode with it (any bytes). */
#include "formats/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *separator = size ? memchr(data, 0, size) : NULL;
    size_t length = separator ? (size_t)(separator - data) : size;
    struct rondo_error error = {0};
    struct rondo_tokenizer *tokenizer =
        rondo_tokenizer_parse("fuzz.json", (const char *)data, length, &error);
    if (!tokenizer)
        return 0;
    const char *text = separator ? (const char *)separator + 1 : "";
    size_t text_length = separator ? size - length - 1 : 0;
    for (int special = 0; special < 2; special++) {
        int32_t *ids = NULL;
        int64_t n = rondo_tokenizer_encode(tokenizer, text, text_length, special, &ids, &error);
        for (int64_t i = 0; i < n; i++) {
            size_t piece;
            const char *bytes = rondo_tokenizer_piece(tokenizer, ids[i], &piece);
            if (ids[i] < 0 || ids[i] >= rondo_tokenizer_size(tokenizer) || (piece > 0 && !bytes))
                abort();
            rondo_tokenizer_is_special(tokenizer, ids[i]);
        }
        if (n >= 0)
            free(ids);
    }
    rondo_tokenizer_find(tokenizer, "<|endoftext|>");
    rondo_tokenizer_close(tokenizer);
    return 0;
}
