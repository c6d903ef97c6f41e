#!/usr/bin/env bash
# What `make test` runs: installs what is missing, checks the code, builds, and runs every test against real engines.
#
# The tests run as root, since they make BTRFS pools and run a Docker Engine; everything is built as the user who called. The test
# runner comes last, so that its summary is the end of the output; only what failed to be taken down again is said after it.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup/privilege.sh

step() { printf '\n== %s\n' "$*" >&2; }

# Whatever the tests wrote into the build directory belongs to the user again.
hand_back() {
    local status=$?
    trap - EXIT
    rm -rf -- "$work"
    if [ "$(id -u)" -ne 0 ] && [ -n "$(find "$target" -xdev -user root -print -quit 2>/dev/null)" ]; then
        as_root find "$target" -xdev -user root -exec chown --no-dereference "$(id -u):$(id -g)" {} +
    fi
    exit "$status"
}

if [ "${CI:-}" = true ]; then export CARGO_INCREMENTAL=0; fi
target=${CARGO_TARGET_DIR:-$PWD/target}
work=$(mktemp -d)
trap hand_back EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

step packages
tests/setup/packages.sh build run test lint nextest

tests/lint.sh

step "cargo test --doc"
cargo test --locked --workspace --all-features --doc --quiet

step "building the tests"
# All targets, since the tests also run the programs; with the dependencies of the tests, so that nothing is built twice.
cargo build --locked --workspace --all-features --all-targets
cargo metadata --locked --all-features --format-version 1 >"$work/cargo.json"
cargo nextest list --locked --workspace --all-features --list-type binaries-only --message-format json >"$work/binaries.json"

tests/python.sh -n 4

step "running the tests"
# Root's environment may lack cargo and its home; the build is given, so that nothing is compiled as root.
as_root env "PATH=$PATH" "CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}" "RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}" \
    ${CI:+"CI=$CI"} ${TMPDIR:+"TMPDIR=$TMPDIR"} \
    tests/setup/with-engine.sh "$target/test-cache" \
    cargo-nextest nextest run --cargo-metadata "$work/cargo.json" --binaries-metadata "$work/binaries.json" "$@"
