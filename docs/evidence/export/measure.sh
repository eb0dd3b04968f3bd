#!/usr/bin/env bash
# Trains three small retrofits, exports them as ONNX, compares and times the files, then writes docs/evidence/export.md. About 10 minutes
# on two cores. Run again, it resumes. Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, with
# Dataset004_Hippocampus among the raw data, and the extras study and onnx.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
eval "$(nnunet-iac trainers-dir --export)"
export OMP_WAIT_POLICY=passive
bash "$here/../search/small3d.sh"
folds=()
for study in 2d 3d; do
    nnunet-iac study "$here/export-$study.yaml"
    folds+=("$nnUNet_results"/Dataset004_Hippocampus/nnUNetTrainerIACDiscrete__export-"$study"_*/fold_0)
done
python "$here/exports.py" 4 "${folds[@]}"
python "$here/page.py"
