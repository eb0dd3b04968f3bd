#!/usr/bin/env bash
# Makes the example: the runs of its two studies, then the report beside this script. About an hour and a half on one core.
# Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, with Dataset004_Hippocampus (Medical
# Segmentation Decathlon, Task04) among the raw data, and nnU-Net's own splits or none yet. Run again, it resumes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
for study in example example-full; do nnunet-iac study "$study.yaml"; done
nnunet-iac report "$nnUNet_results/Dataset004_Hippocampus"/*__example{,-full}_* -o . --paper
