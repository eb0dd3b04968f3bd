"""Prediction by stock nnU-Net with the backbone of a model, and with each of several adapters."""

import glob
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import torch
from nnunetv2.inference.predict_from_raw_data import predict_entry_point_modelfolder
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder

from nnunet_iac.adaptation.adapted_model import (
    ADAPTERS_FOLDER,
    adapter_file,
    adapters_of,
    apply,
    backbone_of,
    backbones_of,
    digest_of,
)
from nnunet_iac.adaptation.adapter import ADAPTER_SUFFIX, RESERVED, Adapter
from nnunet_iac.adaptation.choice import NO_ADAPTER, AdapterChoice, choose, statistics
from nnunet_iac.adaptation.sites import SITE, backbone_network
from nnunet_iac.adaptation.source import require_no_implants
from nnunet_iac.host.export import Model
from nnunet_iac.host.mps import fallback_named
from nnunet_iac.host.plans import read_dataset
from nnunet_iac.host.preprocessed import require_preprocessor
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint
from nnunet_iac.runs.fold import full_disk_named

CHOICES = "adapters.json"
"""Which adapter was chosen for every case, beside the predictions."""


def predict(
    model: Path,
    names: Sequence[str],
    images: Path,
    output: Path,
    folds: Sequence[str],
    device: str,
    options: Sequence[str],
    log: Callable[[str], None],
) -> list[Path]:
    """Predict with every adapter; return the folders of the predictions.

    nnU-Net's own command does it, so the predictions of `none` are the stock model's, bit for bit.

    Args:
        model: folder of the backbone's model.
        names: adapters, as paths or as names of files in the model's `adapters`; `none` is the
            backbone alone.
        images: folder of images, named as nnU-Net wants them.
        output: folder for the predictions; with more than one adapter each gets one inside.
        folds: of the backbone alone; empty for the numbered ones that are trained, else `all`, as
            nnU-Net's own commands take them. An adapter has one fold.
        device: where to predict.
        options: more of nnUNetv2_predict_from_modelfolder.
        log: gets the folds that are left out.

    Raises:
        ValueError: an adapter of another backbone, a damaged one, or two of one name; a model that
            is a retrofit itself.
    """
    _require_own_options(options)
    _require_apart(images, output)
    files = {
        _title(name): None if name == NO_ADAPTER else adapter_file(name, model) for name in names
    }
    if len(files) < len(names):
        raise ValueError(
            f"adapters must have different names; got {', '.join(names)}: rename the files"
        )
    adapters = {name: None if file is None else Adapter.read(file) for name, file in files.items()}
    with TemporaryDirectory() as spare:
        models = {
            name: (apply(model, adapter, Path(spare) / name), FINAL)
            if adapter
            else Model.final_or_best(model)
            for name, adapter in adapters.items()
        }
        example, _ = next(iter(models.values()))
        _cases(images, example.folder)  # After the model was found, whose own errors come first.
        folders = {n: output / n if len(names) > 1 else output for n in models}
        numbers: dict[str, Sequence[str]] = {}
        for name, (found, checkpoint) in models.items():  # Before anything is predicted.
            trained = [fold.name.removeprefix("fold_") for fold in found.folds]
            numbered = [fold for fold in trained if fold != "all"] or trained
            numbers[name] = folds if name == NO_ADAPTER and folds else numbered
            for number in numbers[name]:  # Refuses what nnU-Net's command would run.
                path = found.folder / f"fold_{number}" / checkpoint
                weights = read_checkpoint(path)["network_weights"]
                if name == NO_ADAPTER:
                    require_no_implants(path, weights)
            for fold in () if folds else found.left_out:
                log(f"left out: {fold.name}, which has no {checkpoint}")
        for name, (found, checkpoint) in models.items():
            where = "-m", found.folder, "-chk", checkpoint, "-f", *numbers[name]
            more = "-i", images, "-o", folders[name], "-device", device
            words = map(str, (*where, *more))
            command = ["nnUNetv2_predict_from_modelfolder", *words, *options]
            again = full_disk_named(folders[name], "run the same command again")
            with patch.object(sys, "argv", command), fallback_named(), again, _threads_set_once():
                try:
                    predict_entry_point_modelfolder()
                except AssertionError as error:
                    raise ValueError(
                        f"nnU-Net must be able to predict; it cannot: {error}"
                    ) from error
    return list(folders.values())


