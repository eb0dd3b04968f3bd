"""Controls and other skip modules as retrofits: what is implanted, recorded, resumed, predicted."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interruption import run_until
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

from nnunet_iac.nn.skip_unet import NestedUNet, SkipModuleUNet
from nnunet_iac.runs.atomic import write_json
from nnunet_iac.runs.checkpoint import tensors_hash
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.controls import identity_genotype

DISCRETE = "nnUNetTrainerIACDiscrete"
SHORT = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": 2}

Make = Callable[..., Any]

WAYS: dict[str, dict[str, Any]] = {
    "random cell": {"genotype": "random:5"},
    "identity cell": {"genotype": "identity"},
    "convolution": {"genotype": "conv"},
    "attention gates": {"skip": "attention"},
    "nested skips": {"skip": "nested"},
    "residual attention": {"skip": "residual-attention"},
}
each_way = pytest.mark.parametrize("method", WAYS)


def finished(make_trainer: Make, in_process: Any, **settings: Any) -> Any:
    trainer = make_trainer(DISCRETE, in_process.write_plans("control", **SHORT, **settings))
    trainer.run_training()
    return trainer


def with_cell_file(folder: Path, method: str) -> dict[str, Any]:
    """Return the settings of a control; a convolution is of a file that has no average cell."""
    if method != "convolution":
        return WAYS[method]
    write_json(folder / "cell.json", identity_genotype().to_document())
    return {"genotype": f"conv:{folder / 'cell.json'}"}


@each_way
def test_a_control_is_recorded_as_such_its_backbone_stays_and_stock_nnunet_predicts_with_it(
    make_trainer: Make, in_process: Any, method: str
) -> None:
    trainer = finished(make_trainer, in_process, **with_cell_file(in_process.path, method))
    record = RunFolder.of_fold(trainer.output_folder)
    cost = record.read_cost()
    assert cost.run["method"] == method
    assert {name: phase.epochs for name, phase in cost.phases.items()} == {"finetune": 2}
    assert set(cost.networks) == {"backbone", "final"}
    assert cost.networks["final"].parameters > cost.networks["backbone"].parameters
    assert record.read_backbone().unchanged
    ticket = record.read_ticket()
    learned = dict(trainer.unet.named_parameters())
    assert set(ticket) >= {name for name in learned if name.startswith("implants.")}
    changed = [name for name, start in ticket.items() if name in learned]
    assert any(not torch.equal(ticket[name], learned[name]) for name in changed)
    assert record.genotype_file.exists() == method.endswith("cell")
    assert "collapsed" not in Path(trainer.log_file).read_text()
    (in_process.path / "cell.json").unlink(missing_ok=True)  # Not needed to predict.
    predictor = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(
        str(Path(trainer.output_folder).parent), (0,), "checkpoint_final.pth"
    )
    image = torch.randn(1, 3, 50, 36)
    logits = predictor.predict_logits_from_preprocessed_data(image)
    assert logits.shape == (3, 3, 50, 36)
    assert np.isfinite(logits.float().numpy()).all()


@pytest.mark.parametrize("residual", ["none", "zero"])
def test_a_convolution_has_the_parameters_of_the_cell_it_is_compared_with(
    make_trainer: Make, in_process: Any, residual: str
) -> None:
    of_cell = finished(make_trainer, in_process, genotype="random:5", residual=residual)
    cells = sum(p.numel() for p in of_cell.unet.implants.parameters())
    source = Path(of_cell.output_folder).rename(in_process.path / "fold_{fold}")
    shutil.rmtree(source / "iac" / "reference", ignore_errors=True)
    source.rename(in_process.path / "fold_0")
    trainer = make_trainer(
        DISCRETE,
        in_process.write_plans(
            "same", **SHORT, residual=residual, genotype=f"conv:{in_process.path}/fold_{{fold}}"
        ),
    )
    trainer.run_training()
    own = sum(p.numel() for p in trainer.unet.implants.parameters())
    assert own == pytest.approx(cells, rel=0.01)
    average = make_trainer(DISCRETE, in_process.write_plans("average", genotype="conv"))
    average.initialize()
    assert own != sum(p.numel() for p in average.unet.implants.parameters())


@each_way
def test_a_zero_gate_makes_every_module_begin_as_the_reference(
    make_trainer: Make, in_process: Any, method: str
) -> None:
    trainer = make_trainer(
        DISCRETE, in_process.write_plans("control", residual="zero", **WAYS[method])
    )
    trainer.on_train_start()
    stock = trainer.stock_network()
    stock.load_state_dict(trainer.unet.backbone_state())
    image = torch.randn(2, 1, 56, 40)
    with torch.no_grad():
        for own, reference in zip(trainer.unet.eval()(image), stock.eval()(image), strict=True):
            assert torch.equal(own, reference)


@pytest.mark.parametrize("method", ["random cell", "convolution", "nested skips"])
def test_a_control_that_was_broken_off_ends_as_an_unbroken_one(
    make_trainer: Make, in_process: Any, method: str
) -> None:
    whole = finished(make_trainer, in_process, **with_cell_file(in_process.path, method))
    expected = tensors_hash(whole.unet.state_dict())
    shutil.rmtree(whole.output_folder)
    broken = make_trainer(DISCRETE, "control")
    run_until(broken, 1)
    resumed = make_trainer(DISCRETE, "control", resume=True)
    resumed.run_training()
    assert tensors_hash(resumed.unet.state_dict()) == expected


def test_nested_skips_take_the_norm_and_the_recomputation_of_the_settings(
    make_trainer: Make, in_process: Any
) -> None:
    images, losses = torch.randn(2, 1, 56, 40), []
    for recompute in (False, True):
        plans = in_process.write_plans(
            "nested", skip="nested", norm="batch", activation_checkpointing=recompute
        )
        trainer = make_trainer(DISCRETE, plans)
        trainer.on_train_start()
        kinds = {type(module).__name__ for module in trainer.unet.implants.modules()}
        assert "BatchNorm2d" in kinds
        assert "InstanceNorm2d" not in kinds
        loss = trainer.unet.train()(images)[0].square().mean()
        loss.backward()
        gradients = [p.grad.norm() for p in trainer.unet.weights() if p.grad is not None]
        losses.append((loss.detach(), torch.stack(gradients)))
    assert torch.equal(losses[0][0], losses[1][0])
    torch.testing.assert_close(losses[0][1], losses[1][1])


def test_the_classes_of_the_modules_follow_from_the_settings(
    make_trainer: Make, in_process: Any
) -> None:
    for method, kind in (("attention gates", SkipModuleUNet), ("nested skips", NestedUNet)):
        trainer = make_trainer(DISCRETE, in_process.write_plans("control", **WAYS[method]))
        trainer.initialize()
        assert type(trainer.unet) is kind


def test_the_folds_of_a_model_share_what_is_implanted(make_trainer: Make, in_process: Any) -> None:
    finished(make_trainer, in_process, genotype="conv")
    other = make_trainer(
        DISCRETE, in_process.write_plans("control", **SHORT, genotype="random:1"), fold=1
    )
    other.initialize()
    with pytest.raises(ValueError, match="implant is 'cell' here and 'convolution' in fold_0"):
        other.start_run()
