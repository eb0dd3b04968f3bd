"""Begin and resume of a run without nnU-Net's trainers, folders and data."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import FINAL, PREVIOUS, tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import CostRecord
from nnunet_iac.search.controls import identity_genotype, random_genotype
from nnunet_iac.search.cost import CellCosts
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.backbone import Backbone, Fold
from nnunet_iac.training.batches import HALVES
from nnunet_iac.training.lifecycle import Lifecycle
from nnunet_iac.training.method import CONTINUE, IAC, IAC_DISCRETE, IAC_LTH, Method
from nnunet_iac.training.preflight import PlannedNetwork

DATASET = "Dataset001_A"
PLANS: dict[str, Any] = {
    "dataset_name": DATASET,
    "plans_name": "plans",
    "configurations": {"2d": {"patch_size": [16, 16]}},
}
SPLIT = (["p1_a", "p1_b", "p2_a", "p3_a", "p4_a"], ["p5_a"])
BATCH = (2, 2, 16, 16)
CPU = torch.device("cpu")
TinyUNet = Callable[..., nn.Module]


class Checks:
    """Takes the place of `Preflight`: lists what is asked and raises where it is to fail."""

    def __init__(self, fold: Path, method: Method, weights: dict[str, Tensor], **settings: Any):
        self.fold, self.method, self.weights = fold, method, weights
        self.settings = Settings(**settings)
        self.plans, self.configuration, self.number = PLANS, "2d", 0
        self.failing = ""
        self.asked: list[str] = []
        self.logged: list[str] = []
        self.log = self.logged.append
        self.sized_for: Genotype | None = None

    def _ask(self, name: str) -> None:
        self.asked.append(name)
        if name == self.failing:
            raise ValueError(f"{name} fails")

    def preprocessed_cases(self) -> list[str]:
        self._ask("preprocessed_cases")
        return [case for side in SPLIT for case in side]

    def split(self, cases: Sequence[str], do_split: Callable[[], Any]) -> Any:
        self._ask("split")
        return do_split()

    def target(self, validation: Sequence[str]) -> Fold:
        return Fold(DATASET, self.configuration, self.number, validation)

    def require_siblings(self) -> None:
        self._ask("require_siblings")

    def backbone(self, network: nn.Module, validation: Sequence[str]) -> Backbone:
        self._ask("backbone")
        assert validation == SPLIT[1]
        return Backbone(Path(FINAL), "nnUNetTrainer", 0, self.weights, None, None)

    def costs(self, network: Any, planned: PlannedNetwork) -> CellCosts | None:
        self._ask("costs")
        return None

    def fit_in_memory(
        self, network: Any, planned: PlannedNetwork, genotype: Genotype | None
    ) -> None:
        self._ask("fit_in_memory")
        self.sized_for = genotype

    def require_compiler(self, device: torch.device) -> None:
        self._ask("require_compiler")


class Run:
    """A lifecycle with all that a trainer gives it; `begin` and `resume` as the trainer calls."""

    def __init__(
        self, fold: Path, unet: TinyUNet, method: Method, rank: int = 0, **settings: Any
    ) -> None:
        self.weights = unet(2, seed=1).state_dict()
        self.checks: Any = Checks(fold, method, self.weights, **settings)
        self.splits = 0
        self.life = Lifecycle(self.checks, "T", rank, self._do_split)
        self.planned = PlannedNetwork(lambda: unet(2), BATCH, CPU)
        cell = self.checks.settings.cell.network_arguments()
        self.network: Any = retrofit(unet(2), **cell) if method.retrofits else unet(2)
        self.record = self.life.recorder.folder

    def _do_split(self) -> Any:
        self.splits += 1
        return SPLIT

    def begin(self, continues: bool = False) -> None:
        self.life.begin(self.network, self.planned, continues)


@pytest.fixture
def make(tmp_path: Path, tiny_unet: TinyUNet, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return the maker of runs in one fold; no pictures of cells are drawn, which takes long."""
    monkeypatch.setattr(
        "nnunet_iac.training.recorder.draw_cell", lambda _, path, __: path.write_text("")
    )
    fold = tmp_path / "model" / "fold_0"
    fold.mkdir(parents=True)
    runs = []

    def make(method: Method = IAC_LTH, **given: Any) -> Run:
        runs.append(Run(fold, tiny_unet, method, **given))
        return runs[-1]

    yield make
    for run in runs:
        if run.life._spare is not None:
            run.life._spare.cleanup()


@pytest.fixture
def earlier(make: Any) -> Path:
    """Let the fold hold an earlier run, and return the fold."""
    fold: Path = make().checks.fold
    RunFolder.of_fold(fold).path.mkdir()
    write_json(RunFolder.of_fold(fold).cost_file, {"of": "the earlier run"})
    (fold / FINAL).write_bytes(b"earlier")
    return fold


