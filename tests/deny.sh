#!/usr/bin/env bash
# What `make deny` runs: the licences, sources and bans of deny.toml; and known vulnerabilities, where their list can be fetched.
#
#   tests/deny.sh [licences]    with `licences`, no vulnerabilities
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup/tools.sh

tests/setup/packages.sh build lint
use_tool deny

cargo deny --locked --log-level error check licenses bans sources
if [ "${1:-}" = licences ]; then exit; fi
if ! cargo deny --locked fetch db; then
    echo "deny: the list of known vulnerabilities cannot be fetched from here: they were not checked" >&2
    exit 0
fi
cargo deny --locked check --disable-fetch advisories
