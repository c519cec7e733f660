#!/bin/bash
# Compiles core, the CPU backend and rondo-check for 64-bit ARM with Debian's cross compiler, and runs
# rondo-check under qemu where that is installed: the NEON code against the reference. The formats and the
# program are left out, since their libraries (cJSON, PCRE2, utf8proc) are rarely installed for two
# architectures; so this also shows that core and backend need nothing but the C library.
#
#   ci/aarch64.sh BUILD_DIRECTORY [options of rondo-check]      (default: --backend cpu:neon)
#
# Exit code 77: no cross compiler.
set -eu

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${1:?usage: ci/aarch64.sh BUILD_DIRECTORY [options of rondo-check]}
shift
cc=aarch64-linux-gnu-gcc

command -v $cc > /dev/null || { echo "aarch64: no $cc"; exit 77; }

flags=(-std=gnu11 -O2 -Wall -Wextra -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla -Wshadow -Werror
    -Wno-unused-parameter -Wno-unknown-pragmas -Wno-psabi
    -ffp-contract=off -fno-math-errno -fno-trapping-math -fvisibility=hidden
    -D_GNU_SOURCE -DRONDO_BUILDING -I "$root")

mkdir -p "$build"
sed -e 's|@EXTERNS@|extern const struct rondo_backend rondo_backend_cpu;|' \
    -e 's|@ENTRIES@|    \&rondo_backend_cpu,|' "$root/core/backends.c.in" > "$build/backends.c"

objects=()
jobs=0
for source in "$root"/core/*.c "$root"/backend_cpu/*.c "$root"/backend_cpu/ref/*.c \
    "$root"/backend_cpu/arm/*.c "$root"/tests/check/*.c "$root/backend_cuda/cublaslt.c" \
    "$build/backends.c"; do
    object=${source#"$root"/}
    object=$build/$(basename "${object//\//_}" .c).o
    objects+=("$object")
    rm -f "$object"
    $cc "${flags[@]}" -c "$source" -o "$object" &
    jobs=$((jobs + 1))
    [ $((jobs % ${JOBS:-$(nproc)})) != 0 ] || wait
done
wait
for object in "${objects[@]}"; do
    [ -e "$object" ] || exit 1
done
$cc -pthread "${objects[@]}" -lm -ldl -o "$build/rondo-check"
echo "aarch64: compiled ${#objects[@]} files of core, backend_cpu, tests/check and what they need"

command -v qemu-aarch64 > /dev/null || { echo 'aarch64: no qemu-aarch64, nothing was run'; exit 0; }
[ $# -gt 0 ] || set -- --backend cpu:neon
qemu-aarch64 -L /usr/aarch64-linux-gnu "$build/rondo-check" "$@"
