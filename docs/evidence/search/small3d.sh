#!/usr/bin/env bash
# Makes plans of small patches in 3-D for Hippocampus, data set 4, of a plain and a residual-encoder U-Net, unless they are there.
set -euo pipefail
plans=$nnUNet_preprocessed/Dataset004_Hippocampus
[ -f "$plans/nnUNetPlans.json" ] || nnUNet_n_proc_DA=1 nnUNetv2_plan_and_preprocess -d 4 --no_pp -npfp 1
[ -f "$plans/nnUNetResEncUNetMPlans.json" ] || nnUNet_n_proc_DA=1 nnUNetv2_plan_experiment -d 4 -pl nnUNetPlannerResEncM
python "$(dirname "$0")/plans.py"
