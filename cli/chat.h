/* A conversation: its messages, their file, and how an answer splits into reasoning and content. */
#ifndef RONDO_CLI_CHAT_H
#define RONDO_CLI_CHAT_H

#include "core/error.h"

struct cli_chat {
    struct rondo_chat_message *messages; /* [n]; the strings are owned */
    size_t n;
};

void cli_chat_clear(struct cli_chat *chat);
int cli_chat_add(struct cli_chat *chat, const char *role, const char *content,
                 const char *reasoning, struct rondo_error *error);
/* Takes the last message back. */
void cli_chat_drop(struct cli_chat *chat);

/* Adds what the model said. `thinking`: the prompt ended inside an open <think> block. */
int cli_chat_add_answer(struct cli_chat *chat, const char *text, bool thinking,
                        struct rondo_error *error);

/* JSON: [{"role": "user", "content": "...", "reasoning": "..."}, ...] */
int cli_chat_save(const struct cli_chat *chat, const char *path, struct rondo_error *error);
/* Replaces the messages; on failure they stay. */
int cli_chat_load(struct cli_chat *chat, const char *path, struct rondo_error *error);

#endif
