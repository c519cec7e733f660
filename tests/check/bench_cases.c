/* Shapes of the benchmarks of GPUs: those of Ring-mini-linear-2.0, and the products of Ring-flash-linear-2.0. Bytes
 * are what a call must read and write once, operations are two for each multiply-add. */
#include "tests/check/bench_device.h"
#include "tests/check/internal.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { D = 2048, H = 16, HKV = 4, HD = 128, E = 256, K = 8, INNER = 512, GROUPS = 8 };

static int32_t at_least_one(int32_t n)
{
    return n < 1 ? 1 : n;
}

/* Bytes that tensors cover, scales included. */
static double bytes_of(const struct rondo_tensor *a, const struct rondo_tensor *b,
                       const struct rondo_tensor *c)
{
    return (double)(rondo_tensor_bytes(a) + (b ? rondo_tensor_bytes(b) : 0) +
                    (c ? rondo_tensor_bytes(c) : 0));
}

static void reserve(struct bench *bench, int32_t tokens, int32_t context, int32_t max_n)
{
    struct rondo_limits limits = {.tokens = tokens,
                                  .experts = E,
                                  .experts_per_token = K,
                                  .heads = H,
                                  .kv_heads = HKV,
                                  .head_dim = HD,
                                  .max_k = 9216,
                                  .max_n = max_n,
                                  .context = context,
                                  .draft = 64};
    check_reserve(bench->check, &limits);
}

/* ---- products -------------------------------------------------------------------------------------- */

/* The same product by cuBLASLt, where there is one, as it does it with these operands and at its fastest. */
static void by_cublaslt(struct bench *bench, const struct rondo_op_gemm *op, int sets, bool fp8)
{
    enum { WORKSPACE = 32 << 20 };
    static const char *const names[] = {"cuBLASLt", "cuBLASLt, one scale a tensor", "cuBLASLt"};
    const struct rondo_tensor *x = &op->x, *out = &op->part[0].out;
    const void *weight[BENCH_SETS];
    int64_t m = rondo_tensor_rows(x), k = rondo_tensor_columns(x), n = rondo_tensor_columns(out);
    for (int i = 0; i < sets; i++)
        weight[i] = op[i].part[0].weight.data;
    struct yardstick_gemm gemm = {
        .m = m,
        .n = n,
        .k = k,
        .x = x->data,
        .weight = weight,
        .n_weights = sets,
        .x_scale = bench_take(bench, (size_t)((m + 16) * (k / RONDO_BLOCK + 5)) * sizeof(float)),
        .weight_scale = bench_take(bench, (size_t)((n / RONDO_BLOCK + 5) * (k / RONDO_BLOCK + 5)) *
                                              sizeof(float)),
        .out = out->data,
        .workspace = bench_take(bench, WORKSPACE),
        .workspace_size = WORKSPACE,
    };
    if (!bench->yardstick || !gemm.x_scale || !gemm.weight_scale || !gemm.workspace)
        return;
    for (int kind = fp8 ? YARDSTICK_F8_TENSOR : YARDSTICK_BF16;
         kind <= (fp8 ? YARDSTICK_F8_BLOCK : YARDSTICK_BF16); kind++) {
        char name[80], why[100];
        gemm.kind = (enum yardstick_kind)kind;
        snprintf(name, sizeof name, "M=%d N=%d K=%d %s", (int)m, (int)n, (int)k,
                 fp8 ? "f8 block" : "bf16");
        double time = yardstick_time(bench->yardstick, &gemm, why, sizeof why);
        if (time > 0)
            bench_row(bench, RONDO_OP_GEMM, name, time, bytes_of(x, &op->part[0].weight, out),
                      2.0 * (double)(m * n * k), names[kind]);
        else if (!bench->check->csv)
            printf("%-8s %-18s %-44s %s: %s\n", bench->check->device_name, "gemm", name,
                   names[kind], why);
    }
}

