#!/usr/bin/env bash
# What `make demo` runs: five private databases from a gigabyte of data, each in a moment, and an environment built from two Git repositories, with a
# database of its own, on this machine.
#
#   tests/demo.sh              shows it, and leaves nothing behind; KEEP=1 leaves it running, SIZE=5G makes more data
#   tests/demo.sh stop DIR     ends what KEEP=1 left running
#
# It listens on loopback only. Everything is in one temporary directory, which is removed however this ends.
#
# What only traps call looks unreachable to shellcheck:
# shellcheck disable=SC2317
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/setup/privilege.sh

readonly databases=(demo-1 demo-2 demo-3 demo-4 demo-5)
bin=${CARGO_TARGET_DIR:-$PWD/target}/release

say() { printf '%s\n' "$*"; }
title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
if [ ! -t 1 ]; then title() { printf '\n%s\n' "$*"; }; fi
fail() {
    echo "demo: error: $*" >&2
    exit 1
}

# --- Time -----------------------------------------------------------------------------------------------------------------------------

steps=()
times=()

now() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# Runs "${@:2}" as the step that $1 describes, and keeps the time it took.
timed() {
    local name=$1 begin
    shift
    begin=$(now)
    "$@"
    steps+=("$name")
    times+=($(($(now) - begin)))
    say "  → $(seconds "${times[-1]}")"
}

seconds() { printf '%d.%03d s' $(($1 / 1000)) $(($1 % 1000)); }

report() {
    local i
    title "What took how long"
    for i in "${!steps[@]}"; do printf '  %-62s %12s\n' "${steps[$i]}" "$(seconds "${times[$i]}")"; done
}

# --- The server -----------------------------------------------------------------------------------------------------------------------

# Prints when the process started, in clock ticks since boot: with its pid, that tells processes apart.
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d ' ' -f 20; }

# Sends GET $1, and prints the status.
ask() {
    local connection status=
    { exec {connection}<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || return 1
    printf 'GET %s HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n' "$1" >&"$connection"
    read -r -t 10 _ status _ <&"$connection" || true
    exec {connection}>&-
    echo "$status"
}

free_port() {
    local candidate
    for _ in {1..50}; do
        candidate=$((20000 + RANDOM % 12000))
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$candidate") 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "found no free port"
}

# Prints the port that people expect a proxy at, where nobody has it.
free_proxy_port() {
    if ! (exec 3<>/dev/tcp/127.0.0.1/8000) 2>/dev/null; then echo 8000; else free_port; fi
}

start_server() {
    local pid deadline=$((SECONDS + 60))
    setsid -- "$bin/ondemand" serve --listen "127.0.0.1:$port" --proxy-listen "127.0.0.1:$proxy_port" --data-dir "$dir/data" \
        --templates "$dir/templates" --accounts none --github-url "file://$dir/repositories" \
        </dev/null >"$dir/server.log" 2>&1 &
    pid=$!
    echo "$pid $(started "$pid")" >"$dir/server.pid"
    until [ "$(ask /readyz)" = 200 ]; do
        if ! kill -0 "$pid" 2>/dev/null || [ "$SECONDS" -ge "$deadline" ]; then
            tail -n 20 "$dir/server.log" >&2
            fail "the server does not start"
        fi
        sleep 0.05
    done
    disown "$pid"
}

# Prints the server's pid while it lives.
server() {
    local pid start
    read -r pid start 2>/dev/null <"$dir/server.pid" && [ -n "$start" ] && [ "$(started "$pid")" = "$start" ] && echo "$pid"
}

# Prints the pids of the processes that work in the directory, or that have their data in it.
processes() {
    local process
    for process in /proc/[0-9]*; do
        if [[ "$(readlink "$process/cwd" 2>/dev/null)" == "$dir/"* ]]; then echo "${process#/proc/}"; fi
    done
}

mounts() { awk -v dir="$dir/" 'index($5, dir) == 1 {print $5}' /proc/self/mountinfo | sort -r; }

# --- Cleaning up ----------------------------------------------------------------------------------------------------------------------

# Takes back everything, however far it came.
clean_up() {
    local pid mount deadline runtime
    if [ -z "${dir:-}" ] || [ ! -d "$dir" ]; then return 0; fi
    if pid=$(server); then
        # The databases do not end with the server: whoever works on one keeps it while the server is replaced.
        for name in $("$bin/ondemand" env list --json 2>/dev/null | grep -o '^ *"name": *"[a-z0-9-]*",$' | grep -o '[a-z0-9-]*",$'); do
            "$bin/ondemand" env delete "${name%'",'}" >/dev/null 2>&1 || true
        done
        for name in $("$bin/ondemand" pg list --json 2>/dev/null | grep -o '"Id": *"[0-9a-f]*"' | grep -o '[0-9a-f]\{64\}'); do
            "$bin/ondemand" pg delete "$name" >/dev/null 2>&1 || true
        done
        kill -TERM "$pid" 2>/dev/null || true
        deadline=$((SECONDS + 20))
        while server >/dev/null && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.05; done
        if pid=$(server); then kill -KILL "$pid" 2>/dev/null || true; fi
    fi
    # Nothing should be left to end here, unless the server was killed.
    deadline=$((SECONDS + 10))
    while [ -n "$(processes)" ] && [ "$SECONDS" -lt "$deadline" ]; do
        for pid in $(processes); do kill -QUIT "$pid" 2>/dev/null || true; done
        sleep 0.1
    done
    if [ -n "$(mounts)" ]; then
        as_root "$bin/ondemand" pool delete --force --path "$dir/data/pool" >/dev/null 2>"$dir/pool.log" || cat "$dir/pool.log" >&2
        while IFS= read -r mount; do as_root umount --detach-loop "$mount" || true; done < <(mounts)
    fi
    if [ -n "$(mounts)$(processes)" ]; then
        echo "demo: error: these are left: $(mounts | tr '\n' ' ')$(processes | tr '\n' ' ')" >&2
        return 1
    fi
    # The server removes this, unless it was killed.
    runtime=$(readlink -- "$dir/data/run" || true)
    case "$runtime" in /run/ondemand-* | /tmp/ondemand-*) rm -rf --one-file-system -- "$runtime" ;; esac
    rm -rf --one-file-system -- "$dir" 2>/dev/null || as_root rm -rf --one-file-system -- "$dir"
}

