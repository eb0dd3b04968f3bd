"""Whether a run fits in memory: what is free, and what becomes of a run that needs more."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from interruption import run_until

from nnunet_iac.nn.cost import StepMemory, run_memory
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.search.controls import identity_genotype
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.setting_parts import CellConfig
from nnunet_iac.training import memory
from nnunet_iac.training.memory import enable_checkpointing_if_needed

CPU = torch.device("cpu")
LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
HOST = 1000 * 1024
"""Bytes that the host of the tests' containers has available."""
VERSIONS = {
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("", "memory.max", "memory.current", "inactive_file"),
}

Make = Callable[..., Any]


# --- what is free --------------------------------------------------------------------------------


def test_a_cpu_reports_what_is_free():
    free = memory.free_memory(CPU)
    assert free is None or free > 0
    assert memory.free_memory(torch.device("meta")) is None


class System:
    """A folder with what Linux tells of a host and of the control groups of a process on it."""

    def __init__(self, path: Path, *lines: str) -> None:
        self.path = path
        self._write("proc/meminfo", f"MemTotal: 2000 kB\nMemAvailable: {HOST // 1024} kB\n")
        self._write("proc/self/cgroup", "".join(f"{line}\n" for line in lines))

    def add(self, version: int, group: str, limit: object, used: int, cached: int) -> None:
        """Write the files of a group; `cached` is in `used`."""
        place, *names, line = VERSIONS[version]
        folder = f"sys/fs/cgroup/{place}/{group}"
        for name, value in zip(names, (limit, used), strict=True):
            self._write(f"{folder}/{name}", f"{value}\n")
        self._write(f"{folder}/memory.stat", f"inactive_anon 7\n{line} {cached}\nunevictable 0\n")

    def _write(self, name: str, text: str) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    @property
    def free(self) -> int | None:
        return memory.free_memory(CPU, self.path)


LINES = {1: ("5:cpu,cpuacct:/elsewhere", "4:memory:/pod/box", "0::/"), 2: ("0::/pod/box",)}
each_version = pytest.mark.parametrize("version", VERSIONS)


@each_version
def test_a_container_has_what_its_limit_leaves_and_what_only_caches_files(
    tmp_path: Path, version: int
) -> None:
    system = System(tmp_path, *LINES[version])
    system.add(version, "pod/box", limit=5000, used=4900, cached=4000)
    assert system.free == 5000 - (4900 - 4000)


@each_version
def test_a_limit_above_a_group_holds_for_it_too(tmp_path: Path, version: int) -> None:
    system = System(tmp_path, *LINES[version])
    system.add(version, "pod/box", limit=9000, used=100, cached=0)
    system.add(version, "pod", limit=1000, used=400, cached=50)
    system.add(version, "pod/other", limit=10, used=10, cached=0)
    assert system.free == 1000 - (400 - 50)


@each_version
def test_a_group_that_is_seen_as_the_uppermost_one_is_found_there(
    tmp_path: Path, version: int
) -> None:
    system = System(tmp_path, *LINES[version])
    system.add(version, "", limit=3000, used=1000, cached=0)
    assert system.free == 2000


@pytest.mark.parametrize(("version", "limit"), [(1, 9223372036854771712), (2, "max")])
def test_without_a_limit_all_that_the_host_has_is_free(
    tmp_path: Path, version: int, limit: object
) -> None:
    system = System(tmp_path, *LINES[version])
    system.add(version, "pod/box", limit, used=5000, cached=0)
    assert system.free == HOST


def test_a_container_with_more_than_its_host_has_what_that_has(tmp_path: Path) -> None:
    system = System(tmp_path, *LINES[2])
    system.add(2, "pod/box", limit=10 * HOST, used=0, cached=0)
    assert system.free == HOST


def test_a_container_that_is_full_has_nothing(tmp_path: Path) -> None:
    system = System(tmp_path, *LINES[2])
    system.add(2, "pod/box", limit=1000, used=1100, cached=0)
    assert system.free == 0


# --- a network ----------------------------------------------------------------------------------


@pytest.fixture
def network(tiny_unet):
    return retrofit(tiny_unet())


def fit(network, tiny_unet, free, monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: free)
    shape = (4, 2, 64, 64)
    return enable_checkpointing_if_needed(
        network,
        shape,
        CPU,
        CellConfig(),
        lambda cell: retrofit(tiny_unet(), **cell.network_arguments()),
    )


