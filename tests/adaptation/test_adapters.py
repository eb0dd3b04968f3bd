"""Adapters of 2-D and 3-D, plain and residual-encoder networks, as files and on their backbones."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from planned_unets import as_older
from trained_models import adapted, planned, write_model

from nnunet_iac.adaptation import prediction
from nnunet_iac.adaptation.adapted_model import (
    adapter_file,
    adapters_of,
    apply,
    backbone_of,
    listing,
)
from nnunet_iac.adaptation.adapted_plans import adapted_plans
from nnunet_iac.adaptation.adapter import Adapter, require_new_file
from nnunet_iac.adaptation.choice import NO_ADAPTER, AdapterChoice, Site, statistics
from nnunet_iac.adaptation.prediction import chosen_adapters
from nnunet_iac.adaptation.sites import SITE
from nnunet_iac.adaptation.source import SourceModel
from nnunet_iac.host.export import Model
from nnunet_iac.runs.checkpoint import read_checkpoint


@pytest.mark.filterwarnings("ignore:Detected old", "ignore:Network class .* not found")
@pytest.mark.parametrize(
    ("dimension", "network", "cell", "older"),
    [
        (2, "PlainConvUNet", {"trainable_part": "cells+norms"}, False),
        (2, "PlainConvUNet", {"skip": "attention"}, False),
        (3, "PlainConvUNet", {}, False),
        (3, "ResidualEncoderUNet", {"trainable_part": "cells+norms"}, True),
    ],
)
def test_an_applied_adapter_is_the_network_that_was_trained(
    tmp_path: Path, dimension: int, network: str, cell: dict[str, Any], older: bool
) -> None:
    configuration = "2d" if dimension == 2 else "3d_fullres"
    config = planned(dimension, network)
    model = write_model(tmp_path, configuration, as_older(config) if older else config)
    trained, adapter = adapted(model, **cell)
    file = tmp_path / "site.safetensors"
    adapter.save(file)
    found = apply(model, Adapter.read(file), tmp_path / f"out__P__{configuration}")
    source = SourceModel.at(found.folder)
    again = source.network().eval()
    again.load_state_dict(read_checkpoint(source.checkpoint)["network_weights"])
    image = torch.rand(1, 1, *[16] * dimension)
    with torch.no_grad():
        wanted, got, before = trained(image), again(image), SourceModel.at(model).network()(image)
    for one, other, untrained in zip(wanted, got, before, strict=True):
        assert torch.equal(one, other)
        assert not torch.equal(one, untrained)
    seen: Any = again
    assert statistics(seen.encoder, image[0], [16] * dimension).shape == (40,)


def test_a_changed_bit_of_an_adapter_is_found(tmp_path: Path) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    adapted(model)[1].save(file := tmp_path / "site.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"site\.safetensors is not what was saved: save it"):
        Adapter.read(file)


def test_an_adapter_may_be_read_by_whom_other_new_files_may_be(tmp_path: Path) -> None:
    adapted(write_model(tmp_path, "2d", planned(2)))[1].save(file := tmp_path / "site.safetensors")
    (other := tmp_path / "other").touch()
    assert file.stat().st_mode == other.stat().st_mode


def test_a_closed_folder_of_adapters_is_not_an_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(folder)

    assert adapters_of(tmp_path) == []
    (tmp_path / "adapters").mkdir()
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(PermissionError, match="adapters"):
        adapters_of(tmp_path)


def test_where_an_adapter_cannot_go_is_found_before_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end with \.safetensors"):
        require_new_file(tmp_path / "site.pth")
    (there := tmp_path / "site.safetensors").touch()
    with pytest.raises(FileExistsError, match="must go to a new file"):
        require_new_file(there)


@pytest.mark.parametrize("name", ["../site", "/site", "a/b", ".."])
def test_a_name_that_leads_out_of_the_models_adapters_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"must be a file that ends with .*, or a plain name"):
        adapter_file(name, tmp_path)


def test_a_listing_shows_what_fits_and_what_does_not(tmp_path: Path) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    other = write_model(tmp_path / "other", "2d", planned(2), seed=1)
    wider = write_model(tmp_path / "wider", "2d", planned(2, spacing=[2.0, 2.0]))
    folder = model / "adapters"
    assert listing(model, adapters_of(model)) == [f"no adapters in {folder}"]
    folder.mkdir()
    for name, of in {"own": model, "other": other, "wider": wider}.items():
        adapted(of)[1].save(folder / f"{name}.safetensors")
    (folder / "broken.safetensors").write_bytes(b"no adapter")
    broken, others, own, plans = listing(model, adapters_of(model))
    assert broken.startswith("broken: ")
    assert "is damaged or something else" in broken
    assert others.endswith("does not fit: another backbone")
    assert own.startswith("own: Dataset030_Site, nnUNetTrainerIACLTH, 0.0")
    assert own.endswith("fits fold_0, never chosen by auto: no statistics")
    assert plans.endswith("does not fit: other plans")
    with pytest.raises(FileNotFoundError, match="a model folder of nnU-Net must be named"):
        listing(tmp_path, [])
    with pytest.raises(ValueError, match="must be put on the backbone it was trained on"):
        backbone_of(model, Adapter.read(folder / "other.safetensors"))


def test_a_renamed_model_with_a_copy_of_a_fold_takes_its_adapter(tmp_path: Path) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    adapter = adapted(model)[1]
    renamed = model.rename(tmp_path / "our_model")
    shutil.copytree(renamed / "fold_0", renamed / "fold_0_old")
    assert SourceModel.at(renamed).configuration == "2d"
    found = apply(renamed, adapter, tmp_path / "out")
    assert [fold.name for fold in found.folds] == ["fold_0"]
    assert found.configuration == "2d"


def with_statistics(adapter: Adapter) -> Adapter:
    """Return an adapter that can be chosen by image."""
    sites = {name: Site(torch.full((16,), n), 3, 1.0) for n, name in enumerate((SITE, NO_ADAPTER))}
    return replace(adapter, sites=sites, spread=torch.ones(16))


def test_auto_leaves_out_adapters_that_it_cannot_use(tmp_path: Path) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    other = write_model(tmp_path / "other", "2d", planned(2), seed=1)
    folder, log = model / "adapters", []
    folder.mkdir()
    (folder / "broken.safetensors").write_bytes(b"no adapter")
    (folder / ".writing.site.0.safetensors").write_bytes(b"left by a kill")
    (folder / "gone.safetensors").symlink_to(tmp_path / "nowhere.safetensors")
    replanned = replace(with_statistics(adapted(model)[1]), plans="others")
    replanned.save(folder / "replanned.safetensors")
    (tmp_path / "a_0000.nii.gz").touch()
    adapted(model)[1].save(folder / "plain.safetensors")
    with_statistics(adapted(other)[1]).save(folder / "foreign.safetensors")
    with pytest.raises(ValueError, match="none of broken, foreign, gone, plain, replanned does"):
        chosen_adapters(model, tmp_path, "cpu", log.append)
    whys = (
        "broken is never chosen: ",
        "foreign is never chosen: it is of another backbone",
        "gone is never chosen: an adapter must be an existing file",
        "plain is never chosen: it has no statistics of its cases",
        "replanned is never chosen: it was trained under other plans",
    )
    assert all(line.startswith(f"WARNING: {why}") for why, line in zip(whys, log, strict=True))


def test_several_adapters_are_predicted_with_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    adapted(model)[1].save(tmp_path / "site.safetensors")
    (tmp_path / "a_0000.nii.gz").touch()
    done: list[str] = []

    def command() -> None:
        torch.set_num_interop_threads(1)  # As nnU-Net does for -device cuda.
        done.append(sys.argv[-1])

    monkeypatch.setattr(prediction, "predict_entry_point_modelfolder", command)
    names = [str(tmp_path / "site.safetensors"), "none"]
    prediction.predict(model, names, tmp_path, tmp_path / "out", [], "cuda", (), print)
    assert done == ["cuda", "cuda"]


def test_auto_takes_the_files_of_a_case_that_nnunet_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = write_model(tmp_path, "2d", planned(2)), tmp_path / "images"
    images.mkdir()
    given = {"a_0000.nii.gz", "a_mask.nii.gz", "a.json", "ab_0000.nii.gz", "ab.json"}
    for name in given:
        (images / name).touch()
    choices = {case: AdapterChoice("none", {}, 0.0, True) for case in ("a", "ab")}
    monkeypatch.setattr(prediction, "chosen_adapters", lambda *_: choices)
    seen: set[str] = set()

    def predict(_: Path, names: list[str], part: Path, *__: Any) -> None:
        seen.update(path.name for path in part.iterdir())

    monkeypatch.setattr(prediction, "predict", predict)
    prediction.predict_chosen(model, images, tmp_path / "out", [], "cpu", (), print)
    assert seen == given - {"a_mask.nii.gz"}
    assert (tmp_path / "out" / "adapters.json").is_file()


def test_auto_refuses_an_image_that_is_not_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    (tmp_path / "a_0000.nii.gz").touch()
    image = np.full((1, 2, 16, 16), np.nan, dtype=np.float32)
    monkeypatch.setattr(DefaultPreprocessor, "run_case", lambda *_: (image, None, {}))
    (model / "adapters").mkdir()
    with_statistics(adapted(model)[1]).save(model / "adapters" / "site.safetensors")
    with pytest.raises(ValueError, match="a holds others: correct it, or name the adapter"):
        chosen_adapters(model, tmp_path, "cpu", print)


def test_auto_chooses_among_adapters_of_one_fold(tmp_path: Path) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    second = write_model(tmp_path / "second", "2d", planned(2), seed=1)
    shutil.copytree(second / "fold_0", model / "fold_1")
    (model / "adapters").mkdir()
    (tmp_path / "a_0000.nii.gz").touch()
    for name, of in {"a": model, "b": second}.items():
        with_statistics(adapted(of)[1]).save(model / "adapters" / f"{name}.safetensors")
    with pytest.raises(ValueError, match="adapters of one fold; b and a belong to different folds"):
        chosen_adapters(model, tmp_path, "cpu", print)


@pytest.mark.parametrize("option", ["-chk", "-chk=x.pth", "-ch", "-c"])
def test_a_checkpoint_is_not_to_be_chosen(tmp_path: Path, option: str) -> None:
    given = tmp_path, tmp_path / "o", [], "cpu", (option, "x.pth"), print
    with pytest.raises(ValueError, match="got -chk: leave it out"):
        prediction.predict(tmp_path, ["none"], *given)
    with pytest.raises(ValueError, match="got -chk: leave it out"):
        prediction.predict_chosen(tmp_path, *given)


def test_kept_predictions_and_new_choices_do_not_go_together(tmp_path: Path) -> None:
    options = ("--continue_prediction",)
    with pytest.raises(ValueError, match="got --continue_prediction: leave it out"):
        prediction.predict_chosen(tmp_path, tmp_path, tmp_path / "o", [], "cpu", options, print)


def test_the_backbone_alone_is_no_retrofit(tmp_path: Path) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    retrofit = apply(model, adapted(model)[1], tmp_path / "out__P__2d").folder
    (tmp_path / "a_0000.nii.gz").touch()
    with pytest.raises(ValueError, match="for a retrofit that of its backbone"):
        prediction.predict(retrofit, ["none"], tmp_path, tmp_path / "out", [], "cpu", (), print)


def test_auto_names_an_image_that_it_cannot_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    (tmp_path / "a_0000.nii.gz").touch()
    (model / "adapters").mkdir()
    with pytest.raises(ValueError, match="has none: save one there"):
        chosen_adapters(model, tmp_path, "cpu", print)
    with_statistics(adapted(model)[1]).save(model / "adapters" / "site.safetensors")
    image = np.zeros((2, 2, 16, 16), dtype=np.float32)
    monkeypatch.setattr(DefaultPreprocessor, "run_case", lambda *_: (image, None, {}))
    with pytest.raises(ValueError, match=r"a cannot be used .ValueError: 2 channels instead of 1"):
        chosen_adapters(model, tmp_path, "cpu", print)


def test_a_linked_fold_is_one_of_its_model(tmp_path: Path) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    elsewhere = (model / "fold_0").rename(tmp_path / "17")
    (model / "fold_0").symlink_to(elsewhere)
    for path in (model, model / "fold_0"):
        found = Model.at(path)
        assert (found.folder, found.folds) == (model, (model / "fold_0",))


def test_images_that_cannot_be_predicted_are_refused_before_anything_is(tmp_path: Path) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    with pytest.raises(ValueError, match=r"has none that end with _0000\.nii\.gz"):
        prediction.predict(model, ["none"], tmp_path, tmp_path / "out", [], "cpu", (), print)
    (tmp_path / "a_0000.nii.gz").touch()
    with pytest.raises(ValueError, match="must not go among the images"):
        prediction.predict(model, ["none"], tmp_path, tmp_path, [], "cpu", (), print)
    with pytest.raises(ValueError, match="must not go among the images"):
        prediction.predict_chosen(model, tmp_path, tmp_path, [], "cpu", (), print)
    (tmp_path / "a_seg.nii.gz").touch()
    with pytest.raises(ValueError, match=r"a_seg\.nii\.gz is not: move it away"):
        prediction.predict(model, ["none"], tmp_path, tmp_path / "out", [], "cpu", (), print)


def test_the_backbone_predicts_with_the_folds_that_nnunet_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    (tmp_path / "a_0000.nii.gz").touch()
    folds: list[list[str]] = []
    log: list[str] = []

    def command() -> None:
        words = sys.argv[sys.argv.index("-f") + 1 :]
        folds.append(words[: words.index("-i")])

    monkeypatch.setattr(prediction, "predict_entry_point_modelfolder", command)
    for name in ("fold_1", "fold_all"):
        shutil.copytree(model / "fold_0", model / name)
    (model / "fold_2").mkdir()
    given = ["none"], tmp_path, tmp_path / "out", [], "cpu", (), log.append
    prediction.predict(model, *given)
    for name in ("fold_0", "fold_1"):
        shutil.rmtree(model / name)
    prediction.predict(model, *given)
    assert folds == [["0", "1"], ["all"]]
    assert log == ["left out: fold_2, which has no checkpoint_final.pth"] * 2


def test_a_model_or_images_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/plans\.json does not exist"):
        chosen_adapters(tmp_path / "nowhere", tmp_path, "cpu", print)
    model = write_model(tmp_path, "2d", planned(2))
    with pytest.raises(FileNotFoundError, match=r"-i must name a folder of images; .*nowhere"):
        chosen_adapters(model, tmp_path / "nowhere", "cpu", print)


def test_an_error_of_nnunets_command_is_one_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_model(tmp_path, "2d", planned(2))
    (tmp_path / "a_0000.nii.gz").touch()

    def refuse() -> None:
        raise AssertionError("previous stage missing")

    monkeypatch.setattr(prediction, "predict_entry_point_modelfolder", refuse)
    with pytest.raises(ValueError, match=r"nnU-Net must be able to predict; .* stage missing"):
        prediction.predict(model, ["none"], tmp_path, tmp_path / "out", [], "cpu", (), print)


@pytest.mark.parametrize("name", ["auto", "elsewhere/none.safetensors"])
def test_a_file_with_a_reserved_name_is_no_adapter(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="must not be called none or auto"):
        adapter_file(name, tmp_path)


def test_the_plans_of_a_residual_encoder_in_3d_are_moved_to_a_target(tmp_path: Path) -> None:
    config = planned(3, "ResidualEncoderUNet")
    source = SourceModel.at(write_model(tmp_path, "3d_fullres", config))
    own = {"dataset": {"file_ending": ".nii.gz"}, "reader": "SimpleITKIO"}
    target: Any = type("Site", (), {"name": "Dataset030_Site", **own})
    found = adapted_plans(source, target, "nnUNetPlansFrom027", {})
    moved = found["configurations"]["3d_fullres"]
    for key in ("architecture", "spacing", "patch_size", "normalization_schemes"):
        assert moved[key] == config[key]
    assert moved["data_identifier"] == "nnUNetPlansFrom027_own"
