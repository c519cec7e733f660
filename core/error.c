/* Errors and log lines. */
#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>

static rondo_log_function *log_function;
static void *log_user;

int rondo_fail(struct rondo_error *error, enum rondo_status status, const char *format, ...)
{
    if (error) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(error->message, sizeof error->message, format, arguments);
        va_end(arguments);
        error->status = status;
    }
    return status;
}

void rondo_log_set(rondo_log_function *function, void *user)
{
    log_function = function;
    log_user = user;
}

void rondo_log(enum rondo_log_level level, const char *format, ...)
{
    if (!log_function && level > RONDO_LOG_WARNING)
        return;
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (log_function)
        log_function(log_user, level, line);
    else
        fprintf(stderr, "rondo: %s\n", line);
}

#define STRING2(x) #x
#define STRING(x) STRING2(x)

const char *rondo_version(void)
{
    return STRING(RONDO_VERSION_MAJOR) "." STRING(RONDO_VERSION_MINOR) "." STRING(
        RONDO_VERSION_PATCH);
}
