"""Length of the finetuning."""

import math
from collections.abc import Callable
from typing import Any

from nnunet_iac.search.setting_parts import SearchSchedule

WEIGHT = 0.1
"""Weight of an epoch's loss in the running mean, as that of nnU-Net's pseudo Dice."""


class FinetuneLength:
    """The epochs of the finetuning: those planned, or fewer once its loss falls no more.

    With the setting `finetune_patience` it ends after so many epochs in a row in which the running
    mean of the training loss had no new minimum. Validation cases have no part in that.
    """

    def __init__(self, schedule: SearchSchedule) -> None:
        self.epochs = schedule.finetune_epochs
        self.patience = schedule.finetune_patience
        self.done = 0
        self.mean: float | None = None
        self.least = math.inf
        self.least_at = 0

    def add(self, loss: float) -> bool:
        """Count an epoch with this training loss, and return whether it ends the run early."""
        self.done += 1
        self.mean = loss if self.mean is None else (1 - WEIGHT) * self.mean + WEIGHT * loss
        if self.mean < self.least:
            self.least, self.least_at = self.mean, self.done
        ends = self.patience is not None and self.done - self.least_at >= self.patience
        if not ends or self.done >= self.epochs:
            return False
        self.epochs = self.done
        return True

    def end_epoch(self, loss: float, log: Callable[[str], None]) -> None:
        """Count an epoch with this training loss, and log if it ends the run early."""
        if self.add(loss):
            log(
                f"The finetuning ends after {self.epochs} epochs: its training loss had no new "
                f"minimum in the last {self.patience} (finetune_patience)"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {key: value for key, value in vars(self).items() if key != "patience"}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; nothing, of a checkpoint from before it."""
        vars(self).update(state)
