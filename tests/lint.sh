#!/usr/bin/env bash
# What `make lint` runs, and `make test` before its tests: formatting, lints, documentation and scripts, every warning an error.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*" >&2; }

tests/setup/packages.sh build lint

step "cargo fmt --check"
cargo fmt --all --check

step shellcheck
shellcheck --external-sources tests/*.sh tests/setup/*.sh fuzz/run.sh .ci/run examples/shop/*/build.sh
shellcheck --shell=sh ondemand-core/runner/run.sh ondemand-core/src/orchestrator/swarm/clean.sh examples/images/server/entrypoint.sh

step "cargo clippy"
cargo clippy --locked --workspace --all-targets --all-features --quiet -- -D warnings

step "cargo doc"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --all-features --no-deps --quiet
