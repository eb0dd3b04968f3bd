"""Every bad input we thought of: one message, and nothing on disk has changed.

`ENTRIES` is the table; `len(ENTRIES)` is how many inputs were tried. An entry is fed through what a
user types: the command `nnunet-iac`, or a trainer as `nnUNetv2_train` makes, resumes and runs it.
"""

import dataclasses
import hashlib
import io
import json
import math
import re
import shlex
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from operator import delitem
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_iac.cli import main
from nnunet_iac.runs.atomic import read_json, write_json
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import CostRecord, PhaseCost
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.settings import Settings

LTH = "nnUNetTrainerIACLTH_1warmup6search2finetune"
FULL = "nnUNetTrainerIAC_1warmup6search2finetune"
DISCRETE = "nnUNetTrainerIACDiscrete_2finetune"
CELL = Genotype.from_codes([0, 1, 2, -1, 3, -1, 4, -1, 5, 6, -1, -1, -1, 0])
RESULTS = "results/Dataset004_Hippocampus"
ERRORS = (ValueError, RuntimeError, FileNotFoundError)


@dataclass(frozen=True)
class World:
    """One test's own nnU-Net folders; what it damages there is nobody else's."""

    path: Path
    preprocessed: Path
    made: Path

    @property
    def backbone(self) -> Path:
        return self.path / RESULTS / "nnUNetTrainer__small__2d/fold_0/checkpoint_final.pth"

    def fold(self, trainer: str, plans: str = "small") -> Path:
        return self.path / RESULTS / f"{trainer}__{plans}__2d" / "fold_0"

    def files(self) -> dict[str, object]:
        """Return the hash of every file, size and time of those behind links, and every folder."""
        found: dict[str, object] = {}
        for path in sorted(self.path.glob("**/*")):
            name = str(path.relative_to(self.path))
            if path.is_symlink():
                found[name] = sorted((str(p), _size_and_time(p)) for p in path.glob("**/*"))
            elif path.is_file():
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[name] = "folder"
        return found


def _size_and_time(path: Path) -> tuple[int, int]:
    seen = path.stat()
    return seen.st_size, seen.st_mtime_ns


Arrange = Callable[[World], object]


@dataclass(frozen=True)
class Entry:
    """One bad input.

    Args:
        name: a sentence.
        arrange: puts the input into the world.
        feed: hands it over; returns the message, after checking how it came.
        message: a regular expression for what the user must be told.
        folder: of nnU-Net's results, the only one that may be made, for nnU-Net's own log.
    """

    name: str
    arrange: Arrange
    feed: Callable[[World, pytest.CaptureFixture[str]], str]
    message: str
    folder: str | None = None


def typed(name: str, words: str, message: str, arrange: Arrange = lambda world: None) -> Entry:
    """Return an entry for the command nnunet-iac; `@` stands for the world's folder."""

    def feed(world: World, capsys: pytest.CaptureFixture[str]) -> str:
        capsys.readouterr()
        try:
            status: Any = main([word.replace("@", str(world.path)) for word in shlex.split(words)])
        except SystemExit as stop:  # argparse
            status = stop.code
        printed = capsys.readouterr()
        assert status == 2
        assert re.search(r"^(nnunet-iac[^\n]*: )?error: ", printed.err, re.MULTILINE)
        assert "Traceback" not in printed.err
        return printed.err

    return Entry(name, arrange, feed, message)


def trained(
    name: str,
    message: str,
    arrange: Arrange = lambda world: None,
    trainer: str = LTH,
    plans: str = "small",
    fold: int | str = 0,
    resume: bool = False,
    configuration: str = "2d",
    before_nnunet: bool = False,
) -> Entry:
    """Return an entry for nnUNetv2_train; `before_nnunet` forbids nnU-Net's folder as well."""

    def feed(world: World, capsys: pytest.CaptureFixture[str]) -> str:
        with pytest.raises(ERRORS) as caught:
            _train(trainer, plans, fold, resume, configuration)
        # Errors of torch and json are ValueErrors and RuntimeErrors, too, but name no cure.
        assert caught.type in ERRORS
        return str(caught.value)

    folder = f"{RESULTS}/{trainer}__{plans}__{configuration}/fold_{fold}"
    return Entry(name, arrange, feed, message, None if before_nnunet else folder)


def _train(
    name: str, plans: str, fold: int | str, resume: bool = False, configuration: str = "2d"
) -> None:
    """Do what nnUNetv2_train does."""
    from nnunetv2.run.run_training import maybe_load_checkpoint

    trainer = _trainer(name, plans, fold, resume, configuration)
    maybe_load_checkpoint(trainer, resume, False)
    trainer.run_training()


def _trainer(
    name: str, plans: str, fold: int | str, resume: bool = False, configuration: str = "2d"
) -> Any:
    from nnunetv2.run.run_training import get_trainer_from_args

    cpu = torch.device("cpu")
    return get_trainer_from_args("4", configuration, fold, name, plans, resume, device=cpu)


# --- what is put into the world --------------------------------------------------------------


