"""One run on two ranks, with gloo on the CPU: nnU-Net itself would use NCCL and two GPUs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from interruption import run_until
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnUNet
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.training.distributed import (
    broadcast_from_rank0,
    require_same_on_all_ranks,
    unwrap_ddp,
)

# Gradients of depthwise weights may be laid out in another order; DDP copies them and warns.
pytestmark = pytest.mark.filterwarnings("ignore:Grad strides do not match")

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
FULL = "nnUNetTrainerIAC_1warmup6search2finetune"
RANKS = 2

Make = Callable[..., Any]


def _on_two_ranks(tmp_path: Path, task: Callable[[int], None]) -> None:
    """Run a task in two processes of one group; an error in either is raised here."""
    store = tmp_path / f"store_{len(list(tmp_path.glob('store_*')))}"
    torch.multiprocessing.start_processes(
        _in_group, args=(store, task), nprocs=RANKS, start_method="fork"
    )


def _in_group(rank: int, store: Path, task: Callable[[int], None]) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=RANKS)
    task(rank)
    dist.destroy_process_group()


def _on_the_cpu(trainer: Any) -> Any:
    """Undo what nnU-Net does for CUDA, which it takes for granted on several ranks."""
    trainer.device = torch.device("cpu")
    trainer.grad_scaler = None
    return trainer


@pytest.fixture
def make_rank(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a maker of trainers that works on any rank."""
    fork = torch.multiprocessing.get_context("fork")
    monkeypatch.setattr(nnUNet, "DDP", lambda network, device_ids: DistributedDataParallel(network))
    monkeypatch.setattr(nnUNet.multiprocessing, "get_context", lambda _: fork)
    monkeypatch.setattr(nnUNet, "GradScaler", lambda _: None)

    def make(name: str, resume: bool = False) -> Any:
        trainer = _on_the_cpu(make_trainer(name))
        if resume:
            trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))
        return trainer

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", [LTH, FULL])
def test_two_ranks_search_prune_and_finetune_as_one(
    make_rank: Make, in_process: Any, tmp_path: Path, name: str
) -> None:
    def run(rank: int) -> None:
        trainer = make_rank(name)
        wrappers = 0
        end_epoch = trainer.on_epoch_end

        def on_epoch_end() -> None:
            nonlocal wrappers
            # Marked, for the id of one that is gone may be given again.
            wrappers += not hasattr(trainer.network, "counted")
            trainer.network.counted = True
            assert isinstance(trainer.network, DistributedDataParallel)
            end_epoch()
            unet = trainer.unet
            require_same_on_all_ranks(unet.alpha, unet.beta, unet.active, *unet.weights())

        trainer.on_epoch_end = on_epoch_end
        trainer.run_training()
        trainer.perform_actual_validation()
        # A new wrapper after the warm-up, after the prunes and for the found cell.
        assert wrappers >= (4 if name == LTH else 3)
        assert bool(trainer.unet.alpha.any())

    _on_two_ranks(tmp_path, run)
    fold = in_process.model(name, "small") / "fold_0"
    record = RunFolder.of_fold(fold)
    assert record.read_backbone().unchanged
    assert record.read_backbone().reference is not None
    assert (fold / "validation" / "summary.json").is_file()
    assert len(record.read_trajectory().epoch) == 7
    assert len(record.read_events()) == (84 if name == LTH else 0)


@pytest.mark.slow
def test_two_ranks_continue_where_they_were_broken_off(
    make_rank: Make, in_process: Any, tmp_path: Path
) -> None:
    def break_off(rank: int) -> None:
        run_until(make_rank(LTH), 3)

    def go_on(rank: int) -> None:
        trainer = make_rank(LTH, resume=True)
        assert trainer.current_epoch == 3
        trainer.run_training()

    def unbroken(rank: int) -> None:
        make_rank(LTH).run_training()

    fold = in_process.model(LTH, "small") / "fold_0"
    _on_two_ranks(tmp_path, unbroken)
    wanted = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    events = RunFolder.of_fold(fold).events_file.read_text()
    (fold / "checkpoint_final.pth").unlink()
    _on_two_ranks(tmp_path, break_off)
    _on_two_ranks(tmp_path, go_on)
    found = torch.load(fold / "checkpoint_final.pth", weights_only=False)["network_weights"]
    assert RunFolder.of_fold(fold).events_file.read_text() == events
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_ranks_that_differ_are_noticed(tmp_path: Path) -> None:
    def differ(rank: int) -> None:
        assert broadcast_from_rank0(f"rank {rank}") == "rank 0"
        same = torch.zeros(3)
        require_same_on_all_ranks(same, same)
        if rank == 1:
            with pytest.raises(RuntimeError, match="rank 1 differs from rank 0"):
                require_same_on_all_ranks(same, same + rank)
        else:
            require_same_on_all_ranks(same, same)

    _on_two_ranks(tmp_path, differ)


def test_without_deep_supervision_no_rank_waits_for_a_head_that_is_not_run(
    make_trainer: Make, in_process: Any
) -> None:
    plans = in_process.write_plans("single", deep_supervision=False, finetune_epochs=1)
    for name in ("nnUNetTrainerContinue", "nnUNetTrainerAdamNoDeepSupervision_200epochs"):
        trainer = make_trainer(name, plans)
        trainer.initialize()
        trainer.network(torch.zeros(2, 1, 56, 40)).sum().backward()
        waiting = [n for n, p in trainer.network.named_parameters() if p.requires_grad]
        assert all(trainer.network.get_parameter(n).grad is not None for n in waiting)


def test_one_process_needs_no_group() -> None:
    network = nn.Linear(1, 1)
    assert unwrap_ddp(network) is network
    assert broadcast_from_rank0(3) == 3
    require_same_on_all_ranks(torch.zeros(2))
