#!/bin/sh
# rondo eval: suites, grading, and reports. A random model's own answers make a suite whose accuracy is known.
. "$(dirname "$0")/lib.sh"
model=$work/model
expect 0 synth tiny -o "$model" --seed 3 --quiet
cp "$fixtures/tokenizers/flags/tokenizer.json" "$model/"
cp "$fixtures/tokenizers/demo/tokenizer_config.json" "$model/"

cat >"$work/asked" <<'SUITE'
{"id":"a","task":"one","kind":"x","prompt":"What is 2 + 3?","answer":"5","max_tokens":5}
{"id":"b","task":"one","kind":"y","prompt":"Name a color","answer":"blue","max_tokens":4}

{"task":"two","prompt":"hello","answer":"it"}
{"id":"d","task":"two","prompt":"A longer question, of more words than the others have","answer":"no","max_tokens":30}
SUITE

# What the model says to each, with a key that the reader does not know put in.
expect 0 eval -m "$model" --suite "$work/asked" -n 4 --plain --format json --details --quiet
cp "$work/out" "$work/first"
prints '"problems":4,"right":0,'
prints '"id":"4",'
got() {
    grep "\"id\":\"$1\"" "$2" | sed 's/.*"got":"\(.*\)","prompt_tokens".*/\1/'
}
{
    for id in a b 4; do
        printf '{"id":"%s","task":"one","kind":"k%s","prompt":"%s","answer":"  %s\\n","extra":1,"max_tokens":%s}\n' "$id" "$id" \
            "$(case $id in a) echo 'What is 2 + 3?' ;; b) echo 'Name a color' ;; 4) echo 'hello' ;; esac)" \
            "$(got "$id" "$work/first")" "$(case $id in a) echo 5 ;; b) echo 4 ;; 4) echo 4 ;; esac)"
    done
    echo '{"id":"d","task":"two","prompt":"hello","answer":"_b","max_tokens":4}'
} >"$work/known"
expect 0 eval -m "$model" --suite "$work/known" --plain
prints 'one              all                      3       3    100.0%'
prints 'two                                       1       0      0.0%'
prints 'all                                       4       3     75.0%'

# The same whatever the batch, the threads and the pieces of the prompt.
for options in '--batch 1' '--batch 3 --chunk 5' '--threads 1 --cpu-mask ref'; do
    # shellcheck disable=SC2086
    expect 0 eval -m "$model" --suite "$work/asked" -n 4 --plain --format json --details $options
    sed '1d' "$work/out" >"$work/b"
    sed '1d' "$work/first" | cmp -s - "$work/b" || fail "$options changes answers"
done

# Through the chat template; an answer before </think> does not count where the prompt opens a <think> block.
expect 0 eval -m "$model" --suite "$work/asked" -n 4 --format json --details --quiet
[ "$(grep -c '"ended_by":"max tokens"' "$work/out")" = 4 ] || fail "chat: not every problem is answered"

# Choices.
expect 0 eval -m "$model" --suite "$work/known" --plain --task kb
prints 'all                                       1       1    100.0%'
expect 0 eval -m "$model" --suite "$work/known" --plain --limit 1
prints 'all                                       2       1     50.0%'
expect 0 eval -m "$model" --suite "$work/known" --plain --wrong
says 'd: want _b, got _b'
expect 0 eval -m "$model" --suite "$work/known" --plain --format json -o "$work/report.json"
[ -s "$work/out" ] && fail "-o prints to stdout too"
grep -q '"accuracy":0.75,' "$work/report.json" || fail "the report in the file"
expect 1 eval -m "$model" --suite "$work/known" --plain --at-least 70
says 'two : accuracy 0.0 % (want at least 70)'
expect 0 eval -m "$model" --suite "$work/known" --plain --at-least 70 --task one

# Suites that are not as they must be: one line, the file, the line, the field.
bad() { # TEXT WHAT
    printf '%s\n' '{"task":"a","prompt":"p","answer":"x"}' "$1" >"$work/bad"
    expect 1 eval -m "$model" --suite "$work/bad" --plain --quiet
    one_line
    says "$work/bad: line 2: $2"
}
bad '{"task":"a","prompt":"p"}' 'answer: '
bad '{"task":"a","prompt":7,"answer":"x"}' 'prompt: '
bad '{"task":"a","prompt":"p","answer":" "}' 'answer: empty'
bad '{"task":"a","prompt":"","answer":"x"}' 'prompt: empty'
bad '{"task":"a","prompt":"p","answer":"x","max_tokens":0}' 'max_tokens: '
bad '{"task":"a","prompt":"p","answer":"x"' ''
bad '[1]' ''
: >"$work/empty"
expect 1 eval -m "$model" --suite "$work/empty" --plain
says 'no problems'
expect 1 eval -m "$model" --suite "$work/known" --plain --task nothing
says 'no problem has this task'
expect 1 eval -m "$model" --suite "$work/nowhere" --plain
one_line
expect 2 eval -m "$model" --plain
expect 2 eval -m "$model" --suite "$work/known" --details
expect 1 eval -m "$model" --suite "$work/asked" --plain -n 99999999
[ "$failures" = 0 ]
