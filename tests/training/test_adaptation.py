"""A trained model is adapted to a few cases of another site through the public commands."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import SimpleITK
import torch
from forked_commands import in_fork
from interruption import run_until
from nnunetv2.run.run_training import get_trainer_from_args
from safetensors.torch import save_file

from nnunet_iac.adaptation.adapter import Adapter
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint, tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.scores import VALIDATION_SUMMARY, foreground_dice

pytestmark = pytest.mark.slow

SOURCE = "Dataset004_Hippocampus"
TARGET = "Dataset070_OtherSite"
CASES = 3
PLANS = "smallFrom004"
LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete_2finetune"


def write_target(workspace: Any, name: str, cases: int = CASES, **changes: Any) -> Path:
    """Write a raw data set of another site: the embedded cases with another contrast."""
    raw = workspace.path / "raw"
    folder = raw / name
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    for number, label in enumerate(sorted((raw / SOURCE / "labelsTr").iterdir())[:cases]):
        image = raw / SOURCE / "imagesTr" / label.name.replace(".nii.gz", "_0000.nii.gz")
        brightened = SimpleITK.Sqrt(SimpleITK.Cast(SimpleITK.ReadImage(str(image)), 8))
        SimpleITK.WriteImage(brightened, str(folder / "imagesTr" / f"site_{number}_0000.nii.gz"))
        shutil.copy(label, folder / "labelsTr" / f"site_{number}.nii.gz")
    document = {**read_json(raw / SOURCE / "dataset.json"), "numTraining": cases, **changes}
    write_json(folder / "dataset.json", document)
    return folder


@pytest.fixture(scope="module")
def adapted(workspace: Any) -> Any:
    """A target that is prepared under the plans of the workspace's backbone."""
    write_target(workspace, TARGET)
    source = workspace.model("nnUNetTrainer_1epoch", "small")
    words = ("nnunet-iac", "adapt", "-s", source, "-d", 70, "-c", "2d", "-np", 1)
    printed = workspace.run(*words)
    assert f"next: nnUNetv2_train 70 2d 0 -tr nnUNetTrainerIACDiscrete -p {PLANS}" in printed
    folder = workspace.path / "preprocessed" / TARGET
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert workspace.run(*words).endswith(printed[printed.index("plans: ") :])
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    return workspace


def test_three_cases_get_the_sources_plans_and_a_split_that_leaves_each_out_once(
    adapted: Any,
) -> None:
    folder = adapted.path / "preprocessed" / TARGET
    plans, source = (
        read_json(folder / f"{PLANS}.json"),
        read_json(adapted.preprocessed / "small.json"),
    )
    ours, theirs = (p["configurations"]["2d"] for p in (plans, source))
    checkpoint = adapted.model("nnUNetTrainer_1epoch", "small") / "fold_0" / "checkpoint_final.pth"
    assert ours["iac"] == {"preset": "adapt", "backbone_checkpoint": str(checkpoint)}
    assert ours["data_identifier"] == f"{PLANS}_nnUNetPlans_2d"
    for key in ("architecture", "spacing", "patch_size", "normalization_schemes"):
        assert ours[key] == theirs[key]
    key = "foreground_intensity_properties_per_channel"
    assert plans[key] == source[key]
    splits = read_json(folder / "splits_final.json")
    assert sorted(split["val"] for split in splits) == [["site_0"], ["site_1"], ["site_2"]]
    assert all(len(split["train"]) == CASES - 1 for split in splits)


