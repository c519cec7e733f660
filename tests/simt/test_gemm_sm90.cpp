/* The Hopper GEMM under emulation: the bits of the order in which emulated tensor cores add, for any number of
 * rows, ragged N and K, every tile shape, parts, groups, gathered rows, scales, bias and residual; copies and products
 * as late as a device may do them, and at once. */
extern "C" {
#include "core/dtype.h"
}
#include "backend_cuda/gemm_sm90.cu"

#include "test.h"

#include <math.h>

int GPU(failed)(gpu_device *device, cudaError_t error, const char *what)
{
    if (error && !device->error) {
        device->error = error;
        snprintf(device->error_what, sizeof device->error_what, "%s", what);
    }
    return device->error != cudaSuccess;
}

int GPU(launched)(gpu_device *device, cudaError_t error, const char *what)
{
    return GPU(failed)(device, error, what);
}

#ifdef SIMT_CHECKED
#define CHECKED true
#else
#define CHECKED false
#endif

namespace
{

struct Case {
    const char *name;
    bool e4m3;
    int rows, k, n_parts, n[4];
    gemm_scales scales;
    bool bias, residual, out_bf16;
    int experts; // 0: dense
    bool gather;
    int out_extra; // columns of out past the last part's
    bool uneven;   // almost all rows go to few experts
};

uint64_t state;

uint32_t random_bits()
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33);
}

float random_value()
{
    return (float)(int32_t)(random_bits() << 1) * 0x1p-31f;
}

// A matrix of codes, with its values.
struct Matrix {
    std::vector<uint8_t> bytes;
    std::vector<float> values;
    Matrix(size_t count, bool e4m3) : bytes(count * (e4m3 ? 1 : 2)), values(count)
    {
        for (size_t i = 0; i < count; i++) {
            uint16_t bits =
                e4m3 ? rondo_f32_to_e4m3(random_value() * 4) : rondo_f32_to_bf16(random_value());
            memcpy(&bytes[i * (e4m3 ? 1 : 2)], &bits, e4m3 ? 1 : 2);
            values[i] = e4m3 ? rondo_e4m3_to_f32((uint8_t)bits) : rondo_bf16_to_f32(bits);
        }
    }
};

std::vector<float> random_scales(size_t count)
{
    std::vector<float> scales(count);
    for (float &scale : scales)
        scale = 0.25f + fabsf(random_value());
    return scales;
}

struct Problem {
    Case c;
    int groups, x_rows, blocks, columns, total_n;
    std::vector<int32_t> offsets, gather;
    Matrix x;
    std::vector<float> x_scales;
    std::vector<Matrix> weight;                   // of a part, all groups
    std::vector<std::vector<float>> scales, bias; // of a part, all groups
    std::vector<float> old;                       // out before

    explicit Problem(const Case &case_)
        : c(case_), groups(c.experts ? c.experts : 1), x_rows(c.gather ? c.rows / 2 + 1 : c.rows),
          blocks((c.k + 127) / 128), total_n(0), x((size_t)x_rows * c.k, c.e4m3),
          x_scales(random_scales((size_t)x_rows * blocks))
    {
        for (int p = 0; p < c.n_parts; p++) {
            weight.emplace_back((size_t)groups * c.n[p] * c.k, c.e4m3);
            scales.push_back(random_scales((size_t)groups * scale_count(p)));
            bias.push_back(random_scales((size_t)groups * c.n[p]));
            total_n += c.n[p];
        }
        columns = total_n + c.out_extra;
        old = random_scales((size_t)c.rows * columns);
        for (int i = 0; i < c.rows && c.gather; i++)
            gather.push_back((int32_t)(random_bits() % (unsigned)x_rows));
        offsets.push_back(0);
        for (int e = 0; e < c.experts; e++) {
            int left = c.rows - offsets.back();
            int take = e + 1 == c.experts ? left
                       : c.uneven         ? (e % 3 == 1 ? left / 2 : e % 3)
                                  : (int)(random_bits() % (unsigned)(2 * c.rows / c.experts + 1));
            offsets.push_back(offsets.back() + (take < left ? take : left));
        }
    }
    int scale_count(int p) const
    {
        return c.scales == GEMM_SCALES_ROW ? c.n[p] : (c.n[p] + 127) / 128 * blocks;
    }
    int group_of(int row) const
    {
        int group = 0;
        while (c.experts && row >= offsets[group + 1])
            group++;
        return group;
    }
    // Channels of a block in order, as emulated tensor cores add them; `exact` gets the sum in double.
    float value(int row, int p, int n, double *exact) const
    {
        const int group = group_of(row), from = c.gather ? gather[row] : row;
        const float *xs = &x.values[(size_t)from * c.k];
        const float *ws = &weight[p].values[((size_t)group * c.n[p] + n) * c.k];
        const float *scale = &scales[p][(size_t)group * scale_count(p)];
        float y = 0;
        double sum = 0;
        for (int b = 0; b < blocks; b++) {
            float a = 0, s = c.e4m3 ? x_scales[(size_t)from * blocks + b] : 1.0f;
            if (c.scales == GEMM_SCALES_BLOCK)
                s *= scale[n / 128 * blocks + b];
            for (int k = b * 128; k < c.k && k < b * 128 + 128; k++) {
                a = fmaf(xs[k], ws[k], a);
                sum += (double)xs[k] * ws[k] * s;
            }
            y = fmaf(a, s, y);
        }
        if (c.scales == GEMM_SCALES_ROW) {
            y *= scale[n];
            sum *= scale[n];
        }
        if (c.bias) {
            y += bias[p][(size_t)group * c.n[p] + n];
            sum += bias[p][(size_t)group * c.n[p] + n];
        }
        *exact = sum;
        return y;
    }
};

