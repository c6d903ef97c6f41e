#!/usr/bin/env bash
# Runs a command that needs Docker Engines, and may make mounts, processes and network devices. Checks afterwards that it left none.
#
#   tests/setup/with-engine.sh [--engines LIST] [--await] CACHE COMMAND…
#
# As root. The command gets a temporary directory of its own (TMPDIR) and what LIST names, by default "docker swarm faults":
#   postgres  programs of Postgres whose `initdb` copies a cluster (ONDEMAND_TEST_POSTGRES)
#   docker    one engine with the image of Postgres (ONDEMAND_TEST_DOCKER_HOST, ONDEMAND_TEST_IMAGE)
#   swarm     a swarm of three nodes and a registry (ONDEMAND_TEST_SWARM_…, ONDEMAND_TEST_REGISTRY)
#   faults    another such swarm, whose nodes may be ended (ONDEMAND_FAULTS_…)
# They start side by side. With --await, the command then waits for a line on standard input, and does not run if that ends first.
#
# The exit status is the command's; or 1 if it left something, which is named and then removed. Everything is removed however this ends; after a
# SIGKILL, by the next run.
#
# What only traps call looks unreachable to shellcheck:
# shellcheck disable=SC2317
set -euo pipefail
# Where an ordinary user's path is kept, it lacks what only root needs.
PATH=$PATH:/usr/sbin:/sbin

here=$(dirname "$(realpath -- "$0")")

say() { echo "with-engine: $*" >&2; }

# Prints when the process started, in clock ticks since boot: with its pid, that tells processes apart.
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }

