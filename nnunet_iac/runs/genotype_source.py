"""A genotype from wherever a run left it: a JSON file, a fold folder, or a checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from nnunet_iac.runs.atomic import content_of
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint
from nnunet_iac.runs.folder import FOLDER_NAME, RunFolder, read_genotype_file, record_beside
from nnunet_iac.search.genotype import UNDECIDED, Genotype
from nnunet_iac.search.settings import Settings


def find_genotype(path: Path) -> Genotype:
    """Return the genotype of a JSON file, of `fold_X`, `fold_X/iac` or an nnU-Net checkpoint.

    Raises:
        FileNotFoundError: nothing there, or a run that has not found its genotype yet.
        ValueError: an unreadable file, a foreign checkpoint, or one that is still searching.
    """
    if path.is_dir():
        found = _genotype_file(path)
        return read_genotype_file(found) if found.suffix == ".json" else _in_checkpoint(found)
    if not path.is_file():
        raise FileNotFoundError(
            f"a genotype file, a fold folder or a checkpoint must be named; {path} does not exist"
        )
    if path.suffix == ".pth":
        return _in_checkpoint(path)
    return read_genotype_file(path)


def find_output_nodes(path: Path) -> int:
    """Return how many nodes the cell at `path` concatenates.

    By its run, else by its checkpoint or the plans in it, else by default.
    """
    if (run := record_beside(path)) is not None:
        return run.read_settings().cell.output_nodes
    file = path / FINAL if path.is_dir() else path
    if file.suffix != ".pth" or not file.is_file():
        return Settings().cell.output_nodes
    checkpoint = read_checkpoint(file)
    with content_of(file):
        if FOLDER_NAME in checkpoint:  # Our state in a checkpoint is called as the record.
            own = Settings.from_mapping(checkpoint[FOLDER_NAME]["settings"])
            return own.cell.output_nodes
        init = checkpoint["init_args"]
        config = init["plans"]["configurations"][init["configuration"]]
        structure = config.get("architecture", {}).get("arch_kwargs", {}).get("settings", {})
    return Settings.from_mapping(structure).cell.output_nodes


def _genotype_file(folder: Path) -> Path:
    """Return the record's file or, as in a model of nnU-Net's zip files, the final checkpoint."""
    files = (RunFolder.of_fold(folder).genotype_file, RunFolder(folder).genotype_file)
    for candidate in (*files, folder / FINAL):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"the folder must be a fold whose search has ended; {files[0]}, {files[1]} and {FINAL} "
        "beside them do not exist: let the search end, or name another folder"
    )


def still_searching(weights: Mapping[str, Any]) -> bool:
    """Return whether the cells of a checkpoint's network have no genotype yet."""
    codes = weights.get("genotype_codes")
    return codes is not None and UNDECIDED in codes.flatten().tolist()


def _in_checkpoint(path: Path) -> Genotype:
    weights = read_checkpoint(path)["network_weights"]
    found = weights.get("genotype_codes") if isinstance(weights, dict) else None
    if not isinstance(found, Tensor):
        raise ValueError(
            f"the checkpoint must be of a network with adaptive cells; {path} has no genotype: "
            "name a checkpoint of one of the nnUNetTrainerIAC trainers"
        )
    if still_searching(weights):
        raise ValueError(
            f"the checkpoint's search must have ended; {path} is still searching: continue "
            "it (nnUNetv2_train with --c) until its genotype is found"
        )
    try:
        return Genotype.from_codes(found.flatten().tolist())
    except ValueError as error:
        raise ValueError(f"{path} must hold a genotype: {error}") from error