def _require_own_options(options: Sequence[str]) -> None:
    """Check that nnU-Net's options do not choose a checkpoint, also by an abbreviation of -chk."""
    if any(option.partition("=")[0] in ("-c", "-ch", "-chk") for option in options):
        raise ValueError(
            "predict takes the final checkpoint, or the best of a model without one; got -chk: "
            "leave it out"
        )


def _require_apart(images: Path, output: Path) -> None:
    """Check that predictions go to another folder than that of the images."""
    if output.resolve() == images.resolve():
        raise ValueError(
            f"predictions must not go among the images; {output} is the folder of -i: name "
            "another with -o"
        )


def _cases(images: Path, model: Path) -> list[str]:
    """Return the cases in a folder of images; it must have some that the model can read."""
    ending = read_dataset(model / "dataset.json")["file_ending"]
    if not images.is_dir():
        raise FileNotFoundError(f"-i must name a folder of images; {images} is none: correct it")
    cases: list[str] = get_identifiers_from_splitted_dataset_folder(str(images), ending)
    if not len(cases):
        raise ValueError(
            f"there must be images to predict; {images} has none that end with _0000{ending}: name "
            "another folder with -i"
        )
    numbered = {path.name for path in images.glob(f"*_{4 * '[0-9]'}{ending}")}
    if other := sorted({path.name for path in images.glob(f"*{ending}")} - numbered):
        raise ValueError(
            f"all files of {images} that end with {ending} must be images, such as "
            f"CASE_0000{ending}; {other[0]} is not: move it away"
        )
    return cases


@contextmanager
def _threads_set_once() -> Iterator[None]:
    """Let nnU-Net's command set torch's inter-op threads again, which torch refuses to do twice."""
    original = torch.set_num_interop_threads

    def unless_set(count: int) -> None:
        with suppress(RuntimeError):
            original(count)

    with patch.object(torch, "set_num_interop_threads", unless_set):
        yield


def _title(name: str) -> str:
    return Path(name).stem if name.endswith(ADAPTER_SUFFIX) else name


def predict_chosen(
    model: Path,
    images: Path,
    output: Path,
    folds: Sequence[str],
    device: str,
    options: Sequence[str],
    log: Callable[[str], None],
) -> dict[str, AdapterChoice]:
    """Predict every image with the adapter in the model's folder that suits it; return which.

    The arguments are those of `predict`. The choices are written into `adapters.json` in the
    folder of the predictions.

    Raises:
        ValueError: no adapter of the model can be chosen by image, or an image is not finite.
    """
    _require_own_options(options)
    _require_apart(images, output)
    if any(option.startswith("--c") for option in options):
        raise ValueError(
            "auto chooses anew for every image, and predictions that are kept may be of another "
            "adapter; got --continue_prediction: leave it out"
        )
    choices = chosen_adapters(model, images, device, log)
    for case, choice in choices.items():
        log(f"{case}: {choice}")
    ending = read_dataset(model / "dataset.json")["file_ending"]
    write_json(output / CHOICES, {case: asdict(choice) for case, choice in choices.items()})
    with TemporaryDirectory() as spare:
        for name in sorted({choice.name for choice in choices.values()}):
            part = Path(spare) / name
            part.mkdir()
            for case in (case for case, choice in choices.items() if choice.name == name):
                spacing = images / f"{case}.json"  # Of a .tif.
                beside = [spacing] if spacing.is_file() else []
                for path in (*_images_of(case, images, ending), *beside):
                    (part / path.name).symlink_to(path.resolve())
            predict(model, [name], part, output, folds, device, options, log)
    return choices


