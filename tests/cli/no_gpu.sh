#!/bin/sh
# A build with a backend for GPUs, on a machine without one: one clear line each, exit code 77, never a crash.
#
#     no_gpu.sh PROGRAM FIXTURES BACKEND [BACKEND...]
#
# Exit code 77 where the machine has such a GPU.
. "$(dirname "$0")/lib.sh"
model=$fixtures/models/base-bf16
shift 2

expect 0 info --devices
for backend; do
    if grep -q "^ *$backend:[0-9]" "$work/out"; then
        echo "skipped: this machine has a device of $backend"
        exit 77
    fi
    grep -q "^ *$backend  *no device: " "$work/out" || fail "info --devices does not say why there is no $backend"
done
for backend; do
    for device in "$backend" "$backend:0" "$backend:1"; do
        expect 77 run -m "$model" --tokens 1 --ids --device "$device"
        one_line
        says "rondo: $device: "
        says "--device cpu"
    done
done
sed -n '$p' "$work/err"
finish
