"""Epochs of nnU-Net's trainers, without training.

    python -m nnunet_iac.host.training_length PLANS_FILE CONFIGURATION TRAINER

prints epochs and iterations per epoch. A trainer makes its folders when it is made, so this runs in
a process of its own, whose results go to a folder that is removed.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from nnunet_iac.host.folders import RESULTS, UNLOGGED, command_environment


def training_length(plans: Path, configuration: str, trainer: str) -> tuple[int, int]:
    """Return a trainer's epochs and iterations per epoch; one not to be made is a RuntimeError."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(plans), configuration, trainer],
            env={**os.environ, **command_environment(), **UNLOGGED, RESULTS: folder},
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:]
        raise RuntimeError(f"{trainer} cannot be made: {''.join(last)}")
    epochs, iterations = json.loads(done.stdout.splitlines()[-1])
    return epochs, iterations


def main() -> None:
    """Print the length."""
    import torch

    from nnunet_iac.host.trainer_lookup import find_trainer

    file, configuration, name = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    plans, dataset = (
        json.loads(path.read_text()) for path in (file, file.with_name("dataset.json"))
    )
    plans["continue_training"] = False  # As nnU-Net's command has it.
    trainer = find_trainer(name)(plans, configuration, 0, dataset, torch.device("cpu"))
    print(json.dumps([trainer.num_epochs, trainer.num_iterations_per_epoch]))  # noqa: T201


if __name__ == "__main__":
    main()
