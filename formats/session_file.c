/* Sessions on disk: rondo_session_save and rondo_session_load.
 *
 * Little-endian, one after the other: struct header; tokens i32 [length]; positions of snapshots i32
 * [n_snapshots]; for each linear layer its state f32 [H, hd, hd], the open chunk's keys and values [H, C, hd]
 * each, and the state of every snapshot; for each softmax layer its pages of keys, then of values [Hkv, C, hd];
 * u64 checksum of all before. A file is bound to the model's hash, to what changes a model's numbers (decay
 * offset, YaRN) and to the mode. */
#include "core/context.h"
#include "core/error.h"
#include "formats/file.h"
#include "formats/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "RONDOSES"
#define VERSION 1
#define BUFFER_SIZE ((size_t)1 << 20)

struct header {
    char magic[8];
    uint32_t version;
    uint16_t mode, kv;
    uint64_t model_hash;
    double yarn_factor; /* 0: none */
    int32_t decay_offset, n_layers, heads, kv_heads, head_dim, chunk;
    int32_t length, n_snapshots;
    uint64_t size; /* of the whole file */
};

/* A file being written or read front to back, with the checksum of what went through. */
struct stream {
    const char *path;
    struct rondo_output *output; /* writing */
    int fd;                      /* reading */
    uint64_t offset, checksum;
    char *buffer; /* [BUFFER_SIZE] */
    struct rondo_error *error;
};

/* FNV-1a over 8-byte words; the last word of a piece is filled up with zeros. */
static uint64_t add_checksum(uint64_t checksum, const void *bytes, size_t size)
{
    const char *at = bytes;
    for (; size >= sizeof(uint64_t); at += sizeof(uint64_t), size -= sizeof(uint64_t)) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        checksum = (checksum ^ word) * UINT64_C(0x100000001b3);
        checksum ^= checksum >> 32;
    }
    if (size) {
        uint64_t word = 0;
        memcpy(&word, at, size);
        checksum = (checksum ^ word) * UINT64_C(0x100000001b3);
        checksum ^= checksum >> 32;
    }
    return checksum;
}

static int put(struct stream *stream, const void *bytes, size_t size)
{
    stream->checksum = add_checksum(stream->checksum, bytes, size);
    int status = rondo_output_write(stream->output, stream->offset, bytes, size, stream->error);
    stream->offset += size;
    return status;
}

