"""One run on two ranks, with gloo on the CPU and, where `--nccl` asks for it, on two GPUs.

On a machine with two GPUs, alone, for processes are forked of one that must not use CUDA:

    pytest tests/training/test_distributed.py --nccl
"""

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

from nnunet_iac.runs.checkpoint import FINAL, LATEST, read_checkpoint
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.training.distributed import (
    broadcast_from_rank0,
    on_any_rank,
    require_same_on_all_ranks,
    unwrap_ddp,
)

# Gradients of depthwise weights may be laid out in another order; DDP copies them and warns.
pytestmark = pytest.mark.filterwarnings("ignore:Grad strides do not match")

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
FULL = "nnUNetTrainerIAC_1warmup6search2finetune"
RANKS = 2

Make = Callable[..., Any]


@pytest.fixture(params=["gloo", "nccl"])
def backend(request: pytest.FixtureRequest) -> str:
    """What the ranks exchange tensors with; NCCL needs a GPU for each of them."""
    if request.param == "nccl":
        if not request.config.getoption("--nccl"):
            pytest.skip("needs two GPUs: --nccl runs it there")
        if (found := torch.cuda.device_count()) < RANKS:
            pytest.skip(f"NCCL needs {RANKS} GPUs; torch finds {found}")
    return str(request.param)


@pytest.fixture
def on_two_ranks(backend: str, tmp_path: Path) -> Callable[[Callable[[int], None]], None]:
    """Return what runs a task in two processes of one group and raises an error of either here."""

    def run(task: Callable[[int], None]) -> None:
        store = tmp_path / f"store_{len(list(tmp_path.glob('store_*')))}"
        torch.multiprocessing.start_processes(
            _in_group, args=(backend, store, task), nprocs=RANKS, start_method="fork"
        )

    return run


def _in_group(rank: int, backend: str, store: Path, task: Callable[[int], None]) -> None:
    if backend == "nccl":
        torch.cuda.set_device(rank)
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=RANKS)
    task(rank)
    dist.destroy_process_group()


@pytest.fixture
def make_rank(backend: str, make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return a maker of trainers that works on any rank.

    nnU-Net takes CUDA for granted on several ranks; on the CPU what it does for CUDA is undone.
    """
    if backend == "gloo":
        fork = torch.multiprocessing.get_context("fork")
        monkeypatch.setattr(
            nnUNet, "DDP", lambda network, device_ids: DistributedDataParallel(network)
        )
        monkeypatch.setattr(nnUNet.multiprocessing, "get_context", lambda _: fork)
        monkeypatch.setattr(nnUNet, "GradScaler", lambda _: None)

    def make(name: str, resume: bool = False) -> Any:
        trainer = make_trainer(name)
        if backend == "gloo":
            trainer.device = torch.device("cpu")
            trainer.grad_scaler = None
        if resume:
            trainer.load_checkpoint(str(Path(trainer.output_folder) / LATEST))
        return trainer

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", [LTH, FULL])
def test_two_ranks_search_prune_finetune_and_continue_as_one(
    make_rank: Make, in_process: Any, on_two_ranks: Any, name: str
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

    on_two_ranks(run)
    fold = in_process.model(name, "small") / "fold_0"
    record = RunFolder.of_fold(fold)
    assert record.read_backbone().unchanged
    assert record.read_backbone().reference is not None
    assert (fold / "validation" / "summary.json").is_file()
    assert len(record.read_trajectory().epoch) == 7
    assert len(record.read_events()) == (84 if name == LTH else 0)
    if name == LTH:
        _require_the_same_after_a_break(make_rank, on_two_ranks, fold)


def _require_the_same_after_a_break(make_rank: Make, on_two_ranks: Any, fold: Path) -> None:
    def break_off(rank: int) -> None:
        run_until(make_rank(LTH), 3)

    def go_on(rank: int) -> None:
        trainer = make_rank(LTH, resume=True)
        assert trainer.current_epoch == 3
        trainer.run_training()

    wanted = read_checkpoint(fold / FINAL)["network_weights"]
    events = RunFolder.of_fold(fold).events_file.read_text()
    (fold / FINAL).unlink()
    on_two_ranks(break_off)
    on_two_ranks(go_on)
    found = read_checkpoint(fold / FINAL)["network_weights"]
    assert RunFolder.of_fold(fold).events_file.read_text() == events
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_ranks_that_differ_are_noticed(on_two_ranks: Any) -> None:
    def differ(rank: int) -> None:
        assert broadcast_from_rank0(f"rank {rank}") == "rank 0"
        assert on_any_rank(rank == 1)
        assert not on_any_rank(False)
        same = torch.zeros(3)
        require_same_on_all_ranks(same, same)
        if rank == 1:
            with pytest.raises(RuntimeError, match="rank 1 differs from rank 0"):
                require_same_on_all_ranks(same, same + rank)
        else:
            require_same_on_all_ranks(same, same)

    on_two_ranks(differ)


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


def test_no_rank_waits_for_a_node_that_no_output_depends_on(
    make_trainer: Make, in_process: Any
) -> None:
    plans = in_process.write_plans("one_node", output_nodes=1, genotype="random:3")
    trainer = make_trainer("nnUNetTrainerIACDiscrete", plans)
    trainer.on_train_start()
    (cell, *_) = trainer.unet.cells()
    unused = {*map(id, cell.unused_parameters())}
    assert unused
    for output in trainer.network(torch.zeros(2, 1, 56, 40)):
        output.sum().backward(retain_graph=True)
    waiting = [p for p in trainer.network.parameters() if p.requires_grad]
    assert all(parameter.grad is not None for parameter in waiting)
    assert not unused & {*map(id, waiting)}


def test_one_process_needs_no_group() -> None:
    network = nn.Linear(1, 1)
    assert unwrap_ddp(network) is network
    assert broadcast_from_rank0(3) == 3
    require_same_on_all_ranks(torch.zeros(2))
