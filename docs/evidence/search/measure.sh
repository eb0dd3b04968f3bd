#!/usr/bin/env bash
# Trains a backbone, shows whether it has converged, and runs studies of searches on it: measure.sh SET FOLDER [STUDY...]
# SET is hippocampus, acdc or hippocampus-3d, and a STUDY one of those that studies.yaml lists for it; by default all are run in their
# order, and then all pages are written. The page has the hours of each, without final validations and backbones; one whose backbone
# is at hand does not train it again, but `converged` trains a second one for twice as long. FOLDER gets study files. Run again, it
# resumes. `choose` must be measured before the studies that follow it. Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, with
# Dataset004_Hippocampus or Dataset027_ACDC128 among the raw data; in nnUNet_preprocessed other splits with the same fold 0 are
# replaced. CORES (default: 2) is how many runs are trained at a time.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
data=${1:?a data set must be named: hippocampus, acdc or hippocampus-3d}
folder=${2:?a folder for study files must be named}
shift 2
cores=${CORES:-2}
eval "$(nnunet-iac trainers-dir --export)"
export OMP_WAIT_POLICY=passive
# The backbone of fold 0 is stored beside the page on adapting (licence and attribution of its data: data.md there).
stored=nnUNetTrainerAdam_80epochs__middle-double__2d/fold_0
if [ "$data" = hippocampus ] && [ ! -d "$nnUNet_results/Dataset004_Hippocampus/$stored" ]; then
    nnUNetv2_install_pretrained_model_from_zip "$here/../adaptation/hippocampus-source.zip"
fi
[ "$data" != hippocampus-3d ] || bash "$here/small3d.sh"
studies=$(python "$here/studies.py" "$data" "$folder")
[ $# -gt 0 ] || read -ra all <<<"$studies"
for study in "${@:-${all[@]}}"; do
    file=$folder/$data-$study.yaml
    nnunet-iac study "$file" --cores "$cores"
    cp "$nnUNet_results/studies/search-$data-$study/results.json" "$here/$data-$study.json"
    [ "$study" != choose ] || python "$here/studies.py" "$data" "$folder"
done
bash "$here/../pages.sh"
