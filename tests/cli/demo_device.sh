#!/bin/sh
# The demonstration model answers every problem of a suite on a device: in BF16, and with FP8 weights and activations.
#
#   demo_device.sh RONDO FIXTURES DEVICE [SUITE]
#
# Without a suite, as for emulated devices: a tiny one, and in FP8 its sums, which take half as many steps.
. "$(dirname "$0")/lib.sh"
model=$fixtures/demo-model
device=$3
suite=$model/${4:-suite-tiny.jsonl}

"$rondo" run -m "$model" --device "$device" --tokens 1 -n 1 --ids >"$work/out" 2>"$work/err"
[ $? = 77 ] && exit 77 # no such device

# Within one problem in fifty: kernels of another device round otherwise.
expect 0 eval -m "$model" -s "$suite" --device "$device" --mode bf16 --quiet --at-least 98
cat "$work/out"
expect 0 quantize -m "$model" -o "$work/fp8" --quiet
[ $# -gt 3 ] || set -- "$@" '' --task arithmetic
shift 4
expect 0 eval -m "$work/fp8" -s "$suite" --device "$device" --mode fp8 --quiet --at-least 98 "$@"
cat "$work/out"
finish
