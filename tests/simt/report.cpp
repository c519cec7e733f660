/* Settings, reports, and text. */
#include "internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <mutex>

namespace simt
{

static bool flag(const char *name)
{
    const char *value = getenv(name);
    return value && *value && strcmp(value, "0") != 0;
}

std::mt19937_64 shuffle_random;

static simt_blocks blocks_of(const char *value)
{
    if (!value || !*value)
        return SIMT_BLOCKS_FORWARD;
    if (!strcmp(value, "reverse"))
        return SIMT_BLOCKS_REVERSE;
    char *end;
    unsigned long long seed = strtoull(value, &end, 10);
    if (!strcmp(value, "shuffle")) {
        seed = (unsigned long long)time(nullptr);
        fprintf(stderr, "simt: blocks run in an order that SIMT_BLOCKS=%llu repeats\n", seed);
    } else if (*value < '0' || *value > '9' || *end) {
        fprintf(stderr, "simt: SIMT_BLOCKS: got \"%s\", want reverse, shuffle or a number\n",
                value);
        exit(2);
    }
    shuffle_random.seed(seed);
    return SIMT_BLOCKS_SHUFFLE;
}

static Settings from_environment()
{
    Settings settings;
    const char *streams = getenv("SIMT_STREAMS"), *threads = getenv("SIMT_THREADS");
    settings.abort = flag("SIMT_ABORT");
    settings.quiet = flag("SIMT_QUIET");
    settings.lazy = !flag("SIMT_EAGER");
    settings.blocks = blocks_of(getenv("SIMT_BLOCKS"));
    settings.lazy_streams = streams && !strcmp(streams, "lazy");
    if (threads && atoi(threads) > 0)
        settings.os_threads = atoi(threads);
    return settings;
}

Settings settings = from_environment();

static std::mutex report_mutex;
static std::string &last_report()
{
    static std::string report;
    return report;
}

void publish(const char *report)
{
    std::lock_guard<std::mutex> lock(report_mutex);
    last_report() = report;
    if (!settings.quiet)
        fprintf(stderr, "%s\n", report);
    if (settings.abort)
        abort();
}

void append(std::string &text, const char *form, ...)
{
    char line[1024];
    va_list arguments;
    va_start(arguments, form);
    vsnprintf(line, sizeof line, form, arguments);
    va_end(arguments);
    text += line;
}

Lanes_text::Lanes_text(mask_t mask)
{
    size_t used = 0;
    text[0] = 0;
    for (unsigned lane = 0; lane < 64 && used + 16 < sizeof text; lane++) {
        if (!(mask >> lane & 1))
            continue;
        unsigned end = lane;
        while (end < 63 && (mask >> (end + 1) & 1))
            end++;
        used += (size_t)snprintf(text + used, sizeof text - used, end > lane ? "%s%u-%u" : "%s%u",
                                 used ? ", " : "", lane, end);
        lane = end;
    }
}

} // namespace simt

const char *simt_last_report(void)
{
    static thread_local std::string copy;
    std::lock_guard<std::mutex> lock(simt::report_mutex);
    copy = simt::last_report();
    return copy.c_str();
}

void simt_clear_report(void)
{
    std::lock_guard<std::mutex> lock(simt::report_mutex);
    simt::last_report().clear();
}

void simt_set_quiet(int quiet)
{
    simt::settings.quiet = quiet != 0;
}

void simt_set_lazy(int lazy)
{
    simt::settings.lazy = lazy != 0;
}

void simt_set_lazy_streams(int lazy)
{
    simt::settings.lazy_streams = lazy != 0;
}

void simt_set_blocks(enum simt_blocks order, unsigned long long seed)
{
    simt::settings.blocks = order;
    simt::shuffle_random.seed(seed);
}

void simt_set_os_threads(int threads)
{
    simt::settings.os_threads = threads > 0 ? threads : 1;
}

void simt_set_code(int capability)
{
    simt::settings.code = capability;
}

unsigned long long simt_switches(void)
{
    return simt::switches_of_last_grid();
}
