#!/usr/bin/env bash
# Fills wheels/ for setup_scripts/gpu.sh, where the GPU machine reaches no index. Takes the arguments of
# docs/evidence/gpu/wheels.py: --python VERSION of that machine, and --there with the packages that it has
# beside torch. For an image with the usual scientific packages, whose wheels then fit into 55 MiB:
#
#   bash setup_scripts/gpu_wheels.sh --python 3.12 --there numpy scipy matplotlib pandas pillow \
#       scikit-learn scikit-image seaborn tifffile timm jaxtyping jinja2 safetensors filelock \
#       packaging tqdm requests einops networkx psutil msgpack httpx pydantic
STEPS=3
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

step "Create the environment" create_venv
step "Install nnunet-iac" install
step "Fetch the wheels" "$VENV/bin/python" "$ROOT/docs/evidence/gpu/wheels.py" --to "$ROOT/wheels" "$@"
