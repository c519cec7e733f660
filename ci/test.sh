#!/bin/bash
# Everything that must hold before a change is taken, from a clean clone or again and again:
#
#   ci/test.sh               all stages
#   ci/test.sh style gcc     only these; 'ci/test.sh list' names them
#
# Stages build in build/ci/ and leave their logs in build/ci/logs/. Two run at a time, each on half of the cores, and
# are shown when they end: configuring and linking, which take one core, cost no time then. A stage whose tools are
# missing and cannot be installed is skipped, and says so. Exit code 1 when a stage failed. Ended early by a signal, it
# sums up what has ended.
#   FUZZ_SECONDS=5           how long each fuzz target runs
#   LANES=2                  stages at a time
set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/build/ci
logs=$out/logs
# Long ones first, so that lanes end together.
stages=(setup style gcc sanitize hip thread cuda aarch64 readme clang fuzz checked coverage symbols install)
# Stages that share a build directory with another, and come after it where both are run.
declare -A after=([checked]=gcc [symbols]=gcc [install]=gcc [coverage]=sanitize)

has() { command -v "$1" > /dev/null 2>&1; }

skip() {
    echo "skipped: $*"
    exit 77
}

# configure DIRECTORY [meson options]: makes or updates a build directory; CC chooses the compiler.
configure() {
    local build=$out/$1
    shift
    if [ -e "$build/build.ninja" ]; then
        meson setup --reconfigure "$@" "$build" "$root" > "$build.setup" && return 0
        meson setup --wipe "$@" "$build" "$root" > "$build.setup" && return 0
    else
        meson setup "$@" "$build" "$root" > "$build.setup" && return 0
    fi
    tail -n 20 "$build.setup"
    return 1
}

compile() {
    local build=$out/$1
    shift
    ninja -C "$build" -j "$jobs" --quiet "$@"
}

# tests DIRECTORY [meson test options]: the counts of its last lines are added up by the summary.
tests() {
    local build=$out/$1
    shift
    meson test -C "$build" --no-rebuild --print-errorlogs --num-processes "$jobs" "$@"
}

stage_setup() {
    "$root/ci/setup.sh" test
}

stage_style() {
    cd "$root"
    ci/style.sh
}

configure_gcc() {
    CC=gcc configure gcc -Dwerror=true -Dcuda=disabled -Dsimt_checked=simt
}

# The kernels run here, emulated; the stage "cuda" compiles them for GPUs.
stage_gcc() {
    configure_gcc
    compile gcc
    tests gcc --no-suite simt_checked
}

# Every op on an emulated GPU that reports races, missing fences, reads of shared memory that nobody wrote, accesses out of
# bounds and undefined arithmetic. HIP's waves can be added to the option of "gcc": some four minutes of a core more.
stage_checked() {
    configure_gcc
    compile gcc tests/check/rondo-check
    tests gcc --suite simt_checked
}

# The shared library is called by its version.
compile_library() {
    configure_gcc
    compile gcc "$(basename "$(readlink -f "$out/gcc/librondo.so")")" "$@"
}

# librondo.so shows the functions of core/rondo.h and nothing else; the header is C99 and C++.
stage_symbols() {
    compile_library
    ci/symbols.sh "$out/gcc/librondo.so" "$root/core/rondo.h"
}

# A stranger's view: the library as installed, found by pkg-config, and a program built against it.
stage_install() {
    local prefix=$out/installed
    compile_library cli/rondo
    rm -rf "$prefix"
    DESTDIR=$prefix meson install -C "$out/gcc" --no-rebuild > "$logs/meson-install.txt"
    tests/embed/test.sh "$prefix" "$root/tests/fixtures/models/base-bf16"
}

stage_readme() {
    ci/readme.sh "$out/readme" README.md CONTRIBUTING.md
}

stage_clang() {
    has clang || skip 'no clang'
    CC=clang configure clang -Dwerror=true -Dcuda=disabled -Dsimt=disabled
    compile clang
    tests clang --suite check
}

