"""The way from warm-up to finetuning, driven epoch by epoch without nnU-Net."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.nn.ticket import draw_ticket
from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.cost import Cost
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.settings import Settings
from nnunet_iac.training.controller import Change, Phase, SearchController
from nnunet_iac.training.method import IAC, IAC_DISCRETE, IAC_LTH, Method
from nnunet_iac.training.recorder import Recorder

LITERAL: dict[str, Any] = {"preset": "literal", "warmup_epochs": 2, "finetune_epochs": 3}
TinyUNet = Callable[..., nn.Module]


def _start(
    folder: Path, unet: nn.Module, method: Method, genotype: Genotype | None = None, **settings: Any
) -> tuple[SearchController, IACUNet, list[str]]:
    log: list[str] = []
    chosen = Settings(**{**LITERAL, **settings})
    network = retrofit(unet, **chosen.cell.network_arguments())
    controller = SearchController(chosen, method, Recorder(chosen, RunFolder(folder), log.append))
    before = tensors_hash(network.backbone_state())
    record = BackboneRecord("checkpoint_final.pth", "nnUNetTrainer", 0, before)
    controller.start(network, record, {"fold": 0}, genotype)
    return controller, network, log


def _search(controller: SearchController, network: IACUNet, first: int = 1, seed: int = 0) -> int:
    """Walk alpha and beta at random until the finetuning begins; return the epochs it took."""
    epoch = first - 1
    while controller.phase is not Phase.FINETUNE:
        epoch += 1
        if controller.phase is Phase.SEARCH:
            generator = torch.Generator().manual_seed(seed + epoch)
            with torch.no_grad():
                network.alpha += torch.randn(network.alpha.shape, generator=generator)
                network.beta += torch.randn(network.beta.shape, generator=generator)
        controller.end_epoch(network, epoch, seconds=1.0, loss=0.5)
    return epoch


def test_a_literal_search_prunes_one_operation_per_edge_and_epoch_and_leaves_its_record(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    controller, network, log = _start(tmp_path / "iac", tiny_unet(2), IAC_LTH)
    assert _search(controller, network) == 2 + 6
    assert controller.num_epochs == 2 + 6 + 3
    folder = controller.recorder.folder
    trajectory, events = folder.read_trajectory(), folder.read_events()
    assert trajectory.epoch.tolist() == list(range(1, 9))
    assert trajectory.seconds.tolist() == [1.0] * 8
    assert trajectory.active.sum(axis=(1, 2)).tolist() == [98, 98, 98, 84, 70, 56, 42, 28]
    assert np.isnan(trajectory.divergence[:2]).all()
    assert np.isfinite(trajectory.divergence[2:]).all()
    assert len(events) == 14 * 6
    assert {event.epoch for event in events} == set(range(3, 9))
    assert folder.read_genotype() == network.genotype
    assert str(network.genotype) in "\n".join(log)
    assert folder.read_settings() == controller.settings
    assert folder.cell_svg_file.stat().st_size > 0
    assert folder.cell_png_file.stat().st_size > 0
    cost = folder.read_cost()
    assert {name: phase.epochs for name, phase in cost.phases.items()} == {"warmup": 2, "search": 6}


def test_finetuning_starts_from_the_ticket_file(tmp_path: Path, tiny_unet: TinyUNet) -> None:
    controller, network, _ = _start(tmp_path / "iac", tiny_unet(2), IAC_LTH)
    with torch.no_grad():
        for weight in network.weights():
            weight.add_(1.0)
    _search(controller, network)
    ticket = controller.recorder.folder.read_ticket()
    for name, weight in network.implants.named_parameters():
        assert torch.equal(weight, ticket[f"implants.{name}"]), name


def test_the_full_search_never_prunes_ends_at_its_limit_and_finetunes_fresh_weights(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    controller, network, _ = _start(tmp_path / "iac", tiny_unet(2), IAC, search_epochs=10)
    assert _search(controller, network) == 10
    assert controller.recorder.folder.read_events() == ()
    assert controller.recorder.folder.read_trajectory().active.all()
    ticket = controller.recorder.folder.read_ticket()
    name, weight = max(network.implants.named_parameters(), key=lambda item: item[1].numel())
    assert not torch.equal(weight, ticket[f"implants.{name}"])


def test_a_search_at_its_limit_is_forced_to_the_best_operations_and_reports_it(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    impatient = {"preset": "adaptive", "stability_threshold": 1e-12, "search_epochs": 9}
    controller, network, log = _start(tmp_path / "iac", tiny_unet(2), IAC_LTH, **impatient)
    assert _search(controller, network) == 9
    events = controller.recorder.folder.read_events()
    assert {event.rule for event in events} == {"forced"}
    assert {event.epoch for event in events} == {9}
    assert len(events) == 14 * 6
    assert any("limit of 9 epochs" in line for line in log)


def test_a_given_genotype_is_finetuned_without_a_search(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    codes = [0, 1, 2, 3, -1, 4, 5, -1, -1, 6, 0, -1, -1, -1]
    genotype = Genotype.from_codes(codes)
    controller, network, _ = _start(tmp_path / "iac", tiny_unet(2), IAC_DISCRETE, genotype)
    assert controller.phase is Phase.FINETUNE
    assert controller.num_epochs == LITERAL["finetune_epochs"]
    assert network.genotype == genotype
    assert controller.end_epoch(network, 1, seconds=1.0, loss=0.5) == Change()
    assert len(controller.recorder.folder.read_trajectory().epoch) == 0


def test_the_backbone_is_frozen_in_the_search_and_learns_in_the_finetuning(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    controller, network, _ = _start(tmp_path / "iac", tiny_unet(2), IAC_LTH, trainable_part="all")
    backbone, known = network.backbone_weights(), []
    for learns in (False, True):
        optimizer, _ = controller.optimisers(network)
        known.append({p for group in optimizer.param_groups for p in group["params"]})
        assert [p.requires_grad for p in backbone] == [learns] * len(backbone)
        if not learns:
            _search(controller, network)
    assert not known[0] & set(backbone)
    assert known[1] >= set(backbone)
    assert controller.recorder.folder.read_backbone().trained == "all"


@pytest.mark.parametrize("interrupted_after", [1, 2, 3, 5, 7])
def test_a_search_restored_from_its_state_ends_as_the_unbroken_one(
    tmp_path: Path, tiny_unet: TinyUNet, interrupted_after: int
) -> None:
    controller, network, _ = _start(tmp_path / "whole", tiny_unet(2), IAC_LTH)
    _search(controller, network)
    first, before, _ = _start(tmp_path / "broken", tiny_unet(2), IAC_LTH)
    for epoch in range(1, interrupted_after + 1):
        if first.phase is Phase.SEARCH:
            generator = torch.Generator().manual_seed(epoch)
            with torch.no_grad():
                before.alpha += torch.randn(before.alpha.shape, generator=generator)
                before.beta += torch.randn(before.beta.shape, generator=generator)
        first.end_epoch(before, epoch, seconds=1.0, loss=0.5)
    recorder = Recorder(first.settings, first.recorder.folder, lambda line: None)
    second = SearchController(first.settings, IAC_LTH, recorder)
    after = retrofit(tiny_unet(2), **first.settings.cell.network_arguments())
    after.load_state_dict(before.state_dict())
    first.optimisers(before)
    second.load_state_dict(first.state_dict(), after)
    _search(second, after, first=interrupted_after + 1)
    assert after.genotype == network.genotype
    assert second.recorder.folder.read_events() == controller.recorder.folder.read_events()
    for whole, broken in zip(controller.recorder.rows, second.recorder.rows, strict=True):
        assert np.array_equal(whole.alpha, broken.alpha)


def test_a_non_finite_alpha_stops_the_run_and_its_edge_is_named(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    controller, network, _ = _start(tmp_path / "iac", tiny_unet(2), IAC_LTH)
    with torch.no_grad():
        network.alpha[3, 2] = torch.nan
    with pytest.raises(RuntimeError, match="after epoch 1 it is nan on edge 1->3"):
        controller.end_epoch(network, 1, seconds=1.0, loss=0.5)


def test_a_changed_backbone_is_an_error_and_is_recorded(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    controller, network, _ = _start(tmp_path / "iac", tiny_unet(2), IAC_LTH)
    with torch.no_grad():
        next(network.encoder.parameters()).add_(1)
    after = tensors_hash(network.backbone_state())
    with pytest.raises(RuntimeError, match=f"its hash was .* and is {after}"):
        controller.end_run(network, Cost(1, 1))
    assert json.loads(controller.recorder.folder.backbone_file.read_text())["after"] == after
    assert not controller.recorder.folder.read_backbone().unchanged


@pytest.mark.parametrize("method", [IAC_LTH, IAC_DISCRETE], ids=lambda method: method.name)
def test_a_collapse_is_reported_of_searches_only(
    tmp_path: Path, tiny_unet: TinyUNet, method: Method
) -> None:
    codes = [0, 0, 1, 1, -1, 2, 2, -1, -1, 3, 0, -1, -1, -1]
    controller, _, log = _start(tmp_path / "iac", tiny_unet(2), method)
    controller._announce(Genotype.from_codes(codes))
    reported = any("88% of the cell's operations have no parameters" in line for line in log)
    assert reported == method.searches


def test_an_older_checkpoint_of_the_run_does_not_undo_the_backbones_proof_and_score(
    tmp_path: Path, tiny_unet: TinyUNet
) -> None:
    controller, network, _ = _start(tmp_path / "iac", tiny_unet(2), IAC_LTH)
    best = controller.state_dict()
    controller.end_run(network, Cost(1, 1))
    controller.recorder.add_backbone_facts(reference={"mean": 0.8, "per_case": {}})
    controller.load_state_dict(best, network)
    controller.recorder.write()
    record = controller.recorder.folder.read_backbone()
    assert record.unchanged
    assert record.reference == {"mean": 0.8, "per_case": {}}


def test_the_ticket_depends_on_the_seed_alone(tmp_path: Path, tiny_unet: TinyUNet) -> None:
    controller, network, _ = _start(tmp_path / "iac", tiny_unet(2), IAC_LTH, seed=5)
    for name, tensor in draw_ticket(network, seed=5).items():
        assert torch.equal(tensor, controller.recorder.folder.read_ticket()[name])
