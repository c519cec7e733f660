#!/bin/sh
# Greedy decoding takes the best token where the logits are: the ids are those of sampling with --top-k 1, and in mode
# f32 those of the reference.
#
#   greedy.sh RONDO FIXTURES DEVICE
. "$(dirname "$0")/lib.sh"
device=$3

"$rondo" run -m "$fixtures/models/base-bf16" --device "$device" --tokens 1 -n 1 --ids >"$work/out" 2>"$work/err"
[ $? = 77 ] && exit 77 # no such device

# ids FILE MODEL MODE DEVICE [OPTION...]: 16 ids into a file
ids() {
    to=$work/$1
    from=$fixtures/models/$2
    mode=$3
    on=$4
    shift 4
    expect 0 run -m "$from" --mode "$mode" --device "$on" --tokens 5,9,11,3 -n 16 --ignore-eos --ids "$@"
    mv "$work/out" "$to"
}

for model in base-bf16 fp8-block head-dim-128; do
    for mode in f32 bf16; do
        ids best $model $mode "$device"
        ids sampled $model $mode "$device" --temperature 1 --top-k 1
        [ "$(tr , '\n' <"$work/best" | wc -l)" = 16 ] || fail "$model, $mode: not 16 ids"
        cmp -s "$work/best" "$work/sampled" || fail "$model, $mode: other ids than sampling with --top-k 1 takes"
    done
    ids best $model f32 "$device"
    ids reference $model f32 cpu:ref
    cmp -s "$work/best" "$work/reference" || fail "$model, f32: other ids than those of cpu:ref"
done
finish
