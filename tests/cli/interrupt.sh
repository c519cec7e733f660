#!/bin/sh
# SIGINT in the middle of every command that computes or writes: it ends soon, says so in one line with exit code 1,
# leaves nothing half-written behind, and prints what is finished. (run: see model.sh.)
. "$(dirname "$0")/lib.sh"
demo=$fixtures/demo-model
cd "$work" || exit 1
mkdir dir
# 6000 ids: some seconds of work with one thread of plain C.
ids=$(awk 'BEGIN { for (i = 0; i < 6000; i++) printf "%s%d", i ? "," : "", i * 7 % 600 }')
echo "[$ids]" >ids
i=0
while [ $i -lt 40 ]; do
    echo '{"task":"t","prompt":"What is 17 + 25?","answer":"42","max_tokens":2000}'
    i=$((i + 1))
done >suite

# interrupt WAIT MARKER COMMAND...: SIGINT WAIT seconds after stderr has the marker.
interrupt() {
    seconds=$1
    marker=$2
    shift 2
    rm -f out err # the marker is not that of the command before
    "$rondo" "$@" </dev/null >out 2>err &
    pid=$!
    tries=0
    until grep -q "$marker" err 2>/dev/null || [ $tries = 1000 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
    sleep "$seconds"
    kill -INT $pid 2>/dev/null || fail "rondo $*: over before it could be interrupted"
    tries=0
    while kill -0 $pid 2>/dev/null && [ $tries -lt 500 ]; do
        sleep 0.02
        tries=$((tries + 1))
    done
    [ $tries -lt 500 ] || fail "rondo $1: goes on for 10 s after SIGINT"
    kill -KILL $pid 2>/dev/null
    wait $pid
    got=$?
    [ $got = 1 ] || fail "rondo $1: exit code $got after SIGINT, want 1"
    [ "$(grep -c '^rondo: .*interrupted' err)" = 1 ] || fail "rondo $1: does not say that it was interrupted"
}

slow='--device cpu:ref --threads 1'
# shellcheck disable=SC2086 # the words of options
{
    interrupt 0.2 memory logits -m "$demo" --tokens-file ids $slow --chunk 16 -o dir/x.npy
    interrupt 0.2 memory perplexity -m "$demo" --tokens-file ids $slow --ctx 64 --stride 1
    [ -s out ] && fail "perplexity prints something"
    interrupt 0.2 memory compare -m "$demo" --tokens-file ids --b cpu:ref --b-threads 1 --json
    grep -q '"within":null}' out || fail "compare --json does not end its object"
    interrupt 0.2 memory eval -m "$demo" -s suite $slow --format json --batch 1 -o dir/report
    grep -q '"interrupted":true' dir/report || fail "eval writes no report of what is answered"
    rm -f dir/report

    # A test of a moment, then longer ones. When its row is there depends on the machine.
    tests='--prefill 4 --decode 20000 --batch 1,8 --repeat 1 --threads 1'
    for wait in 1 3 9; do
        interrupt $wait memory bench -m "$demo" $tests --csv
        grep -q '^prefill,4,' out && break
    done
    grep -q '^prefill,4,' out || fail "bench does not print the finished row"
    grep -q '^decode,20000,0,8,' out && fail "bench prints a row that is not finished"
    for wait in 1 3 9; do
        interrupt $wait memory bench -m "$demo" $tests --format json -o dir/rows
        grep -q '"test":"prefill"' dir/rows 2>/dev/null && break
    done
    grep -q '"test":"prefill"' dir/rows || fail "bench -o does not write the finished row"
    rm -f dir/rows
    interrupt 0 memory bench -m "$demo" $tests --csv
    [ -s out ] && fail "bench prints a table without rows"

    interrupt 0 writing synth small --threads 1 -o dir/small
}
[ -z "$(ls -A dir)" ] || fail "left behind: $(ls -A dir)"

# Waiting for a text on standard input.
mkfifo pipe
"$rondo" perplexity -m "$demo" -f - <pipe >out 2>err &
pid=$!
exec 3>pipe
sleep 0.5
kill -INT $pid
wait $pid
got=$?
exec 3>&-
[ $got = 1 ] || fail "reading standard input: exit code $got after SIGINT, want 1"
[ "$(cat err)" = 'rondo: interrupted' ] || fail "reading standard input: $(cat err)"
finish
