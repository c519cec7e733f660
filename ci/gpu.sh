#!/bin/bash
# On a machine with an NVIDIA GPU: builds for it, compares instructions with their documented layouts, checks every op
# against the CPU reference, runs the checks under compute-sanitizer, compares whole models, measures, and writes one
# Markdown and one CSV file named by the device into tests/bench/results/. Exit code 77 where there is no GPU.
#
#   ci/gpu.sh
#   PRESET=ring-mini-linear-2.0 ci/gpu.sh      the model of the whole-model benchmark (default: small)
#   FULL=1 ci/gpu.sh                           Ring-mini, Ling-mini and a dense model of 8 B to a depth of 64 Ki: needs
#                                              80 GB of GPU memory and 45 GB of disk
set -eu

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/build/gpu
build=$out/build
rondo=$build/cli/rondo
check=$build/tests/check/rondo-check
failed=0

has() { command -v "$1" > /dev/null 2>&1; }
title() { printf '\n== %s\n' "$*"; }
# step COMMAND...: goes on when it fails, and remembers.
step() {
    "$@" || {
        echo "FAILED (exit code $?): $*"
        failed=1
    }
}

[ -x /usr/local/cuda/bin/nvcc ] && PATH=$PATH:/usr/local/cuda/bin
if ! has nvidia-smi || ! nvidia-smi -L; then
    echo 'gpu.sh: no NVIDIA GPU here (nvidia-smi lists none)'
    exit 77
fi
has nvcc || {
    echo 'gpu.sh: no nvcc; install the CUDA toolkit, 13 or newer'
    exit 77
}
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
[ "$architecture" = 90 ] && architecture=90a
name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr -c 'A-Za-z0-9\n' '-' | tr -s '-')
name=${name%-}

title "build for sm_$architecture"
"$root/ci/setup.sh"
mkdir -p "$out"
[ -e "$build/build.ninja" ] || meson setup -Dcuda=enabled -Dsimt=disabled "-Dgpu_arch=$architecture" "$build" "$root"
ninja -C "$build"
"$rondo" info --devices
"$rondo" info --devices | grep -q ' cuda:0' || {
    echo 'gpu.sh: this build shows no CUDA device'
    exit 77
}

# First of all: everything after it rests on what the instructions do.
title 'layouts of instructions'
step "$check" --layouts --backend 'cuda:*'

title 'every op against the CPU reference'
step "$check" --backend 'cuda:*' --seed 1

title 'the same under compute-sanitizer'
if has compute-sanitizer; then
    for tool in memcheck racecheck synccheck; do
        step compute-sanitizer --tool "$tool" --error-exitcode 1 "$check" --backend cuda:0 --seed 1
    done
else
    echo 'skipped: no compute-sanitizer'
fi

title 'whole models against the CPU and the float64 reference'
step "$build/tests/model/test-model-matrix" "$root/tests/fixtures/models" cpu,cuda:0
step "$build/tests/model/test-model-properties" "$root/tests/fixtures/models" --device cuda:0

title 'benchmarks'
mkdir -p "$root/tests/bench/results"
csv=$root/tests/bench/results/$name.csv
markdown=$root/tests/bench/results/$name.md
models=${PRESET:-small}
tests='--prefill 512,2048 --decode 64 --depth 0,4096 --batch 1,64'
if [ "${FULL:-}" = 1 ]; then # decoding from 64 Ki: the hybrid, the same with softmax layers alone, a dense model
    models='ring-mini-linear-2.0 ling-mini-2.0 dense-8b'
    tests='--prefill 512,8192,32768 --decode 32 --depth 0,4096,65536 --batch 1,64 --fill repeat'
fi

# table FILE: the rows of rondo-check --csv as Markdown.
table() {
    echo '| op | case | median | GB/s | of a copy | TFLOP/s | kernel |'
    echo '|---|---|---|---|---|---|---|'
    awk -F'"' 'NF > 4 {
        split($1, head, ","); split($3, number, ",")
        printf "| %s | %s | %.1f us | %.0f | %.0f %% | %.1f | %s |\n", head[2], $2, number[2], number[3],
            100 * number[5], number[4] / 1000, $4
    }' "$1"
}

# whole PRESET: speeds of a random model.
whole() {
    model=$out/$1
    [ -e "$model/config.json" ] || "$rondo" synth "$1" --dtype fp8-block -o "$model"
    yarn=
    case $1 in ling-*) yarn='--yarn 4' ;; esac # their configuration ends at 32 Ki
    for mode in bf16 fp8; do
        # shellcheck disable=SC2086 # lists of options
        step "$rondo" bench -m "$model" $yarn --device cuda:0 --mode $mode $tests
    done
}

step "$check" --backend cuda:0 --bench --csv --seed 1 > "$csv"
{
    echo "# $name"
    echo
    nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
    echo "commit $(git -C "$root" rev-parse --short HEAD 2> /dev/null || echo unknown)"
    printf '\n## Ops\n\n'
    table "$csv"
    for preset in $models; do
        printf '\n## %s, FP8\n\n```\n' "$preset"
        whole "$preset"
        echo '```'
    done
} > "$markdown"
cat "$markdown"
echo "wrote $csv and $markdown"
[ $failed = 0 ] || echo 'gpu.sh: some steps failed'
exit $failed
