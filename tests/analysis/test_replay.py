import dataclasses
import json
import re

import numpy as np
import pytest
import torch

from nnunet_iac.analysis.trajectories.replay import SHOWN, replay
from nnunet_iac.nn.cost import cell_costs
from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord, TrajectoryRow
from nnunet_iac.search.cost import CellCosts, Cost
from nnunet_iac.search.discretisation import discretise, within_budget
from nnunet_iac.search.pruning import Observation, begin, close_epoch, idle
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS, Edge
from nnunet_iac.training.controller import Phase, SearchController
from nnunet_iac.training.method import IAC, IAC_LTH
from nnunet_iac.training.recorder import Recorder

LITERAL = Settings(preset="literal", warmup_epochs=2, search_epochs=12)
COSTS = CellCosts(
    Cost(1000, 1000),
    Cost(10, 10),
    {name: Cost(abs(index - 1), (index - 1) ** 2) for index, name in enumerate(OPERATIONS)},
)
FRUGAL = LITERAL.replace(max_parameter_ratio=0.02, max_mac_ratio=0.03)
"""A budget of 10 parameters and 20 MACs for eight operations of 0 to 5 and 0 to 25."""


def record(folder, settings=LITERAL, prunes=True, seed=0, scale=0.1, epochs=None):
    """Write the record of a search along a random path, as a run does; return its folder."""
    run = RunFolder.of_fold(folder)
    generator = torch.Generator().manual_seed(seed)
    alpha, beta = torch.zeros(14, 7), torch.zeros(14)
    state = begin(Observation(0, alpha, beta), settings.stability, settings.cell)
    rows, events = [], []
    for epoch in range(1, (epochs or settings.schedule.search_epochs) + 1):
        if epoch > settings.schedule.warmup_epochs:
            alpha = alpha + scale * torch.randn(14, 7, generator=generator)
            beta = beta + scale * torch.randn(14, generator=generator)
        seen = Observation(epoch, alpha, beta)
        decision = idle(seen, settings.cell)
        if epoch == settings.schedule.warmup_epochs:
            state = begin(seen, settings.stability, settings.cell)
        elif epoch > settings.schedule.warmup_epochs and prunes:
            state, decision = close_epoch(
                state, seen, settings.stability, settings.cell, settings.schedule.search_epochs
            )
        arrays = (seen.alpha, seen.beta, decision.importance, decision.divergence)
        arrays += (decision.threshold, decision.active)
        rows.append(TrajectoryRow(epoch, *(array.numpy() for array in arrays), seconds=1.0))
        events += decision.events
        if state.finished or epoch == settings.schedule.search_epochs:
            run.write_genotype(discretise(seen.alpha, seen.beta, state.active, settings.cell))
            break
    run.write_settings(settings)
    run.write_trajectory(rows)
    run.write_events(events)
    return run


def record_budgeted(folder, settings=FRUGAL):
    """Write the record of a search along a random path under a budget; return its folder."""
    run = record(folder, settings)
    trajectory = run.read_trajectory()
    alpha, beta, active = (
        torch.from_numpy(getattr(trajectory, name)[-1]).clone()
        for name in ("alpha", "beta", "active")
    )
    for event in run.read_events():
        if event.epoch == trajectory.epoch[-1]:
            edge = EDGES.index(Edge(event.source, event.target))
            active[edge, OPERATIONS.index(event.operation)] = False
    outcome = within_budget(run.read_genotype(), alpha, beta, active, settings.cell, COSTS)
    assert outcome.gave_up
    run.write_genotype(outcome.genotype)
    run.write_budget(COSTS, outcome)
    return run


def tamper(run, name, index, value):
    """Change one value of the recorded trajectory."""
    trajectory = run.read_trajectory()
    arrays = {f.name: getattr(trajectory, f.name) for f in dataclasses.fields(trajectory)}
    arrays[name][index] = value
    np.savez(run.trajectory_file, **arrays)


def tamper_line(run, number, **values):
    """Change one recorded event; return what it was."""
    lines = run.events_file.read_text().splitlines()
    event = json.loads(lines[number])
    lines[number] = json.dumps({**event, **values})
    run.events_file.write_text("\n".join(lines) + "\n")
    return event


def only(run):
    """Return the one disagreement of a record."""
    (disagreement,) = replay(run).disagreements
    return disagreement


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("importance", ["softmax", "raw", "raw-strict"])
@pytest.mark.parametrize("preset", ["literal", "paper", "adaptive"])
def test_a_pruning_search_replays_exactly(tmp_path, preset, importance, warmup):
    settings = Settings(preset=preset, importance=importance, warmup_epochs=warmup)
    for seed, scale in enumerate((1e-3, 0.1, 1.0)):
        run = record(tmp_path / str(seed), settings, seed=seed, scale=scale)
        replayed = replay(run)
        assert replayed.disagreements == ()
        assert replayed.genotype_compared
        assert replayed.prunes == 14 * 6
        assert replayed.epochs == len(run.read_trajectory().epoch)


