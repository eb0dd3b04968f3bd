"""What trainers of retrofits do with checkpoints."""

import functools
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

import nnunet_iac
from nnunet_iac.runs.atomic import replacing
from nnunet_iac.runs.checkpoint import (
    BEST,
    FINAL,
    LATEST,
    PREVIOUS,
    keep_previous,
    read_checkpoint,
)
from nnunet_iac.runs.plans import SECTION, configuration_of
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.continuation import CHECKPOINT_FORMAT, require_same_run


class CheckpointedTrainer(nnUNetTrainer):
    """A trainer whose checkpoints are whole, and continued by the very run that wrote them.

    Deviates from nnUNetTrainer: a checkpoint is written atomically, holds the whole state of the
    run, and the one before it is kept; another run, version or settings may not continue it.
    """

    settings: Settings
    network: Any
    resumed = False
    """Whether a checkpoint was loaded."""

    _loaded: tuple[Path, int] | None = None
    _best_ema: float | None

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What run this is: a checkpoint or record of another must not be continued."""
        return {
            "trainer": type(self).__name__,
            "dataset": self.plans_manager.dataset_name,
            "plans": self.plans_manager.plans_name,
            "configuration": self.configuration_name,
            "fold": self.fold,
            "configuration_content": self._digest(self._described()),
            "split": self._digest(self.do_split()),
        }

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with the run's state added, atomically; keep the previous.

        The best one goes before the latest, which must know of it to continue exactly; nnU-Net
        does it the other way round, and finds nothing better any more.
        """
        if Path(filename).name == LATEST:
            self._save_best()
        if self.disable_checkpointing or self.local_rank != 0:
            super().save_checkpoint(filename)
            return
        stock = io.BytesIO()
        super().save_checkpoint(stock)
        stock.seek(0)
        checkpoint = torch.load(stock, map_location="cpu", weights_only=False)
        checkpoint[SECTION] = self.run_state()
        whole = io.BytesIO()  # torch would say less clearly why it cannot write to a file.
        torch.save(checkpoint, whole)
        path = Path(filename)
        with replacing(path) as temporary:
            temporary.write_bytes(whole.getbuffer())
            if path.name == LATEST:
                keep_previous(path)

    def _save_best(self) -> None:
        averages = self.logger.get_value("ema_fg_dice", step=None)
        if averages and (self._best_ema is None or averages[-1] > self._best_ema):
            self._best_ema = averages[-1]
            self.print_to_log_file(f"New best EMA pseudo Dice: {averages[-1]:.4f}")
            self.save_checkpoint(str(Path(self.output_folder) / BEST))

    def run_state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold besides nnU-Net's own, in plain types and tensors."""
        return {
            "format": CHECKPOINT_FORMAT,
            "version": nnunet_iac.__version__,
            "run": self.identity,
            "settings": self.settings.resolved().to_mapping(),
        }

    def load_checkpoint(self, filename_or_checkpoint: Any) -> None:
        """Continue from a checkpoint, after checking that it is whole and this run's own."""
        path = Path(filename_or_checkpoint)
        checkpoint = self.readable_checkpoint(path)
        if not self.was_initialized:
            self.initialize()
        try:
            self._loaded = path, path.stat().st_mtime_ns
            self.restore(checkpoint, path)
        except torch.OutOfMemoryError:
            raise
        except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            kind = RuntimeError if isinstance(error, RuntimeError) else ValueError
            raise kind(
                f"{path} must hold the whole state of this run; it does not "
                f"({type(error).__name__}: {error}): restore it from a copy, or start anew "
                "without --c"
            ) from error
        self.resumed = True

    def restore(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Take over a checkpoint's state; `path` is where it was read."""
        super().load_checkpoint(str(path))

    def readable_checkpoint(self, path: Path) -> dict[str, Any]:
        """Return a checkpoint of this run.

        Raises:
            ValueError: a damaged file, or one of another run, version or settings.
        """
        try:
            checkpoint = read_checkpoint(path)
        except ValueError as error:
            previous = path.with_name(PREVIOUS)
            if path.name not in (LATEST, FINAL) or not previous.is_file():
                raise
            raise ValueError(
                f"{error}. The checkpoint before it is kept: remove {path.name}, copy "
                f"{previous.name} to {LATEST} in {path.parent}, and continue with --c"
            ) from error
        require_same_run(checkpoint, self.identity, self.settings, path)
        return checkpoint

    def _require_as_loaded(self) -> None:
        """Check that nobody has gone on with the run since its checkpoint was read.

        Raises:
            RuntimeError: the file is another one now.
        """
        if self._loaded is None:
            return
        path, written = self._loaded
        if not path.is_file() or path.stat().st_mtime_ns != written:
            raise RuntimeError(
                f"a run must continue from its newest checkpoint; {path} has been replaced since "
                "it was read, so another process went on with the run: start again with --c"
            )

    def _described(self) -> dict[str, Any]:
        """Return the run's configuration of the plans without our settings."""
        described = configuration_of(self.plans_manager.plans, self.configuration_name)
        return {key: value for key, value in described.items() if key != SECTION}

    @staticmethod
    def _digest(value: Any) -> str:
        return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]

    def _checkpoint_bytes(self) -> int:
        """Return about what a checkpoint takes: all weights, and Adam's two averages."""
        weights = sum(t.numel() * t.element_size() for t in self.network.state_dict().values())
        learning = sum(
            p.numel() * p.element_size() for p in self.network.parameters() if p.requires_grad
        )
        return weights + 2 * learning
