#!/usr/bin/env bash
# Starts and stops a Docker Engine of the tests' own, beside whatever engine the machine has.
#
#   tests/setup/docker.sh start DIR     prints what the tests need to find it, as NAME=VALUE lines
#   tests/setup/docker.sh stop DIR      ends it and takes back all it made outside DIR; again, or after a crash, is fine
#
# Everything is under DIR: socket, data, state, a containerd, the configuration. Outside there is a bridge, a cgroup, and nothing else:
# no iptables rule, no forwarding. Ports are published by Docker's user-land proxy, which needs neither; containers cannot reach beyond
# the bridge. stop leaves the images in DIR, for the next start.
set -euo pipefail
# Where an ordinary user's path is kept, it lacks what only root needs.
PATH=$PATH:/usr/sbin:/sbin
here=$(dirname "$(realpath -- "$0")")
# shellcheck source=tests/setup/processes.sh
. "$here/processes.sh"

readonly image=ondemand-postgres:15

usage() {
    echo "usage: tests/setup/docker.sh start|stop DIR" >&2
    exit 2
}

say() { echo "docker: $*" >&2; }

# Prints the pid in DIR/$1.pid if that process lives and is ours: a pid may have been given to another since.
pid_of() {
    local pid
    pid=$(cat "$dir/$1.pid" 2>/dev/null) || return 1
    [[ "$pid" =~ ^[0-9]+$ ]] || return 1
    tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$dir/" || return 1
    echo "$pid"
}

# Prints the pids of what is left of this engine: what names DIR as it runs (shims, proxies), and what is in its containers.
leftovers() {
    local process
    for process in /proc/[0-9]*; do
        case "$(tr '\0' ' ' 2>/dev/null <"$process/cmdline")" in
            containerd-shim*"$dir/"* | */containerd-shim*"$dir/"* | */docker-proxy*"$dir/"* | runc*"$dir/"*) echo "${process#/proc/}" ;;
        esac
    done
    if [ -n "$id" ]; then
        pids_in_cgroups_of "$id"
    fi
}

kill_leftovers() {
    local pid left
    left=$(leftovers | sort -un)
    if [ -z "$left" ]; then return 0; fi
    for pid in $left; do kill -KILL "$pid" 2>/dev/null || true; done
    return 1
}

answers() { curl --silent --fail --max-time 5 --unix-socket "$dir/docker.sock" http://docker/_ping >/dev/null; }

# Answers, or has ended: either way there is nothing more to wait for.
settled() { gone "$1" || answers; }

start() {
    local pid subnet
    if [ -e "$dir/docker.sock" ] && pid_of docker >/dev/null && answers; then
        environment
        return
    fi
    stop
    mkdir -p "$dir/data" "$dir/exec" "$dir/containerd"

    # Written down before it is made, so that a stop finds it whenever this is cut off.
    id=$(random_id)
    echo "$id" >"$dir/id"
    subnet=$(make_bridge "$id")

    # A containerd of its own: dockerd would otherwise use the machine's, where it runs.
    cat >"$dir/containerd.toml" <<TOML
version = 2
root = "$dir/containerd/root"
state = "$dir/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.opt"]
[grpc]
  address = "$dir/containerd.sock"
TOML
    # More memory, and less time for collecting garbage.
    export GOGC=400
    setsid -- containerd --config "$dir/containerd.toml" </dev/null >"$dir/containerd.log" 2>&1 &
    pid=$!
    echo "$pid" >"$dir/containerd.pid"
    if ! within 30 test -S "$dir/containerd.sock"; then
        tail -n 20 "$dir/containerd.log" >&2
        say "error: containerd does not start; its log is $dir/containerd.log"
        return 1
    fi

    # An empty configuration, or /etc/docker/daemon.json would be read; its key would otherwise be made in /etc/docker.
    printf '{"deprecated-key-path": "%s"}\n' "$dir/key.json" >"$dir/daemon.json"
    setsid -- "$dockerd" --config-file "$dir/daemon.json" \
        --host "unix://$dir/docker.sock" --group "$(id -gn)" \
        --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/dockerd.pid" \
        --containerd "$dir/containerd.sock" --storage-driver overlay2 \
        --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$id" \
        --bridge "$id" --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false --userland-proxy=true \
        </dev/null >"$dir/docker.log" 2>&1 &
    pid=$!
    echo "$pid" >"$dir/docker.pid"
    if ! within 60 settled "$pid" || ! answers; then
        tail -n 20 "$dir/docker.log" >&2
        say "error: dockerd does not start; its log is $dir/docker.log"
        return 1
    fi
    environment
}