@pytest.mark.parametrize("importance", ["softmax", "raw", "raw-strict"])
def test_a_search_that_was_forced_at_its_limit_replays_exactly(tmp_path, importance):
    settings = Settings(
        preset="adaptive",
        importance=importance,
        stability_threshold=1e-9,
        warmup_epochs=2,
        search_epochs=9,
    )
    run = record(tmp_path, settings)
    assert "forced" in {event.rule for event in run.read_events()}
    assert replay(run).agrees


@pytest.mark.parametrize(
    "settings",
    [
        {"edge_transform": "tan", "output_nodes": 2},
        {
            "stability_threshold": 1e-4,
            "threshold_growth": 3.0,
            "patience": 2,
            "reset_threshold": False,
        },
        {"warmup_epochs": 0},
        {"importance": "raw-strict"},
    ],
)
@pytest.mark.parametrize("prunes", [True, False])
def test_other_settings_and_the_full_search_replay_exactly(tmp_path, settings, prunes):
    run = record(tmp_path, LITERAL.replace(**settings), prunes, scale=0.5)
    replayed = replay(run)
    assert replayed.disagreements == ()
    assert replayed.genotype_compared
    assert (replayed.prunes > 0) is prunes


@pytest.mark.parametrize("epochs", [1, 2, 3, 5])
def test_a_search_under_way_replays_exactly_without_a_genotype(tmp_path, epochs):
    replayed = replay(record(tmp_path, epochs=epochs))
    assert replayed.agrees
    assert not replayed.genotype_compared
    assert replayed.epochs == epochs
    assert replayed.prunes == 14 * max(epochs - 2, 0)
    assert f"recomputed {epochs} epochs, {replayed.prunes} prunes and no genotype" in str(replayed)


@pytest.mark.parametrize("warmup", [0, 2])
@pytest.mark.parametrize("method", [IAC_LTH, IAC])
def test_what_the_trainers_controller_records_replays_exactly(tmp_path, tiny_unet, method, warmup):
    settings = Settings(
        preset="adaptive",
        warmup_epochs=warmup,
        search_epochs=9,
        finetune_epochs=1,
        stability_threshold=0.05,
    )
    network = IACUNet(tiny_unet(2))
    recorder = Recorder(settings, RunFolder.of_fold(tmp_path), lambda line: None)
    controller = SearchController(settings, method, recorder)
    controller.start(network, BackboneRecord("a.pth", "nnUNetTrainer", 0, "hash"), {}, None)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(1, 11):
        if controller.phase is Phase.SEARCH:
            with torch.no_grad():
                network.alpha += torch.randn(14, 7, generator=generator)
                network.beta += torch.randn(14, generator=generator)
        controller.end_epoch(network, epoch, seconds=1.0, loss=0.5)
    replayed = replay(recorder.folder)
    assert replayed.disagreements == ()
    assert replayed.genotype_compared
    assert replayed.epochs == 9
    assert replayed.prunes == (14 * 6 if method.prunes else 0)


def test_a_search_under_a_budget_replays_exactly(tmp_path):
    replayed = replay(record_budgeted(tmp_path))
    assert replayed.disagreements == ()
    assert replayed.genotype_compared


@pytest.mark.parametrize("method", [IAC_LTH, IAC])
def test_what_the_trainers_controller_records_under_a_budget_replays_exactly(
    tmp_path, tiny_unet, method
):
    network = IACUNet(tiny_unet(2))
    costs = cell_costs(network, 2, (16, 8))
    least = costs.fixed.macs / costs.backbone.macs
    settings = LITERAL.replace(finetune_epochs=1, max_mac_ratio=1.1 * least)
    recorder = Recorder(settings, RunFolder.of_fold(tmp_path), lambda line: None)
    controller = SearchController(settings, method, recorder)
    controller.costs = costs
    controller.start(network, BackboneRecord("a.pth", "nnUNetTrainer", 0, "hash"), {}, None)
    generator = torch.Generator().manual_seed(0)
    for epoch in range(1, 14):
        if controller.phase is Phase.SEARCH:
            with torch.no_grad():
                network.alpha += torch.randn(14, 7, generator=generator)
                network.beta += torch.randn(14, generator=generator)
        controller.end_epoch(network, epoch, seconds=1.0, loss=0.5)
    assert costs.of(network.genotype).macs <= 1.1 * costs.fixed.macs
    replayed = replay(recorder.folder)
    assert replayed.disagreements == ()
    assert replayed.genotype_compared
    write_json(recorder.folder.settings_file, settings.to_mapping() | {"max_mac_ratio": 9})
    assert not replay(recorder.folder).agrees


