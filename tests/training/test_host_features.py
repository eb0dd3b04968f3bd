"""Every feature of nnU-Net works with the retrofit trainers on real data, or is refused aloud."""

import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import SimpleITK
import torch
from forked_commands import command, in_fork
from skimage import io
from torch._dynamo import OptimizedModule
from variants_of_data import IGNORED, REGIONS, SLICES, write_regions, write_slices

from nnunet_iac.host.plans import dataset_number
from nnunet_iac.host.trainer_lookup import trainers_dir
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.patients import patient_of
from nnunet_iac.training.preflight import previous_predictions

pytestmark = pytest.mark.slow

HIPPOCAMPUS = "Dataset004_Hippocampus"
LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
FULL = "nnUNetTrainerIAC_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete_2finetune"
FOLDS = (0, 1, 2)
PATIENTS = r"hippocampus_\d+"
CELL = Genotype.from_codes([0, 1, 2, -1, 3, -1, 4, -1, 5, 6, -1, -1, -1, 0])
ON_THE_CPU = ("-device", "cpu")
ALONE = (*ON_THE_CPU, "-npp", 0, "-nps", 0)
"""Predict in one process, which pools would only slow down here."""


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


def test_the_first_stage_of_a_cascade_predicts_for_the_next_with_its_cells(host: Host) -> None:
    found = RunFolder(host.path / "given")
    found.write_genotype(CELL)
    _write_plans(host, REGIONS, lambda c: c["3d_lowres"].update(iac=_given(found)), "first")
    host.make_backbones(Model(REGIONS, "3d_lowres"), 0)
    model = Model(REGIONS, "3d_lowres", DISCRETE, "first")
    fold = host.train(model, 0)
    (own,) = labels(fold / "validation").values()
    (reference,) = labels(fold / "iac" / "reference" / "validation").values()
    assert not np.array_equal(own, reference)
    (next_stage,) = host.model(model).glob("predicted_next_stage/3d_cascade_fullres/*.b2nd")
    assert np.array_equal(np.squeeze(blosc2.open(str(next_stage))[:]), own)


def _given(found: RunFolder) -> dict[str, str]:
    return {"genotype": str(found.genotype_file), "backbone_plans": "small"}


def test_the_second_stage_of_a_cascade_sees_what_the_backbones_first_stage_predicted(
    host: Host,
) -> None:
    model = Model(REGIONS, "3d_cascade_fullres")
    first = host.model(Model(REGIONS, "3d_lowres", "nnUNetTrainer"))
    predicted = first / "predicted_next_stage" / model.configuration
    predicted.mkdir(parents=True, exist_ok=True)
    host.make_backbones(Model(REGIONS, "3d_lowres"), 0)
    data = host.path / "preprocessed" / REGIONS / "nnUNetPlans_3d_fullres"
    for path in data.glob("*_seg.b2nd"):
        values = np.clip(blosc2.open(str(path))[0], 0, 2)
        case = predicted / path.name.replace("_seg", "")
        blosc2.asarray(np.ascontiguousarray(values), urlpath=str(case), mode="w")
    host.make_backbones(model, 0)
    fold = host.train(model, 0)
    assert RunFolder.of_fold(fold).read_backbone().unchanged
    weights = final_weights(fold)
    first_layer = next(value for key, value in weights.items() if key.endswith("conv.weight"))
    assert (
        first_layer.shape[1] == 2 + 2
    )  # Two images, and a mask for each label of the first stage.
    assert (fold / "validation" / "summary.json").is_file()
    (image,) = host.images(REGIONS).glob("*_0000.nii.gz")
    name = image.name.replace("_0000", "")
    found = []
    for label in (0, 2):
        before = host.path / f"first_stage_{label}"
        before.mkdir()
        _write_constant(image, label, before / name)
        found += host.predict(
            model, image.parent, "-f", 0, "-prev_stage_predictions", before
        ).values()
    assert found[0].shape == found[1].shape == _values(image).shape
    assert not np.array_equal(*found)


def _write_constant(image: Path, label: int, path: Path) -> None:
    """Write a segmentation that says the same everywhere in an image."""
    like = SimpleITK.ReadImage(str(image))
    SimpleITK.WriteImage(SimpleITK.Cast(like * 0 + label, SimpleITK.sitkUInt8), str(path))


