#!/bin/sh
# The kernels' tests for another instruction set than this machine's build:
#
#   tests/isa.sh x86-64-v3 | x86-64-v4 | x86-64-v4-vnni | x86-64-v4-bf16 | aarch64
#
# x86-64-v4-bf16 runs on any machine with VNNI: see isa/bf16_elsewhere.hpp.
# aarch64 is cross-compiled and runs under qemu (Debian: g++-aarch64-linux-gnu, and qemu-user or
# qemu-user-static).
# Needs Catch2 2 where the compiler's own headers are. SPDX-License-Identifier: Apache-2.0
set -eu
cd "$(dirname "$0")/.."
isa=$1
build=build/isa/$isa
mkdir -p "$build/include"
case $isa in
aarch64)
  compile="aarch64-linux-gnu-g++"
  run="$(command -v qemu-aarch64-static || echo qemu-aarch64) -L /usr/aarch64-linux-gnu"
  ;;
x86-64-v4-vnni)
  compile="${CXX:-c++} -march=x86-64-v4 -mavx512vnni"
  run=
  ;;
x86-64-v4-bf16)
  compile="${CXX:-c++} -march=x86-64-v4 -mavx512vnni"
  if grep -q avx512_bf16 /proc/cpuinfo; then
    compile="$compile -mavx512vbmi -mavx512bf16"
  else
    compile="$compile -mno-red-zone -include tests/isa/bf16_elsewhere.hpp"
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
