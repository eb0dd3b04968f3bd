#!/usr/bin/env bash
# Tries every fault in docs/evidence/reliability.md, runs the full demo, then writes the page. About an hour and a quarter on two cores.
set -euo pipefail
cd "$(dirname "$0")/../../.."
pytest tests/training/test_{kills,damage,bad_input,distributed,host_features}.py \
    tests/search/test_fuzzing.py tests/runs/test_checkpoint.py tests/runs/test_fold.py \
    tests/training/test_batches.py \
    --kills "${1:-200}" --record docs/evidence/reliability || failed=$?
pytest tests/workflow/test_demo.py -m full_demo --full-demo || failed=$?
python docs/evidence/reliability/page.py
exit "${failed:-0}"