def test_an_adapted_model_keeps_its_backbone_and_predicts(adapted: Any, tmp_path: Path) -> None:
    train = ("nnUNetv2_train", 70, "2d", 0, "-tr", LTH, "-p", PLANS, "-device", "cpu")
    adapted.run(*train)
    model = adapted.path / "results" / TARGET / f"{LTH}__{PLANS}__2d"
    record = RunFolder.of_fold(model / "fold_0")
    assert record.read_backbone().unchanged
    assert record.read_backbone().leakage is None
    source = record.read_source()
    assert source is not None
    splits = read_json(adapted.preprocessed / "splits_final.json")
    assert list(source.before["per_case"]) == splits[0]["val"]
    stock = adapted.model("nnUNetTrainer_1epoch", "small") / "fold_0" / VALIDATION_SUMMARY
    assert source.before["per_case"] == pytest.approx(foreground_dice(stock, ".nii.gz")["per_case"])
    again = adapted.run(*train, "--val")
    assert "on its source" not in again
    assert record.read_source() == source
    images = adapted.path / "raw" / TARGET / "imagesTr"
    options = ("-f", 0, "-i", images, "-device", "cpu", "-npp", 1, "-nps", 1)
    predict = ("nnUNetv2_predict_from_modelfolder", *options, "--save_probabilities")
    adapted.run(*predict, "-m", model, "-o", tmp_path / "own")
    assert len(labels(tmp_path / "own")) == CASES
    assert json.loads((model / "fold_0" / "validation" / "summary.json").read_text())
    zipped, elsewhere = tmp_path / "adapted.zip", {"nnUNet_results": str(tmp_path / "installed")}
    which = ("-d", 70, "-c", "2d", "-f", 0, "-tr", LTH, "-p", PLANS)
    adapted.run("nnUNetv2_export_model_to_zip", *which, "-o", zipped)
    adapted.run("nnUNetv2_install_pretrained_model_from_zip", zipped, **elsewhere)
    installed = tmp_path / "installed" / TARGET / model.name
    adapted.run(*predict, "-m", installed, "-o", tmp_path / "again", **elsewhere)
    assert labels(tmp_path / "again") == labels(tmp_path / "own")
    both = ("-i", tmp_path / "own", tmp_path / "again", "-o", tmp_path / "both", "-np", 1)
    adapted.run("nnUNetv2_ensemble", *both)
    assert labels(tmp_path / "both") == labels(tmp_path / "own")
    adapted.run("nnunet-iac", "export", model, "-o", tmp_path / "exported__P__2d")
    exported = read_checkpoint(tmp_path / "exported__P__2d" / "fold_0" / FINAL)["network_weights"]
    weights = read_checkpoint(model / "fold_0" / FINAL)["network_weights"]
    assert tensors_hash(exported) == tensors_hash(weights)


def test_the_full_search_adapts_to_two_training_cases(adapted: Any) -> None:
    full = LTH.replace("IACLTH", "IAC")
    adapted.run("nnUNetv2_train", 70, "2d", 0, "-tr", full, "-p", PLANS, "-device", "cpu")
    fold = adapted.path / "results" / TARGET / f"{full}__{PLANS}__2d" / "fold_0"
    record = RunFolder.of_fold(fold)
    split = record.read_split()
    assert [len(split[part]) for part in ("train_search", "val_search")] == [1, 1]
    assert record.read_backbone().unchanged


def test_a_model_is_adapted_to_a_single_case(adapted: Any) -> None:
    write_target(adapted, "Dataset080_OneCase", 1)
    source = adapted.model("nnUNetTrainer_1epoch", "small")
    words = ("nnunet-iac", "adapt", "-s", source, "-d", 80, "-c", "2d", "-np", 1)
    assert "nnUNetv2_train 80 2d all" in adapted.run(*words, "--set", "genotype=identity")
    splits = adapted.path / "preprocessed" / "Dataset080_OneCase" / "splits_final.json"
    write_json(splits, [{"train": ["site_0"], "val": []}])
    for fold in ("all", 0):
        train = ("nnUNetv2_train", 80, "2d", fold, "-tr", DISCRETE, "-p", PLANS)
        printed = adapted.run(*train, "-device", "cpu")
        assert ("has no validation cases" in printed) == (fold == 0)
    for path in ("raw", "preprocessed", "results"):
        shutil.rmtree(adapted.path / path / "Dataset080_OneCase")


