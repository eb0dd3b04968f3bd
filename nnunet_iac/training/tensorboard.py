"""TensorBoard as one of nnU-Net's loggers, beside its W&B."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

VARIABLE = "nnUNet_tensorboard_enabled"
"""Environment variable that asks for it, as nnUNet_wandb_enabled asks for W&B."""

FOLDER_NAME = "tensorboard"
"""Inside the record of a run."""

TIMESTAMPS = ("epoch_start_timestamps", "epoch_end_timestamps")
"""Keys of nnU-Net's that are seconds since 1970: too large for TensorBoard's float32."""


def tensorboard_wanted() -> bool:
    """Return whether the environment asks for TensorBoard.

    Raises:
        RuntimeError: the variable has another value than nnU-Net's own take, or TensorBoard is
            not installed.
    """
    value = os.environ.get(VARIABLE, "0")
    if value not in ("0", "1", "False", "True", "false", "true"):
        raise RuntimeError(
            f"{VARIABLE} must be 0, 1, false or true; got {value!r}: set it to 1 to write scalars "
            "for TensorBoard, or unset it"
        )
    if value in ("0", "False", "false"):
        return False
    if find_spec("tensorboard") is None:
        raise RuntimeError(
            f"TensorBoard must be installed where {VARIABLE}={value}; it is not: run pip install "
            "'nnunet-iac[tensorboard]', or unset the variable"
        )
    return True


class TensorBoardLogger:
    """Writes scalars when nnU-Net's `MetaLogger` calls it; steps are nnU-Net's epochs, from 0.

    Args:
        folder: of the event files.
        first_epoch: nnU-Net's number of the epoch the run begins or goes on with; what an earlier
            process wrote of it and of later ones is hidden.
    """

    def __init__(self, folder: Path, first_epoch: int) -> None:
        # Imported here, for it is optional and takes a second.
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

    def close(self) -> None:
        """Write what is left and end the writer's thread."""
        self.writer.close()
