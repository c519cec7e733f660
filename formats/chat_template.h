/* Chat templates, inside: what recognising one yields and what rendering needs.
 *
 * rondo has no Jinja engine. It knows the two shapes of template that the Ling and Ring models have come
 * with, reads out what differs between their versions, and refuses everything else:
 *
 *   ling-v2  the SFT template of Ling-V2 and Ring-V2: a system block that ends in "detailed thinking on"
 *            or "off", tools, reasoning of the last turns, <|role_end|> after every message.
 *   plain    that of Ring-mini-2.0 and older: <role>ROLE</role> and the content, for every message.
 */
#ifndef RONDO_FORMATS_CHAT_TEMPLATE_H
#define RONDO_FORMATS_CHAT_TEMPLATE_H

#include "core/error.h"

enum rondo_chat_shape { RONDO_CHAT_LING_V2, RONDO_CHAT_PLAIN };
enum rondo_chat_thinking { RONDO_THINKING_OFF, RONDO_THINKING_ON, RONDO_THINKING_CHOICE };

struct rondo_chat_template {
    enum rondo_chat_shape shape;
    enum rondo_chat_thinking thinking; /* what "detailed thinking" says; ling-v2 only */
    bool tools, tool_results;          /* it has a place for them; ling-v2 only */
    bool role_end;                     /* plain only: <|role_end|> after every message */
    char prompt[2][128];               /* generation prompt without and with thinking */
    char name[64];
};

/* Text of ling-v2's tools block, before and after the tools. */
extern const char rondo_chat_tools_head[], rondo_chat_tools_tail[];

/* Recognises the Jinja text; `name` stands in messages. */
struct rondo_chat_template *rondo_chat_template_parse(const char *name, const char *text,
                                                      size_t length, struct rondo_error *error);

#endif
