/* The smallest tokenizer of the family, for checkpoints that are made rather than published. */
#ifndef RONDO_FORMATS_BYTE_TOKENIZER_H
#define RONDO_FORMATS_BYTE_TOKENIZER_H

#include "core/error.h"

/* Smallest vocabulary: 256 bytes and 7 special tokens. */
#define RONDO_BYTE_TOKENIZER_SIZE 263

/* Writes tokenizer.json, tokenizer_config.json (with the plain chat template and an opened <think>) and
 * generation_config.json: byte b is token b; 256 <|startoftext|>, 257 <|endoftext|>, 258 [CLS],
 * 259 [gMASK], 260 <|role_end|>, 261 <role>, 262 </role>. vocab_size is the model's and must be at least
 * RONDO_BYTE_TOKENIZER_SIZE; ids past that stand for nothing. Each file is replaced atomically. */
int rondo_write_byte_tokenizer(const char *directory, int32_t vocab_size,
                               struct rondo_error *error);

#endif
