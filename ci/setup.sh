#!/bin/bash
# Makes sure that what rondo needs is installed; on Debian and Ubuntu it installs what is missing, as root
# or by sudo. Says what it does, and does nothing (and needs no network) when everything is there.
#
#   ci/setup.sh          what a build needs
#   ci/setup.sh test     also what ci/test.sh uses; what cannot be had is named, and its stage skipped
#   ci/setup.sh check    only names what a build lacks
#
# Exit code 1 when something that a build needs is missing and could not be installed.
set -u

# Each check succeeds when the thing is usable, whoever installed it.
has_command() { command -v "$1" > /dev/null 2>&1; }
has_library() { has_command pkg-config && pkg-config --exists "$1"; }
has_headers() { echo '#include <stdlib.h>' | cc -xc -fsyntax-only - 2> /dev/null; }
has_numpy() { python3 -c 'import numpy' 2> /dev/null; }
has_cxx() { has_command c++ || has_command g++; }
has_sanitizers() {
    has_command clang && [ -e "$(clang -print-file-name="libclang_rt.fuzzer-$(uname -m).a")" ]
}
has_cross_headers() {
    echo '#include <stdlib.h>' | aarch64-linux-gnu-gcc -xc -fsyntax-only - 2> /dev/null
}
has_hip() { [ -e /usr/include/hip/hip_runtime.h ]; }
has_hip_bitcode() { dpkg -L rocm-device-libs 2> /dev/null | grep '/bitcode/ockl\.bc$' > /dev/null; }
has_clang_format() { has_command clang-format-14 || has_command clang-format; }

# need | check | Debian packages, the first that exists | what for
requirements='
build|has_command cc|gcc|C compiler
build|has_headers|libc6-dev|headers of the C library
build|has_command meson|meson|build system
build|has_command ninja|ninja-build|build system
build|has_command pkg-config|pkgconf pkg-config|finding libraries
build|has_library libcjson|libcjson-dev|JSON
build|has_library libpcre2-8|libpcre2-dev|regular expressions of tokenizers
build|has_library libutf8proc|libutf8proc-dev|Unicode normalisation
option|has_library openblas|libopenblas-dev|yardstick of bench
test|has_cxx|g++|core/rondo.h as C++
test|has_command git|git|list of files of the style check
test|has_command clang|clang|second compiler
test|has_sanitizers|libclang-rt-14-dev libclang-rt-18-dev libclang-rt-dev|fuzzing
test|has_clang_format|clang-format-14 clang-format|style check
test|has_command shellcheck|shellcheck|style check of scripts
test|has_numpy|python3-numpy|tests of the float64 reference
test|has_command aarch64-linux-gnu-gcc|gcc-aarch64-linux-gnu|compile for 64-bit ARM
test|has_cross_headers|libc6-dev-arm64-cross|compile for 64-bit ARM
test|has_command qemu-aarch64|qemu-user|run tests of 64-bit ARM
test|has_command clang++-19|clang-19|compile for AMD GPUs
test|has_command ld.lld-19|lld-19|compile for AMD GPUs
test|has_command clang-offload-bundler-19|clang-tools-19|compile for AMD GPUs
test|has_hip|libamdhip64-dev|compile for AMD GPUs
test|has_hip_bitcode|rocm-device-libs|compile for AMD GPUs
'

# Lines of the requirements of the kinds $1 whose check fails.
missing() {
    local kind check packages purpose
    while IFS='|' read -r kind check packages purpose; do
        [[ -n $kind && " $1 " == *" $kind "* ]] || continue
        $check || echo "$kind|$packages|$purpose"
    done <<< "$requirements"
}

as_root=()
may_install() {
    has_command apt-get || { reason='no apt-get here'; return 1; }
    [ "$(id -u)" = 0 ] && return 0
    has_command sudo && sudo -n true 2> /dev/null && { as_root=(sudo -n); return 0; }
    has_command sudo && [ -t 0 ] && { as_root=(sudo); return 0; }
    reason='neither root nor sudo'
    return 1
}

exists() { apt-cache policy "$1" 2> /dev/null | grep 'Candidate: [^(]' > /dev/null; }

# Sets `install` to the packages of the lines in $1 that this distribution has.
choose_packages() {
    install=()
    local kind packages purpose package
    while IFS='|' read -r kind packages purpose; do
        for package in $packages; do
            exists "$package" && { install+=("$package"); break; }
        done
    done <<< "$1"
}

install_missing() {
    local lines=$1 options=(-y --no-install-recommends -o 'Dpkg::Use-Pty=0')
    echo 'setup: apt-get update'
    "${as_root[@]}" apt-get update -qq || echo 'setup: no package lists; trying with those that are here'
    choose_packages "$lines"
    [ ${#install[@]} -gt 0 ] || return 0
    echo "setup: apt-get install ${options[*]:0:2} ${install[*]}"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq "${options[@]}" "${install[@]}" > /dev/null && return 0
    # One package that cannot be had must not keep the others away.
    local package
    for package in "${install[@]}"; do
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq "${options[@]}" "$package" > /dev/null || echo "setup: $package: not installed"
    done
}

main() {
    local kinds='build option' reason='' lines kind packages purpose failed=0
    [ "${1:-}" = test ] && kinds+=' test'
    lines=$(missing "$kinds")
    if [ -z "$lines" ]; then
        echo 'setup: everything needed is installed'
        return 0
    fi
    if [ "${1:-}" = check ]; then
        kinds=build
        lines=$(missing "$kinds")
    elif may_install; then
        install_missing "$lines"
        # Checks may depend on one another (a library is found by pkg-config): look again.
        lines=$(missing "$kinds")
    fi
    while IFS='|' read -r kind packages purpose; do
        [ -n "$kind" ] || continue
        echo "setup: missing: ${packages%% *} ($purpose)${reason:+; $reason}"
        [ "$kind" = build ] && failed=1
    done <<< "$lines"
    [ $failed = 0 ] || echo "setup: install the missing packages, then run this again"
    return $failed
}

main "$@"