static int get(struct stream *stream, void *bytes, size_t size)
{
    for (size_t done = 0; done < size;) {
        ssize_t n = read(stream->fd, (char *)bytes + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return rondo_fail(stream->error, RONDO_FAILED, "%s: can not be read: %s", stream->path,
                              strerror(errno));
        if (n == 0)
            return rondo_fail(stream->error, RONDO_FAILED, "%s: ends too early (got %llu bytes)",
                              stream->path, (unsigned long long)(stream->offset + done));
        done += (size_t)n;
    }
    stream->checksum = add_checksum(stream->checksum, bytes, size);
    stream->offset += size;
    return RONDO_OK;
}

/* ---- what a session's caches are made of ------------------------------------------------------- */

/* A piece of device memory, made of blocks of which only some first bytes mean anything, and some that follow
 * further on: rows past a sequence's length may be left from another session. */
struct piece {
    void *memory; /* [size], NULL where there is none in particular */
    size_t size, block;
    size_t used;                  /* of a block */
    size_t further, further_used; /* where the others begin, and how many they are; 0: none */
};

/* Called for each piece, in the order of the file. */
typedef int piece_function(struct stream *stream, struct rondo_device *device,
                           const struct piece *piece);

/* Bytes from `done` on that go through the buffer at once: whole blocks where they fit. */
static size_t next_part(const struct piece *piece, size_t done)
{
    size_t most =
        piece->block < BUFFER_SIZE ? BUFFER_SIZE / piece->block * piece->block : BUFFER_SIZE;
    return piece->size - done < most ? piece->size - done : most;
}

static void clear_unused(char *block, const struct piece *piece)
{
    size_t used = piece->further + piece->further_used;
    if (piece->further)
        memset(block + piece->used, 0, piece->further - piece->used);
    else
        used = piece->used;
    memset(block + used, 0, piece->block - used);
}

static int write_piece(struct stream *stream, struct rondo_device *device,
                       const struct piece *piece)
{
    for (size_t done = 0; done < piece->size;) {
        size_t n = next_part(piece, done);
        device->read(device, stream->buffer, (char *)piece->memory + done, n);
        for (size_t at = 0; piece->used < piece->block && at < n; at += piece->block)
            clear_unused(stream->buffer + at, piece);
        int status = put(stream, stream->buffer, n);
        if (status)
            return status;
        done += n;
    }
    return RONDO_OK;
}

/* Without memory the piece is read for its checksum only. */
static int read_piece(struct stream *stream, struct rondo_device *device, const struct piece *piece)
{
    for (size_t done = 0; done < piece->size;) {
        size_t n = next_part(piece, done);
        int status = get(stream, stream->buffer, n);
        if (status)
            return status;
        if (piece->memory)
            device->write(device, (char *)piece->memory + done, stream->buffer, n);
        done += n;
    }
    return RONDO_OK;
}

static void *at_slot(void *base, size_t size, int32_t slot)
{
    return (char *)base + size * (size_t)slot;
}

/* What a walk over the caches of a session goes by. */
struct walk {
    struct rondo_context *context;
    struct rondo_session *session; /* NULL: of none in particular, for sizes and order only */
    const int32_t *snapshot_slots; /* [n_snapshots] -1 where a snapshot has no place */
    int32_t n_snapshots, n_pages, length;
    struct stream *stream;
    piece_function *piece;
};

/* Rows [C, hd] of each head, `rows` of C in use; of f8_e4m3 their scales stand before them. */
static int walk_rows(const struct walk *walk, void *memory, size_t size, enum rondo_dtype dtype,
                     int32_t rows)
{
    size_t hd = (size_t)walk->context->cache.head_dim, n = (size_t)rows;
    struct piece piece = {memory,
                          size,
                          rondo_kv_block_bytes(dtype, RONDO_CHUNK, (int64_t)hd),
                          n * hd * rondo_dtype_size(dtype),
                          0,
                          0};
    if (dtype == RONDO_F8_E4M3) {
        piece.further = rondo_kv_rows_offset(dtype, RONDO_CHUNK);
        piece.further_used = piece.used;
        piece.used = n * sizeof(float);
    }
    return walk->piece(walk->stream, walk->context->device, &piece);
}

static int walk_linear(const struct walk *walk, const struct rondo_linear_cache *linear)
{
    const struct rondo_cache *cache = &walk->context->cache;
    size_t state = rondo_cache_slot_state_bytes(cache), tail = rondo_cache_slot_tail_bytes(cache);
    const struct rondo_session *session = walk->session;
    struct piece piece = {
        session ? at_slot(linear->state, state, session->slot) : NULL, state, state, state, 0, 0};
    void *tails[2] = {linear->tail_k, linear->tail_v};
    int status = walk->piece(walk->stream, walk->context->device, &piece);
    for (int i = 0; i < 2 && !status; i++)
        status = walk_rows(walk, session ? at_slot(tails[i], tail, session->slot) : NULL, tail,
                           linear->dtype, walk->length % RONDO_CHUNK);
    for (int32_t i = 0; i < walk->n_snapshots && !status; i++) {
        bool kept = session && walk->snapshot_slots[i] >= 0;
        piece.memory = kept ? at_slot(linear->state, state, walk->snapshot_slots[i]) : NULL;
        status = walk->piece(walk->stream, walk->context->device, &piece);
    }
    return status;
}

static int walk_softmax(const struct walk *walk, const struct rondo_kv_cache *kv)
{
    size_t page = rondo_cache_page_bytes(&walk->context->cache);
    void *bases[2] = {kv->k, kv->v};
    int status = RONDO_OK;
    for (int i = 0; i < 2; i++) {
        for (int32_t p = 0; p < walk->n_pages && !status; p++) {
            int32_t rows = walk->length - p * RONDO_CHUNK;
            void *memory =
                walk->session ? at_slot(bases[i], page, walk->session->page_table[p]) : NULL;
            status =
                walk_rows(walk, memory, page, kv->dtype, rows < RONDO_CHUNK ? rows : RONDO_CHUNK);
        }
    }
    return status;
}

static int walk_caches(const struct walk *walk)
{
    const struct rondo_cache *cache = &walk->context->cache;
    int status = RONDO_OK;
    for (int32_t l = 0; l < cache->n_layers && !status; l++)
        status = cache->linear[l].state ? walk_linear(walk, &cache->linear[l])
                                        : walk_softmax(walk, &cache->kv[l]);
    return status;
}

static int32_t pages_of(const struct rondo_cache *cache, int32_t length)
{
    return cache->n_softmax ? (length + RONDO_CHUNK - 1) / RONDO_CHUNK : 0;
}

static struct header make_header(const struct rondo_context *context, int32_t length,
                                 int32_t n_snapshots)
{
    const struct rondo_cache *cache = &context->cache;
    const struct rondo_config *config = &context->model->config;
    struct header header = {
        .version = VERSION,
        .mode = (uint16_t)context->settings.mode,
        .kv = (uint16_t)context->settings.kv,
        .model_hash = context->model->hash,
        .yarn_factor = config->yarn.enabled ? config->yarn.factor : 0,
        .decay_offset = config->decay_offset,
        .n_layers = cache->n_layers,
        .heads = cache->heads,
        .kv_heads = cache->kv_heads,
        .head_dim = cache->head_dim,
        .chunk = RONDO_CHUNK,
        .length = length,
        .n_snapshots = n_snapshots,
    };
    memcpy(header.magic, MAGIC, sizeof header.magic);
    uint64_t linear = rondo_cache_slot_state_bytes(cache) * (1 + (uint64_t)n_snapshots) +
                      2 * rondo_cache_slot_tail_bytes(cache);
    uint64_t softmax = 2 * rondo_cache_page_bytes(cache) * (uint64_t)pages_of(cache, length);
    header.size = sizeof header + ((uint64_t)length + (uint64_t)n_snapshots) * sizeof(int32_t) +
                  (uint64_t)cache->n_linear * linear + (uint64_t)cache->n_softmax * softmax +
                  sizeof(uint64_t);
    return header;
}

/* ---- save ------------------------------------------------------------------------------------- */

static int write_session(struct stream *stream, struct rondo_session *session)
{
    int32_t n = session->n_snapshots;
    struct header header = make_header(session->context, session->length, n);
    int32_t *positions = calloc((size_t)n + 1, sizeof *positions),
            *slots = calloc((size_t)n + 1, sizeof *slots);
    int status = RONDO_OK;
    if (!positions || !slots)
        status = rondo_fail(stream->error, RONDO_FAILED, "%s: out of memory", stream->path);
    for (int32_t i = 0; !status && i < n; i++) {
        positions[i] = session->snapshots[i].position;
        slots[i] = session->snapshots[i].slot;
    }
    if (!status && !(status = rondo_output_reserve(stream->output, header.size, stream->error)) &&
        !(status = put(stream, &header, sizeof header)) &&
        !(status = put(stream, session->tokens, (size_t)session->length * sizeof(int32_t))) &&
        !(status = put(stream, positions, (size_t)n * sizeof(int32_t))) &&
        !(status = walk_caches(&(struct walk){session->context, session, slots, n, session->n_pages,
                                              session->length, stream, write_piece})) &&
        !(status = rondo_device_status(session->context->device, stream->error))) {
        uint64_t checksum = stream->checksum;
        status = put(stream, &checksum, sizeof checksum);
    }
    free(positions);
    free(slots);
    return status;
}

int rondo_session_save(const struct rondo_session *session, const char *path,
                       struct rondo_error *error)
{
    struct stream stream = {.path = path, .fd = -1, .error = error, .buffer = malloc(BUFFER_SIZE)};
    if (!stream.buffer)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory", path);
    int status = RONDO_FAILED;
    char *target = rondo_file_target(path, error);
    stream.output = target ? rondo_output_open(target, error) : NULL;
    free(target);
    if (stream.output) {
        status = write_session(&stream, (struct rondo_session *)session);
        if (status)
            rondo_output_abort(stream.output);
        else
            status = rondo_output_finish(stream.output, error);
    }
    free(stream.buffer);
    return status;
}

/* ---- load ------------------------------------------------------------------------------------- */

static int check_header(const struct header *got, const struct rondo_context *context,
                        uint64_t file_size, const char *path, struct rondo_error *error)
{
    if (memcmp(got->magic, MAGIC, sizeof got->magic) != 0)
        return rondo_fail(error, RONDO_FAILED, "%s: not a session file of rondo", path);
    if (got->version != VERSION)
        return rondo_fail(error, RONDO_FAILED, "%s: version: not supported (got %u, want %u)", path,
                          got->version, VERSION);
    struct header want = make_header(context, 0, 0);
    if (got->model_hash != want.model_hash)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: made with another model (got %016llx, want %016llx)", path,
                          (unsigned long long)got->model_hash, (unsigned long long)want.model_hash);
    if (got->mode != want.mode)
        return rondo_fail(
            error, RONDO_FAILED, "%s: mode: made with another one (got %s, want %s)", path,
            got->mode <= RONDO_MODE_FP8 ? rondo_mode_name((enum rondo_mode)got->mode) : "unknown",
            rondo_mode_name((enum rondo_mode)want.mode));
    if (got->kv != want.kv)
        return rondo_fail(
            error, RONDO_FAILED,
            "%s: keys and values: made with another dtype (got %s, want %s); see --kv-dtype", path,
            got->kv <= RONDO_KV_FP8 ? rondo_kv_name((enum rondo_kv)got->kv) : "unknown",
            rondo_kv_name((enum rondo_kv)want.kv));
    if (got->decay_offset != want.decay_offset || got->yarn_factor != want.yarn_factor)
        return rondo_fail(
            error, RONDO_FAILED,
            "%s: made with another decay offset or YaRN factor (got %d and %g, want %d and %g)",
            path, got->decay_offset, got->yarn_factor, want.decay_offset, want.yarn_factor);
    if (got->n_layers != want.n_layers || got->heads != want.heads ||
        got->kv_heads != want.kv_heads || got->head_dim != want.head_dim ||
        got->chunk != want.chunk)
        return rondo_fail(error, RONDO_FAILED, "%s: shapes of the caches differ from the model's",
                          path);
    if (got->length < 0 || got->length > context->settings.max_context)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: longer than the context (got %d tokens, want at most %d)", path,
                          got->length, context->settings.max_context);
    if (got->n_snapshots < 0 || got->n_snapshots > 4096)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: snapshots: out of range (got %d, want 0 to 4096)", path,
                          got->n_snapshots);
    want = make_header(context, got->length, got->n_snapshots);
    if (got->size != want.size || file_size != want.size)
        return rondo_fail(error, RONDO_FAILED,
                          "%s: wrong size (got %llu bytes, want %llu); the file is damaged", path,
                          (unsigned long long)file_size, (unsigned long long)want.size);
    return RONDO_OK;
}