@pytest.mark.parametrize("suffix", [".b2nd", ".npz", ".npy"])
def test_case_ids_may_have_dots_in_what_the_first_stage_predicted(
    tmp_path: Path, suffix: str
) -> None:
    model = tmp_path / "nnUNetTrainer__plans__3d_cascade_fullres"
    stages = model, "3d_lowres", "3d_cascade_fullres"
    folder = tmp_path / "nnUNetTrainer__plans__3d_lowres/predicted_next_stage/3d_cascade_fullres"
    folder.mkdir(parents=True)
    (folder / f"case_1.5T_01{suffix}").touch()
    (folder / "case_1.5T_02.nii.gz").touch()  # Nothing that nnU-Net would read.
    assert previous_predictions(*stages, ["case_1.5T_01"]) == folder
    with pytest.raises(FileNotFoundError, match=r"has nothing of case_1\.5T_02: train"):
        previous_predictions(*stages, ["case_1.5T_01", "case_1.5T_02"])


@pytest.fixture(scope="module")
def slices(host: Host) -> Host:
    """The host with folds 0 and 1 of the single slices searched; their cells differ."""
    model = Model(SLICES)
    host.make_backbones(model, 0, 1, 2, "all")
    for fold in (0, 1):
        host.train(model, fold, nnUNet_compile="0")
    cells = [RunFolder.of_fold(host.fold(model, fold)).read_genotype() for fold in (0, 1)]
    assert cells[0] != cells[1]
    return host


def test_single_slices_as_png_are_searched_in_halves_by_patient_and_predicted(
    slices: Host,
) -> None:
    model = Model(SLICES, trainer=FULL)
    fold = slices.train(model, 0)
    split = read_json(RunFolder.of_fold(fold).split_file)
    halves = [
        {patient_of(case, PATIENTS) for case in split[half]}
        for half in ("train_search", "val_search")
    ]
    assert all(halves)
    assert not halves[0] & halves[1]
    record = RunFolder.of_fold(fold).read_backbone()
    assert record.reference is not None
    assert sorted(record.reference["per_case"]) == sorted(split["validation"])
    validated = labels(fold / "validation")
    assert {name.removesuffix(".png") for name in validated} == set(split["validation"])
    images = slices.images(SLICES)
    predicted = slices.predict(model, images, "-f", 0)
    assert len(predicted) == len(list(images.iterdir()))
    for name, found in predicted.items():
        assert found.shape == io.imread(images / name.replace(".png", "_0000.png")).shape
        assert set(np.unique(found)) <= {0, 1, 2}


def test_two_folds_with_different_cells_predict_the_same_in_either_order(slices: Host) -> None:
    model, images = Model(SLICES), slices.images(SLICES)
    forth, back, first, second = (
        slices.predict(model, images, "-f", *folds) for folds in ((0, 1), (1, 0), (0,), (1,))
    )
    assert same(forth, back)
    assert not same(forth, first)
    assert not same(forth, second)


# --- flags of nnUNetv2_train ---------------------------------------------------------------------


def test_fold_all_is_searched_and_its_record_has_nothing_held_out(slices: Host) -> None:
    model = Model(SLICES)
    fold = slices.train(model, "all", "--npz")
    assert fold.name == "fold_all"
    run = RunFolder.of_fold(fold)
    assert run.read_backbone().leakage == "was trained on all cases"
    assert run.read_backbone().unchanged
    split = read_json(run.split_file)
    assert split["training"] == split["validation"]
    assert len(labels(fold / "validation")) == len(split["training"])
    assert slices.predict(model, slices.images(SLICES), "-f", "all")


def test_npz_keeps_probabilities_whose_largest_is_the_label(slices: Host, tmp_path: Path) -> None:
    own = slices.with_own_results(tmp_path)
    model = Model(SLICES)
    before = labels(own.fold(model, 0) / "validation")
    own.train(model, 0, "--val", "--npz")
    validation = own.fold(model, 0) / "validation"
    after = labels(validation)
    assert same(before, after)
    for name, found in after.items():
        probabilities = np.load(validation / name.replace(".png", ".npz"))["probabilities"]
        assert np.array_equal(np.squeeze(probabilities.argmax(0)), found)
    reference = own.fold(model, 0) / "iac" / "reference"
    assert not list(reference.rglob("*.npz"))