def test_what_fits_is_left_as_it_is(network, tiny_unet, monkeypatch):
    assert "free" in fit(network, tiny_unet, 10**12, monkeypatch)
    assert not network.activation_checkpointing
    assert "about" in fit(network, tiny_unet, None, monkeypatch)


def test_what_fits_only_with_activation_checkpointing_gets_it(network, tiny_unet, monkeypatch):
    needed = run_memory(network, (4, 2, 64, 64))
    assert "since it would not fit" in fit(network, tiny_unet, needed.kept - 1, monkeypatch)
    assert network.activation_checkpointing
    again = fit(network, tiny_unet, needed.checkpointed, monkeypatch)
    assert "as the settings ask" in again


def test_what_does_not_fit_is_refused_with_cells_that_would(network, tiny_unet, monkeypatch):
    needed = run_memory(network, (4, 2, 64, 64))
    with pytest.raises(RuntimeError, match=r"must fit .* --set channel_ratio=0.125 min_channels=4"):
        fit(network, tiny_unet, needed.checkpointed - 1, monkeypatch)
    with pytest.raises(RuntimeError, match="plans with a smaller batch or patch"):
        fit(network, tiny_unet, 1, monkeypatch)


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture
def make_trainer(make_trainer: Make, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Return the maker of trainers, which estimate their memory as they do outside of tests."""
    monkeypatch.setattr(memory, "run_memory", run_memory)
    return make_trainer


def needs(trainer: Any) -> StepMemory:
    """Return what the training steps of a search need."""
    network = retrofit(trainer.stock_network(), **trainer.settings.cell.network_arguments())
    patch = trainer.configuration_manager.patch_size
    return run_memory(network, (trainer.batch_size, trainer.num_input_channels, *patch))


def test_a_run_that_cannot_fit_is_refused_and_an_earlier_one_stays_as_it_was(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(LTH)
    trainer.initialize()
    needed = needs(trainer)
    fold = Path(trainer.output_folder)
    (fold / "checkpoint_final.pth").write_text("of an earlier run")
    before = {path: path.read_bytes() for path in fold.rglob("*")}
    monkeypatch.setattr(memory, "GIGABYTE", 1.0)  # The tests' networks are far smaller.
    monkeypatch.setattr(memory, "free_memory", lambda device: needed.checkpointed - 1)
    message = (
        f"needs about {needed.checkpointed}.0 GB, .* and {needed.checkpointed - 1}.0 GB are free"
    )
    with pytest.raises(RuntimeError, match=message):
        trainer.run_training()
    (fold / "iac.lock").unlink()
    assert [path.name for path in fold.parent.iterdir()] == [fold.name]
    after = {path: path.read_bytes() for path in fold.rglob("*")}
    (log,) = fold.glob("training_log_*.txt")
    assert after.pop(log).startswith(before.pop(log))
    assert after == before


def test_the_memory_of_convolutions_is_that_of_their_own_size(
    make_trainer: Make, in_process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = in_process.path / "cell.json"
    write_json(path, identity_genotype().to_document())
    short = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": 2}
    plans = in_process.write_plans("sized", **short, genotype=f"conv:{path}")
    monkeypatch.setattr(memory, "GIGABYTE", 1.0)
    fold = run_until(make_trainer("nnUNetTrainerIACDiscrete", plans), 1)
    resumed = make_trainer("nnUNetTrainerIACDiscrete", plans, resume=True)
    resumed.run_training()
    logged = [re.findall(r"needs about (\d+)", p.read_text()) for p in fold.glob("training_log*")]

    def needed(genotype: Genotype | None) -> str:
        cell = resumed.settings.cell.network_arguments()
        network = retrofit(resumed.stock_network(), genotype, **cell)
        network.unfreeze(True)
        return str(run_memory(network, resumed._planned.batch, CPU).kept)

    assert {number for numbers in logged for number in numbers} == {needed(identity_genotype())}
    assert needed(None) != needed(identity_genotype())


def test_a_run_that_fits_only_with_activation_checkpointing_uses_and_logs_it(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(LTH)
    trainer.initialize()
    assert not trainer.unet.activation_checkpointing
    needed = needs(trainer)
    monkeypatch.setattr(memory, "GIGABYTE", 1.0)
    monkeypatch.setattr(memory, "free_memory", lambda device: needed.kept - 1)
    run_until(trainer, 1)
    assert trainer.unet.activation_checkpointing
    line = (
        f"needs about {needed.checkpointed}.0 GB of {needed.kept - 1}.0 GB free with activation "
        "checkpointing, since it would not fit otherwise"
    )
    assert line in Path(trainer.log_file).read_text()
