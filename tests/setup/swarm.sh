#!/usr/bin/env bash
# Starts and stops the laboratory: a Docker Swarm of three nodes, and an image registry whose store is an S3 service, on this machine.
#
#   tests/setup/swarm.sh start DIR [CACHE]    prints what the tests need to find it, as NAME=VALUE lines
#   tests/setup/swarm.sh kill DIR NODE        ends a node (1, 2, 3; 1 is the manager) at once, as a power cut does
#   tests/setup/swarm.sh revive DIR NODE      starts it again
#   tests/setup/swarm.sh small DIR NODE SIZE  ends it and starts it with an empty disk of that size (64m) for images and containers, /run/disk in
#                                             its mount namespace, until it is killed and revived
#   tests/setup/swarm.sh stop DIR             ends all and takes back all it made outside DIR; again, or after a crash, is fine
#
# A node is a network namespace on a bridge, with a Docker Engine and a host name of its own. Its mounts are in a namespace too, and its /run
# is its own, so that they go with its processes. The registry and the S3 service listen on the bridge's address only. What is kept between
# two starts, the S3 service's Python packages and the image's archive, is in CACHE.
set -euo pipefail
# Where an ordinary user's path is kept, it lacks what only root needs.
PATH=$PATH:/usr/sbin:/sbin
here=$(dirname "$(realpath -- "$0")")
# shellcheck source=tests/setup/processes.sh
. "$here/processes.sh"

readonly nodes='1 2 3'
readonly image=ondemand/test:1
# The same, with the script that clones, builds and starts a service as what it runs.
readonly runner=ondemand/runner:1
# A shell and the engine's client, for the job that removes volumes.
readonly cleaner=ondemand/cleaner:1
# Says that a laboratory has made the mount of namespaces.
readonly mounted=/run/odt-netns
readonly moto='moto[server]==5.2.5'

usage() {
    echo "usage: tests/setup/swarm.sh start DIR [CACHE] | kill DIR NODE | revive DIR NODE | small DIR NODE SIZE | stop DIR" >&2
    exit 2
}

say() { echo "swarm: $*" >&2; }

# Prints the pids of the processes that have these words, one of them being ONDEMAND_LAB=…, in their environment.
marked() {
    local process
    for process in /proc/[0-9]*; do
        if grep -qzxF -e "$1" "$process/environ" 2>/dev/null && ! gone "${process#/proc/}"; then echo "${process#/proc/}"; fi
    done
}

