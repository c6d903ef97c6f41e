# shellcheck shell=bash
# Sourced by the scripts that have several things to do, some of them side by side: runs each as a phase of a name, and keeps what it took in
# $report/phases.tsv: name, begin and end in milliseconds, milliseconds of processor time of its own processes.

# Where the reports go: who sources this says it before the first phase.
report=${report:-}

step() { printf '\n== %s\n' "$*" >&2; }

# Prints the milliseconds since 1970.
now() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# Prints the milliseconds of processor time that this machine has spent since it started, waiting for disks not included.
machine_time() { awk -v tick="$(getconf CLK_TCK)" '/^cpu / {print int(($2 + $3 + $4 + $7 + $8) * 1000 / tick)}' /proc/stat; }

# Runs "${@:2}" as the phase $1, in a subshell.
phase() (
    local name=$1
    # The name is to be known when this ends, and the beginning when it begins.
    # shellcheck disable=SC2064
    trap "record '$name' '$(now)'" EXIT
    shift
    "$@"
)

record() {
    local used file=$report/times.$BASHPID
    # Not in a pipe, whose processes are others.
    times >"$file"
    used=$(awk -F '[ms ]+' 'NR == 2 {print int(($1 * 60 + $2 + $3 * 60 + $4) * 1000)}' "$file")
    rm -f -- "$file"
    # One write: phases end side by side.
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$(now)" "$used" >>"$report/phases.tsv"
}

declare -A beside=()

# Starts "${@:2}" as the phase $1 beside what comes next, with its output in a log. It is a process group of its own, and has no terminal to ask.
start_beside() {
    local name=$1
    set -m
    phase "$@" </dev/null >"$report/$name.log" 2>&1 &
    beside[$name]=$!
    set +m
}

# Waits for the phase $1, and shows its output: what there is, and what comes.
join() {
    local name=$1 status=0
    step "$name"
    # Waited for, as a signal that comes while a program runs in the foreground is heard only when that has ended.
    tail --lines=+1 --follow --sleep-interval=0.2 --pid="${beside[$name]}" "$report/$name.log" >&2 &
    wait "$!"
    wait "${beside[$name]}" || status=$?
    unset "beside[$name]"
    return "$status"
}

# Ends the phases that nobody has waited for, each with all that it started.
end_beside() {
    local pid
    for pid in "${beside[@]}"; do kill -TERM -- "-$pid" 2>/dev/null || true; done
    for pid in "${beside[@]}"; do wait "$pid" 2>/dev/null || true; done
    beside=()
}
