#!/usr/bin/env bash
# Checks the code and runs the tests, all of it (`make test`) or a part (`make check`, `make unit`, …), on one build.
#
#   tests/run.sh [check|unit|engines|cluster|python] [OPTION OF CARGO NEXTEST RUN…]
#
#   check    formatting, lints, documentation and its examples, shell scripts, licences
#   unit     the tests that need neither root nor Postgres, Docker or a mount
#   engines  the tests over real Postgres, BTRFS, Git, a browser and one Docker Engine; as root
#   cluster  the tests over Docker Swarms of three nodes; as root
#   python   the Python package: its wheel, its types, its tests
#
# It installs missing packages, and builds as the user who called. Installing tools and starting engines run beside the build. The reports are in
# target/test-report. The output ends with the runner's summary, and names after it what the tests left behind.
#
# What runs as a phase looks unreachable to shellcheck:
# shellcheck disable=SC2317
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup/privilege.sh
. tests/setup/phases.sh
. tests/setup/tools.sh

# The tests of each part, as filter sets of the runner.
readonly cluster_tests='test(/^(orchestrator_swarm|orchestrator_swarm_faults|orchestrator_swarm_volumes|cluster|cluster_faults|cluster_images|envs_docker)::/)'
readonly unit_tests='kind(lib) | kind(bin) | package(ondemand-cli) | test(/^layout::/) |
    (package(ondemand-core) & test(/^(compose|faulty|orchestrator_fake|proxy|proxy_http2|router_saved|router_table|store_fake)::/))'

usage() {
    echo "usage: tests/run.sh [check|unit|engines|cluster|python] [OPTION OF CARGO NEXTEST RUN…]" >&2
    exit 2
}

finish() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    end_beside
    rm -rf -- "$work"
    # What the tests wrote into the build directory as root belongs to the user again.
    if [ "$(id -u)" -ne 0 ] && [ -n "$(find "$target" -xdev -user root -print -quit 2>/dev/null)" ]; then
        as_root find "$target" -xdev -user root -exec chown --no-dereference "$(id -u):$(id -g)" {} +
    fi
    exit "$status"
}

# Has the tests work in memory where there is plenty: they make and remove hundreds of data directories, and what they test is not the disk. On an ext4
# without a journal, the Python tests alone took two and a half times as long.
use_memory() {
    local free
    free=$(awk '/^MemAvailable:/ {print int($2 / 1048576)}' /proc/meminfo)
    if [ -n "${TMPDIR:-}" ] || [ "$free" -lt 12 ]; then return; fi
    if [ "$(stat --file-system --format %T /dev/shm 2>/dev/null)" = tmpfs ] && [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
}

wants() { [[ $part == all || " $* " == *" $part "* ]]; }

check_format() { cargo fmt --all --check; }

check_shell() {
    shellcheck --external-sources tests/*.sh tests/setup/*.sh fuzz/run.sh .ci/run examples/shop/*/build.sh
    shellcheck --shell=sh ondemand-core/runner/run.sh ondemand-core/src/orchestrator/swarm/clean.sh examples/images/server/entrypoint.sh
}

# Compiles everything once, lints included: clippy's driver is a compiler, so what it has checked can be run. All targets and features, as what is
# built with others is built again.
build() {
    cargo build --locked --workspace --all-features --all-targets --quiet --timings
    cp -- "$target/cargo-timings/cargo-timing.html" "$report/build.html"
}

# Documentation and its examples, on the libraries that were built; `cargo doc` would check every dependency once more.
check_documentation() {
    RUSTDOC=$PWD/tests/setup/rustdoc.sh ONDEMAND_DOCUMENTATION=$work/doc \
        cargo test --locked --workspace --all-features --doc --quiet
}

# Tells the runner what was built, so that it compiles nothing as root.
list_tests() {
    cargo metadata --locked --all-features --format-version 1 >"$work/cargo.json"
    cargo nextest list --locked --workspace --all-features --cargo-quiet --list-type binaries-only --message-format json >"$work/binaries.json"
}

# What follows the runner's summary is said last.
run_tests() { "$@" 2>&1 | tests/setup/hold-summary.sh "$work/summary"; }

# Takes the filter sets out of the options, and sets `filters` to one that chooses the tests of the part that any of them chooses: the runner itself
# would run those that are in the part or in a filter.
choose_tests() {
    local asked='' rest=()
    set -- "${options[@]}"
    while [ $# -gt 0 ]; do
        if [[ $1 == -E || $1 == --filterset ]] && [ $# -gt 1 ]; then
            asked="${asked:+$asked | }($2)"
            shift
        else
            rest+=("$1")
        fi
        shift
    done
    options=("${rest[@]}")
    case "$part" in
        unit) filters="($unit_tests)" ;;
        engines) filters="(not ($unit_tests) - $cluster_tests)" ;;
        cluster) filters="($cluster_tests)" ;;
        *) filters='all()' ;;
    esac
    if [ -n "$asked" ]; then filters="$filters & ($asked)"; fi
}