static void gemm_case(struct bench *bench, int32_t rows, int32_t n, int32_t k, bool fp8)
{
    struct rondo_op_gemm op[BENCH_SETS];
    int sets = bench_sets(bench, (size_t)n * (size_t)k * (fp8 ? 1 : 2));
    bench_begin(bench);
    struct rondo_tensor x = bench_tensor(bench, fp8 ? RONDO_F8_E4M3 : RONDO_BF16, rows, k, true);
    struct rondo_tensor out = bench_tensor(bench, RONDO_BF16, rows, n, false);
    int made = 0;
    for (; made < sets; made++) {
        op[made] = (struct rondo_op_gemm){.x = x, .n_parts = 1};
        op[made].part[0].weight =
            bench_tensor(bench, fp8 ? RONDO_F8_E4M3 : RONDO_BF16, n, k, false);
        op[made].part[0].out = out;
        if (!op[made].part[0].weight.data)
            break;
    }
    if (!made)
        return;
    bench_time(bench, RONDO_OP_GEMM, op, sizeof *op, made,
               bytes_of(&x, &op[0].part[0].weight, &out), 2.0 * rows * n * k, "M=%d N=%d K=%d %s",
               rows, n, k, fp8 ? "f8 block" : "bf16");
    by_cublaslt(bench, op, made, fp8);
}

static void bench_gemm_cases(struct bench *bench)
{
    static const int32_t shapes[][2] = {{6144, 2048}, {2048, 2048}, {3072, 2048},  {5120, 2048},
                                        {2048, 5120}, {1024, 2048}, {12288, 4096}, {4096, 4096},
                                        {9216, 4096}, {4096, 9216}};
    static const int32_t rows[] = {1, 8, 64, 8192};
    size_t n_shapes = bench->shrink > 1 ? 1 : sizeof shapes / sizeof *shapes;
    reserve(bench, 8192 / bench->shrink, 4096, 157184);
    if (bench->shrink == 1) { /* what others are held against */
        gemm_case(bench, 8192, 8192, 8192, true);
        gemm_case(bench, 8192, 8192, 8192, false);
    }
    for (size_t s = 0; s < n_shapes; s++)
        for (size_t r = 0; r < sizeof rows / sizeof *rows; r++)
            gemm_case(bench, at_least_one(rows[r] / (rows[r] > 64 ? bench->shrink : 1)),
                      shapes[s][0] / (bench->shrink > 1 ? 16 : 1),
                      shapes[s][1] / (bench->shrink > 1 ? 4 : 1), true);
    if (bench->shrink == 1) {
        gemm_case(bench, 1, 157184, 2048, false); /* the head */
        gemm_case(bench, 64, 157184, 2048, false);
    }
    gemm_case(bench, 8192 / bench->shrink, 256, 2048 / (bench->shrink > 1 ? 4 : 1), false);
}

/* Tokens choose experts with a popularity that falls as 1 / (rank + 16). */
static int32_t *route(struct bench *bench, int32_t tokens)
{
    int32_t *ids = check_allocate(bench->check, (size_t)tokens * K * sizeof *ids);
    for (int32_t t = 0; t < tokens; t++)
        for (int32_t k = 0; k < K; k++) {
            bool taken = true;
            while (taken) {
                double u = check_random_uniform(bench->check);
                int32_t e = (int32_t)(16 * (pow((16.0 + E) / 16, u) - 1));
                taken = false;
                for (int32_t j = 0; j < k; j++)
                    taken |= ids[t * K + j] == e;
                ids[t * K + k] = e < E ? e : E - 1;
                taken |= e >= E;
            }
        }
    return ids;
}

/* offsets [E + 1], and the token of each row. */
static void group(struct bench *bench, const int32_t *ids, int32_t tokens, int32_t **offsets,
                  int32_t **token_of)
{
    *offsets = check_allocate(bench->check, (E + 1) * sizeof **offsets);
    *token_of = check_allocate(bench->check, (size_t)tokens * K * sizeof **token_of);
    int32_t row = 0;
    for (int32_t e = 0; e < E; e++) {
        for (int32_t i = 0; i < tokens * K; i++)
            if (ids[i] == e)
                (*token_of)[row++] = i / K;
        (*offsets)[e + 1] = row;
    }
}

/* The tensors of a layer's experts, evenly spaced. */
static struct rondo_tensor *experts(struct bench *bench, int32_t n, int32_t k)
{
    struct rondo_tensor *weight = check_allocate(bench->check, E * sizeof *weight);
    struct rondo_tensor all = bench_tensor(bench, RONDO_F8_E4M3, (int64_t)E * n, k, false);
    if (!all.data)
        return NULL;
    for (int32_t e = 0; e < E; e++) {
        weight[e] = all;
        weight[e].shape[0] = n;
        weight[e].data = rondo_tensor_row(&all, (int64_t)e * n);
        weight[e].scale = all.scale + (int64_t)e * n / RONDO_BLOCK * all.scale_stride;
    }
    return weight;
}

