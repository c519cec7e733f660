/* Source lines of addresses in the program, by addr2line where it is installed and the program has debug information. */
#include "check.h"
#include "internal.h"

#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <string.h>

namespace simt
{

// The file without its directories: reports are read by people.
static const char *base_name(const char *file)
{
    const char *slash = strrchr(file, '/');
    return slash ? slash + 1 : file;
}

// Lines of the functions that were inlined at an address, innermost first: "a.h:1, in b.cu:2".
static void read_lines(FILE *pipe, char *text, size_t size)
{
    char line[512];
    size_t used = 0;
    while (fgets(line, sizeof line, pipe)) {
        line[strcspn(line, "\n ")] = 0;
        if (line[0] == '?' || used + 8 >= size)
            continue;
        int wrote =
            snprintf(text + used, size - used, "%s%s", used ? ", in " : "", base_name(line));
        used += wrote > 0 ? (size_t)wrote : 0;
    }
}

void site_text(char *text, size_t size, const Site &site)
{
    text[0] = 0;
    if (!site.code) {
        if (site.here.file)
            snprintf(text, size, "%s:%d", base_name(site.here.file), site.here.line);
        return;
    }
    Dl_info object;
    if (!dladdr(site.code, &object) || !object.dli_fname) {
        snprintf(text, size, "%p", site.code);
        return;
    }
    const char *start = (const char *)object.dli_fbase;
    bool moved = ((const Elf64_Ehdr *)start)->e_type == ET_DYN;
    size_t address = (size_t)((const char *)site.code - (moved ? start : nullptr));
    char command[1024];
    snprintf(command, sizeof command, "addr2line -i -e '%s' %#zx 2> /dev/null",
             strchr(object.dli_fname, '/') ? object.dli_fname : "/proc/self/exe", address);
    FILE *pipe = popen(command, "r");
    if (pipe) {
        read_lines(pipe, text, size);
        pclose(pipe);
    }
    if (!text[0])
        snprintf(text, size, "%s+%#zx", base_name(object.dli_fname), address);
}

} // namespace simt
