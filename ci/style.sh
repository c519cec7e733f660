#!/bin/bash
# Form of the files that git tracks: formatting, lengths, blanks, the first comment. One line per fault.
set -u

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
faults=0

fault() {
    echo "style: $*"
    faults=$((faults + 1))
}

# Tracked and new files that match; without git, those in the source folders.
list() {
    if git rev-parse --is-inside-work-tree > /dev/null 2>&1; then
        git ls-files --cached --others --exclude-standard -- "$@" | sort -u |
            while IFS= read -r file; do [ -f "$file" ] && echo "$file"; done
    else
        local pattern
        for pattern in "$@"; do
            find . -path './build*' -prune -o -type f -name "$(basename "$pattern")" -print
        done | sort -u
    fi
}

mapfile -t sources < <(list '*.c' '*.h')
mapfile -t kernels < <(list '*.cu' '*.cuh' '*.cpp')
mapfile -t scripts < <(list '*.sh' '.ci/run')
mapfile -t python < <(list '*.py')
mapfile -t others < <(list '*.md' '*.build' 'meson_options.txt' '*.in')

for file in "${sources[@]}"; do
    [ "$(head -c 2 "$file")" = '/*' ] || fault "$file: does not begin with a comment"
done
for file in "${scripts[@]}"; do
    [[ $(sed -n '1{/^#!/d}; p' "$file" | head -n 1) == '# '* ]] || fault "$file: does not begin with a comment that says what it is for"
done
for file in "${kernels[@]}"; do
    start=$(head -c 2 "$file")
    [ "$start" = '/*' ] || [ "$start" = '//' ] || fault "$file: does not begin with a comment"
done
for file in "${sources[@]}" "${kernels[@]}" "${scripts[@]}" "${python[@]}"; do
    lines=$(wc -l < "$file")
    [ "$lines" -le 1000 ] || fault "$file: $lines lines (want at most 1000)"
done
# Python files hold sample texts, with tabs in them.
for file in "${sources[@]}" "${kernels[@]}" "${scripts[@]}" "${others[@]}"; do
    while IFS= read -r line; do
        fault "$file:$line: tab"
    done < <(grep -nP '\t' "$file" | cut -d: -f1)
done
for file in "${sources[@]}" "${kernels[@]}" "${scripts[@]}" "${python[@]}" "${others[@]}"; do
    while IFS= read -r line; do
        fault "$file:$line: carriage return or blank at the end"
    done < <(grep -nP '\r|[ ]$' "$file" | cut -d: -f1)
    [ -z "$(tail -c 1 "$file")" ] || fault "$file: no newline at the end"
done

# The format is that of version 14; others disagree in details.
format=
for candidate in clang-format-14 clang-format; do
    if command -v $candidate > /dev/null && $candidate --version | grep ' 14\.' > /dev/null; then
        format=$candidate
        break
    fi
done
if [ -n "$format" ]; then
    for file in "${sources[@]}" "${kernels[@]}"; do
        wrong=$($format --dry-run "$file" 2>&1 | grep -c 'warning: code should be clang-formatted')
        [ "$wrong" = 0 ] || fault "$file: $wrong places differ from clang-format -i"
    done
else
    echo 'style: no clang-format 14: formatting was not looked at'
fi

if command -v shellcheck > /dev/null; then
    shellcheck -x -P SCRIPTDIR -S warning "${scripts[@]}" || fault 'shellcheck: see above'
else
    echo 'style: no shellcheck: scripts were not looked at'
fi

echo "style: ${#sources[@]} C files, ${#kernels[@]} kernel and C++ files, ${#scripts[@]} scripts, ${#python[@]} Python files, $faults faults"
[ $faults = 0 ]
