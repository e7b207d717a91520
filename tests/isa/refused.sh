#!/bin/sh
# What cannot be a variant is refused in a sentence.
#
#   refused.sh compiler cmake isolate.cmake linker objcopy readelf
#
# SPDX-License-Identifier: Apache-2.0
set -eu
compiler=$1 cmake=$2 isolate=$3 linker=$4 objcopy=$5 readelf=$6
isolate() { # ISA, the code on standard input: a variant, or not
  "$compiler" -O1 -c -x c++ - -o refused.o
  "$cmake" -D linker="$linker" -D objcopy="$objcopy" -D readelf="$readelf" -D function=f \
    -D isa="$1" -D name=f_variant -D objects="$PWD/refused.o" -D output="$PWD/refused/variant.o" \
    -P "$isolate" >refused.txt 2>&1
}
wrong() {
  echo "$*:"
  cat refused.txt
  exit 1
}
refuses() { # ISA SENTENCE
  ! isolate "$1" || wrong "$1 was not refused"
  tr -s ' \n' ' ' <refused.txt | grep -qF "$2" || wrong "not the sentence $2"
  [ ! -e refused/variant.o ] || wrong "something was left"
}
accepts() { # ISA
  isolate "$1" || wrong "$1 was refused"
}
refuses x86-64 'defines the function extern "C" f' <<END
int f() { return 1; }
END
refuses x86-64-v3 'something that runs before main or after it' <<END
int g();
int number = g();
extern "C" int f() { return number; }
END
accepts x86-64 <<END
int g();
int number = g();
extern "C" int f() { return number; }
END
accepts x86-64-v3 <<END
int g();
extern "C" int f() { static int number = g(); return number; }
END

# Flags that every variant would have: -march is replaced, single features are not.
"$compiler" -dumpmachine | grep -q '^x86_64' || exit 0
mkdir -p refused/project
cat >refused/project/CMakeLists.txt <<END
cmake_minimum_required(VERSION 3.23)
project(features LANGUAGES CXX)
include("$(dirname "$isolate")/finegrain_isa.cmake")
add_library(some some.cpp)
finegrain_for_each_isa(some FUNCTION f SOURCES some.cpp)
message(STATUS "variants are made")
END
configure() { # FLAGS
  "$cmake" -S refused/project -B refused/build -D CMAKE_CXX_COMPILER="$compiler" -D CMAKE_CXX_FLAGS="$1" >refused.txt 2>&1
}
says() { # SENTENCE FLAGS
  configure "$2" || true  # what it configures has no source
  tr -s ' \n' ' ' <refused.txt | grep -qF "$1" || wrong "$2 did not lead to $1"
}
says 'every variant would have -mavx2;-mfma, of' '-O2 -mavx2 -mfma'
says 'variants are made' '-O2 -march=native -mtune=native -msse2'
