/* Huge pages for mapped files. The page cache of most file systems has small pages of what was written or read in
 * small pieces, and a processor then has to look up every 4 KB of weights. On a virtual machine that is expensive
 * for what was not used for long: products with weights out of 14 GB at random ran at 16 GB/s in small pages and at
 * 35 in huge ones. */
#include "formats/huge_pages.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)

/* Whether the system makes huge pages of anonymous memory: always, or when asked. */
static bool has_huge_pages(void)
{
    char line[128] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (!file)
        return false;
    bool read = fgets(line, sizeof line, file) != NULL;
    fclose(file);
    return read && (strstr(line, "[always]") || strstr(line, "[madvise]"));
}

/* Bytes of [begin, end) that are mapped by huge pages; false where the system does not say. */
static bool huge_bytes(uintptr_t begin, uintptr_t end, uint64_t *bytes)
{
    static const char *const kinds[] = {"AnonHugePages: %llu", "ShmemPmdMapped: %llu",
                                        "FilePmdMapped: %llu"};
    char line[512];
    bool inside = false, found = false;
    FILE *file = fopen("/proc/self/smaps", "re");
    *bytes = 0;
    if (!file)
        return false;
    while (fgets(line, sizeof line, file)) {
        unsigned long long first, stop, kilobytes;
        if (sscanf(line, "%llx-%llx ", &first, &stop) == 2)
            inside = first < end && stop > begin;
        for (size_t i = 0; inside && i < sizeof kinds / sizeof *kinds; i++)
            if (sscanf(line, kinds[i], &kilobytes) == 1) {
                found = true;
                *bytes += kilobytes << 10;
            }
    }
    fclose(file);
    return found;
}

bool rondo_huge_pages_wanted(const void *bytes, size_t size)
{
    uint64_t huge;
    return size >= HUGE_PAGE && has_huge_pages() &&
           huge_bytes((uintptr_t)bytes, (uintptr_t)bytes + size, &huge) && huge < size / 10 * 9;
}

void rondo_huge_pages_copy(void *bytes, size_t size)
{
#if defined(MADV_HUGEPAGE) && defined(MREMAP_FIXED)
    size_t page = (size_t)sysconf(_SC_PAGESIZE), whole = (size + page - 1) / page * page;
    size_t room = whole + HUGE_PAGE;
    char *memory = mmap(NULL, room, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return;
    /* Where huge pages begin, as they will in the end: then they move as they are. */
    char *copy = memory + ((uintptr_t)bytes - (uintptr_t)memory) % HUGE_PAGE;
    madvise(copy, whole, MADV_HUGEPAGE);
    memcpy(copy, bytes, size);
    bool moved = mprotect(copy, whole, PROT_READ) == 0 &&
                 mremap(copy, whole, whole, MREMAP_MAYMOVE | MREMAP_FIXED, bytes) != MAP_FAILED;
    if (copy > memory)
        munmap(memory, (size_t)(copy - memory));
    munmap(copy + (moved ? whole : 0), (size_t)(memory + room - copy) - (moved ? whole : 0));
#endif
}
