#!/usr/bin/env bash
# Installs the Debian packages that are missing, by name, asking nothing, and says which.
#
#   tests/setup/packages.sh SET…
#
# Sets: build (to compile), run (to run databases), test (to run the tests), lint (to check the scripts), fuzz (to fuzz), bench (to compare
# the proxy with others).
#
# It starts and enables no service: Debian's packages would start a Docker Engine, other proxies on port 80, and make and start a Postgres
# cluster on port 5432. None is wanted here, so while apt runs, and only then, one file says so to each, where no such file is there already.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/setup/privilege.sh

readonly policy=/usr/sbin/policy-rc.d
readonly cluster_dir=/etc/postgresql-common/createcluster.d
readonly cluster_conf=$cluster_dir/ondemand-setup.conf

packages_of() {
    case "$1" in
        build) echo gcc libc6-dev pkg-config libbtrfsutil-dev libclang-dev ;;
        run)
            echo curl git perl-base postgresql postgresql-contrib postgresql-client btrfs-progs util-linux mount procps
            # Databases that run as processes are separated from each other with it.
            echo bubblewrap
            ;;
        test)
            echo docker.io iptables iproute2 debootstrap debian-archive-keyring ca-certificates zstd gzip curl procps util-linux
            # Repositories to build from, and another shell to build in.
            echo git busybox-static
            # A registry, and what the S3 service behind it and the test runner are installed with.
            echo docker-registry python3-venv
            # A browser looks through the proxy.
            echo chromium chromium-driver
            # Where the kernel enforces AppArmor, a Docker Engine needs its parser to start any container.
            if [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" = Y ]; then echo apparmor; fi
            ;;
        lint) echo shellcheck python3-venv ;;
        fuzz) echo g++ ;;
        bench) echo nginx haproxy caddy wrk util-linux ;;
        *) echo "error: there is no set of packages called $1" >&2 && return 1 ;;
    esac
}

installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Takes back what keeps services from starting; only what this run put there.
undo() {
    local file
    for file in "${made[@]}"; do as_root rm -f -- "$file"; done
    if [ -n "$made_dir" ]; then as_root rmdir --ignore-fail-on-non-empty -- "$made_dir"; fi
}

install_missing() {
    made=()
    made_dir=
    trap undo EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    if [ ! -e "$policy" ]; then
        made+=("$policy")
        printf '#!/bin/sh\n# Written by ondemand for the time of one installation.\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi
    if ! installed postgresql-common; then
        if [ ! -d "$cluster_dir" ]; then made_dir=$cluster_dir; fi
        made+=("$cluster_conf")
        as_root mkdir -p "$cluster_dir"
        echo 'create_main_cluster = false' | as_root tee "$cluster_conf" >/dev/null
    fi

    # What is set up on the machine may ask questions at the end of an installation; these say no.
    local apt=(env DEBIAN_FRONTEND=noninteractive NEEDRESTART_MODE=l APT_LISTCHANGES_FRONTEND=none
        apt-get -q -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold)
    as_root "${apt[@]}" update </dev/null >&2
    as_root "${apt[@]}" install --yes --no-install-recommends "$@" </dev/null >&2

    # Where systemd runs, the packages have also enabled these for the next start of the machine.
    local package unit units=()
    for package in "$@"; do
        case "$package" in
            docker.io) units+=(docker.service docker.socket "${fresh_containerd[@]}") ;;
            nginx | haproxy | caddy | docker-registry) units+=("$package.service") ;;
        esac
    done
    if [ -d /run/systemd/system ]; then
        for unit in "${units[@]}"; do as_root systemctl --quiet disable "$unit" >&2; done
    fi
}

main() {
    if [ $# -eq 0 ]; then
        echo "usage: tests/setup/packages.sh build|run|test|lint|fuzz|bench…" >&2
        exit 2
    fi
    local set package missing=() list
    for set in "$@"; do
        list=$(packages_of "$set")
        for package in $list; do
            if ! installed "$package" && [[ " ${missing[*]} " != *" $package "* ]]; then missing+=("$package"); fi
        done
    done
    if [ ${#missing[@]} -gt 0 ]; then
        if ! command -v apt-get >/dev/null; then
            echo "error: these Debian packages are missing, and there is no apt-get to install them: ${missing[*]}" >&2
            exit 1
        fi
        echo "packages: installing ${missing[*]}" >&2
        fresh_containerd=()
        if ! installed containerd; then fresh_containerd=(containerd.service); fi
        (install_missing "${missing[@]}")
    fi
}

main "$@"