environment() {
    echo "ONDEMAND_TEST_DOCKER_HOST=unix://$dir/docker.sock"
    echo "ONDEMAND_TEST_IMAGE=$image"
}

stop() {
    local pid mount socket group bridge failed=0
    if [ ! -d "$dir" ]; then return; fi
    id=$(cat "$dir/id" 2>/dev/null) || id=
    if [[ ! "$id" =~ ^odt-[0-9a-f]{8}$ ]]; then id=; fi

    if pid=$(pid_of docker); then end "$pid"; fi
    # Where the engine did not end by itself, its containers and their shims go on.
    local sockets=()
    while IFS= read -r socket; do sockets+=("${socket#unix://}"); done \
        < <(cat "$dir"/containerd/state/io.containerd.runtime.v2.task/*/*/address 2>/dev/null | sed 's/$/\n/' | grep '^unix://')
    if pid=$(pid_of containerd); then end "$pid"; fi
    if ! within 20 kill_leftovers; then
        say "error: processes that do not end: $(leftovers | tr '\n' ' ')"
        failed=1
    fi
    for socket in "${sockets[@]}"; do
        case "$socket" in /run/containerd/s/*) rm -f -- "$socket" ;; esac
    done
    # Every engine makes these; what another one keeps in them stays.
    rmdir --ignore-fail-on-non-empty /run/containerd/s /run/containerd /run/docker/plugins /run/docker 2>/dev/null || true

    while IFS= read -r mount; do
        umount -- "$mount" 2>/dev/null || umount --lazy -- "$mount" || true
    done < <(mounts_under "$dir")
    if [ -n "$(mounts_under "$dir")" ]; then
        say "error: still mounted: $(mounts_under "$dir" | tr '\n' ' ')"
        failed=1
    fi
    # The bridges of networks that nobody removed outlive the engine, however that ended. Each is named after the network's random id.
    while IFS= read -r bridge; do
        if [ -e "/sys/class/net/$bridge" ]; then ip link delete "$bridge" || failed=1; fi
    done < <(grep -aoE 'br-[0-9a-f]{12}' "$dir/data/network/files/local-kv.db" 2>/dev/null | sort -u)
    if [ -n "$id" ]; then
        if [ -e "/sys/class/net/$id" ]; then ip link delete "$id" || failed=1; fi
        while IFS= read -r group; do rmdir -- "$group" 2>/dev/null || true; done \
            < <(cgroups_of "$id")
    fi
    if [ "$failed" -eq 0 ]; then
        rm -rf -- "$dir/id" "$dir"/{docker,dockerd,containerd}.pid "$dir"/{docker,containerd}.sock "$dir/containerd.sock.ttrpc" \
            "$dir/exec" "$dir/containerd/state"
    fi
    return "$failed"
}

# What does not start, or is cut off, leaves nothing running.
give_up() {
    local status=$?
    trap - EXIT
    stop || true
    exit "$status"
}

if [ $# -ne 2 ]; then usage; fi
if [ "$(id -u)" -ne 0 ]; then
    say "error: a Docker Engine is started and stopped by root"
    exit 1
fi
id=
dir=$(realpath -m -- "$2")
case "$1" in
    start)
        trap give_up EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM HUP
        start
        trap - EXIT
        ;;
    stop) stop ;;
    *) usage ;;
esac