def _files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


# --- begin ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "settings"),
    [
        *(
            (check, {"genotype": "random:0"})
            for check in (
                *("require_siblings", "preprocessed_cases", "split", "backbone", "costs"),
                *("fit_in_memory", "require_compiler"),
            )
        ),
        ("a cell that is missing", {"genotype": "/absent/genotype.json"}),
    ],
)
def test_everything_that_can_be_wrong_is_found_before_an_earlier_run_is_moved_away(
    make: Any, earlier: Path, failing: str, settings: dict[str, Any]
) -> None:
    before, run = _files(earlier), make(IAC_DISCRETE, **settings)
    run.checks.failing = failing
    with pytest.raises((ValueError, FileNotFoundError), match=f"{failing} fails|/absent"):
        run.begin()
    assert _files(earlier) == before


def test_a_continued_run_without_its_latest_checkpoint_is_refused_before_any_other_check(
    make: Any, earlier: Path
) -> None:
    (earlier / PREVIOUS).write_bytes(b"the one before")
    before, run = _files(earlier), make()
    with pytest.raises(ValueError, match=r"must hold checkpoint_latest\.pth"):
        run.begin(continues=True)
    assert _files(earlier) == before
    assert run.checks.asked == []


def test_an_earlier_run_is_moved_away_whole_before_the_new_record_is_written(
    make: Any, earlier: Path
) -> None:
    before, run = _files(earlier), make()
    run.begin()
    (archive,) = earlier.glob("before_*")
    assert _files(archive) == before
    assert run.checks.logged == [f"Record and checkpoints of an earlier run are kept in {archive}"]
    assert not (earlier / FINAL).exists()
    cost = run.record.read_cost()
    assert cost.run == {"method": "IAC-LTH", **run.life.identity, "ranks": 1}
    assert read_json(run.record.split_file) == {"training": SPLIT[0], "validation": SPLIT[1]}


@pytest.mark.parametrize(
    ("method", "networks"),
    [(IAC_LTH, {"backbone", "supernet"}), (CONTINUE, {"backbone"})],
)
def test_a_run_starts_from_the_weights_of_the_backbone(
    make: Any, method: Method, networks: set[str]
) -> None:
    run = make(method)
    run.begin()
    state = run.network.state_dict()
    assert all(torch.equal(state[key], tensor) for key, tensor in run.weights.items())
    assert run.record.read_backbone().before == tensors_hash(run.weights)
    assert run.record.read_cost().networks.keys() == networks


def test_only_the_first_rank_writes_into_the_fold_and_moves_an_earlier_run_away(
    make: Any, earlier: Path
) -> None:
    (earlier / PREVIOUS).write_bytes(b"the one before")  # With --c the first rank would refuse it.
    before, second = _files(earlier), make(rank=1)
    second.begin(continues=True)
    assert _files(earlier) == before
    assert earlier not in second.record.path.parents
    assert second.record.read_cost().run["fold"] == 0


def test_only_the_first_rank_takes_the_lock_of_the_fold(make: Any) -> None:
    first, second, stranger = make(), make(rank=1), make()
    refused = pytest.raises(RuntimeError, match="only one process may work on")
    with first.life.held(), second.life.held(), refused, stranger.life.held():
        pytest.fail("two processes hold one fold")
    with stranger.life.held():
        pass


# --- cases ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [IAC_LTH, IAC_DISCRETE, CONTINUE], ids=lambda m: m.name)
def test_a_run_that_is_not_bilevel_has_no_halves(make: Any, method: Method) -> None:
    assert make(method).life.cases == {"training": SPLIT[0], "validation": SPLIT[1]}


def test_a_bilevel_search_has_halves_of_the_training_cases_that_share_no_patient(make: Any) -> None:
    cases = make(IAC, patient_pattern=r"^p\d").life.cases
    assert cases.keys() == {"training", "validation", *HALVES}
    weights, architecture = (cases[half] for half in HALVES)
    assert sorted(weights + architecture) == cases["training"]
    assert not {case[:2] for case in weights} & {case[:2] for case in architecture}


def test_the_split_is_asked_once(make: Any) -> None:
    run = make(IAC)
    run.begin()
    assert run.life.cases
    assert run.life.identity
    assert run.life.split == SPLIT
    assert run.splits == 1
    assert run.checks.asked.count("preprocessed_cases") == 1


