#!/usr/bin/env bash
# Copies the test runner's output as it comes, but for its summary and all that follows, which it writes to a file: what else is to be said comes first.
#
#   tests/setup/hold-summary.sh FILE
set -euo pipefail
exec awk -v file="$1" '
    /^ *Summary \[/ { held = 1 }
    held { print >file; next }
    { print; fflush() }
'
