#!/bin/bash
# Everything that must hold before a change is taken, from a clean clone or again and again:
#
#   ci/test.sh               all stages
#   ci/test.sh style gcc     only these; 'ci/test.sh list' names them
#
# Stages build in build/ci/ and leave their logs in build/ci/logs/. A stage whose tools are missing and
# cannot be installed is skipped, and says so. Exit code 1 when a stage failed.
#   FUZZ_SECONDS=10          how long each fuzz target runs
set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=$root/build/ci
logs=$out/logs
stages=(setup style gcc symbols install readme clang cuda hip sanitize fuzz thread aarch64 coverage)

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
    ninja -C "$build" --quiet "$@"
}

# tests DIRECTORY [meson test options]: the counts of its last lines are added up by the summary.
tests() {
    local build=$out/$1
    shift
    meson test -C "$build" --no-rebuild --print-errorlogs --num-processes "$(nproc)" "$@"
}

stage_setup() {
    "$root/ci/setup.sh" test
}

stage_style() {
    cd "$root"
    ci/style.sh
}

configure_gcc() {
    CC=gcc configure gcc -Dwerror=true -Dcuda=disabled
}

# The kernels run here, emulated; the stage "cuda" compiles them for GPUs.
stage_gcc() {
    configure_gcc
    compile gcc
    tests gcc
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

# For Hopper, whose code has every path; ci/gpu.sh builds for the GPU that is there and runs it.
stage_cuda() {
    has nvcc || [ -x /usr/local/cuda/bin/nvcc ] || skip 'no nvcc'
    CC=gcc configure cuda -Dcuda=enabled -Dgpu_arch=90a -Dsimt=disabled -Dopenblas=disabled
    compile cuda
    "$out/cuda/cli/rondo" info --devices
    tests cuda --suite gpu
}

# For one GPU of each kind: MFMA with and without FP8, WMMA. What they have in common is tested by the stage "gcc",
# emulated; a machine with an AMD GPU lists it here.
stage_hip() {
    has clang++-19 || skip 'no clang++-19'
    [ -e /usr/include/hip/hip_runtime.h ] || skip 'no libamdhip64-dev'
    ci/hip-bitcode.sh "$out/hip-bitcode"
    CC=gcc configure hip -Dwerror=true -Dhip=enabled -Dhip_bitcode="$out/hip-bitcode" \
        -Dhip_arch_wave64=gfx90a,gfx942 -Dhip_arch_wave32=gfx1100 \
        -Dcuda=disabled -Dsimt=disabled -Dopenblas=disabled -Doptimization=0
    compile hip cli/rondo
    tests/cli/no_gpu.sh "$out/hip/cli/rondo" tests/fixtures hip
}

# Addresses and undefined behaviour. By gcc at -O1: clang needs minutes for the vector kernels then.
stage_sanitize() {
    CC=gcc configure sanitize -Dbuildtype=debug -Doptimization=1 -Db_sanitize='address,undefined' \
        -Db_lundef=false -Dopenblas=disabled -Dcuda=disabled -Dsimt=disabled \
        -Dc_args='-fno-sanitize-recover=all'
    compile sanitize
    tests sanitize --no-suite reference --timeout-multiplier 5
}

fuzz_one() {
    local name=$1 scratch=$out/fuzz/corpus-$1
    mkdir -p "$scratch"
    (cd "$scratch" && "$out/fuzz/tests/fuzz/fuzz-$name" -max_total_time="${FUZZ_SECONDS:-10}" \
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
    printf '%s\n' "${names[@]}" | xargs -P "$(nproc)" -I{} bash -c 'fuzz_one {}' || failed=1
    return $failed
}

# Races, in the tests that use several threads.
stage_thread() {
    echo 'int main(void) { return 0; }' > "$out/thread.c"
    gcc -fsanitize=thread "$out/thread.c" -o "$out/thread-probe" 2> /dev/null || skip 'gcc has no TSan here'
    "$out/thread-probe" > /dev/null 2>&1 || skip 'TSan does not run on this kernel'
    CC=gcc configure thread -Dbuildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false \
        -Dopenblas=disabled -Dcuda=disabled -Dsimt=disabled
    compile thread
    tests thread --suite threads --no-suite slow --timeout-multiplier 10 # models run all attention, too
}

stage_aarch64() {
    ci/aarch64.sh "$out/aarch64"
}

stage_coverage() {
    has gcov || skip 'no gcov'
    CC=gcc configure coverage -Dbuildtype=debug -Doptimization=1 -Db_coverage=true -Dopenblas=disabled \
        -Dcuda=disabled -Dsimt=disabled
    compile coverage
    find "$out/coverage" -name '*.gcda' -delete
    tests coverage --no-suite reference --no-suite slow --timeout-multiplier 5
    python3 ci/coverage.py "$root" "$out/coverage"
}

# Runs one stage, shows and keeps what it prints, and notes how it ended.
run_stage() {
    local name=$1 code start=$SECONDS
    printf '\n== %s\n' "$name"
    (
        set -eu
        cd "$root"
        "stage_$name"
    ) 2>&1 | tee "$logs/$name.txt"
    code=${PIPESTATUS[0]}
    case $code in
    0) result[$name]=passed ;;
    77) result[$name]=skipped ;;
    *) result[$name]=FAILED ;;
    esac
    seconds[$name]=$((SECONDS - start))
}

# Sums one count of `meson test` over the logs of the stages that ran.
count() {
    local label=$1 name files=()
    for name in "${chosen[@]}"; do
        files+=("$logs/$name.txt")
    done
    sed -n "s/^$label: *\([0-9][0-9]*\) *$/\1/p" "${files[@]}" | awk '{ n += $1 } END { print n + 0 }'
}

summary() {
    local name failed=0 note
    printf '\n== summary\n'
    for name in "${chosen[@]}"; do
        note=$(sed -n 's/^skipped: //p; s/^coverage: //p' "$logs/$name.txt" | head -n 1)
        printf '%-10s %-8s %5d s  %s\n' "$name" "${result[$name]}" "${seconds[$name]}" "$note"
        [ "${result[$name]}" != FAILED ] || failed=1
    done
    printf 'all        %-8s %5d s\n' "$([ $failed = 0 ] && echo passed || echo FAILED)" $SECONDS
    printf '%d passed, %d failed, %d skipped\n' "$(count Ok)" \
        $(($(count Fail) + $(count Timeout) + $(count 'Unexpected Pass'))) "$(count Skipped)"
    return $failed
}

main() {
    local name
    declare -gA result seconds
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
    mkdir -p "$logs"
    export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
    # Not detect_stack_use_after_return: gcc 12 then lays 64-byte vectors on unaligned addresses.
    export ASAN_OPTIONS=halt_on_error=1:detect_stack_use_after_return=0
    export TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
    for name in "${chosen[@]}"; do
        run_stage "$name"
        # Without a compiler and libraries there is nothing to test.
        [ "$name" = setup ] && [ "${result[setup]}" = FAILED ] && return 1
    done
    summary
}

main "$@"