def text(path: str, content: str | bytes) -> Arrange:
    """Write a file; `@` in the path stands for the folder of preprocessed data."""

    def arrange(world: World) -> None:
        file = world.path / path.replace("@", f"preprocessed/{world.preprocessed.name}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)

    return arrange


def document(path: str, content: Any) -> Arrange:
    return text(path, json.dumps(content))


def plans(change: Callable[[dict[str, Any]], object], name: str = "bad") -> Arrange:
    """Write plans that differ from the small ones by more than their name."""

    def arrange(world: World) -> None:
        content = read_json(world.preprocessed / "small.json")
        content.update(plans_name=name, source_plans="small")
        content["configurations"]["2d"]["iac"] = {"backbone_plans": "small"}
        change(content)
        (world.preprocessed / f"{name}.json").write_text(json.dumps(content))

    return arrange


def section(value: Any) -> Arrange:
    return plans(lambda content: content["configurations"]["2d"].update(iac=value))


def settings(**values: Any) -> Arrange:
    return plans(lambda content: content["configurations"]["2d"]["iac"].update(values))


def configuration(**values: Any) -> Arrange:
    return plans(lambda content: content["configurations"]["2d"].update(values))


def without(key: str) -> Arrange:
    return plans(lambda content: content["configurations"]["2d"].pop(key))


def network(**values: Any) -> Arrange:
    return plans(lambda c: c["configurations"]["2d"]["architecture"]["arch_kwargs"].update(values))


def _two_stages(content: dict[str, Any]) -> None:
    keywords = content["configurations"]["2d"]["architecture"]["arch_kwargs"]
    keywords["n_stages"] = 2
    for key in ("features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage"):
        keywords[key] = keywords[key][:2]
    keywords["n_conv_per_stage_decoder"] = keywords["n_conv_per_stage_decoder"][:1]


def _residual_decoder(content: dict[str, Any]) -> None:
    architecture = content["configurations"]["2d"]["architecture"]
    module = "dynamic_network_architectures.architectures.unet"
    architecture["network_class_name"] = f"{module}.ResidualUNet"
    keywords = architecture["arch_kwargs"]
    keywords["n_blocks_per_stage"] = keywords.pop("n_conv_per_stage")


def edges(change: Callable[[list[Any]], object]) -> Arrange:
    """Write a genotype whose edges are changed."""
    listed = CELL.to_document()["edges"]
    change(listed)
    return document("genotype.json", {**CELL.to_document(), "edges": listed})


def backbone(change: Callable[[dict[str, Any]], object]) -> Arrange:
    """Change the content of the backbone's checkpoint."""

    def arrange(world: World) -> None:
        checkpoint = torch.load(world.backbone, weights_only=False)
        replaced = change(checkpoint)
        torch.save(checkpoint if replaced is None else replaced, world.backbone)

    return arrange


def backbone_bytes(change: Callable[[bytes], bytes]) -> Arrange:
    return lambda world: world.backbone.write_bytes(change(world.backbone.read_bytes()))


def weights(**tensors: Any) -> Arrange:
    """Replace tensors of the backbone; `__` in a name stands for a dot."""
    named = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return backbone(lambda c: c["network_weights"].update(named))


def backbone_configuration(**values: Any) -> Arrange:
    return backbone(lambda c: c["init_args"]["plans"]["configurations"]["2d"].update(values))


def splits(change: Callable[[list[Any]], object]) -> Arrange:
    """Write splits_final.json anew; what `change` returns takes its place."""

    def arrange(world: World) -> None:
        content = read_json(world.preprocessed / "splits_final.json")
        replaced = change(content)
        write_json(
            world.preprocessed / "splits_final.json", content if replaced is None else replaced
        )

    return arrange


def checkpoint(change: Callable[[dict[str, Any]], object] = lambda content: None) -> Arrange:
    """Leave a run that was broken off in its first epoch, the checkpoint changed."""

    def arrange(world: World) -> None:
        shutil.copytree(world.made / world.fold(LTH).relative_to(world.path), world.fold(LTH))
        path = world.fold(LTH) / "checkpoint_latest.pth"
        content = torch.load(path, weights_only=False)
        replaced = change(content)
        torch.save(content if replaced is None else replaced, path)

    return arrange


def checkpoint_bytes(change: Callable[[bytes], bytes]) -> Arrange:
    def arrange(world: World) -> None:
        checkpoint()(world)
        path = world.fold(LTH) / "checkpoint_latest.pth"
        path.write_bytes(change(path.read_bytes()))

    return arrange


def codes(values: Any) -> Arrange:
    """Write something like a checkpoint of a network with cells."""
    return lambda world: torch.save(
        {"network_weights": {"genotype_codes": values}}, world.path / "cell.pth"
    )


def both(*arranges: Arrange) -> Arrange:
    return lambda world: [arrange(world) for arrange in arranges]


def _other_fold(world: World) -> None:
    run = RunFolder.of_fold(world.path / "fold_1")
    run.write_settings(Settings())
    run.write_genotype(CELL)
    run.write_cost(CostRecord(run={"dataset": world.preprocessed.name, "fold": 1}))


# --- the table -------------------------------------------------------------------------------

PLAN = "plan -d 4 -c 2d -p small -o bad --set "
GENOTYPE = Genotype.to_document(CELL)


def _shown(value: str) -> str:
    return value if len(value) < 40 else f"{value[:3]}… of {len(value)} characters"


def setting(name: str, assignment: str, message: str) -> Entry:
    return typed(name, PLAN + shlex.quote(assignment), message)


SETTINGS = [
    setting("an unknown setting", "patiense=1", "did you mean 'patience'"),
    setting("a setting like no other", "xyz=1", "unknown setting 'xyz'; allowed are preset"),
    setting("a setting without a value", "seed", "form key=value; got 'seed'"),
    setting("a setting without a key", "=3", "unknown setting ''; allowed are preset"),
    *(
        setting(f"a setting of no use: {key}={_shown(value)}", f"{key}={value}", message)
        for key, value, message in [
            (
                "preset",
                "papers",
                "'preset' must be one of literal, paper, adaptive, swift, adapt; got 'papers'",
            ),
            ("preset", "null", "'preset' must be one of .*; got None"),
            ("warmup_epochs", "-1", "'warmup_epochs' must be >= 0 and <= 1,000,000; got -1"),
            ("warmup_epochs", "1.5", r"'warmup_epochs' must be an integer; got 1\.5 \(float\)"),
            ("warmup_epochs", "true", "'warmup_epochs' must be an integer; got True"),
            ("search_epochs", "0", "'search_epochs' must be >= 1 and <= 1,000,000; got 0"),
            ("search_epochs", "1e3", r"'search_epochs' must be an integer; got 1000\.0"),
            ("finetune_epochs", "-1", "'finetune_epochs' must be >= 0 and <= 1,000,000; got -1"),
            ("finetune_epochs", "many", "'finetune_epochs' must be an integer; got 'many'"),
            (
                "iterations_per_epoch",
                "0",
                "'iterations_per_epoch' must be >= 1 and <= 1,000,000; got 0",
            ),
            ("val_iterations_per_epoch", "[50]", r"must be an integer; got \[50\] \(list\)"),
            (
                "iterations_per_epoch",
                "1" + "0" * 400,
                "'iterations_per_epoch' must be >= 1 and <= 1",
            ),
            ("patience", "0", "'patience' must be >= 1 and <= 1,000,000; got 0"),
            ("stability_threshold", "0", r"'stability_threshold' must be > 0; got 0\.0"),
            (
                "stability_threshold",
                "NaN",
                "'stability_threshold' must be a finite number; got nan",
            ),
            (
                "stability_threshold",
                "Infinity",
                "'stability_threshold' must be a finite number; got inf",
            ),
            (
                "stability_threshold",
                "1e999",
                "'stability_threshold' must be a finite number; got inf",
            ),
            (
                "stability_threshold",
                "1" + "0" * 400,
                "'stability_threshold' must be a finite number; got 1000",
            ),
            (
                "stability_threshold",
                "1" + "0" * 5000,
                "'stability_threshold' must be a finite number; got '1000",
            ),
            (
                "stability_threshold",
                "[" * 99999,
                r"'stability_threshold' must be a finite number; got '\[\[",
            ),
            ("threshold_growth", "0.5", r"'threshold_growth' must be >= 1; got 0\.5"),
            ("reset_threshold", "yes", "'reset_threshold' must be true or false; got 'yes'"),
            ("reset_threshold", "1", "'reset_threshold' must be true or false; got 1"),
            ("importance", "softmin", "'importance' must be one of softmax, raw, raw-strict"),
            ("edge_transform", "", "'edge_transform' must be one of tanh, tan; got ''"),
            ("tan_clamp", "1.58", r"'tan_clamp' must be \(0, pi/2\); got 1\.58"),
            ("channel_ratio", "0", r"'channel_ratio' must be \(0, 1\]; got 0\.0"),
            ("channel_ratio", "1/4", "'channel_ratio' must be a finite number; got '1/4'"),
            ("min_channels", "0", "'min_channels' must be >= 1 and <= 4,096; got 0"),
            ("partial_channels", "-4", "'partial_channels' must be >= 1 and <= 4,096; got -4"),
            ("output_nodes", "5", "'output_nodes' must be 1, 2, 3 or 4; got 5"),
            ("norm", "instance", "'norm' must be one of plans, batch; got 'instance'"),
            ("residual", "one", "'residual' must be one of none, zero; got 'one'"),
            (
                "activation_checkpointing",
                "0",
                "'activation_checkpointing' must be true or false; got 0",
            ),
            ("weights_lr", "-0.1", r"'weights_lr' must be >= 1e-12 and <= 100; got -0\.1"),
            ("weights_lr_min", "-1", r"'weights_lr_min' must be >= 0; got -1\.0"),
            ("annealing_power", "0.5", r"'annealing_power' must be >= 1 and <= 1,000; got 0\.5"),
            ("architecture_lr", "0", r"'architecture_lr' must be >= 1e-12 and <= 100; got 0\.0"),
            ("architecture_betas", "0.9", "'architecture_betas' must be a list of two numbers"),
            ("architecture_betas", "[0.9, 1]", r"must be two numbers in \[0, 1\); got \(0\.9, 1"),
            ("architecture_betas", "[0.9, NaN]", "must be a list of two numbers; got .*nan"),
            ("architecture_weight_decay", "-1", r"'architecture_weight_decay' .*; got -1\.0"),
            ("finetune_optimizer", "lion", "'finetune_optimizer' must be one of adam, sgd"),
            (
                "architecture_lr",
                "1e200",
                r"'architecture_lr' must be >= 1e-12 and <= 100; got 1e\+200",
            ),
            ("finetune_lr", "0", r"'finetune_lr' must be >= 1e-12 and <= 100; got 0\.0"),
            ("finetune_schedule", "cosine", "'finetune_schedule' must be one of constant, poly"),
            ("seed", "-1", "'seed' must be 0 to .*; got -1"),
            ("seed", str(2**64), f"'seed' must be 0 to .*; got {2**64}"),
            ("seed", "0.0", "'seed' must be an integer; got 0.0"),
            ("patient_pattern", "(", r"'patient_pattern' must be a valid regular .*; got '\('"),
            ("patient_pattern", "a{99999999999}", "'patient_pattern' must be a valid regular"),
            ("patient_pattern", "", "'patient_pattern' must be a non-empty text; got ''"),
            ("backbone_trainer", "", "'backbone_trainer' must be a non-empty text; got ''"),
            ("backbone_plans", "", "'backbone_plans' must be a non-empty text; got ''"),
            ("backbone_checkpoint", "", "'backbone_checkpoint' must be a non-empty text; got ''"),
            ("genotype", "", "'genotype' must be a non-empty text; got ''"),
            ("allow_leakage", "maybe", "'allow_leakage' must be true or false; got 'maybe'"),
        ]
    ),
    typed(
        "a cell with fewer channels than it is divided by",
        PLAN + "min_channels=4 partial_channels=8",
        "min_channels=4, partial_channels=8",
    ),
    typed(
        "a learning rate that would rise",
        PLAN + "weights_lr=1e-5",
        "weights_lr_min=0.0001, weights_lr=1e-05",
    ),
    typed(
        "a warm-up that leaves no search",
        PLAN + "search_epochs=15",
        "search_epochs=15, warmup_epochs=15",
    ),
]

IDENTIFIERS = [
    typed(
        f"new plans called {shown}",
        f"plan -d 4 -c 2d -p small -o {shlex.quote(name)}",
        "plans identifier must be a plain file name .*; got " + re.escape(repr(name)),
    )
    for name, shown in [
        ("", "nothing"),
        ("a__b", "a__b"),
        ("_a", "_a"),
        ("a_", "a_"),
        ("a/b", "by a path"),
        ("../x", "by a path upwards"),
        ("/x", "by an absolute path"),
        ("a\\b", "by a path of another system"),
        ("a\nb", "over two lines"),
    ]
]

WHERE = [
    typed(
        "new plans called as their source",
        "plan -d 4 -c 2d -p small -o small",
        "a name of their own; got 'small'",
    ),
    typed(
        "new plans called as others that exist",
        PLAN + "seed=1",
        r"bad\.json exists with other content",
        settings(seed=2),
    ),
    typed(
        "a data set that does not exist",
        "plan -d 7 -c 2d -o bad",
        "data set must be an id .*; got '7'",
    ),
    typed(
        "a data set without its number",
        "plan -d Hippocampus -c 2d -o bad",
        "data set must be .*; got 'Hippocampus'",
    ),
    typed(
        "a data set with a name but no number",
        "plan -d Dataset_x -c 2d -o bad",
        "data set must be .*; got 'Dataset_x'",
    ),
    typed(
        "a data set that is a path",
        "plan -d Dataset004_Hippocampus/../.. -c 2d -o bad",
        "data set must be .*; got 'Dataset004_Hippocampus/",
    ),
    typed(
        "an id that two data sets have",
        "plan -d 4 -c 2d -o bad",
        "be unique .*; got '4'",
        lambda world: (world.path / "preprocessed" / "Dataset004_Other").mkdir(),
    ),
    typed(
        "source plans that do not exist",
        "plan -d 4 -c 2d -p absent -o bad",
        r"absent\.json does not: name others with -p, of which there are .*nnUNetPlans",
    ),
    typed(
        "a configuration that the source plans do not have",
        "plan -d 4 -c 4d -p small -o bad",
        "one of 2d, .*, which the plans 'small' describe; got '4d'",
    ),
    typed(
        "a configuration without a name",
        "plan -d 4 -c '' -p small -o bad",
        "one of 2d, .*; got ''",
    ),
]

SOURCE = "plan -d 4 -c 2d -p bad -o new"
SOURCES = [
    typed(
        "source plans that are empty", SOURCE, r"bad\.json must be a JSON", text("@/bad.json", "")
    ),
    typed(
        "source plans that are cut off",
        SOURCE,
        r"bad\.json must be a JSON file: .*; restore it",
        text("@/bad.json", '{"plans_name": "bad", "confi'),
    ),
    typed(
        "source plans that are no text",
        SOURCE,
        r"bad\.json must be a JSON file",
        text("@/bad.json", b"\xff\xfe\x00"),
    ),
    typed(
        "source plans that are a list",
        SOURCE,
        r"plans must be a JSON object .*; got \[1, 2\]: make the plans again",
        document("@/bad.json", [1, 2]),
    ),
    typed(
        "source plans without configurations",
        SOURCE,
        'objects under "configurations"; got .*: make the plans again',
        plans(lambda content: content.pop("configurations")),
    ),
    typed(
        "source plans whose configurations are a list",
        SOURCE,
        'objects under "configurations"; got ',
        plans(lambda content: content.update(configurations=["2d"])),
    ),
    typed(
        "source plans with a configuration that is no object",
        SOURCE,
        'objects under "configurations"; got ',
        plans(lambda content: content["configurations"].update({"3d_fullres": None})),
    ),
    typed(
        "source plans that inherit from a configuration they lack",
        SOURCE,
        "which the plans 'bad' describe; got 'gone', inherited by '2d'",
        configuration(inherits_from="gone"),
    ),
    typed(
        "source plans that inherit from themselves",
        SOURCE,
        "must not inherit from itself; .* have 2d from 3d_fullres from 2d: make",
        plans(
            lambda content: [
                content["configurations"]["2d"].update(inherits_from="3d_fullres"),
                content["configurations"]["3d_fullres"].update(inherits_from="2d"),
            ]
        ),
    ),
    typed(
        "source plans without a name",
        SOURCE,
        r"plans_name in .*bad\.json must be 'bad', .*; got None: correct it",
        plans(lambda content: content.pop("plans_name")),
    ),
    typed(
        "source plans with another name than their file",
        SOURCE,
        r"plans_name in .*bad\.json must be 'bad', .*; got 'small': correct it",
        plans(lambda content: content.update(plans_name="small")),
    ),
    typed(
        "source plans of another data set",
        SOURCE,
        "dataset_name in .* must be 'Dataset004_Hippocampus', .*; got 'Dataset005_Prostate'",
        plans(lambda content: content.update(dataset_name="Dataset005_Prostate")),
    ),
    typed(
        "source plans with settings that are null",
        SOURCE,
        "\"iac\" of a configuration must be a JSON object; 2d of the plans 'bad' has None: write",
        section(None),
    ),
    typed(
        "source plans with an unknown setting of their own",
        SOURCE,
        "unknown setting 'sede'; did you mean 'seed'",
        section({"sede": 1}),
    ),
]

TRAINED_PLANS = [
    *(
        trained(
            f"plans with settings that are {what}",
            f'"iac" of a configuration must be a JSON object; 2d of the plans .* has {shown}',
            section(value),
            plans="bad",
            before_nnunet=True,
        )
        for what, value, shown in [
            ("null", None, "None"),
            ("a list", ["seed", 1], r"\['seed', 1\]"),
            ("a text", "seed=1", "'seed=1'"),
            ("a number", 3, "3"),
        ]
    ),
    *(
        trained(
            f"plans with {what}",
            message,
            section(value),
            plans="bad",
            trainer=trainer,
            before_nnunet=True,
        )
        for what, value, message, trainer in [
            ("an unknown setting", {"sede": 1}, "unknown setting 'sede'; did you mean", LTH),
            (
                "a setting inside another",
                {"seed": {"seed": 1}},
                "'seed' must be an integer; got {'seed': 1}",
                LTH,
            ),
            (
                "a number that is not one",
                {"stability_threshold": math.nan},
                "'stability_threshold' .*; got nan",
                LTH,
            ),
            (
                "a number beyond all",
                {"stability_threshold": 10**400},
                "'stability_threshold' must be a finite",
                LTH,
            ),
            ("a seed beyond torch's", {"seed": 2**64}, "'seed' must be 0 to", LTH),
            (
                "a part that only the control trains",
                {"trainable_part": "decoder"},
                r"trainable_part of a retrofit must be one of cells, .*; got decoder: choose",
                LTH,
            ),
            ("a list of lists", {"architecture_betas": [[0], [1]]}, "list of two numbers", LTH),
            (
                "a search too short to prune",
                {"search_epochs": 20},
                "leaves 5: set search_epochs to 21 or more",
                "nnUNetTrainerIACLTH",
            ),
            (
                "a single batch for the full search",
                {"iterations_per_epoch": 1},
                "needs iterations_per_epoch >= 2.*got 1",
                "nnUNetTrainerIAC",
            ),
        ]
    ),
    trained(
        "plans that inherit from a configuration they lack",
        "got 'gone', inherited by '2d'",
        configuration(inherits_from="gone"),
        plans="bad",
        before_nnunet=True,
    ),
    trained(
        "a configuration that the plans do not have",
        "one of 2d, .*, which the plans 'small' describe; got '4d'",
        configuration="4d",
        before_nnunet=True,
    ),
    trained(
        "plans without configurations",
        'objects under "configurations"; got ',
        plans(lambda content: content.pop("configurations")),
        plans="bad",
        before_nnunet=True,
    ),
    trained(
        "the second stage of a cascade without its first",
        "the second stage of a cascade, which 2d is, needs what the first has predicted"
        ".*train all folds of nnUNetTrainer__small__3d_lowres",
        configuration(previous_stage="3d_lowres"),
        plans="bad",
    ),
    trained("a network of two stages", "at least 3 stages", plans(_two_stages), plans="bad"),
    trained(
        "a network with a residual decoder",
        "must be one of PlainConvUNet, .* describe a ResidualUNet: use the plans",
        plans(_residual_decoder),
        plans="bad",
    ),
    trained(
        "a network without a norm",
        "needs instance or batch norm; .* norm_op = None: use plans",
        network(norm_op=None, norm_op_kwargs={}),
        plans="bad",
    ),
    trained(
        "a network with another norm",
        "needs instance or batch norm; .* norm_op = LocalResponseNorm: use plans",
        network(norm_op="torch.nn.LocalResponseNorm", norm_op_kwargs={}),
        plans="bad",
    ),
    trained(
        "preprocessed data that is missing",
        "nnUNetv2_preprocess -d 4 -plans_name bad -c 2d",
        configuration(data_identifier="elsewhere_2d"),
        plans="bad",
    ),
    trained(
        "preprocessed data of which only the folder is left",
        "preprocessed data must exist in .*empty_2d; run",
        both(
            configuration(data_identifier="empty_2d"),
            lambda world: (world.preprocessed / "empty_2d").mkdir(),
        ),
        plans="bad",
    ),
]

SPLITS = [
    trained(
        "a patient on both sides of the split",
        "fold 0 has hippocampus on both: write a splits_final.json",
        settings(patient_pattern="hippocampus"),
        plans="bad",
    ),
    trained(
        "a case on both sides of the split",
        "fold 0 has hippocampus_001 on both",
        splits(lambda content: content[0]["train"].append(content[0]["val"][0])),
    ),
    trained(
        "a pattern that matches no case",
        "'prostate' does not match 'hippocampus_",
        settings(patient_pattern="prostate"),
        plans="bad",
    ),
]

READ_GENOTYPES = [
    typed(f"a genotype {name}", "show @/genotype.json", message, arrange)
    for name, message, arrange in [
        ("that is an empty file", r"genotype\.json must be a JSON file", text("genotype.json", "")),
        (
            "that is cut off",
            r"genotype\.json must be a JSON file: .*; restore it",
            text("genotype.json", json.dumps(GENOTYPE)[:-40]),
        ),
        ("that is no text", "must be a JSON file", text("genotype.json", b"\x80\x02cell")),
        (
            "that is a list",
            r"genotype\.json must hold a genotype: .* must be a JSON object; got \[\]",
            document("genotype.json", []),
        ),
        ("that is null", "must be a JSON object; got None", document("genotype.json", None)),
        (
            "of another program",
            '"format": "nnunet-iac genotype"; got \'darts\'',
            document("genotype.json", {**GENOTYPE, "format": "darts"}),
        ),
        (
            "of a later version",
            "reads genotype version 1; the document has version 2",
            document("genotype.json", {**GENOTYPE, "version": 2}),
        ),
        (
            "whose version is true",
            "reads genotype version 1; the document has version True",
            document("genotype.json", {**GENOTYPE, "version": True}),
        ),
        (
            "without edges",
            'list its edges under "edges"; got None',
            document("genotype.json", {key: GENOTYPE[key] for key in ("format", "version")}),
        ),
        (
            "with an unknown operation",
            "0->2 has 'conv_9x9'",
            edges(lambda e: e[0].update(operation="conv_9x9")),
        ),
        (
            "with an operation that is no name",
            "must be a name; got .*None",
            edges(lambda e: e[0].update(operation=None)),
        ),
        (
            "with an edge outside the cell",
            "among 2 to 5; got 0->7",
            edges(lambda e: e[0].update(target=7)),
        ),
        (
            "with an edge backwards",
            "among 2 to 5; got 4->2",
            edges(lambda e: e[0].update(source=4)),
        ),
        ("with an edge twice", "0->2 is a duplicate", edges(lambda e: e.append(e[0]))),
        ("with a node of one edge", "node 2 has 1", edges(lambda e: e.pop(0))),
        (
            "with a node of three edges",
            "node 3 has 3",
            edges(lambda e: e.append({"source": 1, "target": 3, "operation": "identity"})),
        ),
        ("without any edge", "node 2 has 0", edges(lambda e: e.clear())),
        (
            "with nodes that are texts",
            "must be integers; got .*'0'",
            edges(lambda e: e[0].update(source="0")),
        ),
        (
            "with nodes that are fractions",
            r"must be integers; got .*2\.0",
            edges(lambda e: e[0].update(target=2.0)),
        ),
        (
            "with an edge that lacks its source",
            '"source", "target"',
            edges(lambda e: e[0].pop("source")),
        ),
        ("with an edge that is a text", "got '0->2'", edges(lambda e: e.__setitem__(0, "0->2"))),
    ]
] + [
    typed("no genotype at all", "show @/absent.json", r"absent\.json does not exist"),
    typed(
        "a folder without a genotype",
        "show @/results",
        r"fold whose search has ended; .*do not exist: let the search end",
    ),
    typed(
        "a genotype called by a name too long for any file",
        "show " + "x" * 300,
        "File name too long",
    ),
]

CHECKPOINTS = [
    typed(
        "a text called a checkpoint",
        "show @/cell.pth",
        r"cell\.pth must be an nnU-Net checkpoint",
        text("cell.pth", "alpha = 1\n"),
    ),
    typed(
        "an empty checkpoint",
        "show @/cell.pth",
        r"cell\.pth must be an nnU-Net checkpoint",
        text("cell.pth", ""),
    ),
    typed(
        "a checkpoint that is cut off",
        f"show @/{RESULTS}/nnUNetTrainer__small__2d/fold_0/checkpoint_final.pth",
        r"checkpoint_final\.pth must be an nnU-Net checkpoint",
        backbone_bytes(lambda content: content[: len(content) // 2]),
    ),
    typed(
        "a checkpoint of a plain network",
        f"show @/{RESULTS}/nnUNetTrainer__small__2d/fold_0/checkpoint_final.pth",
        "adaptive cells; .* has no genotype: name a checkpoint of",
    ),
    typed(
        "a checkpoint that is a list",
        "show @/cell.pth",
        "must be an nnU-Net checkpoint",
        lambda world: torch.save([1, 2], world.path / "cell.pth"),
    ),
    typed(
        "a checkpoint whose weights are null",
        "show @/cell.pth",
        "it has no network_weights",
        lambda world: torch.save({"network_weights": None}, world.path / "cell.pth"),
    ),
    typed(
        "a checkpoint that is still searching",
        f"show @/{RESULTS}/{LTH}__small__2d/fold_0/checkpoint_latest.pth",
        "is still searching: continue it",
        checkpoint(),
    ),
    typed(
        "a checkpoint with an unknown operation",
        "show @/cell.pth",
        r"cell\.pth must hold a genotype: .*; got 7",
        codes(torch.full((14,), 7)),
    ),
    typed(
        "a checkpoint with fractions for operations",
        "show @/cell.pth",
        r"integer from -1 to 6; got 0\.5",
        codes(torch.full((14,), 0.5)),
    ),
    typed(
        "a checkpoint with too few edges",
        "show @/cell.pth",
        r"cell\.pth must hold a genotype",
        codes(torch.zeros(3, dtype=torch.int64)),
    ),
    typed(
        "a checkpoint with a text for its genotype",
        "show @/cell.pth",
        "has no genotype",
        codes("identity"),
    ),
]

GIVEN_GENOTYPES = [
    trained(
        f"a genotype to finetune {name}",
        message,
        lambda world, arrange=arrange, path=path: both(
            arrange, settings(genotype=str(world.path / path))
        )(world),
        trainer=DISCRETE,
        plans="bad",
    )
    for name, path, message, arrange in [
        ("that does not exist", "absent.json", r"absent\.json does not exist", lambda world: None),
        ("that is cut off", "genotype.json", "must be a JSON file", text("genotype.json", "{")),
        ("with a node of one edge", "genotype.json", "node 2 has 1", edges(lambda e: e.pop(0))),
        ("in a folder without one", "results", "fold whose search has ended", lambda world: None),
        (
            "that was searched on another fold",
            "fold_1",
            "was searched on fold 1 and this is fold 0",
            _other_fold,
        ),
        (
            "whose run left a broken record",
            "fold_1",
            r"cost\.json must be a JSON file",
            both(_other_fold, text("fold_1/iac/cost.json", "{")),
        ),
        (
            "that is a plain network's checkpoint",
            f"{RESULTS}/nnUNetTrainer__small__2d/fold_0/checkpoint_final.pth",
            "has no genotype",
            lambda world: None,
        ),
    ]
]

HEAD = "decoder__seg_layers__0__weight"
STEM = "encoder__stages__0__0__convs__0__conv__weight"
BACKBONES = [
    trained(f"a backbone {name}", message, arrange)
    for name, message, arrange in [
        (
            "that is missing",
            r"none was found at\n.*checkpoint_final\.pth\n[^$]*nnUNetv2_train 4 2d 0 -p small",
            lambda world: world.backbone.unlink(),
        ),
        (
            "that is empty",
            r"final\.pth must be an nnU-Net checkpoint",
            backbone_bytes(lambda content: b""),
        ),
        (
            "that is cut off",
            r"final\.pth must be an nnU-Net checkpoint",
            backbone_bytes(lambda content: content[:-999]),
        ),
        (
            "that is a text",
            r"final\.pth must be an nnU-Net checkpoint",
            backbone_bytes(lambda content: b"weights"),
        ),
        ("that is a list", r"final\.pth must be an nnU-Net checkpoint", backbone(lambda c: [c])),
        (
            "that lacks the ending of its files",
            r"final\.pth: file_ending of dataset\.json must be one such as .*; got None",
            backbone(lambda c: delitem(c["init_args"]["dataset_json"], "file_ending")),
        ),
        (
            "without weights",
            r"final\.pth must be an nnU-Net checkpoint",
            backbone(lambda c: {"init_args": c["init_args"]}),
        ),
        (
            "with other classes",
            r"seg_layers\.0\.weight is \(3, .* and \(2, .*: use the plans",
            weights(**{HEAD: torch.zeros(2, 8, 1, 1)}),
        ),
        (
            "with other input channels",
            r"conv\.weight is \(4, 1, 3, 3\) .* and \(4, 2, 3, 3\)",
            weights(**{STEM: torch.zeros(4, 2, 3, 3)}),
        ),
        (
            "with halved numbers",
            r"conv\.weight in .* is torch\.float16 and must be torch\.float32",
            weights(**{STEM: torch.zeros(4, 1, 3, 3).half()}),
        ),
        (
            "with a layer too many",
            r"more\.weight is absent by the plans and \(1,\)",
            weights(more__weight=torch.zeros(1)),
        ),
        (
            "with a layer too few",
            r"is \(3, .*\) by the plans and absent",
            backbone(lambda c: delitem(c["network_weights"], "decoder.seg_layers.0.weight")),
        ),
        (
            "for another spacing",
            r"spacing is \[1\.0, 1\.0\] in them and \[0\.5, 0\.5\]",
            backbone_configuration(spacing=[0.5, 0.5]),
        ),
        (
            "for another normalisation",
            r"normalization_schemes is \['ZScore.* and \['CTNorm",
            backbone_configuration(normalization_schemes=["CTNormalization"]),
        ),
        (
            "of another fold",
            "was trained on fold 1, .*: use the backbone of fold 0",
            backbone(lambda c: c["init_args"].update(fold=1)),
        ),
        (
            "of all cases",
            "was trained on all cases: use the backbone of fold 0",
            backbone(lambda c: c["init_args"].update(fold="all")),
        ),
    ]
] + [
    trained(
        "a backbone_checkpoint that is a folder",
        "backbone_checkpoint must be an existing file",
        settings(backbone_checkpoint="/"),
        plans="bad",
    ),
    trained(
        "a backbone_checkpoint that does not exist",
        "must be an existing file; /absent/fold_0.pth does not",
        settings(backbone_checkpoint="/absent/fold_{fold}.pth"),
        plans="bad",
    ),
    trained(
        "a backbone_trainer that trained nothing",
        r"Nobody__small__2d.*[^$]*nnUNetv2_train 4 2d 0 -tr Nobody -p small",
        settings(backbone_trainer="Nobody"),
        plans="bad",
    ),
    trained(
        "backbone_plans that trained nothing",
        r"nnUNetTrainer__nothing__2d[^$]*nnUNetv2_train 4 2d 0 -p nothing",
        settings(backbone_plans="nothing"),
        plans="bad",
    ),
]

RESUMED = [
    trained(f"a run continued from a checkpoint {name}", message, arrange, resume=True)
    for name, message, arrange in [
        (
            "of another trainer",
            "was written by nnUNetTrainer and has no state of a search",
            lambda world: shutil.copytree(world.backbone.parent, world.fold(LTH)),
        ),
        (
            "with other settings",
            "seed is 0 in the plans and 1 in .*: restore it",
            checkpoint(lambda c: c["iac"]["settings"].update(seed=1)),
        ),
    ]
]

BENCHMARKS = [
    typed(f"a benchmark {name}", f"benchmark {words}", message)
    for name, words, message in [
        ("of nothing known", "fly", "invalid choice: 'fly'"),
        ("without repeats", "step --repeats 0", "--repeats must be at least 1; got 0"),
        ("of fewer than no batches", "search --batches -1", "--batches must be at least 2; got -1"),
        (
            "of no validation",
            "run --validation-batches 0",
            "--validation-batches must be at least 1",
        ),
        (
            "of a search too short for a preset",
            "search --set warmup_epochs=5 search_epochs=25",
            "preset=paper, which is timed as well: ",
        ),
        ("of no cells", "inference --cells 0", "--cells must be at least 1; got 0"),
        ("of no image", "step --batch-size 0", "batch size must be an integer >= 1; got 0"),
        ("of fewer than no images", "step --batch-size -2", "batch size must be .*; got -2"),
        (
            "of a batch that is a text",
            "step --batch-size many",
            "argument --batch-size: invalid int value: 'many'",
        ),
        (
            "of a patch the stages cannot halve",
            "step --patch-size 56 42",
            r"multiple of 8 x 8 .*; got \(56, 42\)",
        ),
        (
            "of a patch without extent",
            "step --patch-size 0 8",
            "patch size must be two or three .*; got 0, 8",
        ),
        (
            "of a patch with one side",
            "step --patch-size 64",
            "patch size must be two or three .*; got 64",
        ),
        (
            "of a patch with four sides",
            "step --patch-size 8 8 8 8",
            "patch size must be two or three",
        ),
        (
            "of a patch that ends as one voxel",
            "step --patch-size 8 8",
            r"one a larger one; got \(8, 8\)",
        ),
        ("of two stages", "step --features 8 8", "three or more stages, >= 1; got 8, 8"),
        (
            "of stages without channels",
            "step --features 8 0 8",
            "three or more stages, >= 1; got 8, 0, 8",
        ),
        ("with an unknown setting", "step --set sede=1", "unknown setting 'sede'; did you mean"),
        (
            "of a search too short to prune",
            "search --set search_epochs=20",
            "set search_epochs to 51 or more",
        ),
        (
            "of plans and features",
            "step -d 4 -p small --features 8 8 8",
            "plans fix the features; got both",
        ),
        (
            "of plans and a patch of another dimension",
            "step -d 4 -p small --patch-size 8 8 8",
            "patch must have 2 sides",
        ),
        (
            "of plans and a patch they cannot halve",
            "step -d 4 -p small --patch-size 56 42",
            "multiple of 4 x 4",
        ),
        (
            "of plans that do not exist",
            "step -d 4 -p absent",
            r"absent\.json does not: check -d and -p",
        ),
        ("of a data set that does not exist", "step -d 7", "data set must be an id .*; got '7'"),
        ("of a configuration that does not exist", "step -d 4 -p small -c 4d", "got 4d, has 2d"),
        (
            "of a cell that does not exist",
            "inference --genotype @/absent.json",
            r"absent\.json does not exist",
        ),
        (
            "of a cell that it would ignore",
            "step --genotype @/absent.json",
            "inference only; got step: leave it out",
        ),
        (
            "whose result cannot be written",
            "step --json @",
            "--json must name a file; .* is a folder",
        ),
        (
            "on a GPU that is not there",
            "step -device cuda",
            "the device cuda needs a GPU .*: use the device cpu",
        ),
        ("on a device nobody knows", "step -device tpu", "argument -device: invalid choice: 'tpu'"),
    ]
] + [
    typed(f"a benchmark of plans {name}", "benchmark step -d 4 -p bad", message, arrange)
    for name, message, arrange in [
        ("that are cut off", r"bad\.json must be a JSON file", text("@/bad.json", "{")),
        ("that are a list", "plans must be a JSON object", document("@/bad.json", [])),
        (
            "without an architecture",
            "network_class_name is None: make the plans again",
            without("architecture"),
        ),
        (
            "without a batch size",
            "batch size must be an integer >= 1; got 0",
            without("batch_size"),
        ),
        ("without a patch size", "patch size must be .*; got None", without("patch_size")),
        (
            "without strides",
            r"must be one that can be built; it is not \(KeyError: 'strides'",
            plans(
                lambda c: c["configurations"]["2d"]["architecture"]["arch_kwargs"].pop("strides")
            ),
        ),
        (
            "without kernels",
            r"must be one that can be built; it is not \(TypeError: .*kernel_sizes",
            plans(
                lambda c: c["configurations"]["2d"]["architecture"]["arch_kwargs"].pop(
                    "kernel_sizes"
                )
            ),
        ),
        (
            "with a keyword too many",
            r"can be built; it is not \(TypeError: .*'depth'",
            network(depth=3),
        ),
        (
            "with stages of unequal number",
            r"can be built; it is not \(AssertionError",
            network(n_stages=5),
        ),
        (
            "with a residual decoder",
            "the plans describe a ResidualUNet",
            plans(_residual_decoder),
        ),
        (
            "with settings that are null",
            "must be a JSON object; 2d of the plans 'bad' has None",
            section(None),
        ),
        (
            "beside a data set without labels",
            r"dataset\.json must have the objects channel_names and labels",
            both(
                plans(lambda c: None), document("@/dataset.json", {"channel_names": {"0": "MRI"}})
            ),
        ),
    ]
]

COMMANDS = [
    typed("a verb that does not exist", "paint", "invalid choice: 'paint'"),
    typed("a plan without a data set", "plan -c 2d -o bad", "arguments are required: -d"),
    typed(
        "a picture of another kind",
        "show @/genotype.json -o @/cell.bmp",
        r"end in \.svg or \.png; got 'cell\.bmp'",
        document("genotype.json", GENOTYPE),
    ),
    typed(
        "a picture without a kind",
        "show @/genotype.json -o @/results",
        r"end in \.svg or \.png; got 'results'",
        document("genotype.json", GENOTYPE),
    ),
]


def _flip(content: bytes) -> bytes:
    """Flip one bit of the largest tensor; between the tensors of a file lies padding."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        tensor = archive.read(max(archive.infolist(), key=lambda record: record.file_size))
    place = content.index(tensor) + len(tensor) // 2
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


INNER_NAMES = [
    trained(
        f"plans called {shown} inside",
        f"plans identifier must be a plain file name .*; got {re.escape(repr(name))}",
        plans(lambda content, name=name: content.update(plans_name=name)),
        plans="bad",
        before_nnunet=True,
    )
    for name, shown in [
        ("../../evil", "by a path upwards"),
        ("/evil", "by an absolute path"),
        ("a__b", "with two underscores"),
        ("", "by nothing"),
        (3, "by a number"),
        (None, "by null"),
    ]
] + [
    trained(
        f"plans of a data set called {shown}",
        f"dataset_name of plans must be .*; got {re.escape(repr(name))}",
        plans(lambda content, name=name: content.update(dataset_name=name)),
        plans="bad",
        before_nnunet=True,
    )
    for name, shown in [
        ("../../evil", "by a path upwards"),
        ("Dataset004_../../evil", "by a path after its number"),
        ("Hippocampus", "without a number"),
    ]
]
DAMAGED_BACKBONES = [
    trained(f"a backbone {name}", message, arrange)
    for name, message, arrange in [
        ("with one bit flipped", r"checkpoint_final\.pth .*damaged", backbone_bytes(_flip)),
        (
            "beside a broken summary",
            r"summary\.json must be a JSON file",
            lambda world: text(
                str(world.backbone.parent.relative_to(world.path) / "validation/summary.json"), "{"
            )(world),
        ),
        (
            "validated on other cases",
            "another split: hippocampus_",
            lambda world: document(
                str(world.backbone.parent.relative_to(world.path) / "validation/summary.json"),
                {
                    "metric_per_case": [
                        {"prediction_file": "liver_001.nii.gz", "reference_file": "", "metrics": {}}
                    ]
                },
            )(world),
        ),
    ]
]
RESUMED_OTHERS = [
    trained(f"a run continued from a checkpoint {name}", message, arrange, resume=True)
    for name, message, arrange in [
        (
            "that is empty",
            r"latest\.pth must be an nnU-Net checkpoint",
            checkpoint_bytes(lambda content: b""),
        ),
        (
            "that is cut off",
            r"latest\.pth must be an nnU-Net checkpoint",
            checkpoint_bytes(lambda content: content[:-999]),
        ),
        (
            "that is a text",
            r"latest\.pth must be an nnU-Net checkpoint",
            checkpoint_bytes(lambda content: b"weights"),
        ),
        ("with one bit flipped", r"latest\.pth .*damaged", checkpoint_bytes(_flip)),
        ("that is a list", r"latest\.pth must be an nnU-Net checkpoint", checkpoint(lambda c: [c])),
        (
            "of another release",
            r"latest\.pth has format 99",
            checkpoint(lambda c: c["iac"].update(format=99)),
        ),
        (
            "of another fold",
            r"fold is 0 here and 1 in .*latest\.pth",
            checkpoint(lambda c: c["iac"]["run"].update(fold=1)),
        ),
        (
            "of another method",
            f"trainer is '{LTH}' here and '{FULL}' in ",
            checkpoint(lambda c: c["iac"]["run"].update(trainer=FULL)),
        ),
    ]
] + [
    trained(
        "a cell that differs from the other folds'",
        r"share their structural settings; channel_ratio is 0\.25 here and 0\.5 in fold_3",
        lambda world: [
            RunFolder.of_fold(world.fold(LTH).parent / "fold_3").write_settings(
                Settings(channel_ratio=0.5)
            ),
            (world.fold(LTH).parent / "fold_3/checkpoint_final.pth").touch(),
        ],
    ),
    trained(
        "another fold whose checkpoint is empty",
        r"fold_3.checkpoint_final\.pth must be an nnU-Net checkpoint",
        lambda world: text(f"{RESULTS}/{LTH}__small__2d/fold_3/checkpoint_final.pth", "")(world),
    ),
    trained(
        "another fold whose settings are broken",
        r"settings\.json must be a JSON",
        lambda world: [
            text(f"{RESULTS}/{LTH}__small__2d/fold_3/{name}", "{")(world)
            for name in ("iac/settings.json", "checkpoint_final.pth")
        ],
    ),
    trained(
        "a run continued whose checkpoint is gone",
        "must hold a checkpoint; it has none, though iac records 3 epochs",
        lambda world: RunFolder.of_fold(world.fold(LTH)).write_cost(
            CostRecord(phases={"search": PhaseCost(3, 1.0)})
        ),
        resume=True,
    ),
]
REPLAYS = [
    typed(f"a replay of {name}", f"replay @/{path}", message, arrange)
    for name, path, message, arrange in [
        ("a folder that does not exist", "absent", "absent", lambda world: None),
        ("a folder without a record", "results", "results", lambda world: None),
        (
            "a broken trajectory",
            "fold_1",
            r"trajectory\.npz",
            both(
                _other_fold,
                text("fold_1/iac/events.jsonl", ""),
                text("fold_1/iac/trajectory.npz", "PK"),
            ),
        ),
    ]
]


def _one_training_case(content: list[Any]) -> None:
    content[0]["train"] = content[0]["train"][:1]


UNFIT_PLANS = [
    trained(
        "a data identifier that leads elsewhere",
        "data_identifier must be the plain name of a folder; got '../../elsewhere'",
        plans(lambda c: c["configurations"]["2d"].update(data_identifier="../../elsewhere")),
        plans="bad",
        before_nnunet=True,
    ),
    trained(
        "a file ending that leads elsewhere",
        r"file_ending of dataset\.json must be one such as .*; got '/\.\./\.\./elsewhere\.nii\.gz'",
        lambda world: write_json(
            world.preprocessed / "dataset.json",
            {
                **read_json(world.preprocessed / "dataset.json"),
                "file_ending": "/../../elsewhere.nii.gz",
            },
        ),
        before_nnunet=True,
    ),
    trained(
        "plans of a data set called by null",
        "dataset_name of plans must be .*; got None",
        plans(lambda content: content.update(dataset_name=None)),
        plans="bad",
        before_nnunet=True,
    ),
    trained(
        "plans without a name",
        "plans identifier must be a plain file name .*; got None",
        plans(lambda content: content.pop("plans_name")),
        plans="bad",
        before_nnunet=True,
    ),
    trained(
        "plans without an architecture",
        "network_class_name is None: make the plans again",
        without("architecture"),
        plans="bad",
        before_nnunet=True,
    ),
    trained(
        "plans with a network without arguments",
        "arch_kwargs is None: make the plans again",
        plans(lambda c: c["configurations"]["2d"]["architecture"].pop("arch_kwargs")),
        plans="bad",
        before_nnunet=True,
    ),
    trained(
        "plans with a network without kernels",
        r"can be built; it is not \(TypeError: .*kernel_sizes",
        plans(
            lambda c: c["configurations"]["2d"]["architecture"]["arch_kwargs"].pop("kernel_sizes")
        ),
        plans="bad",
    ),
    trained(
        "plans with a network without kernels for the control",
        r"can be built; it is not \(TypeError: .*kernel_sizes",
        plans(
            lambda c: delitem(
                c["configurations"]["2d"]["architecture"]["arch_kwargs"], "kernel_sizes"
            )
        ),
        trainer="nnUNetTrainerContinue",
        plans="bad",
    ),
    trained(
        "plans with stages of unequal number",
        r"can be built; it is not \(AssertionError",
        network(n_stages=5),
        plans="bad",
    ),
    trained(
        "plans without a batch size",
        "batch_size.*make the plans again",
        without("batch_size"),
        plans="bad",
        before_nnunet=True,
    ),
    trained(
        "plans without a patch size",
        "patch_size.*make the plans again",
        without("patch_size"),
        plans="bad",
        before_nnunet=True,
    ),
    trained(
        "plans without a data identifier",
        "data_identifier.*make the plans again",
        without("data_identifier"),
        plans="bad",
        before_nnunet=True,
    ),
    trained("a fold below zero", "fold must be .*; got -1", fold=-1, before_nnunet=True),
]

UNFIT_SPLITS = [
    trained(f"splits {name}", message, arrange, trainer=trainer)
    for name, message, arrange, trainer in [
        (
            "that are cut off",
            r"splits_final\.json must be a JSON file",
            text("@/splits_final.json", '[{"train": '),
            LTH,
        ),
        (
            "that are an object",
            r"splits_final\.json must ",
            document("@/splits_final.json", {"train": []}),
            LTH,
        ),
        (
            "without training cases",
            r"splits_final\.json must .*train",
            splits(lambda c: delitem(c[0], "train")),
            LTH,
        ),
        (
            "without validation cases",
            r"splits_final\.json must .*val",
            splits(lambda c: delitem(c[0], "val")),
            LTH,
        ),
        (
            "whose training list is empty",
            r"splits_final\.json must .*train",
            splits(lambda c: c[0].update(train=[])),
            LTH,
        ),
        (
            "whose training list is a text",
            r"splits_final\.json must .*train",
            splits(lambda c: c[0].update(train="hippocampus_001")),
            LTH,
        ),
        (
            "whose validation list is a text",
            r"splits_final\.json must .*val",
            splits(lambda c: c[0].update(val="hippocampus_001")),
            LTH,
        ),
        (
            "with a case that is not preprocessed",
            r"splits_final\.json must .*liver_001",
            splits(lambda c: c[0]["train"].append("liver_001")),
            LTH,
        ),
        (
            "with a single patient for the full search",
            "at least two patients .*have 1",
            splits(_one_training_case),
            FULL,
        ),
    ]
]
UNFIT_BACKBONES = [
    trained(f"a backbone {name}", message, arrange)
    for name, message, arrange in [
        (
            "without its origin",
            r"checkpoint_final\.pth .*init_args",
            backbone(lambda c: delitem(c, "init_args")),
        ),
        (
            "without its trainer",
            r"checkpoint_final\.pth .*trainer_name",
            backbone(lambda c: delitem(c, "trainer_name")),
        ),
        (
            "whose weights are a list",
            r"checkpoint_final\.pth .*network_weights",
            backbone(lambda c: c.update(network_weights=[1])),
        ),
        (
            "whose plans are null",
            r"checkpoint_final\.pth .*plans",
            backbone(lambda c: c["init_args"].update(plans=None)),
        ),
        (
            "whose plans lack its configuration",
            r"checkpoint_final\.pth .*configuration",
            backbone(lambda c: c["init_args"].update(configuration="4d")),
        ),
        (
            "with a text for a layer",
            r"seg_layers\.0\.weight.*checkpoint_final\.pth",
            weights(**{HEAD: "weights"}),
        ),
        (
            "with a weight that is no number",
            r"finite.*checkpoint_final\.pth|checkpoint_final\.pth.*finite",
            weights(**{HEAD: torch.full((3, 8, 1, 1), math.nan)}),
        ),
        (
            "beside a summary without cases",
            r"summary\.json must",
            lambda world: text(
                str(world.backbone.parent.relative_to(world.path) / "validation/summary.json"), "{}"
            )(world),
        ),
    ]
]
UNFIT_RUNS = [
    trained(f"a run continued from a checkpoint {name}", message, arrange, resume=True)
    for name, message, arrange in [
        ("whose record is null", r"latest\.pth", checkpoint(lambda c: c.update(iac=3))),
        ("without its run", r"latest\.pth", checkpoint(lambda c: delitem(c["iac"], "run"))),
        (
            "without its settings",
            r"latest\.pth",
            checkpoint(lambda c: delitem(c["iac"], "settings")),
        ),
        ("without its phases", r"latest\.pth", checkpoint(lambda c: delitem(c["iac"], "phases"))),
        (
            "without its optimiser",
            r"latest\.pth",
            checkpoint(lambda c: delitem(c, "optimizer_state")),
        ),
        (
            "with a layer too few",
            r"latest\.pth",
            checkpoint(lambda c: delitem(c["network_weights"], "alpha")),
        ),
        (
            "with an impossible cell",
            r"latest\.pth.*got 7|got 7.*latest\.pth",
            checkpoint(lambda c: c["network_weights"].update(genotype_codes=torch.full((14,), 7))),
        ),
    ]
] + [
    trained(
        "another fold whose checkpoint is a plain network's",
        r"fold_3.checkpoint_final\.pth",
        lambda world: shutil.copytree(world.backbone.parent, world.fold(LTH).parent / "fold_3"),
    ),
]


def running(key: str = "nonlin", name: str = "subprocess.Popen") -> Arrange:
    """Write plans, and those of the backbone's model, whose network would make a file."""

    def arrange(world: World) -> None:
        def change(content: dict[str, Any]) -> None:
            described = content["configurations"]["2d"]["architecture"]
            values = {"args": ["touch", str(world.path / "touched")]}
            if key == "network_class_name":
                described[key] = name
            else:
                described["arch_kwargs"] |= {key: name, f"{key}_kwargs": values}

        plans(change)(world)
        model = world.backbone.parent.parent
        shutil.copy(world.preprocessed / "bad.json", model / "plans.json")
        shutil.copy(world.preprocessed / "dataset.json", model)
        shutil.copytree(model, world.path / "renamed")

    return arrange


def _study_of_bad_plans(world: World) -> None:
    running()(world)
    dataset, backbones = {"dataset": 4}, {"short": {"plans": "bad"}}
    content = {"name": "s", "datasets": [dataset], "backbones": backbones, "methods": {}}
    write_json(world.path / "study.yaml", content)


NAMED_ONLY = "plans may name networks and layers of torch.nn, .* only, .*; got "
RUN = f"{NAMED_ONLY}'subprocess.Popen'"
MODEL = "results/Dataset004_Hippocampus/nnUNetTrainer__small__2d"
COMMANDS_IN_PLANS = [
    *(
        typed(f"plans that run a command: {words.partition(' -o')[0]}", words, RUN, running())
        for words in (
            "plan -d 4 -c 2d -p bad -o worse",
            "xtiny -d 4 -c 2d -p bad --cap 4 --dry-run",
            "benchmark step -d 4 -p bad",
            "pareto -d 4 -c 2d -p bad --caps 4 -o @/widths --dry-run",
            f"export @/{MODEL} -o @/exported",
            f"adapt -s @/{MODEL} -d 4 -c 2d",
            f"predict -m @/{MODEL} --adapter none -i @/raw -o @/predicted",
            "predict -m @/renamed --adapter none -i @/raw -o @/predicted",
        )
    ),
    typed("a study of plans that run a command", "study @/study.yaml", RUN, _study_of_bad_plans),
    *(
        trained(f"plans that run a command: {trainer}", RUN, running(), trainer, "bad", **how)
        for trainer, how in (
            (LTH, {"before_nnunet": True}),
            ("nnUNetTrainerContinue", {"before_nnunet": True}),
            ("nnUNetTrainerAdam_8epochs", {}),
        )
    ),
    *(
        trained(
            f"plans with {name} as {key}",
            f"{NAMED_ONLY}'{name}'",
            running(key, name),
            plans="bad",
            before_nnunet=True,
        )
        for key, name in (
            ("conv_op", "this"),
            ("network_class_name", "os.system"),
            ("network_class_name", "torch.nn.functional.warnings.warn"),
            ("network_class_name", "nnunet_iac.nn.timm_unet.load_encoder_weights"),
            ("unet", "torch.jit.ScriptModule"),
        )
    ),
]

AREAS = {
    "settings": [*SETTINGS],
    "plans": [*IDENTIFIERS, *WHERE, *SOURCES, *TRAINED_PLANS, *INNER_NAMES, *UNFIT_PLANS],
    "splits and data": [*SPLITS, *UNFIT_SPLITS],
    "genotypes": [*READ_GENOTYPES, *GIVEN_GENOTYPES],
    "checkpoints": [*CHECKPOINTS],
    "backbones": [*BACKBONES, *DAMAGED_BACKBONES, *UNFIT_BACKBONES],
    "checkpoints to continue from": [*RESUMED, *RESUMED_OTHERS, *UNFIT_RUNS],
    "flags of commands": [*BENCHMARKS, *COMMANDS],
    "records to replay": [*REPLAYS],
    "commands in plans": [*COMMANDS_IN_PLANS],
}
ENTRIES = [entry for entries in AREAS.values() for entry in entries]


# --- the tests -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(planned: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with a backbone's initial weights and with a run broken off in its first epoch."""
    path = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in planned.environment.items():
            patch.setenv(name, value)
        patch.setenv("nnUNet_results", str(path / "results"))
        stock = _trainer("nnUNetTrainer", "small", 0)
        stock.initialize()
        stock.save_checkpoint(str(Path(stock.output_folder) / "checkpoint_final.pth"))
        run = _trainer(LTH, "small", 0)
        run.on_train_start()
        run.save_checkpoint(str(Path(run.output_folder) / "checkpoint_latest.pth"))
        for trainer in (stock, run):
            Path(trainer.log_file).unlink()
    return path


@pytest.fixture
def world(planned: Any, made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """Own folders: plans, splits and a backbone, and links to the cases and the raw images."""
    own = World(tmp_path, tmp_path / "preprocessed" / planned.preprocessed.name, made)
    raw = Path("raw", planned.preprocessed.name)  # Not all: other tests write data sets.
    (tmp_path / raw.parent).mkdir()
    (tmp_path / raw).symlink_to(planned.path / raw)
    planned.share(own.preprocessed)
    for name, value in dataclasses.replace(planned, path=tmp_path).environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    own.backbone.parent.mkdir(parents=True)
    shutil.copy(made / own.backbone.relative_to(tmp_path), own.backbone)
    return own


@pytest.mark.parametrize(
    "entry",
    ENTRIES,
    ids=[f"{area}: {entry.name}" for area, entries in AREAS.items() for entry in entries],
)
def test_bad_input_is_refused_with_its_cure_and_changes_nothing(
    world: World, entry: Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    entry.arrange(world)
    before = world.files()
    message = entry.feed(world, capsys)
    assert re.search(entry.message, message), message
    after = world.files()
    made = {name: after.pop(name) for name in set(after) - set(before)}
    assert after == before
    log = rf"{re.escape(entry.folder or '')}/(iac\.lock|training_log_[\d_]+\.txt)"
    folders = () if entry.folder is None else (entry.folder, str(Path(entry.folder).parent))
    strange = [name for name in made if name not in folders and not re.fullmatch(log, name)]
    assert not strange


def test_the_world_alone_is_no_bad_input(world: World) -> None:
    trainer = _trainer(LTH, "small", 0)
    trainer.on_train_start()
    assert trainer.run.recorder.folder.read_backbone().leakage is None
    assert main(["plan", "-d", "4", "-c", "2d", "-p", "small", "-o", "good"]) == 0


def test_an_unset_folder_of_preprocessed_data_is_named(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("nnUNet_preprocessed")
    before = world.files()
    for words in (["plan", "-d", "4", "-c", "2d", "-o", "bad"], ["benchmark", "step", "-d", "4"]):
        assert main(words) == 2
        assert "nnUNet_preprocessed must name" in capsys.readouterr().err
    assert world.files() == before


def test_the_names_of_the_entries_differ() -> None:
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES) >= 70
