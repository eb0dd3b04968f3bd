#!/usr/bin/env bash
# Measures everything docs/evidence/beyond.md shows, then writes the page. Run again, it resumes.
#     bash docs/evidence/beyond/make.sh
# Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, with Dataset004_Hippocampus among the raw data, the
# extras study and onnx, and docs/evidence/results/quality-acdc-augmented.json for the cells that travel. About an hour on two cores.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_WAIT_POLICY=passive
dataset=Dataset004_Hippocampus
[ -f "$nnUNet_preprocessed/$dataset/nnUNetPlans.json" ] ||
    nnUNet_n_proc_DA=1 nnUNetv2_plan_and_preprocess -d 4 -c 2d 3d_fullres
[ -f "$nnUNet_preprocessed/$dataset/nnUNetResEncUNetMPlans.json" ] ||
    nnUNet_n_proc_DA=1 nnUNetv2_plan_experiment -d 4 -pl nnUNetPlannerResEncM
python plans.py
python cells.py ../results/quality-acdc-augmented.json iac-lth acdc
for study in transfer three-d; do
    nnunet-iac study "$study.yaml"
    cp "$nnUNet_results/studies/$study/results.json" "$study.json"
done
models=$nnUNet_results/$dataset/nnUNetTrainerIACLTH
python exports.py 4 "${models}NoMirroring__transfer_2d_narrow_iac-lth_NoMirroring_0__2d/fold_0" \
    "${models}NoDA__three-d_3d_fullres_plain3d_iac-lth_NoDA_0__3d_fullres/fold_0" \
    "${models}NoDA__three-d_3d_fullres_residual3d_iac-lth_NoDA_0__3d_fullres/fold_0"
python page.py
