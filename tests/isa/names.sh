#!/bin/sh
# FINEGRAIN_ISA tells apart what differs: under flags with the same name, finegrain's code is the same.
#
#   names.sh compiler include
#
# SPDX-License-Identifier: Apache-2.0
set -eu
compiler=$1
include=$2
case $("$compiler" -dumpmachine) in
x86_64*) ;;
*) exit 77 ;;
esac
mark='finegrain_isa_is'
while read -r flags; do
  # shellcheck disable=SC2086  # flags are words
  text=$(printf '#include <finegrain/finegrain.hpp>\n%s FINEGRAIN_ISA\n' $mark |
    "$compiler" -std=c++20 $flags -I"$include" -E -x c++ - |
    awk -v mark=$mark '/^# [0-9]+ "/ { ours = /finegrain\/|<stdin>/; next }
                       ours && NF { print } ')
  name=$(echo "$text" | sed -n "s/^$mark //p")
  sum=$(echo "$text" | sed -e "s/\<$name\>/ISA/g" | cksum)
  echo "$name $sum $flags"
done >names.txt <<END
-march=x86-64
-march=sandybridge
-march=x86-64-v3
-march=znver3
-march=x86-64-v3 -mavxvnni
-march=alderlake
-march=x86-64-v3 -mavx512f
-march=x86-64-v4
-march=cascadelake
-march=cooperlake
-march=icelake-server
-march=sapphirerapids
-march=x86-64-v4 -mavx512vnni
-march=x86-64-v4 -mavx512vbmi -mavx512bf16
-march=x86-64-v4 -mavx512vnni -mavx512vbmi -mavx512bf16
-march=x86-64-v4 -mavx512vnni -mavx512vbmi -mavx512bf16 -mavxvnni
-march=x86-64-v4 -mavx512vnni -mavx512vbmi -mavx512bf16 -mamx-tile -mamx-bf16 -mamx-int8
END
cat names.txt
awk '!NF || NF < 4 { print "not understood: " $0; failed = 1 }
  $1 in sum && sum[$1] != $2 " " $3 { print $1 " is the name of different code"; failed = 1 }
  { sum[$1] = $2 " " $3; codes[$2 " " $3] = 1 }
  END { for (c in codes) ++n; if (n < 5) { print "the flags change nothing"; failed = 1 }; exit failed }' names.txt