// The problem on the device.
struct Run {
    const Problem &problem;
    Device_array<uint8_t> x;
    Device_array<float> x_scales;
    Device_array<int32_t> offsets, gather;
    std::vector<Device_array<uint8_t> *> weight;
    std::vector<Device_array<float> *> scales, bias;
    Device_array<uint8_t> out;
    gemm_launch launch = {};

    explicit Run(const Problem &p)
        : problem(p), x(p.x.bytes), x_scales(p.x_scales), offsets(p.offsets),
          gather(p.gather.empty() ? std::vector<int32_t>(1) : p.gather),
          out((size_t)p.c.rows * p.columns * (p.c.out_bf16 ? 2 : 4))
    {
        const Case &c = p.c;
        launch.x = (const char *)x.get();
        launch.x_stride = launch.k = c.k;
        launch.x_scale = c.e4m3 ? x_scales.get() : nullptr;
        launch.x_scale_stride = p.blocks;
        launch.offsets = c.experts ? offsets.get() : nullptr;
        launch.gather = c.gather ? gather.get() : nullptr;
        launch.n_experts = c.experts;
        launch.rows = launch.expected_rows = c.rows;
        launch.n_parts = c.n_parts;
        launch.x_dtype = c.e4m3 ? RONDO_F8_E4M3 : RONDO_BF16;
        launch.residual = c.residual;
        launch.x_vectors = launch.weight_vectors = 1;
        int first = 0;
        for (int i = 0; i < c.n_parts; i++) {
            weight.push_back(new Device_array<uint8_t>(p.weight[i].bytes));
            scales.push_back(new Device_array<float>(p.scales[i]));
            bias.push_back(new Device_array<float>(p.bias[i]));
            gemm_part &part = launch.part[i];
            part.weight = (const char *)weight[i]->get();
            part.weight_step = (int64_t)c.n[i] * c.k * (c.e4m3 ? 1 : 2);
            part.scales = (uint8_t)c.scales;
            part.scale = scales[i]->get();
            part.scale_stride = p.blocks;
            part.scale_step = p.scale_count(i);
            part.bias = c.bias ? bias[i]->get() : nullptr;
            part.bias_step = c.n[i];
            part.n = c.n[i];
            part.out = out.get() + (size_t)first * (c.out_bf16 ? 2 : 4);
            part.out_stride = p.columns;
            part.out_is_bf16 = c.out_bf16;
            first += c.n[i];
        }
        std::vector<uint8_t> bytes((size_t)c.rows * p.columns * (c.out_bf16 ? 2 : 4));
        for (size_t i = 0; i < p.old.size(); i++)
            rondo_store(bytes.data(), c.out_bf16 ? RONDO_BF16 : RONDO_F32, i, p.old[i]);
        cudaMemcpy(out.get(), bytes.data(), bytes.size(), cudaMemcpyHostToDevice);
    }
    ~Run()
    {
        for (size_t i = 0; i < weight.size(); i++) {
            delete weight[i];
            delete scales[i];
            delete bias[i];
        }
    }
};

gpu_device device_like(int multiprocessors)
{
    gpu_device device = {};
    device.capability = 90;
    device.warp_size = 32;
    device.multiprocessors = multiprocessors;
    device.overlaps = 1;
    return device;
}

// Out as it should be, and the sums in double.
struct Reference {
    std::vector<float> y;
    std::vector<double> exact;

    explicit Reference(const Problem &problem) : y(problem.old), exact(problem.old.size())
    {
        const Case &c = problem.c;
        for (int row = 0; row < c.rows; row++) {
            size_t at = (size_t)row * problem.columns;
            for (int p = 0; p < c.n_parts; p++) {
                for (int n = 0; n < c.n[p]; n++, at++) {
                    y[at] =
                        (c.residual ? problem.old[at] : 0) + problem.value(row, p, n, &exact[at]);
                    exact[at] += c.residual ? problem.old[at] : 0;
                }
            }
        }
    }
};

