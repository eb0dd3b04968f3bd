import dataclasses
import json
import os

import numpy as np
import pytest
import torch

from nnunet_iac.runs.folder import RunFolder, read_genotype_file
from nnunet_iac.runs.records import (
    BackboneRecord,
    CostRecord,
    NetworkCost,
    PhaseCost,
    Trajectory,
    TrajectoryRow,
)
from nnunet_iac.search.pruning import PruningEvent
from nnunet_iac.search.settings import Settings


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
        if isinstance(member, property)
    }
    assert names == {
        "settings.json",
        "genotype.json",
        "trajectory.npz",
        "events.jsonl",
        "cost.json",
        "ticket.safetensors",
        "backbone.json",
        "cell.svg",
        "cell.png",
        "reference",
    }


def test_settings_are_written_with_every_preset_filled_in(folder):
    settings = Settings(preset="adaptive", theta=0.5, patient_pattern=r"^\w+_\d+")
    folder.write_settings(settings)
    assert folder.read_settings() == settings.resolved()
    written = json.loads(folder.settings_file.read_text())
    assert set(written) == {field.name for field in dataclasses.fields(Settings)}
    assert (written["theta"], written["kappa"]) == (0.5, 2.0)


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
        networks={"backbone": NetworkCost(1000, 20000)},
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
