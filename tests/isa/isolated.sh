#!/bin/sh
# No code for a newer machine can be reached but through a variant's own function.
#
#   isolated.sh program function folder-of-variants
#
# SPDX-License-Identifier: Apache-2.0
set -eu
program=$1
function=$2
variants=$3
failed=0
wrong() {
  echo "$*"
  failed=1
}
# Instructions of AVX in all its forms, among them of AVX-512, among them of VNNI, bf16 and VBMI; of AMX.
count() { # FILE
  objdump -d --no-show-raw-insn "$1" | awk '
    /^ *[0-9a-f]+:\t(\{vex\} )?v/ { ++vex }
    /%zmm|%[xy]mm(1[6-9]|2[0-9]|3[01])|%k[0-7]/ { ++evex }
    /\t(\{vex\} vpdp|vpdp|vdpbf16ps|vcvtne2?ps2bf16|vperm[it]2?b)/ { ++later }
    /\t(tile|tdp|ldtilecfg|sttilecfg)/ { ++amx }
    END { print vex + 0, evex + 0, later + 0, amx + 0 }'
}

all=0
for variant in "$variants"/*.o; do
  isa=$(basename "$variant" .o)
  # To be seen from outside: the function, and names and descriptions of types, which are data.
  seen=$(nm --defined-only --extern-only "$variant" | grep -v ' [VR] _ZT[IS]' | sed 's/^[^ ]* //')
  [ "$seen" = "T ${function}_$(echo "$isa" | tr -c 'a-z0-9\n' _)" ] || wrong "$isa shows $seen"
  # To be kept once among several objects: nothing.
  [ -z "$(readelf -gW "$variant" | grep '^COMDAT')" ] || wrong "$isa has groups"
  [ -z "$(nm "$variant" | grep ' u ')" ] || wrong "$isa has unique symbols"
  # To run before main or after it: nothing.
  [ -z "$(readelf -SW "$variant" | grep -E '\.(init_array|fini_array|ctors|dtors)')" ] ||
    wrong "$isa runs by itself"
  read -r vex evex later amx <<END
$(count "$variant")
END
  case $isa in
  x86-64) [ "$vex" = 0 ] ;;
  x86-64-v3) [ "$vex" != 0 ] && [ "$evex" = 0 ] && [ "$later" = 0 ] ;;
  x86-64-v3-vnni) [ "$vex" != 0 ] && [ "$evex" = 0 ] ;;
  x86-64-v4) [ "$evex" != 0 ] && [ "$later" = 0 ] ;;
  x86-64-v4-vnni | x86-64-v4-bf16 | x86-64-v4-amx) [ "$evex" != 0 ] ;;
  esac || wrong "$isa has $vex instructions of AVX, $evex of AVX-512, $later of VNNI, bf16 and VBMI"
  [ "$isa" = x86-64-v4-amx ] || [ "$amx" = 0 ] || wrong "$isa has $amx instructions of AMX"
  all=$((all + vex))
done

# The program has all of that code, each copy of it, and no other.
there=$(count "$program")
[ "${there%% *}" = $all ] ||
  wrong "the program has ${there%% *} instructions of AVX, its variants have $all"
# What is seen of the program has none: whoever calls it by name may run on any machine.
seen=$(basename "$program").seen
nm --defined-only --extern-only "$program" | grep -v " ${function}_" >"$seen"
objdump -d --no-show-raw-insn "$program" | awk '
  NR == FNR { seen[$1] = 1; ++n; next }
  /^[0-9a-f]+ <.*>:$/ { at = $1; name = $2 }
  at in seen && /^ *[0-9a-f]+:\t(\{vex\} )?v/ { print name, $0; exit failed = 1 }
  END { exit failed || n == 0 }' "$seen" - || wrong "a function that the program shows needs AVX"
exit $failed
