#!/usr/bin/env bash
# What `make fuzz` runs: each target for FUZZ_SECONDS (60), from its seeds and from what earlier runs found.
#
# FUZZ_TARGETS names the targets to run, instead of all. What makes a target fail is kept in fuzz/artifacts, with the command that
# runs it again.
set -euo pipefail
cd "$(dirname "$0")/.."

tests/setup/packages.sh build fuzz

if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: cargo-fuzz is missing: building it with cargo install (a minute, once)" >&2
    cargo install cargo-fuzz --locked
fi

# Sanitizers are a nightly feature; a stable compiler has them too, where it is told that it may.
cargo=(cargo)
if cargo +nightly --version >/dev/null 2>&1; then cargo=(cargo +nightly); else export RUSTC_BOOTSTRAP=1; fi

# One target unpacks archives, thousands of times.
if [ -d /dev/shm ] && [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi

seconds=${FUZZ_SECONDS:-60}
if [ -z "${FUZZ_TARGETS:-}" ]; then FUZZ_TARGETS=$("${cargo[@]}" fuzz list); fi

"${cargo[@]}" fuzz build
failed=()
for target in $FUZZ_TARGETS; do
    printf '\n== %s, for %s s\n' "$target" "$seconds" >&2
    mkdir -p "fuzz/corpus/$target"
    "${cargo[@]}" fuzz run "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=2048 -verbosity=0 -print_final_stats=1 </dev/null || failed+=("$target")
done

if [ ${#failed[@]} -gt 0 ]; then
    echo "fuzz: error: these targets failed, see above: ${failed[*]}" >&2
    exit 1
fi
echo "fuzz: no target failed: $(echo "$FUZZ_TARGETS" | tr '\n' ' ')" >&2
