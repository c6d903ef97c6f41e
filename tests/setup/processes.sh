# shellcheck shell=bash
# Sourced by the scripts that run engines: waits for things, ends processes by pid, and finds what is free on this machine.

# The engine's program, or the copy of it that with-engine.sh made.
# shellcheck disable=SC2034 # Used by those who source this.
readonly dockerd=${ONDEMAND_TEST_DOCKERD:-dockerd}

# Waits until "$@" succeeds, for as many seconds as the first argument says.
within() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        if [ "$SECONDS" -ge "$deadline" ]; then return 1; fi
        sleep 0.1
    done
}

gone() { ! kill -0 "$1" 2>/dev/null || [ "$(awk '/^State:/ {print $2}' "/proc/$1/status" 2>/dev/null)" = Z ]; }

# Ends a process by pid: asked first, then forced.
end() {
    if gone "$1"; then return; fi
    kill -TERM "$1" 2>/dev/null || true
    if within 30 gone "$1"; then return; fi
    say "process $1 does not end: killing it"
    kill -KILL "$1" 2>/dev/null || true
    within 10 gone "$1"
}

# Prints the mount points under the directory $1, the innermost first.
mounts_under() { awk -v dir="$1/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r; }

# Prints the cgroups that belong to the id $1, the innermost first.
cgroups_of() { find /sys/fs/cgroup -depth -type d -path "*/$1*" 2>/dev/null; }

# Prints the pids of what is in these cgroups.
pids_in_cgroups_of() {
    local group
    while IFS= read -r group; do
        cat "$group/cgroup.procs" 2>/dev/null || true
    done < <(cgroups_of "$1")
}

# Prints a /24, without its last part, that no address or route of this machine overlaps, except the default route.
free_subnet() {
    local third subnet
    for third in {254..128}; do
        subnet=172.31.$third.0/24
        if [ -z "$(ip -4 route show table all root "$subnet")" ] &&
            ! ip -4 route show table all match "$subnet" | grep -qv '^default'; then
            echo "172.31.$third"
            return
        fi
    done
    say "error: no free subnet in 172.31.128.0/17"
    return 1
}

# Makes the bridge $1 in a free /24, and prints that without its last part. One at a time on this machine, as two would find the same one free.
make_bridge() {
    local subnet
    {
        flock 9 && subnet=$(free_subnet) && ip link add name "$1" type bridge &&
            ip addr add "$subnet.1/24" dev "$1" && ip link set "$1" up && echo "$subnet"
    } 9</sys/class/net
}

# Prints a name that nothing else on this machine has.
random_id() { echo "odt-$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')"; }
