#!/usr/bin/env bash
# Trains a source, runs studies of adapting it, and writes the page: measure.sh PAIR FOLDER [STUDY...]
# PAIR is heart or hippocampus. Of the studies, `rates` chooses learning rates, `k3` adapts to three cases, `k3-scratch`
# trains on them from scratch, and so on, and `product` measures files, choices and time, alone on the machine and before the others,
# which leave scores of the source that it would take over; by default all are run, for hours on two cores. FOLDER gets studies and splits.
# Run again, it resumes. Needs nnU-Net's folders in nnUNet_raw, nnUNet_preprocessed and nnUNet_results, and among the raw
# data Dataset027_ACDC128 and Dataset030_CMRbSSFP with their splits_final.json, or Dataset004_Hippocampus.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
pair=${1:?a pair must be named: heart or hippocampus}
folder=${2:?a folder for studies and splits must be named}
shift 2
eval "$(nnunet-iac trainers-dir --export)"
export OMP_WAIT_POLICY=passive
run() {
    nnunet-iac study "$1" --cores "${CORES:-2}"
    cp "$nnUNet_results/studies/adaptation-$2/results.json" "$here/$2.json"
}
# The hippocampus's model is stored (licence and attribution of its data: data.md).
if [ "$pair" = hippocampus ]; then
    python "$here/shift.py"
    stored=Dataset004_Hippocampus/nnUNetTrainerAdam_80epochs__middle-double__2d
    [ -d "$nnUNet_results/$stored" ] || nnUNetv2_install_pretrained_model_from_zip "$here/hippocampus-source.zip"
fi
run "$here/$pair-source.yaml" "$pair-source"
studies=$(python "$here/studies.py" "$pair" "$folder")
[ $# -gt 0 ] || read -ra all <<<"product $studies"
for study in "${@:-${all[@]}}"; do
    case $study in
    product) python "$here/product.py" "$pair" "$folder" ;;
    *)
        run "$folder/$study.yaml" "$pair-$study"
        [ "$study" != rates ] || python "$here/studies.py" "$pair" "$folder"
        ;;
    esac
done
bash "$here/../pages.sh"
