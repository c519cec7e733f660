/* What people see on stderr: progress, interruption, sizes and rates. */
#ifndef RONDO_CLI_TERMINAL_H
#define RONDO_CLI_TERMINAL_H

#include <stdbool.h>
#include <stdint.h>

struct rondo_error;

/* Seconds of a clock that only goes forward. */
double cli_time(void);

/* "512 B", "1.50 GiB"; returns `out`. */
const char *cli_format_size(uint64_t bytes, char out[24]);
/* "4,096": digits grouped by three. */
const char *cli_format_count(uint64_t count, char out[32]);
/* Three significant digits for rates: "0.123", "19.2", "1234". */
const char *cli_format_rate(double rate, char out[24]);

/* No progress bars and no statistics from now on. */
void cli_terminal_quiet(void);
bool cli_terminal_is_quiet(void);
/* Stderr is a terminal, and not quiet. */
bool cli_terminal_shows_progress(void);

/* A progress bar on stderr, only when that is a terminal and not quiet, redrawn ten times a second at most.
 * Fits rondo_progress_function; `user` is ignored. Returns nonzero once the user has interrupted. */
int cli_progress(void *user, const char *what, uint64_t done, uint64_t total);
/* Removes the bar, if there is one. */
void cli_progress_clear(void);

/* ---- interruption: what every command that computes or writes does about SIGINT ------------------------------------
 * It calls cli_interrupt_catch before it opens anything. From then on the first SIGINT only sets a flag, and the second
 * ends the program. Long work asks in between, through cli_progress or one of the two functions below, and ends as
 * after any other failure: nothing half-written stays, and the exit code is 1. Only generation for people (run) ends
 * with success. */

/* Clears the flag. */
void cli_interrupt_catch(void);
bool cli_interrupted(void);
/* Fails with "interrupted" once the user has interrupted. */
int cli_check_interrupt(struct rondo_error *error);

/* From now on a mapped file that can not be read any more ends the program with one line that names it. */
void cli_lost_file_catch(void);

#endif
