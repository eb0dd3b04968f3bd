"""Every feature of nnU-Net works with the retrofit trainers on real data, or is refused aloud."""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from forked_commands import command, in_fork
from skimage import io
from torch._dynamo import OptimizedModule
from variants_of_data import IGNORED, REGIONS, SLICES, write_regions, write_slices

from nnunet_iac.host.trainer_lookup import trainers_dir
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.plans import dataset_number

pytestmark = pytest.mark.slow

HIPPOCAMPUS = "Dataset004_Hippocampus"
LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
FULL = "nnUNetTrainerIAC_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete_2finetune"
FOLDS = (0, 1, 2, 3, 4)
PATIENTS = r"hippocampus_\d+"
ON_THE_CPU = ("-device", "cpu")
ALONE = (*ON_THE_CPU, "-npp", 0, "-nps", 0)
"""Predict in one process, which pools would only slow down here."""

has_compiler = pytest.mark.skipif(
    not (shutil.which("g++") or shutil.which("clang++")),
    reason="torch.compile needs a C++ compiler on the CPU, and there is none",
)


@dataclass(frozen=True)
class Model:
    """What nnU-Net's commands call a model: a trainer under plans and a configuration."""

    dataset: str
    configuration: str = "2d"
    trainer: str = LTH
    plans: str = "small"

    @property
    def number(self) -> int:
        return dataset_number(self.dataset)

    @property
    def words(self) -> tuple[object, ...]:
        return ("-d", self.number, "-c", self.configuration, "-tr", self.trainer, "-p", self.plans)

    @property
    def folder(self) -> str:
        return f"{self.dataset}/{self.trainer}__{self.plans}__{self.configuration}"


@dataclass(frozen=True)
class Host:
    """nnU-Net's three folders, and its commands in them."""

    path: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            **{f"nnUNet_{p}": str(self.path / p) for p in ("raw", "preprocessed", "results")},
            "nnUNet_extTrainer": str(trainers_dir()),
            "nnUNet_n_proc_DA": "0",
            "nnUNet_def_n_proc": "1",
        }

    def attempt(self, task: Callable[[], object], **environment: str) -> tuple[int, str]:
        """Return the exit status of a task in a process of its own, and what it printed."""
        logs = self.path / "logs"
        logs.mkdir(exist_ok=True)
        log = logs / f"{len(list(logs.iterdir()))}.txt"
        status = in_fork(task, {**self.environment, **environment}, log)
        return status, log.read_text()

    def do(self, task: Callable[[], object], **environment: str) -> str:
        """Run a task that must succeed and return what it printed."""
        status, printed = self.attempt(task, **environment)
        assert status == 0, printed[-4000:]
        return printed

    def typed(self, *words: object, **environment: str) -> str:
        """Run a command that must succeed and return what it printed."""
        return self.do(command(*map(str, words)), **environment)

    def train(self, model: Model, fold: object, *flags: str, **environment: str) -> Path:
        """Train a model's fold as typed and return its folder."""
        names = (model.number, model.configuration, fold, "-tr", model.trainer, "-p", model.plans)
        self.typed("nnUNetv2_train", *names, *ON_THE_CPU, *flags, **environment)
        return self.fold(model, fold)

    def predict(
        self, model: Model, images: Path, *flags: object, **environment: str
    ) -> dict[str, np.ndarray]:
        """Predict as typed and return labels by the name of their file."""
        output = self.path / f"predicted_{len(list(self.path.glob('predicted_*')))}"
        words = ("-i", images, "-o", output, *model.words, *flags, *ALONE)
        self.typed("nnUNetv2_predict", *words, **environment)
        return labels(output)

    def model(self, model: Model) -> Path:
        return self.path / "results" / model.folder

    def fold(self, model: Model, fold: object) -> Path:
        return self.model(model) / f"fold_{fold}"

    def images(self, dataset: str, part: str = "imagesTs") -> Path:
        return self.path / "raw" / dataset / part

    def make_backbones(self, model: Model, *folds: int | str) -> None:
        """Save initial weights as the folds' trained backbones, which are other for each fold."""

        def task() -> None:
            for seed, fold in enumerate(folds):
                torch.manual_seed(seed)
                stock = make_trainer(model, fold, "nnUNetTrainer")
                stock.initialize()
                stock.save_checkpoint(str(Path(stock.output_folder) / "checkpoint_final.pth"))

        self.do(task)

    def with_own_results(self, path: Path) -> "Host":
        """Return a host with the same data and plans and a copy of the results."""
        for part in ("raw", "preprocessed"):
            (path / part).symlink_to(self.path / part)
        shutil.copytree(self.path / "results", path / "results")
        return Host(path)


