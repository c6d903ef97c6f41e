#!/bin/sh
# What the runner runs once for a commit: here it puts the commit into the page.
set -eu
mkdir -p public
sed "s|@VERSION@|$(git log -1 --format='%h %s' | sed 's/[&|\\]/ /g')|" index.html >public/index.html
echo "built public/index.html"
