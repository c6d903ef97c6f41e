#!/usr/bin/env bash
# What `make bench` runs: installs what is missing, builds, and measures the proxy against others, databases as ratios to a bare program that does
# the same, and environments against `docker stack deploy`. ONLY=proxy, ONLY=databases, ONLY=environments
# or ONLY=python is one of them.
#
# The proxy: ROUNDS is how often each thing is measured, MEASURE what (cpu, browser, routes, changes, latency, bodies, sockets; or noise and
# load, which are not unless they are asked for), PEERS which proxies besides nginx are shown (haproxy, caddy).
#
# Databases: as root, since it makes BTRFS pools and runs a Docker Engine; what it builds is built as the user who called. SIZE is that of the
# large dataset, ROUNDS how often each thing is measured, LIVE how many databases live at once.
#
# Environments: as root; ROUNDS is how often each thing is measured, LIVE how many environments live at once.
#
# Python: as root; ROUNDS is how often a create is measured, TESTS how many tests a suite has, LARGE the megabytes of the large dataset.
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

proxy() {
    tests/setup/packages.sh build run bench
    cargo build --locked --release --package ondemand-cli --package ondemand-tests --bin ondemand --bin bench-proxy
    env "ONDEMAND_TEST_BINARY=${ONDEMAND_TEST_BINARY:-$target/release/ondemand}" "$target/release/bench-proxy" \
        --rounds "${ROUNDS:-9}" ${MEASURE:+--measures "$MEASURE"} ${PEERS+--peers "$PEERS"}
}

databases() {
    tests/setup/packages.sh build run test
    cargo build --locked --release --package ondemand-cli --package ondemand-tests --bin ondemand --bin bench
    as_root env "PATH=$PATH" ${TMPDIR:+"TMPDIR=$TMPDIR"} "ONDEMAND_TEST_BINARY=$target/release/ondemand" \
        tests/setup/with-engine.sh "$target/test-cache" \
        "$target/release/bench" --size "${SIZE:-5G}" --rounds "${ROUNDS:-20}" --live "${LIVE:-200}"
}

environments() {
    tests/setup/packages.sh build run test
    cargo build --locked --release --package ondemand-cli --package ondemand-tests --bin ondemand --bin bench-environments
    as_root env "PATH=$PATH" ${TMPDIR:+"TMPDIR=$TMPDIR"} "ONDEMAND_TEST_BINARY=$target/release/ondemand" \
        tests/setup/with-engine.sh "$target/test-cache" \
        "$target/release/bench-environments" --rounds "${ROUNDS:-7}" --live "${LIVE:-50}"
}

python() {
    tests/setup/packages.sh build run test
    cargo build --locked --release --package ondemand-tests --bin bench-library
    local venv=$target/python/bench
    # Below the home of root, Postgres's user could not run what pytest-postgresql starts.
    /usr/bin/python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement ondemand-py/bench/requirements.txt
    PATH="$venv/bin:$PATH" "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation ./ondemand-py
    as_root env "PATH=$PATH" ${TMPDIR:+"TMPDIR=$TMPDIR"} tests/setup/with-engine.sh "$target/test-cache" \
        "$venv/bin/python" ondemand-py/bench/compare.py --library "$target/release/bench-library" \
        --rounds "${ROUNDS:-40}" --tests "${TESTS:-200}" --large "${LARGE:-1000}"
}

case "${ONLY:-}" in
    '')
        proxy
        databases
        environments
        python
        ;;
    proxy | databases | environments | python) "$ONLY" ;;
    *)
        echo "error: ONLY is proxy, databases, environments or python, not $ONLY" >&2
        exit 2
        ;;
esac