# Prints the pids of what is left of the laboratory, or of one node.
left_of() {
    if [ $# -eq 0 ]; then
        marked "ONDEMAND_LAB=$dir"
        if [ -n "$id" ]; then pids_in_cgroups_of "$id"; fi
    else
        marked "ONDEMAND_LAB_NODE=$dir/$1"
        pids_in_cgroups_of "$id-$1"
    fi
}

kill_left() {
    local pid left
    left=$(left_of "$@" | sort -un)
    if [ -z "$left" ]; then return 0; fi
    for pid in $left; do kill -KILL "$pid" 2>/dev/null || true; done
    return 1
}

socket() { echo "$dir/$1/docker.sock"; }
on() { docker --host "unix://$(socket "$1")" "${@:2}"; }
answers() { curl --noproxy "*" --silent --fail --max-time 5 --unix-socket "$(socket "$1")" http://docker/_ping >/dev/null; }

# Starts a process of the laboratory's own, with its output in a log. What this machine's environment says about proxies, certificates or S3
# is not for it. The engines may use more memory before they collect garbage, which takes much of their time otherwise.
background() {
    local log=$1
    shift
    setsid -- env --ignore-environment "PATH=$PATH" "HOME=$dir" GOGC=400 "ONDEMAND_LAB=$dir" "$@" </dev/null >>"$log" 2>&1 &
    # Or the shell would tell how it ended.
    disown
}

# Starts a node's engine; with a size, on a small disk. That one is in memory, in the node's own mount namespace, so it goes with its processes; what the
# node has of the swarm, and the images it had before, stay where they are.
start_node() {
    local node=$1 size=${2:-} own=$dir/$1
    mkdir -p "$own"
    printf '{"deprecated-key-path": "%s", "insecure-registries": ["%s.0/24"]}\n' "$own/key.json" "$subnet" >"$own/daemon.json"
    # What is quoted is for that shell to expand.
    # shellcheck disable=SC2016
    background "$own/log" "ONDEMAND_LAB_NODE=$own" nsenter --net="/run/netns/$id-$node" unshare --uts --mount \
        sh -c 'set -e
            hostname "$1"
            mount -t tmpfs -o mode=755 tmpfs /run
            if [ -n "$2" ]; then
                mkdir /run/disk
                mount -t tmpfs -o "mode=711,size=$2" tmpfs /run/disk
                # As the engine does itself, but not over what is mounted below.
                mount --bind "$3" "$3"
                mount --make-shared "$3"
                for part in overlay2 image containers; do
                    mkdir "/run/disk/$part"
                    mount --bind "/run/disk/$part" "$3/$part"
                done
            fi
            shift 3
            exec "$@"' sh "node-$node" "$size" "$own/data" \
        "$dockerd" --config-file "$own/daemon.json" --host "unix://$own/docker.sock" --host unix:///run/docker.sock --group root \
        --data-root "$own/data" --exec-root "$own/exec" --pidfile "$own/docker.pid" \
        --storage-driver overlay2 --exec-opt native.cgroupdriver=cgroupfs --cgroup-parent "/$id-$node"
}

await_node() {
    if within 60 answers "$1"; then return; fi
    tail -n 20 "$dir/$1/log" >&2
    say "error: the engine of node $1 does not start; its log is $dir/$1/log"
    return 1
}

# Makes the namespaces, joined to the bridge by a cable each.
make_network() {
    local node
    # Where another Docker Engine runs, this machine forwards nothing that isn't allowed, and may count what a bridge passes on as forwarded.
    if iptables -S FORWARD 2>/dev/null | grep -qxF -e '-P FORWARD DROP'; then iptables -I FORWARD -i "$id" -o "$id" -j ACCEPT; fi
    # One at a time on this machine. The first namespace makes a mount of the directory that they are in, which the last laboratory takes back.
    {
        flock 9
        if ! mountpoint --quiet /run/netns; then touch "$mounted"; fi
        for node in $nodes; do ip netns add "$id-$node"; done
    } 9</sys/class/net
    for node in $nodes; do
        ip link add name "$id-$node" type veth peer name eth0 netns "$id-$node"
        ip link set "$id-$node" master "$id" up
        ip -n "$id-$node" link set lo up
        ip -n "$id-$node" addr add "$subnet.1$node/24" dev eth0
        ip -n "$id-$node" link set eth0 up
    done
}

# Installs the S3 service's Python packages in the cache, unless they are there.
install_moto() {
    # Its programs name the directory that they are in.
    if [ "$(cat "$cache/moto/version" 2>/dev/null)" = "$moto in $cache" ]; then return; fi
    say "installing $moto (once)"
    rm -rf -- "$cache/moto"
    /usr/bin/python3 -m venv "$cache/moto"
    # It runs a small part of what this installs, and compiles that by itself.
    "$cache/moto/bin/pip" install --no-compile --quiet --disable-pip-version-check "$moto" >&2
    echo "$moto in $cache" >"$cache/moto/version"
}

# Builds the image of the job that removes volumes in the cache.
build_cleaner() {
    local root program key client
    client=$(command -v docker)
    key=$(cat "$0" /bin/busybox "$client" | sha256sum | cut -c 1-16)
    cleaner_archive=$cache/swarm-cleaner-$key.tar
    if [ -e "$cleaner_archive" ]; then return; fi
    root=$dir/image
    mkdir -p "$root"/{bin,run,var,usr/bin}
    # Where the socket is mounted.
    ln -s ../run "$root/var/run"
    cp /bin/busybox "$root/bin"
    for program in sh sleep date timeout; do ln -s busybox "$root/bin/$program"; done
    cp "$client" "$root/usr/bin/docker"
    copy_libraries "$root" "$client"
    find "$cache" -maxdepth 1 -name 'swarm-cleaner-*.tar' -delete
    tar -C "$root" --numeric-owner --owner 0 --group 0 -cf "$cleaner_archive.part" .
    rm -rf --one-file-system -- "$root"
    mv -- "$cleaner_archive.part" "$cleaner_archive"
}

# Copies the libraries that programs need. One that is linked statically needs none, and is no error.
copy_libraries() {
    local root=$1 library libraries
    shift
    libraries=$({ ldd "$@" 2>/dev/null || true; } | { grep -o '/[^ ]*lib[^ ]*\.so[^ ]*' || true; } | sort -u)
    for library in $libraries; do
        mkdir -p "$root$(dirname "$library")"
        cp --dereference "$library" "$root$library"
    done
}

# Builds the tests' image in the cache, from programs of this machine and the libraries they need: a shell, git, curl, Perl and psql.
build_image() {
    local root program key psql script=$here/../../ondemand-core/runner/run.sh
    psql=$(find /usr/lib/postgresql -path '*/bin/psql' | sort -V | tail -n 1)
    key=$(cat "$0" "$script" /bin/busybox /usr/bin/git /usr/bin/curl /usr/bin/perl "$psql" | sha256sum | cut -c 1-16)
    archive=$cache/swarm-image-$key.tar
    if [ -e "$archive" ]; then return; fi
    # Where a stop finds it, whenever this is cut off.
    root=$dir/image
    mkdir -p "$root"/{bin,etc,root,run,var,usr/bin,usr/lib/git-core}
    mkdir -m 1777 "$root/tmp" "$root/var/tmp"
    cp /bin/busybox "$root/bin"
    for program in $(/bin/busybox --list); do ln -s busybox "$root/bin/$program" 2>/dev/null || true; done
    cp /usr/bin/{git,curl,perl} "$psql" "$root/usr/bin"
    cp "$script" "$root/usr/bin/run.sh"
    mkdir -p "$root/usr/lib/$(uname -m)-linux-gnu"
    cp -r "/usr/lib/$(uname -m)-linux-gnu/perl-base" "$root/usr/lib/$(uname -m)-linux-gnu"
    cp /usr/lib/git-core/git-remote-http "$root/usr/lib/git-core"
    ln -s git-remote-http "$root/usr/lib/git-core/git-remote-https"
    copy_libraries "$root" /usr/bin/{git,curl,perl} "$psql" /usr/lib/git-core/git-remote-http
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/tmp:/bin/sh\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
    chmod 755 "$root"
    find "$cache" -maxdepth 1 -name 'swarm-image-*.tar' -delete
    tar -C "$root" --numeric-owner --owner 0 --group 0 -cf "$archive.part" .
    rm -rf --one-file-system -- "$root"
    mv -- "$archive.part" "$archive"
}

start_registry() {
    cat >"$dir/registry.yml" <<YAML
version: 0.1
log: {level: warn, accesslog: {disabled: true}}
storage:
  s3: {region: us-east-1, regionendpoint: "http://$subnet.1:9000", bucket: registry, accesskey: test, secretkey: test, secure: false}
  redirect: {disable: true}
  cache: {blobdescriptor: inmemory}
http: {addr: "$subnet.1:5000"}
YAML
    background "$dir/registry.log" docker-registry serve "$dir/registry.yml"
    if within 30 curl --noproxy "*" --silent --fail --max-time 5 --output /dev/null "http://$subnet.1:5000/v2/"; then return; fi
    tail -n 20 "$dir/registry.log" >&2
    say "error: the registry does not start; its log is $dir/registry.log"
    return 1
}

start_store() {
    background "$dir/s3.log" "$cache/moto/bin/moto_server" --host "$subnet.1" --port 9000
    if within 30 curl --noproxy "*" --silent --fail --max-time 5 --output /dev/null --request PUT "http://$subnet.1:9000/registry"; then return; fi
    tail -n 20 "$dir/s3.log" >&2
    say "error: the S3 service does not start; its log is $dir/s3.log"
    return 1
}

start() {
    local node token
    if [ -e "$dir/environment" ] && answers 1; then
        cat "$dir/environment"
        return
    fi
    stop
    mkdir -p "$dir" "$cache"
    # One at a time: another laboratory may be starting.
    exec 8>"$cache/swarm.lock"
    flock 8
    install_moto
    build_image
    build_cleaner
    exec 8>&-

    # Written down before it is made, so that a stop finds it whenever this is cut off.
    id=$(random_id)
    echo "$id" >"$dir/id"
    subnet=$(make_bridge "$id")
    echo "$subnet" >"$dir/subnet"
    make_network
    for node in $nodes; do start_node "$node"; done
    start_store
    start_registry
    for node in $nodes; do await_node "$node"; done

    # Nodes that die are missed after three heartbeats: of one second, not five, so that the tests need not wait.
    on 1 swarm init --advertise-addr "$subnet.11" --dispatcher-heartbeat 1s >/dev/null
    token=$(on 1 swarm join-token --quiet worker)
    for node in 2 3; do on "$node" swarm join --advertise-addr "$subnet.1$node" --token "$token" "$subnet.11:2377" >/dev/null & done
    on 1 import --change 'ENV PATH=/usr/bin:/bin' --change 'CMD ["/bin/sh"]' "$archive" "$subnet.1:5000/$image" >/dev/null
    on 1 push --quiet "$subnet.1:5000/$image" >/dev/null
    on 1 import --change 'ENV PATH=/usr/bin:/bin' --change 'ENTRYPOINT ["/bin/sh", "/usr/bin/run.sh"]' "$archive" "$subnet.1:5000/$runner" >/dev/null
    on 1 push --quiet "$subnet.1:5000/$runner" >/dev/null
    on 1 import --change 'ENV PATH=/usr/bin:/bin' "$cleaner_archive" "$subnet.1:5000/$cleaner" >/dev/null
    on 1 push --quiet "$subnet.1:5000/$cleaner" >/dev/null
    if ! within 30 all_ready; then
        say "error: the nodes do not join"
        on 1 node ls >&2
        return 1
    fi
    environment >"$dir/environment"
    cat "$dir/environment"
}

all_ready() { [ "$(on 1 node ls --format '{{.Status}}' | grep -cx Ready)" -eq 3 ]; }

environment() {
    echo "ONDEMAND_TEST_SWARM_HOST=unix://$(socket 1)"
    echo "ONDEMAND_TEST_SWARM_WORKERS=unix://$(socket 2),unix://$(socket 3)"
    echo "ONDEMAND_TEST_SWARM_DIR=$dir"
    echo "ONDEMAND_TEST_SWARM_BRIDGE=$subnet.1"
    echo "ONDEMAND_TEST_SWARM_IMAGE=$subnet.1:5000/$image"
    echo "ONDEMAND_TEST_RUNNER_IMAGE=$subnet.1:5000/$runner"
    echo "ONDEMAND_TEST_CLEANER_IMAGE=$subnet.1:5000/$cleaner"
    echo "ONDEMAND_TEST_REGISTRY=$subnet.1:5000"
}

stop() {
    local node mount group failed=0
    if [ ! -d "$dir" ]; then return; fi
    read_id
    # Nothing in it is worth an orderly end.
    if ! within 60 kill_left; then
        say "error: processes that do not end: $(left_of | tr '\n' ' ')"
        failed=1
    fi
    # Their own namespace's went with them.
    while IFS= read -r mount; do
        umount -- "$mount" 2>/dev/null || umount --lazy -- "$mount" || true
    done < <(mounts_under "$dir")
    if [ -n "$(mounts_under "$dir")" ]; then
        say "error: still mounted: $(mounts_under "$dir" | tr '\n' ' ')"
        failed=1
    fi
    if [ -n "$id" ]; then
        for node in $nodes; do
            if [ -e "/run/netns/$id-$node" ]; then ip netns delete "$id-$node" || failed=1; fi
            if [ -e "/sys/class/net/$id-$node" ]; then ip link delete "$id-$node" 2>/dev/null || true; fi
        done
        {
            flock 9
            # Not while others have some there.
            if [ -e "$mounted" ] && [ -z "$(ls -A /run/netns)" ]; then
                if ! mountpoint --quiet /run/netns || within 5 umount /run/netns; then rm -f -- "$mounted"; else failed=1; fi
            fi
        } 9</sys/class/net
        if [ -e "/sys/class/net/$id" ]; then ip link delete "$id" || failed=1; fi
        while iptables -D FORWARD -i "$id" -o "$id" -j ACCEPT 2>/dev/null; do :; done
        while IFS= read -r group; do rmdir -- "$group" 2>/dev/null || true; done < <(cgroups_of "$id")
    fi
    if [ "$failed" -eq 0 ]; then
        rm -rf --one-file-system -- "$dir"/{1,2,3} "$dir"/{image,environment,subnet,registry.yml,registry.log,s3.log,id}
    fi
    return "$failed"
}

read_id() {
    id=$(cat "$dir/id" 2>/dev/null) || id=
    if [[ ! "$id" =~ ^odt-[0-9a-f]{8}$ ]]; then id=; fi
    subnet=$(cat "$dir/subnet" 2>/dev/null) || subnet=
}

# The laboratory must be there, to have something done to one node.
need_node() {
    read_id
    case " $nodes " in *" $1 "*) ;; *) usage ;; esac
    if [ -n "$id" ] && [ -n "$subnet" ]; then return; fi
    say "error: no laboratory was started in $dir"
    exit 1
}

