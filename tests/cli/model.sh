#!/bin/sh
# Commands that run a model: against goldens, and against each other.
. "$(dirname "$0")/lib.sh"
model=$fixtures/models/base-bf16

# Array KEY of a golden.json, as 1,2,3.
golden() {
    tr -d ' \n' <"$1/golden.json" | sed "s/.*\"$2\":\[\([0-9,]*\)\].*/\1/"
}

# ---- run: greedy ids are the golden ones ----------------------------------------------------------
for name in base-bf16 softmax-only fp8-block fp8-row yarn sharded; do
    dir=$fixtures/models/$name
    want=$(golden "$dir" generated)
    n=$(echo "$want" | tr ',' '\n' | wc -l)
    expect 0 run -m "$dir" --tokens "$(golden "$dir" tokens)" --ids -n "$n" --ignore-eos
    [ "$(cat "$work/out")" = "[$want]" ] || fail "$name: ids $(cat "$work/out"), want [$want]"
    says "tok/s"
done
tokens=$(golden "$model" tokens)
expect 0 run -m "$model" --tokens "$tokens" --ids -n 4 --ignore-eos --quiet --chunk 7 --cpu-mask ref
[ -s "$work/err" ] && fail "--quiet is not quiet"
[ "$(cat "$work/out")" = "[$(golden "$model" generated | cut -d, -f1-4)]" ] || fail "--chunk 7 differs"

# Weights locked in memory: nothing else changes. A limit that is too low is named, where one holds for this user.
expect 0 run -m "$model" --tokens "$tokens" --ids -n 4 --ignore-eos --mlock
[ "$(cat "$work/out")" = "[$(golden "$model" generated | cut -d, -f1-4)]" ] || fail "--mlock differs"
if [ "$(id -u)" != 0 ]; then
    # shellcheck disable=SC3045
    (ulimit -l 16 && "$rondo" run -m "$model" --tokens 1 --ids --mlock >"$work/out" 2>"$work/err")
    [ $? = 1 ] || fail "locked above the limit"
    says "ulimit -l"
fi
if "$rondo" info --devices | grep -q 'simt:0'; then
    expect 2 run -m "$model" --tokens 1 --ids --mlock --device simt:0
    says "--mlock: "
fi

# Draws: a seed repeats itself, another one differs.
for seed in 1 1 2; do
    expect 0 run -m "$model" --tokens 1,2,3 --ids -n 24 --ignore-eos --temperature 2 --seed $seed
    mv "$work/out" "$work/draw$seed${first:-a}"
    first=b
done
cmp -s "$work/draw1a" "$work/draw1b" || fail "the same seed draws differently"
cmp -s "$work/draw1a" "$work/draw2b" && fail "two seeds draw the same"

# ---- sessions -------------------------------------------------------------------------------------
expect 0 run -m "$model" --tokens 1,2,3,4,5 --ids -n 8 --ignore-eos
whole=$(cat "$work/out")
expect 0 run -m "$model" --tokens 1,2,3 --ids -n 0 --session "$work/s"
[ -s "$work/s" ] || fail "no session file"
expect 0 run -m "$model" --tokens 4,5 --ids -n 3 --ignore-eos --session "$work/s"
part=$(cat "$work/out")
says "3 reused"
next=$(echo "$whole" | tr -d '[]' | cut -d, -f4)
expect 0 run -m "$model" --tokens "$next" --ids -n 4 --ignore-eos --session "$work/s"
[ "$(echo "$part$(cat "$work/out")" | sed 's/\]\[/,'"$next"',/')" = "$whole" ] ||
    fail "sessions: $part then $(cat "$work/out"), want $whole"
expect 1 run -m "$fixtures/models/f32" --tokens 1 --ids -n 1 --session "$work/s"
says "rondo: $work/s: "

# ---- info: a model of softmax layers alone needs the pages it is compared with -----------------------
pages() { sed -n "s/^[[:space:]]*\"$1\":[[:space:]]*\([0-9]*\).*/\1/p" "$work/out"; }
expect 0 info -m "$fixtures/models/softmax-only" --ctx 200 --batch 3 --json
[ -n "$(pages kv_pages)" ] && [ "$(pages kv_pages)" = "$(pages kv_pages_all_softmax)" ] ||
    fail "info: $(pages kv_pages) bytes of KV pages, want $(pages kv_pages_all_softmax)"
