"""The second stage of a cascade, which sees what the first predicted."""

from collections.abc import Iterable
from pathlib import Path

SUFFIXES = (".b2nd", ".npz", ".npy")
"""Of what nnU-Net's data sets, new and old, read of the first stage."""


def previous_predictions(
    model: Path, previous: str, configuration: str, cases: Iterable[str]
) -> Path:
    """Return the folder in which a model's first stage predicted for its second.

    Args:
        model: model folder of the second stage.
        previous: configuration of the first.
        configuration: of the second.
        cases: that the second sees.

    Raises:
        FileNotFoundError: the first stage has not predicted all cases.
    """
    first = model.with_name(f"{model.name.rpartition('__')[0]}__{previous}")
    folder = first / "predicted_next_stage" / configuration
    there = {path.stem for path in folder.glob("*") if path.suffix in SUFFIXES}
    missing = sorted(set(cases) - there)
    if missing:
        raise FileNotFoundError(
            f"the second stage of a cascade, which {configuration} is, needs what the first has "
            f"predicted for all cases; {folder} has nothing of {', '.join(missing[:3])}"
            f"{' …' if len(missing) > 3 else ''}: train all folds of {first.name}, whose "
            "validations write it"
        )
    return folder
