/* Reading suites of problems, and grading. */
#include "cli/suite.h"
#include "cli/input.h"
#include "formats/json.h"

#include <stdlib.h>
#include <string.h>

#define ANSWER_BLANKS " \t\r\n\v\f"

struct reading {
    struct cli_suite *suite;
    const char *task;
    size_t limit, capacity, line;
    size_t n_lines; /* with a problem, kept or not */
};

static bool is_wanted(const struct reading *reading, const struct cli_problem *problem)
{
    const char *task = reading->task;
    if (task && strcmp(task, problem->task) != 0 && strcmp(task, problem->kind) != 0)
        return false;
    size_t same = 0;
    for (size_t i = 0; reading->limit && i < reading->suite->n; i++)
        same += !strcmp(reading->suite->problems[i].task, problem->task);
    return !reading->limit || same < reading->limit;
}

/* Takes over problem->object. */
static int keep(struct reading *reading, const struct cli_problem *problem,
                struct rondo_error *error)
{
    struct cli_suite *suite = reading->suite;
    if (!is_wanted(reading, problem)) {
        cJSON_Delete(problem->object);
        return RONDO_OK;
    }
    if (suite->n == reading->capacity) {
        reading->capacity = 2 * reading->capacity + 64;
        struct cli_problem *grown =
            realloc(suite->problems, reading->capacity * sizeof *suite->problems);
        if (!grown) {
            cJSON_Delete(problem->object);
            return rondo_fail(error, RONDO_FAILED, "out of memory");
        }
        suite->problems = grown;
    }
    suite->problems[suite->n++] = *problem;
    return RONDO_OK;
}

static int read_line(struct reading *reading, const char *line, size_t length,
                     struct rondo_error *error)
{
    char *name;
    if (asprintf(&name, "%s: line %zu", reading->suite->path, reading->line) < 0)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    cJSON *root = rondo_json_parse(name, line, length, error);
    if (!root) {
        free(name);
        return error->status;
    }
    struct rondo_json_reader reader = rondo_json_reader(root, name, error);
    struct cli_problem problem = {.object = root};
    problem.task = rondo_json_require_string(&reader, "task");
    problem.kind = rondo_json_string(&reader, "kind", "");
    problem.id = rondo_json_string(&reader, "id", NULL);
    problem.prompt = rondo_json_require_string(&reader, "prompt");
    problem.answer = rondo_json_require_string(&reader, "answer");
    problem.max_tokens = (int32_t)rondo_json_int(&reader, "max_tokens", 1, INT32_MAX, 0);
    if (!reader.status && !problem.prompt[0])
        rondo_json_fail(&reader, "prompt", "empty (want a text)");
    if (!reader.status && !problem.answer[strspn(problem.answer, ANSWER_BLANKS)])
        rondo_json_fail(&reader, "answer", "empty (want a text)");
    if (!reader.status && !problem.id) {
        char number[32];
        snprintf(number, sizeof number, "%zu", reading->line);
        cJSON *id = cJSON_AddStringToObject(root, "id", number);
        if (id)
            problem.id = id->valuestring;
        else
            rondo_json_fail(&reader, "id", "out of memory");
    }
    int status = reader.status;
    free(name);
    if (status) {
        cJSON_Delete(root);
        return status;
    }
    reading->n_lines++;
    return keep(reading, &problem, error);
}

int cli_suite_read(struct cli_suite *suite, const char *path, const char *task, size_t limit,
                   struct rondo_error *error)
{
    *suite = (struct cli_suite){.path = strdup(path)};
    if (!suite->path)
        return rondo_fail(error, RONDO_FAILED, "out of memory");
    size_t length;
    char *text = cli_read_file(path, &length, error);
    if (!text)
        return error->status;
    struct reading reading = {.suite = suite, .task = task, .limit = limit};
    int result = RONDO_OK;
    for (char *at = text, *end = text + length; at < end && !result;) {
        char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((stop ? stop : end) - at);
        reading.line++;
        if (strspn(at, ANSWER_BLANKS) < n)
            result = read_line(&reading, at, n, error);
        at += n + 1;
    }
    free(text);
    if (!result && !reading.n_lines)
        result =
            rondo_fail(error, RONDO_FAILED, "%s: no problems (want one JSON object a line)", path);
    else if (!result && !suite->n)
        result = rondo_fail(error, RONDO_FAILED,
                            "%s: no problem has this task or kind (got \"%s\")", path, task);
    return result;
}

void cli_suite_release(struct cli_suite *suite)
{
    for (size_t i = 0; i < suite->n; i++)
        cJSON_Delete(suite->problems[i].object);
    free(suite->problems);
    free(suite->path);
    *suite = (struct cli_suite){0};
}

static char *strip(char *text)
{
    text += strspn(text, ANSWER_BLANKS);
    size_t length = strlen(text);
    while (length && strchr(ANSWER_BLANKS, text[length - 1]))
        length--;
    text[length] = 0;
    return text;
}

char *cli_suite_answer(char *text, bool thinking)
{
    static const char close[] = "</think>";
    char *answer = NULL;
    for (char *at = text; (at = strstr(at, close)); at++)
        answer = at + sizeof close - 1;
    if (!answer)
        answer = thinking ? text + strlen(text) : text;
    return strip(answer);
}

bool cli_suite_is_right(const struct cli_problem *problem, const char *answer)
{
    const char *want = problem->answer + strspn(problem->answer, ANSWER_BLANKS);
    size_t length = strlen(want);
    while (length && strchr(ANSWER_BLANKS, want[length - 1]))
        length--;
    return strlen(answer) == length && !memcmp(answer, want, length);
}
