"""A run that is killed at any moment and continued with --c ends as one that was not."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

KILLS = Path(__file__).parents[1] / "faults" / "kills.py"
SHARE_OF_KILLS = {
    "nnUNetTrainerIACLTH_1warmup6search2finetune": 0.8,
    "nnUNetTrainerIAC_1warmup6search2finetune": 0.2,
}


@pytest.mark.parametrize("trainer", SHARE_OF_KILLS)
def test_a_killed_and_continued_run_equals_an_unbroken_one(
    workspace: Any, trainer: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    plans = workspace.write_plans("killed", backbone_trainer="nnUNetTrainer_1epoch")
    kills = round(request.config.getoption("--kills") * SHARE_OF_KILLS[trainer])
    folder = request.config.getoption("--record") or tmp_path
    result = folder / f"kills_{trainer}.json"
    done = subprocess.run(
        [sys.executable, KILLS, trainer, plans, "--kills", str(kills), "--json", str(result)],
        env={**os.environ, **workspace.environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    rows = json.loads(result.read_text())["kills"]
    assert len(rows) == kills
    assert all(row["differs"] == [] for row in rows)
