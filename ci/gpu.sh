#!/bin/bash
# On a machine with an NVIDIA GPU: compares instructions with their documented layouts, checks every op against the CPU
# reference, runs whole models, measures, checks memory accesses, and writes one Markdown and one CSV file named by the
# device into tests/bench/results/. Both are there from the first stage on and grow with each. Nothing is installed or
# fetched. Exit code 77 where there is no GPU, 1 when a stage failed.
#
#   ci/gpu.sh                        all stages: build layouts ops models bench whole sanitize
#   ci/gpu.sh bench whole            only these (and build); their part of the files is replaced
#   LIMIT=560 ci/gpu.sh              begins nothing, and ends what runs, when so many seconds are over
#   RESULTS=DIR ci/gpu.sh            writes the files elsewhere
#   MODEL=small ci/gpu.sh whole      the random model of the stage (default: by the GPU's memory)
#   FULL=1 ci/gpu.sh whole           also Ling-mini and a dense model of 8 B, and decoding from a depth of 64 Ki
#   MODELS=DIR                       where random models are made and stay (default: /dev/shm, where there is room)
#
# Where that machine lacks what a build needs, the programs can be brought along: on another one with nvcc,
#
#   ARCHITECTURE=90a ci/gpu.sh pack
#
# builds for it and leaves programs and libraries in build/gpu/programs.tgz (20 MB), which "build" takes there.
set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/build/gpu
logs=$out/logs
stages=(build layouts ops models bench whole sanitize)
programs=(cli/rondo tests/check/rondo-check tests/model/test-model-matrix tests/model/test-model-properties)
libraries='libcjson|libpcre2|libutf8proc'

has() { command -v "$1" > /dev/null 2>&1; }
title() { printf '\n== %s, after %d s\n' "$*" "$SECONDS"; }
refuse() {
    echo "gpu.sh: $1"
    exit "$2"
}

# limited SECONDS COMMAND...: ends it then, or when the time of LIMIT is over.
limited() {
    local seconds=$1 left=$((${LIMIT:-86400} - SECONDS)) result
    shift
    [ "$left" -lt "$seconds" ] && seconds=$left
    if [ "$seconds" -lt 5 ]; then
        echo "NOT RUN, no time is left: $*"
        return 124
    fi
    timeout -k 10 "$seconds" "$@"
    result=$?
    [ $result = 0 ] || echo "FAILED (exit code $result$([ $result = 124 ] && echo ", after $seconds s")): $*"
    return $result
}

# Nothing can be begun any more, and says so.
is_over() {
    [ $((${LIMIT:-86400} - SECONDS)) -lt 5 ] && echo "NOT RUN, no time is left: $*"
}

# ---- programs ----------------------------------------------------------------------------------------------------

# What programs are made of.
sources_sum() {
    (cd "$root" && find backend_cpu backend_cuda cli core formats tests/check tests/model meson.build -type f |
        LC_ALL=C sort | xargs cat | sha256sum | cut -c 1-16)
}

take_programs() {
    rondo=$1/rondo
    check=$1/rondo-check
    matrix=$1/test-model-matrix
    properties=$1/test-model-properties
}

runs_here() { "$rondo" info --devices 2> /dev/null | grep -q ' cuda:0'; }

# configure_and_compile ARCHITECTURE [meson options]
configure_and_compile() {
    local architecture=$1
    shift
    [ -e "$out/build/build.ninja" ] ||
        meson setup -Dcuda=enabled -Dsimt=disabled "-Dgpu_arch=$architecture" "$@" "$out/build" "$root" || return 1
    ninja -C "$out/build" "${programs[@]}"
}

collect_programs() {
    local program library
    rm -rf "${out:?}/bin" "${out:?}/lib"
    mkdir -p "$out/bin" "$out/lib"
    for program in "${programs[@]}"; do
        strip -o "$out/bin/${program##*/}" "$out/build/$program" || return 1
        env -u LD_LIBRARY_PATH ldd "$out/build/$program" | awk '$2 == "=>" { print $3 }' | grep -E "/($libraries)" | while read -r library; do
            cp -L "$library" "$out/lib/"
        done
    done
    sources_sum > "$out/bin/sources"
}