static void grouped_case(struct bench *bench, int32_t tokens, int32_t n, int32_t k, int parts)
{
    struct rondo_op_grouped_gemm op[BENCH_SETS];
    int32_t *offsets, *token_of, used = 0, rows = tokens * K;
    int sets = bench_sets(bench, (size_t)E * (size_t)n * (size_t)k * (size_t)parts), made = 0;
    check_case(bench->check, "benchmark"); /* releases host memory of the one before */
    int32_t *ids = route(bench, tokens);
    group(bench, ids, tokens, &offsets, &token_of);
    for (int32_t e = 0; e < E; e++)
        used += offsets[e + 1] > offsets[e];
    bench_begin(bench);
    const int32_t *device_offsets = bench_put(bench, offsets, (E + 1) * sizeof *offsets);
    const int32_t *gather = bench_put(bench, token_of, (size_t)rows * sizeof *token_of);
    struct rondo_tensor x = bench_tensor(bench, RONDO_F8_E4M3, parts == 2 ? tokens : rows, k, true);
    struct rondo_tensor out = bench_tensor(bench, RONDO_BF16, rows, (int64_t)n * parts, false);
    for (; made < sets; made++) {
        op[made] = (struct rondo_op_grouped_gemm){.x = x,
                                                  .n_parts = parts,
                                                  .n_experts = E,
                                                  .offsets = device_offsets,
                                                  .gather = parts == 2 ? gather : NULL,
                                                  .n_rows = rows,
                                                  .out = out};
        bool room = true;
        for (int p = 0; p < parts; p++)
            room &= (op[made].weight[p] = experts(bench, n, k)) != NULL;
        if (!room)
            break;
    }
    if (made)
        bench_time(bench, RONDO_OP_GROUPED_GEMM, op, sizeof *op, made,
                   bytes_of(&x, &out, NULL) + (double)used * n * k * parts,
                   2.0 * rows * parts * n * k, "T=%d K=%d E=%d (%d used) %dx(N=%d K=%d)", tokens, K,
                   E, used, parts, n, k);
}

static void bench_grouped_cases(struct bench *bench)
{
    static const int32_t tokens[] = {1, 8, 64, 8192};
    int32_t n = INNER / (bench->shrink > 1 ? 4 : 1), d = D / (bench->shrink > 1 ? 8 : 1);
    reserve(bench, 8192 / bench->shrink, 4096, 8192);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        int32_t t = at_least_one(tokens[i] / (tokens[i] > 64 ? bench->shrink : 1));
        if (bench->shrink > 1 && t > 8)
            continue;
        grouped_case(bench, t, n, d, 2);
        grouped_case(bench, t, d, n, 1);
    }
}

/* ---- attention ------------------------------------------------------------------------------------- */

/* B sequences of n tokens each at the same start; pages in order. */
static bool make_batch(struct bench *bench, struct rondo_batch *batch, int32_t B, int32_t start,
                       int32_t n)
{
    int32_t T = B * n, stride = (start + n + RONDO_CHUNK - 1) / RONDO_CHUNK;
    struct check *check = bench->check;
    int32_t *position = check_allocate(check, (size_t)T * 4),
            *sequence_of = check_allocate(check, (size_t)T * 4);
    int32_t *pages = check_allocate(check, (size_t)B * (size_t)stride * 4);
    struct rondo_batch_sequence *sequences = check_allocate(check, (size_t)B * sizeof *sequences);
    for (int32_t b = 0; b < B; b++) {
        sequences[b] = (struct rondo_batch_sequence){b * n, n, start, b, 0};
        for (int32_t i = 0; i < n; i++) {
            position[b * n + i] = start + i;
            sequence_of[b * n + i] = b;
        }
    }
    for (int32_t i = 0; i < B * stride; i++)
        pages[i] = i;
    *batch = (struct rondo_batch){.n_tokens = T,
                                  .n_sequences = B,
                                  .max_sequence_tokens = n,
                                  .max_length = start + n,
                                  .page_stride = stride};
    batch->sequences = bench_put(bench, sequences, (size_t)B * sizeof *sequences);
    batch->position = bench_put(bench, position, (size_t)T * 4);
    batch->sequence_of = bench_put(bench, sequence_of, (size_t)T * 4);
    batch->token = batch->parent = batch->sequence_of;
    batch->page_table = bench_put(bench, pages, (size_t)B * (size_t)stride * 4);
    return batch->page_table;
}