expect 0 info -m "$model" --ctx 200 --batch 3 --mode bf16 --json
[ "$(pages kv_pages)" -lt "$(pages kv_pages_all_softmax)" ] || fail "info: the hybrid saves nothing"

# ---- keys and values as codes: less memory, near the numbers, sessions of their own ------------------
wide=$fixtures/models/head-dim-128
expect 0 info -m "$wide" --ctx 256 --mode bf16 --json
auto=$(pages kv_pages)
expect 0 info -m "$wide" --ctx 256 --mode bf16 --kv-dtype fp8 --json
[ $((100 * $(pages kv_pages) / auto)) = 51 ] || fail "info: $(pages kv_pages) bytes of codes, $auto of bf16"
expect 0 run -m "$model" --tokens 1,2,3 --ids -n 3 --ignore-eos --kv-dtype fp8 --session "$work/k"
expect 1 run -m "$model" --tokens 4 --ids -n 1 --session "$work/k"
says "made with another dtype (got fp8, want auto)"
expect 0 run -m "$model" --tokens 4 --ids -n 1 --kv-dtype fp8 --session "$work/k"
expect 0 compare -m "$wide" --tokens "$tokens" --a cpu,bf16 --b cpu,bf16,fp8
prints "mode bf16 kv-fp8"
expect 1 compare -m "$wide" --tokens "$tokens" --a cpu,bf16 --b cpu,bf16,fp8 --tolerance 1e-9 --report
prints "mode bf16 kv-fp8"
expect 2 compare -m "$wide" --tokens 1 --b cpu,bf16,fp4
expect 2 run -m "$model" --tokens 1 --ids --kv-dtype fp4

# ---- logits ---------------------------------------------------------------------------------------
size() { wc -c <"$1" | tr -d ' '; }
expect 0 logits -m "$model" --tokens "$tokens" -o "$work/all.npy" --quiet
[ -s "$work/out" ] && fail "logits prints to stdout"
n=$(echo "$tokens" | tr ',' '\n' | wc -l | tr -d ' ')
head -c 128 "$work/all.npy" | tr -d '\0' | grep -q "'descr': '<f4'.*'shape': ($n, 96)" ||
    fail "npy header: $(head -c 128 "$work/all.npy" | tr -d '\0')"
[ "$(size "$work/all.npy")" = $((128 + n * 96 * 4)) ] || fail "npy size $(size "$work/all.npy")"
for chunk in 1 7 64; do
    expect 0 logits -m "$model" --tokens "$tokens" -o "$work/b.npy" --chunk $chunk --threads 1
    cmp "$work/all.npy" "$work/b.npy" || fail "--chunk $chunk changes logits"
done
echo "[$tokens]" >"$work/ids.json"
echo "$tokens" | tr ',' '\n' >"$work/ids.txt"
for file in ids.json ids.txt; do
    expect 0 logits -m "$model" --tokens-file "$work/$file" -o "$work/b.npy" --cpu-mask ref
    cmp "$work/all.npy" "$work/b.npy" || fail "--tokens-file $file changes logits"
done
for bad in '[1,2' '[1,,2]' '[1 2]' '1;2' '[1,2]x' '[1,2,]' '' '[]' '99999999999' '-1'; do
    echo "$bad" >"$work/bad"
    expect 1 logits -m "$model" --tokens-file "$work/bad" -o "$work/bad.npy" --quiet
    one_line
done
[ -e "$work/bad.npy" ] && fail "a failure left a file"
expect 1 logits -m "$model" --tokens 1 -o "$work/nowhere/x.npy" --quiet

# The rows of a draft tree are the rows of its paths.
echo '[[7,-1],[8,0],[9,0],[10,1]]' >"$work/tree"
row() { tail -c +$((129 + $2 * 96 * 4)) "$1" | head -c $((96 * 4)); }
expect 0 logits -m "$model" --tokens "$tokens" --draft-tree "$work/tree" -o "$work/tree.npy"
[ "$(size "$work/tree.npy")" = $((128 + 4 * 96 * 4)) ] || fail "size of the tree's logits"
expect 0 logits -m "$model" --tokens "$tokens,7,8,10" -o "$work/a.npy"
expect 0 logits -m "$model" --tokens "$tokens,7,9" -o "$work/b.npy"
for pair in "0 a $n" "1 a $((n + 1))" "3 a $((n + 2))" "2 b $((n + 1))"; do
    # shellcheck disable=SC2086 # three words
    set -- "$rondo" "$fixtures" $pair
    row "$work/tree.npy" "$3" >"$work/x"
    row "$work/$4.npy" "$5" >"$work/y"
    cmp -s "$work/x" "$work/y" || fail "draft node $3 is not its path"