# Starts a node that was ended.
start_again() {
    # A power cut leaves this too.
    rm -f -- "$dir/$1/docker.pid"
    rm -rf --one-file-system -- "$dir/$1/exec"
    start_node "$@"
    await_node "$1"
}

# What does not start, or is cut off, leaves nothing running.
give_up() {
    local status=$?
    trap - EXIT
    stop || true
    exit "$status"
}

if [ $# -lt 2 ] || [ $# -gt 4 ]; then usage; fi
if [ "$(id -u)" -ne 0 ]; then
    say "error: Docker Engines are started and stopped by root"
    exit 1
fi
id=
subnet=
archive=
cleaner_archive=
dir=$(realpath -m -- "$2")
case "$1 $#" in
    start\ *)
        cache=$(realpath -m -- "${3:-${CARGO_TARGET_DIR:-$here/../../target}/test-cache}")
        trap give_up EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM HUP
        start
        trap - EXIT
        ;;
    'kill 3')
        need_node "$3"
        within 60 kill_left "$3"
        ;;
    'revive 3')
        need_node "$3"
        start_again "$3"
        ;;
    'small 4')
        need_node "$3"
        within 60 kill_left "$3"
        start_again "$3" "$4"
        ;;
    'stop 2') stop ;;
    *) usage ;;
esac
