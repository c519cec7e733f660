// gemm and grouped_gemm: which kernels compute what, and their arguments.
//
// A part's family follows from its dtypes and the device alone:
//   x f32, or W f32 or f16, or x quantised with W bf16     fma f32, the order of core/ops.h
//   x bf16, W bf16 or e4m3                                 mma bf16, e4m3 widened (exactly)
//   x and W e4m3                                           mma e4m3 from sm_89 on, on gfx942 and gfx12, where the device
//                                                          runs code that has it; else both widened
// Experts of a grouped product that are mixed are taken run by run, each as a product of its own over a part of the
// offsets: kernels take rows from where the first offset says, and n_rows bounds the rows of any run.
// On sm_90 gemm_sm90.cu comes first and says what it does not take. Which tiles do a part is chosen by the number of
// rows; all of a family give the same bits.
#include "backend_cuda/gemm.h"
#include "backend_cuda/router.cuh"
#include "core/dtype.h"

namespace
{

gemm_family family_of(const gpu_device *device, const rondo_tensor *x, const rondo_tensor *weight)
{
    if (x->dtype == RONDO_BF16 && weight->dtype == RONDO_BF16)
        return GEMM_BF16_BF16;
    if (x->dtype == RONDO_BF16 && weight->dtype == RONDO_F8_E4M3)
        return GEMM_BF16_E4M3;
    if (x->dtype == RONDO_F8_E4M3 && weight->dtype == RONDO_F8_E4M3)
        return device->fp8 != GPU_FP8_NONE ? GEMM_E4M3_E4M3 : GEMM_E4M3_WIDEN;
    return GEMM_F32;
}

const char *family_name(gemm_family family)
{
    static const char *const names[GEMM_FAMILIES] = {
        "fma f32", "mma bf16", "mma bf16, weights widened", "mma bf16, both widened", "mma e4m3",
    };
    return names[family];
}

bool is_multiple(const void *pointer, int64_t step, int64_t bytes)
{
    return reinterpret_cast<uintptr_t>(pointer) % bytes == 0 && step % bytes == 0;
}

void set_input(gemm_launch *launch, const rondo_tensor *x)
{
    int64_t size = (int64_t)rondo_dtype_size(x->dtype);
    launch->x = static_cast<const char *>(x->data);
    launch->x_dtype = (uint8_t)x->dtype;
    launch->x_stride = x->row_stride;
    launch->x_scale = x->scale;
    launch->x_scale_stride = x->scale_stride;
    launch->k = (int32_t)rondo_tensor_columns(x);
    launch->x_vectors =
        is_multiple(x->data, x->row_stride * size, 16) && launch->k * size % 16 == 0;
    launch->weight_vectors = 1;
}

// The part's place in the launch, filled but for bias and steps.
gemm_part *add_part(gemm_launch *launch, const rondo_tensor *weight, void *out,
                    rondo_dtype out_dtype, int64_t out_stride)
{
    gemm_part *part = &launch->part[launch->n_parts++];
    int64_t row_bytes = launch->k * (int64_t)rondo_dtype_size(weight->dtype);
    int64_t out_size = (int64_t)rondo_dtype_size(out_dtype);
    part->weight = static_cast<const char *>(weight->data);
    part->weight_dtype = (uint8_t)weight->dtype;
    part->scales = !weight->scale            ? GEMM_SCALES_NONE
                   : weight->scale_rows == 1 ? GEMM_SCALES_ROW
                                             : GEMM_SCALES_BLOCK;
    part->scale = weight->scale;
    part->scale_stride = weight->scale_stride;
    part->n = (int32_t)rondo_tensor_rows(weight);
    part->out = out;
    part->out_stride = out_stride;
    part->out_is_bf16 = out_dtype == RONDO_BF16;
    part->out_vectors = is_multiple(out, out_stride * out_size, 4 * out_size);
    launch->weight_vectors &= is_multiple(weight->data, row_bytes, 16);
    return part;
}

bool sm90_takes(const gpu_device *device, gemm_family family, const gemm_launch *launch)
{
#ifdef RONDO_GEMM_SM90
    return GPU(gemm_sm90_takes)(device, family, launch);
#else
    (void)device, (void)family, (void)launch;
    return false;
#endif
}

// What does a family where wgmma does not.
gemm_family mma_family(const gpu_device *device, gemm_family family)
{
    return family == GEMM_E4M3_E4M3 && !device->multiplies_e4m3 ? GEMM_E4M3_WIDEN : family;
}

const char *path_name(const gpu_device *device, gemm_family family, const gemm_launch *launch)
{
    if (sm90_takes(device, family, launch))
        return family == GEMM_E4M3_E4M3 ? "wgmma e4m3" : "wgmma bf16";
    family = mma_family(device, family);
    if (family == GEMM_E4M3_E4M3 && device->fp8 == GPU_FP8_FNUZ)
        return "mma e4m3fnuz";
    return family_name(family);
}

// Few rows: strips, that read weights at the speed of memory. Tiles of 64 rows where there are enough of them,
// for they read x less often. Whether logits were routed, when launch->route asks for it.
bool run(gpu_device *device, gemm_family family, gemm_launch *launch)
{
    if (!launch->n_parts || !launch->rows)
        return false;
    if (family == GEMM_F32) {
        GPU(gemm_launch_f32)(device, launch);
        return true;
    }
    if (sm90_takes(device, family, launch)) {
#ifdef RONDO_GEMM_SM90
        GPU(gemm_launch_sm90)(device, family, launch);
#endif
        return true;
    }
    family = mma_family(device, family);
    int64_t rows = launch->expected_rows, wide = 0;
    if (launch->offsets)
        rows = ceil_div(rows, launch->n_experts);
    for (int p = 0; p < launch->n_parts; p++)
        wide += ceil_div(launch->part[p].n, 64);
    if (launch->offsets)
        wide *= launch->n_experts;
    bool small = launch->route || rows <= 16 ||
                 (rows <= 32 && wide < 2 * device->multiprocessors) ||
                 (rows <= 64 && 2 * wide < device->multiprocessors);
    if (small && GPU(gemm_launch_small)(device, family, launch, (int)rows))
        return true;
    GPU(gemm_launch_mma)(device, family, launch);
    return false;
}

// Bytes, or values, from an expert's to the next one's.
template <class T> int64_t step_of(const T *first, const T *second)
{
    return reinterpret_cast<const char *>(second) - reinterpret_cast<const char *>(first);
}

gemm_part *add_experts(gemm_launch *launch, const rondo_op_grouped_gemm *op, int p)
{
    const rondo_tensor *weight = op->weight[p];
    int64_t columns = rondo_tensor_rows(weight);
    char *out =
        static_cast<char *>(op->out.data) + p * columns * (int64_t)rondo_dtype_size(op->out.dtype);
    gemm_part *part = add_part(launch, weight, out, op->out.dtype, op->out.row_stride);
    part->bias = op->bias[p] ? op->bias[p][0] : NULL;
    if (op->n_experts > 1) {
        part->weight_step = step_of((const char *)weight[0].data, (const char *)weight[1].data);
        if (weight->scale)
            part->scale_step = weight[1].scale - weight[0].scale;
        if (part->bias)
            part->bias_step = op->bias[p][1] - op->bias[p][0];
    }
    launch->weight_vectors &= part->weight_step % 16 == 0;
    return part;
}

// The expert after the run that begins with expert `first`: experts in a row that are stored alike in all parts.
int end_of_run(const rondo_op_grouped_gemm *op, int first)
{
    int end = first + 1;
    for (bool alike = true; end < op->n_experts; end++) {
        for (int p = 0; p < op->n_parts; p++)
            alike = alike && rondo_tensor_stored_alike(&op->weight[p][first], &op->weight[p][end]);
        if (!alike)
            break;
    }
    return end;
}

// The next run at or after expert *first, which moves past it; false: there is none.
bool next_run(const rondo_op_grouped_gemm *op, int *first, rondo_op_grouped_gemm *part)
{
    if (*first >= op->n_experts)
        return false;
    const int end = op->mixed ? end_of_run(op, *first) : op->n_experts;
    *part = *op;
    for (int p = 0; p < op->n_parts; p++) {
        part->weight[p] = op->weight[p] + *first;
        part->bias[p] = op->bias[p] ? op->bias[p] + *first : NULL;
    }
    part->offsets = op->offsets + *first;
    part->n_experts = end - *first;
    *first = end;
    return true;
}

// The parts of a family.
gemm_launch dense_launch(const gpu_device *device, const rondo_op_gemm *op, gemm_family family)
{
    gemm_launch launch = {};
    set_input(&launch, &op->x);
    launch.rows = launch.expected_rows = (int32_t)rondo_tensor_rows(&op->x);
    launch.residual = op->residual;
    for (int p = 0; p < op->n_parts; p++) {
        const rondo_gemm_part *part = &op->part[p];
        if (family_of(device, &op->x, &part->weight) != family)
            continue;
        add_part(&launch, &part->weight, part->out.data, part->out.dtype, part->out.row_stride)
            ->bias = part->bias;
    }
    return launch;
}

// `all`: the experts that the rows belong to, of which op has some.
gemm_launch grouped_launch(const gpu_device *device, const rondo_op_grouped_gemm *op, int all,
                           gemm_family family)
{
    gemm_launch launch = {};
    set_input(&launch, &op->x);
    launch.rows = op->n_rows;
    launch.expected_rows = (int32_t)ceil_div((int64_t)op->n_rows * op->n_experts, all);
    launch.offsets = op->offsets;
    launch.gather = op->gather;
    launch.n_experts = op->n_experts;
    for (int p = 0; p < op->n_parts; p++)
        if (family_of(device, &op->x, op->weight[p]) == family)
            add_experts(&launch, op, p);
    return launch;
}

} // namespace

