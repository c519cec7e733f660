#!/bin/sh
# Commands that read and write text, and conversations, on a random model with a tokenizer.
. "$(dirname "$0")/lib.sh"
model=$work/model
"$rondo" synth tiny -o "$model" --seed 3 --quiet || fail "synth"
cp "$fixtures/tokenizers/flags/tokenizer.json" "$model/"
cp "$fixtures/tokenizers/demo/tokenizer_config.json" "$model/"

# ---- tokenize: there and back, byte for byte ------------------------------------------------------
printf 'Hello, w\303\266rld!\n\n  \342\202\254 12345\t\360\237\216\265 "quoted" \001\377\376 end ' >"$work/text"
expect 0 tokenize -m "$model" --file "$work/text"
cp "$work/out" "$work/ids"
grep -q '^\[[0-9,]*\]$' "$work/ids" || fail "tokenize: not a JSON array"
[ -s "$work/err" ] && fail "tokenize is not quiet"
expect 0 tokenize -m "$model" --decode --file "$work/ids"
cmp "$work/text" "$work/out" || fail "tokenize: not the same bytes after the way back"
"$rondo" tokenize -m "$model" <"$work/text" | cmp - "$work/ids" || fail "tokenize of stdin"
expect 0 tokenize -m "$model" 'Hello, world'
"$rondo" tokenize -m "$model" --decode "$(cat "$work/out")" >"$work/back"
[ "$(cat "$work/back")" = 'Hello, world' ] || fail "tokenize of an argument"
expect 0 tokenize -m "$model" --pieces 'a "b"'
prints '\"'
expect 0 tokenize -m "$model" '<|x|>'
plain=$(cat "$work/out")
expect 0 tokenize -m "$model" --special '<|x|>'
[ "$(cat "$work/out")" = '[500]' ] || fail "--special: $(cat "$work/out")"
[ "$plain" = '[500]' ] && fail "special tokens are recognised without --special"
expect 1 tokenize -m "$model" --decode '[1,100000]'
one_line

# ---- run ------------------------------------------------------------------------------------------
prompt='Once upon a time'
printf '%s' "$prompt" >"$work/prompt"
expect 0 run -m "$model" "$prompt" -n 60
cp "$work/out" "$work/full"
expect 0 run -m "$model" --file "$work/prompt" -n 60
cmp "$work/out" "$work/full" || fail "--file differs from the argument"
"$rondo" run -m "$model" -n 60 <"$work/prompt" 2>"$work/err" | cmp - "$work/full" || fail "stdin differs"
"$rondo" run -m "$model" -n 60 - <"$work/prompt" 2>"$work/err" | cmp - "$work/full" || fail "'-' differs"
expect 1 run -m "$model" -n 1 ''
says "prompt"

# A stop text ends the output where it would begin.
full=$(cat "$work/full")
stop=$(printf '%s' "$full" | LC_ALL=C grep -ao '[a-zA-Z]\{8,\}' | head -n 1 | cut -c 1-8)
[ -n "$stop" ] || fail "no eight letters, several tokens, to stop at in: $full"
expect 0 run -m "$model" "$prompt" -n 60 --stop "${stop}never" --stop "$stop"
[ "$(cat "$work/out")" = "${full%%"$stop"*}" ] || fail "--stop $stop: $(cat "$work/out")"
says "stop text"

expect 0 run -m "$model" "$prompt" -n 5 --logprobs
[ "$(grep -c '^{"id":[0-9]*,"logprob":-[0-9.]*,"piece":".*"}$' "$work/out")" = 5 ] || fail "--logprobs"
expect 1 run -m "$model" --ids
# Perplexity of what was generated, from the log-probabilities of the generation.
expect 0 run -m "$model" --tokens 65 -n 6 --ignore-eos --logprobs
ids=$(sed 's/{"id":\([0-9]*\),.*/,\1/' "$work/out" | tr -d '\n')
want=$(sed 's/.*"logprob":-\([0-9.]*\),.*/\1/' "$work/out" | awk '{ s += $1 } END { printf "%.4f", s / NR }')
for windows in "--ctx 512" "--ctx 2 --stride 1"; do
    # shellcheck disable=SC2086 # two or four words
    expect 0 perplexity -m "$model" --tokens "65$ids" $windows --quiet
    got=$(awk '$1 == "nll" { printf "%.4f", $2 }' "$work/out")
    [ "$windows" = "--ctx 512" ] && [ "$got" != "$want" ] && fail "perplexity: nll $got, want $want"
done
[ "$got" = "$want" ] && fail "perplexity: short windows see the whole context"
expect 0 perplexity -m "$model" --file "$work/text" --ctx 16 --json --quiet
prints '"ppl":'

# ---- quantize -------------------------------------------------------------------------------------
for format in block row; do
    expect 0 quantize -m "$model" -o "$work/$format" --format $format --lm-head --quiet
    expect 1 quantize -m "$model" -o "$work/$format" --format $format --lm-head --quiet
    one_line
    expect 0 info -m "$work/$format" --check
    prints "f8_e4m3"
    expect 0 run -m "$work/$format" "$prompt" -n 4 --mode fp8