def test_a_target_is_prepared_again_after_its_cases_have_changed(adapted: Any) -> None:
    name = "Dataset081_Growing"
    raw, folder = write_target(adapted, name), adapted.path / "preprocessed" / name
    document = read_json(raw / "dataset.json")
    gone = [raw / "imagesTr" / "site_2_0000.nii.gz", raw / "labelsTr" / "site_2.nii.gz"]
    kept = [path.rename(adapted.path / path.name) for path in gone]
    write_json(raw / "dataset.json", {**document, "numTraining": 2})
    source = adapted.model("nnUNetTrainer_1epoch", "small")
    words = ("nnunet-iac", "adapt", "-s", source, "-d", 81, "-c", "2d", "-np", 1)
    assert "WARNING" not in adapted.run(*words)
    for path, place in zip(kept, gone, strict=True):
        path.rename(place)
    write_json(raw / "dataset.json", document)
    label = raw / "labelsTr" / "site_0.nii.gz"
    image = SimpleITK.ReadImage(str(label))
    SimpleITK.WriteImage(image * 0, str(label))
    assert "does not name site_2" in adapted.run(*words)
    data = folder / f"{PLANS}_nnUNetPlans_2d"
    assert {path.stem for path in data.glob("*.pkl")} == {"site_0", "site_1", "site_2"}
    truth = SimpleITK.ReadImage(str(folder / "gt_segmentations" / "site_0.nii.gz"))
    assert not SimpleITK.GetArrayFromImage(truth).any()
    (folder / "splits_final.json").unlink()
    assert "WARNING" not in adapted.run(*words)
    for path in gone:
        path.unlink()
    assert "has site_2, which" in adapted.command(*words).stderr
    for part in ("raw", "preprocessed"):
        shutil.rmtree(adapted.path / part / name)


CONTROL = "nnUNetTrainerContinue"
WITH_CELLS = ("none", "lwf", "rehearsal")
"""Ways to forget less that cells can use."""


def train_retaining(
    workspace: Any, retention: str, first: int = 0, trainer: str = CONTROL, cell: str = "null"
) -> str:
    """Adapt with a way to forget less, and return the final weights' hash.

    With `first` the run ends after so many epochs, as if killed, and is continued.
    """
    name = f"{retention}-{first}{cell[:1]}"
    source = workspace.model("nnUNetTrainer_1epoch", "small")
    lengths = ("finetune_epochs=2", "iterations_per_epoch=2", "val_iterations_per_epoch=1")
    words = ("nnunet-iac", "adapt", "-s", source, "-d", 70, "-c", "2d", "-np", 1, "-o", name)
    given = f"retention={retention}", "rehearsal_cases=2", f"genotype={cell}"
    workspace.run(*words, "--set", *given, *lengths)
    if first:

        def broken_off() -> None:
            words = ("70", "2d", 0, trainer, name)
            run_until(get_trainer_from_args(*words, device=torch.device("cpu")), first)

        log = workspace.path / f"{name}.txt"
        assert in_fork(broken_off, workspace.environment, log) == 0, log.read_text()
    train = ("nnUNetv2_train", 70, "2d", 0, "-tr", trainer, "-p", name, "-device", "cpu")
    workspace.run(*train, *(["--c"] if first else []))
    fold = workspace.path / "results" / TARGET / f"{trainer}__{name}__2d" / "fold_0"
    assert RunFolder.of_fold(fold).read_source() is not None
    return tensors_hash(read_checkpoint(fold / FINAL)["network_weights"])


def rehearsed_cases(workspace: Any, model: str) -> set[str]:
    """Return the source's training cases that a run with rehearsal learned from as well."""
    fold = workspace.path / "results" / TARGET / model / "fold_0"
    return {*RunFolder.of_fold(fold).read_cost().run["source_cases"]}


