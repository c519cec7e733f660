#!/bin/bash
# Builds embed.c against an installed rondo, found by pkg-config, and runs it on a fixture; then the
# installed program.
#
#   tests/embed/test.sh DESTDIR CHECKPOINT       DESTDIR as in 'DESTDIR=... meson install'
set -eu

destination=${1:?usage: tests/embed/test.sh DESTDIR CHECKPOINT}
checkpoint=${2:?usage: tests/embed/test.sh DESTDIR CHECKPOINT}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

pc=$(find "$destination" -name rondo.pc)
[ -n "$pc" ] || { echo "embed: no rondo.pc under $destination"; exit 1; }
PKG_CONFIG_PATH=$(dirname "$pc")
export PKG_CONFIG_PATH
# Paths inside rondo.pc are those of the final place: the sysroot puts DESTDIR before them.
export PKG_CONFIG_SYSROOT_DIR=$destination
read -ra cflags <<< "$(pkg-config --cflags rondo)"
read -ra libs <<< "$(pkg-config --libs rondo)"
library=$(dirname "$(find "$destination" -name librondo.so)")

"${CC:-cc}" -std=c99 -Wall -Wextra -Werror -pedantic-errors "$here/embed.c" "${cflags[@]}" "${libs[@]}" \
    -o "$work/embed"
LD_LIBRARY_PATH=$library "$work/embed" "$checkpoint" "$work/session"

program=$(find "$destination" -type f -name rondo -perm -u+x)
version=$("$program" --version)
[ "$version" = "rondo $(pkg-config --modversion rondo)" ] || {
    echo "embed: the program says '$version', rondo.pc $(pkg-config --modversion rondo)"
    exit 1
}
echo "embed: $version is installed as program, library, header and rondo.pc"
