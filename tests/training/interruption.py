"""Runs that end between two epochs, as a process that is killed there does."""

from pathlib import Path
from typing import Any

import pytest


def run_until(trainer: Any, epochs: int) -> Path:
    """Train until `epochs` epochs are complete and saved; return the fold's folder."""
    end_epoch = trainer.on_epoch_end

    def on_epoch_end() -> None:
        end_epoch()
        if trainer.current_epoch == epochs:
            raise InterruptedError

    trainer.on_epoch_end = on_epoch_end
    with pytest.raises(InterruptedError):
        trainer.run_training()
    return Path(trainer.output_folder)