# For Hopper, whose code has every path; ci/gpu.sh builds for the GPU that is there and runs it. HIP's kernels over the
# CUDA runtime are compiled without optimization.
stage_cuda() {
    has nvcc || [ -x /usr/local/cuda/bin/nvcc ] || skip 'no nvcc'
    CC=gcc configure cuda -Dcuda=enabled -Dhip_nv=enabled -Dgpu_arch=90a -Dsimt=disabled -Dopenblas=disabled -Doptimization=0
    compile cuda cli/rondo tests/check/rondo-check tests/model/test-model-properties tests/model/test-model-matrix
    size -A "$out/cuda/backend_cuda/libbackend_cuda.a" |
        awk '$1 == ".nv_fatbin" { n += $2 } END { printf "cuda: %.1f MB of code and PTX for sm_90a\n", n / 1e6 }'
    "$out/cuda/cli/rondo" info --devices
    tests cuda --suite gpu
}

configure_hip() {
    CC=gcc configure "$@" -Dwerror=true -Dhip=enabled -Dhip_bitcode="$out/hip-bitcode" -Dcuda=disabled \
        -Dsimt=disabled -Dopenblas=disabled -Doptimization=0
}

# For one GPU with MFMA and one with WMMA; products also for a GPU with MFMA that has none of FP8, which is what sets it
# apart. What they have in common is tested by the stage "gcc", emulated; a machine with an AMD GPU lists it here.
stage_hip() {
    has clang++-19 || skip 'no clang++-19'
    [ -e /usr/include/hip/hip_runtime.h ] || skip 'no libamdhip64-dev'
    ci/hip-bitcode.sh "$out/hip-bitcode"
    configure_hip hip -Dhip_arch_wave64=gfx942 -Dhip_arch_wave32=gfx1100
    compile hip cli/rondo
    tests/cli/no_gpu.sh "$out/hip/cli/rondo" tests/fixtures hip
    configure_hip hip-gfx90a -Dhip_arch_wave64=gfx90a -Dhip_arch_wave32=
    compile hip-gfx90a backend_hip/libbackend_hip64.a.p/gemm_{mma,small}.cu.o
}

# By gcc at -O1: clang needs minutes for the vector kernels then. Sanitizers and gcov's counters go into one build, whose
# tests run once. (A counter need not be exact, so it is not atomic.)
configure_sanitize() {
    CC=gcc CXX=g++ configure "$@" -Dbuildtype=debug -Doptimization=1 -Db_sanitize='address,undefined' -Db_lundef=false \
        -Dopenblas=disabled -Dcuda=disabled -Dcpp_args=-fno-sanitize-recover=all
}

sanitized_tests() {
    configure_sanitize sanitize -Dsimt=disabled -Db_coverage=true \
        -Dc_args='-fno-sanitize-recover=all -fprofile-update=single'
    compile sanitize
    find "$out/sanitize" -name '*.gcda' -delete
    tests sanitize --no-suite reference --timeout-multiplier 5
}

# Addresses and undefined behaviour. Of emulation the emulator, not the kernels, which gcc may take minutes each for with
# AddressSanitizer. Kernels have the checks of the stage "checked".
stage_sanitize() {
    sanitized_tests
    if has g++; then
        configure_sanitize sanitize-simt -Dsimt=enabled -Dc_args=-fno-sanitize-recover=all
        compile sanitize-simt tests/simt/test-simt-kernels-32 tests/simt/test-simt-bugs tests/simt/test-simt-runtime
        tests sanitize-simt 'simt kernels 32' 'simt bugs' 'simt runtime'
    fi
}

# Of the tests of the stage "sanitize", which are run here where that stage is not.
stage_coverage() {
    has gcov || skip 'no gcov'
    [[ " ${chosen[*]} " == *' sanitize '* ]] || sanitized_tests
    python3 ci/coverage.py "$root" "$out/sanitize"
}

