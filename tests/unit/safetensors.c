/* safetensors and npy files: reading, every kind of malformed header, writing, full disks. */
#include "core/error.h"
#include "formats/npy.h"
#include "formats/output.h"
#include "formats/safetensors.h"
#include "formats/safetensors_write.h"

#include "tests/unit/scratch.h"
#include "tests/unit/test.h"

#include <math.h>
#include <signal.h>
#include <sys/resource.h>

static struct rondo_error error;

/* A header of the given text and `data` bytes after it, in exactly as much memory, so that a sanitizer sees a
 * read past the end. */
static int parse(const char *header, size_t data, struct rondo_safetensors *file,
                 unsigned char **bytes)
{
    size_t length = strlen(header);
    *bytes = calloc(8 + length + data, 1);
    for (int i = 0; i < 8; i++)
        (*bytes)[i] = (unsigned char)((uint64_t)length >> (8 * i));
    memcpy(*bytes + 8, header, length);
    for (size_t i = 0; i < data; i++)
        (*bytes)[8 + length + i] = (unsigned char)i;
    error.message[0] = '\0';
    return rondo_safetensors_parse(file, "x.safetensors", *bytes, 8 + length + data, &error);
}

static void test_read(void)
{
    struct rondo_safetensors file;
    unsigned char *bytes;
    const char *header =
        "{\"__metadata__\":{\"format\":\"pt\",\"n\":\"1\"},"
        "\"c\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"
        "\"empty\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[16,16]},"
        "\"new\":{\"dtype\":\"F6_E2M3\",\"shape\":[4],\"data_offsets\":[16,19]},"
        "\"five\":{\"dtype\":\"U8\",\"shape\":[1,1,1,2,2],\"data_offsets\":[20,24]},"
        "\"b\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[24,32]}}   ";
    EXPECT(parse(header, 32, &file, &bytes) == RONDO_OK, "%s", error.message);
    EXPECT(file.n_tensors == 6, "%zu tensors", file.n_tensors);
    for (size_t i = 1; i < file.n_tensors; i++)
        EXPECT(strcmp(file.tensors[i - 1].name, file.tensors[i].name) < 0, "order");
    const struct rondo_safetensors_tensor *c = rondo_safetensors_find(&file, "c");
    EXPECT(c && c->dtype == RONDO_BF16 && c->n_dims == 2 && c->shape[0] == 2 && c->shape[1] == 3 &&
               c->shape[2] == 1 && c->size == 12 && *(const unsigned char *)c->data == 4,
           "c");
    const struct rondo_safetensors_tensor *a = rondo_safetensors_find(&file, "a");
    EXPECT(a && a->n_dims == 0 && a->size == 4, "a scalar");
    const struct rondo_safetensors_tensor *five = rondo_safetensors_find(&file, "five");
    EXPECT(five && five->dtype == RONDO_DTYPE_COUNT && five->n_dims == 1 && five->shape[0] == 4,
           "five dimensions");
    const struct rondo_safetensors_tensor *new = rondo_safetensors_find(&file, "new");
    EXPECT(new &&new->dtype == RONDO_DTYPE_COUNT &&new->size == 3, "a dtype of the future");
    EXPECT(!rondo_safetensors_find(&file, "__metadata__") && !rondo_safetensors_find(&file, "d"),
           "found");
    rondo_safetensors_close(&file);
    free(bytes);
    EXPECT(parse("{}", 0, &file, &bytes) == RONDO_OK && file.n_tensors == 0 &&
               !rondo_safetensors_find(&file, "a"),
           "%s", error.message);
    rondo_safetensors_close(&file);
    free(bytes);
}

