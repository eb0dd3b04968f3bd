#!/usr/bin/env bash
# Trains the source, chooses learning rates, and runs a study for each number of cases: measure.sh FOLDER [STUDY...]
# FOLDER gets studies and splits; by default all are run, hours each on two cores. Run again, it resumes.
# Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, with Dataset027_ACDC128 and
# Dataset030_CMRbSSFP among the raw data, and their splits_final.json beside them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?a folder for studies and splits must be named}
shift
nnUNet_extTrainer=$(nnunet-iac trainers-dir)
export nnUNet_extTrainer OMP_WAIT_POLICY=passive
nnunet-iac study "$here/source.yaml" --cores 2
python "$here/studies.py" "$folder"
[ $# -gt 0 ] || set -- rates k3 k1 k5 k10
for study in "$@"; do
    nnunet-iac study "$folder/$study.yaml" --cores 2
    cp "$nnUNet_results/studies/adaptation-$study/results.json" "$here/$study.json"
done
