#!/usr/bin/env bash
# Builds the Python package's wheel, installs it into a new virtual environment, checks its types, and runs its tests against a keeper and a
# server. The program must be built. Arguments go to pytest.
#
#   tests/python.sh tools              installs what the rest needs beside the wheel, and does no more
#   tests/python.sh [ARGUMENT…]
#
# What only the trap calls looks unreachable to shellcheck:
# shellcheck disable=SC2317
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup/phases.sh

target=${CARGO_TARGET_DIR:-$PWD/target}
venv=$target/python/venv
wheels=$target/python/wheels
requirements=ondemand-py/tests/requirements.txt
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Not among the sources, which a test packs meanwhile.
export MYPY_CACHE_DIR=$target/python/mypy PYTHONDONTWRITEBYTECODE=1

# Installs the requirements, unless that was done and they are the same.
install_tools() {
    local key
    # Its programs name the directory that they are in.
    key=$(cat "$requirements" "$0" - <<<"$venv" | sha256sum)
    if [ "$(cat "$venv/requirements" 2>/dev/null)" = "$key" ]; then return; fi
    /usr/bin/python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --requirement "$requirements"
    # Pyright fetches nothing when it is asked first.
    "$venv/bin/pyright" --version >/dev/null
    echo "$key" >"$venv/requirements"
}

build_wheel() {
    rm -rf -- "$wheels"
    # As pip builds it for everybody, but with the tests' profile and features, whose dependencies are built already, and with what was installed above.
    MATURIN_PEP517_ARGS="--profile dev --locked --features as-in-tests" \
        pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$wheels" ./ondemand-py
    pip install --quiet --no-deps --force-reinstall "$wheels"/*.whl
    # What another machine lacks is in it.
    local held
    held=$(python -m zipfile --list "$wheels"/*manylinux*.whl)
    if [[ $held != *ondemand.libs/libbtrfsutil* ]]; then
        echo "error: the wheel does not hold libbtrfsutil" >&2
        exit 1
    fi
}

check_types() {
    mypy --strict python/ondemand
    mypy --strict tests pep517
    mypy --strict ../examples/python/*.py
    pyright python tests pep517 ../examples/python
}

finish() {
    if [ -n "${types:-}" ]; then kill "$types" 2>/dev/null || true; fi
    rm -rf -- "$work"
}

install_tools
if [ "${1:-}" = tools ]; then exit; fi
export PATH="$venv/bin:$PATH"
step "building the wheel"
build_wheel
work=$(mktemp -d)
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
# Postgres runs as a user of its own, and must come through.
chmod 711 "$work"
variables=$(tests/setup/postgres.sh "$work/postgres")
cd ondemand-py
check_types >"$work/types" 2>&1 &
types=$!
step pytest
# The package that was installed is tested, not the directory it was built from.
failed=0
env "$variables" "ONDEMAND_TEST_PROGRAM=$target/debug/ondemand" python -m pytest -o "cache_dir=$target/python/pytest" "$@" || failed=$?
step "checking the types, meanwhile"
wait "$types" || failed=$?
types=
cat "$work/types"
exit "$failed"
