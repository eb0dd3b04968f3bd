#!/usr/bin/env bash
# Installs the package with its developer tools into .venv, and Chromium and SLURM if there are none, and runs every check that CI runs.
# Arguments go to pytest, for example: -m "not slow", or --slowest tests/durations.txt.
STEPS=10
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"

step "Create the environment" create_venv
step "Install nnunet-iac and its developer tools" install dev
step "Find a browser for the tests of pages" browser
step "Find a SLURM for the test of studies on one" scheduler
step "Check the format" "$VENV/bin/ruff" format --check
step "Lint" "$VENV/bin/ruff" check
step "Check the types" "$VENV/bin/mypy"
step "Check the direction of imports" "$VENV/bin/lint-imports"
step "Build the documentation, with every link checked" "$VENV/bin/zensical" build --strict -f .zensical.toml
# Threads that spin while they wait would take the other test's core.
export OMP_WAIT_POLICY=passive OMP_NUM_THREADS=1
# In the order that tests/conftest.py gives them: the longest first.
step "Test, two files at a time" "$VENV/bin/pytest" -n 2 --dist loadfile --no-loadscope-reorder "$@"
printf '\nall checks passed after %d:%02d\n' $((SECONDS / 60)) $((SECONDS % 60))
