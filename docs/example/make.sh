#!/usr/bin/env bash
# Makes the example: the runs in WORKSPACE, then the report beside this script.
#     bash docs/example/make.sh RAW WORKSPACE
# RAW is Dataset004_Hippocampus in nnU-Net's raw layout (Medical Segmentation Decathlon, Task04).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_NUM_THREADS=1 nnUNet_n_proc_DA=0
python runs.py "$1" "$2"
nnunet-iac report "$2/nnUNet_results/Dataset004_Hippocampus" -o . --paper
