#!/bin/sh
# Runs nvcc and keeps what ptxas says of every kernel, a file for each source: compile.sh LOG nvcc
# arguments... writes LOG.NAME for NAME.cu.
# SPDX-License-Identifier: Apache-2.0
log=$1
shift
for argument; do
  case $argument in *.cu) log=$log.$(basename "$argument" .cu) ;; esac
done
"$@" -Xptxas -v 2>"$log"
result=$?
# a failure, and whatever is no report of ptxas, is shown
[ $result = 0 ] && grep -v -e '^ptxas info' -e 'bytes stack frame' -e '^$' "$log" >&2 || true
[ $result = 0 ] || cat "$log" >&2
exit $result
