#!/bin/bash
# From a fresh Debian or Ubuntu machine to generated tokens: installs packages, builds in build/, makes a
# small random checkpoint, shows rondo's main commands on it, and ends with a trained model that thinks. About
# four minutes on two cores.
#
#   ci/demo.sh
#   KEEP=1 ci/demo.sh        leaves the checkpoint, and says where it is
#   PRESET=tiny ci/demo.sh   another model; 'rondo synth --list' names them
set -eu

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build
rondo=$build/cli/rondo

title() { printf '\n== %s\n' "$*"; }

# Shows a command as a user would type it, then runs it.
show() {
    printf '\n$ rondo %s\n' "$*"
    "$rondo" "$@"
}

title 'packages'
"$root/ci/setup.sh"

title "build, in $build"
[ -e "$build/build.ninja" ] || meson setup -Dcuda=disabled -Dsimt=disabled "$build" "$root" > /dev/null
ninja -C "$build" | tail -n 1
"$rondo" --version

work=$(mktemp -d "${TMPDIR:-/tmp}/rondo-demo.XXXXXX")
finish() {
    if [ "${KEEP:-}" = 1 ]; then
        printf '\nThe checkpoint is in %s\n' "$work"
    else
        rm -rf "$work"
    fi
}
trap finish EXIT
cd "$work"

title 'a random checkpoint: real shapes, small sizes, no meaning'
show synth "${PRESET:-small}" -o model

title 'what it holds'
show info -m model --ctx 32768 --batch 4

title 'generate: ids in, ids out; the same seed gives the same ids on every machine'
show run -m model --tokens 1,2,3,4,5,6,7,8 -n 32 --ids
show run -m model --tokens 1,2,3,4,5,6,7,8 -n 32 --ids --temperature 0.8 --seed 7

title 'compare: the reference in plain C against the fast code of this machine'
show compare -m model --a cpu:ref --b cpu --tokens 1,2,3,4,5,6,7,8

title 'compare: f32 against bf16 between operations'
show compare -m model --a cpu,f32 --b cpu,bf16 --tokens 1,2,3,4,5,6,7,8 ||
    echo "(Exit code $?. Random weights route near ties: where rounding flips an expert, the layer is out of
tolerance, and 'free' carries it on. The rows of 'steps' say which operations are to blame: none.)"

title 'speed, each sample with the bandwidth of the machine measured beside it'
show bench -m model --prefill 256 --decode 32 --depth 0,2048 --repeat 2

title 'a trained model of this repository: a sum, with the thinking that leads to it'
demo=$root/tests/fixtures/demo-model
show run -m "$demo" --chat 'What is 48213 + 9077?'

title 'a fact recalled from a context of 8 Ki tokens'
# Sentences of no interest, and one fact, early among them.
awk 'BEGIN {
    srand(5)
    subjects = "A boat|The wind|My friend|The king|A train|The sun"
    actions = "went away|came back|stood still|was late|fell down|was seen"
    times = "at noon|all night|in May|before six|then|again"
    split(subjects, s, "|"); split(actions, a, "|"); split(times, t, "|")
    printf "Notes:"
    for (i = 0; i < 1165; i++) {
        if (i == 200) printf " The code of the blue ant is 4711."
        printf " %s %s %s.", s[int(rand() * 6) + 1], a[int(rand() * 6) + 1], t[int(rand() * 6) + 1]
    }
    print " What is the code of the blue ant?"
}' > notes.txt
show run -m "$demo" --chat --file notes.txt

title 'memory of 32 Ki tokens: linear states, and the KV pages that they stand for'
show info -m "$demo" --ctx 32768 --mode bf16 > info.txt
sed -n '2p; /^memory/,/^$/p' info.txt

title 'its accuracy on problems it has not seen'
show eval -m "$demo" --suite "$demo/suite-small.jsonl"

title 'done'