#define TENSOR(name, dtype, shape, offsets)                                                        \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void test_malformed(void)
{
    static const struct {
        const char *header;
        size_t data;
        const char *what;
    } cases[] = {
        {"", 0, "ends too early"},
        {"{", 0, "JSON"},
        {"[]", 0, "want an object"},
        {"{\"a\":1}", 0, "a: wrong type"},
        {"{\"a\":{}}", 0, "a: dtype"},
        {"{\"a\":{\"dtype\":7}}", 0, "a: dtype"},
        {"{\"a\":{\"dtype\":\"F32\"}}", 0, "a: shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 0, "a: data_offsets"},
        {"{" TENSOR("a", "F32", "3", "[0,4]") "}", 4, "a: shape"},
        {"{" TENSOR("a", "F32", "[-1]", "[0,4]") "}", 4, "a: shape"},
        {"{" TENSOR("a", "F32", "[1.5]", "[0,4]") "}", 4, "a: shape"},
        {"{" TENSOR("a", "F32", "[\"1\"]", "[0,4]") "}", 4, "a: shape"},
        {"{" TENSOR("a", "F32", "[1e300]", "[0,4]") "}", 4, "a: shape"},
        {"{" TENSOR("a", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, "too large"},
        {"{" TENSOR("a", "F32", "[4294967296,4294967296,0]", "[0,0]") "}", 0, "too large"},
        {"{" TENSOR("a", "F32", "[1073741825,4294967296]", "[0,4]") "}", 4, "too large"},
        {"{" TENSOR("a", "F32", "[1]", "[0]") "}", 4, "data_offsets"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4,8]") "}", 4, "data_offsets"},
        {"{" TENSOR("a", "F32", "[1]", "[4,0]") "}", 4, "data_offsets"},
        {"{" TENSOR("a", "F32", "[1]", "[-4,0]") "}", 4, "data_offsets"},
        {"{" TENSOR("a", "F32", "[2]", "[0,4]") "}", 4, "got 4, want 8"},
        {"{" TENSOR("a", "F32", "[1]", "[0,5]") "}", 5, "got 5, want 4"},
        {"{" TENSOR("a", "F32", "[1]", "[0,18446744073709551616]") "}", 4, "data_offsets"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 3, "1 bytes are missing"},
        {"{" TENSOR("a", "F32", "[1]", "[1000,1004]") "}", 4, "1000 bytes are missing"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 5, "1 bytes follow"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[3,7]") "}", 7,
         "overlaps"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[1]", "[2,6]") "}", 8,
         "overlaps"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("a", "F32", "[1]", "[4,8]") "}", 8,
         "twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct rondo_safetensors file;
        unsigned char *bytes;
        EXPECT(parse(cases[i].header, cases[i].data, &file, &bytes) == RONDO_FAILED &&
                   strstr(error.message, "x.safetensors: ") && strstr(error.message, cases[i].what),
               "%s: %s", cases[i].header, error.message);
        EXPECT(!file.tensors && !file.path, "%s: not empty after a failure", cases[i].header);
        free(bytes);
    }
}

static void test_lengths(void)
{
    static const struct {
        unsigned char bytes[16];
        size_t size;
        const char *what;
    } cases[] = {
        {{0}, 0, "too short"},
        {{0}, 7, "too short"},
        {{0}, 8, "ends too early"},
        {{3, 0, 0, 0, 0, 0, 0, 0, '{', '}'}, 10, "1 bytes of the header are missing"},
        {{255, 255, 255, 255, 255, 255, 255, 255, '{', '}'}, 10, "header length"},
        {{'P', 'K', 3, 4, 0, 0, 0, 1, 0}, 16, "not a safetensors file"},
    };
    struct rondo_safetensors file;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char *bytes = malloc(cases[i].size + 1);
        memcpy(bytes, cases[i].bytes, cases[i].size);
        EXPECT(rondo_safetensors_parse(&file, "x", bytes, cases[i].size, &error) == RONDO_FAILED &&
                   strstr(error.message, cases[i].what),
               "case %zu: %s", i, error.message);
        free(bytes);
        scratch_write(scratch_path("short"), cases[i].bytes, cases[i].size);
        EXPECT(rondo_safetensors_open(&file, scratch_path("short"), &error) == RONDO_FAILED &&
                   strstr(error.message, cases[i].what),
               "case %zu from a file: %s", i, error.message);
    }
    EXPECT(rondo_safetensors_open(&file, scratch_path("nowhere"), &error) == RONDO_FAILED &&
               strstr(error.message, "cannot open"),
           "%s", error.message);
    EXPECT(rondo_safetensors_open(&file, scratch, &error) == RONDO_FAILED &&
               strstr(error.message, "regular"),
           "%s", error.message);
}