def test_a_control_that_is_to_forget_less_trains_otherwise_and_is_continued(adapted: Any) -> None:
    ways = ("none", "ewc", "rehearsal")  # The two that need cases of the source; others: units.
    trained = {retention: train_retaining(adapted, retention) for retention in ways}
    assert len({*trained.values()}) == len(ways)
    for retention in ("ewc", "rehearsal"):
        assert train_retaining(adapted, retention, first=1) == trained[retention]
    rehearsed = rehearsed_cases(adapted, f"{CONTROL}__rehearsal-0n__2d")
    assert len(rehearsed) == 2
    assert rehearsed <= {*read_json(adapted.preprocessed / "splits_final.json")[0]["train"]}
    discrete = "nnUNetTrainerIACDiscrete"
    cells = {kept: train_retaining(adapted, kept, 0, discrete, "random:0") for kept in WITH_CELLS}
    assert len({*cells.values()}) == len(cells)
    assert train_retaining(adapted, "lwf", 1, discrete, "random:0") == cells["lwf"]
    assert rehearsed_cases(adapted, f"{discrete}__rehearsal-0r__2d") == rehearsed
    fold = adapted.path / "results" / TARGET / f"{discrete}__lwf-0r__2d" / "fold_0"
    assert RunFolder.of_fold(fold).read_cost().run["method"] == "random cell with LwF"
    assert RunFolder.of_fold(fold).read_backbone().unchanged


def refusal(workspace: Any, *words: object) -> str:
    """Return the error of a command that must do nothing."""

    def files() -> list[Path]:
        # Tests beside these write plans for the source's data set.
        found = (workspace.path / part for part in ("raw", "preprocessed"))
        return sorted(p for part in found for p in part.rglob("*") if p.parent.name != SOURCE)

    before = files()
    done = workspace.command("nnunet-iac", "adapt", "-c", "2d", *words)
    assert done.returncode == 2, done.stdout
    assert files() == before
    return done.stderr


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": {"0": "CT"}}, "must have the source's channels"),
        ({"channel_names": {"0": "MRI", "1": "T2"}}, "must have the source's channels"),
        ({"labels": {"background": 0, "Posterior": 1, "Anterior": 2}}, "the source's labels"),
        ({"labels": {"background": 0, "Anterior": 1}}, "the source's labels"),
        ({"labels": None}, "must have the objects channel_names and labels"),
    ],
)
def test_a_target_with_other_channels_or_labels_is_refused(
    adapted: Any, changes: dict[str, Any], message: str
) -> None:
    folder = write_target(adapted, "Dataset090_Other", **changes)
    source = adapted.model("nnUNetTrainer_1epoch", "small")
    assert message in refusal(adapted, "-s", source, "-d", 90)
    shutil.rmtree(folder)


def test_a_patient_of_the_source_is_refused(adapted: Any) -> None:
    folder = write_target(adapted, "Dataset090_Other", 1)
    known = read_json(adapted.preprocessed / "splits_final.json")[0]["train"][0]
    for path in folder.rglob("site_0*"):
        path.rename(path.with_name(path.name.replace("site_0", known)))
    source = adapted.model("nnUNetTrainer_1epoch", "small")
    refused = refusal(adapted, "-s", source, "-d", 90)
    assert f"was trained on a patient called {known}" in refused
    shutil.rmtree(folder)


def test_a_target_that_is_no_valid_data_set_is_refused(adapted: Any) -> None:
    folder = write_target(adapted, "Dataset090_Other", numTraining=CASES + 1)
    source = adapted.model("nnUNetTrainer_1epoch", "small")
    refused = refusal(adapted, "-s", source, "-d", 90, "-np", 1)
    assert "must be a valid raw data set" in refused
    assert "Traceback" not in refused
    shutil.rmtree(folder)


def test_a_preparation_that_ended_before_its_labels_were_copied_is_done_again(adapted: Any) -> None:
    truth = adapted.path / "preprocessed" / TARGET / "gt_segmentations" / "site_0.nii.gz"
    truth.unlink()
    source = adapted.model("nnUNetTrainer_1epoch", "small")
    adapted.run("nnunet-iac", "adapt", "-s", source, "-d", 70, "-c", "2d", "-np", 1)
    assert truth.is_file()


