#!/usr/bin/env bash
# Makes the image of Postgres that the tests run in a Docker Engine, from Debian packages: no image registry is needed.
#
#   tests/setup/image.sh build CACHE          builds the image's archive in the directory CACHE unless it is there, and prints its path
#   tests/setup/image.sh load CACHE HOST      loads it as ondemand-postgres:15 into the engine at HOST (unix://…), building it first
#
# The archive is named after this script's contents, so that a change here builds it anew. Building takes about a minute.
set -euo pipefail
# Where an ordinary user's path is kept, it lacks what only root needs.
PATH=$PATH:/usr/sbin:/sbin

readonly image=ondemand-postgres:15
readonly suite=bookworm

say() { echo "image: $*" >&2; }

clean_up() {
    if [ -n "$root" ]; then rm -rf --one-file-system -- "$root" "$root.log"; fi
    if [ -n "$archive" ]; then rm -f -- "$archive.part"; fi
}

# Runs "$@" with its output in the log, whose end is shown if it fails.
logged() {
    if "$@" </dev/null >>"$root.log" 2>&1; then return; fi
    tail -n 30 "$root.log" "$root/debootstrap/debootstrap.log" >&2 2>/dev/null || true
    say "error: $1 failed while building $image"
    return 1
}

# What a container that runs Postgres never reads, and the cluster that Debian makes for the machine's own use.
remove_unneeded() {
    rm -rf -- "${root:?}"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,info,locale} "$root"/var/log/* \
        "$root"/etc/postgresql/15 "$root"/var/lib/postgresql/15 "$root"/etc/ssl/private/*
}

build() {
    archive=$cache/postgres-image-$(sha256sum "$0" | cut -c 1-16).tar
    if [ -e "$archive" ]; then return; fi
    say "building $image from Debian packages (about a minute, once)"
    mkdir -p "$cache"
    # Not in the cache: a build directory may be on a file system that has no devices or no programs.
    root=$(mktemp -d "${TMPDIR:-/var/tmp}/ondemand-image.XXXXXX")
    chmod 755 "$root"
    # In two stages, so that the packages, as they are set up, find the policy that no service is started.
    logged debootstrap --variant=minbase --foreign --include=postgresql,postgresql-contrib "$suite" "$root"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
    # In namespaces of its own: whatever this mounts or starts is gone with it.
    logged unshare --mount --pid --fork --kill-child env --ignore-environment PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 chroot "$root" /debootstrap/debootstrap --second-stage
    remove_unneeded
    tar -C "$root" --one-file-system --numeric-owner --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' \
        -cf "$archive.part" .
    find "$cache" -name 'postgres-image-*.tar' -delete
    mv -- "$archive.part" "$archive"
    clean_up
}

load() {
    local key
    key=$(basename "$archive" .tar)
    # An engine that was started on an old directory may still have it.
    if [ "$(docker --host "$1" image inspect --format '{{index .Config.Labels "ondemand.archive"}}' "$image" 2>/dev/null)" = "$key" ]; then
        return
    fi
    docker --host "$1" import --change "LABEL ondemand.archive=$key" \
        --change 'ENV PATH=/usr/lib/postgresql/15/bin:/usr/sbin:/usr/bin:/sbin:/bin' --change 'ENV LANG=C.UTF-8' \
        "$archive" "$image" >/dev/null
}

if [ "$(id -u)" -ne 0 ]; then
    say "error: a root file system is built by root"
    exit 1
fi
root=
archive=
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
case "${1:-} $#" in
    'build 2' | 'load 3') cache=$(realpath -m -- "$2") ;;
    *)
        echo "usage: tests/setup/image.sh build CACHE | load CACHE HOST" >&2
        exit 2
        ;;
esac
build
if [ "$1" = load ]; then load "$3"; else echo "$archive"; fi
