#!/bin/sh
# The demonstration model answers its 60 problems, in FP8 within one problem, and some of them on every CPU path.
#
# One thread: the model is so small that a second one mostly waits.
. "$(dirname "$0")/lib.sh"
model=$fixtures/demo-model
suite=$model/suite-small.jsonl

# right: how many problems of the report in $work/out are right.
right() {
    sed -n 's/.*"problems":[0-9]*,"right":\([0-9]*\),"accuracy".*"prompt_tokens".*/\1/p' "$work/out" | head -n 1
}

# The best path of this machine, and quantised.
expect 0 eval -m "$model" -s "$suite" --format json --quiet --threads 1
all=$(right)
[ "$all" -ge 57 ] || fail "answers $all of 60, want 57"
expect 0 quantize -m "$model" -o "$work/fp8" --quiet
expect 0 eval -m "$work/fp8" -s "$suite" --format json --quiet --threads 1
[ "$(right)" -ge $((all - 1)) ] || fail "FP8 answers $(right) of 60, BF16 $all"

# few PATH LIMIT: the others have the same bits (model golden): the first problems of each task on them, as many right.
few() {
    "$rondo" run -m "$model" --cpu-mask "$1" --tokens 1 -n 1 --ids >"$work/out" 2>"$work/err" || return
    expect 0 eval -m "$model" -s "$suite" --limit "$2" --format json --quiet --threads 1
    want=$(right)
    expect 0 eval -m "$model" -s "$suite" --limit "$2" --cpu-mask "$1" --format json --quiet --threads 1
    [ "$(right)" = "$want" ] || fail "$1 answers $(right) of $((3 * $2)), the best path $want"
}
few ref 2
for mask in avx2 avx512 neon; do
    few $mask 4
done
finish
