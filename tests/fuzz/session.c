/* Fuzz target: session files. The input is a list of edits of a good file, because one from nowhere would not pass the
 * header; sizes and the checksum are put right afterwards, so that what they protect is reached too. */
#include "formats/synth.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/scratch.h"

#include <sys/mman.h>

#define LENGTH 150 /* tokens of the good session: two chunks and a part of one, and a snapshot */
#define CAPACITY ((size_t)4 << 20)
#define CONTEXT 256

static struct rondo_session *saved, *loaded;
static struct rondo_context *context;
static char *good, *bytes; /* [CAPACITY] of a file */
static size_t good_size, n_bytes;
static int32_t vocab_size;
static float *expected, *logits; /* [V] after the token that follows the good session */
static int file;
static char path[64];

static void ignore(void *user, enum rondo_log_level level, const char *line)
{
}

static void want(bool true_here, const char *message)
{
    if (true_here)
        return;
    fprintf(stderr, "fuzz session: %s\n", message);
    abort();
}

/* The session after one more token; its row of logits. */
static void go_on(struct rondo_session *session, float *row)
{
    struct rondo_error error = {0};
    int32_t token = 7;
    struct rondo_run_item item = {
        .session = session, .tokens = &token, .n = 1, .logits = RONDO_LOGITS_LAST, .out = row};
    want(rondo_context_run(context, &item, 1, &error) == RONDO_OK, error.message);
}

/* Writes bytes[0..n_bytes) to the file, which has no name. */
static void write_file(void)
{
    want(ftruncate(file, (off_t)n_bytes) == 0 &&
             pwrite(file, bytes, n_bytes, 0) == (ssize_t)n_bytes,
         "cannot write");
}

static void begin(void)
{
    struct rondo_error error = {0};
    struct rondo_synth_options preset = {.preset = "tiny", .layers = 2, .threads = 1};
    struct rondo_device_options one = {.threads = 1};
    struct rondo_context_options options = {
        .max_context = CONTEXT, .max_sessions = 2, .snapshots = 2, .kv_tokens = 8 * CONTEXT};
    int32_t tokens[LENGTH];
    rondo_log_set(ignore, NULL);
    scratch_begin();
    want(rondo_synth(&preset, scratch_path("model"), &error) == RONDO_OK, error.message);
    struct rondo_model *model = rondo_model_open(scratch_path("model"), NULL, &error);
    struct rondo_device *device = rondo_device_open("cpu", &one, &error);
    want(model && device, error.message);
    context = rondo_context_create(model, device, &options, &error);
    want(context != NULL, error.message);
    vocab_size = rondo_model_config(model)->vocab_size;
    expected = malloc((size_t)vocab_size * sizeof *expected);
    logits = malloc((size_t)vocab_size * sizeof *logits);
    good = malloc(CAPACITY);
    bytes = malloc(CAPACITY);
    saved = rondo_session_create(context, &error);
    loaded = rondo_session_create(context, &error);
    want(expected && logits && good && bytes && saved && loaded, "cannot begin");
    for (int32_t i = 0; i < LENGTH; i++)
        tokens[i] = (i * 31 + 5) % vocab_size;
    struct rondo_sync_result result;
    want(rondo_session_sync(saved, tokens, LENGTH, NULL, &result, &error) == RONDO_OK &&
             rondo_session_save(saved, scratch_path("session"), &error) == RONDO_OK,
         error.message);
    char *read = scratch_read(scratch_path("session"), &good_size);
    want(read && good_size <= CAPACITY / 2, "the good file is too large");
    memcpy(good, read, good_size);
    free(read);
    go_on(saved, expected);
    file = memfd_create("session", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    scratch_end(); /* what is mapped stays */
}

/* One edit of four bytes: where (two bytes, among the first 64 Ki or spread over the file), how, and a value. */
static void edit(const uint8_t *at)
{
    size_t where = at[0] | (size_t)at[1] << 8;
    if (at[2] & 1)
        where = where * n_bytes >> 16;
    if (where + 8 > n_bytes)
        return;
    int64_t value = (int8_t)at[3];
    switch (at[2] >> 1 & 7) {
    case 0:
        bytes[where] = (char)value;
        break;
    case 1:
        memcpy(bytes + where, &value, 4);
        break;
    case 2:
        memcpy(bytes + where, &value, 8);
        break;
    case 3:
        n_bytes = where;
        break;
    default: /* ids of tokens, where a longer length takes other bytes for tokens */
        memset(bytes + where, 0, n_bytes - where < 4096 ? n_bytes - where : 4096);
    }
}

/* Puts right what `message` says is wrong with sizes or the checksum; false when it is something else. */
static bool mend(const char *message)
{
    const char *text = strstr(message, "(got ");
    unsigned long long got, wanted;
    if (!text)
        return false;
    if (strstr(message, "checksum") && sscanf(text, "(got %llx, want %llx)", &got, &wanted) == 2) {
        uint64_t checksum = wanted; /* of the bytes before it */
        memcpy(bytes + n_bytes - sizeof checksum, &checksum, sizeof checksum);
        return true;
    }
    if (strstr(message, "wrong size") &&
        sscanf(text, "(got %llu bytes, want %llu)", &got, &wanted) == 2 && wanted <= CAPACITY) {
        if (wanted > n_bytes)
            memset(bytes + n_bytes, 0, wanted - n_bytes);
        n_bytes = wanted;
        uint64_t size = wanted;
        memcpy(bytes + 64, &size, sizeof size);
        return true;
    }
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct rondo_error error = {0};
    if (!context)
        begin();
    memcpy(bytes, good, good_size);
    n_bytes = good_size;
    for (size_t i = 0; i + 4 <= size && i < 256; i += 4)
        edit(data + i);
    size_t before = rondo_session_length(loaded);
    int status = RONDO_FAILED;
    for (int attempt = 0; attempt < 3 && status; attempt++) {
        write_file();
        status = rondo_session_load(loaded, path, &error);
        if (status)
            want(rondo_session_length(loaded) == before,
                 "a file that is refused changed a session");
        if (status && !mend(error.message))
            break;
    }
    if (status)
        return 0;
    size_t length = rondo_session_length(loaded);
    want(length <= CONTEXT, "longer than the context");
    for (size_t i = 0; i < length; i++)
        want(rondo_session_tokens(loaded)[i] >= 0 && rondo_session_tokens(loaded)[i] < vocab_size,
             "a token that is none");
    if (length < CONTEXT)
        go_on(loaded, logits);
    if (n_bytes == good_size && memcmp(bytes, good, good_size) == 0)
        want(memcmp(logits, expected, (size_t)vocab_size * sizeof *logits) == 0,
             "the good file gives other logits");
    rondo_session_truncate(loaded, length / 2); /* back to a snapshot, or to nothing */
    return 0;
}
