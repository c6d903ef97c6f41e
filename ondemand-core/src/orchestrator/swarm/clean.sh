# Removes the volumes of deployments that are gone from the node that this runs on: clean.sh INSTANCE STACK/ATTEMPT…
# Says `done ATTEMPT` for each that has none any more. The last container that used one may take a moment to go: what is still used is tried again, all of it
# together, so that one that stays used keeps nobody waiting.
set -u
instance=$1
shift
left=$*
tries=0
# Neither names nor ids hold spaces.
# shellcheck disable=SC2086
while [ -n "$left" ]; do
    still=
    for one in $left; do
        volumes=$(docker volume ls --quiet --filter "label=ondemand.instance=$instance" \
            --filter "label=ondemand.stack=${one%/*}" --filter "label=ondemand.attempt=${one#*/}") || exit 1
        if [ -z "$volumes" ] || why=$(docker volume rm $volumes 2>&1); then
            echo "done ${one#*/}"
        else
            still="$still $one"
        fi
    done
    left=$still
    tries=$((tries + 1))
    if [ -n "$left" ] && [ "$tries" -ge 30 ]; then
        echo "$why" >&2
        exit 1
    fi
    if [ -n "$left" ]; then sleep 1; fi
done