nextest() {
    local filters
    choose_tests
    local command=(cargo-nextest nextest run --cargo-metadata "$work/cargo.json" --binaries-metadata "$work/binaries.json"
        --workspace-remap "$PWD" -E "$filters" "${options[@]}")
    if [ "$part" = unit ]; then
        run_tests "${command[@]}"
        return
    fi
    # Root's environment may lack cargo and its home.
    run_tests as_root env "PATH=$PATH" "CARGO_HOME=${CARGO_HOME:-$HOME/.cargo}" "RUSTUP_HOME=${RUSTUP_HOME:-$HOME/.rustup}" \
        ${CI:+"CI=$CI"} ${TMPDIR:+"TMPDIR=$TMPDIR"} ${ONDEMAND_SOAK_SECONDS:+"ONDEMAND_SOAK_SECONDS=$ONDEMAND_SOAK_SECONDS"} \
        tests/setup/with-engine.sh --await --engines "$engines" "$target/test-cache" "${command[@]}" <"$work/go"
}

# Keeps the reports of the run before, to compare with.
make_report() {
    rm -rf -- "$report/before"
    mkdir -p "$report/before"
    find "$report" -maxdepth 1 -name '*.xml' -exec mv -t "$report/before" -- {} +
    # The runner's own may be of an earlier run, where this one does not come so far.
    rm -f -- "$report/phases.tsv" "$report"/*.log "$report"/*.html target/nextest/default/junit.xml
}

part=all
case "${1:-}" in
    check | unit | engines | cluster | python) part=$1 && shift ;;
    -* | '') ;;
    *) usage ;;
esac
options=("$@")
engines='postgres docker swarm faults'
if [ "$part" = engines ]; then engines='postgres docker'; fi
# CI builds once: line numbers in backtraces and incremental builds would only cost time.
if [ "${CI:-}" = true ]; then export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_CODEGEN_UNITS=1; fi
# The same compiler and flags for all that is compiled, or it would be compiled again.
export RUSTC_WORKSPACE_WRAPPER=clippy-driver
export CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
target=${CARGO_TARGET_DIR:-$PWD/target}
use_memory
report=$target/test-report
begin=$(now)
machine=$(machine_time)
work=$(mktemp -d)
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
make_report
# A password is asked for now or never.
if wants engines cluster; then as_root true; fi

phase packages tests/setup/packages.sh build
start_beside build build
phase more-packages tests/setup/packages.sh run test lint
use_tool nextest

if wants engines cluster; then
    mkfifo "$work/go"
    start_beside tests nextest
    exec {go}>"$work/go"
fi
if wants python; then start_beside python-tools tests/python.sh tools; fi
if wants check; then
    phase format check_format
    phase shell check_shell
    phase licences tests/deny.sh licences
fi

join build
failed=0
if wants unit engines cluster; then phase list list_tests; fi
if wants python; then
    join python-tools
    start_beside python tests/python.sh -n 4 --junitxml "$report/python.xml"
fi
if wants check; then phase documentation check_documentation || failed=$?; fi
# Alone: its tests say within how many seconds something is gone.
if wants python; then join python || failed=$?; fi
if [ "$part" = unit ]; then start_beside tests nextest; fi
# The write fails if the engines did not start; join shows why.
if wants engines cluster; then (trap '' PIPE && echo >&"$go") 2>/dev/null || true; fi
if wants unit engines cluster; then
    join tests || failed=$?
    if [ -e target/nextest/default/junit.xml ]; then cp -- target/nextest/default/junit.xml "$report/tests.xml"; fi
fi
tests/setup/report.py "$report" "$begin" "$machine" >&2
cat "$work/summary" >&2 2>/dev/null || true
exit "$failed"
