#!/usr/bin/env bash
# Builds the Python package's wheel, installs it into a new virtual environment, checks its types, and runs its tests against a keeper and a
# server. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*" >&2; }

target=${CARGO_TARGET_DIR:-$PWD/target}
venv=$target/python/venv
wheels=$target/python/wheels

step "building the wheel"
rm -rf -- "$wheels"
/usr/bin/python3 -m venv --clear "$venv"
export PATH="$venv/bin:$PATH"
export PIP_DISABLE_PIP_VERSION_CHECK=1
pip install --quiet --requirement ondemand-py/tests/requirements.txt
# As pip builds it for everybody, but with the tests' profile, whose dependencies are built already, and with what was installed above.
MATURIN_PEP517_ARGS="--profile dev --locked" pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$wheels" ./ondemand-py
pip install --quiet --no-deps "$wheels"/*.whl
# What another machine lacks is in it.
held=$(python -m zipfile --list "$wheels"/*manylinux*.whl)
if [[ $held != *ondemand.libs/libbtrfsutil* ]]; then
    echo "error: the wheel does not hold libbtrfsutil" >&2
    exit 1
fi

cd ondemand-py
step mypy
mypy --strict python/ondemand
mypy --strict tests pep517
mypy --strict ../examples/python/*.py
step pyright
pyright python tests pep517 ../examples/python

step pytest
# The package that was installed is tested, not the directory it was built from.
ONDEMAND_TEST_PROGRAM=$target/debug/ondemand python -m pytest "$@"