finish() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    local job
    for job in $(jobs -p); do kill "$job" 2>/dev/null || true; done
    clean_up || status=1
    exit "$status"
}

# --- What is shown --------------------------------------------------------------------------------------------------------------------

# Runs what takes long so that a signal is heard at once, not at its end.
interruptibly() {
    "$@" &
    wait $!
}

build() { interruptibly cargo build --locked --release --package ondemand-cli --package ondemand-sample; }

# Where this runs as root, the server makes a copy-on-write pool by itself; where not, root makes one for it once, if there is a way.
make_pool() {
    if [ "$(id -u)" -eq 0 ]; then return; fi
    local free
    free=$(($(df --output=avail --block-size=1M "$dir" | tail -n 1) * 9 / 10))M
    say "  making a copy-on-write pool needs root, once:"
    say "  \$ sudo ondemand pool create --path $dir/data/pool --size $free --owner $(id -un)"
    mkdir -p "$dir/data"
    as_root "$bin/ondemand" pool create --path "$dir/data/pool" --size "$free" --owner "$(id -un)" >/dev/null ||
        say "  there is none then: every database will be a full copy"
}

make_dump() { interruptibly "$bin/sample-shop" --size "$size" >"$dir/shop.sql"; }

import() { interruptibly "$bin/ondemand" dataset import shop --dump "$dir/shop.sql"; }

# Creates one database, and keeps its URL and the time it took.
create() {
    local begin
    begin=$(now)
    "$bin/ondemand" pg create --dataset shop --name "$1" >"$dir/$1.url"
    echo $(($(now) - begin)) >"$dir/$1.time"
}

create_all() {
    local name pids=()
    for name in "${databases[@]}"; do
        create "$name" &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || fail "creating a database failed"; done
    for name in "${databases[@]}"; do
        say "  $name  $(seconds "$(cat "$dir/$name.time")")  $(sed 's/:[^:@]*@/:…@/' "$dir/$name.url")"
    done
}

# Runs $2, and what follows it, in the database $1.
sql() {
    psql --no-psqlrc --quiet --tuples-only --no-align --set ON_ERROR_STOP=1 "$(cat "$dir/$1.url")" --command "${@:2}"
}

