# Removes the volumes of deployments that are gone from the node that this runs on: clean.sh INSTANCE (STACK ATTEMPT)…
# The last container that used one may take a moment to go.
set -u
instance=$1
shift
failed=0
while [ $# -ge 2 ]; do
    tries=0
    while :; do
        volumes=$(docker volume ls --quiet --filter "label=ondemand.instance=$instance" \
            --filter "label=ondemand.stack=$1" --filter "label=ondemand.attempt=$2") || exit 1
        if [ -z "$volumes" ]; then break; fi
        # Names of volumes hold no spaces.
        # shellcheck disable=SC2086
        if ! why=$(docker volume rm $volumes 2>&1); then
            tries=$((tries + 1))
            if [ "$tries" -ge 30 ]; then
                echo "$why" >&2
                failed=1
                break
            fi
            sleep 1
        fi
    done
    shift 2
done
exit "$failed"
