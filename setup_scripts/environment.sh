# Sourced by the scripts beside it: numbered steps, and a virtual environment with this package.
# Needs nothing but bash and Python >= 3.11; everything lies in .venv of the repository.

set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"

# What the caller exports for other installations must not reach this one.
unset "${!nnUNet_@}" PYTHONPATH PYTHONHOME VIRTUAL_ENV

step_number=0

# step TITLE COMMAND...: runs a command under a numbered title; stops the script where it fails.
step() {
    local title="$1"
    shift
    step_number=$((step_number + 1))
    printf '\n[%d/%d, %d:%02d] %s\n' \
        "$step_number" "$STEPS" $((SECONDS / 60)) $((SECONDS % 60)) "$title"
    "$@" || {
        local status=$?
        printf '\nerror: step %d (%s) failed with status %d; see its output above.\n' \
            "$step_number" "$title" "$status" >&2
        exit "$status"
    }
}

supported_python() {
    local name
    for name in python3 python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: Python >= 3.11 must be installed; found $(python3 --version 2>&1)" >&2
    return 1
}

# pip's first line holds its interpreter's path, so it fails where .venv is half made or was moved.
create_venv() {
    if "$VENV/bin/pip" --version >/dev/null 2>&1; then
        echo "$VENV is there"
        return
    fi
    if [ -e "$VENV" ]; then
        echo "error: $VENV must be a working environment with pip; remove it and run this again" >&2
        return 1
    fi
    local python
    python="$(supported_python)" || return
    "$python" -m venv "$VENV" || {
        rm -rf "$VENV"
        echo "error: on Debian and Ubuntu, run: sudo apt install python3-venv" >&2
        return 1
    }
}

# install [EXTRA]: installs the package in place, unless that was done with this pyproject.toml.
install() {
    local extra="${1:+[$1]}"
    local stamp="$VENV/installed${1:+-$1}" wanted
    wanted="$(cksum <"$ROOT/pyproject.toml")"
    if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ]; then
        echo "nnunet-iac$extra is installed and pyproject.toml has not changed"
        return
    fi
    "$VENV/bin/pip" install --disable-pip-version-check -e "$ROOT$extra" || return
    echo "$wanted" >"$stamp"
}

# browser: makes sure that there is a Chromium for the tests of the pages.
browser() {
    local name
    for name in chromium chromium-browser google-chrome; do
        if command -v "$name"; then
            return
        fi
    done
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "error: Chromium must be installed; on Debian, run: sudo apt install chromium" >&2
        return 1
    fi
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy chromium
}

# scheduler: makes sure that there is a SLURM for the test of studies on one; without, it is skipped.
scheduler() {
    local PATH="$PATH:/usr/sbin"
    if command -v slurmctld && command -v slurmd && command -v munged; then
        return
    fi
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
        echo "no SLURM: its test will be skipped; on Debian, run: sudo apt install slurm-wlm munge"
        return
    fi
    apt-get update -q &&
        DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends slurm-wlm munge
}