void GPU(gemm)(rondo_device *base, const rondo_op_gemm *op)
{
    gpu_device *device = gpu_device_of(base);
    for (int family = 0; family < GEMM_FAMILIES; family++) {
        gemm_launch launch = dense_launch(device, op, (gemm_family)family);
        run(device, (gemm_family)family, &launch);
    }
}

// Up to 64 rows are routed by the launch that makes their logits, see router.cuh; more by a launch of their own. What
// that costs is its start and 2 * 4 E bytes a row through L2. Predicted for an H100 and 256 experts, not measured:
//   1 row       product 2 us (1 MB of weights), start 1.2 us, routing 2 us: one launch saves 1.2 of 5 us, and that in
//               each layer of each token
//   64 rows     16 rows for each block that routes, four a warp, 3 us; a launch of its own routes one row a warp: 1.2 us
//               and 2 us
//   128 rows    products in tiles of 64 and 128 rows: their last block would route 16 rows a warp, 15 us, while the other
//               multiprocessors have nothing to do; a launch of its own takes 1.2 us and 2 us
//   8192 rows   8.6 GFLOP, 34 MB of x: 15 to 20 us; routing is bound by instructions, 8 us on all multiprocessors. Tiles
//               of 64 rows by all 256 experts that route from shared memory would save the start and 16 MB through L2,
//               together 4 us of the layer's 2 ms, for one more shape of each product.
// FP8 weights are 0.5 MB of this and change nothing else of it.
// Blocks of logits come first in a launch, so that products of further parts go on beside the routing.
// Up to 8 rows are grouped there, too: another start saved, and the 4 us of a sort by one block, for less than 1 us.
void GPU(gemm_router)(rondo_device *base, const rondo_op_gemm_router *op)
{
    gpu_device *device = gpu_device_of(base);
    const gemm_family routed = family_of(device, &op->gemm.x, &op->gemm.part[0].weight);
    gemm_router route = {router_arguments(&op->router), 0, 0, device->tickets, {}};
    route.lanes = router_lanes(route.op);
    const bool one =
        route.op.n_tokens <= ROUTED_ROWS && router_per_lane(route.op) <= ROUTED_PER_LANE;
    route.group.n_pairs = route.op.n_tokens * route.op.top_k;
    if (route.op.n_tokens <= GROUPED_ROWS && route.group.n_pairs <= GROUPED_PAIRS) {
        route.group.offsets = op->group.offsets;
        route.group.row_of = op->group.row_of;
        route.group.token_of = op->group.token_of;
        route.group.n_all = op->group.shared ? op->group.n_tokens : 0;
    }
    bool done = false;
    for (int family = 0; family < GEMM_FAMILIES; family++) {
        gemm_launch launch = dense_launch(device, &op->gemm, (gemm_family)family);
        launch.route = one && family == routed ? &route : NULL; // part 0 is its first
        done |= run(device, (gemm_family)family, &launch) && launch.route;
    }
    if (!done)
        GPU(router)(base, &op->router);
    if (op->group.offsets && !(done && route.group.offsets))
        GPU(group_tokens)(base, &op->group);
}

