#!/usr/bin/env bash
# Writes the example beside this script: a report on searched cells and two controls that were trained for as many epochs, and its first
# screen for the README. Needs nnU-Net's folders, in which docs/evidence/search/measure.sh has run the studies searches and methods of
# hippocampus, and Chromium.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_WAIT_POLICY=passive
runs=$nnUNet_results/Dataset004_Hippocampus study=search-hippocampus
some=$(mktemp -d)
trap 'rm -r "$some"' EXIT
# Links, since a report reads all controls beside a run.
for run in nnUNetTrainerIACLTH__$study-searches_2d_middle-double_iac-lth_0 nnUNetTrainerContinue__$study-methods_2d_middle-double_continued_0 \
    nnUNetTrainerIACDiscrete__$study-methods_2d_middle-double_random_0; do
    ln -s "$runs/${run}__2d" "$some"
done
nnunet-iac report "$some"/nnUNetTrainerIACLTH__* -o . --paper
chromium --headless --no-sandbox --hide-scrollbars --window-size=1100,1280 --screenshot=../figures/report.png "file://$PWD/index.html"
