#!/usr/bin/env bash
# Measures everything docs/evidence/width.md shows, then writes the page. Run again, it resumes.
# Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, with Hippocampus as data set 4 and ACDC as 27
# preprocessed for 2d. The first argument is the device of the runs with cells (default: cpu); with cuda ACDC is trained as well. Hours on two cores.
set -euo pipefail
cd "$(dirname "$0")/../../.."
results=docs/evidence/width device=${1:-cpu}
nnUNet_extTrainer=$(nnunet-iac trainers-dir)
export nnUNet_extTrainer
python docs/evidence/width/benchmark.py "$results/benchmark.json"
python docs/evidence/width/scores.py 4 "$results/scores_hippocampus.json" 320 8
python docs/evidence/width/scores.py 27 "$results/scores_acdc.json" 160 8
datasets=(hippocampus)
[ "$device" != cuda ] || datasets+=(acdc)
for dataset in "${datasets[@]}"; do
    study=dice-$dataset
    nnunet-iac study "$results/$study.yaml"
    python docs/evidence/width/points.py "$results/$study.yaml" "$nnUNet_results/studies/$study/results.json" "$results/dice_$dataset.json"
done
pareto() {
    nnunet-iac pareto -d 4 -c 2d -p width --caps 64,16,8 -tr nnUNetTrainerAdam_8epochs -device "$device" \
        --set preset=literal warmup_epochs=3 search_epochs=9 finetune_epochs=15 iterations_per_epoch=20 residual=none \
        val_iterations_per_epoch=1 finetune_lr=3e-3 min_channels=4 -o "$results/pareto"
}
pareto # writes the study
nnunet-iac study "$results/pareto/study.yaml" -o "$results/pareto"
pareto # gathers its results
mv "$results/pareto/pareto.json" "$results/pareto_hippocampus.json"
rm -r "$results/pareto"
python docs/evidence/width/page.py
