#!/bin/sh
# Debian 12's rocm-device-libs lack the constants of newer AMD GPUs. Makes a folder of links to Debian's bitcode
# with the missing ones beside them, for clang-19's --rocm-device-lib-path. With a ROCm of AMD's own none of this
# is needed.
#
#   ci/hip-bitcode.sh DIRECTORY
set -eu

[ $# = 1 ] || { echo "usage: ci/hip-bitcode.sh DIRECTORY" >&2; exit 2; }
directory=$1
clang=${CLANG:-clang-19}
mkdir -p "$directory"
dpkg -L rocm-device-libs | grep '/bitcode/.*\.bc$' | while IFS= read -r file; do
    ln -sf "$file" "$directory/"
done
# GPU and the number that the device libraries know it by: gfx9.4.2 is 9402.
for pair in 942:9402 1100:11000 1201:12001; do
    file=$directory/oclc_isa_version_${pair%%:*}.bc
    [ -e "$file" ] && continue
    printf 'target triple = "amdgcn-amd-amdhsa"\n@__oclc_ISA_version = linkonce_odr protected local_unnamed_addr addrspace(4) constant i32 %d, align 4\n' \
        "${pair##*:}" | "$clang" -target amdgcn-amd-amdhsa -nogpulib -x ir -emit-llvm -c - -o "$file"
done
