/* The subcommands, one file each. */
#ifndef RONDO_CLI_COMMANDS_H
#define RONDO_CLI_COMMANDS_H

#include "cli/options.h"

extern const struct cli_command cli_bench;
extern const struct cli_command cli_compare;
extern const struct cli_command cli_eval;
extern const struct cli_command cli_info;
extern const struct cli_command cli_logits;
extern const struct cli_command cli_perplexity;
extern const struct cli_command cli_quantize;
extern const struct cli_command cli_run;
extern const struct cli_command cli_synth;
extern const struct cli_command cli_tokenize;

#endif
