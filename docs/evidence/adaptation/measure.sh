#!/usr/bin/env bash
# Trains the source, shows that it has converged, and runs the studies of adaptation: measure.sh FOLDER [STUDY...]
# `rates` chooses learning rates, `k3` adapts to three cases, `k3-scratch` trains on them from scratch, and so on.
# FOLDER gets studies and splits; by default all are run, hours each on two cores. Run again, it resumes.
# Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, with Dataset027_ACDC128 and
# Dataset030_CMRbSSFP among the raw data, and their splits_final.json beside them.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?a folder for studies and splits must be named}
shift
nnUNet_extTrainer=$(nnunet-iac trainers-dir)
export nnUNet_extTrainer OMP_WAIT_POLICY=passive
run() {
    nnunet-iac study "$1/$2.yaml" --cores 2
    cp "$nnUNet_results/studies/adaptation-$2/results.json" "$here/$2.json"
}
run "$here" source
run "$here" convergence
python "$here/studies.py" "$folder"
[ $# -gt 0 ] || set -- rates k3 k3-scratch k1 k1-scratch k5 k5-scratch k10 k10-scratch
for study in "$@"; do
    run "$folder" "$study"
done
