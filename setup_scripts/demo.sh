#!/usr/bin/env bash
# Installs the package into .venv and runs the demo; takes the arguments of `nnunet-iac demo`.
STEPS=3
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

step "Create the environment" create_venv
step "Install nnunet-iac" install
# Threads that spin while they wait would take the cores of others.
export OMP_WAIT_POLICY=passive
step "Run the demo" "$VENV/bin/nnunet-iac" demo "$@"