@pytest.mark.parametrize(
    ("number", "validation", "held_out"),
    [(0, ["b"], ["b"]), (0, ["a"], []), ("all", ["a"], ["a"])],
)
def test_a_fold_that_is_validated_on_its_training_cases_holds_out_none(
    make: Any, number: int | str, validation: list[str], held_out: list[str]
) -> None:
    life = make(IAC_DISCRETE).life
    life.split, life.checks.number = (["a"], validation), number
    assert life.held_out == held_out


# --- given cells ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "genotype"),
    [("random:3", random_genotype(3)), ("identity", identity_genotype())],
)
def test_a_given_cell_is_fitted_in_memory_recorded_and_built(
    make: Any, setting: str, genotype: Genotype
) -> None:
    run = make(IAC_DISCRETE, genotype=setting)
    run.begin()
    assert run.checks.sized_for == run.network.genotype == run.record.read_genotype() == genotype
    assert "genotype_from" not in run.record.read_cost().run


def test_a_cell_of_a_file_is_recorded_with_where_it_is_from(make: Any, tmp_path: Path) -> None:
    path = tmp_path / "genotype.json"
    write_json(path, random_genotype(5).to_document())
    run = make(IAC_DISCRETE, genotype=str(path))
    run.begin()
    assert run.network.genotype == random_genotype(5)
    assert run.record.read_cost().run["genotype_from"] == {"path": str(path)}
    assert any(
        "it is not known which cases its cell has seen" in line for line in run.checks.logged
    )


def test_a_convolution_gets_the_size_of_the_cell_it_is_compared_with(
    make: Any, tmp_path: Path
) -> None:
    path = tmp_path / "genotype.json"
    write_json(path, random_genotype(5).to_document())
    run = make(IAC_DISCRETE, genotype=f"conv:{path}")
    expected = retrofit(run.planned.make(), random_genotype(5), implant="convolution")
    run.begin()
    assert run.checks.sized_for is None
    shapes = [[tuple(w.shape) for w in n.weights()] for n in (run.network, expected)]
    assert shapes[0] == shapes[1]


# --- resume --------------------------------------------------------------------------------------


def _resumed(make: Any, first: Run, **settings: Any) -> Any:
    second = make(first.checks.method, **settings)
    second.network.load_state_dict(first.network.state_dict())
    second.life.controller.load_state_dict(first.life.controller.state_dict(), second.network)
    return second


def test_a_resumed_run_writes_its_record_again_and_moves_nothing_away(make: Any) -> None:
    first = make()
    first.begin()
    ticket = first.record.ticket_file.read_bytes()
    for name in ("settings", "cost", "backbone", "split", "trajectory"):
        getattr(first.record, f"{name}_file").unlink()
    leftover = first.checks.fold / ".writing.of a killed process"
    leftover.write_bytes(b"half")
    second = _resumed(make, first)
    second.life.resume(second.network, second.planned)
    assert second.record.read_settings() == first.checks.settings
    assert second.record.read_cost().run == first.life.recorder.cost.run
    assert second.record.read_backbone() == first.life.recorder.backbone
    assert read_json(second.record.split_file) == second.life.cases
    assert len(second.record.read_trajectory().epoch) == 0
    assert second.record.ticket_file.read_bytes() == ticket
    assert not list(first.checks.fold.glob("before_*"))
    assert not leftover.exists()


def test_a_resumed_run_does_not_write_over_the_record_of_another(make: Any) -> None:
    first = make()
    first.begin()
    second = _resumed(make, first)
    write_json(first.record.cost_file, {"run": {**first.life.identity, "trainer": "Other"}})
    before = _files(first.checks.fold)
    with pytest.raises(ValueError, match="must be the record of the run that is continued"):
        second.life.resume(second.network, second.planned)
    assert _files(first.checks.fold) == before


def test_a_resumed_run_with_a_given_cell_fits_that_cell_in_memory(make: Any) -> None:
    first = make(IAC_DISCRETE, genotype="random:3")
    first.begin()
    second = _resumed(make, first, genotype="random:3")
    second.life.resume(second.network, second.planned)
    assert second.checks.sized_for == second.record.read_genotype() == random_genotype(3)


def test_a_run_continues_with_the_cases_of_its_source_that_it_began_with() -> None:
    run: Any = SimpleNamespace(
        source=SimpleNamespace(cases=("a", "b")),
        recorder=SimpleNamespace(cost=CostRecord(run={"source_cases": ["a", "b"]})),
    )
    Lifecycle._require_same_source(run)
    run.source.cases = ("a", "c")
    with pytest.raises(ValueError, match="that it began with; these differ: b, c: restore"):
        Lifecycle._require_same_source(run)
    run.source, run.recorder.cost = None, CostRecord(run={})
    Lifecycle._require_same_source(run)
