"""A run that is killed at any moment and continued with --c ends as one that was not."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import kills
import pytest
from forked_commands import in_fork

from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.genotype import Genotype

pytestmark = pytest.mark.slow

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
SHARE_OF_KILLS = {
    LTH: 0.7,
    "nnUNetTrainerIAC_1warmup6search2finetune": 0.2,
    "nnUNetTrainerIACDiscrete_2finetune": 0.1,
}
KILLS = 20
OUTSIDE = 0.3
"""Kills from outside for every other one, where their number is given."""
CELL = Genotype.from_codes([0, 1, 2, -1, 3, -1, 4, -1, 5, 6, -1, -1, -1, 0])


@pytest.mark.parametrize("trainer", SHARE_OF_KILLS)
def test_a_killed_and_continued_run_equals_an_unbroken_one(
    workspace: Any, trainer: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    write_json(tmp_path / "cell.json", CELL.to_document())
    cell = {"genotype": str(tmp_path / "cell.json")} if "Discrete" in trainer else {}
    plans = workspace.write_plans("killed", backbone_trainer="nnUNetTrainer_1epoch", **cell)
    asked = request.config.getoption("--kills")
    count = max(len(kills.STAGES), round((asked or KILLS) * SHARE_OF_KILLS[trainer]))
    outside = round(count * OUTSIDE) if asked else int("Discrete" in trainer)
    number = () if trainer == LTH and asked is None else ("--kills", str(count))
    folder = request.config.getoption("--record") or tmp_path
    result, log = folder / f"kills_{trainer}.json", folder / "kills.log"
    words = (trainer, plans, *number, "--outside", str(outside), "--json", str(result))
    status = in_fork(partial(kills.main, words), workspace.environment, log)
    assert status == 0, log.read_text()[-6000:]
    measured = json.loads(result.read_text())
    rows, from_outside = measured["kills"], measured.get("outside", [])
    assert len(rows) == count if number else len(rows) >= 10
    assert {row["stage"] for row in rows} == set(kills.STAGES)
    assert len(from_outside) == outside
    assert all(row["differs"] == [] for row in [*rows, *from_outside])
