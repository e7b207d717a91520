#!/bin/sh
# Holds what ptxas said of every kernel against the committed table: no kernel spills or has its
# wgmma instructions put in a row, and none uses more registers than it did. Another nvcc than the
# table's is only held to the first two.
#
#   registers.sh LOG TABLE VERSION [update]      of all files LOG.*
# SPDX-License-Identifier: Apache-2.0
set -eu
log=$1
table=$2
version=$3

if cat "$log".* | grep -E 'C75[0-9][0-9]'; then
  echo "ptxas gave up on wgmma's or setmaxnreg's terms" >&2
  exit 1
fi

# architecture, registers, bytes spilled, kernel without its arguments
found=$(cat "$log".* | c++filt -p | awk '
  /Compiling entry function/ {
    arch = $NF; gsub(/[^a-z0-9_]/, "", arch)
    name = $0; sub(/^[^\x27]*\x27/, "", name); sub(/\x27 for .*/, "", name)
    gsub(/finegrain::v[0-9_]*::/, "", name); gsub(/device::/, "", name)
  }
  /bytes spill stores/ { spilled = $5 + $9 }
  /Used [0-9]+ registers/ { for (i = 1; i < NF; ++i) if ($i == "Used") print arch, $(i + 1), spilled, name }
' | LC_ALL=C sort -u)
[ -n "$found" ] || { echo "$log.* have no report of ptxas" >&2; exit 1; }

if [ "${4:-}" = update ]; then
  {
    echo "# Registers of every kernel under nvcc $version, by tests/cuda/registers.sh ... update"
    echo "$found" | awk '{ arch = $1; used = $2; $1 = $2 = $3 = ""; sub(/^ +/, ""); print arch, used, $0 }'
  } >"$table"
fi
head -1 "$table" | grep -qF "nvcc $version," && same=1 || same=0
echo "$found" | awk -v table="$table" -v same="$same" '
  BEGIN {
    while ((getline line <table) > 0) {
      if (line ~ /^#/) continue
      split(line, word, " "); name = line; sub(/^[^ ]+ [^ ]+ /, "", name)
      most[word[1] " " name] = word[2]
    }
  }
  {
    arch = $1; used = $2; spilled = $3; name = $0; sub(/^[^ ]+ [^ ]+ [^ ]+ /, "", name)
    key = arch " " name
    if (spilled > 0) { print key ": spills " spilled " bytes"; wrong = 1 }
    ++count
    if (!same) next
    if (!(key in most)) { print key ": not in the table, with " used " registers"; wrong = 1 }
    else if (used > most[key]) { print key ": " used " registers, not " most[key]; wrong = 1 }
  }
  END { print count " kernels"; exit wrong }
'
