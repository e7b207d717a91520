#!/bin/sh
# The kernels' tests for another instruction set than this machine's build:
#
#   tests/isa.sh x86-64-v3 | x86-64-v4 | x86-64-v4-vnni | aarch64
#   tests/isa.sh x86-64-v3-vnni | x86-64-v4-bf16 | x86-64-v4-amx [elsewhere]
#
# The latter run on any machine with AVX-512's VNNI, what it lacks made of other instructions: see
# isa/vnni_elsewhere.hpp, isa/bf16_elsewhere.hpp and isa/amx_elsewhere.hpp. With `elsewhere` that is so on a
# machine that has them too.
# aarch64 is cross-compiled and runs under qemu (Debian: g++-aarch64-linux-gnu, and qemu-user or
# qemu-user-static).
# Needs Catch2 2 where the compiler's own headers are. SPDX-License-Identifier: Apache-2.0
set -eu
cd "$(dirname "$0")/.."
isa=$1
elsewhere=${2:-}
has() { [ ! "$elsewhere" ] && grep -qw "$1" /proc/cpuinfo; }
build=build/isa/$isa
mkdir -p "$build/include"
case $isa in
aarch64)
  compile="aarch64-linux-gnu-g++"
  run="$(command -v qemu-aarch64-static || echo qemu-aarch64) -L /usr/aarch64-linux-gnu"
  ;;
x86-64-v3-vnni)
  compile="${CXX:-c++} -march=x86-64-v3"
  if has avx_vnni; then
    compile="$compile -mavxvnni"
  else
    compile="$compile -include tests/isa/vnni_elsewhere.hpp"
  fi
  run=
  ;;
x86-64-v4-vnni)
  compile="${CXX:-c++} -march=x86-64-v4 -mavx512vnni"
  run=
  ;;
x86-64-v4-bf16 | x86-64-v4-amx)
  compile="${CXX:-c++} -march=x86-64-v4 -mavx512vnni"
  if has avx512_bf16; then
    compile="$compile -mavx512vbmi -mavx512bf16"
  else
    compile="$compile -mno-red-zone -include tests/isa/bf16_elsewhere.hpp"
  fi
  if [ "$isa" = x86-64-v4-amx ]; then
    if has amx_bf16; then
      compile="$compile -mamx-tile -mamx-bf16 -mamx-int8"
    else
      compile="$compile -include tests/isa/amx_elsewhere.hpp"
    fi
  fi
  run=
  ;;
*)
  compile="${CXX:-c++} -march=$isa"
  run=
  ;;
esac
for package in catch2; do # alone: nothing else of this machine's headers is for another one
  for prefix in /usr /usr/local; do
    [ ! -e $prefix/include/$package ] || ln -sfn $prefix/include/$package "$build/include/$package"
  done
done
printf '#define CATCH_CONFIG_MAIN\n#include <catch2/catch.hpp>\n' >"$build/main.cpp"
for file in "$build/main.cpp" tests/cpu/*.cpp; do
  echo "$file"
done | xargs -P 2 -I {} sh -c "$compile -std=c++20 -O1 -Iinclude -I$build/include -Itests/cpu \
  -c {} -o $build/\$(basename {} .cpp).o"
$compile "$build"/*.o -o "$build/tests_cpu" -pthread
exec $run "$build/tests_cpu"
