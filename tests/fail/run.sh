#!/bin/sh
# Code that must not compile, and the words that the compiler must then print.
#
#   run.sh <compiler> <include directory or flag>... [<case>...]
#
# A case is a file beside this one. Its first line is `// expect: <words>`. As it stands it must
# fail to compile and print these words; with -DFIXED it must compile, so that it cannot have
# failed for another reason.
# SPDX-License-Identifier: Apache-2.0
here=$(cd "$(dirname "$0")" && pwd) || exit 2
compiler=${1:?usage: run.sh compiler include-directory... [case...]}
shift
export LC_ALL=C

cases=
for argument; do # what is no case stays, as the compiler's
  shift
  if [ -f "$here/$argument.cpp" ]; then
    cases="$cases $argument"
  elif [ -d "$argument" ]; then
    set -- "$@" -isystem "$argument"
  else
    case $argument in
      -*) set -- "$@" "$argument" ;;
      *) echo "run.sh: $argument is neither a case, a directory nor a flag" >&2; exit 2 ;;
    esac
  fi
done
if [ -z "$cases" ]; then
  for file in "$here"/*.cpp; do
    cases="$cases $(basename "$file" .cpp)"
  done
fi

set -- "$compiler" -std=c++20 -fsyntax-only -fmessage-length=0 "$@"

passed=0
failed=0
for name in $cases; do
  file=$here/$name.cpp
  words=$(sed -n '1s|^// expect: ||p' "$file")
  if [ -z "$words" ]; then
    problem="its first line is not '// expect: <words>'"
  elif output=$("$@" "$file" 2>&1); then
    problem="it compiles"
  elif ! printf '%s\n' "$output" | grep -qF -e "$words"; then
    problem="the compiler does not print: $words"
  elif ! output=$("$@" -DFIXED "$file" 2>&1); then
    problem="with -DFIXED it must compile, and does not"
  else
    passed=$((passed + 1))
    continue
  fi
  failed=$((failed + 1))
  printf 'FAILED %s: %s\n%s\n' "$name" "$problem" "$output"
  output=
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