static void linear_case(struct bench *bench, int32_t B, int32_t start, int32_t n)
{
    struct rondo_op_linear_attention op = {.scale = 0.088f, .heads = H, .head_dim = HD};
    struct rondo_batch batch;
    size_t states = (size_t)B * H * HD * HD, rows = (size_t)B * H * RONDO_CHUNK * HD;
    float powers[H * (RONDO_CHUNK + 1)];
    for (int h = 0; h < H; h++)
        for (int i = 0; i <= RONDO_CHUNK; i++)
            powers[h * (RONDO_CHUNK + 1) + i] = (float)exp(-exp2(-0.5 * (h + 1)) * i);
    check_case(bench->check, "benchmark");
    bench_begin(bench);
    bool room = make_batch(bench, &batch, B, start, n);
    op.batch = &batch;
    op.q = bench_tensor(bench, RONDO_BF16, (int64_t)B * n, H * HD, false);
    op.k = bench_tensor(bench, RONDO_BF16, (int64_t)B * n, H * HD, false);
    op.v = bench_tensor(bench, RONDO_BF16, (int64_t)B * n, H * HD, false);
    op.out = bench_tensor(bench, RONDO_F32, (int64_t)B * n, H * HD, false);
    op.decay_power = bench_put(bench, powers, sizeof powers);
    op.cache = (struct rondo_linear_cache){.state = bench_take(bench, states * 4),
                                           .tail_k = bench_take(bench, rows * 2),
                                           .tail_v = bench_take(bench, rows * 2),
                                           .dtype = RONDO_BF16};
    double i = start % RONDO_CHUNK, tokens = (double)B * n;
    double state_bytes = (n == 1 ? 1.0 : n % RONDO_CHUNK ? 2.0 : 1.0) * (double)states * 4;
    double bytes =
        state_bytes + tokens * H * HD * (3 * 2 + 4) + (n == 1 ? 2 * (i + 1) * B * H * HD * 2 : 0);
    double macs = n == 1 ? tokens * H * (HD * HD + 2 * (i + 1) * HD)
                         : tokens * H * (2.0 * HD * HD + RONDO_CHUNK * HD);
    if (room && op.cache.tail_v)
        bench_time(bench, RONDO_OP_LINEAR_ATTENTION, &op, sizeof op, 1, bytes, 2 * macs,
                   "B=%d T=%d at %d", B, n, start);
}

static void bench_linear_cases(struct bench *bench)
{
    static const int32_t cases[][3] = {{1, 96, 1},   {64, 96, 1},   {256, 96, 1},
                                       {1, 0, 1024}, {1, 0, 65536}, {8, 0, 8192}};
    reserve(bench, 65536 / bench->shrink, 65536 / bench->shrink, 8192);
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        linear_case(bench, at_least_one(cases[c][0] / (bench->shrink > 1 ? 8 : 1)), cases[c][1],
                    at_least_one(cases[c][2] / bench->shrink));
}