def test_a_source_that_is_none_is_refused(adapted: Any, adapter: Path, tmp_path: Path) -> None:
    model = adapted.model("nnUNetTrainer_1epoch", "small")
    assert "must be different data sets" in refusal(adapted, "-s", model, "-d", 4)
    assert "no finished fold 3" in refusal(adapted, "-s", model, "-d", 70, "-f", 3)
    assert "the source model must exist" in refusal(adapted, "-s", 4, "-d", 70)
    assert "does not exist" in refusal(adapted, "-s", tmp_path, "-d", 70)
    zipped = tmp_path / "model.zip"
    zipped.touch()
    assert "nnUNetv2_install_pretrained_model" in refusal(adapted, "-s", zipped, "-d", 70)
    copy = tmp_path / model.name
    shutil.copytree(model, copy)
    plans = read_json(copy / "plans.json")
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 4, 4]
    write_json(copy / "plans.json", plans)
    assert "must be the network of the given plans" in refusal(adapted, "-s", copy, "-d", 70)
    plans["configurations"]["2d"]["previous_stage"] = "3d_lowres"
    write_json(copy / "plans.json", plans)
    assert "a cascade cannot be adapted" in refusal(adapted, "-s", copy, "-d", 70)
    (copy / "plans.json").unlink()
    assert "plans.json does not exist" in refusal(adapted, "-s", copy, "-d", 70)
    retrofit = adapted.path / "results" / TARGET / f"{LTH}__{PLANS}__2d"  # Of the adapter.
    assert "for a retrofit that of its backbone" in refusal(adapted, "-s", retrofit, "-d", 4)


def test_labels_are_mapped_into_a_data_set_of_their_own(adapted: Any) -> None:
    labels = {"background": 0, "tail": 2, "head": 1, "vessel": 3}
    folder = write_target(adapted, "Dataset090_Other", labels=labels)
    source = adapted.model("nnUNetTrainer_1epoch", "small")
    words = ("-s", source, "-d", 90, "--map", "tail=Anterior", "head=Posterior")
    assert "name one with --mapped-dataset" in refusal(adapted, *words)
    own = "--mapped-dataset", "Dataset190_Mapped"
    assert "--map vessel=NAME" in refusal(adapted, *words, *own)
    channels = write_target(adapted, "Dataset091_Other", channel_names={"0": "CT"}, labels=labels)
    other = ("-s", source, "-d", 91, *words[4:], "vessel=background", *own)
    assert "must have the source's channels" in refusal(adapted, *other)
    words = (*words, "vessel=background", *own)
    printed = adapted.run("nnunet-iac", "adapt", "-c", "2d", "-np", 1, *words)
    assert "nnUNetv2_train 190 2d 0" in printed
    written = folder.with_name("Dataset190_Mapped")
    values = [
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path / "labelsTr" / "site_0.nii.gz")))
        for path in (folder, written)
    ]
    assert ((values[0] == 2) == (values[1] == 1)).all()
    assert ((values[0] == 1) == (values[1] == 2)).all()
    for path in (folder, channels, written, adapted.path / "preprocessed" / written.name):
        shutil.rmtree(path)


@pytest.fixture(scope="module")
def adapter(adapted: Any) -> Path:
    """The adapter of a run on the target, saved into the backbone's model folder."""
    source = adapted.model("nnUNetTrainer_1epoch", "small")
    fold = adapted.path / "results" / TARGET / f"{LTH}__{PLANS}__2d" / "fold_0"
    if not (fold / "checkpoint_final.pth").is_file():
        adapted.run(
            *("nnUNetv2_train", 70, "2d", 0, "-tr", LTH, "-p", PLANS, "-device", "cpu"),
        )
    file = source / "adapters" / "site_b.safetensors"
    adapted.run("nnunet-iac", "adapter", "save", fold, "-o", file)
    return file


