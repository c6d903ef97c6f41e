#!/usr/bin/env bash
# What `make bench` runs: installs what is missing, builds, and measures databases as ratios to a bare program that does the same.
#
# As root, since it makes BTRFS pools and runs a Docker Engine; what it builds is built as the user who called. SIZE is that of the large
# dataset, ROUNDS how often each thing is measured, LIVE how many databases live at once.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup/privilege.sh

target=${CARGO_TARGET_DIR:-$PWD/target}
# Where the build ran as an ordinary user, what it cached may be root's after this.
hand_back() {
    local status=$?
    trap - EXIT
    if [ "$(id -u)" -ne 0 ] && [ -d "$target/test-cache" ]; then
        as_root chown --recursive "$(id -u):$(id -g)" "$target/test-cache"
    fi
    exit "$status"
}
trap hand_back EXIT

tests/setup/packages.sh build run test
cargo build --locked --release --package ondemand-cli --package ondemand-tests --bin ondemand --bin bench
as_root env "PATH=$PATH" ${TMPDIR:+"TMPDIR=$TMPDIR"} "ONDEMAND_TEST_BINARY=$target/release/ondemand" \
    tests/setup/with-engine.sh "$target/test-cache" \
    "$target/release/bench" --size "${SIZE:-5G}" --rounds "${ROUNDS:-20}" --live "${LIVE:-200}"
