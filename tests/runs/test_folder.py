import dataclasses
import json
import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nnunet_iac.runs.folder import Inside, RunFolder, read_genotype_file
from nnunet_iac.runs.records import (
    RUN_KEYS,
    BackboneRecord,
    CostRecord,
    PhaseCost,
    SourceRecord,
    Trajectory,
    TrajectoryRow,
)
from nnunet_iac.search.cost import Cost
from nnunet_iac.search.health import HealthEvent
from nnunet_iac.search.pruning import PruningEvent
from nnunet_iac.search.settings import Settings, keys
from nnunet_iac.search.space import Edge


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder.of_fold(tmp_path / "fold_0")


def _row(epoch: int) -> TrajectoryRow:
    numbers = np.random.default_rng(epoch)
    return TrajectoryRow(
        epoch=epoch,
        alpha=numbers.normal(size=(14, 7)),
        beta=numbers.normal(size=14),
        importance=numbers.random((14, 7)),
        divergence=np.full(14, np.nan),
        threshold=numbers.random(14),
        active=numbers.random((14, 7)) > 0.5,
    )


def _event(divergence: float | None = 1e-5) -> PruningEvent:
    return PruningEvent(21, 0, 2, "identity", 0.125, divergence, divergence, "smallest")


def test_the_record_lies_in_the_fold_under_the_names_that_reports_rely_on(folder, tmp_path):
    assert folder.path == tmp_path / "fold_0" / "iac"
    names = {
        getattr(folder, name).name
        for name, member in vars(RunFolder).items()
        if isinstance(member, Inside)
    }
    assert names == {
        "settings.json",
        "budget.json",
        "genotype.json",
        "trajectory.npz",
        "events.jsonl",
        "health.jsonl",
        "cost.json",
        "ticket.safetensors",
        "backbone.json",
        "split.json",
        "cell.svg",
        "cell.png",
        "reference",
        "source.json",
        "source_before",
        "source_after",
    }


def test_what_is_scored_on_a_source_survives_the_round_trip(folder):
    assert folder.read_source() is None
    before, after = ({"mean": dice, "per_case": {"a": dice}} for dice in (0.9, 0.8))
    record = SourceRecord("Dataset027_Source", "2d", 0, "a1", "b2", before, after, -0.1)
    folder.write_source(record)
    assert folder.read_source() == record
    folder.source_file.write_text('{"dataset": "Dataset027_Source"}')
    with pytest.raises(ValueError, match=r"source\.json must hold .* must have .* network"):
        folder.read_source()


def test_settings_are_written_with_every_preset_filled_in(folder):
    settings = Settings(preset="adaptive", stability_threshold=0.5, patient_pattern=r"^\w+_\d+")
    folder.write_settings(settings)
    assert folder.read_settings() == settings
    written = json.loads(folder.settings_file.read_text())
    assert set(written) == set(keys())
    assert (written["stability_threshold"], written["threshold_growth"]) == (0.5, 2.0)


def test_a_genotype_survives_the_round_trip(folder, random_genotype):
    for seed in range(20):
        genotype = random_genotype(seed)
        folder.write_genotype(genotype)
        assert folder.read_genotype() == genotype


def test_an_invalid_genotype_is_named_with_its_file_and_its_fault(folder, random_genotype):
    folder.write_genotype(random_genotype(0))
    document = json.loads(folder.genotype_file.read_text())
    document["edges"][3]["operation"] = "conv_9x9"
    folder.genotype_file.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"genotype\.json must hold a genotype: .*'conv_9x9'"):
        read_genotype_file(folder.genotype_file)


@pytest.mark.parametrize("epochs", [0, 1, 3])
def test_a_trajectory_survives_the_round_trip_bit_by_bit(folder, epochs):
    rows = [_row(epoch) for epoch in range(1, epochs + 1)]
    folder.write_trajectory(rows)
    read, expected = folder.read_trajectory(), Trajectory.of_rows(rows)
    assert read.alpha.shape == (epochs, 14, 7)
    assert (read.epoch.dtype, read.active.dtype) == (np.int64, np.bool_)
    for field in dataclasses.fields(Trajectory):
        np.testing.assert_array_equal(getattr(read, field.name), getattr(expected, field.name))


