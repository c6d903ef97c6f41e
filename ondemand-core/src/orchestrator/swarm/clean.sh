# Removes the volumes of deployments that are gone from the node that this runs on: clean.sh INSTANCE STACK/ATTEMPT…
# Says `done ATTEMPT` for each that has none any more. The last container that used one may take a moment to go: what is still used is tried again, all of it
# together, so that one that stays used keeps nobody waiting; and an engine that does not answer, which may be for one volume alone, is not waited for.
set -u
instance=$1
shift
left=$*
end=$(($(date +%s) + 40))
why='not all was tried in time'
# Neither names nor ids hold spaces.
# shellcheck disable=SC2086
while [ -n "$left" ]; do
    still=
    for one in $left; do
        if [ "$(date +%s)" -ge "$end" ]; then
            echo "$why" >&2
            exit 1
        fi
        volumes=$(timeout 20 docker volume ls --quiet --filter "label=ondemand.instance=$instance" \
            --filter "label=ondemand.stack=${one%/*}" --filter "label=ondemand.attempt=${one#*/}") || exit 1
        if [ -z "$volumes" ] || said=$(timeout 20 docker volume rm $volumes 2>&1); then
            echo "done ${one#*/}"
        else
            still="$still $one"
            why=${said:-the engine does not answer}
        fi
    done
    left=$still
    if [ -n "$left" ]; then sleep 1; fi
done
