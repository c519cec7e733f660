#!/bin/bash
# The library's face: librondo.so exports exactly the functions that core/rondo.h declares RONDO_API, and
# the header compiles on its own as strict C99 and as C++.
#
#   ci/symbols.sh LIBRARY HEADER
set -eu

library=${1:?usage: ci/symbols.sh LIBRARY HEADER}
header=${2:?usage: ci/symbols.sh LIBRARY HEADER}

# A declaration may run over lines: up to its semicolon it is one line here; the name stands before '('.
declared=$(sed -e 's|/\*.*\*/||' -e '/^#/d' "$header" | tr '\n' ' ' | tr ';' '\n' |
    sed -n 's/.*RONDO_API[^(]*[ *]\(rondo_[a-z0-9_]*\)(.*/\1/p' | sort)
exported=$(nm -D --defined-only "$library" | awk '{ print $3 }' | sort)

[ "$(echo "$declared" | wc -l)" -gt 50 ] || { echo "symbols: $header: declarations were not recognised"; exit 1; }
if ! difference=$(diff <(echo "$declared") <(echo "$exported")); then
    echo "symbols: < only declared in $header, > only exported by $library"
    echo "$difference" | grep '^[<>]'
    exit 1
fi
echo "symbols: $(echo "$exported" | wc -l) functions declared and exported"

strict=(-Wall -Wextra -Werror -pedantic-errors -fsyntax-only)
echo "#include \"$header\"" | "${CC:-cc}" -std=c99 "${strict[@]}" -x c -
echo 'symbols: the header is C99'
if command -v "${CXX:-c++}" > /dev/null; then
    echo "#include \"$header\"" | "${CXX:-c++}" -std=c++11 "${strict[@]}" -x c++ -
    echo 'symbols: the header is C++11'
else
    echo 'symbols: no C++ compiler: the header was not tried as C++'
fi