def make_trainer(model: Model, fold: int | str, trainer: str | None = None) -> Any:
    """Return a trainer as nnUNetv2_train makes it."""
    from nnunetv2.run.run_training import get_trainer_from_args

    names = (str(model.number), model.configuration, fold, trainer or model.trainer, model.plans)
    return get_trainer_from_args(*names, device=torch.device("cpu"))


def labels(folder: Path) -> dict[str, np.ndarray]:
    """Return the label images in a folder by the name of their file."""
    found = {}
    for path in sorted([*folder.glob("*.nii.gz"), *folder.glob("*.png")]):
        is_png = path.suffix == ".png"
        found[path.name] = io.imread(path) if is_png else _values(path)
    assert found
    return found


def _values(path: Path) -> Any:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Return whether two predictions have the same files with the same labels."""
    return one.keys() == other.keys() and all(np.array_equal(one[k], other[k]) for k in one)


def final_weights(fold: Path) -> dict[str, torch.Tensor]:
    """Return the network's tensors in a fold's final checkpoint."""
    checkpoint = torch.load(fold / "checkpoint_final.pth", weights_only=False)
    weights: dict[str, torch.Tensor] = checkpoint["network_weights"]
    return weights


def same_weights(one: Path, other: Path) -> bool:
    """Return whether two folds ended with bit-identical networks."""
    first, second = final_weights(one), final_weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Regions and slices, planned by nnU-Net, with narrow networks and folds by patient."""
    host = Host(tmp_path_factory.mktemp("host"))
    write_regions(host.path / "raw")
    write_slices(host.path / "raw")
    plan = ("-d", 5, 6, "-c", "2d", "3d_fullres", "-np", 1, "-npfp", 1)
    host.typed("nnUNetv2_plan_and_preprocess", *plan, nnUNet_n_proc_DA="1")
    _write_plans(host, REGIONS, _shapes_of_patches)
    _write_plans(host, SLICES, _three_stages)
    for dataset in (REGIONS, SLICES):
        folder = host.path / "preprocessed" / dataset
        cases = sorted(path.stem for path in (folder / "nnUNetPlans_2d").glob("*.pkl"))
        patients = sorted({case[: len("hippocampus_001")] for case in cases})
        splits = [
            {
                "train": [case for case in cases if not case.startswith(patient)],
                "val": [case for case in cases if case.startswith(patient)],
            }
            for patient in patients
        ]
        write_json(folder / "splits_final.json", splits)
    return host


def _write_plans(
    host: Host, dataset: str, change: Callable[[dict[str, Any]], None], name: str = "small"
) -> None:
    folder = host.path / "preprocessed" / dataset
    source = "nnUNetPlans" if name == "small" else "small"
    plans = read_json(folder / f"{source}.json")
    plans.update(plans_name=name, source_plans=source)
    change(plans["configurations"])
    write_json(folder / f"{name}.json", plans)


def _narrow(configuration: dict[str, Any], **keywords: Any) -> None:
    configuration["batch_size"] = 2
    stages = len(keywords["strides"])
    configuration["architecture"]["arch_kwargs"].update(
        n_stages=stages,
        features_per_stage=[4, *[8] * (stages - 1)],
        n_conv_per_stage=[1] * stages,
        n_conv_per_stage_decoder=[1] * (stages - 1),
        **keywords,
    )


