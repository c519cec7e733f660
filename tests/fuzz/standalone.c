/* Runs a fuzz target over files and directories of files, where there is no libFuzzer. */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static int run_file(const char *path)
{
    FILE *file = fopen(path, "rb");
    struct stat info;
    if (!file || fstat(fileno(file), &info) != 0) {
        fprintf(stderr, "%s: cannot read\n", path);
        return -1;
    }
    size_t size = (size_t)info.st_size;
    uint8_t *data = malloc(size ? size : 1); /* exact, so that ASan sees a read past the end */
    int status = data && fread(data, 1, size, file) == size ? 1 : -1;
    fclose(file);
    if (status > 0)
        LLVMFuzzerTestOneInput(data, size);
    free(data);
    return status;
}

/* How many inputs have run, -1 when one could not be read. */
static int run_path(const char *path)
{
    DIR *directory = opendir(path);
    if (!directory)
        return run_file(path);
    int count = 0;
    for (struct dirent *entry; count >= 0 && (entry = readdir(directory));) {
        char name[1024];
        if (entry->d_name[0] == '.' ||
            snprintf(name, sizeof name, "%s/%s", path, entry->d_name) >= (int)sizeof name)
            continue;
        int n = run_path(name);
        count = n < 0 ? -1 : count + n;
    }
    closedir(directory);
    return count;
}

int main(int argc, char **argv)
{
    int count = LLVMFuzzerTestOneInput((const uint8_t *)"", 0);
    for (int i = 1; i < argc && count >= 0; i++) {
        int n = run_path(argv[i]);
        count = n < 0 ? -1 : count + n;
    }
    printf("%d inputs\n", count);
    return count > 0 ? 0 : 1;
}