/* What stands before the caches. */
struct front {
    struct header header;
    int32_t *tokens;    /* [length] */
    int32_t *positions; /* [n_snapshots] */
    int32_t *slots;     /* [n_snapshots] where they are loaded to, -1: left out */
};

static int read_front(struct stream *stream, struct front *front,
                      const struct rondo_context *context, uint64_t file_size)
{
    int status = get(stream, &front->header, sizeof front->header);
    if (status ||
        (status = check_header(&front->header, context, file_size, stream->path, stream->error)))
        return status;
    size_t length = (size_t)front->header.length, n = (size_t)front->header.n_snapshots;
    front->tokens = calloc(length + 1, sizeof *front->tokens);
    front->positions = calloc(n + 1, sizeof *front->positions);
    front->slots = calloc(n + 1, sizeof *front->slots);
    if (!front->tokens || !front->positions || !front->slots)
        return rondo_fail(stream->error, RONDO_FAILED, "%s: out of memory", stream->path);
    if ((status = get(stream, front->tokens, length * sizeof(int32_t))) ||
        (status = get(stream, front->positions, n * sizeof(int32_t))))
        return status;
    for (size_t i = 0; i < n; i++) {
        if (front->positions[i] <= 0 || front->positions[i] > front->header.length ||
            front->positions[i] % RONDO_CHUNK)
            return rondo_fail(stream->error, RONDO_FAILED,
                              "%s: snapshot %zu: impossible position (got %d)", stream->path, i,
                              front->positions[i]);
    }
    int32_t vocabulary = context->model->config.vocab_size;
    for (size_t i = 0; i < length; i++) {
        if (front->tokens[i] < 0 || front->tokens[i] >= vocabulary)
            return rondo_fail(stream->error, RONDO_FAILED,
                              "%s: token %zu: id out of range (got %d, want 0 to %d)", stream->path,
                              i, front->tokens[i], vocabulary - 1);
    }
    return RONDO_OK;
}

