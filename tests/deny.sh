#!/usr/bin/env bash
# What `make deny` runs: the licences, sources and bans of deny.toml; and known vulnerabilities, where their list can be fetched.
set -euo pipefail
cd "$(dirname "$0")/.."

tests/setup/packages.sh build
if ! cargo deny --version >/dev/null 2>&1; then
    echo "deny: cargo-deny is missing: building it with cargo install (some minutes, once)" >&2
    cargo install cargo-deny --locked
fi

cargo deny --locked check licenses bans sources
if ! cargo deny --locked fetch db; then
    echo "deny: the list of known vulnerabilities cannot be fetched from here: they were not checked" >&2
    exit 0
fi
cargo deny --locked check --disable-fetch advisories