def test_val_best_validates_the_network_that_predicts_from_the_best_checkpoint(
    slices: Host, tmp_path: Path
) -> None:
    own = slices.with_own_results(tmp_path)
    model = Model(SLICES)
    fold = own.fold(model, 0)
    best, final = fold / "checkpoint_best.pth", fold / "checkpoint_final.pth"
    checkpoint = torch.load(best, weights_only=False)
    bias = max(key for key in checkpoint["network_weights"] if key.endswith("output.bias"))
    checkpoint["network_weights"][bias] += 1  # Else it might be the final one by chance.
    torch.save(checkpoint, best)
    before = final.read_bytes()
    own.train(model, 0, "--val", "--val_best")
    logs = "".join(path.read_text() for path in fold.glob("training_log_*.txt"))
    assert "these are scores of the best epoch" in logs
    assert RunFolder.of_fold(fold).read_backbone().unchanged
    assert final.read_bytes() == before
    images = tmp_path / "validated"
    images.mkdir()
    validated = labels(fold / "validation")
    for name in validated:
        image = name.replace(".png", "_0000.png")
        shutil.copy(own.images(SLICES, "imagesTr") / image, images)
    assert same(own.predict(model, images, "-f", 0, "-chk", best.name), validated)
    assert not same(own.predict(model, images, "-f", 0), validated)


def test_without_checkpoints_a_run_ends_with_its_whole_record_and_validation(
    slices: Host, tmp_path: Path
) -> None:
    own = slices.with_own_results(tmp_path)
    model = Model(SLICES)
    with_checkpoints = slices.fold(model, 0)
    shutil.rmtree(own.fold(model, 0))
    fold = own.train(model, 0, "--disable_checkpointing")
    assert not list(fold.rglob("*.pth"))
    kept = {path.relative_to(with_checkpoints) for path in (with_checkpoints / "iac").rglob("*")}
    assert {path.relative_to(fold) for path in (fold / "iac").rglob("*")} == kept
    run, other = RunFolder.of_fold(fold), RunFolder.of_fold(with_checkpoints)
    assert run.read_genotype() == other.read_genotype()
    record = replace(run.read_backbone(), path=other.read_backbone().path)
    assert record == other.read_backbone()
    assert same(labels(fold / "validation"), labels(with_checkpoints / "validation"))


# --- torch.compile -------------------------------------------------------------------------------


def test_with_compile_set_training_warns_that_it_does_not_and_ends_with_the_same_bits(
    slices: Host, tmp_path: Path
) -> None:
    own = slices.with_own_results(tmp_path)
    model = Model(SLICES)
    off, on = slices.fold(model, 0), own.fold(model, 0)
    warning = "WARNING: nnUNet_compile is ignored; the U-Net is not compiled for training"
    shutil.rmtree(on)

    def task() -> None:
        trainer = make_trainer(model, 0)
        trainer.run_training()
        assert not isinstance(trainer.network, OptimizedModule)
        assert not isinstance(trainer.loss.loss.dc, OptimizedModule)

    own.do(task, nnUNet_compile="1")
    assert [warning in _log(fold) for fold in (off, on)] == [False, True]
    assert same_weights(off, on)


