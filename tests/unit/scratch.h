/* A directory of its own for a test, and what tests do with files in it. */
#ifndef RONDO_TESTS_UNIT_SCRATCH_H
#define RONDO_TESTS_UNIT_SCRATCH_H

#include <dirent.h>
#include <ftw.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char scratch[256]; /* the directory; exists between scratch_begin and scratch_end */

static int scratch_remove_one(const char *path, const struct stat *info, int kind,
                              struct FTW *place)
{
    return remove(path);
}

static inline void scratch_remove(const char *path)
{
    nftw(path, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static inline void scratch_begin(void)
{
    const char *base = getenv("TMPDIR");
    snprintf(scratch, sizeof scratch, "%s/rondo-test-XXXXXX", base ? base : "/tmp");
    if (!mkdtemp(scratch)) {
        perror(scratch);
        exit(1);
    }
}

static inline void scratch_end(void)
{
    scratch_remove(scratch);
}

/* SCRATCH/name, in one of 64 buffers that take turns. */
static inline const char *scratch_path(const char *name)
{
    static char paths[64][512];
    static int next;
    next = (next + 1) % 64;
    snprintf(paths[next], sizeof paths[next], "%s/%s", scratch, name);
    return paths[next];
}

/* The whole file, malloc'ed with a NUL at its end; NULL when it cannot be read. */
static inline char *scratch_read(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    fseek(file, 0, SEEK_END);
    long length = ftell(file);
    rewind(file);
    char *bytes = malloc((size_t)length + 1);
    *size = fread(bytes, 1, (size_t)length, file);
    bytes[*size] = '\0';
    fclose(file);
    return bytes;
}

static inline void scratch_write(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(bytes, 1, size, file) != size || fclose(file) != 0) {
        perror(path);
        exit(1);
    }
}

static inline void scratch_write_text(const char *path, const char *text)
{
    scratch_write(path, text, strlen(text));
}

static inline int scratch_same_file(const char *a, const char *b)
{
    size_t m = 0, n = 0;
    char *x = scratch_read(a, &m), *y = scratch_read(b, &n);
    int same = x && y && m == n && memcmp(x, y, m) == 0;
    free(x);
    free(y);
    return same;
}

/* Number of entries of a directory, -1 when it is not there. */
static inline int scratch_count(const char *path)
{
    DIR *stream = opendir(path);
    int n = 0;
    if (!stream)
        return -1;
    for (struct dirent *entry; (entry = readdir(stream));)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(stream);
    return n;
}

/* Both directories have the same files with the same bytes; subdirectories are not looked into. */
static inline int scratch_same_directory(const char *a, const char *b)
{
    DIR *stream = opendir(a);
    int same = stream && scratch_count(a) == scratch_count(b);
    for (struct dirent *entry; same && (entry = readdir(stream));) {
        char x[800], y[800];
        snprintf(x, sizeof x, "%s/%s", a, entry->d_name);
        snprintf(y, sizeof y, "%s/%s", b, entry->d_name);
        if (entry->d_name[0] != '.')
            same = scratch_same_file(x, y);
    }
    if (stream)
        closedir(stream);
    return same;
}

#endif
