"""The trainers in nnU-Net's hooks, made by its own look-up on real data."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from interruption import run_until

from nnunet_iac.host.trainer_lookup import exported_trainers, trainers_dir
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.checkpoint import MIRRORING
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.search.controls import random_genotype
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES
from nnunet_iac.training import trainers
from nnunet_iac.training.batches import finish
from nnunet_iac.training.controller import Phase
from nnunet_iac.training.retrofit_trainer import RetrofitTrainer
from nnunet_iac.training.setting_checks import require_usable
from nnunet_iac.training.shared_validation import prediction_circumstances

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
FULL = "nnUNetTrainerIAC_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete_2finetune"

Make = Callable[..., Any]


def _optimised(trainer: Any) -> list[torch.nn.Parameter]:
    optimizers = [trainer.optimizer, trainer.controller.architecture_optimizer]
    groups = [o.param_groups for o in optimizers if o is not None]
    return [parameter for group in groups for part in group for parameter in part["params"]]


@pytest.mark.parametrize(
    ("name", "epochs", "phase"),
    [
        (LTH, 1, Phase.SEARCH),
        (LTH, 3, Phase.SEARCH),
        (LTH, 7, Phase.FINETUNE),
        (LTH, 8, Phase.FINETUNE),
        (FULL, 3, Phase.SEARCH),
        (FULL, 8, Phase.FINETUNE),
    ],
)
def test_after_resuming_the_optimisers_hold_exactly_the_trainable_parameters_and_all_move(
    make_trainer: Make, in_process: Any, name: str, epochs: int, phase: Phase
) -> None:
    # Behind a gate that is almost closed, a step may be too small for a float.
    plans = in_process.write_plans("open", residual="none")
    run_until(make_trainer(name, plans), epochs)
    resumed = make_trainer(name, plans, resume=True)
    assert resumed.controller.phase is phase
    assert resumed.current_epoch == epochs
    trainable = [p for p in resumed.network.parameters() if p.requires_grad]
    assert {id(p) for p in _optimised(resumed)} == {id(p) for p in trainable}
    before = [p.detach().clone() for p in trainable]
    resumed.on_train_start()
    resumed.on_epoch_start()
    resumed.on_train_epoch_start()
    for _ in range(3):
        resumed.train_step(next(resumed.dataloader_train))
    moved = [not torch.equal(old, new) for old, new in zip(before, trainable, strict=True)]
    assert all(moved)


def test_in_the_warm_up_the_architecture_is_neither_trainable_nor_optimised(
    make_trainer: Make,
) -> None:
    trainer = make_trainer(LTH)
    trainer.initialize()
    assert not trainer.network.alpha.requires_grad
    assert not trainer.network.beta.requires_grad
    trainable = {id(p) for p in trainer.network.parameters() if p.requires_grad}
    assert {id(p) for p in _optimised(trainer)} == trainable


def test_a_resumed_run_ends_with_the_weights_of_an_unbroken_one(
    make_trainer: Make, in_process: Any
) -> None:
    whole = make_trainer(LTH)
    whole.run_training()
    kept = {k: v.clone() for k, v in whole.network.state_dict().items()}
    events = whole.run.recorder.events
    assert whole.run.recorder.folder.read_backbone().unchanged
    backbone = [*whole.network.encoder.parameters(), *whole.network.decoder.parameters()]
    assert all(parameter.grad is None for parameter in backbone)
    broken = make_trainer(LTH)
    run_until(broken, 4)
    resumed = make_trainer(LTH, resume=True)
    resumed.run_training()
    assert resumed.run.recorder.events == events
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, kept[name]), name


def test_the_control_resumes_to_the_weights_of_an_unbroken_one_and_loses_nothing(
    make_trainer: Make, in_process: Any
) -> None:
    short = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": 3}
    plans = in_process.write_plans("control", **short)
    whole = make_trainer("nnUNetTrainerContinue", plans)
    whole.run_training()
    run_until(make_trainer("nnUNetTrainerContinue", plans), 2)
    folder = Path(whole.output_folder)
    (aside,) = folder.glob("before_*")
    assert (aside / "checkpoint_final.pth").is_file()
    resumed = make_trainer("nnUNetTrainerContinue", plans, resume=True)
    resumed.run_training()
    for name, tensor in resumed.network.state_dict().items():
        assert torch.equal(tensor, whole.network.state_dict()[name]), name


@pytest.mark.parametrize("name", [LTH, FULL])
def test_a_run_does_not_depend_on_how_many_workers_make_its_batches(
    make_trainer: Make, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    weights = []
    for workers in ("0", "2"):
        monkeypatch.setenv("nnUNet_n_proc_DA", workers)
        trainer = make_trainer(name)
        run_until(trainer, 2)
        trainer = make_trainer(name, resume=True)
        run_until(trainer, 3)
        finish(trainer.dataloader_train)
        finish(trainer.dataloader_val)
        weights.append(trainer.network.state_dict())
    for key, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][key]), key


def test_another_seed_gives_another_run(make_trainer: Make, in_process: Any) -> None:
    alphas = []
    for seed in (1, 1, 2):
        trainer = make_trainer(LTH, in_process.write_plans(f"seed{seed}", seed=seed))
        run_until(trainer, 2)
        alphas.append(trainer.network.alpha.detach().clone())
    assert torch.equal(alphas[0], alphas[1])
    assert not torch.equal(alphas[0], alphas[2])


def test_best_belongs_to_finetuning_with_the_running_dice_restarted_there(
    make_trainer: Make,
) -> None:
    trainer = make_trainer(LTH)
    run_until(trainer, 7)
    folder = Path(trainer.output_folder)
    assert not (folder / "checkpoint_best.pth").exists()
    resumed = make_trainer(LTH, resume=True)
    resumed.run_training()
    best = torch.load(folder / "checkpoint_best.pth", weights_only=False)
    assert best["iac"]["phases"]["phase"] == "finetune"
    log = resumed.logger.get_value
    assert log("ema_fg_dice", step=7) == log("mean_fg_dice", step=7)


def test_the_latest_checkpoint_knows_of_the_best_one(make_trainer: Make, in_process: Any) -> None:
    short = {"iterations_per_epoch": 2, "val_iterations_per_epoch": 1, "finetune_epochs": 3}
    plans = in_process.write_plans("control", **short)
    trainer = make_trainer("nnUNetTrainerContinue", plans)
    fold = run_until(trainer, 1)
    latest, best = (
        torch.load(fold / f"checkpoint_{name}.pth", weights_only=False)
        for name in ("latest", "best")
    )
    assert latest["_best_ema"] == best["_best_ema"] == best["logging"]["ema_fg_dice"][0]
    assert latest["logging"] == best["logging"]
    assert len(best["logging"]["epoch_end_timestamps"]) == 1
    # An epoch whose patches have no foreground, and get none, leaves the running Dice as it is.
    nothing = {key: np.zeros(2) for key in ("tp_hard", "fp_hard", "fn_hard")} | {
        "loss": np.zeros(1)
    }
    known = trainer.logger.get_value("ema_fg_dice", step=None)
    trainer.current_epoch = 1
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning, match="empty slice"):
        trainer.on_validation_epoch_end([nothing])
    assert np.isnan(trainer.logger.get_value("mean_fg_dice", step=1))
    assert known[1] == known[0] == trainer._best_ema


def test_the_full_search_draws_from_two_halves_of_the_training_cases(
    make_trainer: Make, in_process: Any
) -> None:
    splits = read_json(in_process.preprocessed / "splits_final.json")
    trainer = make_trainer(FULL)
    trainer.on_train_start()
    loader = trainer.dataloader_train
    sides = [
        set(part.data_loader.loader.indices) for part in (loader.train_search, loader.val_search)
    ]
    assert sides[0] | sides[1] == set(splits[0]["train"])
    assert not sides[0] & sides[1]


def test_the_full_search_runs_all_phases_and_finetunes_on_all_training_cases(
    make_trainer: Make,
) -> None:
    trainer = make_trainer(FULL)
    trainer.run_training()
    folder: RunFolder = trainer.run.recorder.folder
    assert folder.read_events() == ()
    assert folder.read_genotype() == trainer.network.genotype
    assert folder.read_backbone().unchanged
    assert {n: p.epochs for n, p in folder.read_cost().phases.items()} == {
        "warmup": 1,
        "search": 6,
        "finetune": 2,
    }
    assert len(trainer.dataloader_train.data_loader.loader.indices) == 8


def test_a_discrete_run_takes_its_genotype_from_another_runs_fold(
    make_trainer: Make, in_process: Any
) -> None:
    searched = make_trainer(LTH)
    searched.run_training()
    source = str(Path(searched.output_folder)).replace("fold_0", "fold_{fold}")
    plans = in_process.write_plans("given", genotype=source)
    trainer = make_trainer(DISCRETE, plans)
    trainer.run_training()
    assert trainer.network.genotype == searched.network.genotype
    assert trainer.run.recorder.folder.read_backbone().unchanged


def test_a_genotype_searched_on_another_fold_is_refused_unless_allowed(
    make_trainer: Make, in_process: Any
) -> None:
    searched = make_trainer(LTH)
    run_until(searched, 7)
    stock = torch.load(
        in_process.model("nnUNetTrainer", "small") / "fold_0" / "checkpoint_final.pth",
        weights_only=False,
    )
    stock["init_args"]["fold"] = 1
    target = in_process.model("nnUNetTrainer", "small") / "fold_1" / "checkpoint_final.pth"
    target.parent.mkdir()
    torch.save(stock, target)
    plans = in_process.write_plans("leaking", genotype=searched.output_folder)
    with pytest.raises(ValueError, match=r"was searched on fold 0 \(.*\) and this is fold 1"):
        make_trainer(DISCRETE, plans, fold=1).run_training()
    checkpoint = str(Path(searched.output_folder) / "checkpoint_latest.pth")
    plans = in_process.write_plans("again", genotype=checkpoint)
    with pytest.raises(ValueError, match=r"was searched on fold 0 \(.*\) and this is fold 1"):
        make_trainer(DISCRETE, plans, fold=1).run_training()
    plans = in_process.write_plans("allowed", genotype=checkpoint, allow_leakage=True)
    allowed = make_trainer(DISCRETE, plans, fold=1)
    allowed.on_train_start()
    assert "was searched on fold 0" in str(allowed.run.recorder.folder.read_backbone().leakage)
    origin = allowed.run.recorder.folder.read_cost().run["genotype_from"]
    assert (origin["path"], origin["fold"], origin["trainer"]) == (checkpoint, 0, LTH)


def test_a_discrete_run_without_a_genotype_finetunes_the_random_cell_of_its_seed(
    make_trainer: Make, in_process: Any
) -> None:
    trainer = make_trainer(DISCRETE, in_process.write_plans("drawn", seed=3))
    trainer.on_train_start()
    assert trainer.settings.cell.genotype == "random:3"
    assert trainer.network.genotype == random_genotype(3)


def test_a_setting_that_the_trainer_fixes_is_ignored_with_a_warning(
    make_trainer: Make, in_process: Any
) -> None:
    plans = in_process.write_plans("fixed", finetune_epochs=100)
    trainer = make_trainer(LTH, plans)
    assert trainer.settings.schedule.finetune_epochs == 2
    assert "finetune_epochs=100 of the plans is ignored" in Path(trainer.log_file).read_text()


def test_a_backbone_of_another_fold_is_refused_unless_allowed_and_then_recorded(
    make_trainer: Make, in_process: Any
) -> None:
    path = in_process.model("nnUNetTrainer", "small") / "fold_0" / "checkpoint_final.pth"
    plans = in_process.write_plans("foreign", backbone_checkpoint=str(path))
    with pytest.raises(ValueError, match="was trained on fold 0"):
        make_trainer(LTH, plans, fold=1).run_training()
    plans = in_process.write_plans("shown", backbone_checkpoint=str(path), allow_leakage=True)
    trainer = make_trainer(LTH, plans, fold=1)
    trainer.on_train_start()
    leakage = trainer.run.recorder.folder.read_backbone().leakage
    assert leakage is not None
    assert "fold 0" in leakage
    assert trainer.run.recorder.folder.read_settings().data.allow_leakage


@pytest.mark.parametrize("source", ["record", "checkpoint"])
def test_folds_of_one_model_must_share_their_structure(
    make_trainer: Make, in_process: Any, source: str
) -> None:
    plans = in_process.write_plans("shared", channel_ratio=0.5)
    sibling = make_trainer(LTH, plans)
    run_until(sibling, 1)
    first = Path(sibling.output_folder)
    first.rename(first.with_name("fold_3"))
    if source == "checkpoint":
        shutil.rmtree(first.with_name("fold_3") / "iac")
    (first.parent / "plans.json").write_text("half writ")
    in_process.write_plans("shared")
    with pytest.raises(ValueError, match=r"channel_ratio is 0\.25 here and 0\.5 in fold_3"):
        make_trainer(LTH, plans).run_training()
    assert (first.parent / "plans.json").read_text() == "half writ"


def test_a_non_finite_loss_stops_the_run_and_keeps_the_last_checkpoint(make_trainer: Make) -> None:
    trainer = make_trainer(LTH)
    run_until(trainer, 2)
    checkpoint = Path(trainer.output_folder) / "checkpoint_latest.pth"
    before = checkpoint.read_bytes()
    resumed = make_trainer(LTH, resume=True)
    resumed.loss = lambda output, target: output[0].sum() * torch.nan
    with pytest.raises(RuntimeError, match="it is nan in epoch 2"):
        resumed.run_training()
    assert checkpoint.read_bytes() == before


def test_a_non_finite_gradient_stops_the_search_and_states_in_which_epoch(
    make_trainer: Make,
) -> None:
    trainer = make_trainer(LTH)
    run_until(trainer, 1)
    resumed = make_trainer(LTH, resume=True)
    resumed.network.beta.register_hook(lambda gradient: gradient * torch.inf)
    with pytest.raises(RuntimeError, match="one is not on edge 0->2 in epoch 1"):
        resumed.run_training()
    (event,) = [e for e in resumed.run.recorder.folder.read_health() if e.kind == "non-finite"]
    assert (event.epoch, event.edge) == (2, EDGES[0])


@pytest.mark.parametrize("epochs", [0, 7])
def test_a_weight_made_non_finite_by_the_last_step_of_an_epoch_is_never_saved(
    make_trainer: Make, epochs: int
) -> None:
    trainer = make_trainer(LTH)
    if epochs:
        run_until(trainer, epochs)
        trainer = make_trainer(LTH, resume=True)
    take_step = trainer.train_step

    def break_a_weight(batch: dict) -> dict:
        result: dict = take_step(batch)
        trainer.network.weights()[0].data.flatten()[0] = torch.inf
        return result

    trainer.train_step = break_a_weight
    trainer.num_iterations_per_epoch = 1
    with pytest.raises(RuntimeError, match=f"not after training in epoch {epochs}"):
        trainer.run_training()


@pytest.mark.parametrize("name", ["IACLTH", "Continue"])
@pytest.mark.parametrize("toggle", ["NoDA", "DA5", "NoMirroring"])
def test_every_augmentation_toggle_trains_and_predicts_with_its_own_mirroring(
    make_trainer: Make, in_process: Any, toggle: str, name: str
) -> None:
    plans = in_process.write_plans("toggled", backbone_trainer="nnUNetTrainer")
    trainer = make_trainer(f"nnUNetTrainer{name}{toggle}", plans)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    assert trainer.inference_allowed_mirroring_axes == ((0, 1) if toggle == "DA5" else None)


@pytest.mark.parametrize(
    ("of_backbone", "name", "shared", "logged"),
    [
        (None, "IACLTH", None, "no mirroring, since the backbone's had no mirroring"),
        ((0,), "IACLTHDA5", (0,), "by itself has mirroring along 0, 1"),
        ((1,), "Continue", (1,), "mirroring along 1, since"),
        ((0, 1), "ContinueNoMirroring", None, "WARNING: nnUNetTrainerContinueNoMirroring has no"),
        ((0, 1), "IAC", (0, 1), None),
    ],
)
def test_a_run_mirrors_along_no_other_axes_than_its_backbone_and_validates_both_alike(
    make_trainer: Make, in_process: Any, of_backbone: Any, name: str, shared: Any, logged: str
) -> None:
    backbone = in_process.model("nnUNetTrainer", "small") / "fold_0" / "checkpoint_final.pth"
    content = torch.load(backbone, weights_only=False)
    torch.save({**content, MIRRORING: of_backbone}, backbone)
    plans = in_process.write_plans("mirrored", backbone_trainer="nnUNetTrainer")
    trainer = make_trainer(f"nnUNetTrainer{name}", plans)
    augmentation, given = trainer.get_training_transforms, []
    trainer.get_training_transforms = lambda *a, **k: given.append(a[3]) or augmentation(*a, **k)
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    trainer.train_step(next(trainer.dataloader_train))
    assert {*given} == {shared}
    circumstances = prediction_circumstances(trainer, {})
    assert circumstances["mirrored"] == (None if shared is None else [*shared])
    log = Path(trainer.log_file).read_text()
    assert logged in log if logged else "irroring" not in log
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_latest.pth"))
    resumed = make_trainer(f"nnUNetTrainer{name}", plans, resume=True)
    resumed.on_train_start()
    assert resumed.inference_allowed_mirroring_axes == shared


@pytest.mark.parametrize("name", ["nnUNetTrainerIACLTH", "nnUNetTrainerContinue"])
@pytest.mark.parametrize("words", ["-pretrained_weights w.pth", "-pretrained=w.pth"])
def test_weights_for_a_training_from_scratch_are_refused_with_the_setting_that_names_a_backbone(
    make_trainer: Make, in_process: Any, monkeypatch: pytest.MonkeyPatch, words: str, name: str
) -> None:
    monkeypatch.setattr("sys.argv", ["nnUNetv2_train", "4", "2d", "0", *words.split()])
    assert make_trainer("nnUNetTrainerAdam_8epochs").num_epochs == 8
    with pytest.raises(ValueError, match=rf"backbone of {name} .* --set backbone_checkpoint="):
        make_trainer(name)
    monkeypatch.setattr("sys.argv", ["nnUNetv2_train", "4", "2d", "0", "-p", "small"])
    make_trainer(name)


def test_a_run_that_needs_less_memory_may_be_continued(make_trainer: Make, in_process: Any) -> None:
    plans = in_process.write_plans("roomy")
    run_until(make_trainer(LTH, plans), 2)
    in_process.write_plans("roomy", activation_checkpointing=True)
    assert make_trainer(LTH, plans, resume=True).current_epoch == 2


ALL = [
    value
    for value in vars(trainers).values()
    if isinstance(value, type) and issubclass(value, RetrofitTrainer)
    if value is not RetrofitTrainer
]


@pytest.mark.parametrize("trainer", ALL, ids=lambda trainer: trainer.__name__)
def test_every_trainer_is_exported_and_its_variants_compose(trainer: type[RetrofitTrainer]) -> None:
    assert trainer.__name__ in exported_trainers(trainers_dir())
    for toggle in ("NoDA", "DA5", "NoMirroring"):
        assert (toggle in trainer.__name__) == any(
            base.__name__ == f"nnUNetTrainer{toggle}" for base in trainer.__mro__
        )
        if toggle in trainer.__name__:
            assert trainer.sibling_trainer == f"nnUNetTrainer{toggle}"
    if trainer.overrides:
        given = {} if trainer.method.searches else {"genotype": "given.json"}
        settings = Settings(**{**given, **trainer.overrides})
        require_usable(trainer.method, settings)
        for word, key in (("warmup", "warmup_epochs"), ("finetune", "finetune_epochs")):
            if word in trainer.__name__:
                assert f"{settings.to_mapping()[key]}{word}" in trainer.__name__


def test_the_main_job_begins_on_plain_plans_with_all_defaults(
    make_trainer: Make, in_process: Any
) -> None:
    stock = make_trainer("nnUNetTrainer", "nnUNetPlans")
    stock.initialize()
    stock.save_checkpoint(str(Path(stock.output_folder) / "checkpoint_final.pth"))
    trainer = make_trainer("nnUNetTrainerIACLTH", "nnUNetPlans")
    assert trainer.settings == Settings()
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    assert trainer.train_step(next(trainer.dataloader_train))["loss"] > -10
    assert trainer.num_epochs == 400
    assert trainer.num_iterations_per_epoch == 250


@pytest.mark.parametrize("key", ["patch_size", "batch_size"])
def test_a_backbone_trained_otherwise_under_the_source_plans_is_not_taken_by_itself(
    make_trainer: Make, in_process: Any, key: str
) -> None:
    plans = read_json(in_process.preprocessed / "small.json")
    plans.update(plans_name="larger", source_plans="small")
    configuration = plans["configurations"]["2d"]
    doubled = {"patch_size": [112, 80], "batch_size": 2 * configuration["batch_size"]}
    configuration[key] = doubled[key]
    write_json(in_process.preprocessed / "larger.json", plans)
    trainer = make_trainer(LTH, "larger")
    with pytest.raises(FileNotFoundError, match="nnUNetv2_train 4 2d 0 -p larger"):
        trainer.on_train_start()