def test_compiled_prediction_of_two_folds_with_different_cells_gives_the_same_labels(
    slices: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = Model(SLICES), slices.images(SLICES)
    plain = slices.predict(model, images, "-f", 0, 1, nnUNet_compile="0")
    # Traced and guarded as always; only the code generator's minute is left out.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    compiled = slices.predict(model, images, "-f", 0, 1, nnUNet_compile="1")
    assert same(plain, compiled)


def _log(fold: Path) -> str:
    return "".join(path.read_text() for path in sorted(fold.glob("training_log_*.txt")))


# --- three folds ---------------------------------------------------------------------------------

MODEL = Model(HIPPOCAMPUS)


@pytest.fixture(scope="module")
def three_folds(planned: Any, tmp_path_factory: pytest.TempPathFactory) -> Host:
    """Three searched folds of the embedded cases, and nnU-Net's choice among one configuration."""
    host = Host(tmp_path_factory.mktemp("three"))
    shutil.copytree(planned.path / "raw" / HIPPOCAMPUS, host.path / "raw" / HIPPOCAMPUS)
    planned.share(host.path / "preprocessed" / HIPPOCAMPUS)
    for image in sorted(host.images(HIPPOCAMPUS).iterdir())[1:]:
        image.unlink()
    splits = host.path / "preprocessed" / HIPPOCAMPUS / "splits_final.json"
    shortened = [{**split, "val": split["val"][:1]} for split in read_json(splits)]
    write_json(splits, shortened)  # For speed.
    host.make_backbones(MODEL, *FOLDS)
    for fold in FOLDS:
        host.train(MODEL, fold, "--npz")
    names = ("-c", "2d", "-tr", MODEL.trainer, "-p", MODEL.plans, "-np", 1, "-f", *FOLDS)
    host.typed("nnUNetv2_find_best_configuration", MODEL.number, *names)
    return host


def _instructions(host: Host, program: str) -> list[str]:
    """Return the words of a command that nnU-Net wrote for its user."""
    written = host.path / "results" / HIPPOCAMPUS / "inference_instructions.txt"
    (line,) = (line for line in written.read_text().splitlines() if line.startswith(program))
    return line.split()


def test_a_fold_predicts_with_its_own_cell_what_it_was_validated_with(
    three_folds: Host, tmp_path: Path
) -> None:
    records = {fold: RunFolder.of_fold(three_folds.fold(MODEL, fold)) for fold in FOLDS}
    folds = {record.read_genotype(): fold for fold, record in records.items()}
    assert len(folds) >= 2
    for fold in sorted(folds.values())[:2]:  # Of different cells.
        validated = labels(three_folds.fold(MODEL, fold) / "validation")
        images = tmp_path / f"fold_{fold}"
        images.mkdir()
        name = min(validated)
        image = name.replace(".nii.gz", "_0000.nii.gz")
        shutil.copy(three_folds.images(HIPPOCAMPUS, "imagesTr") / image, images)
        predicted = three_folds.predict(MODEL, images, "-f", fold)
        assert np.array_equal(predicted[name], validated[name])


def test_the_instructions_of_find_best_configuration_work_as_written(
    three_folds: Host, tmp_path: Path
) -> None:
    places = {
        "INPUT_FOLDER": str(three_folds.images(HIPPOCAMPUS)),
        "OUTPUT_FOLDER": str(tmp_path / "predicted"),
        "OUTPUT_FOLDER_PP": str(tmp_path / "postprocessed"),
    }
    predict = [places.get(w, w) for w in _instructions(three_folds, "nnUNetv2_predict")]
    assert predict[predict.index("-f") + 1 :][:4] == [*map(str, FOLDS), "-tr"]
    assert MODEL.trainer in predict
    three_folds.typed(*predict, *ALONE)
    clean = [places.get(w, w) for w in _instructions(three_folds, "nnUNetv2_apply_postprocessing")]
    assert Path(clean[clean.index("-pp_pkl_file") + 1]).is_file()
    three_folds.typed(*clean)
    predicted, cleaned = (labels(tmp_path / name) for name in ("predicted", "postprocessed"))
    assert predicted.keys() == cleaned.keys()
    for name, found in cleaned.items():
        assert set(np.unique(found)) <= set(np.unique(predicted[name]))
    assert not same(predicted, three_folds.predict(MODEL, three_folds.images(HIPPOCAMPUS), "-f", 0))


def test_an_ensemble_of_two_predictions_is_the_mean_of_their_probabilities(
    three_folds: Host, tmp_path: Path
) -> None:
    images = three_folds.images(HIPPOCAMPUS)
    outputs = [tmp_path / "one", tmp_path / "other"]
    for output, folds in zip(outputs, ((0,), (1, 2)), strict=True):
        words = ("-i", images, "-o", output, *MODEL.words, "-f", *folds, "--save_probabilities")
        three_folds.typed("nnUNetv2_predict", *words, *ALONE)
    together = tmp_path / "together"
    three_folds.typed("nnUNetv2_ensemble", "-i", *outputs, "-o", together, "-np", 1)
    ((name, found),) = labels(together).items()
    archive = name.replace(".nii.gz", ".npz")
    both = [np.load(output / archive)["probabilities"] for output in outputs]
    assert not np.array_equal(both[0].argmax(0), both[1].argmax(0))
    assert np.array_equal(np.mean(both, axis=0).argmax(0), found)


def test_an_exported_model_predicts_the_same_where_only_the_package_is_installed(
    three_folds: Host, wheel: Path, tmp_path: Path
) -> None:
    images = three_folds.images(HIPPOCAMPUS)
    before = three_folds.predict(MODEL, images, "-f", *FOLDS)
    archive = tmp_path / "model.zip"
    three_folds.typed("nnUNetv2_export_model_to_zip", *MODEL.words, "-f", *FOLDS, "-o", archive)
    installed = _installed(wheel, tmp_path)
    backbone = three_folds.model(Model(HIPPOCAMPUS, trainer="nnUNetTrainer"))
    hidden = backbone.rename(three_folds.path / "hidden")
    try:
        installed.run("nnUNetv2_install_pretrained_model_from_zip", archive)
        output = tmp_path / "output"
        words = ("-i", images, "-o", output, *MODEL.words, "-f", *FOLDS, *ALONE)
        installed.run("nnUNetv2_predict", *words, "--disable_tta")  # As the forks predict.
    finally:
        hidden.rename(backbone)
    assert same(labels(output), before)


@dataclass(frozen=True)
class Installed:
    """A folder with nothing but the installed package, and nnU-Net's commands beside it."""

    package: Path
    work: Path

    @property
    def environment(self) -> dict[str, str]:
        known = {k: v for k, v in os.environ.items() if not k.startswith("nnUNet")}
        return {
            **known,
            "PYTHONPATH": str(self.package),
            "nnUNet_results": str(self.work),
            "nnUNet_extTrainer": str(self.package / "nnunet_iac" / "trainers"),
            "nnUNet_def_n_proc": "1",
        }

    def python(self, *words: object) -> str:
        return self.run(sys.executable, *words)

    def run(self, *words: object) -> str:
        program = Path(sys.executable).parent / str(words[0])
        command = list(map(str, (program, *words[1:])))
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.work, env=self.environment
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout.strip()


def _installed(wheel: Path, folder: Path) -> Installed:
    target = folder / "site"
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target)
    done = subprocess.run([*pip, wheel], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    work = folder / "elsewhere"
    work.mkdir()
    installed = Installed(target, work)
    source = "import nnunet_iac; print(nnunet_iac.__file__)"
    assert installed.python("-c", source) == str(target / "nnunet_iac" / "__init__.py")
    trainers = "from nnunet_iac.cli import main; main(['trainers-dir'])"
    folder_of_trainers = installed.environment["nnUNet_extTrainer"]
    assert installed.python("-c", trainers) == folder_of_trainers
    return installed


def test_half_written_plans_of_a_model_cost_nothing_when_a_fold_is_continued(
    three_folds: Host, tmp_path: Path
) -> None:
    own = three_folds.with_own_results(tmp_path)
    plans = own.model(MODEL) / "plans.json"
    whole = read_json(plans)
    first = {p: p.read_bytes() for p in own.fold(MODEL, 0).rglob("*") if p.is_file()}
    shutil.rmtree(own.fold(MODEL, 1))

    def broken_off() -> None:
        trainer = make_trainer(MODEL, 1)
        end_epoch = trainer.on_epoch_end

        def on_epoch_end() -> None:
            end_epoch()
            if trainer.current_epoch == 4:
                raise InterruptedError

        trainer.on_epoch_end = on_epoch_end
        with pytest.raises(InterruptedError):
            trainer.run_training()

    own.do(broken_off)
    assert not (own.fold(MODEL, 1) / "checkpoint_final.pth").exists()
    plans.write_bytes(plans.read_bytes()[:1000])
    own.train(MODEL, 1, "--c")
    assert read_json(plans) == whole
    assert {p: p.read_bytes() for p in own.fold(MODEL, 0).rglob("*") if p.is_file()} == first
    assert same_weights(own.fold(MODEL, 1), three_folds.fold(MODEL, 1))
    images = own.images(HIPPOCAMPUS)
    both = own.predict(MODEL, images, "-f", 0, 1)
    assert same(both, three_folds.predict(MODEL, images, "-f", 0, 1))
