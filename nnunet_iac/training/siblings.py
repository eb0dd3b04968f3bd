"""The folds of one model folder share a plans.json, and with it the structure of their cells."""

from pathlib import Path

from nnunet_iac.runs.atomic import read_json
from nnunet_iac.runs.plans import configuration_of, settings_of
from nnunet_iac.search.settings import STRUCTURAL, Settings


def require_same_structure(fold_folder: Path, configuration: str, settings: Settings) -> None:
    """Check the structural settings against the other folds of the model folder.

    Raises:
        ValueError: another fold with a checkpoint was trained with another structure; nnU-Net
            would overwrite the plans.json that its prediction needs.
    """
    plans = fold_folder.parent / "plans.json"
    others = sorted(
        fold.name
        for fold in fold_folder.parent.glob("fold_*")
        if fold.name != fold_folder.name and any(fold.glob("checkpoint_*.pth"))
    )
    if not plans.is_file() or not others:
        return
    theirs = settings_of(configuration_of(read_json(plans), configuration))
    for key in STRUCTURAL:
        if getattr(theirs, key) != getattr(settings, key):
            raise ValueError(
                f"the folds of a model must share their structural settings; {key} is "
                f"{getattr(settings, key)!r} here and {getattr(theirs, key)!r} in {others[0]} of "
                f"{fold_folder.parent}: use a new plans identifier"
            )
