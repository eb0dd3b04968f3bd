"""Write the splits of the studies: fold 0 is for comparing, fold 1 for choosing.

    python docs/evidence/splits/splits.py RAW

RAW is a data set in nnU-Net's raw layout. Fold 0 is the first of its own `splits_final.json`, or
of nnU-Net's five-fold split. Fold 1 divides the training cases of fold 0 once more, by patient, so
that what is chosen there has never seen the cases that methods are compared on. Fold 2 trains on
the training cases of fold 1, about 60 %, and is scored on the cases of fold 0, 20 %.
"""

import random
import sys
from pathlib import Path

from nnunetv2.utilities.crossval_split import generate_crossval_split

from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.search.patients import patient_of

HERE = Path(__file__).parent
PATIENTS = {"Dataset027_ACDC128": r"patient\d+"}
"""How a case id names its patient, where a patient has several cases."""
HELD_BACK = 0.25
"""Share of the patients of fold 0's training cases on which fold 1 is scored."""


def outer(raw: Path) -> dict[str, list[str]]:
    """Return the split that methods are compared on."""
    if (raw / "splits_final.json").is_file():
        own: list[dict[str, list[str]]] = read_json(raw / "splits_final.json")
        return own[0]
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (raw / "labelsTr").iterdir())
    split: dict[str, list[str]] = generate_crossval_split(cases)[0]
    return split


def inner(cases: list[str], pattern: str | None) -> dict[str, list[str]]:
    """Return a split of training cases."""
    patients = sorted({patient_of(case, pattern) for case in cases})
    random.Random(0).shuffle(patients)
    held_back = set(patients[: round(HELD_BACK * len(patients))])
    sides: dict[str, list[str]] = {"train": [], "val": []}
    for case in sorted(cases):
        sides["val" if patient_of(case, pattern) in held_back else "train"].append(case)
    return sides


def main() -> None:
    """Write the file beside this script."""
    raw = Path(sys.argv[1])
    first = outer(raw)
    second = inner(first["train"], PATIENTS.get(raw.name))
    third = {"train": second["train"], "val": first["val"]}
    write_json(HERE / f"splits_{raw.name}.json", [first, second, third])


if __name__ == "__main__":
    main()