unpack() {
    [ -e "$out/programs.tgz" ] || return
    [ -e "$out/bin/sources" ] && [ ! "$out/programs.tgz" -nt "$out/bin/sources" ] && return
    rm -rf "${out:?}/bin" "${out:?}/lib"
    tar -xzf "$out/programs.tgz" -C "$out" && touch "$out/bin/sources"
}

pack() {
    has nvcc || refuse 'no nvcc; install the CUDA toolkit, 13 or newer' 1
    "$root/ci/setup.sh" check && configure_and_compile "${ARCHITECTURE:-90a}" -Dopenblas=disabled && collect_programs ||
        refuse 'the programs could not be built' 1
    tar -czf "$out/programs.tgz" -C "$out" bin lib && du -h "$out/programs.tgz"
}

stage_build() {
    unpack
    take_programs "$out/bin"
    if runs_here; then
        [ "$(cat "$out/bin/sources")" = "$(sources_sum)" ] || echo 'ATTENTION: the programs were made from other sources'
        echo "programs of build/gpu/bin, made $(date -r "$rondo" '+%F %T')"
    else
        [ -x "$rondo" ] && "$rondo" info --devices
        has nvcc || { echo 'no nvcc and no programs in build/gpu/bin that run here: see "pack" above'; return 1; }
        "$root/ci/setup.sh" check || { echo 'or bring programs along: see "pack" above'; return 1; }
        configure_and_compile "$architecture" && collect_programs || return 1
        runs_here || echo 'the programs built here show no CUDA device'
    fi
    "$rondo" info --devices
    runs_here
}

# ---- correctness -------------------------------------------------------------------------------------------------

# First of all: everything after it rests on what the instructions do.
stage_layouts() { limited 60 "$check" --layouts --backend 'cuda:*'; }

all_ops() { "$check" --list | awk '$1 == "op" && !seen[$2]++ { print $2 }'; }

# A process for each op: one that hangs, or loses the device, leaves the others.
stage_ops() {
    local op result=0
    for op in $(all_ops); do
        is_over "$op and what follows" && return 1
        limited 90 "$check" --backend 'cuda:*' --op "$op" --reference cpu --seed 1 || result=1
    done
    return $result
}

stage_models() {
    local result=0 fixtures=$root/tests/fixtures/models
    limited 120 "$matrix" "$fixtures" cpu,cuda:0 --generated 1 || result=1
    limited 180 "$properties" "$fixtures" --device cuda:0 || result=1
    return $result
}

stage_sanitize() {
    local tool op result=0
    has compute-sanitizer || { echo 'no compute-sanitizer here'; return 0; }
    for tool in memcheck synccheck racecheck; do
        for op in $(all_ops); do
            is_over "$tool of $op and what follows" && return 1
            limited 120 compute-sanitizer --tool $tool --error-exitcode 1 --print-limit 5 \
                "$check" --backend cuda:0 --op "$op" --reference cpu --seed 1 || result=1
        done
    done
    return $result
}

# ---- speed -------------------------------------------------------------------------------------------------------

