#!/usr/bin/env bash
# Measures everything docs/evidence/width.md shows, or the named part, then writes the page: measure.sh [PART...]
# A PART is benchmark, scores, dice-hippocampus, dice-acdc or cells-hippocampus (default: all). Run again, it resumes.
# Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, with Hippocampus as data set 4 and ACDC as 27
# preprocessed for 2d, where other splits with the same fold 0 are replaced. Hours on two cores.
set -euo pipefail
cd "$(dirname "$0")/../../.."
results=docs/evidence/width
eval "$(nnunet-iac trainers-dir --export)"
export OMP_WAIT_POLICY=passive
[ $# -gt 0 ] || set -- benchmark scores dice-hippocampus dice-acdc cells-hippocampus
for part in "$@"; do
    case $part in
    benchmark) python docs/evidence/width/benchmark.py "$results/benchmark.json" ;;
    scores)
        python docs/evidence/width/scores.py 4 "$results/scores_hippocampus.json" 320 8
        python docs/evidence/width/scores.py 27 "$results/scores_acdc.json" 160 8
        ;;
    *)
        python docs/evidence/search/studies.py "${part#*-}" "$(mktemp -d)" >/dev/null # Puts its splits in place.
        nnunet-iac study "$results/$part.yaml" --cores 2
        python docs/evidence/width/costs.py "$results/$part.yaml" "$nnUNet_results/studies/$part/results.json" "$results/${part/-/_}.json"
        ;;
    esac
done
bash docs/evidence/pages.sh
