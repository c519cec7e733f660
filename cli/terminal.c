/* Progress, interruption, and the formatting of sizes and rates. */
#include "cli/terminal.h"

#include "core/error.h"

#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

double cli_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

const char *cli_format_size(uint64_t bytes, char out[24])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1024 && unit < 5) {
        value /= 1024;
        unit++;
    }
    snprintf(out, 24, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return out;
}

const char *cli_format_count(uint64_t count, char out[32])
{
    char digits[24];
    int n = snprintf(digits, sizeof digits, "%" PRIu64, count), used = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0)
            out[used++] = ',';
        out[used++] = digits[i];
    }
    out[used] = 0;
    return out;
}

const char *cli_format_rate(double rate, char out[24])
{
    int decimals = rate >= 100 || rate <= 0 ? 0 : rate >= 10 ? 1 : rate >= 1 ? 2 : 3;
    snprintf(out, 24, "%.*f", decimals, rate);
    return out;
}

/* ---- progress -------------------------------------------------------------------------------- */

static bool quiet;
static bool bar_shown;

void cli_terminal_quiet(void)
{
    quiet = true;
}

bool cli_terminal_is_quiet(void)
{
    return quiet;
}

bool cli_terminal_shows_progress(void)
{
    static int is_terminal = -1;
    if (is_terminal < 0)
        is_terminal = isatty(STDERR_FILENO);
    return is_terminal && !quiet;
}

void cli_progress_clear(void)
{
    if (bar_shown)
        fputs("\r\033[K", stderr);
    bar_shown = false;
}

int cli_progress(void *user, const char *what, uint64_t done, uint64_t total)
{
    static double drawn;
    (void)user;
    double now = cli_time();
    if (total && done >= total) {
        cli_progress_clear();
    } else if (total && now - drawn >= 0.1 && cli_terminal_shows_progress()) {
        char bar[25];
        double share = (double)done / (double)total;
        int filled = (int)(share * 24);
        memset(bar, '#', (size_t)filled);
        memset(bar + filled, '.', (size_t)(24 - filled));
        bar[24] = 0;
        fprintf(stderr, "\r\033[K%-20.40s [%s] %3.0f %%", what, bar, 100 * share);
        bar_shown = true;
        drawn = now;
    }
    return cli_interrupted();
}

/* ---- interruption ---------------------------------------------------------------------------- */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number)
{
    (void)signal_number;
    interrupted = 1;
}

void cli_interrupt_catch(void)
{
    /* SA_RESETHAND: the second SIGINT meets the default action. No SA_RESTART: a read that waits for the
     * user returns. */
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND};
    sigemptyset(&action.sa_mask);
    interrupted = 0;
    sigaction(SIGINT, &action, NULL);
}

bool cli_interrupted(void)
{
    return interrupted;
}

int cli_check_interrupt(struct rondo_error *error)
{
    return interrupted ? rondo_fail(error, RONDO_FAILED, "interrupted") : RONDO_OK;
}

/* ---- files that change under a mapping -------------------------------------------------------- */

static void say(const char *text)
{
    for (size_t left = strlen(text); left;) {
        ssize_t n = write(STDERR_FILENO, text, left);
        if (n <= 0)
            return;
        text += n;
        left -= (size_t)n;
    }
}

static void on_lost_page(int signal_number, siginfo_t *info, void *context)
{
    (void)context;
    const char *path = rondo_mapped_file(info->si_addr);
    if (!path) { /* not ours: the default action when the access is tried again */
        signal(signal_number, SIG_DFL);
        return;
    }
    say("rondo: ");
    say(path);
    say(": cannot be read any more: the file has become shorter, or its disk fails; leave a "
        "checkpoint as it is while it is used\n");
    _exit(RONDO_FAILED);
}

void cli_lost_file_catch(void)
{
    struct sigaction action = {.sa_sigaction = on_lost_page, .sa_flags = SA_SIGINFO};
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}