static const struct rondo_safetensors_item items[] = {
    {.name = "first", .dtype = RONDO_F32, .n_dims = 2, .shape = {3, 5}},
    {.name = "second", .dtype = RONDO_F8_E4M3, .n_dims = 1, .shape = {7}},
    {.name = "none", .dtype = RONDO_BF16, .n_dims = 2, .shape = {0, 4}},
    {.name = "third", .dtype = RONDO_U8, .n_dims = 0},
};

static void test_write(void)
{
    const char *path = scratch_path("out.safetensors");
    struct rondo_safetensors_writer *writer = rondo_safetensors_create(path, items, 4, &error);
    float values[15];
    for (int i = 0; i < 15; i++)
        values[i] = (float)i;
    EXPECT(writer != NULL, "%s", error.message);
    EXPECT(access(path, F_OK) != 0, "the file is there before it is finished");
    EXPECT(!rondo_safetensors_create(path, items, 4, &error) &&
               strstr(error.message, "another process"),
           "%s", error.message);
    EXPECT(rondo_safetensors_write(writer, 3, 0, "x", 1, &error) == RONDO_OK, "%s", error.message);
    EXPECT(rondo_safetensors_write(writer, 0, 20, values + 5, 40, &error) == RONDO_OK, "%s",
           error.message);
    EXPECT(rondo_safetensors_write(writer, 1, 0, "abcdefg", 7, &error) == RONDO_OK, "%s",
           error.message);
    EXPECT(rondo_safetensors_write(writer, 0, 0, values, 20, &error) == RONDO_OK, "%s",
           error.message);
    EXPECT(rondo_safetensors_finish(writer, &error) == RONDO_OK, "%s", error.message);
    struct rondo_safetensors file;
    EXPECT(rondo_safetensors_open(&file, path, &error) == RONDO_OK, "%s", error.message);
    for (int i = 0; i < 4; i++) {
        const struct rondo_safetensors_tensor *tensor =
            rondo_safetensors_find(&file, items[i].name);
        EXPECT(tensor && tensor->dtype == items[i].dtype && tensor->n_dims == items[i].n_dims &&
                   tensor->size == rondo_safetensors_item_size(&items[i]),
               "%s", items[i].name);
    }
    EXPECT(memcmp(rondo_safetensors_find(&file, "first")->data, values, 60) == 0, "first");
    EXPECT((uintptr_t)rondo_safetensors_find(&file, "first")->data % 64 == 0, "alignment");
    EXPECT(memcmp(rondo_safetensors_find(&file, "second")->data, "abcdefg", 7) == 0, "second");
    EXPECT(*(const char *)rondo_safetensors_find(&file, "third")->data == 'x', "third");
    rondo_safetensors_close(&file);
    struct rondo_safetensors_item bad = {.name = "a\"b", .dtype = RONDO_U8};
    EXPECT(!rondo_safetensors_create(path, &bad, 1, &error), "a name with a quote");
    EXPECT(!rondo_safetensors_create(scratch_path("no/where"), items, 4, &error) &&
               strstr(error.message, "cannot create"),
           "%s", error.message);
    EXPECT(scratch_count(scratch) == 2, "%d files: something was left", scratch_count(scratch));
}

/* An old file stays until the new one is whole, and when writing fails. */
static void test_atomic(void)
{
    const char *path = scratch_path("old");
    char zeros[100000] = {0};
    scratch_write_text(path, "old");
    struct rondo_output *output = rondo_output_open(path, &error);
    EXPECT(output && rondo_output_write(output, 0, zeros, sizeof zeros, &error) == RONDO_OK, "%s",
           error.message);
    struct rlimit old, small = {.rlim_cur = sizeof zeros + 10};
    getrlimit(RLIMIT_FSIZE, &old);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    EXPECT(rondo_output_write(output, sizeof zeros, zeros, sizeof zeros, &error) == RONDO_FAILED &&
               strstr(error.message, "cannot write"),
           "%s", error.message);
    setrlimit(RLIMIT_FSIZE, &old);
    rondo_output_abort(output);
    size_t size = 0;
    char *text = scratch_read(path, &size);
    EXPECT(size == 3 && memcmp(text, "old", 3) == 0, "the old file is gone");
    free(text);
    /* what a killed process left, longer than what comes */
    scratch_write(scratch_path("old.partial"), zeros, sizeof zeros);
    output = rondo_output_open(path, &error);
    EXPECT(output && rondo_output_write(output, 0, "new", 3, &error) == RONDO_OK &&
               rondo_output_finish(output, &error) == RONDO_OK,
           "%s", error.message);
    text = scratch_read(path, &size);
    EXPECT(size == 3 && memcmp(text, "new", 3) == 0, "the new file is not there");
    free(text);
    EXPECT(access(scratch_path("old.partial"), F_OK) != 0, "a partial file was left");
}

