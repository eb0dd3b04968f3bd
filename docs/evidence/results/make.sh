#!/usr/bin/env bash
# Runs the studies and writes docs/evidence/results.md from their result files. Run again, it resumes.
#     bash docs/evidence/results/make.sh [STUDY...]
# Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, with Dataset004_Hippocampus and
# Dataset027_ACDC128 among the raw data. STUDY: the name of a file here without .yaml (default: all). About one and a half hours
# each on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_WAIT_POLICY=passive
studies=("$@")
[ $# -gt 0 ] || for file in *.yaml; do studies+=("${file%.yaml}"); done
for study in "${studies[@]}"; do
    nnunet-iac study "$study.yaml"
    cp "$nnUNet_results/studies/$study/results.json" "$study.json"
done
python page.py
