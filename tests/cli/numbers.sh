#!/bin/sh
# Every option of every command that takes a number: what is no number, what lies outside of its range, and what stands
# for "not given" inside are wrong usage, before anything is opened.
. "$(dirname "$0")/lib.sh"

# COMMAND OPTION KIND LOW HIGH, where KIND is integer, integers (a list), seed or real; "-" is an option of all commands
# that have it. HIGH is the largest value that is taken.
cat >"$work/table" <<'END'
- --decay-offset integer 0 1
- --yarn real 1 1024
- --tokens integers 0 2147483647
- --threads integer 0 1024
- --seed seed 0 18446744073709551615
run --max-tokens integer -1 2147483647
run --ctx integer 1 2147483647
run --chunk integer 1 65536
run --temperature real 0 100
run --top-k integer 0 2147483647
run --top-p real 0.000001 1
run --min-p real 0 1
run --repetition-penalty real 0.01 100
run --repetition-window integer 0 2147483647
logits --chunk integer 1 1048576
perplexity --ctx integer 2 2147483647
perplexity --stride integer 1 2147483646
perplexity --windows integer 0 2147483647
perplexity --chunk integer 1 65536
eval --limit integer 0 2147483647
eval --max-tokens integer 1 2147483647
eval --batch integer 1 4096
eval --chunk integer 1 65536
eval --at-least real 0 100
compare --a-threads integer 0 1024
compare --b-threads integer 0 1024
compare --tolerance real 0 1000000000
compare --layer integer 0 1048576
bench --prefill integers 0 16777216
bench --decode integer 0 1048576
bench --depth integers 0 16777216
bench --batch integers 1 1024
bench --repeat integer 1 100
bench --chunk integer 1 65536
info --ctx integer 1 2147483647
info --batch integer 1 4096
synth --layers integer 0 1024
END

# Options that take no number.
words=' --model --file --system --stop --session --device --cpu-mask --mode --kv-dtype --tokens-file --prompt --draft-tree --output --suite --task --format --a --b --a-mode --b-mode --fill --dtype '

# refuses VALUE: as the value of this option.
refuses() {
    "$rondo" "$command" "$option" "$1" </dev/null >"$work/out" 2>"$work/err"
    got=$?
    if [ $got != 2 ]; then
        fail "rondo $command $option '$1': exit code $got, want 2"
    elif ! grep -q "^rondo: $option: got" "$work/err"; then
        fail "rondo $command $option '$1': another error"
    fi
}

# takes VALUE: the error is another one, that there is no model.
takes() {
    "$rondo" "$command" -m "$work/none" "$option" "$1" ${more:+$more} </dev/null >"$work/out" 2>"$work/err"
    grep -q "^rondo: $option: got" "$work/err" && fail "rondo $command $option '$1': refused"
}

# below NUMBER, above NUMBER: the next ones that are no longer in range.
below() { case $1 in 0.000001) echo 0.0000001 ;; 0.01) echo 0.0099 ;; *) echo $(($1 - 1)) ;; esac; }
above() { case $1 in 18446744073709551615) echo 18446744073709551616 ;; *) echo $(($1 + 1)) ;; esac; }

check() {
    kind=$1 low=$2 high=$3
    for bad in '' x nan NaN inf -inf 0x1 "$low " " $high " "${low}x" "$low,x" 99999999999999999999 \
        -99999999999999999999 "$(below "$low")" "$(above "$high")"; do
        refuses "$bad"
    done
    case $kind in
    real) for bad in 1e400 -1e400 1e 1.5.5 1,5; do refuses "$bad"; done ;;
    integers) for bad in 1.5 1e3 "$low," ",$low" "$low,,$high" "$low,$(above "$high")"; do refuses "$bad"; done ;;
    *) for bad in 1.5 1e3 "$low,$high" +"$high"; do refuses "$bad"; done ;;
    esac
    [ "$option" = --yarn ] || takes "$low" # that is above 1
    takes "$high"
}

for command in run tokenize logits perplexity eval compare bench info quantize synth; do
    more=
    [ "$command" = synth ] && more="none -o $work/none/x"
    [ "$command" = quantize ] && more="-o $work/none/x"
    [ "$command" = eval ] && more="-s $work/none"
    options=$("$rondo" help "$command" | sed -n 's/^  \(-., \|    \)\(--[a-z-]*\) [^ ].*/\2/p')
    for option in $options; do
        case "$option $command" in # of tables that all commands share
        "--decay-offset run" | "--yarn run") ;;
        --decay-offset* | --yarn*) continue ;;
        "--stride perplexity") more='--ctx 2147483647' ;;
        "--windows perplexity") more= ;;
        esac
        row=$(grep -e "^$command $option " -e "^- $option " "$work/table" | head -1)
        case $words in
        *" $option "*) [ -z "$row" ] || fail "$command $option is in both lists" ;;
        *)
            if [ -z "$row" ]; then
                fail "$command $option is in no list of this test"
            else
                # shellcheck disable=SC2086 # the words of a row
                set -- $row
                check "$3" "$4" "$5"
                echo "$row" >>"$work/met"
            fi
            ;;
        esac
    done
done
while read -r row; do
    grep -qxF -e "$row" "$work/met" || fail "no command has: $row"
done <"$work/table"
finish
