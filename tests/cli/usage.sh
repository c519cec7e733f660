#!/bin/sh
# Options, help and exit codes of the program.
. "$(dirname "$0")/lib.sh"
model=$fixtures/models/base-bf16

expect 0 --version
prints "rondo 0."
expect 0 help
prints "perplexity"
prints "exit-codes"
expect 2
for command in run info logits tokenize perplexity bench compare quantize synth; do
    expect 0 help $command
    prints "usage: rondo $command"
    expect 0 $command --help
    prints "usage: rondo $command"
done
for topic in benchmarks checkpoints devices drafts exit-codes modes sampling sessions; do
    expect 0 help $topic
    prints "$topic:"
done
expect 0 help run
prints "--top-p P"
prints "(default: 512)"

expect 2 help sampling modes
one_line
for option in -m --device --cpu-mask --session --file; do
    expect 2 run -m "$model" $option '' --tokens 1 --ids
    one_line
    says ": got '', want "
done
for command in "logits -m $model --tokens 1,2" "bench -m $model" "synth tiny" "quantize -m $model"; do
    # shellcheck disable=SC2086 # the words of a command
    expect 2 $command -o ''
    one_line
done
for option in --plan --tensors --check; do
    expect 2 info $option
    one_line
    says "no model"
done
expect 2 help samplin
says "did you mean sampling?"
expect 2 rnu
one_line
says "did you mean run?"
expect 2 --verion
one_line
says "did you mean --version?"
expect 2 run --temprature 0.5
one_line
says "unknown option --temprature; did you mean --temperature?"
expect 2 run --xyzzyxyzzy
says "rondo help run"
expect 2 run --top-p 1.5
one_line
says "rondo: --top-p: got 1.5, want 1e-06..1"
expect 2 run --top-p=-0.1
says "want 1e-06..1"
expect 2 run --top-p half
says "got 'half', want a number in 1e-06..1"
for bad in 1.5 '' x 0x10 ' 1' 1e3 99999999999999999999; do
    expect 2 run --max-tokens "$bad"
    one_line
    says "--max-tokens: got '$bad'"
done
expect 2 run --seed -1
says "--seed: got '-1'"
expect 2 run --mode bf61
says "did you mean bf16?"
expect 2 run --model
says "--model: needs a value"
expect 2 run --system --chat
says "--system: needs a value"
expect 2 run --ids=1
says "--ids: takes no value"
expect 2 run -m "$model" one two
says "one argument too many"
expect 2 logits -m "$model" extra
says "takes no argument"
expect 2 run -m "$model" --tokens 1,2,x
says "--tokens: got 'x'"
expect 2 run -m "$model" --tokens 1,,2
expect 2 run -m "$model" --tokens 1 prompt
expect 2 run -m "$model" --tokens 1 --ids --logprobs
expect 2 run -m "$model" --system x prompt
says "needs --chat"
expect 2 logits -m "$model" --tokens 1
says "-o FILE.npy"
expect 2 logits -m "$model" -o "$work/x.npy"
says "no input"
expect 0 perplexity -m "$model" --tokens 1,2,3    # a window is no longer than the model's context
expect 2 perplexity -m "$model" --tokens 1,2,3 --stride 512
one_line
says "--stride: got 512, want less than --ctx (512)"
expect 1 bench -m "$model" --prefill 8 --depth 600
one_line
says "want at most 512); that is the model's limit, --yarn extends it"
expect 2 perplexity -m "$model" --tokens 1,2 --ctx 1
says "--ctx: got 1, want 2.."
expect 2 perplexity -m "$model" --tokens 1,2 --ctx 8 --stride 8
says "--stride"
expect 2 compare -m "$model" --tokens 1 --b cpu,f23
expect 2 run --tokens 1,2
says "no model"

expect 1 run -m "$work/nowhere" --tokens 1 --ids
one_line
says "nowhere"
expect 1 run -m "$model" --tokens 96 --ids --quiet
one_line
says "got 96, want 0..95"
expect 77 run -m "$model" --tokens 1 --ids --device cuda
one_line
expect 77 compare -m "$model" --tokens 1 --b cuda --quiet
one_line
expect 0 info
prints "cpu"
if grep -q 'simt:0' "$work/out"; then # listed without being opened
    grep -q 'simt:0 .*; 4.00 GiB of memory, free: not known' "$work/out" || fail "info opens devices"
    expect 0 info --devices --json
    [ "$(grep -c '"memory_available":[[:space:]]*null' "$work/out")" -ge 3 ] || fail "info --json opens devices"
fi
expect 0 info -m "$model" --plan
prints "BailingMoeLinearV2ForCausalLM"
prints "linear_attention"
prints "lm_head"
expect 0 info -m "$model" --json --tensors
prints '"vocab_size":'
expect 0 info -m "$fixtures/models/fp8-block" --check
prints "no weight is NaN"
cp -r "$model" "$work/damaged"
chmod -R u+w "$work/damaged"

# More layers than there are tensors: the line names what has room, --verbose all.
sed -i 's/"num_hidden_layers": [0-9]*/"num_hidden_layers": 9/' "$work/damaged/config.json"
expect 1 info -m "$work/damaged"
one_line
missing=$(sed -n 's/.*: \([0-9]*\) tensors are missing: .*/\1/p' "$work/err")
[ "${missing:-0}" -gt 100 ] || fail "$missing tensors are missing"
says "--verbose lists them"
expect 1 info -m "$work/damaged" --verbose
[ "$(grep -c ' is missing$' "$work/err")" = "$missing" ] || fail "not all missing tensors are named"
cp "$model/config.json" "$work/damaged/config.json"

# Another dtype is named as the file spells it.
sed 's/"BF16"/"FP16"/' "$model/model.safetensors" >"$work/damaged/model.safetensors"
expect 1 info -m "$work/damaged"
one_line
says "got FP16, want"
cp "$model/model.safetensors" "$work/damaged/model.safetensors"

size=$(wc -c <"$work/damaged/model.safetensors")
printf '\300\177' | dd of="$work/damaged/model.safetensors" bs=1 seek=$((size - 2)) conv=notrunc 2>/dev/null
expect 1 info -m "$work/damaged" --check
says "got nan, want a finite bf16"
expect 1 logits -m "$work/damaged" --tokens 1,2 -o "$work/x.npy"
one_line
says "got nan, want a finite bf16"
expect 1 run -m "$work/damaged" --tokens 1,2 -n 1 --ids
says "got nan, want a finite bf16"
expect 1 logits -m "$work/damaged" --unchecked --tokens 1,2 -o "$work/x.npy"
one_line
says "row 0 of the logits has"
[ -e "$work/x.npy" ] && fail "logits that are no numbers are written"
expect 0 info -m "$fixtures/models/fp8-block"
[ -s "$work/err" ] && fail "info is not quiet"

if [ -c /dev/full ]; then
    for command in "help" "--version" "info -m $model" "run -m $model --tokens 1 --ids -n 2"; do
        # shellcheck disable=SC2086 # the words of a command
        "$rondo" $command >/dev/full 2>"$work/err" </dev/null
        [ $? = 1 ] || fail "$command to a full device does not end with 1"
        says "standard output"
    done
fi
finish