# cuBLASLt is the yardstick; Python packages bring one where the system has none.
find_cublaslt() {
    ldconfig -p 2> /dev/null | grep -q 'libcublasLt\.so\.1[23]' && return
    local place
    place=$(python3 -c 'import glob, sys
for path in sys.path:
    for found in sorted(glob.glob(path + "/nvidia/*/lib/libcublasLt.so.1[23]"), reverse=True):
        print(found)' 2> /dev/null | head -n 1)
    [ -n "$place" ] && export LD_LIBRARY_PATH=${place%/*}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

# Products first: the floors of all others rest on their rates.
stage_bench() {
    local op result=0 at=$logs/bench.csv
    find_cublaslt
    : > "$at"
    for op in gemm grouped_gemm linear_attention softmax_attention '[!gls]*' 'group_*' gemm_router swiglu; do
        limited 240 "$check" --backend cuda:0 --only-bench --csv --op "$op" --seed 1 >> "$at" || result=1
    done
    grep -E '^(FAILED|NOT RUN|FAIL)' "$at"
    awk -F, '!/^(FAIL|NOT RUN)/ && (NR == 1 || $1 != "device")' "$at" > "$csv"
    return $result
}

# measure NAME MODE [options]: speeds of a random model.
measure() {
    local model=$models/$1 mode=$2 yarn=() device=${device:-cuda:0}
    shift 2
    case $model in */ling-*) yarn=(--yarn 4) ;; esac # their configuration ends at 32 Ki
    echo "\$ rondo bench -m ${model##*/} --device $device --mode $mode $*"
    limited 240 "$rondo" bench -m "$model" "${yarn[@]}" --device "$device" --mode "$mode" "$@"
}

make_model() {
    [ -e "$models/$1/config.json" ] && return
    rm -rf "${models:?}/$1"
    limited 300 "$rondo" synth "$1" --dtype fp8-block -o "$models/$1"
}

stage_whole() {
    local result=0 name gigabytes=$(($(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -n 1) / 1000))
    local main=${MODEL:-}
    find_models_place
    if [ -z "$main" ]; then
        main=small
        [ "$gigabytes" -ge 36 ] && [ "$room" -ge 20 ] && main=ring-mini-linear-2.0
    fi
    make_model "$main" || return 1
    measure "$main" fp8 --prefill 0 --decode 64 --depth 0 --batch 1 || result=1
    device=cuda:0+serial measure "$main" fp8 --prefill 0 --decode 64 --depth 0 --batch 1 || result=1
    measure "$main" fp8 --prefill 512,8192,32768 --decode 0 --chunk 8192 || result=1
    measure "$main" fp8 --prefill 0 --decode 32 --depth 4096 --batch 1,64 --fill repeat || result=1
    measure "$main" fp8 --prefill 0 --decode 32 --depth 0 --batch 1 --profile || result=1
    measure "$main" bf16 --prefill 8192 --chunk 8192 --decode 64 --depth 0 --batch 1 || result=1
    [ "${FULL:-}" = 1 ] || return $result
    for name in "$main" ling-mini-2.0 dense-8b; do # the hybrid, the same with softmax layers alone, a dense model
        make_model "$name" || { result=1; continue; }
        measure "$name" fp8 --prefill 0 --decode 32 --depth 65536 --batch 1,16 --fill repeat || result=1
        measure "$name" fp8 --prefill 0 --decode 32 --depth 65536 --batch 64 --fill repeat || result=1
    done
    return $result
}

# Memory that is a file system is faster than most disks.
find_models_place() {
    free_gigabytes() { df -BG --output=avail "$1" 2> /dev/null | tail -n 1 | tr -dc 0-9; }
    models=${MODELS:-}
    if [ -z "$models" ]; then
        models=$out/models
        room=$(free_gigabytes /dev/shm)
        [ "${room:-0}" -ge $((${FULL:-0} * 40 + 20)) ] && models=/dev/shm/rondo-models
    fi
    mkdir -p "$models"
    room=$(free_gigabytes "$models")
    room=${room:-0}
}

# ---- the files ---------------------------------------------------------------------------------------------------

# Rows of rondo-check --csv as Markdown. The floor of a row is the time that a copy would take for its bytes, or the
# fastest product of 8192^3 of this run (bf16, or e4m3 where the path says so) for its operations; its share is floor
# over median.
table() {
    echo '| op | case | median us | floor us | share | GB/s | TFLOP/s | kernel |'
    echo '|---|---|---|---|---|---|---|---|'
    awk -F'"' 'NF > 4 {
        split($1, head, ","); split($3, number, ",")
        n++; op[n] = head[2]; what[n] = $2; path[n] = $4
        us[n] = number[2]; gb[n] = number[3]; gf[n] = number[4]
        if (number[5] > 0) copy = number[3] / number[5]
        kind[n] = ($4 ~ /e4m3/ || $2 ~ /f8 block|E=256 \(/) ? 8 : 16
        if ($2 ~ /M=8192 N=8192 K=8192/ && gf[n] > rate[kind[n]]) rate[kind[n]] = gf[n]
    }
    END {
        for (i = 1; i <= n; i++) {
            floor = copy > 0 ? gb[i] * us[i] / copy : 0
            products = rate[kind[i]] > 0 ? gf[i] * us[i] / rate[kind[i]] : 0
            if (products > floor) floor = products
            printf "| %s | %s | %.1f | %.1f | %.0f %% | %.0f | %.1f | %s |\n", op[i], what[i], us[i], floor,
                (us[i] > 0 ? 100 * floor / us[i] : 0), gb[i], gf[i] / 1000, path[i]
        }
        printf "\ncopies %.0f GB/s; products of 8192^3: e4m3 %.0f, bf16 %.0f TFLOP/s\n", copy, rate[8] / 1000, rate[16] / 1000
    }' "$1"
}

# What a reader wants of a stage's log.
extract() {
    case $1 in
        ops) grep -E 'FAIL|NOT RUN|rondo-check:|cases' "$2" | tail -n 100 ;;
        sanitize) grep -E 'FAIL|NOT RUN|ERROR SUMMARY|=========     (at|by)|Invalid|Race|hazard' "$2" | sort | uniq -c | sort -rn | head -n 60 ;;
        bench) grep -E 'FAIL|NOT RUN' "$2" ;;
        models) grep -vE ': ok$|falls back' "$2" | tail -n 120 ;;
        *) tail -n 120 "$2" ;;
    esac
}

