#!/bin/bash
# Runs what the documents tell people to type: every fenced `sh` block that follows a line
# `<!-- checked -->`, in order, in a fresh copy of the sources, one shell per block. A checked `c` block is
# compiled.
#
#   ci/readme.sh SCRATCH_DIRECTORY FILE.md ...
set -eu

scratch=${1:?usage: ci/readme.sh SCRATCH_DIRECTORY FILE.md ...}
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The checked blocks of file $1 as $2.1.sh, $2.2.c, ...; prints their number.
extract() {
    awk -v prefix="$2" '
        /^<!-- checked -->$/       { wanted = 1; next }
        /^```(sh|c)$/ && wanted    { inside = ++n "." substr($0, 4); wanted = 0; next }
        /^```$/                    { inside = "" }
        inside                     { print > (prefix "." inside) }
        !inside && NF              { wanted = 0 }
        END                        { print n + 0 }' "$1"
}

check_block() {
    case $1 in
    *.c) cc -std=c99 -Wall -Wextra -Werror -Icore -fsyntax-only "$1" ;;
    *.sh) bash -eu -o pipefail "$1" ;;
    esac
}

rm -rf "$scratch"
mkdir -p "$scratch/rondo" "$scratch/blocks"
tar -c --exclude=./build* --exclude=./.git . | tar -x -C "$scratch/rondo"

for file in "$@"; do
    name=$(basename "$file" .md)
    blocks=$(extract "$file" "$scratch/blocks/$name")
    [ "$blocks" -gt 0 ] || { echo "readme: $file: no checked block"; exit 1; }
    for ((i = 1; i <= blocks; i++)); do
        block=$(echo "$scratch/blocks/$name.$i".*)
        if ! (cd "$scratch/rondo" && check_block "$block") > "$block.log" 2>&1 < /dev/null; then
            echo "readme: $file: block $i failed:"
            cat "$block"
            tail -n 30 "$block.log"
            exit 1
        fi
        echo "readme: $file: block $i: $(grep -c '^[^#]' "$block") lines of ${block##*.}"
    done
done
rm -rf "$scratch"
