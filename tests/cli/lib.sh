# Shared by the tests of the program: sourced with $1 the program, $2 tests/fixtures.
# Every check prints what failed; the script ends with 1 if any did.
# shellcheck shell=sh disable=SC2034
case $1 in
/*) rondo=$1 ;;
*) rondo=$PWD/$1 ;;
esac
case $2 in
/*) fixtures=$2 ;;
*) fixtures=$PWD/$2 ;;
esac
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failures=0

fail() {
    echo "FAILED: $*"
    [ -s "$work/err" ] && sed 's/^/    /' "$work/err"
    failures=$((failures + 1))
}

# expect CODE ARGUMENTS...: runs rondo with stdout in $work/out and stderr in $work/err.
expect() {
    code=$1
    shift
    "$rondo" "$@" </dev/null >"$work/out" 2>"$work/err"
    got=$?
    [ "$got" = "$code" ] || fail "rondo $*: exit code $got, want $code"
}

# says TEXT: the last stderr holds it.
says() {
    grep -qF -e "$1" "$work/err" || fail "stderr does not say: $1"
}

# prints TEXT: the last stdout holds it.
prints() {
    grep -qF -e "$1" "$work/out" || fail "stdout does not say: $1"
}

# error: a failure prints nothing on stdout and one line that begins "rondo: " on stderr.
one_line() {
    [ -s "$work/out" ] && fail "stdout is not clean"
    [ "$(grep -c '^rondo: ' "$work/err")" = 1 ] || fail "want one line 'rondo: ...' on stderr"
}

finish() {
    [ "$failures" = 0 ] || {
        echo "$failures checks failed"
        exit 1
    }
    exit 0
}
