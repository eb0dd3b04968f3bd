#!/usr/bin/env bash
# Measures everything docs/evidence/performance.md shows, then writes the page. About 45 minutes on two cores. The estimates of memory need
# nnU-Net's folders, with Hippocampus as data set 4 and the plans nnUNetPlans and nnUNetResEncUNetMPlans; without the folders they are kept.
set -euo pipefail
cd "$(dirname "$0")/../../.."
export OMP_WAIT_POLICY=passive
results=docs/evidence/performance
narrow=(--features 8 16 32 64 128 --patch-size 128 128 --batch-size 6)
large=(--features 32 64 128 256 512 --patch-size 128 128 --batch-size 8)
run() { echo "== $1"; nnunet-iac benchmark "${@:2}" -device cpu --json "$results/$1.json"; }

# Sleeping threads would hide what a small operation costs, since waking them takes longer.
OMP_WAIT_POLICY=active python docs/evidence/performance/levers.py "$results/levers.json"
OMP_WAIT_POLICY=active python docs/evidence/performance/step_profile.py "$results/profile.json"
python docs/evidence/performance/loading.py "$results/loading.json"
run step step
run step_narrow step "${narrow[@]}"
run step_large step "${large[@]}"
run step_recompute step --set activation_checkpointing=true
run run run
run run_narrow run "${narrow[@]}"
run run_large run "${large[@]}" --cells 10
run inference inference
run inference_narrow inference "${narrow[@]}"
run inference_256 inference --patch-size 256 256 --features 32 64 128 256 512 512
waiting() { ( export OMP_WAIT_POLICY=$2 OMP_NUM_THREADS=$3; run "$1_$2_$3" "${@:4}" ); }
waiting run active 1 run
waiting run active 2 run
waiting run passive 1 run
waiting run_narrow active 2 run "${narrow[@]}"
waiting inference_256 active 2 inference --patch-size 256 256 --features 32 64 128 256 512 512
run search search
run growth_stages step --patch-size 64 48 --features 32 64 128 256 512 --repeats 5
run growth_patch_128_96 step --patch-size 128 96 --repeats 5
run growth_partial_channels_1 step --set partial_channels=1 --repeats 5
[ -z "${nnUNet_preprocessed:-}" ] || python docs/evidence/performance/memory.py
python docs/evidence/performance/page.py