void GPU(grouped_gemm)(rondo_device *base, const rondo_op_grouped_gemm *op)
{
    gpu_device *device = gpu_device_of(base);
    rondo_op_grouped_gemm part;
    for (int first = 0; next_run(op, &first, &part);)
        for (int family = 0; family < GEMM_FAMILIES; family++) {
            gemm_launch launch = grouped_launch(device, &part, op->n_experts, (gemm_family)family);
            run(device, (gemm_family)family, &launch);
        }
}

// ---- what can be done ---------------------------------------------------------------------------------------------

const char *GPU(gemm_supports)(const gpu_device *device, const rondo_op_gemm *op)
{
    for (int p = 0; p < op->n_parts; p++)
        if (rondo_tensor_rows(&op->part[p].weight) > INT32_MAX - RONDO_BLOCK)
            return "more output channels than 31 bits count";
    if (rondo_tensor_rows(&op->x) > INT32_MAX - RONDO_BLOCK)
        return "more rows than 31 bits count";
    return NULL;
}

static const char *run_supports(const rondo_op_grouped_gemm *op)
{
    for (int p = 0; p < op->n_parts; p++) {
        const rondo_tensor *weight = op->weight[p];
        const float *const *bias = op->bias[p];
        for (int e = 2; e < op->n_experts; e++) {
            if (step_of((const char *)weight[0].data, (const char *)weight[e].data) !=
                e * step_of((const char *)weight[0].data, (const char *)weight[1].data))
                return "the weights of experts are not evenly spaced";
            if (weight->scale && step_of(weight[0].scale, weight[e].scale) !=
                                     e * step_of(weight[0].scale, weight[1].scale))
                return "the scales of experts are not evenly spaced";
            if (bias && step_of(bias[0], bias[e]) != e * step_of(bias[0], bias[1]))
                return "the biases of experts are not evenly spaced";
        }
    }
    return NULL;
}

const char *GPU(grouped_gemm_supports)(const gpu_device *device, const rondo_op_grouped_gemm *op)
{
    rondo_op_grouped_gemm part;
    const char *reason = op->n_experts > 2048 ? "more than 2048 experts" : NULL;
    for (int first = 0; !reason && next_run(op, &first, &part);)
        reason = run_supports(&part);
    return reason;
}

const char *GPU(gemm_path)(const gpu_device *device, const rondo_op_gemm *op)
{
    const gemm_family family = family_of(device, &op->x, &op->part[0].weight);
    const gemm_launch launch = dense_launch(device, op, family);
    return path_name(device, family, &launch);
}

const char *GPU(grouped_gemm_path)(const gpu_device *device, const rondo_op_grouped_gemm *op)
{
    rondo_op_grouped_gemm part;
    int first = 0;
    next_run(op, &first, &part);
    const gemm_family family = family_of(device, &op->x, part.weight[0]);
    const gemm_launch launch = grouped_launch(device, &part, op->n_experts, family);
    return path_name(device, family, &launch);
}

size_t GPU(gemm_workspace)(const gpu_device *device, const rondo_limits *limits)
{
    (void)device, (void)limits;
    return 0;
}
