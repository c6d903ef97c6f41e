#!/usr/bin/env bash
# Runs the tests again and again, on request with a hog beside them, to find those that fail now and then.
#
#   tests/stress.sh [--rounds N] [--cpu] [--disk] [PART] [OPTION OF CARGO NEXTEST RUN…]
#
# N is 3 by default. PART and options are those of tests/run.sh: `tests/stress.sh --rounds 20 --cpu engines -E 'test(/^ports::/)'`. With --cpu a
# process keeps one processor busy, with --disk another writes and flushes half a gigabyte without end. What each round was, and how it ended, is
# a line in target/test-report/stress.tsv: commit, hogs, exit status, seconds. Ends with the first status that is not 0, after all rounds.
#
# What only the trap calls looks unreachable to shellcheck:
# shellcheck disable=SC2317
set -euo pipefail
cd "$(dirname "$0")/.."

hogs=()
names=none
rounds=3
failed=0
run=
scratch=$(mktemp -d "${TMPDIR:-/var/tmp}/ondemand-stress.XXXXXX")

finish() {
    local status=$? pid
    trap - EXIT
    trap '' INT TERM HUP
    if [ -n "$run" ]; then
        kill -TERM "$run" 2>/dev/null || true
        wait "$run" || true
    fi
    for pid in "${hogs[@]}"; do kill -KILL -- "-$pid" 2>/dev/null || true; done
    for pid in "${hogs[@]}"; do wait "$pid" 2>/dev/null || true; done
    rm -rf -- "$scratch"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# Each hog is a process group, so that it ends with all it has started.
set -m
while [[ "${1:-}" == --* ]]; do
    case "$1" in
        --rounds) rounds=${2:?how many rounds?} && shift ;;
        --cpu)
            (while :; do :; done) &
            hogs+=($!)
            names=${names/none/}+cpu
            ;;
        --disk)
            (while dd if=/dev/zero "of=$scratch/hog" bs=1M count=512 conv=fsync status=none; do :; done) &
            hogs+=($!)
            names=${names/none/}+disk
            ;;
        *)
            echo "usage: tests/stress.sh [--rounds N] [--cpu] [--disk] [PART] [OPTION OF CARGO NEXTEST RUN…]" >&2
            exit 2
            ;;
    esac
    shift
done
set +m

report=${CARGO_TARGET_DIR:-$PWD/target}/test-report
commit=$(git describe --always --dirty)
for ((round = 1; round <= rounds; round++)); do
    printf '\n== round %s of %s, hogs: %s\n' "$round" "$rounds" "${names#+}" >&2
    begin=$SECONDS
    status=0
    # Waited for, as a signal that comes while a program runs in the foreground is heard only when that has ended.
    tests/run.sh "$@" </dev/null &
    run=$!
    wait "$run" || status=$?
    run=
    mkdir -p "$report"
    printf '%s\t%s\t%s\t%s\n' "$commit" "${names#+}" "$status" "$((SECONDS - begin))" >>"$report/stress.tsv"
    if [ "$failed" -eq 0 ]; then failed=$status; fi
done
cat "$report/stress.tsv" >&2
exit "$failed"
