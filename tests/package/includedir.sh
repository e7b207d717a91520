#!/bin/sh
# Headers in a folder of their own, in the prefix or out of it, as some distributions have them: all that
# is installed says so.
#
#   includedir.sh cmake source compiler consumer inside|outside
#
# SPDX-License-Identifier: Apache-2.0
set -eu
cmake=$1 source=$2 compiler=$3 consumer=$4 where=$5
mkdir -p "includedir_$where"
cd "includedir_$where"
headers=include/of/its/own
if [ "$where" = outside ]; then
  headers=$(mktemp -d)  # CMake refuses a folder of the source tree, where builds often are
  trap 'rm -r "$headers"' EXIT
fi
"$cmake" -S "$source" -B build -D CMAKE_CXX_COMPILER="$compiler" --install-prefix "$PWD/prefix" \
  -D FINEGRAIN_TESTS=OFF -D FINEGRAIN_EXAMPLES=OFF -D FINEGRAIN_BENCH=OFF -D FINEGRAIN_CUDA=OFF \
  -D CMAKE_INSTALL_INCLUDEDIR="$headers" -D CMAKE_INSTALL_DATADIR=share/of/its/own
"$cmake" --install build >installed.txt
"$cmake" -S "$consumer" -B consumer -D CMAKE_CXX_COMPILER="$compiler" \
  -D finegrain_DIR="$PWD/prefix/share/of/its/own/cmake/finegrain"
grep -F 'prefix=${pcfiledir}/../../../../..' prefix/share/of/its/own/pkgconfig/finegrain.pc
