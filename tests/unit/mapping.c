/* Mapped files: what they hold stays the same, and stands at the same addresses, in memory that is locked and in huge
 * pages. */
#include "formats/mapping.h"
#include "formats/huge_pages.h"
#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = (5 << 20) + 4321 };

static unsigned char content(size_t at)
{
    return (unsigned char)(at * 2654435761u >> 13);
}

static size_t differences(const struct rondo_mapping *mapping)
{
    const unsigned char *bytes = mapping->bytes;
    size_t count = 0;
    for (size_t i = 0; i < mapping->size; i++)
        count += bytes[i] != content(i);
    return count;
}

/* Pieces as small as a page move, too; none of them may touch its neighbours. */
static void test_copy(const char *path, size_t piece)
{
    struct rondo_error error = {0};
    struct rondo_mapping mapping;
    EXPECT(!rondo_mapping_open(&mapping, path, &error), "%s", error.message);
    EXPECT(mapping.size == SIZE && !differences(&mapping), "the file is not what was written");
    const void *address = mapping.bytes;
    for (size_t at = 0; at < SIZE; at += piece)
        rondo_huge_pages_copy((char *)mapping.bytes + at, SIZE - at < piece ? SIZE - at : piece);
    EXPECT(mapping.bytes == address && !differences(&mapping), "%zu bytes differ in pieces of %zu",
           differences(&mapping), piece);
    EXPECT(rondo_mapped_file(address) && !strcmp(rondo_mapped_file(address), path),
           "the memory belongs to no file");
    if (piece >= SIZE && rondo_huge_pages_wanted(mapping.bytes, 4 << 20))
        EXPECT((uintptr_t)address % (2 << 20) != 0, "4 MB of huge pages are in small ones");
    rondo_mapping_close(&mapping);
}

static void test_lock(const char *path)
{
    struct rondo_error error = {0};
    struct rondo_mapping mapping;
    EXPECT(!rondo_mapping_open(&mapping, path, &error), "%s", error.message);
    if (rondo_mapping_lock(&mapping, 0, SIZE, path, &error)) {
        EXPECT(strstr(error.message, "cannot be locked"), "%s", error.message);
    } else {
        if (rondo_mapping_is_small(&mapping))
            EXPECT(!rondo_mapping_enlarge(&mapping, 0, SIZE, path, &error), "%s", error.message);
        EXPECT(!differences(&mapping), "%zu bytes differ", differences(&mapping));
        rondo_mapping_unlock(&mapping);
    }
    rondo_mapping_close(&mapping);
}

int main(void)
{
    struct rondo_mapping none = {0};
    unsigned char *bytes = malloc(SIZE);
    scratch_begin();
    const char *path = scratch_path("mapped");
    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = content(i);
    scratch_write(path, bytes, SIZE);
    test_copy(path, 4096);
    test_copy(path, 1 << 20);
    test_copy(path, SIZE);
    test_lock(path);
    EXPECT(!rondo_mapping_is_small(&none), "an empty file has small pages");
    free(bytes);
    scratch_end();
    return test_result();
}
