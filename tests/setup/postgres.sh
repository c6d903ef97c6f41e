#!/usr/bin/env bash
# Makes a directory of Postgres's programs in which `initdb` copies a cluster that was made once. Nearly every test imports a dump, and making an
# empty cluster is most of the work of a small one.
#
#   tests/setup/postgres.sh DIR      makes DIR/bin, and prints what the tests need to find it, as NAME=VALUE
#
# As root, or as the user who runs the tests. Sandboxes see DIR/bin and DIR/share. The other programs are links to those of the newest Postgres;
# `initdb` with other arguments than those that the cluster was made with is the real one.
set -euo pipefail

# As the core calls it.
readonly arguments='-U ondemand_admin --auth-local=peer --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8 --no-sync --no-instructions'

dir=$(realpath -m -- "$1")
bin=$(find /usr/lib/postgresql -maxdepth 2 -name bin | sort -V | tail -n 1)
mkdir -p "$dir/bin"
for program in "$bin"/*; do ln -s "$program" "$dir/bin"; done
rm "$dir/bin/initdb"
mkdir "$dir/share"
mkdir -m 700 "$dir/share/cluster"
run=()
if [ "$(id -u)" -eq 0 ]; then
    chown postgres: "$dir/share/cluster"
    run=(setpriv --reuid=postgres --regid=postgres --init-groups)
fi
# shellcheck disable=SC2086 # It is several words.
"${run[@]}" "$bin/initdb" -D "$dir/share/cluster" $arguments >/dev/null
# Setting up eight times as much, as is the default, is a third of what a start costs, and tests start 1,500 servers.
echo 'shared_buffers = 16MB' >>"$dir/share/cluster/postgresql.conf"
# An ordinary user copies it too.
chmod -R go+rX "$dir/share/cluster"
cat >"$dir/bin/initdb" <<SH
#!/bin/sh
if [ "\$1" != -D ] || [ "\$*" != "-D \$2 $arguments" ]; then exec '$bin/initdb' "\$@"; fi
cp -R --reflink=auto '$dir/share/cluster/.' "\$2" && exec chmod -R go= "\$2"
SH
chmod 755 "$dir/bin/initdb"
echo "ONDEMAND_TEST_POSTGRES=$dir/bin"
