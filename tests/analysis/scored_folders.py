"""nnU-Net's folders as its validation, its trainings and ours leave them, without training."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord, CostRecord, SourceRecord
from nnunet_iac.runs.scores import foreground_dice
from nnunet_iac.search.settings import Settings

Dice = Mapping[str, float | Mapping[str, float]]
"""Per case, then per class; one number is the Dice of the only class, 1."""


def write_summary(folder: Path, dice: Dice, truth_voxels: int = 100, ending: str = ".nii.gz"):
    """Write a summary.json as nnU-Net does and return the folder."""
    rows = []
    for case, of_classes in dice.items():
        if not isinstance(of_classes, Mapping):
            of_classes = {"1": of_classes}
        metrics = {name: {"Dice": d, "n_ref": truth_voxels} for name, d in of_classes.items()}
        files = {"prediction_file": f"elsewhere/{case}{ending}"}
        files["reference_file"] = str(folder / "truth" / f"{case}{ending}")
        rows.append({"metrics": metrics, **files})
    folder.mkdir(parents=True, exist_ok=True)
    # Not write_json: nnU-Net writes NaN where a class is absent.
    (folder / "summary.json").write_text(json.dumps({"metric_per_case": rows}))
    return folder


def weights(value: float) -> dict[str, torch.Tensor]:
    """Return the tensors of a network."""
    return {"conv.weight": torch.full((2, 3), value)}


def write_stock_fold(fold: Path, dice: Dice, **checkpoints: float) -> Path:
    """Write a fold of a stock training: its validation, and checkpoints by name and weight."""
    write_summary(fold / "validation", dice)
    for name, value in checkpoints.items():
        torch.save({"network_weights": weights(value)}, fold / f"checkpoint_{name}.pth")
    return fold


def write_run_fold(
    fold: Path,
    dice: Dice,
    frozen: float = 1.0,
    reference: Dice | None = None,
    settings: Settings | None = None,
    method: str = "IAC-LTH",
    split: Sequence[str] | None = None,
    **record: Any,
) -> Path:
    """Write a fold with a record: its validation, and what froze which network."""
    write_summary(fold / "validation", dice)
    run = RunFolder.of_fold(fold)
    run.write_settings(settings or Settings())
    run.write_split({"training": [], "validation": list(dice if split is None else split)})
    run.write_cost(CostRecord(run={"method": method}))
    known = None
    if reference is not None:
        write_summary(run.reference_folder / "validation", reference)
        summary = run.reference_folder / "validation" / "summary.json"
        known = foreground_dice(summary, ".nii.gz")
    found = tensors_hash(weights(frozen))
    values = {"after": found, "reference": known, **record}
    run.write_backbone(BackboneRecord("frozen.pth", "nnUNetTrainer", 0, before=found, **values))
    return fold


def write_source_record(
    fold: Path, before: Mapping[str, float], after: Mapping[str, float], **own: Any
) -> None:
    """Write what a run scores on the source of the model it adapts, by case."""
    sides = [{"mean": fmean(dice.values()), "per_case": dict(dice)} for dice in (before, after)]
    known = {"dataset": "Dataset027_Source", "backbone": "a1b2c3", "network": "d4e5f6", **own}
    lost = sides[1]["mean"] - sides[0]["mean"]
    record = SourceRecord(
        **known, configuration="2d", fold=0, before=sides[0], after=sides[1], forgetting=lost
    )
    RunFolder.of_fold(fold).write_source(record)


def write_dataset_json(path: Path, **labels: int) -> None:
    """Write nnU-Net's dataset.json."""
    write_json(path / "dataset.json", {"labels": labels})
