#!/usr/bin/env bash
# Measures everything docs/performance.md shows, then writes the page. About 25 minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=docs/performance
run() { echo "== $1"; nnunet-iac benchmark "${@:2}" --json "$results/$1.json"; }

python docs/performance/levers.py "$results/levers.json"
python docs/performance/step_profile.py "$results/profile.json"
python docs/performance/loading.py "$results/loading.json"
run step step
run step_recompute step --set activation_checkpointing=true
run step_128 step --patch-size 128 128 --features 32 64 128 256 512 --batch-size 8
run search search
run inference inference
run inference_256 inference --patch-size 256 256 --features 32 64 128 256 512 512
for channels in "16 32 64 128" "32 64 128" "32 64 128 256 512"; do
    # shellcheck disable=SC2086
    run "growth_features_${channels// /_}" step --patch-size 64 48 --features $channels --repeats 5
done
for patch in "64 48" "128 96"; do
    # shellcheck disable=SC2086
    run "growth_patch_${patch// /_}" step --patch-size $patch --repeats 5
done
for setting in partial_channels=2 partial_channels=1 channel_ratio=0.5; do
    run "growth_$setting" step --set "$setting" --repeats 5
done
python docs/performance/page.py