report() {
    local stage
    {
        echo "# $name"
        echo
        nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.max.sm --format=csv,noheader
        echo "commit $(git -C "$root" rev-parse --short HEAD 2> /dev/null || echo unknown), sources $(sources_sum)"
        printf '\n| stage | result | seconds |\n|---|---|---|\n'
        for stage in "${stages[@]}"; do
            [ -e "$logs/$stage.result" ] && echo "| $stage | $(cat "$logs/$stage.result") |"
        done
        for stage in "${stages[@]}"; do
            [ -e "$logs/$stage.log" ] || continue
            printf '\n## %s\n\n' "$stage"
            [ "$stage" = bench ] && [ -s "$logs/bench.csv" ] && table "$logs/bench.csv"
            printf '```\n%s\n```\n' "$(extract "$stage" "$logs/$stage.log")"
        done
    } > "$markdown.new"
    mv "$markdown.new" "$markdown"
}

# ---- main --------------------------------------------------------------------------------------------------------

[ -x /usr/local/cuda/bin/nvcc ] && PATH=$PATH:/usr/local/cuda/bin
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$out/lib
if [ "${1:-}" = pack ]; then
    pack
    exit
fi
wanted=("$@")
[ $# -gt 0 ] || wanted=("${stages[@]}")
for stage in "${wanted[@]}"; do
    [[ " ${stages[*]} " == *" $stage "* ]] || refuse "no stage is called $stage (want some of: ${stages[*]}, or pack)" 2
done
has nvidia-smi && nvidia-smi -L || refuse 'no NVIDIA GPU here (nvidia-smi lists none)' 77
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d '. ')
[ "$architecture" = 90 ] && architecture=90a
name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1 | tr -c 'A-Za-z0-9\n' '-' | tr -s '-')
name=${name%-}
results=${RESULTS:-$root/tests/bench/results}
mkdir -p "$results" "$logs"
csv=$results/$name.csv
markdown=$results/$name.md

# run_stage STAGE: its output is shown, kept, and its end noted.
run_stage() {
    local begin=$SECONDS result
    title "$1"
    echo "runs | since second $begin" > "$logs/$1.result"
    "stage_$1" > >(tee "$logs/$1.log") 2>&1
    result=$?
    [ $result = 0 ] && echo "ok | $((SECONDS - begin))" > "$logs/$1.result"
    [ $result = 0 ] || echo "FAILED | $((SECONDS - begin))" > "$logs/$1.result"
    report
    return $result
}

failed=0
run_stage build || refuse 'no program runs on this GPU' 1
(while sleep 10; do report; done) &
refresher=$!
trap 'kill $refresher 2> /dev/null' EXIT
for stage in "${wanted[@]}"; do
    [ "$stage" = build ] || run_stage "$stage" || failed=1
done
kill $refresher 2> /dev/null
wait $refresher 2> /dev/null
report
title 'result'
sed -n '/^| stage/,/^$/p' "$markdown"
echo "wrote $csv and $markdown"
[ $failed = 0 ] || echo 'gpu.sh: some stages failed'
exit $failed
