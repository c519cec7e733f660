/* The subcommands, one file each. */
#ifndef RONDO_CLI_COMMANDS_H
#define RONDO_CLI_COMMANDS_H

#include "cli/options.h"

#endif