mounts_of() { awk -v dir="$1/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r; }

loops_of() { losetup --list --noheadings --raw --output NAME,BACK-FILE | awk -v dir="$1/" 'index($2, dir) == 1 {print $1}'; }

# Prints the limits of the loop devices that hold nothing, each with its file. A device that held a pool, and was unmounted by a test, keeps the pool's.
limits() {
    local file
    for file in /sys/block/loop*/queue/max_sectors_kb; do
        if [ -e "$file" ] && [ ! -e "${file%/queue/*}/loop" ]; then echo "$file $(cat "$file")"; fi
    done | sort
}

restore_limits() {
    local file was
    while read -r file was; do
        if [ "$(cat "$file")" != "$was" ]; then echo "$was" >"$file" || true; fi
    done < <(limits | join - <(echo "$limits") | cut -d ' ' -f 1,3)
}

# Prints the pids of the live processes that belong to a run: they have its id in their environment, or work in the directory or name it.
processes_of() {
    local run=$1 dir=$2 process pid
    for process in /proc/[0-9]*; do
        pid=${process#/proc/}
        # This script, and the subshell that runs this, name the directory too.
        if [ "$pid" = "$$" ] || [ "$pid" = "$BASHPID" ]; then continue; fi
        if [[ "$(readlink "$process/cwd" 2>/dev/null)" == "$dir/"* ]] ||
            grep -qzF -e "$dir/" "$process/cmdline" 2>/dev/null ||
            grep -qzxF -e "ONDEMAND_TEST_RUN=$run" "$process/environ" 2>/dev/null; then
            if grep -q '^State:[[:space:]]*[^ZX]' "$process/status" 2>/dev/null; then echo "$pid"; fi
        fi
    done
}

# Prints what cannot be told apart by a directory: network namespaces and bridges (but the tests' engines'), control groups, and the servers' directories.
shared() {
    local path
    {
        for path in /run/netns/* /sys/class/net/*/bridge /run/ondemand-* /tmp/ondemand-[0-9]*; do
            case "$path" in
                *'*'* | /sys/class/net/odt-* | /run/netns/odt-*) ;;
                /sys/class/net/*) echo "bridge $(basename "$(dirname "$path")")" ;;
                /run/netns/*) echo "network namespace $(basename "$path")" ;;
                *) echo "directory $path" ;;
            esac
        done
        # Of what runs beside, each has a process.
        while IFS= read -r path; do
            if [ -z "$(cat "$path/cgroup.procs" 2>/dev/null)" ]; then echo "control group $path"; fi
        done < <(find /sys/fs/cgroup -type d -links 2 -path '*/ondemand/*' 2>/dev/null)
    } | sort
}

# Prints what the command left outside its engine, a line each.
leftovers() {
    local pids pid
    pids=$(processes_of "$(basename "$state")" "$state/tmp") || return
    for pid in $pids; do
        echo "process $pid: $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | cut -c 1-200)"
    done
    mounts_of "$state/tmp" | sed 's/^/mount /' &&
        loops_of "$state/tmp" | sed 's/^/loop device /' &&
        comm -13 "$state/shared" <(shared) &&
        find "$state/tmp" -mindepth 1 -maxdepth 1 -printf 'file %p\n'
}

# Prints what the command left in its engine, a line each. What fails of it is a failure of it all.
leftovers_in_engine() {
    local docker=(docker --host "$ONDEMAND_TEST_DOCKER_HOST")
    "${docker[@]}" ps --all --format 'container {{.ID}} {{.Names}} ({{.Status}})' &&
        "${docker[@]}" volume ls --format 'docker volume {{.Name}}' &&
        "${docker[@]}" network ls --filter type=custom --format 'docker network {{.Name}}' &&
        # Ended here and now, or the engine gives each ten seconds to end.
        "${docker[@]}" ps --quiet | xargs --no-run-if-empty "${docker[@]}" kill >/dev/null
}

# Prints what the command left in the swarm of the manager $1, a line each; the same.
leftovers_in_swarm() {
    local docker=(docker --host "$1")
    "${docker[@]}" service ls --format 'service {{.Name}} ({{.Replicas}})' &&
        "${docker[@]}" secret ls --format 'secret {{.Name}}' &&
        "${docker[@]}" config ls --format 'config {{.Name}}' &&
        # The swarm's own is there from the beginning.
        "${docker[@]}" network ls --filter driver=overlay --format '{{.Name}}' | sed -n '/^ingress$/!s/^/swarm network /p' &&
        "${docker[@]}" volume ls --format 'volume of the manager {{.Name}}'
}

# Prints what "$@" finds. A look that fails has found something: nobody knows what there is.
look() {
    "$@" 2>&1 || echo "$1 failed, so it is not known what was left"
}

# Removes all that is left of a run.
sweep() {
    local run=$1 deadline=$((SECONDS + 10)) left mount loop pid
    "$here/docker.sh" stop "$run/docker" || true
    "$here/swarm.sh" stop "$run/swarm" || true
    "$here/swarm.sh" stop "$run/faults" || true
    while left=$(processes_of "$(basename "$run")" "$run") && [ -n "$left" ] && [ "$SECONDS" -lt "$deadline" ]; do
        for pid in $left; do kill -KILL "$pid" 2>/dev/null || true; done
        sleep 0.1
    done
    while IFS= read -r mount; do umount -- "$mount" || umount --lazy -- "$mount" || true; done < <(mounts_of "$run")
    while IFS= read -r loop; do losetup --detach "$loop" || true; done < <(loops_of "$run")
    rm -rf --one-file-system -- "$run"
}

# Sweeps up after runs that were killed before they could.
sweep_stale() {
    local run pid start
    for run in "$base"/ondemand-test.*; do
        if [ ! -d "$run" ] || [ -L "$run" ] || [ "$(stat --format %u "$run")" -ne 0 ]; then continue; fi
        read -r pid start 2>/dev/null <"$run/owner" || continue
        if [ "$(started "$pid")" = "$start" ]; then continue; fi
        say "removing what is left of a run that was killed: $run"
        sweep "$run"
    done
}

finish() {
    local status=$? left=
    trap - EXIT
    trap '' INT TERM HUP
    if [ -n "$command" ]; then
        if [ -n "${ONDEMAND_TEST_DOCKER_HOST:-}" ]; then left=$(look leftovers_in_engine); fi
        local manager
        for manager in ${ONDEMAND_TEST_SWARM_HOST:+"$ONDEMAND_TEST_SWARM_HOST"} ${ONDEMAND_FAULTS_SWARM_HOST:+"$ONDEMAND_FAULTS_SWARM_HOST"}; do
            left=$(printf '%s\n%s' "$left" "$(look leftovers_in_swarm "$manager")")
        done
        # A process that was told to end may need a moment.
        local deadline=$((SECONDS + 5))
        while [ -n "$(leftovers)" ] && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.2; done
        left=$(printf '%s\n%s' "$left" "$(look leftovers)" | sed '/^$/d')
    fi
    sweep "$state"
    restore_limits
    sed -n 's/^control group //p' <<<"$left" | while IFS= read -r group; do
        # With what it is in, where nothing else is.
        rmdir -- "$group" "$(dirname "$group")" || true
    done
    if [ -n "$left" ]; then
        say "error: this was left behind:"
        echo "$left" >&2
        if [ "$status" -eq 0 ]; then status=1; fi
    fi
    exit "$status"
}

# Passes a signal on to the command, and goes on waiting for it.
interrupt() {
    interrupted=$1
    if [ -n "$command" ]; then
        kill -TERM "$command" 2>/dev/null || true
    elif [ ${#starting[@]} -eq 0 ]; then
        exit "$interrupted"
    fi
}

# Makes the copy of dockerd that the engines run, in the cache: it starts in half the time, and a container of a swarm starts it ten times. Where there
# can be none, the engines run dockerd itself.
place_dockerd() {
    local program copy
    program=$(readlink -f -- "$(command -v dockerd)")
    copy=$cache/engine-$(cat "$here/place.py" "$program" | sha256sum | cut -c 1-16)/dockerd
    mkdir -p "$cache"
    (
        flock 8
        if [ -e "$copy" ]; then exit; fi
        rm -rf -- "$cache"/engine-*
        mkdir "$(dirname "$copy")"
        "$here/place.py" "$program" "$copy.part" || exit 0
        # Programs may not run from where the cache is.
        if [ "$("$copy.part" --version)" = "$(dockerd --version)" ]; then mv -- "$copy.part" "$copy"; fi
    ) 8>"$cache/engine.lock"
    if [ -e "$copy" ]; then export ONDEMAND_TEST_DOCKERD=$copy; fi
}

start_postgres() { "$here/postgres.sh" "$state/postgres"; }

start_docker() {
    "$here/image.sh" build "$cache" >/dev/null
    "$here/docker.sh" start "$state/docker"
    "$here/image.sh" load "$cache" "unix://$state/docker/docker.sock" >&2
}

start_swarm() { "$here/swarm.sh" start "$state/swarm" "$cache"; }

start_faults() { "$here/swarm.sh" start "$state/faults" "$cache" | sed 's/^ONDEMAND_TEST_/ONDEMAND_FAULTS_/'; }

# Starts the engines side by side; each prints what the command needs to find it. Returns once all have started or failed, also when a signal
# comes: none may still be starting while what they made is taken back.
start_engines() {
    local engine pid status failed=0
    case "$engines" in *docker* | *swarm* | *faults*) place_dockerd ;; esac
    for engine in $engines; do
        "start_$engine" >"$state/$engine.variables" &
        starting+=($!)
    done
    for pid in "${starting[@]}"; do
        status=0
        wait "$pid" || status=$?
        # A signal ends the waiting, not what is waited for.
        while kill -0 "$pid" 2>/dev/null; do
            status=0
            wait "$pid" || status=$?
        done
        if [ "$status" -ne 0 ]; then failed=1; fi
    done
    starting=()
    if [ "$interrupted" -ne 0 ]; then exit "$interrupted"; fi
    return "$failed"
}

usage() {
    echo "usage: tests/setup/with-engine.sh [--engines LIST] [--await] CACHE COMMAND…" >&2
    exit 2
}

main() {
    local cache variable status=0 engines='docker swarm faults' await=
    while [[ "${1:-}" == --* ]]; do
        case "$1" in
            --engines)
                if [ $# -lt 2 ]; then usage; fi
                engines=$2
                shift
                ;;
            --await) await=1 ;;
            *) usage ;;
        esac
        shift
    done
    if [ $# -lt 2 ]; then usage; fi
    if [ "$(id -u)" -ne 0 ]; then
        say "error: a Docker Engine is started by root"
        exit 1
    fi
    cache=$1
    shift
    local engine
    for engine in $engines; do case "$engine" in postgres | docker | swarm | faults) ;; *) usage ;; esac; done
    command=
    starting=()
    interrupted=0
    base=${TMPDIR:-/var/tmp}
    sweep_stale
    state=$(mktemp -d "$base/ondemand-test.XXXXXX")
    trap finish EXIT
    trap 'interrupt 130' INT
    trap 'interrupt 143' TERM HUP
    echo "$$ $(started $$)" >"$state/owner"
    # Postgres runs as a user of its own, and must come through to its data.
    chmod 711 "$state"
    mkdir -m 1777 "$state/tmp"
    shared >"$state/shared"
    limits=$(limits)

    start_engines
    while IFS= read -r variable; do export "${variable?}"; done < <(cat "$state"/*.variables)
    if [ -n "$await" ] && ! read -r; then exit 1; fi

    env TMPDIR="$state/tmp" ONDEMAND_TEST_RUN="$(basename "$state")" "$@" </dev/null &
    command=$!
    wait "$command" || status=$?
    while kill -0 "$command" 2>/dev/null; do
        status=0
        wait "$command" || status=$?
    done
    if [ "$interrupted" -ne 0 ]; then status=$interrupted; fi
    exit "$status"
}

main "$@"