def _shapes_of_patches(configurations: dict[str, Any]) -> None:
    """Give 2-D a non-square patch, 3-D a flat one, both with strides that differ by axis."""
    plane, volume = configurations["2d"], configurations["3d_fullres"]
    configurations["2d_long"] = long = copy.deepcopy(plane)
    _narrow(plane, kernel_sizes=[[3, 3]] * 3, strides=[[1, 1], [2, 2], [2, 2]])
    long["patch_size"] = [64, 40]
    _narrow(
        long,
        kernel_sizes=[[3, 1], [3, 3], [3, 3], [1, 3]],
        strides=[[1, 1], [2, 1], [2, 2], [2, 1]],
    )
    volume["patch_size"] = [16, 40, 24]
    _narrow(
        volume,
        kernel_sizes=[[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    )
    cascade = {"inherits_from": "3d_fullres"}
    configurations["3d_lowres"] = {**cascade, "next_stage": "3d_cascade_fullres"}
    configurations["3d_cascade_fullres"] = {**cascade, "previous_stage": "3d_lowres"}


def _three_stages(configurations: dict[str, Any]) -> None:
    plane = configurations["2d"]
    _narrow(plane, kernel_sizes=[[3, 3]] * 3, strides=[[1, 1], [2, 2], [2, 2]])
    plane["iac"] = {"patient_pattern": PATIENTS}


# --- kinds of data and of patches ----------------------------------------------------------------


@pytest.mark.parametrize("configuration", ["2d", "2d_long", "3d_fullres"])
def test_regions_an_ignore_label_and_two_channels_work_in_patches_of_any_shape(
    host: Host, configuration: str
) -> None:
    model = Model(REGIONS, configuration)
    host.make_backbones(model, 0)
    fold = host.train(model, 0)
    weights = final_weights(fold)
    dimension = 3 if configuration == "3d_fullres" else 2
    last = max(key for key in weights if "seg_layers" in key and key.endswith("weight"))
    assert weights[last].shape[0] == 2  # Regions, without a channel for the background.
    assert weights[last].ndim == 2 + dimension
    summary = read_json(fold / "validation" / "summary.json")
    reference = fold / "iac" / "reference" / "validation" / "summary.json"
    assert summary["mean"].keys() == read_json(reference)["mean"].keys() == {"(1, 2)", "2"}
    run = RunFolder.of_fold(fold)
    record = run.read_backbone()
    assert record.unchanged
    assert record.reference is not None
    assert list(record.reference["per_case"]) == ["hippocampus_001"]
    assert len(run.read_events()) == 14 * 6
    (predicted,) = host.predict(model, host.images(REGIONS), "-f", 0).values()
    (image,) = host.images(REGIONS).glob("*_0000.nii.gz")
    assert predicted.shape == _values(image).shape
    assert len(np.unique(predicted)) > 1
    assert IGNORED not in predicted


def test_ignored_voxels_do_not_count_in_the_loss(host: Host) -> None:
    model = Model(REGIONS)
    host.make_backbones(model, 0)

    def task() -> None:
        trainer = make_trainer(model, 0)
        trainer.on_train_start()
        batch = next(trainer.dataloader_train)
        targets = batch["target"]
        ignored = [target[:, -1:] > 0 for target in targets]
        assert 0 < ignored[0].float().mean() < 1
        with torch.no_grad():
            outputs = trainer.network(batch["data"])
            loss = trainer.loss(outputs, targets)
            inside = [x + 5 * part for x, part in zip(outputs, ignored, strict=True)]
            outside = [x + 5 * ~part for x, part in zip(outputs, ignored, strict=True)]
            assert torch.equal(trainer.loss(inside, targets), loss)
            assert not torch.isclose(trainer.loss(outside, targets), loss)

    host.do(task)


def test_the_first_stage_of_a_cascade_is_searched_and_predicts_for_the_next(host: Host) -> None:
    model = Model(REGIONS, "3d_lowres", DISCRETE, "first")
    genotype = {"edges": [], "format": ""}
    path = host.path / "genotype.json"
    RunFolder(path.parent).genotype_file  # noqa: B018
    del genotype
    host.make_backbones(Model(REGIONS, "3d_lowres"), 0)


def test_the_second_stage_of_a_cascade_is_refused_before_anything_is_written(host: Host) -> None:
    model = Model(REGIONS, "3d_cascade_fullres")
    words = ("nnUNetv2_train", 5, model.configuration, 0, "-tr", LTH, "-p", "small", *ON_THE_CPU)
    status, printed = host.attempt(command(*map(str, words)))
    assert status != 0
    assert "ValueError: the configuration must not be the second stage of a cascade" in printed
    assert "3d_cascade_fullres is; use 2d, 3d_fullres or 3d_lowres" in printed
    assert not host.model(model).exists()