def labels(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.nii.gz"))}


def test_an_adapter_predicts_as_its_run_and_none_as_the_stock_model(
    adapted: Any, adapter: Path, tmp_path: Path
) -> None:
    model = adapter.parent.parent
    run = adapted.path / "results" / TARGET / f"{LTH}__{PLANS}__2d"
    images = adapted.path / "raw" / TARGET / "imagesTr"
    options = ("-device", "cpu", "-npp", 1, "-nps", 1)
    words = ("nnunet-iac", "predict", "-m", model, "-i", images, "-o", tmp_path / "ours")
    adapted.run(*words, "--adapter", "site_b", "--adapter", "none", *options)
    stock = ("nnUNetv2_predict_from_modelfolder", "-f", 0, "-i", images, *options)
    for folder, name in ((run, "site_b"), (model, "none")):
        adapted.run(*stock, "-m", folder, "-o", tmp_path / name)
        assert len(labels(tmp_path / name)) == CASES
        assert labels(tmp_path / "ours" / name) == labels(tmp_path / name)
    listed = adapted.run("nnunet-iac", "adapter", "list", model)
    assert listed.startswith(f"site_b: {TARGET}, {LTH}, 0.0")
    assert "fits fold_0" in listed


def test_an_applied_adapter_has_the_weights_of_its_run_and_a_new_folder(
    adapted: Any, adapter: Path, tmp_path: Path
) -> None:
    model = adapter.parent.parent
    folder = tmp_path / "applied"
    adapted.run("nnunet-iac", "adapter", "apply", model, adapter, "-o", folder)
    fold = adapted.path / "results" / TARGET / f"{LTH}__{PLANS}__2d" / "fold_0"
    weights = [read_checkpoint(f / FINAL)["network_weights"] for f in (fold, folder / "fold_0")]
    assert tensors_hash(weights[0]) == tensors_hash(weights[1])
    again = adapted.command("nnunet-iac", "adapter", "apply", model, adapter, "-o", folder)
    assert again.returncode == 2
    assert "must go to a new folder" in again.stderr


def test_an_adapter_that_does_not_fit_is_refused(
    adapted: Any, adapter: Path, tmp_path: Path
) -> None:
    def refused(*words: object) -> str:
        done = adapted.command("nnunet-iac", "adapter", *words)
        assert done.returncode == 2, done.stdout
        return done.stderr

    model = adapter.parent.parent
    new = tmp_path / "new"
    other = tmp_path / model.name
    shutil.copytree(model, other)
    checkpoint = read_checkpoint(other / "fold_0" / FINAL)
    next(iter(checkpoint["network_weights"].values())).add_(1)
    torch.save(checkpoint, other / "fold_0" / FINAL)
    (other / "fold_0" / "checkpoint_best.pth").unlink()
    assert "the backbone it was trained on" in refused("apply", other, adapter, "-o", new)
    assert "another backbone" in adapted.run("nnunet-iac", "adapter", "list", other)
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(adapter.read_bytes()[:-40])
    assert "is damaged" in refused("apply", model, damaged, "-o", new)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    assert "is damaged or something else" in refused("apply", model, foreign, "-o", new)
    found = Adapter.read(adapter)
    newer = tmp_path / "newer.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnunet_iac.adaptation.adapter.ADAPTER_FORMAT", 99)
        found.save(newer)
    assert "newer version" in refused("apply", model, newer, "-o", new)
    planned = tmp_path / "planned.safetensors"
    replace(found, plans="0").save(planned)
    assert "the plans it was trained under" in refused("apply", model, planned, "-o", new)
    stock = refused("save", model / "fold_0", "-o", tmp_path / "stock.safetensors")
    assert "an adapter is made of a retrofit" in stock
    assert "must be an existing file" in refused("apply", model, "absent", "-o", new)
    fold = adapted.path / "results" / TARGET / f"{LTH}__{PLANS}__2d" / "fold_0"
    shutil.copytree(fold, tmp_path / "zip" / "fold_0", ignore=lambda *_: ["iac"])
    lone = refused("save", tmp_path / "zip" / "fold_0", "-o", tmp_path / "zip.safetensors")
    assert "save the adapter where the model was trained" in lone
    for name in ("none", "auto"):
        named = tmp_path / f"{name}.safetensors"
        assert "must not be called none or auto" in refused("save", fold, "-o", named)
    assert not new.exists()


