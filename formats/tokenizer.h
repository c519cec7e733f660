/* What the public header leaves out of the tokenizer: reading one from memory. */
#ifndef RONDO_FORMATS_TOKENIZER_H
#define RONDO_FORMATS_TOKENIZER_H

#include "core/rondo.h"

/* As rondo_tokenizer_open, from the bytes of a tokenizer.json; `name` stands in messages. */
struct rondo_tokenizer *rondo_tokenizer_parse(const char *name, const char *text, size_t length,
                                              struct rondo_error *error);

#endif