def test_events_survive_the_round_trip_one_a_line(folder):
    events = (_event(), _event(divergence=None))
    folder.write_events(events)
    assert folder.read_events() == events
    assert len(folder.events_file.read_text().splitlines()) == 2
    folder.write_events(())
    assert folder.read_events() == ()


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"\xff",
        b"[]",
        b"3",
        b'{"epoch": 21}',
        b'{"edge": [0, 2], "epochs": 21}',
        b'{"edge": [2, 0], "epoch": 21}',
        b'{"edge": 3, "epoch": 21}',
        b"[" * 100_000,
        b'{"edge": [0, 2], "epoch": "text"}',
        b"0" * 1_000_000,
    ],
)
@pytest.mark.parametrize("kind", ["events", "health"])
def test_a_damaged_line_of_events_is_named_with_its_file(folder, kind, line):
    folder.write_events((_event(), _event()))
    folder.write_health((HealthEvent(3, "plateau", None, "flat"),) * 2)
    path = getattr(folder, f"{kind}_file")
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(ValueError, match=rf"line 3 of .*{kind}\.jsonl must hold an event"):
        getattr(folder, f"read_{kind}")()


VALUES = (None, [], {}, "text", 3, -1, True, float("nan"), 10**400)


def _damaged(document):
    """Yield documents that differ from one in a value, whatever that is and wherever it is."""
    yield from VALUES
    if isinstance(document, list) and document:
        yield from ([other] for other in _damaged(document[0]))
    for key, value in document.items() if isinstance(document, dict) else ():
        yield {name: other for name, other in document.items() if name != key}
        yield from ({**document, key: other} for other in _damaged(value))


@pytest.mark.parametrize("name", ["settings", "backbone", "source", "cost", "split", "genotype"])
def test_every_damaged_value_of_a_record_is_an_error_that_names_the_file_or_is_as_valid(
    folder, name, random_genotype
):
    folder.write_settings(Settings())
    folder.write_genotype(random_genotype(0))
    folder.write_split({"training": ["a"], "validation": ["b"]})
    scores = {"mean": 0.8, "per_case": {"b": 0.8}}
    folder.write_backbone(BackboneRecord("a.pth", "nnUNetTrainer", 0, "12", "12", None, scores))
    folder.write_source(SourceRecord("Dataset027_Source", "2d", 0, "1", "2", scores, scores, 0.0))
    run = dict.fromkeys(RUN_KEYS, "name")
    folder.write_cost(
        CostRecord({"search": PhaseCost(1, 2.0)}, {"final": Cost(1, 2)}, commit="1", run=run)
    )
    path = getattr(folder, f"{name}_file")
    messages = []
    for document in _damaged(json.loads(path.read_text())):
        path.write_text(json.dumps(document))
        try:
            getattr(folder, f"read_{name}")()
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert [message for message in messages if str(path) not in message] == []


def test_health_survives_the_round_trip_one_a_line_and_may_be_absent(folder):
    assert folder.read_health() == ()
    events = (
        HealthEvent(17, "dead edge", Edge(0, 2), "no gradient moved its alpha"),
        HealthEvent(30, "plateau", None, "the training loss does not fall"),
    )
    folder.write_health(events)
    assert folder.read_health() == events
    assert isinstance(folder.read_health()[0].edge, Edge)
    written = [json.loads(line) for line in folder.health_file.read_text().splitlines()]
    assert [row["edge"] for row in written] == [[0, 2], None]
    folder.write_health(())
    assert folder.read_health() == ()


