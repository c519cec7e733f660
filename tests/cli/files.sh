#!/bin/sh
# Files that cannot be written are found before any work, and a checkpoint that shrinks while it is used is named.
. "$(dirname "$0")/lib.sh"
model=$fixtures/models/base-bf16
demo=$fixtures/demo-model

# refuses PATH REASON ARGUMENTS...: the command says at once that it cannot write PATH.
refuses() {
    path=$1
    reason=$2
    shift 2
    expect 1 "$@" "$path"
    one_line
    says "$path: cannot write"
    says "$reason"
    [ "$(wc -l <"$work/err")" = 1 ] || fail "rondo $*: worked before it looked at $path"
}

: >"$work/plain"
for path in "$work/none/file" "$work/plain/file"; do
    [ "$path" = "$work/none/file" ] && reason='No such file' || reason='is not a directory'
    refuses "$path" "$reason" run -m "$model" --tokens 1,2,3 --ids -n 2 --session
    refuses "$path" "$reason" logits -m "$model" --tokens 1,2,3 -o
    refuses "$path" "$reason" eval -m "$demo" -s "$demo/suite-tiny.jsonl" --limit 1 -o
    refuses "$path" "$reason" bench -m "$model" --prefill 8 --decode 2 --depth 0 --repeat 1 -o
done
for path in "$work/pipe" "$work/link"; do
    [ -p "$work/pipe" ] || mkfifo "$work/pipe"
    [ -L "$work/link" ] || ln -s "$work/pipe" "$work/link"
    refuses "$path" 'not a regular file' run -m "$model" --tokens 1,2,3 --ids -n 2 --session
    refuses "$path" 'not a regular file' bench -m "$model" --prefill 8 --decode 2 --repeat 1 -o
    expect 1 logits -m "$model" --tokens 1,2,3 -o "$path"
    one_line
    says "$path: cannot write: it is not a regular file"
    [ -p "$path" ] || fail "logits has replaced a pipe"
done
refuses "$work" 'a directory' run -m "$model" --tokens 1,2,3 --ids -n 2 --session

# A symbolic link goes on leading to the file that has the result.
mkdir "$work/elsewhere"
echo old >"$work/elsewhere/logits"
ln -s elsewhere/logits "$work/logits.npy"
expect 0 logits -m "$model" --tokens 1,2,3 -o "$work/logits.npy"
[ -L "$work/logits.npy" ] || fail "logits has replaced a symbolic link"
grep -q NUMPY "$work/elsewhere/logits" || fail "the result is not where the link leads to"

# Streams that are closed are not taken for the result's file.
"$rondo" logits -m "$model" --tokens 1,2,3 --mode bf16 -o "$work/open.npy" 2>"$work/err"
"$rondo" logits -m "$model" --tokens 1,2,3 --mode bf16 --verbose -o "$work/closed.npy" <&- >&- 2>&-
cmp -s "$work/open.npy" "$work/closed.npy" || fail "with closed streams logits are others"
"$rondo" bench -m "$model" --prefill 4 --decode 0 --repeat 1 >&- 2>"$work/err"
[ $? = 1 ] || fail "bench without stdout: not exit code 1"
says "standard output: cannot write"

# A prompt may come through a named pipe.
echo '[1,2,3]' >"$work/pipe" &
expect 0 logits -m "$model" --tokens-file "$work/pipe" -o "$work/piped.npy"
cmp -s "$work/piped.npy" "$work/elsewhere/logits" || fail "tokens of a pipe"
wait

# "-" is standard output, and no file of that name. On a terminal numbers are no use.
cd "$work" || exit 1
expect 0 logits -m "$model" --tokens 1,2,3 -o -
cmp -s "$work/out" "$work/elsewhere/logits" || fail "logits -o - is not the file"
grep -q NUMPY "$work/err" && fail "logits -o - writes to stderr"
echo '[[7,-1],[8,0]]' >tree
expect 0 logits -m "$model" --tokens 1,2,3 --draft-tree tree -o tree.npy
expect 0 logits -m "$model" --tokens 1,2,3 --draft-tree tree -o -
cmp -s "$work/out" tree.npy || fail "logits -o - of a tree is not the file"
if command -v script >/dev/null && script -qec true /dev/null >/dev/null 2>&1 </dev/null; then
    script -qec "'$rondo' logits -m '$model' --tokens 1,2,3 -o -" /dev/null </dev/null >"$work/err" 2>&1
    [ $? = 2 ] || fail "logits -o - on a terminal: not exit code 2"
    says "standard output is a terminal"
fi
expect 0 bench -m "$model" --prefill 8 --decode 0 --repeat 1 --csv -o -
grep -q '^prefill,8,' "$work/out" || fail "bench -o - does not print its rows"
expect 0 eval -m "$demo" -s "$demo/suite-tiny.jsonl" --limit 1 --format json -o -
prints '"suite":'
for command in "synth tiny -o" "quantize -m $model -o" "run -m $model --tokens 1 --ids --session"; do
    # shellcheck disable=SC2086 # the words of a command
    expect 2 $command -
    one_line
    says "'./-'"
done
printf '/save -\n' >chat
"$rondo" run -m "$demo" --chat -i --quiet <chat >"$work/out" 2>"$work/err" || fail "/save - ends a conversation"
says "/save: got '-'"
for name in - -.json -.partial; do
    [ -e "./$name" ] && fail "there is a file called $name"
done
if [ -c /dev/full ]; then
    "$rondo" logits -m "$model" --tokens 1,2,3 --quiet -o - >/dev/full 2>"$work/err"
    [ $? = 1 ] || fail "logits -o - on a full device: not exit code 1"
    : >"$work/out"
    one_line
    says "standard output: cannot write: No space left on device"
fi

# Output that is lost is said once.
if [ -c /dev/full ]; then
    for output in '' --ids --logprobs; do
        # shellcheck disable=SC2086
        "$rondo" run -m "$demo" -n 4 $output 'What' >/dev/full 2>"$work/err"
        [ $? = 1 ] || fail "run $output on a full device: not exit code 1"
        : >"$work/out"
        one_line
        says "standard output: cannot write: No space left on device"
    done
fi

# The program has mapped the weights when it waits for the prompt; then they shrink to less than their header.
if [ -d /proc/self ]; then
    cp -r "$demo" "$work/shrinks"
    mkfifo "$work/prompt"
    "$rondo" run -m "$work/shrinks" -n 4 <"$work/prompt" >"$work/out" 2>"$work/err" &
    pid=$!
    exec 3>"$work/prompt"
    tries=0
    until grep -q shrinks/model.safetensors "/proc/$pid/maps" 2>/dev/null || [ $tries = 100 ]; do
        tries=$((tries + 1))
        sleep 0.1
    done
    : >"$work/shrinks/model.safetensors"
    echo 'What is 1 + 1?' >&3
    exec 3>&-
    wait $pid
    [ $? = 1 ] || fail "a checkpoint that shrinks: not exit code 1"
    one_line
    says "rondo: $work/shrinks/model.safetensors: cannot be read any more"
fi
finish
