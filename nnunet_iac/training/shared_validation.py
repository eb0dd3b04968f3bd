"""nnU-Net's final validation of networks beside the run's own: made once, or copied from a run."""

import copy
import hashlib
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager
from torch import nn

from nnunet_iac.host.planning import TRUTHS
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.scores import MEASURED_ON, VALIDATION_SUMMARY, read_summary
from nnunet_iac.training.distributed import broadcast_from_rank0, ranks, wrapped


def prediction_circumstances(trainer: Any, versions: Mapping[str, str]) -> dict[str, Any]:
    """Return what scores depend on besides network, cases and plans; `versions` are the run's."""
    axes = trainer.inference_allowed_mirroring_axes
    return {
        "mirrored": None if axes is None else [int(axis) for axis in axes],
        "device": trainer.device.type,
        "ranks": ranks(),
        "versions": versions,
        "truths": _truths(trainer),
        "images": _images(trainer),
    }


def _truths(trainer: Any) -> str:
    """Return a digest of the label files that nnU-Net scores a trainer's validation cases with."""
    folder = Path(trainer.preprocessed_dataset_folder_base) / TRUTHS
    digest = hashlib.sha256()
    for case in sorted(trainer.do_split()[1]):
        path = folder / f"{case}{trainer.dataset_json['file_ending']}"
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def _images(trainer: Any) -> dict[str, int]:
    """Return when each of a trainer's validation cases was preprocessed, in nanoseconds."""
    folder = Path(trainer.preprocessed_dataset_folder)
    files = {case: folder / f"{case}.pkl" for case in sorted(trainer.do_split()[1])}
    return {case: path.stat().st_mtime_ns for case, path in files.items() if path.is_file()}


def validate_once(
    trainer: Any,
    network: nn.Module,
    folder: Path,
    depends_on: Mapping[str, Any],
    elsewhere: Iterable[Path],
    what: str,
) -> None:
    """Put nnU-Net's final validation of a network into a folder, unless it is there.

    A validation that another run has made under the same circumstances is copied.

    Args:
        trainer: whose cases, plans and device are used; it stays as it is.
        network: the trainer's own, or one without wrapper.
        folder: gets `validation`, and after it `measured-on.json`.
        depends_on: all that the scores depend on.
        elsewhere: the `measured-on.json` of other runs.
        what: the network, for log lines.
    """
    first, log = trainer.local_rank == 0, trainer.print_to_log_file
    known = broadcast_from_rank0(_measured([folder / MEASURED_ON, *elsewhere], depends_on))
    if known == folder:
        return
    if first:
        shutil.rmtree(folder, ignore_errors=True)
    broadcast_from_rank0(None)  # Other ranks write once the folder is clear.
    if known is None:
        log(f"Validating {what}")
        _validate(trainer, network, folder)
    elif first:
        log(f"The validation of {what} is that in {known}")
        shutil.copytree(known, folder, ignore=shutil.ignore_patterns(MEASURED_ON))
    if first:
        write_json(folder / MEASURED_ON, depends_on)


def _validate(trainer: Any, network: nn.Module, folder: Path) -> None:
    """Run nnU-Net's final validation of a network; the trainer stays as it is.

    Nothing is predicted for a second stage, which would take it for a prediction of the run.
    """
    other, is_own = copy.copy(trainer), network is trainer.network
    network = network.to(trainer.device)
    other.network = wrapped(network, trainer.device) if trainer.is_ddp and not is_own else network
    other.output_folder = str(folder)
    config = trainer.configuration_manager.configuration
    config = {key: value for key, value in config.items() if key != "next_stage"}
    other.configuration_manager = ConfigurationManager(config)
    other.logger = copy.copy(trainer.logger)
    other.logger.loggers = []  # The score is not the run's own.
    nnUNetTrainer.perform_actual_validation(other)


def _measured(files: Iterable[Path], depends_on: Mapping[str, Any]) -> Path | None:
    """Return the folder of the first validation with these circumstances and readable scores."""
    for path in files:
        with suppress(ValueError, OSError):
            if read_json(path) == depends_on and read_summary(path.parent / VALIDATION_SUMMARY):
                return path.parent
    return None