static void test_npy(void)
{
    const char *path = scratch_path("a.npy");
    float values[6] = {1, -2, 3.5f, INFINITY, 0, 1e-40f};
    struct rondo_npy array;
    struct rondo_npy_writer *writer = rondo_npy_create(path, 3, 2, &error);
    EXPECT(writer && rondo_npy_append(writer, values, 1, &error) == RONDO_OK &&
               rondo_npy_append(writer, values + 2, 2, &error) == RONDO_OK,
           "%s", error.message);
    EXPECT(rondo_npy_append(writer, values, 1, &error) == RONDO_USAGE, "%s", error.message);
    EXPECT(rondo_npy_finish(writer, &error) == RONDO_OK, "%s", error.message);
    EXPECT(rondo_npy_read(&array, path, 1 << 20, &error) == RONDO_OK, "%s", error.message);
    EXPECT(array.n_dims == 2 && array.shape[0] == 3 && array.shape[1] == 2 && !array.is_double &&
               array.count == 6 && memcmp(array.data, values, sizeof values) == 0,
           "what was written");
    rondo_npy_free(&array);
    writer = rondo_npy_create(scratch_path("b.npy"), 3, 2, &error);
    EXPECT(writer && rondo_npy_append(writer, values, 2, &error) == RONDO_OK, "%s", error.message);
    EXPECT(rondo_npy_finish(writer, &error) == RONDO_USAGE &&
               strstr(error.message, "rows are missing"),
           "%s", error.message);
    EXPECT(access(scratch_path("b.npy"), F_OK) != 0 &&
               access(scratch_path("b.npy.partial"), F_OK) != 0,
           "left");
    EXPECT(!rondo_npy_create(path, UINT64_MAX / 2, 4, &error) && strstr(error.message, "too large"),
           "%s", error.message);
}

/* NumPy's own header, written by hand, and what may be wrong with it. */
static void test_npy_headers(void)
{
    static const struct {
        const char *header;
        size_t data;
        const char *what; /* NULL: good */
    } cases[] = {
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }", 24, NULL},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (), }", 4, NULL},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0, 3), }", 0, NULL},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }", 4, "descr"},
        {"{'fortran_order': False, 'shape': (1,), }", 4, "descr"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }", 4, "fortran_order"},
        {"{'descr': '<f4', 'fortran_order': False}", 4, "shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,", 4, "shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", 4, "shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1)}", 4, "shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967295,4294967295,4294967295)}", 4,
         "too large"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }", 4, "wrong length"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 5, "wrong length"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char bytes[256] = "\x93NUMPY\x01\x00";
        struct rondo_npy array;
        size_t length = strlen(cases[i].header);
        bytes[8] = (char)length;
        memcpy(bytes + 10, cases[i].header, length);
        scratch_write(scratch_path("c.npy"), bytes, 10 + length + cases[i].data);
        int status = rondo_npy_read(&array, scratch_path("c.npy"), 1 << 20, &error);
        EXPECT((status == RONDO_OK) == !cases[i].what, "%s: %s", cases[i].header, error.message);
        EXPECT(status == RONDO_OK || strstr(error.message, cases[i].what), "%s: %s",
               cases[i].header, error.message);
        rondo_npy_free(&array);
    }
    for (size_t size = 0; size < 12; size++) {
        struct rondo_npy array;
        scratch_write(scratch_path("c.npy"), "\x93NUMPY\x01\x00\xff\xff\xff", size);
        EXPECT(rondo_npy_read(&array, scratch_path("c.npy"), 1 << 20, &error) == RONDO_FAILED,
               "%zu bytes", size);
    }
}

int main(void)
{
    scratch_begin();
    test_read();
    test_malformed();
    test_lengths();
    test_write();
    test_atomic();
    test_npy();
    test_npy_headers();
    scratch_end();
    return test_result();
}
