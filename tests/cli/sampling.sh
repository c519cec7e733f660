#!/bin/sh
# Sampling where the logits are: whatever is asked of the sampler, the ids are those of the CPU in mode f32, and in
# mode bf16 those that a sampler on the host takes of the same logits.
#
#   sampling.sh RONDO FIXTURES DEVICE
. "$(dirname "$0")/lib.sh"
device=$3
small=$fixtures/models/head-dim-128 # a vocabulary of 96
demo=$fixtures/demo-model           # of 640: more than the largest logits alone

"$rondo" run -m "$small" --device "$device" --tokens 1 -n 1 --ids >"$work/out" 2>"$work/err"
[ $? = 77 ] && exit 77 # no such device

# ids FILE MODEL MODE DEVICE OPTION...: 8 ids into a file
ids() {
    to=$work/$1
    from=$2
    mode=$3
    on=$4
    shift 4
    expect 0 run -m "$from" --mode "$mode" --device "$on" --tokens 5,9,11,5 -n 8 --ignore-eos "$@"
    mv "$work/out" "$to"
}

# same MODEL OPTION...: on the CPU and on the device, the last that was run
same() {
    model=$1
    shift
    ids here "$model" f32 cpu --ids "$@"
    ids there "$model" f32 "$device" --ids "$@"
    [ "$(tr , '\n' <"$work/here" | wc -l)" = 8 ] || fail "$*: not 8 ids"
    cmp -s "$work/there" "$work/here" || fail "$*: $(cat "$work/there"), on the CPU $(cat "$work/here")"
}

same "$small" --temperature 0.9 --seed 1
same "$small" --temperature 1.4 --top-k 40 --top-p 0.9 --seed 2
same "$small" --temperature 2 --min-p 0.02 --repetition-penalty 1.2 --repetition-window 4 --seed 3
same "$small" --repetition-penalty 1.5
same "$demo" --temperature 1 --top-p 0.8 --repetition-penalty 1.3 --seed 4
same "$demo" --temperature 3 --top-k 100 --seed 5
grep -q 'whole rows' "$work/err" && fail 'the 100 largest need no row'
same "$demo" --temperature 1 --top-k 300 --seed 8 # more than the largest that are fetched
grep -q 'whole rows' "$work/err" && fail 'the 300 largest need no row here'

# Rows that the largest logits do not decide are read, and said.
same "$demo" --temperature 100 --repetition-penalty 2 --seed 6
says 'whole rows of logits that sampling had to read'
expect 0 run -m "$demo" --mode f32 --device "$device" --tokens 5,9,11,5 -n 1 --ids --temperature 100 --seed 6
says 'whole rows of logits that sampling had to read: 1 of 1' # the prompt's, too, is chosen from on the device

# Logits that are printed come to the host, and so does the pick.
ids there "$demo" bf16 "$device" --ids --temperature 1.5 --top-p 0.95 --seed 7
ids here "$demo" bf16 "$device" --logprobs --temperature 1.5 --top-p 0.95 --seed 7
sed 's/{"id":\([0-9]*\),.*/\1/' "$work/here" | paste -s -d , - >"$work/host"
tr -d '[]' <"$work/there" >"$work/device"
cmp -s "$work/device" "$work/host" || fail "bf16: $(cat "$work/device"), on the host $(cat "$work/host")"
finish