/* kv: of the cache. */
static void softmax_case(struct bench *bench, enum rondo_dtype kv, int32_t B, int32_t start,
                         int32_t n)
{
    struct rondo_op_softmax_attention op = {
        .scale = 0.088f, .heads = H, .kv_heads = HKV, .head_dim = HD};
    struct rondo_batch batch;
    check_case(bench->check, "benchmark");
    bench_begin(bench);
    bool room = make_batch(bench, &batch, B, start, n);
    size_t block = rondo_kv_block_bytes(kv, RONDO_CHUNK, HD);
    size_t cache = (size_t)B * (size_t)batch.page_stride * HKV * block;
    op.batch = &batch;
    op.q = bench_tensor(bench, RONDO_BF16, (int64_t)B * n, H * HD, false);
    op.k = bench_tensor(bench, RONDO_BF16, (int64_t)B * n, HKV * HD, false);
    op.v = bench_tensor(bench, RONDO_BF16, (int64_t)B * n, HKV * HD, false);
    op.out = bench_tensor(bench, RONDO_BF16, (int64_t)B * n, H * HD, false);
    op.cache = (struct rondo_kv_cache){
        .k = bench_take(bench, cache), .v = bench_take(bench, cache), .dtype = kv};
    double pairs = (double)B * ((double)n * start + 0.5 * n * (n + 1.0));
    if (room && op.cache.v)
        bench_time(
            bench, RONDO_OP_SOFTMAX_ATTENTION, &op, sizeof op, 1,
            2.0 * B * (start + n) * HKV * (double)block / RONDO_CHUNK + 2.0 * B * n * H * HD * 2,
            4.0 * pairs * H * HD, "B=%d T=%d at %d, cache %s", B, n, start, rondo_dtype_name(kv));
}

static void bench_softmax_cases(struct bench *bench)
{
    static const int32_t cases[][3] = {{1, 4095, 1}, {1, 65535, 1}, {64, 4095, 1}, {8, 32767, 1},
                                       {1, 0, 2048}, {1, 0, 8192},  {1, 0, 32768}, {8, 4096, 512}};
    reserve(bench, 32768 / bench->shrink, 65536 / bench->shrink, 8192);
    for (int codes = 0; codes < 2; codes++)
        for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
            softmax_case(bench, codes ? RONDO_F8_E4M3 : RONDO_BF16,
                         at_least_one(cases[c][0] / (bench->shrink > 1 ? 8 : 1)),
                         cases[c][1] / bench->shrink, at_least_one(cases[c][2] / bench->shrink));
}

/* ---- rows ------------------------------------------------------------------------------------------ */

static void bench_norm_cases(struct bench *bench)
{
    int32_t T = 8192 / bench->shrink;
    for (int codes = 0; codes < 2; codes++) {
        enum rondo_dtype dtype = codes ? RONDO_F8_E4M3 : RONDO_BF16;
        bench_begin(bench);
        struct rondo_op_rmsnorm op = {.x = bench_tensor(bench, RONDO_F32, T, D, false),
                                      .out = bench_tensor(bench, dtype, T, D, true),
                                      .weight = bench_take(bench, D * sizeof(float)),
                                      .n_rows = T,
                                      .eps = 1e-6f};
        bench_time(bench, RONDO_OP_RMSNORM, &op, sizeof op, 1, bytes_of(&op.x, &op.out, NULL), 0,
                   "T=%d D=%d to %s", T, D, rondo_dtype_name(dtype));
    }
}

static void bench_gate_cases(struct bench *bench)
{
    int32_t T = 8192 / bench->shrink;
    for (int codes = 0; codes < 2; codes++) {
        enum rondo_dtype dtype = codes ? RONDO_F8_E4M3 : RONDO_BF16;
        bench_begin(bench);
        struct rondo_op_group_norm_gate op = {.x = bench_tensor(bench, RONDO_F32, T, D, false),
                                              .gate = bench_tensor(bench, RONDO_BF16, T, D, false),
                                              .out = bench_tensor(bench, dtype, T, D, true),
                                              .weight = bench_take(bench, D * sizeof(float)),
                                              .n_groups = 4,
                                              .eps = 1e-6f};
        bench_time(bench, RONDO_OP_GROUP_NORM_GATE, &op, sizeof op, 1,
                   bytes_of(&op.x, &op.gate, &op.out), 0, "T=%d N=%d 4 groups to %s", T, D,
                   rondo_dtype_name(dtype));
    }
}

static void bench_quantize_cases(struct bench *bench)
{
    int32_t T = 8192 / bench->shrink;
    bench_begin(bench);
    struct rondo_op_quantize op = {.x = bench_tensor(bench, RONDO_BF16, T, D, false),
                                   .out = bench_tensor(bench, RONDO_F8_E4M3, T, D, true)};
    bench_time(bench, RONDO_OP_QUANTIZE, &op, sizeof op, 1, bytes_of(&op.x, &op.out, NULL), 0,
               "T=%d N=%d", T, D);
}