# A different change for each database; each shows in one column of the facts below.
readonly changes=(
    "DELETE FROM shop.reviews WHERE rating <= 2"
    "UPDATE shop.products SET price_cents = price_cents * 2"
    "INSERT INTO shop.people (email, full_name) SELECT 'new' || n || '@example.com', 'New ' || n FROM generate_series(1, 10000) n"
    "CREATE TABLE shop.notes AS SELECT n, md5(n::text) AS note FROM generate_series(1, 1000) n"
    "DROP TABLE shop.payments"
)
readonly facts="SELECT (SELECT count(*) FROM shop.reviews), (SELECT sum(price_cents) / 100 FROM shop.products),
    (SELECT count(*) FROM shop.people), coalesce(to_regclass('shop.notes')::text, '-'), coalesce(to_regclass('shop.payments')::text, '-')"

write_all() {
    local i pids=()
    for i in "${!databases[@]}"; do
        say "  ${databases[$i]}: ${changes[$i]}"
        # Written down at once, so that what the pool grows by is told honestly.
        sql "${databases[$i]}" "${changes[$i]}" --command CHECKPOINT &
        pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || fail "writing failed"; done
}

row() { printf '  %-9s %10s %16s %10s %12s %16s\n' "$@"; }

# Shows the facts of every database, and checks that each differs from the original in its own column and in no other.
compare() {
    local i column values
    row database reviews "Σ prices" people notes payments
    row before "${original[@]}"
    for i in "${!databases[@]}"; do
        IFS='|' read -ra values <<<"$(sql "${databases[$i]}" "$facts")"
        row "${databases[$i]}" "${values[@]}"
        for column in "${!values[@]}"; do
            if [ "$column" = "$i" ]; then
                [ "${values[$column]}" != "${original[$column]}" ] || fail "${databases[$i]} does not have its own change"
            else
                [ "${values[$column]}" = "${original[$column]}" ] || fail "${databases[$i]} sees another's change"
            fi
        done
    done
    say "  Each has its own change, and none has another's."
}

reset_one() {
    "$bin/ondemand" pg reset "${databases[0]}" >/dev/null
    [ "$(sql "${databases[0]}" "$facts")" = "$(IFS='|' && echo "${original[*]}")" ] || fail "the reset database is not as it was"
}

# Makes a Git repository of a directory of examples, as somebody would who pushes it.
make_repository() {
    local bare=$dir/repositories/shop/$1.git
    git init --quiet --bare --initial-branch main "$bare"
    cp -r "examples/shop/$1" "$dir/$1"
    commit "$1" "Sell what there is"
    # The services run as another user, who reads it.
    chmod -R a+rX "$dir/repositories"
}

# Commits what is in the work tree of $1 with the message $2, and pushes it.
commit() {
    local git=(git -C "$dir/$1" -c user.name=demo -c user.email=demo@example.com -c commit.gpgsign=false)
    if [ ! -d "$dir/$1/.git" ]; then "${git[@]}" init --quiet --initial-branch main; fi
    "${git[@]}" add --all
    "${git[@]}" commit --quiet --message "$2"
    "${git[@]}" push --quiet "$dir/repositories/shop/$1.git" main
}

create_environment() {
    "$bin/ondemand" env create --name demo >"$dir/links" || fail "the environment was not made"
    while IFS= read -r link; do say "  $link"; done <"$dir/links"
}

# Prints what the proxy answers for $2 of the host $1. Browsers find *.localhost on this machine by themselves; not every other program does.
visit() { curl --silent --fail --show-error --max-time 10 --resolve "$1:$proxy_port:127.0.0.1" "http://$1:$proxy_port$2"; }

look_at_environment() {
    visit demo.localhost / >"$dir/page" || fail "the front end does not answer"
    grep '<h1>\|Front end' "$dir/page" | sed 's/^/  front: /'
    printf '  back:  '
    visit demoapi.localhost /version || fail "the back end does not answer"
    printf '  its own database has %s products\n' "$("$bin/ondemand" pg psql env-demo -- -XAtc 'SELECT count(*) FROM shop.products')"
}

change_and_redeploy() {
    sed -i 's|<h1>Shop</h1>|<h1>Shop, only better</h1>|' "$dir/front/index.html"
    commit front "Be better"
    "$bin/ondemand" env redeploy demo >/dev/null || fail "the environment was not redeployed"
    visit demo.localhost / | grep -q 'only better' || fail "the new page is not there"
}

delete_environment() {
    "$bin/ondemand" env delete demo >/dev/null
    if visit demo.localhost / >/dev/null 2>&1; then fail "the environment still answers"; fi
}

delete_all() {
    local name
    for name in "${databases[@]}"; do "$bin/ondemand" pg delete "$name" >/dev/null; done
}

