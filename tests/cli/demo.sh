#!/bin/sh
# The demonstration model answers its 60 problems as well on every CPU path, and in FP8 within one problem.
#
# One thread: the model is so small that a second one mostly waits.
. "$(dirname "$0")/lib.sh"
model=$fixtures/demo-model
suite=$model/suite-small.jsonl

# right: how many problems of the report in $work/out are right.
right() {
    sed -n 's/.*"problems":[0-9]*,"right":\([0-9]*\),"accuracy".*"prompt_tokens".*/\1/p' "$work/out" | head -n 1
}

# The reference path is slow: the first two problems of each task.
expect 0 eval -m "$model" -s "$suite" --limit 2 --format json --quiet --threads 1
few=$(right)
expect 0 eval -m "$model" -s "$suite" --limit 2 --cpu-mask ref --format json --quiet --threads 1
[ "$(right)" = "$few" ] || fail "ref answers $(right) of 6, the fast path $few"

first=
for mask in avx2 avx512 avx512bf16 neon; do
    "$rondo" run -m "$model" --cpu-mask $mask --tokens 1 -n 1 --ids >"$work/out" 2>"$work/err" || continue
    expect 0 eval -m "$model" -s "$suite" --cpu-mask $mask --format json --quiet --threads 1
    [ "$(right)" -ge "${first:-57}" ] || fail "$mask answers $(right) of 60, want ${first:-57}"
    first=${first:-$(right)}
done

expect 0 quantize -m "$model" -o "$work/fp8" --quiet
expect 0 eval -m "$work/fp8" -s "$suite" --format json --quiet --threads 1
[ "$(right)" -ge $((${first:-57} - 1)) ] || fail "FP8 answers $(right) of 60, BF16 ${first:-57}"
finish
