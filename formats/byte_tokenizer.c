/* Writing a byte tokenizer: one token for each byte, no merges, the family's special tokens. */
#include "formats/byte_tokenizer.h"

#include "formats/file.h"
#include "formats/tokenizer_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const special[] = {"<|startoftext|>", "<|endoftext|>", "[CLS]",  "[gMASK]",
                                      "<|role_end|>",    "<role>",        "</role>"};
enum { N_SPECIAL = sizeof special / sizeof *special };

static const char config[] =
    "{\n"
    "  \"add_bos_token\": false,\n"
    "  \"add_eos_token\": false,\n"
    "  \"bos_token\": \"<|startoftext|>\",\n"
    "  \"chat_template\": \"{% for message in messages %}{% set role = message['role'] | lower %}"
    "{% if role == 'user' %}{% set role = 'HUMAN' %}{% endif %}{% set role = role | upper %}"
    "{{ '<role>' + role + '</role>' + message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<role>ASSISTANT</role><think>\\\\n' }}{% endif %}\",\n"
    "  \"clean_up_tokenization_spaces\": false,\n"
    "  \"cls_token\": \"[CLS]\",\n"
    "  \"eos_token\": \"<|endoftext|>\",\n"
    "  \"gmask_token\": \"[gMASK]\",\n"
    "  \"pad_token\": \"<|endoftext|>\",\n"
    "  \"tokenizer_class\": \"PreTrainedTokenizerFast\"\n"
    "}\n";

static const char generation[] = "{\n"
                                 "  \"bos_token_id\": 256,\n"
                                 "  \"eos_token_id\": [\n"
                                 "    257,\n"
                                 "    260\n"
                                 "  ],\n"
                                 "  \"pad_token_id\": 257\n"
                                 "}\n";

/* The family's pattern: without merges it changes no ids, but keeps the file like a real one. */
static const char pre_tokenizer[] =
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
    "\"'(?i:[sdmt]|ll|ve|re)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?+\\\\p{L}+|\\\\p{N}| "
    "?[^\\\\s\\\\p{L}\\\\p{N}]++[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]|\\\\s+(?!\\\\S)|\\\\s+\"},"
    "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\",\"add_prefix_space\":"
    "false,"
    "\"trim_offsets\":true,\"use_regex\":false}]}";

static bool put(struct rondo_bytes *out, const char *text)
{
    return rondo_bytes_append(out, text, strlen(text));
}

static bool put_vocab(struct rondo_bytes *out)
{
    bool good = true;
    for (int byte = 0; byte < 256 && good; byte++) {
        char character[4], entry[32];
        int n = rondo_byte_level_encode((unsigned char)byte, character);
        bool escape = character[0] == '"' || character[0] == '\\';
        snprintf(entry, sizeof entry, "%s\"%s%.*s\":%d", byte ? "," : "", escape ? "\\" : "", n,
                 character, byte);
        good = put(out, entry);
    }
    return good;
}

static bool put_tokenizer(struct rondo_bytes *out)
{
    bool good =
        put(out, "{\"version\":\"1.0\",\"truncation\":null,\"padding\":null,\"added_tokens\":[");
    for (int i = 0; i < N_SPECIAL && good; i++) {
        char entry[160];
        snprintf(entry, sizeof entry,
                 "%s{\"id\":%d,\"content\":\"%s\",\"single_word\":false,\"lstrip\":false,"
                 "\"rstrip\":false,"
                 "\"normalized\":false,\"special\":true}",
                 i ? "," : "", 256 + i, special[i]);
        good = put(out, entry);
    }
    return good && put(out, "],\"normalizer\":null,\"pre_tokenizer\":") &&
           put(out, pre_tokenizer) &&
           put(out,
               ",\"post_processor\":null,\"decoder\":{\"type\":\"ByteLevel\",\"add_prefix_space\":"
               "true,"
               "\"trim_offsets\":true,\"use_regex\":true},\"model\":{\"type\":\"BPE\",\"dropout\":"
               "null,"
               "\"unk_token\":null,\"continuing_subword_prefix\":null,\"end_of_word_suffix\":null,"
               "\"fuse_unk\":false,\"byte_fallback\":false,\"ignore_merges\":false,\"vocab\":{") &&
           put_vocab(out) && put(out, "},\"merges\":[]}}\n");
}

static int write_in(const char *directory, const char *name, const char *bytes, size_t n,
                    struct rondo_error *error)
{
    char *path = rondo_path_join(directory, name, error);
    int status = path ? rondo_file_write(path, bytes, n, error) : RONDO_FAILED;
    free(path);
    return status;
}

int rondo_write_byte_tokenizer(const char *directory, int32_t vocab_size, struct rondo_error *error)
{
    if (vocab_size < RONDO_BYTE_TOKENIZER_SIZE)
        return rondo_fail(
            error, RONDO_FAILED,
            "%s: vocab_size: too small for a byte tokenizer (got %d, want at least %d)", directory,
            vocab_size, RONDO_BYTE_TOKENIZER_SIZE);
    struct rondo_bytes json = {0};
    int status = RONDO_OK;
    if (!put_tokenizer(&json))
        status = rondo_fail(error, RONDO_FAILED, "%s/tokenizer.json: out of memory", directory);
    if (status == RONDO_OK)
        status = write_in(directory, "tokenizer.json", json.data, json.n, error);
    if (status == RONDO_OK)
        status = write_in(directory, "tokenizer_config.json", config, sizeof config - 1, error);
    if (status == RONDO_OK)
        status =
            write_in(directory, "generation_config.json", generation, sizeof generation - 1, error);
    free(json.data);
    return status;
}