@given(st.data())
def test_a_damaged_trajectory_is_an_error_naming_the_file_or_was_not_harmed(tmp_path_factory, data):
    folder = RunFolder(tmp_path_factory.mktemp("run"))
    folder.write_trajectory([_row(1), _row(2)])
    whole = folder.trajectory_file.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.one_of(st.none(), st.integers(0, 255)))
    damaged = whole[:at] if byte is None else whole[:at] + bytes([byte]) + whole[at + 1 :]
    folder.trajectory_file.write_bytes(damaged)
    try:
        read, message = folder.read_trajectory(), ""
    except ValueError as error:
        read, message = None, str(error)
    if read is None:
        assert str(folder.trajectory_file) in message
    else:
        for field in dataclasses.fields(Trajectory):
            expected = getattr(Trajectory.of_rows([_row(1), _row(2)]), field.name)
            np.testing.assert_array_equal(getattr(read, field.name), expected)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("beta", None, "beta is not a file"),
        ("alpha", np.zeros((2, 14, 6)), r"'alpha' .* \(2, 14, 7\) .* \(2, 14, 6\)"),
        ("seconds", np.zeros(3), r"'seconds' .* \(2,\) .* \(3,\)"),
        ("epoch", np.zeros((2, 1), np.int64), r"'epoch' .* \(2,\) .* \(2, 1\)"),
        ("active", np.ones((2, 14, 7)), "'active' .* bool; .* float64"),
        ("alpha", np.full((2, 14, 7), None), "allow_pickle=False"),
    ],
)
def test_a_trajectory_with_a_wrong_array_is_an_error_naming_file_and_array(
    folder, name, array, message
):
    trajectory = Trajectory.of_rows([_row(1), _row(2)])
    arrays = {f.name: getattr(trajectory, f.name) for f in dataclasses.fields(Trajectory)}
    del arrays[name]
    folder.path.mkdir(parents=True)
    np.savez(folder.trajectory_file, **arrays, **({} if array is None else {name: array}))
    with pytest.raises(ValueError, match=rf"trajectory\.npz must hold a trajectory .*{message}"):
        folder.read_trajectory()


def test_a_trajectory_with_the_scores_of_earlier_releases_is_read_without_them(folder):
    folder.write_trajectory([_row(1), _row(2)])
    with np.load(folder.trajectory_file) as arrays:
        earlier = {**arrays, "score": np.full((2, 14, 7), np.nan)}
    np.savez(folder.trajectory_file, **earlier)
    assert np.array_equal(folder.read_trajectory().alpha, earlier["alpha"])


def test_a_missing_trajectory_is_named(folder):
    with pytest.raises(FileNotFoundError, match=r"trajectory\.npz"):
        folder.read_trajectory()


def test_a_backbone_record_survives_the_round_trip(folder):
    record = BackboneRecord("a/checkpoint_final.pth", "nnUNetTrainer", 0, "12ab")
    folder.write_backbone(record)
    assert folder.read_backbone() == record
    compared = dataclasses.replace(
        record, after="12ab", leakage="was trained on all cases", reference={"mean": 0.8}
    )
    folder.write_backbone(compared)
    assert folder.read_backbone() == compared


@pytest.mark.parametrize(("after", "unchanged"), [(None, False), ("12ab", True), ("34cd", False)])
def test_a_backbone_counts_as_unchanged_only_once_compared(after, unchanged):
    record = BackboneRecord("checkpoint_final.pth", "nnUNetTrainer", 0, "12ab", after)
    assert record.unchanged is unchanged


def test_a_cost_record_survives_the_round_trip(folder):
    record = CostRecord(
        phases={"search": PhaseCost(24, 61.5), "finetune": PhaseCost(10, 20.0)},
        networks={"backbone": Cost(1000, 20000)},
        peak_memory_bytes=2**30,
        hardware={"cores": 2},
        versions={"torch": "2.6"},
        commit="0123abc",
        run={"fold": 0},
    )
    folder.write_cost(record)
    assert folder.read_cost() == record


def test_a_ticket_survives_the_round_trip_bit_by_bit(folder):
    ticket = {"levels.0.weight": torch.randn(3, 4), "levels.0.count": torch.tensor(7)}
    folder.write_ticket(ticket)
    read = folder.read_ticket()
    assert read.keys() == ticket.keys()
    assert all(torch.equal(read[name], ticket[name]) for name in ticket)
    assert all(read[name].dtype == ticket[name].dtype for name in ticket)


def test_nan_never_reaches_a_json_file(folder):
    folder.write_events([_event()])
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_events([_event(divergence=float("nan"))])
    with pytest.raises(ValueError, match="not JSON compliant"):
        folder.write_cost(CostRecord(phases={"search": PhaseCost(1, float("nan"))}))
    assert folder.read_events() == (_event(),)
    assert os.listdir(folder.path) == ["events.jsonl"]