fuzz_one() {
    local name=$1 scratch=$out/fuzz/corpus-$1
    mkdir -p "$scratch"
    (cd "$scratch" && "$out/fuzz/tests/fuzz/fuzz-$name" -max_total_time="${FUZZ_SECONDS:-5}" \
        -timeout=20 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 \
        "$scratch" "$root/tests/fuzz/corpus/$name") > "$logs/fuzz-$name.txt" 2>&1 || {
        tail -n 40 "$logs/fuzz-$name.txt"
        return 1
    }
    echo "fuzz $name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$logs/fuzz-$name.txt") inputs"
}

stage_fuzz() {
    local name names=() failed=0
    has clang || skip 'no clang'
    [ -e "$(clang -print-file-name="libclang_rt.fuzzer-$(uname -m).a")" ] || skip 'no libFuzzer'
    for name in "$root"/tests/fuzz/corpus/*/; do
        names+=("$(basename "$name")")
    done
    CC=clang configure fuzz -Dbuildtype=debug -Db_sanitize='address,undefined' \
        -Db_lundef=false -Dopenblas=disabled -Dcuda=disabled -Dfuzz=true \
        -Dc_args='-fno-sanitize-recover=all -fsanitize=fuzzer-no-link'
    compile fuzz "${names[@]/#/tests/fuzz/fuzz-}"
    export -f fuzz_one
    export out logs root FUZZ_SECONDS
    printf '%s\n' "${names[@]}" | xargs -P "$jobs" -I{} bash -c 'fuzz_one {}' || failed=1
    return $failed
}

# Races, in the tests that use several threads.
stage_thread() {
    echo 'int main(void) { return 0; }' > "$out/thread.c"
    gcc -fsanitize=thread "$out/thread.c" -o "$out/thread-probe" 2> /dev/null || skip 'gcc has no TSan here'
    "$out/thread-probe" > /dev/null 2>&1 || skip 'TSan does not run on this kernel'
    CC=gcc configure thread -Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false \
        -Dopenblas=disabled -Dcuda=disabled -Dsimt=disabled
    compile thread tests/check/rondo-check tests/test-pool tests/model/test-model-properties
    tests thread --suite threads --no-suite slow --timeout-multiplier 10 # models run all attention, too
}

stage_aarch64() {
    JOBS=$jobs ci/aarch64.sh "$out/aarch64"
}

# Seconds of processor time in a file that `times` wrote.
processor_seconds() {
    tr 'ms' '  ' < "$1" | awk '{ n += 60 * ($1 + $3) + $2 + $4 } END { printf "%.0f\n", n }'
}

# keep FILE: a stage's output, shown too where no other runs beside it.
keep() {
    if [ "$lanes" = 1 ]; then
        tee "$1"
    else
        cat > "$1"
    fi
}

# Runs one stage, keeps what it prints, and notes how it ended, its seconds and those of processors. Not to be called
# in a condition: there a command that fails does not end a stage.
run_stage() {
    local name=$1 code result start=$SECONDS
    [ "$lanes" != 1 ] || printf '\n== %s\n' "$name"
    (
        trap 'times > "$logs/$name.times"' EXIT
        set -eu
        cd "$root"
        "stage_$name"
    ) 2>&1 < /dev/null | keep "$logs/$name.txt"
    code=${PIPESTATUS[0]}
    case $code in
    0) result=passed ;;
    77) result=skipped ;;
    *) result=FAILED ;;
    esac
    echo "$result $((SECONDS - start)) $(processor_seconds "$logs/$name.times")" > "$logs/$name.result"
}

# may_start NAME: the stage it comes after has ended, or is not run.
may_start() {
    local first=${after[$1]:-}
    [ -z "$first" ] || [[ " ${chosen[*]} " != *" $first "* ]] || [ -e "$logs/$first.result" ]
}

# Takes the first of `waiting` that may start into `running`; returns 1 when none may or all lanes are taken.
take_one() {
    local i
    [ ${#running[@]} -lt "$lanes" ] || return 1
    for i in "${!waiting[@]}"; do
        if may_start "${waiting[i]}"; then
            running+=("${waiting[i]}")
            unset "waiting[i]"
            return 0
        fi
    done
    return 1
}

# Runs stages side by side, and shows each when it has ended.
run_lanes() {
    local waiting=("$@") running=() i result seconds
    set -m # a process group for each, so that all of it can be ended
    trap 'for i in $(jobs -p); do kill -- "-$i"; done; summary; exit 130' INT TERM
    while [ ${#waiting[@]} -gt 0 ] || [ ${#running[@]} -gt 0 ]; do
        while take_one; do
            run_stage "${running[-1]}" &
        done
        wait -n
        for i in "${!running[@]}"; do
            [ -e "$logs/${running[i]}.result" ] || continue
            if [ "$lanes" != 1 ]; then
                printf '\n== %s\n' "${running[i]}"
                cat "$logs/${running[i]}.txt"
            fi
            read -r result seconds _ < "$logs/${running[i]}.result"
            printf -- '-- %s: %s in %d s, at %d s\n' "${running[i]}" "$result" "$seconds" $SECONDS
            unset "running[i]"
        done
    done
    trap - INT TERM
    set +m
}

# Sums one count of `meson test` over the logs of the stages that ran.
count() {
    local label=$1 name files=()
    for name in "${chosen[@]}"; do
        files+=("$logs/$name.txt")
    done
    sed -n "s/^$label: *\([0-9][0-9]*\) *$/\1/p" "${files[@]}" 2> /dev/null | awk '{ n += $1 } END { print n + 0 }'
}

summary() {
    local name failed=0 note result seconds processor total=0
    printf '\n== summary: seconds, and those of processors\n'
    for name in "${chosen[@]}"; do
        result=unended seconds=0 processor=0
        [ ! -e "$logs/$name.result" ] || read -r result seconds processor < "$logs/$name.result"
        note=$(sed -n 's/^skipped: //p; s/^coverage: //p' "$logs/$name.txt" 2> /dev/null | head -n 1)
        printf '%-10s %-8s %5d s %5d s  %s\n' "$name" "$result" "$seconds" "$processor" "$note"
        case $result in FAILED | unended) failed=1 ;; esac
        total=$((total + processor))
    done
    printf 'all        %-8s %5d s %5d s\n' "$([ $failed = 0 ] && echo passed || echo FAILED)" $SECONDS $total
    printf '%d passed, %d failed, %d skipped\n' "$(count Ok)" \
        $(($(count Fail) + $(count Timeout) + $(count 'Unexpected Pass'))) "$(count Skipped)"
    return $failed
}

main() {
    local name
    chosen=("${stages[@]}")
    [ $# = 0 ] || chosen=("$@")
    if [ "${1:-}" = list ]; then
        echo "${stages[*]}"
        return 0
    fi
    for name in "${chosen[@]}"; do
        declare -F "stage_$name" > /dev/null || {
            echo "test.sh: no stage '$name'; there are: ${stages[*]}" >&2
            return 2
        }
    done
    lanes=${LANES:-2}
    [ $# != 1 ] && [ "$(nproc)" -gt 1 ] || lanes=1
    jobs=$((($(nproc) + lanes - 1) / lanes))
    mkdir -p "$logs"
    for name in "${chosen[@]}"; do
        rm -f "$logs/$name.result" "$logs/$name.txt"
    done
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    # Not detect_stack_use_after_return: gcc 12 then lays 64-byte vectors on unaligned addresses.
    export ASAN_OPTIONS=halt_on_error=1:detect_stack_use_after_return=0
    export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
    if [ "${chosen[0]}" = setup ]; then
        lanes=1 run_stage setup
        # Without a compiler and libraries there is nothing to test.
        read -r name _ < "$logs/setup.result"
        [ "$name" != FAILED ] || return 1
        run_lanes "${chosen[@]:1}"
    else
        run_lanes "${chosen[@]}"
    fi
    summary
}

main "$@"