done
expect 1 quantize -m "$work/nowhere" -o "$work/q" --quiet
one_line
expect 1 quantize -m "$work/row" -o "$work/q" --quiet
one_line
expect 2 quantize -m "$model" --format rows -o "$work/q"
says "did you mean row?"
# Where there is no room for it: nothing is left of what the refused run made, and what was there stays.
mkdir "$work/disk"
unshare -rm sh -c '
    mount -t tmpfs -o size=1m none "$1/disk" || exit 77
    "$2" quantize -m "$3" -o "$1/disk/new" --quiet >"$1/out" 2>"$1/err"
    [ $? = 1 ] || exit 2
    [ -e "$1/disk/new" ] && exit 3
    mkdir "$1/disk/mine"
    "$2" quantize -m "$3" -o "$1/disk/mine" --quiet 2>>"$1/err"
    [ -d "$1/disk/mine" ] && [ -z "$(ls -A "$1/disk/mine")" ] || exit 4
' sh "$work" "$rondo" "$model" 2>"$work/mount"
case $? in
0) [ "$(grep -c 'the disk has too little room' "$work/err")" = 2 ] || fail "quantize: no room: not said" ;;
2) fail "quantize: no room: not exit code 1" ;;
3) fail "quantize: no room: its directory is left" ;;
4) fail "quantize: no room: the directory that was there is not as it was" ;;
1 | 77 | 127) echo "no tmpfs allowed here: quantize without room was not tested" ;;
*) fail "quantize: no room: the test did not run" ;;
esac

# ---- chat -----------------------------------------------------------------------------------------
expect 0 run -m "$model" --chat 'Hello' -n 12 --session "$work/s"
grep -q '"user"' "$work/s.json" || fail "chat: no messages in the session's file"
expect 0 run -m "$model" --chat 'And again' -n 12 --session "$work/s"
[ "$(grep -c '"user"' "$work/s.json")" = 2 ] || fail "chat: the second message is not kept"
grep -q ' (0 reused)' "$work/err" && fail "chat: nothing of the session was used"
says "reused"
cp "$work/s" "$work/kept"
cp "$work/s.json" "$work/kept.json"
printf 'caf\351' >"$work/latin1"
printf 'a\000b' >"$work/zero"
expect 1 run -m "$model" --chat -n 4 --session "$work/s" --file "$work/latin1"
one_line
says "not valid UTF-8 at byte 3 (got 0xe9"
expect 1 run -m "$model" --chat -n 4 --session "$work/s" --file "$work/zero"
one_line
says "a byte 0 (got one at byte 1 of 3)"
expect 1 run -m "$model" --chat -n 4 --system "$(cat "$work/latin1")" hello
says "--system: not valid UTF-8"
cmp -s "$work/s.json" "$work/kept.json" || fail "chat: a message that is no text changed the session"
"$rondo" run -m "$model" --chat -i -n 4 <"$work/latin1" >"$work/out" 2>"$work/err" || fail "chat -i: code $?"
says "prompt: not valid UTF-8"
expect 0 run -m "$model" --chat 'x' -n 4 --session "$work/kept" --system 'Be brief.'
says "kept.json: goes on with its own system message"
expect 0 run -m "$model" --chat 'x' -n 4 --session "$work/new" --system 'Be brief.'
expect 0 run -m "$model" --chat 'y' -n 4 --session "$work/new" --system 'Be brief.'
grep -q warning "$work/err" && fail "chat: warned of a system message that is the same"
expect 2 run -m "$model" --chat --ids hello

# A conversation over stdin: commands, and the same answer after /reset and after /load.
printf '%s\n' 'Hello' '/save '"$work/c" '/reset' 'Hello' '/load '"$work/c" 'And again' '/nonsense' '/help' '/exit' \
    'never read' >"$work/script"
"$rondo" run -m "$model" --chat --interactive -n 12 <"$work/script" >"$work/out" 2>"$work/err" ||
    fail "interactive: exit code $?"
says "unknown command /nonsense"
says "/save FILE"
[ "$(grep -c 'ended by' "$work/err")" = 3 ] || fail "interactive: want three answers"
printf '%s\n' 'Hello' 'And again' | "$rondo" run -m "$model" --chat -i -n 12 >"$work/two" 2>"$work/err"
{
    printf '%s\n' 'Hello' | "$rondo" run -m "$model" --chat -i -n 12 2>"$work/err"
    cat "$work/two"
} | cmp - "$work/out" || fail "interactive: /reset or /load changed the answers"

# A prompt that was read in pieces is used again when the next turn departs after it.
printf '%s\n' "$(printf 'word %s ' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20)" 'And again' |
    "$rondo" run -m "$model" --chat -i -n 70 --chunk 16 --ignore-eos >/dev/null 2>"$work/err"
grep 'prompt:' "$work/err" | sed -n '2s/.*(\([0-9]*\) reused.*/\1/p' >"$work/reused"
[ "$(cat "$work/reused")" -ge 64 ] || fail "chat: $(cat "$work/reused") tokens of a prompt read in pieces reused"

# A session file of another mode ends the conversation and is left as it is.
cp "$work/s" "$work/foreign"
printf '%s\n' 'Hello' 'And again' |
    "$rondo" run -m "$model" --chat -i -n 4 --mode bf16 --session "$work/foreign" >"$work/out" 2>"$work/err"
[ $? = 1 ] || fail "chat: a foreign session file does not end the conversation"
says "mode: made with another one"
cmp -s "$work/s" "$work/foreign" || fail "chat: a foreign session file was written over"
finish
