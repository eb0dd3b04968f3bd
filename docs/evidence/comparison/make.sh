#!/usr/bin/env bash
# Counts parameters and MACs, then writes the page docs/evidence/comparison.md. Trains nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export OMP_WAIT_POLICY=passive
python costs.py
python page.py
