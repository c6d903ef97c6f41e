#!/usr/bin/env bash
# Stands in for rustdoc where cargo runs the examples of the documentation (RUSTDOC): makes the documentation first, in $ONDEMAND_DOCUMENTATION,
# every warning an error. So both are checked on what was built once; `cargo doc` would check all dependencies again.
set -euo pipefail

arguments=()
examples=
skip=
for argument in "$@"; do
    if [ -n "$skip" ]; then
        skip=
        continue
    fi
    case "$argument" in
        --test) examples=1 ;;
        # What only examples know, and its value.
        --test-run-directory | --test-args | --test-builder) skip=1 ;;
        --test-run-directory=* | --test-args=* | --test-builder=* | --no-run | --nocapture) ;;
        *) arguments+=("$argument") ;;
    esac
done
if [ -n "$examples" ]; then rustdoc "${arguments[@]}" --deny warnings --out-dir "$ONDEMAND_DOCUMENTATION"; fi
exec rustdoc "$@"
