#!/bin/sh
# What the runner runs once for a commit: here it writes down which one this is.
set -eu
git log -1 --format='%h %s' >version.txt
echo "built $(cat version.txt)"