/* Reads everything once without touching the session. */
static int verify(struct stream *stream, struct front *front, struct rondo_context *context,
                  uint64_t file_size)
{
    int status = read_front(stream, front, context, file_size);
    if (status)
        return status;
    int32_t length = front->header.length;
    status =
        walk_caches(&(struct walk){context, NULL, NULL, front->header.n_snapshots,
                                   pages_of(&context->cache, length), length, stream, read_piece});
    uint64_t want = stream->checksum, got;
    if (status || (status = get(stream, &got, sizeof got)))
        return status;
    if (got != want)
        return rondo_fail(
            stream->error, RONDO_FAILED,
            "%s: checksum does not match (got %016llx, want %016llx); the file is damaged",
            stream->path, (unsigned long long)got, (unsigned long long)want);
    return RONDO_OK;
}

/* Pages the session would give back when emptied: those that no fork holds. */
static int32_t own_pages(const struct rondo_session *session)
{
    int32_t own = 0;
    for (int32_t i = 0; i < session->n_pages; i++)
        own += session->context->cache.page_references[session->page_table[i]] == 1;
    return own;
}

static int apply(struct stream *stream, struct front *front, struct rondo_session *session)
{
    struct rondo_context *context = session->context;
    int32_t length = front->header.length, n = front->header.n_snapshots;
    int32_t pages = pages_of(&context->cache, length),
            room = context->cache.n_free_pages + own_pages(session);
    if (pages > room)
        return rondo_fail(stream->error, RONDO_FAILED,
                          "%s: the KV pool has no room (want %d pages, got %d)", stream->path,
                          pages, room);
    size_t front_size = sizeof(struct header) + ((size_t)length + (size_t)n) * sizeof(int32_t);
    if (lseek(stream->fd, (off_t)front_size, SEEK_SET) < 0)
        return rondo_fail(stream->error, RONDO_FAILED, "%s: can not be read again: %s",
                          stream->path, strerror(errno));

    session->length = 0;
    rondo_session_trim(session);
    rondo_session_make_room(session, length);
    int32_t left_out = n - rondo_snapshots_per_session(&context->settings);
    for (int32_t i = 0; i < n; i++) {
        front->slots[i] = i < left_out ? -1 : rondo_cache_take_snapshot(&context->cache);
        if (front->slots[i] >= 0)
            session->snapshots[session->n_snapshots++] =
                (struct rondo_snapshot){.position = front->positions[i], .slot = front->slots[i]};
    }
    int status = walk_caches(
        &(struct walk){context, session, front->slots, n, pages, length, stream, read_piece});
    context->device->synchronize(context->device);
    if (!status)
        status = rondo_device_status(context->device, stream->error);
    if (status)
        rondo_session_trim(session); /* length is 0: nothing half loaded stays */
    else
        rondo_session_append(session, front->tokens, length);
    return status;
}

int rondo_session_load(struct rondo_session *session, const char *path, struct rondo_error *error)
{
    struct stream stream = {.path = path, .error = error, .buffer = malloc(BUFFER_SIZE)};
    struct front front = {0};
    struct stat info;
    if (!stream.buffer)
        return rondo_fail(error, RONDO_FAILED, "%s: out of memory", path);
    /* O_NONBLOCK: opening a FIFO must not wait for its writer */
    stream.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int status;
    if (stream.fd < 0 || fstat(stream.fd, &info) < 0)
        status =
            rondo_fail(error, RONDO_FAILED, "%s: can not be opened: %s", path, strerror(errno));
    else if (!S_ISREG(info.st_mode))
        status = rondo_fail(error, RONDO_FAILED, "%s: not a regular file", path);
    else if (!(status = verify(&stream, &front, session->context, (uint64_t)info.st_size)))
        status = apply(&stream, &front, session);
    if (stream.fd >= 0)
        close(stream.fd);
    free(front.tokens);
    free(front.positions);
    free(front.slots);
    free(stream.buffer);
    return status;
}
