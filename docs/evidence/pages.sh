#!/usr/bin/env bash
# Writes the pages of evidence from their result files, and the numbers of the README: pages.sh [NAME...]
# NAME is a page that is not there yet, such as search; the others are written again.
set -euo pipefail
cd "$(dirname "$0")"
for script in */page.py; do
    name=${script%/page.py}
    if [ "$name" != index ] && { [ -f "$name.md" ] || [[ " $* " = *" $name "* ]]; }; then
        python "$script"
    fi
done
python index/page.py # Last: it names the other pages.
