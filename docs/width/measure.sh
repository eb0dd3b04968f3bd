#!/usr/bin/env bash
# Measures everything docs/width.md shows, then writes the page. Interrupted, it goes on where it was.
# Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, with Hippocampus as data set 4 and ACDC as 27
# preprocessed for 2d. The first argument is the device of the trainings; ACDC is trained on a GPU only. Hours on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."
results=docs/width device=${1:-cpu}
nnUNet_extTrainer=$(nnunet-iac trainers-dir)
export nnUNet_extTrainer
python docs/width/benchmark.py "$results/benchmark.json"
python docs/width/scores.py 4 "$results/scores_hippocampus.json" 320 8
python docs/width/scores.py 27 "$results/scores_acdc.json" 160 8
python docs/width/dice.py 4 "$results/dice_hippocampus.json" --folds 0,1 -device "$device"
if [ "$device" = cuda ]; then
    python docs/width/dice.py 27 "$results/dice_acdc.json" --folds 0 -device cuda --patient-pattern 'patient\d+'
fi
python docs/width/page.py