// Values that differ from the reference, in bits; 0 is what is wanted.
int wrong_values(const Problem &problem, const Reference &reference,
                 const std::vector<uint8_t> &bytes)
{
    const Case &c = problem.c;
    const rondo_dtype dtype = c.out_bf16 ? RONDO_BF16 : RONDO_F32;
    int wrong = 0;
    double error = 0, power = 0;
    for (size_t at = 0; at < reference.y.size(); at++) {
        float got = rondo_load(bytes.data(), dtype, at), y = reference.y[at];
        wrong += got != (c.out_bf16 ? rondo_bf16_to_f32(rondo_f32_to_bf16(y)) : y);
        if ((int)(at % (size_t)problem.columns) < problem.total_n) {
            error += (got - reference.exact[at]) * (got - reference.exact[at]);
            power += reference.exact[at] * reference.exact[at];
        }
    }
    CHECK(error <= power * (c.out_bf16 ? 1e-5 : 1e-11));
    return wrong;
}

const struct {
    int kind, narrow;
} shapes[] = {{SM90_WIDE, 0},   {SM90_SQUARE, 0}, {SM90_FEW64, 64},
              {SM90_FEW64, 32}, {SM90_FEW32, 64}, {SM90_FEW32, 8}};

void run_case(const Case &c, int multiprocessors)
{
    state = 1;
    const Problem problem(c);
    const Reference reference(problem);
    gpu_device device = device_like(multiprocessors);
    const gemm_family family = c.e4m3 ? GEMM_E4M3_E4M3 : GEMM_BF16_BF16;
    auto run_one = [&](bool lazy, const Sm90_plan *plan) {
        simt_set_lazy(lazy);
        Run run(problem);
        const int before = failures;
        CHECK(GPU(gemm_sm90_takes)(&device, family, &run.launch));
        if (plan)
            sm90_run(&device, family, &run.launch, *plan);
        else
            GPU(gemm_launch_sm90)(&device, family, &run.launch);
        CHECK(clean() && !device.error);
        CHECK(wrong_values(problem, reference, run.out.values()) == 0);
        if (failures > before)
            printf("  %s: rows %d, k %d, n %d, shape %d %d%s\n", c.name, c.rows, c.k, c.n[0],
                   plan ? plan->kind : -1, plan ? plan->weight_rows : 0, lazy ? ", lazy" : "");
    };
    static int turn;
    turn++;
    const gemm_launch sizes = Run(problem).launch;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const Sm90_plan plan = sm90_plan_of(&sizes, shapes[i].kind, shapes[i].narrow);
        const bool mine = (turn + i) % 3 == 0;
        if (mine || !CHECKED)
            run_one(true, &plan);
        if (mine && !CHECKED) // checks see races either way
            run_one(false, &plan);
    }
    run_one(true, nullptr);
}

} // namespace

int main()
{
    static const int rows[] = {1, 3, 8, 16, 63, 64, 65, 128, 200};
    // clang-format off
    static const Case cases[] = {
        // name, e4m3, rows, k, parts, n, scales, bias, residual, bf16 out, experts, gather, extra, uneven
        {"e4m3", true, 31, 272, 1, {200}, GEMM_SCALES_BLOCK, false, false, false, 0, false, 3, false},
        {"bf16", false, 130, 264, 1, {136}, GEMM_SCALES_NONE, false, false, true, 0, false, 0, false},
        {"bf16 to f32", false, 77, 200, 2, {129, 33}, GEMM_SCALES_NONE, true, false, false, 0, false, 1, false},
        {"parts", true, 70, 384, 4, {256, 128, 40, 300}, GEMM_SCALES_BLOCK, false, false, true, 0, false, 0, false},
        {"residual", true, 40, 144, 1, {264}, GEMM_SCALES_BLOCK, false, true, false, 0, false, 0, false},
        {"residual, odd", true, 40, 144, 1, {263}, GEMM_SCALES_ROW, true, true, false, 0, false, 0, false},
        {"row scales", true, 140, 512, 1, {144}, GEMM_SCALES_ROW, true, false, true, 0, false, 8, false},
        {"no weight scales", true, 5, 128, 1, {128}, GEMM_SCALES_NONE, false, false, false, 0, false, 0, false},
        {"experts", true, 150, 256, 2, {96, 96}, GEMM_SCALES_BLOCK, false, false, true, 9, true, 0, false},
        {"experts, uneven", true, 333, 144, 1, {200}, GEMM_SCALES_BLOCK, true, false, true, 7, false, 0, true},
        {"experts, bf16", false, 150, 192, 2, {72, 72}, GEMM_SCALES_NONE, true, false, true, 40, true, 0, true},
        {"experts, row scales", true, 90, 400, 1, {130}, GEMM_SCALES_ROW, true, false, false, 3, true, 0, false},
    };
    // clang-format on
    for (int m : rows) {
        Case c = cases[0];
        c.rows = m;
        run_case(c, 3);
    }
    for (const Case &c : cases)
        run_case(c, 3);
    return finish("gemm_sm90");
}