def _images_of(case: str, images: Path, ending: str) -> list[Path]:
    """Return the files of a case in a folder of images, a channel each."""
    return sorted(images.glob(f"{glob.escape(case)}_{4 * '[0-9]'}{ending}"))


def chosen_adapters(
    model: Path, images: Path, device: str, log: Callable[[str], None]
) -> dict[str, AdapterChoice]:
    """Return the choice among a model's adapters for every image in a folder, by case.

    Adapters that are damaged, of another model or without statistics are left out, and logged.
    """
    digest, cases = digest_of(model), _cases(images, model)
    files, backbones = adapters_of(model), backbones_of(model)
    able: dict[str, Adapter] = {}
    for path in files:
        try:
            adapter = Adapter.read(path)
        except (ValueError, FileNotFoundError) as error:
            log(f"WARNING: {path.stem} is never chosen: {error}")
            continue
        if path.stem in RESERVED:
            log(f"WARNING: {path} is never chosen: {path.stem} means something else to --adapter")
        elif adapter.backbone not in backbones:
            log(f"WARNING: {path.stem} is never chosen: it is of another backbone")
        elif adapter.plans != digest:
            log(f"WARNING: {path.stem} is never chosen: it was trained under other plans")
        elif adapter.spread is None:
            log(f"WARNING: {path.stem} is never chosen: it has no statistics of its cases")
        else:
            able[path.stem] = adapter
    if not files:
        raise ValueError(
            f"auto chooses among the adapters of the model; {model / ADAPTERS_FOLDER} has none: "
            "save one there with nnunet-iac adapter save"
        )
    if not able:
        names = ", ".join(path.stem for path in files)
        raise ValueError(
            "an adapter must fit the model and hold statistics of its cases to be chosen; none of "
            f"{names} does: save it where the preprocessed cases of source and target are at hand"
        )
    first = next(iter(able.values()))
    others = [name for name, adapter in able.items() if adapter.backbone != first.backbone]
    if others:
        raise ValueError(
            f"auto chooses among adapters of one fold; {', '.join(others)} and {next(iter(able))} "
            f"belong to different folds: keep those of one fold in {files[0].parent}"
        )
    sites = {
        NO_ADAPTER: first.sites[NO_ADAPTER],
        **{n: adapter.sites[SITE] for n, adapter in able.items()},
    }
    checkpoint = read_checkpoint(backbone_of(model, first))
    init = checkpoint["init_args"]
    network: Any = backbone_network(init, checkpoint["network_weights"], device)
    plans = PlansManager(init["plans"])
    config = plans.get_configuration(init["configuration"])
    require_preprocessor(config)
    preprocessor = config.preprocessor_class(verbose=False)
    ending = init["dataset_json"]["file_ending"]
    assert first.spread is not None
    choices = {}
    for case in cases:
        found = [*map(str, _images_of(case, images, ending))]
        try:
            data, _, _ = preprocessor.run_case(found, None, plans, config, init["dataset_json"])
            if len(data) != (channels := len(config.normalization_schemes)):
                raise ValueError(f"{len(data)} channels instead of {channels}")
        except Exception as error:  # Readers of images have errors of their own.
            raise ValueError(
                f"an image must be readable and have all channels of the model; {case} cannot be "
                f"used ({type(error).__name__}: {error}): correct it"
            ) from error
        image = torch.from_numpy(data).float()
        with fallback_named():
            seen = statistics(network.encoder, image, config.patch_size, device)
        if not seen.isfinite().all():
            raise ValueError(
                f"an image must hold finite numbers for an adapter to be chosen; {case} holds "
                "others: correct it, or name the adapter"
            )
        choices[case] = choose(seen, sites, first.spread)
    return choices