static void bench_swiglu_cases(struct bench *bench)
{
    int32_t R = 8192 * K / bench->shrink;
    for (int codes = 0; codes < 2; codes++) {
        enum rondo_dtype dtype = codes ? RONDO_F8_E4M3 : RONDO_BF16;
        bench_begin(bench);
        struct rondo_op_swiglu op = {.x = bench_tensor(bench, RONDO_BF16, R, 2 * INNER, false),
                                     .out = bench_tensor(bench, dtype, R, INNER, true)};
        bench_time(bench, RONDO_OP_SWIGLU, &op, sizeof op, 1, bytes_of(&op.x, &op.out, NULL), 0,
                   "R=%d I=%d to %s", R, INNER, rondo_dtype_name(dtype));
    }
}

static void bench_qkv_cases(struct bench *bench)
{
    int32_t T = 8192 / bench->shrink;
    for (int softmax = 0; softmax < 2; softmax++) {
        int32_t kv = softmax ? HKV : H, pairs = 32;
        struct rondo_batch batch;
        check_case(bench->check, "benchmark");
        bench_begin(bench);
        make_batch(bench, &batch, 1, 0, T);
        struct rondo_op_qkv op = {
            .batch = &batch,
            .qkv = bench_tensor(bench, RONDO_BF16, T, (H + 2 * kv) * HD, false),
            .q = bench_tensor(bench, RONDO_BF16, T, H * HD, false),
            .k = bench_tensor(bench, RONDO_BF16, T, kv * HD, false),
            .v = bench_tensor(bench, RONDO_BF16, T, kv * HD, false),
            .q_weight = bench_take(bench, HD * 4),
            .k_weight = bench_take(bench, HD * 4),
            .rope_cos = bench_take(bench, (size_t)T * (size_t)pairs * 4),
            .rope_sin = bench_take(bench, (size_t)T * (size_t)pairs * 4),
            .heads = H,
            .kv_heads = kv,
            .head_dim = HD,
            .rotary_dim = 2 * pairs,
            .eps = 1e-6f,
        };
        bench_time(bench, RONDO_OP_QKV, &op, sizeof op, 1,
                   2 * bytes_of(&op.qkv, NULL, NULL) + (double)T * pairs * 8, 0, "T=%d H=%d/%d", T,
                   H, kv);
    }
}

/* ---- experts --------------------------------------------------------------------------------------- */

static void bench_router_cases(struct bench *bench)
{
    int32_t T = 8192 / bench->shrink;
    bench_begin(bench);
    struct rondo_op_router op = {.logits = bench_tensor(bench, RONDO_F32, T, E, false),
                                 .bias = bench_take(bench, E * sizeof(float)),
                                 .ids = bench_take(bench, (size_t)T * K * 4),
                                 .weights = bench_take(bench, (size_t)T * K * 4),
                                 .experts_per_token = K,
                                 .n_group = GROUPS,
                                 .topk_group = GROUPS / 2,
                                 .score = RONDO_SCORE_SIGMOID,
                                 .normalize = true,
                                 .scale = 2.5f};
    bench_time(bench, RONDO_OP_ROUTER, &op, sizeof op, 1,
               bytes_of(&op.logits, NULL, NULL) + (double)T * K * 8, 0, "T=%d E=%d K=%d", T, E, K);
}

static void bench_gemm_router_cases(struct bench *bench)
{
    static const int32_t tokens[] = {1, 8, 16, 64, 128, 8192};
    reserve(bench, 8192 / bench->shrink, 4096, 8192);
    for (size_t i = 0; i < sizeof tokens / sizeof *tokens; i++) {
        int32_t T = at_least_one(tokens[i] / (tokens[i] > 64 ? bench->shrink : 1));
        struct rondo_op_gemm_router op[BENCH_SETS];
        int sets = bench_sets(bench, (size_t)E * D * 2), made = 0;
        bench_begin(bench);
        struct rondo_tensor x = bench_tensor(bench, RONDO_BF16, T, D, true);
        struct rondo_tensor logits = bench_tensor(bench, RONDO_F32, T, E, false);
        struct rondo_op_router router = {.logits = logits,
                                         .bias = bench_take(bench, E * sizeof(float)),
                                         .ids = bench_take(bench, (size_t)T * K * 4),
                                         .weights = bench_take(bench, (size_t)T * K * 4),
                                         .experts_per_token = K,
                                         .n_group = GROUPS,
                                         .topk_group = GROUPS / 2,
                                         .score = RONDO_SCORE_SIGMOID,
                                         .normalize = true,
                                         .scale = 2.5f};
        for (; made < sets; made++) {
            op[made] =
                (struct rondo_op_gemm_router){.gemm = {.x = x, .n_parts = 1}, .router = router};
            op[made].gemm.part[0].weight = bench_tensor(bench, RONDO_BF16, E, D, false);
            op[made].gemm.part[0].out = logits;
            if (!op[made].gemm.part[0].weight.data)
                break;
        }
        if (made)
            bench_time(bench, RONDO_OP_GEMM_ROUTER, op, sizeof *op, made,
                       bytes_of(&x, &op[0].gemm.part[0].weight, NULL) + (double)T * K * 8,
                       2.0 * T * E * D, "T=%d E=%d K=%d D=%d bf16", T, E, K, D);
    }
}

