/* What the program's files share: its commands and its help. */
#ifndef RONDO_CLI_CLI_H
#define RONDO_CLI_CLI_H

#include "cli/options.h"
#include "core/rondo.h"

#include <stdio.h>

/* NULL-terminated, in the order of the help. */
extern const struct cli_command *const cli_commands[];

const struct cli_command *cli_command_find(const char *name);

/* The list of commands and topics. */
void cli_help_print(FILE *out);
/* One command: summary, usage, options by group with their defaults. */
void cli_help_print_command(const struct cli_command *command, FILE *out);
/* `rondo help WORD`: a command or a topic. Returns the exit code. */
int cli_help_about(const char *word);

#endif
