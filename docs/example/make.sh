#!/usr/bin/env bash
# Makes the example: the demo's runs, then their report beside this script. About 15 minutes on two cores.
# Run again, it resumes; the argument is the demo's folder, by default `demo`.
set -euo pipefail
demo=$(realpath -m "${1:-demo}")
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_WAIT_POLICY=passive
nnunet-iac demo -o "$demo" -device cpu
nnunet-iac report "$demo/nnUNet_results/Dataset004_Hippocampus"/*__demo_* -o . --paper
