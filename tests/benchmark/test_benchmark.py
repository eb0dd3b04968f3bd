"""The benchmark runs through its command; nothing here asserts a time."""

import json
import os
import signal

import pytest
import torch

from nnunet_iac.benchmark import search, step
from nnunet_iac.benchmark.hours import NO_VALIDATION, run_hours
from nnunet_iac.benchmark.inference import random_genotype
from nnunet_iac.benchmark.step import estimate, random_mask, training_step
from nnunet_iac.benchmark.timing import interleaved, peak_mb, present_mb
from nnunet_iac.cli import main
from nnunet_iac.host.workload import Workload
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.settings import PRESETS, Settings

SMALL = ("--batch-size", "2", "--patch-size", "16", "8", "--features", "8", "8", "8")


@pytest.fixture
def run(tmp_path, capsys):
    """Run the command and return its JSON and what it printed."""

    def call(*words):
        path = tmp_path / "result.json"
        assert main(["benchmark", *words, "--json", str(path)]) == 0
        return json.loads(path.read_text()), capsys.readouterr().out

    return call


def test_step_reports_seconds_memory_and_ratios(run):
    words = ("--repeats", "1", "--set", "min_channels=8", "patient_pattern=(.*)")
    result, printed = run("step", *SMALL, *words)
    for name in ("plain", "naive", "fused", "finetune"):
        for key in (f"{name}_step_s", f"peak_mb_{name}"):
            assert result[key] > 0
            assert key in printed
    for name in ("fused", "finetune"):
        assert result[f"{name}_over_plain"] == result[f"{name}_step_s"] / result["plain_step_s"]
        most, plain = result[f"peak_mb_{name}"], result["peak_mb_plain"]
        assert result[f"peak_mb_{name}_over_plain"] == most / plain
        assert result["estimate"]["memory_mb"] >= most
    assert result["naive_over_fused"] == result["naive_step_s"] / result["fused_step_s"]
    workload = result["workload"]
    assert (workload["network"], workload["features"]) == ("PlainConvUNet", [8, 8, 8])
    assert workload["settings"] == {"min_channels": 8}
    assert result["hardware"]["cores"] >= 1


def test_a_step_edge_by_edge_that_does_not_fit_is_left_out(monkeypatch):
    def peak(make, *arguments, device):
        if make is step.naive_step:
            raise torch.OutOfMemoryError
        return 1.0

    monkeypatch.setattr(step, "peak_mb", peak)
    result = step.step_benchmark(Workload(2, (16, 8), (8, 8, 8)), 1)
    assert result["peak_mb_fused_over_plain"] == 1
    assert not [key for key in result if "naive" in key]


def test_a_process_that_the_system_ends_is_out_of_memory():
    with pytest.raises(torch.OutOfMemoryError, match="the process that ran it was killed"):
        peak_mb(killed_step, device="cpu")


