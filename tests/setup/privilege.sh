# shellcheck shell=bash
# Sourced by the other scripts: defines as_root, which runs a command as root.

# Runs "$@" as root: directly as root, else through sudo. Asks for a password only where sudo insists and a terminal is there to ask.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif ! command -v sudo >/dev/null; then
        echo "error: this needs root: $*" >&2
        echo "hint: run it as root, or install sudo and allow $(id -un) to use it" >&2
        return 1
    elif sudo -n true 2>/dev/null; then
        sudo -n -- "$@"
    elif [ -t 0 ] && [ "${CI:-}" != true ]; then
        sudo -- "$@"
    else
        echo "error: this needs root, and sudo asks for a password, which nobody is there to type: $*" >&2
        echo "hint: run it as root, or allow $(id -un) to use sudo without a password" >&2
        return 1
    fi
}
