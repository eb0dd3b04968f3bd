"""Measure what a user of an adapter meets: python product.py PAIR FOLDER, those of measure.sh.

It adapts the source to three cases by the typed commands, alone on the machine, and times that;
saves the adapter beside the source model; lets `auto` choose for held-out cases of both sites; and
compares the predictions without an adapter to those of nnU-Net's own command, byte by byte.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from choice import measure_choice
from studies import CASES, DRAWS, HERE, Pair

from nnunet_iac.host.folders import raw_folder, results_folder
from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint
from nnunet_iac.training.provenance import circumstances

K = 3
PLANS, TRAINER, ADAPTER = "productFromSource", "nnUNetTrainerIACDiscrete", "site"
QUIET = ("-device", "cpu", "-npp", "1", "-nps", "1")


def command(*words: object) -> float:
    """Run a command that must succeed, with threads and processes as a user has them; time it."""
    chosen = ("OMP_", "MKL_", "nnUNet_n_proc", "nnUNet_def_n_proc")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(chosen)}
    began = time.perf_counter()
    subprocess.run([*map(str, words)], check=True, env=environment)
    return time.perf_counter() - began


def linked_images(folder: Path, dataset: str, cases: list[str]) -> None:
    """Link the images of cases into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in cases:
        for image in (raw_folder(dataset) / "imagesTr").glob(f"{case}_[0-9][0-9][0-9][0-9].*"):
            (folder / image.name).symlink_to(image.resolve())


def measure(pair: Pair, folder: Path) -> dict[str, Any]:
    """Return all that is measured of a pair."""
    target, model_fold = pair.target, pair.source_folds[0]
    model, dataset = model_fold.parent, model_fold.parent.parent.name
    fold = CASES.index(K) * DRAWS
    write_json(preprocessed_folder(target) / "splits_final.json", read_json(folder / "splits.json"))
    prepared = command("nnunet-iac", "adapt", "-s", model, "-d", target, "-c", "2d", "-o", PLANS)
    write_json(preprocessed_folder(target) / "splits_final.json", read_json(folder / "splits.json"))
    training = ("nnUNetv2_train", target, "2d", fold, "-tr", TRAINER, "-p", PLANS, *QUIET[:2])
    trained = command(*training)
    run = results_folder() / target / f"{TRAINER}__{PLANS}__2d" / f"fold_{fold}"
    adapter = model / "adapters" / f"{ADAPTER}.safetensors"
    adapter.unlink(missing_ok=True)
    command("nnunet-iac", "adapter", "save", run, "-o", adapter)
    held_out = {
        ADAPTER: (target, read_json(folder / "splits.json")[fold]["val"]),
        "none": (dataset, read_json(preprocessed_folder(dataset) / "splits_final.json")[0]["val"]),
    }
    found: dict[str, Any] = {
        **circumstances(),
        "cases": K,
        "trainer": TRAINER,
        "seconds": {"prepare": prepared, "train": trained},
        "bytes": {"adapter": adapter.stat().st_size, "model": _bytes(model_fold)},
    }
    with TemporaryDirectory() as temporary:
        images, out = Path(temporary, "images"), Path(temporary, "out")
        for name, cases in held_out.values():
            linked_images(images, name, cases)
        predict = ("nnunet-iac", "predict", "-m", model, "-f", 0, "-i", images, "-o")
        command(*predict, out, "--adapter", "auto", *QUIET)
        choices = read_json(out / "adapters.json")
        found["auto"] = {
            site: {case: choices[case]["name"] for case in cases}
            for site, (_, cases) in held_out.items()
        }
        found["warned"] = {
            site: sum(not choices[case]["fits"] for case in cases)
            for site, (_, cases) in held_out.items()
        }
        command(*predict, out / "none", "--adapter", "none", *QUIET)
        stock = ("nnUNetv2_predict_from_modelfolder", "-m", model, "-f", 0, "-i", images)
        command(*stock, "-o", out / "stock", *QUIET)
        sides = [
            {path.name: path.read_bytes() for path in (out / name).glob("*.nii.gz")}
            for name in ("none", "stock")
        ]
        found["off"] = {"predictions": len(sides[1]), "equal": sides[0] == sides[1]}
    found["choice"] = measure_choice(pair, PLANS, read_json(folder / "splits.json"))
    return found


def _bytes(fold: Path) -> int:
    """Return the bytes of a model's weights, without its optimiser's state."""
    weights = read_checkpoint(fold / FINAL)["network_weights"]
    return sum(tensor.numel() * tensor.element_size() for tensor in weights.values())


if __name__ == "__main__":
    pair = Pair(sys.argv[1])
    write_json(HERE / f"{pair.name}-product.json", measure(pair, Path(sys.argv[2])))