static void bench_group_tokens_cases(struct bench *bench)
{
    int32_t T = 8192 / bench->shrink;
    size_t pairs = (size_t)T * K;
    reserve(bench, T, 4096, 8192);
    check_case(bench->check, "benchmark");
    bench_begin(bench);
    struct rondo_op_group_tokens op = {.ids = bench_put(bench, route(bench, T), pairs * 4),
                                       .n_tokens = T,
                                       .experts_per_token = K,
                                       .n_experts = E,
                                       .offsets = bench_take(bench, (E + 1) * 4),
                                       .row_of = bench_take(bench, pairs * 4),
                                       .token_of = bench_take(bench, pairs * 4)};
    bench_time(bench, RONDO_OP_GROUP_TOKENS, &op, sizeof op, 1, (double)pairs * 12, 0,
               "T=%d E=%d K=%d", T, E, K);
}

static void bench_combine_cases(struct bench *bench)
{
    int32_t T = 8192 / bench->shrink, *offsets, *token_of;
    size_t pairs = (size_t)T * K;
    check_case(bench->check, "benchmark");
    int32_t *ids = route(bench, T), *row_of = check_allocate(bench->check, pairs * 4);
    group(bench, ids, T, &offsets, &token_of);
    for (size_t i = 0; i < pairs; i++)
        row_of[i] = offsets[ids[i]]++;
    bench_begin(bench);
    struct rondo_op_combine op = {.y = bench_tensor(bench, RONDO_BF16, (int64_t)pairs, D, false),
                                  .shared = bench_tensor(bench, RONDO_BF16, T, D, false),
                                  .h = bench_tensor(bench, RONDO_F32, T, D, false),
                                  .row_of = bench_put(bench, row_of, pairs * 4),
                                  .weights = bench_take(bench, pairs * 4),
                                  .experts_per_token = K};
    if (op.weights)
        bench_time(bench, RONDO_OP_COMBINE, &op, sizeof op, 1,
                   bytes_of(&op.y, &op.shared, &op.h) + bytes_of(&op.h, NULL, NULL), 0,
                   "T=%d K=%d D=%d", T, K, D);
}

void bench_cases(struct bench *bench, const char *pattern)
{
    static const struct {
        enum rondo_op op;
        void (*run)(struct bench *bench);
    } all[] = {
        {RONDO_OP_GEMM, bench_gemm_cases},
        {RONDO_OP_GROUPED_GEMM, bench_grouped_cases},
        {RONDO_OP_LINEAR_ATTENTION, bench_linear_cases},
        {RONDO_OP_SOFTMAX_ATTENTION, bench_softmax_cases},
        {RONDO_OP_RMSNORM, bench_norm_cases},
        {RONDO_OP_GROUP_NORM_GATE, bench_gate_cases},
        {RONDO_OP_QUANTIZE, bench_quantize_cases},
        {RONDO_OP_SWIGLU, bench_swiglu_cases},
        {RONDO_OP_QKV, bench_qkv_cases},
        {RONDO_OP_ROUTER, bench_router_cases},
        {RONDO_OP_GEMM_ROUTER, bench_gemm_router_cases},
        {RONDO_OP_GROUP_TOKENS, bench_group_tokens_cases},
        {RONDO_OP_COMBINE, bench_combine_cases},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (fnmatch(pattern, rondo_op_name(all[i].op), 0) == 0)
            all[i].run(bench);
}