def killed_step():
    """Be killed as a process that takes too much memory."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_search_runs_every_epoch_of_all_five(run, monkeypatch):
    def once(*arguments):
        steps = iter([training_step(*arguments)])
        return lambda: next(steps, int)()  # The first time a step, then nothing.

    monkeypatch.setattr(search, "training_step", once)
    settings = ("--set", "warmup_epochs=1", "search_epochs=38", "--batches", "2")
    result, _ = run("search", *SMALL, *settings)
    epochs = {name: search["epochs"] for name, search in result["searches"].items()}
    assert epochs.pop("adaptive") in range(7, 39)
    assert epochs == {"iac": 38, "lth": 37, "literal": 7, "swift": 7}
    lth = result["searches"]["lth"]
    assert len(lth["epoch_s"]) == 37
    assert lth["training_s"] == pytest.approx(lth["warmup_s"] + lth["search_s"])
    assert result["speedup"] == result["iac_search_s"] / result["lth_search_s"]


def test_plans_that_adapt_are_timed_with_their_own_lengths(run):
    words = ("--repeats", "1", "--cells", "2", "--set", "preset=adapt")
    result, _ = run("run", *SMALL, *words)
    assert result["hours"].keys() == {"iac", "adapt", "discrete", "continued"}
    assert result["search_speedup"].keys() == {"adapt"}


def test_a_run_is_made_of_its_steps_and_compared_from_end_to_end(run):
    words = ("--repeats", "1", "--cells", "2", "--set", "finetune_epochs=100")
    result, printed = run("run", *SMALL, *words)
    assert result["finetune_over_plain_worst"] >= result["finetune_over_plain"] > 0
    assert result["inference_over_backbone_worst"] >= result["inference_over_backbone"] > 0
    hours = result["hours"]
    searches = {"iac", "literal", "paper", "adaptive", "swift"}
    assert hours.keys() == {*searches, "discrete", "continued"}
    for part in hours.values():
        assert part["whole"] == pytest.approx(
            part["search"] + part["finetune"] + part["validation"]
        )
    assert hours["continued"]["search"] == hours["discrete"]["search"] == 0
    seconds = result["plain_s"] * 100 * 250
    assert hours["continued"]["finetune"] == pytest.approx(seconds / 3600)
    assert result["search_speedup"]["swift"] > result["end_to_end_speedup"]["swift"]
    assert result["loading_s"] is None
    assert "end_to_end_speedup.literal" in printed


@pytest.mark.parametrize(
    ("run", "search", "epochs"),
    [
        ("iac", 200 * 7, 200),
        ("literal", 15 * 7 + 27, 21),
        ("paper", 15 * 7 + 6 * 27, 51),
        ("swift", 3 * 7 + 27, 9),
        ("adaptive", 200 * 7, 200),
        ("discrete", 0, 0),
        ("continued", 0, 0),
    ],
)
def test_the_hours_of_a_run_add_up_its_epochs(run, search, epochs):
    settings = Settings(iterations_per_epoch=3600, val_iterations_per_epoch=1800)
    steps = {"plain": 3.0, "search_first": 7.0, "search_last": 1.0, "finetune": 2.0}
    passes = {f"{name}_validation": 1.0 for name in ("plain", "search", "finetune")}
    hours = run_hours(settings, run, {**steps, **passes})
    finetune = 200 * (3 if run == "continued" else 2)
    assert hours["search"] == pytest.approx(search)
    assert hours["finetune"] == finetune
    assert hours["validation"] == pytest.approx((epochs + 200) / 2)
    assert hours["whole"] == pytest.approx(search + finetune + (epochs + 200) / 2)


@pytest.mark.parametrize("run", ["discrete", "continued"])
def test_what_does_not_search_is_adapted_for_as_long_as_a_search_and_its_finetuning(run):
    settings = Settings(preset="adapt")
    steps = {"plain": 3.0, "search_first": 7.0, "search_last": 1.0, "finetune": 3.0}
    hours = run_hours(settings, run, {**steps, **NO_VALIDATION})
    epochs = settings.latest_end + settings.schedule.finetune_epochs
    assert hours["whole"] == epochs * settings.schedule.iterations_per_epoch * 3 / 3600


def test_inference_compares_random_cells_and_a_given_one(run, tmp_path):
    RunFolder(tmp_path).write_genotype(random_genotype(5))
    result, _ = run(
        "inference", *SMALL, "--cells", "3", "--repeats", "1", "--genotype", str(tmp_path)
    )
    assert result["inference_over_backbone_worst"] >= result["inference_over_backbone"] > 0
    assert result["parameter_ratio"] > 1
    assert result["mac_ratio"] > 1
    for row in (result["given"], result["worst"]):
        assert row["parameter_ratio"] == row["cell_parameters"] / row["backbone_parameters"] > 1
        assert row["mac_ratio"] == row["cell_macs"] / row["backbone_macs"] > 1
        assert row["ratio"] == row["cell_s"] / row["backbone_s"]
    assert result["worst"]["ratio"] == result["inference_over_backbone_worst"]


def test_plans_without_a_data_set_are_refused(capsys):
    assert main(["benchmark", "step", "-p", "nnUNetResEncUNetMPlans"]) == 2
    assert "name the data set with -d" in capsys.readouterr().err


@pytest.mark.parametrize("part", ["network", "decoder", "norms"])
def test_a_part_that_only_a_control_trains_is_refused(part):
    workload = Workload(2, (16, 8), (8, 8, 8), settings=Settings(trainable_part=part))
    with pytest.raises(ValueError, match=f"one of cells, .*; got {part}"):
        workload.retrofit()


def test_the_estimate_is_that_of_both_searches_with_the_settings_preset():
    seconds = {"plain": 3.0, "fused": 7.0, "fused_1": 1.0, "finetune": 2.0}
    hours = estimate(Settings(preset="paper", patience=2, iterations_per_epoch=3600), seconds)
    assert hours["iac_search_h"] == 200 * 7
    assert hours["lth_search_h"] == pytest.approx(15 * 7 + 2 * 27)
    assert hours["finetune_h"] == 200 * 2


@pytest.mark.parametrize("preset", [name for name in PRESETS if PRESETS[name]])
@pytest.mark.parametrize("kind", ["step", "search", "inference", "run"])
def test_a_preset_brings_its_values_along(kind, preset, monkeypatch):
    """Only what the user typed goes before them, not the defaults of all other settings."""
    timed = {}
    monkeypatch.setattr(
        "nnunet_iac.benchmark.report.benchmark",
        lambda kind, workload, *amounts: timed.update({kind: workload.settings}) or {},
    )
    assert main(["benchmark", kind, "-device", "cpu", "--set", f"preset={preset}", "seed=7"]) == 0
    assert timed[kind].to_mapping() == Settings(preset=preset, seed=7).to_mapping()
    changed = timed[kind].replace(preset="literal")  # What hours and searches of others are from.
    assert changed.to_mapping() == Settings(seed=7).to_mapping()


@pytest.mark.parametrize("part", ["cells", "cells+norms", "cells+decoder", "all"])
def test_a_finetuning_step_changes_what_the_settings_train(part):
    workload = Workload(2, (16, 8), (8, 8, 8), settings=Settings(trainable_part=part))
    network = workload.supernet()
    network.discretise(random_genotype(0))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    step.retrofit_step(workload, network)()
    after = network.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    further = {"cells+norms": {"tuned_norms"}, "cells+decoder": {"decoder"}}
    further["all"] = {"encoder", "decoder"}
    assert changed == {"implants"} | further.get(part, set())


@pytest.mark.parametrize("dimension", [2, 3])
def test_labels_are_as_large_as_the_outputs(dimension):
    workload = Workload(1, (16, 8, 8)[:dimension], (4, 4, 4, 8))
    images, targets = workload.batch()
    outputs = workload.unet()(images)
    assert [t.shape[2:] for t in targets] == [output.shape[2:] for output in outputs]


def test_a_random_mask_has_as_many_operations_on_every_edge():
    assert random_mask(4).sum(1).tolist() == [4] * 14
    assert torch.equal(random_mask(4), random_mask(4))


def test_steps_are_timed_in_turn():
    calls = []
    steps = {name: lambda name=name: calls.append(name) for name in "ab"}
    assert interleaved(steps, 3, "cpu").keys() == {"a", "b"}
    assert "".join(calls) == "aabb" + "ab" * 3


def test_the_memory_of_an_apple_gpu_is_what_its_driver_holds(monkeypatch):
    held = [2**20]
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: held[0])
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 2**30)

    def make(more):
        return lambda: held.__setitem__(0, more)

    assert peak_mb(make, 5 * 2**20, device="mps") == 4
    assert present_mb("mps") == 1024


def test_a_finetuning_step_keeps_no_graph_below_the_lowest_cell():
    network = Workload(2, (16, 16), (8, 8, 8)).retrofit()
    network.discretise(random_genotype(0))
    network.unfreeze()
    learns = []
    for module in (network.encoder, network.decoder.transpconvs[0], network.decoder.stages[0]):
        module.register_forward_hook(lambda *given: learns.append(given[-1]))
    network.train()(torch.randn(2, 1, 16, 16))
    *below, first_stage = learns
    below = [x for found in below for x in (found if isinstance(found, list) else [found])]
    assert first_stage.requires_grad
    assert not any(x.requires_grad for x in below)