def test_a_search_under_way_under_a_budget_needs_no_costs_yet(tmp_path):
    assert replay(record(tmp_path, FRUGAL, epochs=4)).agrees


def test_costs_that_a_budget_needs_and_that_are_missing_are_an_error_naming_the_file(tmp_path):
    run = record_budgeted(tmp_path)
    run.budget_file.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{run.budget_file} does not exist: restore"):
        replay(run)


def test_damaged_costs_are_an_error_naming_the_file_and_what_is_wrong(tmp_path):
    run = record_budgeted(tmp_path)
    write_json(run.budget_file, {**read_json(run.budget_file), "fixed": 7})
    with pytest.raises(ValueError, match=rf"{run.budget_file} must hold .*; got 7; restore it"):
        replay(run)


def test_a_run_without_a_search_is_reported_as_one(tmp_path, random_genotype):
    run = RunFolder.of_fold(tmp_path)
    run.write_settings(LITERAL.replace(genotype="cell.json"))
    run.write_trajectory(())
    run.write_events(())
    run.write_genotype(random_genotype(0))
    replayed = replay(run)
    assert replayed.agrees
    assert str(replayed).splitlines() == [
        "there was no search to replay: the trajectory has no epochs",
        "agrees",
    ]


def test_a_found_cell_without_a_trajectory_disagrees(tmp_path, random_genotype):
    run = RunFolder.of_fold(tmp_path)
    run.write_settings(LITERAL)
    run.write_trajectory(())
    run.write_events(())
    run.write_genotype(random_genotype(0))
    assert "the recomputed search has not ended" in str(replay(run))
    assert not replay(run).agrees


def test_an_events_operation_that_was_changed_is_named(tmp_path):
    run = record(tmp_path)
    other = next(o for o in OPERATIONS if o != run.read_events()[20].operation)
    event = tamper_line(run, 20, operation=other)
    source, target = event["edge"]
    assert re.match(
        rf"epoch 4, edge {source}->{target}: events.jsonl prunes {other} .*, "
        rf"recomputed {event['operation']} ",
        only(run),
    )


@pytest.mark.parametrize("name", ["importance", "divergence", "threshold"])
def test_an_events_last_bit_that_was_changed_is_named(tmp_path, name):
    run = record(tmp_path)
    value = getattr(run.read_events()[0], name)
    tamper_line(run, 0, **{name: float(np.nextafter(value, 2.0))})
    assert only(run).startswith("epoch 3, edge 0->2: events.jsonl prunes")


def test_an_event_that_is_missing_or_too_many_is_named(tmp_path):
    run = record(tmp_path)
    events = run.read_events()
    run.write_events(events[:-1])
    assert only(run).startswith("epoch 8, edge 4->5: events.jsonl prunes nothing, recomputed ")
    run.write_events((*events, dataclasses.replace(events[0], epoch=1)))
    assert re.match("epoch 1, edge 0->2: events.jsonl prunes .*, recomputed nothing", only(run))


def test_a_genotypes_operation_that_was_changed_is_named(tmp_path):
    run = record(tmp_path)
    document = read_json(run.genotype_file)
    entry = document["edges"][5]
    was = entry["operation"]
    entry["operation"] = OPERATIONS[OPERATIONS.index(was) - 1]
    write_json(run.genotype_file, document)
    assert only(run) == (
        f"epoch 8, edge {entry['source']}->{entry['target']}: genotype.json has "
        f"{entry['operation']}, recomputed {was}"
    )


def test_a_genotypes_edge_that_was_changed_is_named_on_both_edges(tmp_path):
    run = record(tmp_path)
    document = read_json(run.genotype_file)
    into_three = [entry for entry in document["edges"] if entry["target"] == 3]
    (free,) = {0, 1, 2} - {entry["source"] for entry in into_three}
    dropped, into_three[0]["source"] = into_three[0]["source"], free
    write_json(run.genotype_file, document)
    texts = replay(run).disagreements
    assert len(texts) == 2
    assert any(f"edge {dropped}->3: genotype.json has no operation" in text for text in texts)
    assert any(f"edge {free}->3" in t and t.endswith("recomputed no operation") for t in texts)


def test_a_genotype_of_a_search_under_way_is_a_disagreement(tmp_path, random_genotype):
    run = record(tmp_path, epochs=5)
    run.write_genotype(random_genotype(0))
    assert only(run).startswith("epoch 5: there is a genotype.json")


