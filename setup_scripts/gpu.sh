#!/usr/bin/env bash
# Measures nnunet-iac on a GPU machine that has torch, in at most 8 minutes; see docs/evidence/gpu.
#
#   bash setup_scripts/gpu.sh [--wheels DIR] [--commit HASH] [--device cpu] [--quick]
#
# Installs into .venv-gpu, which sees the machine's torch and what lies beside it: nnunet-iac in place, nnU-Net
# and what both need, from a folder of wheels (default: wheels/, if it is there; setup_scripts/gpu_wheels.sh
# fills it) or else from the index, then with onnx, onnxscript and onnxruntime. Nothing else is changed. It takes
# about a minute. The rest of the 8 minutes is for the parts that docs/evidence/gpu/visit.py lists with the
# seconds after which each is stopped, the most important first; each writes a JSON file, below $OUT if that is
# set, else in docs/evidence/gpu, from which docs/evidence/gpu/page.py writes the page.
# Whatever is finished is kept: a second call continues on the same kind of machine, once the files are in the
# folder. --commit names the code where there is no git; --device cpu --quick is a dry run of all parts on tiny
# networks, without limits of time.
STEPS=3
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
VENV="$ROOT/.venv-gpu"
WHEELS="$ROOT/wheels"
MINUTES=8
visit=()
while [ $# -gt 0 ]; do
    case "$1" in
    --wheels) WHEELS="$2" && shift 2 ;;
    --commit | --device) visit+=("$1" "$2") && shift 2 ;;
    --quick) visit+=("$1") && shift ;;
    *) echo "error: unknown option $1; the head of $0 lists them" >&2 && exit 2 ;;
    esac
done

# An environment on top of another one sees only the interpreter's own packages, so torch's folder is
# named in a file besides.
create_venv_on_torch() {
    local packages
    if ! packages="$(python3 -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])')"; then
        echo "error: python3 must be one that has torch: install it, or put the right one on the PATH" >&2
        return 1
    fi
    [ -x "$VENV/bin/python" ] || python3 -m venv --without-pip --system-site-packages "$VENV" || return
    echo "$packages" >"$("$VENV/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torch_here.pth"
    "$VENV/bin/python" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda, *(
        torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())))'
}

install_beside_torch() {
    local pip=(python3 -m pip --python "$VENV/bin/python" install --disable-pip-version-check --quiet)
    if compgen -G "$WHEELS/*.whl" >/dev/null; then
        "${pip[@]}" --no-index --no-deps "$WHEELS"/*.whl || return
        "${pip[@]}" --no-index --no-deps --no-build-isolation -e "$ROOT" || return
    else
        # torch.__version__ may have a suffix that the installed package has not.
        "$VENV/bin/python" -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
            >"$VENV/torch.txt" || return
        "${pip[@]}" --constraint "$VENV/torch.txt" -e "$ROOT[onnx]" || return
    fi
    "$VENV/bin/python" -c 'import nnunet_iac.training.trainers'
}

measure() {
    local left
    left="$(awk "BEGIN { print $MINUTES - $SECONDS / 60 }")"
    "$VENV/bin/python" "$ROOT/docs/evidence/gpu/visit.py" --minutes "$left" --to "$TO" "${visit[@]}" || {
        echo "what was measured is in $TO; the same call continues" >&2
        return 1
    }
}

TO="${OUT:-$ROOT/docs/evidence/gpu}"
export OMP_WAIT_POLICY=passive PYTHONUNBUFFERED=1
export PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}" # Before another copy that lies beside torch.
step "Create an environment that sees torch" create_venv_on_torch
step "Install nnunet-iac beside it" install_beside_torch
step "Measure" measure
printf '\nall parts are in %s, after %d:%02d\n' "$TO" $((SECONDS / 60)) $((SECONDS % 60))
