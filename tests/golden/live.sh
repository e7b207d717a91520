#!/bin/sh
# live.sh MODULE SCRIPT ...: runs a script by a Python that has the module; 77 where none has it.
# SPDX-License-Identifier: Apache-2.0
set -eu
module=$1
shift
cd "$(dirname "$0")"
for python in "${PYTHON:-python3}" /usr/bin/python3; do # a user's, and that of Debian's packages
  if "$python" -c "import $module" 2>/dev/null; then
    export PYTHONDONTWRITEBYTECODE=1
    exec "$python" "$@"
  fi
done
echo "skipped: no Python here has $module"
exit 77