# Prints how many bytes the pool uses, once the file system has written down what it holds.
used() {
    if [ -d "$dir/data/pool" ]; then sync --file-system "$dir/data/pool"; else sync --file-system "$dir/data"; fi
    "$bin/ondemand" pool status --json | grep -o '"Used": *[0-9]*' | head -n 1 | grep -o '[0-9]*$'
}

megabytes() { echo "$(($1 >> 20)) MiB"; }

what_to_try() {
    cat <<TEXT

It is still running. To try it:

  export ONDEMAND_URL=http://127.0.0.1:$port PATH="$bin:\$PATH"
  ondemand pg list
  psql "\$(ondemand pg create --dataset shop)"
  ondemand pool status
  ondemand env show demo; ondemand env open demo
  curl -XPOST -d'{}' http://127.0.0.1:$port/servers

To end it and remove all of it:

  tests/demo.sh stop $dir
TEXT
}

demo() {
    local empty before after grown
    title "Installing what is missing"
    tests/setup/packages.sh build run
    title "Building"
    timed "build (a moment, if it is built already)" build

    dir=$(mktemp -d "${TMPDIR:-/var/tmp}/ondemand-demo.XXXXXX")
    # Postgres runs as a user of its own, and must come through to its data.
    chmod 755 "$dir"
    port=$(free_port)
    proxy_port=$(free_proxy_port)
    echo "$port" >"$dir/port"
    mkdir "$dir/templates" "$dir/repositories"
    cp examples/templates/demo.yml "$dir/templates/"
    export ONDEMAND_URL=http://127.0.0.1:$port

    title "Starting the server on http://127.0.0.1:$port, with its data in $dir"
    timed "start the server" eval 'make_pool; start_server'
    empty=$(used)
    title "Writing a sample shop of $size as SQL"
    timed "write the dump" make_dump
    title "Importing it: once, for everybody"
    say "  \$ ondemand dataset import shop --dump shop.sql"
    timed "import $(du --apparent-size --block-size=M "$dir/shop.sql" | cut -f 1) of SQL" import
    rm -- "$dir/shop.sql"
    before=$(used)

    title "Creating five databases in parallel"
    say "  \$ ondemand pg create --dataset shop --name …"
    timed "create five databases in parallel" create_all
    IFS='|' read -ra original <<<"$(sql "${databases[4]}" "$facts")"
    after=$(used)
    say "  The dataset has $(megabytes $((before - empty))). Five databases with all of it add $(megabytes $((after - before)))."

    title "Writing something else to each"
    timed "write to all five" write_all
    title "Comparing them"
    timed "compare all five" compare
    grown=$(($(used) - before))
    say "  The pool grew by $(megabytes "$grown") for all that was written; five copies would be $(megabytes $(((before - empty) * 5)))."

    title "Resetting one"
    say "  \$ ondemand pg reset ${databases[0]}"
    timed "reset ${databases[0]}, and see that it is as it was" reset_one

    title "Making an environment: two Git repositories become URLs, on a database of their own"
    make_repository back
    make_repository front
    say "  \$ ondemand env create --name demo"
    timed "create the environment: clone, build, start, until it is reached" create_environment
    timed "look at it" look_at_environment
    title "Pushing a change, and redeploying"
    say "  \$ ondemand env redeploy demo"
    timed "redeploy it: same URL, same data" change_and_redeploy

    if [ "${KEEP:-}" = 1 ]; then
        report
        trap - EXIT
        what_to_try
        return
    fi
    title "Deleting all"
    timed "delete the environment, with its database" delete_environment
    timed "delete all five" delete_all
    timed "stop the server and remove the rest" clean_up
    report
    say ""
    say "Nothing is left of it."
}

dir=
port=
proxy_port=
size=${SIZE:-1G}
original=()
# Whatever a server of the user's own is configured with does not concern this one.
for variable in "${!ONDEMAND_@}"; do unset "$variable"; done
case "${1:-}" in
    '')
        trap finish EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM HUP
        demo
        ;;
    stop)
        if [ $# -ne 2 ]; then fail "usage: tests/demo.sh stop DIR"; fi
        dir=$(realpath -m -- "$2")
        if [[ "$(basename "$dir")" != ondemand-demo.* ]]; then fail "$dir is not a demo's directory"; fi
        if [ -d "$dir" ]; then
            port=$(cat "$dir/port")
            export ONDEMAND_URL=http://127.0.0.1:$port
            clean_up
        fi
        say "Nothing is left of it."
        ;;
    *) fail "usage: tests/demo.sh [stop DIR]" ;;
esac
