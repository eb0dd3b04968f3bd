"""TensorBoard beside nnU-Net's loggers, and what they get besides nnU-Net's own numbers."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nnunet_iac.host.plans import SECTION

TENSORBOARD_VARIABLE = "nnUNet_tensorboard_enabled"
"""Environment variable that turns TensorBoard on, as nnUNet_wandb_enabled turns on W&B."""

TIMESTAMPS = ("epoch_start_timestamps", "epoch_end_timestamps")
"""Keys of nnU-Net's that are seconds since 1970: too large for TensorBoard's float32."""


def log_numbers(loggers: Iterable[Any], numbers: Mapping[str, float], epoch: int) -> None:
    """Write the run's numbers to nnU-Net's additional loggers; its own takes its keys only."""
    for name, number in numbers.items():
        for logger in loggers:
            logger.log(f"{SECTION}/{name}", number, epoch)


@contextmanager
def closed_in_the_end(logger: Any) -> Iterator[None]:
    """Write what is left for TensorBoard, if it is among nnU-Net's loggers, when the block ends."""
    try:
        yield
    finally:
        for each in logger.loggers:
            if isinstance(each, TensorBoardLogger):
                each.writer.close()


def tensorboard_wanted() -> bool:
    """Return whether the environment asks for TensorBoard."""
    value = os.environ.get(TENSORBOARD_VARIABLE, "0")
    if value not in ("0", "1", "False", "True", "false", "true"):
        raise RuntimeError(
            f"{TENSORBOARD_VARIABLE} must be 0, 1, false or true; got {value!r}: set it to 1 "
            "to write scalars for TensorBoard, or unset it"
        )
    if value in ("0", "False", "false"):
        return False
    if find_spec("tensorboard") is None:
        raise RuntimeError(
            f"TensorBoard must be installed where {TENSORBOARD_VARIABLE}={value}; it is not: run "
            "pip install '.[tensorboard]' in the clone, or unset the variable"
        )
    return True


class TensorBoardLogger:
    """Writes scalars when nnU-Net's `MetaLogger` calls it; steps are nnU-Net's epochs, from 0.

    What an earlier process wrote of the first epoch and of later ones is hidden.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        # Imported here since it is optional and takes a second.
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first_epoch)

    def log(self, key: str, value: Any, step: int) -> None:
        """Write one number of an epoch; the timestamp of its end brings all to the disk."""
        if key not in TIMESTAMPS:
            self.writer.add_scalar(key, value, step)
        elif key == TIMESTAMPS[1]:
            self.writer.flush()

    def update_config(self, config: dict[str, Any]) -> None:
        """Leave out what is no scalar; the record holds all settings."""

    def log_summary(self, key: str, value: Any) -> None:
        """Leave out what has no epoch; the record and nnU-Net's summary.json hold it."""
