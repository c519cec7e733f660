/* What a stranger writes: a program against the installed library that opens a checkpoint, runs tokens,
 * forks a session, saves it and loads it again. Fails unless all four give the same logits.
 *
 * usage: embed DIRECTORY SESSION_FILE */
#include <rondo.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct rondo_error error;

static int fail(const char *what)
{
    fprintf(stderr, "embed: %s: %s\n", what, error.message);
    return 1;
}

/* Appends one token and gives the logits after it: [V], to be freed. */
static float *next(struct rondo_context *context, struct rondo_session *session, int32_t token)
{
    const struct rondo_config *config = rondo_model_config(rondo_context_model(context));
    float *logits = calloc((size_t)config->vocab_size, sizeof *logits);
    struct rondo_run_item item = {session, &token, 1, RONDO_LOGITS_LAST, logits, NULL, NULL};
    if (!logits || rondo_context_run(context, &item, 1, &error) != RONDO_OK)
        exit(fail("run"));
    return logits;
}

int main(int argc, char **argv)
{
    static const int32_t prompt[] = {3, 1, 4, 1, 5, 9, 2, 6};
    const struct rondo_context_options options = {.max_context = 256, .max_sessions = 3};
    if (argc != 3)
        return 2;
    struct rondo_device *device = rondo_device_open("cpu", NULL, &error);
    struct rondo_model *model = device ? rondo_model_open(argv[1], NULL, &error) : NULL;
    struct rondo_context *context =
        model ? rondo_context_create(model, device, &options, &error) : NULL;
    struct rondo_session *session = context ? rondo_session_create(context, &error) : NULL;
    if (!session)
        return fail("open");

    size_t bytes = (size_t)rondo_model_config(model)->vocab_size * sizeof(float);
    float *logits = malloc(bytes);
    if (!logits || rondo_session_sync(session, prompt, 8, logits, NULL, &error) != RONDO_OK)
        return fail("sync");

    struct rondo_session *fork = rondo_session_fork(session, &error);
    struct rondo_session *loaded = fork ? rondo_session_create(context, &error) : NULL;
    if (!loaded || rondo_session_save(session, argv[2], &error) != RONDO_OK ||
        rondo_session_load(loaded, argv[2], &error) != RONDO_OK)
        return fail("fork, save, load");

    struct rondo_session *sessions[] = {session, fork, loaded};
    float *rows[3];
    for (int i = 0; i < 3; i++)
        rows[i] = next(context, sessions[i], 7);
    int equal = !memcmp(rows[0], rows[1], bytes) && !memcmp(rows[0], rows[2], bytes);
    int moved = memcmp(rows[0], logits, bytes) != 0;
    printf("rondo %s on %s: %zu tokens, %s\n", rondo_version(), rondo_device_description(device),
           rondo_session_length(loaded), equal && moved ? "three sessions agree" : "they differ");

    for (int i = 0; i < 3; i++) {
        free(rows[i]);
        rondo_session_destroy(sessions[i]);
    }
    free(logits);
    rondo_context_destroy(context);
    rondo_model_close(model);
    rondo_device_close(device);
    return equal && moved ? 0 : 1;
}
