#!/usr/bin/env bash
# Makes the runs in WORKSPACE, then the page docs/comparison.md.
#     bash docs/comparison/make.sh HIPPOCAMPUS ACDC WORKSPACE
# HIPPOCAMPUS is Dataset004_Hippocampus, ACDC is Dataset027_ACDC128, both in nnU-Net's raw layout.
set -euo pipefail
hippocampus=$(realpath "$1") acdc=$(realpath "$2")
mkdir -p "$3"
workspace=$(realpath "$3")
cd "$(dirname "${BASH_SOURCE[0]}")"
python runs.py "$hippocampus" "$workspace"
python runs.py "$acdc" "$workspace" 'patient\d+'
python collect.py "$(basename "$hippocampus")" "$workspace"
python collect.py "$(basename "$acdc")" "$workspace" 'patient\d+'
python costs.py
python page.py
