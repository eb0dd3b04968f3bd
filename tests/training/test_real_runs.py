"""Whole runs through the stock nnU-Net commands, on the embedded data."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import Trajectory
from nnunet_iac.search.genotype import Genotype

pytestmark = pytest.mark.slow

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
NODA = "nnUNetTrainerIACLTHNoDA_1warmup6search2finetune"
BACKBONE = {"backbone_trainer": "nnUNetTrainer_1epoch"}


@pytest.fixture(scope="module")
def searched(workspace: Any) -> Any:
    """The workspace with a searched fold."""
    workspace.write_plans("runs", **BACKBONE)
    workspace.train(LTH, "runs")
    return workspace


def _fold(workspace: Any) -> Path:
    return workspace.model(LTH, "runs") / "fold_0"


def test_one_run_leaves_its_whole_record(searched: Any) -> None:
    fold = _fold(searched)
    run = RunFolder.of_fold(fold)
    assert (fold / "validation" / "summary.json").is_file()
    assert (fold / "progress.png").is_file()
    settings, trajectory, cost = run.read_settings(), run.read_trajectory(), run.read_cost()
    assert (
        settings.schedule.warmup_epochs,
        settings.schedule.search_epochs,
        settings.schedule.finetune_epochs,
    ) == (1, 7, 2)
    assert isinstance(trajectory, Trajectory)
    assert trajectory.alpha.shape == (7, 14, 7)
    assert len(run.read_events()) == 14 * 6
    assert {name: phase.epochs for name, phase in cost.phases.items()} == {
        "warmup": 1,
        "search": 6,
        "finetune": 2,
    }
    assert set(cost.networks) == {"backbone", "supernet", "final"}
    assert cost.networks["final"].parameters > cost.networks["backbone"].parameters
    assert cost.peak_memory_bytes > 0
    assert cost.versions["nnunetv2"]
    assert run.read_ticket()
    logs = "".join(path.read_text() for path in fold.glob("training_log_*.txt"))
    assert str(run.read_genotype()) in logs
    assert not list(fold.rglob(".*"))


def test_the_backbone_is_bit_identical_to_its_checkpoint_and_scored_from_it(searched: Any) -> None:
    record = RunFolder.of_fold(_fold(searched)).read_backbone()
    checkpoint = torch.load(record.path, weights_only=False)
    assert record.before == record.after == tensors_hash(checkpoint["network_weights"])
    stock = json.loads((Path(record.path).parent / "validation" / "summary.json").read_text())
    assert record.reference is not None
    assert len(record.reference["per_case"]) == len(stock["metric_per_case"])
    own = json.loads(
        (_fold(searched) / "iac" / "reference" / "validation" / "summary.json").read_text()
    )
    assert own["foreground_mean"] == stock["foreground_mean"]


def test_a_finished_run_can_be_continued_and_validated_again(searched: Any) -> None:
    before = _fold(searched) / "iac" / "genotype.json"
    genotype = before.read_text()
    searched.train(LTH, "runs", 0, "--c")
    assert before.read_text() == genotype


def test_the_variant_without_augmentation_asks_for_its_own_backbone(workspace: Any) -> None:
    plans = workspace.write_plans("variant")
    failed = workspace.command(
        *("nnUNetv2_train", 4, "2d", 0, "-tr", NODA, "-p", plans, "-device", "cpu")
    )
    assert failed.returncode != 0
    assert "nnUNetv2_train 4 2d 0 -tr nnUNetTrainerNoDA -p small" in failed.stderr


def test_show_prints_the_same_cell_from_file_fold_and_checkpoint(
    searched: Any, tmp_path: Path
) -> None:
    fold = _fold(searched)
    picture = tmp_path / "cell.svg"
    printed = [
        searched.run("nnunet-iac", "show", path, "-o", picture)
        for path in (fold, fold / "iac" / "genotype.json", fold / "checkpoint_final.pth")
    ]
    assert len({text.partition("drawn")[0] for text in printed}) == 1
    assert str(RunFolder.of_fold(fold).read_genotype()) in printed[0]
    assert picture.read_text().startswith("<?xml")


def test_plan_writes_settings_that_a_run_with_workers_obeys(workspace: Any) -> None:
    before = (workspace.preprocessed / "small.json").read_text()
    words = ["nnunet-iac", "plan", "-d", 4, "-c", "2d", "-p", "small", "-o", "planned"]
    settings = ["--set", "seed=3", "residual=zero", "norm=batch", "backbone_plans=small"]
    workspace.run(*words, *settings, "--set", "backbone_trainer=nnUNetTrainer_1epoch")
    assert (workspace.preprocessed / "small.json").read_text() == before
    train = ("nnUNetv2_train", 4, "2d", 0, "-tr", LTH, "-p", "planned", "-device", "cpu")
    # As a user does: threads and workers, pools are spawned, predictions mirrored.
    done = workspace.process(*train, nnUNet_n_proc_DA="2")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    fold = workspace.model(LTH, "planned") / "fold_0"
    assert (fold / "progress.png").read_bytes().startswith(b"\x89PNG")
    assert (fold / "validation" / "summary.json").is_file()
    run = RunFolder.of_fold(fold)
    found = run.read_settings()
    assert (found.optimisation.seed, found.cell.residual, found.cell.norm) == (3, "zero", "batch")
    assert isinstance(run.read_genotype(), Genotype)


def test_widths_and_cells_on_them_are_trained_and_drawn(workspace: Any, tmp_path: Path) -> None:
    settings = ["warmup_epochs=0", "search_epochs=1", "finetune_epochs=1", "min_channels=4"]
    folder = tmp_path / "widths"
    pareto = (
        *("nnunet-iac", "pareto", "-d", 4, "-c", "2d", "-p", "small", "--caps", "4"),
        *("--methods", "reference,random", "-tr", "nnUNetTrainer_1epoch", "-o", folder),
        *("--set", *settings, "iterations_per_epoch=2", "val_iterations_per_epoch=1"),
    )
    assert f"nnunet-iac study {folder / 'study.yaml'}" in workspace.run(*pareto)
    shutil.copytree(workspace.study(folder / "study.yaml"), folder, dirs_exist_ok=True)
    workspace.run(*pareto)
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    reference, random = json.loads((folder / "pareto.json").read_text())["points"]
    assert (reference["cap"], reference["method"], random["method"]) == (4, "reference", "random")
    assert random["parameters"] > reference["parameters"]
    assert (reference["epochs"], random["epochs"]) == (0, 2)
    assert reference["cases"] == 2
    record = RunFolder.of_fold(
        workspace.model("nnUNetTrainerIACDiscrete", "widths_2d_cap4_random_0") / "fold_0"
    )
    assert record.read_backbone().unchanged
