#!/usr/bin/env bash
# Counts parameters and MACs, then writes the page docs/evidence/comparison.md. Trains nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python costs.py
python page.py