def test_auto_chooses_by_image_among_the_adapters_of_a_model(
    adapted: Any, adapter: Path, tmp_path: Path
) -> None:
    model, images = adapter.parent.parent, tmp_path / "images"
    images.mkdir()
    raw = adapted.path / "raw"
    for path in (*(raw / TARGET / "imagesTr").iterdir(), *(raw / SOURCE / "imagesTs").iterdir()):
        (images / path.name).symlink_to(path)
    words = ("nnunet-iac", "predict", "-m", model, "-i", images, "-o", tmp_path / "auto")
    damaged, other = (adapter.with_name(f"{n}.safetensors") for n in ("damaged", "site_c"))
    damaged.write_bytes(b"no adapter")
    found = Adapter.read(adapter)
    far = replace(found.sites["site"], mean=found.sites["site"].mean + 9 * found.spread)
    replace(found, sites={**found.sites, "site": far}).save(other)
    printed = adapted.run(*words, "--adapter", "auto", "-device", "cpu", "-npp", 1, "-nps", 1)
    damaged.unlink()
    other.unlink()
    assert "WARNING: damaged is never chosen" in printed
    choices = read_json(tmp_path / "auto" / "adapters.json")
    assert len(choices) == len(labels(tmp_path / "auto")) == len(list(images.iterdir()))
    for case, choice in choices.items():
        assert choice["distances"].keys() == {"none", "site_b", "site_c"}
        nearest = min(choice["distances"], key=choice["distances"].get)
        assert nearest != "site_c"
        assert choice["name"] == nearest
        assert f"{case}: {nearest} (margin" in printed
    (tmp_path / "empty").mkdir()
    nothing = ("-m", model, "-i", tmp_path / "empty", "-o", tmp_path / "no", "--adapter", "auto")
    assert "there must be images" in adapted.command("nnunet-iac", "predict", *nothing).stderr
    both = ("--adapter", "auto", "--adapter", "none")
    refused = adapted.command(*words, *both)
    assert refused.returncode == 2
    assert "give auto alone" in refused.stderr
    assert (
        "plans.json does not exist"
        in adapted.command(
            *("nnunet-iac", "predict", "-m", adapted.model(LTH, PLANS), "-i", images),
            *("-o", tmp_path / "none", "--adapter", "auto"),
        ).stderr
    )


def test_a_study_adapts_a_model(adapted: Any, adapter: Path, tmp_path: Path) -> None:
    source = adapted.model("nnUNetTrainer_1epoch", "small")
    lengths = {"finetune_epochs": 1, "iterations_per_epoch": 1, "val_iterations_per_epoch": 1}
    document = {
        "name": "sites",
        "datasets": [{"dataset": TARGET}],
        "backbones": {"hippocampus": {"adapt": str(source / "fold_0")}},
        "settings": {**lengths, "warmup_epochs": 0, "search_epochs": 1},
        "methods": {"identity": {"settings": lengths}},
    }
    path = tmp_path / "sites.yaml"
    path.write_text(json.dumps(document))
    reference, run = read_json(adapted.study(path) / "results.json")["runs"]
    assert (reference["method"], run["method"]) == ("reference", "identity")
    assert run["backbone_hash"] == Adapter.read(adapter).backbone
    assert run["frozen_dice"] == reference["dice"]
    folders = [
        RunFolder.of_fold(next((adapted.path / "results" / TARGET).glob(f"*__{plans}__2d/fold_0")))
        for plans in (reference["plans"], run["plans"])
    ]
    untrained, trained = (folder.read_source() for folder in folders)
    assert untrained.forgetting == 0
    assert trained.before == untrained.after
    assert run["source"]["dataset"] == SOURCE
    assert run["source"]["after"] == trained.after["per_case"]
