/* Reads fixtures: golden.json through cJSON, and the two .npy files (version 1, float32, C order). */
#include "tests/model/fixture.h"

#include "formats/json.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void die(const char *path, const char *message)
{
    fprintf(stderr, "%s: %s\n", path, message);
    exit(1);
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(a, b);
}

size_t fixture_list(const char *root, char names[FIXTURE_MAX][64])
{
    DIR *directory = opendir(root);
    if (!directory)
        die(root, "no such directory");
    size_t count = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (entry->d_name[0] == '.')
            continue;
        if (count == FIXTURE_MAX)
            die(root, "more directories than FIXTURE_MAX");
        snprintf(names[count++], 64, "%.63s", entry->d_name);
    }
    closedir(directory);
    qsort(names, count, sizeof names[0], compare_names);
    return count;
}

static int32_t *read_ids(struct rondo_json_reader *reader, const char *key, size_t *count)
{
    const cJSON *array = rondo_json_array(reader, key);
    if (!array || !cJSON_GetArraySize(array))
        die(reader->file, "an array of tokens is missing");
    *count = (size_t)cJSON_GetArraySize(array);
    int32_t *ids = malloc(*count * sizeof *ids);
    if (!ids)
        die(reader->file, "out of memory");
    size_t i = 0;
    const cJSON *element;
    cJSON_ArrayForEach(element, array) ids[i++] = (int32_t)element->valuedouble;
    return ids;
}

float *fixture_read_npy(const char *path, size_t rows, int32_t *columns)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        die(path, "cannot be opened");
    unsigned char magic[10];
    if (fread(magic, 1, 10, file) != 10 || memcmp(magic, "\x93NUMPY\x01\x00", 8))
        die(path, "not a .npy file of version 1");
    size_t length = magic[8] | (size_t)magic[9] << 8;
    char header[1024] = "";
    if (length >= sizeof header || fread(header, 1, length, file) != length)
        die(path, "bad header");
    size_t found;
    const char *shape = strstr(header, "'shape': (");
    if (!strstr(header, "'<f4'") || !strstr(header, "'fortran_order': False") || !shape ||
        sscanf(shape, "'shape': (%zu, %d)", &found, columns) != 2 || found != rows)
        die(path, "not a float32 array with a row per token");
    size_t count = rows * (size_t)*columns;
    float *data = malloc(count * sizeof *data);
    if (!data || fread(data, sizeof *data, count, file) != count || fgetc(file) != EOF)
        die(path, "wrong size");
    fclose(file);
    return data;
}

void fixture_open(struct fixture *fixture, const char *root, const char *name)
{
    memset(fixture, 0, sizeof *fixture);
    snprintf(fixture->name, sizeof fixture->name, "%s", name);
    snprintf(fixture->directory, sizeof fixture->directory, "%.440s/%.63s", root, name);

    char path[600];
    snprintf(path, sizeof path, "%s/golden.json", fixture->directory);
    struct rondo_error error = {0};
    cJSON *json = rondo_json_read(path, RONDO_JSON_LIMIT, &error);
    if (!json)
        die(path, error.message);
    struct rondo_json_reader reader = rondo_json_reader(json, path, &error);
    fixture->tokens = read_ids(&reader, "tokens", &fixture->n_tokens);
    fixture->generated = read_ids(&reader, "generated", &fixture->n_generated);
    cJSON_Delete(json);

    snprintf(path, sizeof path, "%s/golden_logits.npy", fixture->directory);
    fixture->logits = fixture_read_npy(path, fixture->n_tokens, &fixture->vocab_size);
    int32_t columns;
    snprintf(path, sizeof path, "%s/golden_generated_logits.npy", fixture->directory);
    fixture->generated_logits = fixture_read_npy(path, fixture->n_generated, &columns);
    if (columns != fixture->vocab_size)
        die(path, "rows of another length than those of golden_logits.npy");
}

void fixture_close(struct fixture *fixture)
{
    free(fixture->tokens);
    free(fixture->generated);
    free(fixture->logits);
    free(fixture->generated_logits);
}
