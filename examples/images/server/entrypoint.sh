#!/bin/sh
# Reads the token from the file that ONDEMAND_TOKEN_FILE names, so that it is in no variable that `docker inspect` shows, and becomes the command.
set -eu
if [ -n "${ONDEMAND_TOKEN_FILE:-}" ]; then
    # Not in one line with export, which would hide that the file cannot be read.
    ONDEMAND_TOKEN=$(cat -- "$ONDEMAND_TOKEN_FILE")
    if [ -z "$ONDEMAND_TOKEN" ]; then
        echo "error: $ONDEMAND_TOKEN_FILE is empty" >&2
        exit 2
    fi
    export ONDEMAND_TOKEN
    unset ONDEMAND_TOKEN_FILE
fi
exec "$@"
