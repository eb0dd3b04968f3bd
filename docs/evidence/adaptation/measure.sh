#!/usr/bin/env bash
# Trains a source, shows that it has converged, and runs studies of adapting it: measure.sh PAIR FOLDER [STUDY...]
# PAIR is heart or hippocampus. Of the studies, `rates` chooses learning rates, `k3` adapts to three cases, `k3-scratch`
# trains on them from scratch, and so on; by default all are run, for hours on two cores. FOLDER gets studies and splits.
# Run again, it resumes. Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, and among the raw
# data Dataset027_ACDC128 and Dataset030_CMRbSSFP with their splits_final.json, or Dataset004_Hippocampus.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
pair=${1:?a pair must be named, heart or hippocampus}
folder=${2:?a folder for studies and splits must be named}
shift 2
nnUNet_extTrainer=$(nnunet-iac trainers-dir)
export nnUNet_extTrainer OMP_WAIT_POLICY=passive
run() {
    nnunet-iac study "$1" --cores 2
    cp "$nnUNet_results/studies/adaptation-$pair-$2/results.json" "$here/$pair-$2.json"
}
[ "$pair" != hippocampus ] || python "$here/shift.py"
run "$here/$pair-source.yaml" source
python "$here/studies.py" "$pair" "$folder"
[ $# -gt 0 ] || set -- rates k3 k3-scratch k1 k1-scratch k5 k5-scratch k10 k10-scratch
for study in "$@"; do
    run "$folder/$study.yaml" "$study"
done
