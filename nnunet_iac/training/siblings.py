"""The folds of one model folder share a plans.json, and with it the structure of their cells."""

from pathlib import Path

from nnunet_iac.runs.checkpoint import read_checkpoint
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.plans import SECTION
from nnunet_iac.search.setting_parts import STRUCTURAL
from nnunet_iac.search.settings import Settings


def require_same_structure(fold_folder: Path, settings: Settings) -> None:
    """Check the structural settings against the other folds of the model folder.

    Raises:
        ValueError: another fold with a checkpoint was trained with another structure; nnU-Net
            would overwrite the plans.json that its prediction needs.
    """
    for fold in sorted(fold_folder.parent.glob("fold_*")):
        checkpoints = sorted(fold.glob("checkpoint_*.pth"))
        if fold.name == fold_folder.name or not checkpoints:
            continue
        theirs = _settings_of(fold, checkpoints[0])
        for key in STRUCTURAL:
            if getattr(theirs, key) != getattr(settings, key):
                raise ValueError(
                    f"the folds of a model must share their structural settings; {key} is "
                    f"{getattr(settings, key)!r} here and {getattr(theirs, key)!r} in {fold.name} "
                    f"of {fold_folder.parent}: use a new plans identifier"
                )


def _settings_of(fold: Path, checkpoint: Path) -> Settings:
    """Return the settings of a fold's record or, where it has none, of its checkpoint.

    The plans.json of the model folder may be half-written: nnU-Net does not replace it whole.
    """
    record = RunFolder.of_fold(fold)
    if record.settings_file.is_file():
        return record.read_settings()
    state = read_checkpoint(checkpoint).get(SECTION)
    if not isinstance(state, dict):
        raise ValueError(
            f"every fold of a model must be of the same trainer; {checkpoint} knows no search: "
            "move it elsewhere"
        )
    return Settings.from_mapping(state.get("settings"))