def test_a_search_that_has_ended_without_a_genotype_is_a_disagreement(tmp_path):
    run = record(tmp_path)
    run.genotype_file.unlink()
    assert only(run).endswith("the recomputed search has ended, but there is no genotype.json")


def test_an_alpha_that_was_changed_is_named_in_its_epoch_and_on_its_edge(tmp_path):
    run = record(tmp_path)
    trajectory = run.read_trajectory()
    index = (4, 7, int(trajectory.active[4, 7].argmax()))
    tamper(run, "alpha", index, trajectory.alpha[index] + 1e-3)
    texts = replay(run).disagreements
    assert texts[0].startswith("epoch 5, edge 2->4: importance of ")
    assert all("edge 2->4" in text for text in texts)
    assert any("epoch 5, edge 2->4: divergence is" in text for text in texts)


@pytest.mark.parametrize("row", [0, 1, 2, 7])
def test_a_bit_of_the_mask_that_was_changed_is_named(tmp_path, row):
    run = record(tmp_path)
    was = bool(run.read_trajectory().active[row, 3, 2])
    tamper(run, "active", (row, 3, 2), not was)
    assert only(run) == (
        f"epoch {row + 1}, edge 1->3: active of avg_pool_3x3 is {not was} in trajectory.npz, "
        f"recomputed {was}"
    )


@pytest.mark.parametrize("name", ["importance", "divergence", "threshold"])
def test_the_last_bit_of_a_column_that_was_changed_is_named(tmp_path, name):
    run = record(tmp_path)
    index = (3, 5, 6) if name == "importance" else (3, 5)
    tamper(run, name, index, np.nextafter(getattr(run.read_trajectory(), name)[index], 2.0))
    assert only(run).startswith(f"epoch 4, edge 0->4: {name}")


def test_every_nan_equals_every_other(tmp_path):
    run = record(tmp_path)
    tamper(run, "divergence", (0, 0), -np.nan)
    assert replay(run).agrees


def test_a_threshold_in_the_warm_up_is_no_sign_of_a_pruning_search(tmp_path):
    run = record(tmp_path, prunes=False)
    tamper(run, "threshold", (1, 0), 1.0)
    assert only(run) == "epoch 2, edge 0->2: threshold is 1.0 in trajectory.npz, recomputed nan"


def test_a_threshold_that_was_changed_in_the_settings_is_named(tmp_path):
    run = record(tmp_path)
    write_json(run.settings_file, {**read_json(run.settings_file), "stability_threshold": 0.9})
    replayed = replay(run)
    assert replayed.disagreements[0] == (
        "epoch 3, edge 0->2: threshold is 1.0 in trajectory.npz, recomputed 0.9"
    )
    assert len(replayed.disagreements) == 6 * 14 * 2  # in the trajectory and in the events
    lines = str(replayed).splitlines()
    assert lines[-1] == f"and {6 * 14 * 2 - SHOWN} more disagreements"
    assert len(lines) == 1 + SHOWN + 1


def test_epochs_after_the_searchs_end_are_a_disagreement(tmp_path):
    run = record(tmp_path)
    trajectory = run.read_trajectory()
    arrays = {f.name: getattr(trajectory, f.name) for f in dataclasses.fields(trajectory)}
    longer = {name: np.concatenate([array, array[-1:]]) for name, array in arrays.items()}
    longer["epoch"][-1] += 1
    np.savez(run.trajectory_file, **longer)
    assert only(run) == (
        "trajectory.npz has epochs up to 9, but the recomputed search ends after epoch 8"
    )


@pytest.mark.parametrize(
    ("row", "epoch", "message"),
    [(0, 0, "has 0 in the place of 1"), (4, 6, "has 6 in the place of 5")],
)
def test_a_gap_in_the_epochs_is_an_error_naming_it(tmp_path, row, epoch, message):
    run = record(tmp_path)
    tamper(run, "epoch", row, epoch)
    with pytest.raises(ValueError, match=rf"trajectory\.npz must be 1, 2, 3 .*{message}"):
        replay(run)


@pytest.mark.parametrize("name", ["settings_file", "trajectory_file", "events_file"])
def test_a_missing_file_is_an_error_naming_it(tmp_path, name):
    run = record(tmp_path)
    path = getattr(run, name)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{path} does not exist: name the fold"):
        replay(run)


def test_a_damaged_trajectory_is_an_error_naming_it(tmp_path):
    run = record(tmp_path)
    run.trajectory_file.write_bytes(run.trajectory_file.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"trajectory\.npz must hold a trajectory"):
        replay(run)