done
for bad in '[]' '[[1,0]]' '[[1,-2]]' '[[96,-1]]' '[[1]]' '{}' '[[1,-1],[2,1]]' '[[1.5,-1]]' '[['; do
    echo "$bad" >"$work/bad"
    expect 1 logits -m "$model" --tokens 1,2 --draft-tree "$work/bad" -o "$work/bad.npy" --quiet
    one_line
done

# ---- perplexity: windows do not change what is scored ---------------------------------------------
expect 0 perplexity -m "$model" --tokens-file "$work/ids.json" --ctx 512 --json --quiet
prints "\"tokens\":$((n - 1)),"
expect 0 perplexity -m "$model" --tokens-file "$work/ids.json" --ctx 24 --stride 5 --quiet
prints "tokens $((n - 1))"

# ---- compare --------------------------------------------------------------------------------------
expect 0 compare -m "$model" --tokens "$tokens" --a cpu:ref --b cpu --tolerance 0 --b-threads 1
prints "within tolerance"
expect 1 compare -m "$model" --tokens "$tokens" --a cpu,f32 --b cpu,bf16 --tolerance 1e-12 --quiet
prints "OUT"
prints "steps"
[ -s "$work/err" ] && fail "compare out of tolerance is no error line"
expect 1 compare -m "$model" --tokens "$tokens" --a cpu,f32 --b cpu,bf16 --tolerance 1e-12 --report
for line in 'system ' 'B        cpu (' 'hash ' 'forced   layer 0: NMSE' 'steps of layer 0 of B'; do
    prints "$line"
done
grep -q '^ *[0-9]* x  bf16\[' "$work/out" || fail "the report of compare lists no products"
expect 0 compare -m "$model" --tokens "$tokens" --a cpu --b cpu --report --quiet
prints 'forced   nothing'
expect 2 compare -m "$model" --tokens 1 --report --json
expect 0 compare -m "$model" --tokens "$tokens" --b cpu,bf16 --tolerance 1 --json
prints '"within":true}'

# ---- bench ----------------------------------------------------------------------------------------
expect 0 bench -m "$model" --prefill 16 --decode 2 --depth 64 --batch 1,2 --repeat 1 --json \
    -o "$work/bench.json" --quiet
[ -s "$work/out" ] && fail "bench -o prints to stdout"
for key in test tokens depth batch tok_s gb_s bandwidth_gb_s bandwidth_share; do
    [ "$(grep -c "\"$key\":[\"0-9]" "$work/bench.json")" = 4 ] || fail "bench: key $key is not in all rows"
done
expect 0 bench -m "$model" --prefill 4 --decode 2 --depth 0,100 --batch 1,2 --repeat 2 --fill repeat --csv --quiet
[ "$(grep -c '^decode,' "$work/out")" = 4 ] || fail "bench --fill repeat: not four rows of decoding"
grep -q '^fill,' "$work/out" && fail "bench --fill repeat times a prompt"
expect 1 bench -m "$model" --depth 600 --quiet
one_line
says "got"

# ---- an interruption ends a generation, and what was generated is printed --------------------------
"$rondo" run -m "$model" --tokens 1,2,3 --ids -n 500 --ctx 512 --ignore-eos --session "$work/i" \
    --threads 1 --cpu-mask ref >"$work/out" 2>"$work/err" &
pid=$!
tries=0
until grep -q opened "$work/err" || [ $tries = 2000 ]; do tries=$((tries + 1)); done
kill -INT $pid
wait $pid
code=$?
[ $code = 0 ] || fail "SIGINT: exit code $code"
says "ended by: interrupted"
grep -q '^\[[0-9,]*\]$' "$work/out" || fail "SIGINT: no ids"
[ -s "$work/i" ] || fail "SIGINT: no session"
finish
