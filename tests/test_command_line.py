"""The help of every verb, and the options that several verbs share."""

import argparse
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from nnunet_iac import cli
from nnunet_iac.analysis.scores.statistics import MARGIN
from nnunet_iac.analysis.scores.surface import TOLERANCE
from nnunet_iac.benchmark.report import Amounts
from nnunet_iac.cli import main, options
from nnunet_iac.host.architectures import ENCODER_NAMES, PAPER_PROTOCOL
from nnunet_iac.host.devices import DEVICES, default_device, require_device
from nnunet_iac.host.trainer_lookup import exported_trainers, trainers_dir
from nnunet_iac.nn.skip_modules import SKIP_MODULES
from nnunet_iac.training.provenance import provenance
from nnunet_iac.width import study as width_study
from nnunet_iac.width.selection import RULES
from nnunet_iac.width.sensitivity import Score
from nnunet_iac.workflow.pareto import STYLES

Parser = argparse.ArgumentParser


def _below(name: str, parser: Parser) -> Iterator[tuple[str, Parser]]:
    """Yield all verbs of a parser, and their own verbs, by the words that users type."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb, own in action.choices.items():
                yield f"{name} {verb}", own
                yield from _below(f"{name} {verb}", own)


VERBS = dict(_below("nnunet-iac", cli._parser()))
each_verb = pytest.mark.parametrize("verb", VERBS)


def _actions(parser: Parser) -> list[argparse.Action]:
    kinds = (argparse._HelpAction, argparse._SubParsersAction)
    return [action for action in parser._actions if not isinstance(action, kinds)]


def _option(verb: str, name: str) -> argparse.Action:
    return VERBS[verb]._option_string_actions[name]


def _help(action: argparse.Action, parser: Parser) -> str:
    """Return the help of an option as it is printed."""
    return parser._get_formatter()._expand_help(action) if action.help else ""


def test_the_first_help_states_where_to_start_and_what_the_software_is_not() -> None:
    assert "Research software, not a medical device." in cli._parser().format_help()
    typed = re.findall(r"^  (\S.*?)  +\S", cli.WHERE_TO_START, re.MULTILINE)
    assert len(typed) == len(re.findall("^  ", cli.WHERE_TO_START, re.MULTILINE))
    for command in typed:
        _require_typable(command)


@each_verb
def test_a_verb_has_a_description_and_examples_that_are_understood(verb: str) -> None:
    assert len((VERBS[verb].description or "").split()) > 3
    examples = _examples(verb)
    assert any(f"{verb} " in f"{example} " for example in examples)
    for example in examples:
        assert example in VERBS[verb].format_help()
        _require_typable(example)


def _examples(verb: str) -> list[str]:
    title, *lines = (VERBS[verb].epilog or "").splitlines()
    assert title == ("example:" if len(lines) == 1 else "examples:")
    return [line.strip() for line in lines]


def _require_typable(command: str) -> None:
    """Check that a command names verbs, options and trainers that exist."""
    inner = re.fullmatch(r'eval "\$\((.*)\)"', command)
    program, *words = shlex.split(inner[1] if inner else command)
    if program == "nnunet-iac":
        assert cli._parser().parse_args(words).verb
    else:
        assert program in ("nnUNetv2_train", "nnUNetv2_predict_from_modelfolder")
    if "-tr" in words:
        assert words[words.index("-tr") + 1] in exported_trainers(trainers_dir())


@each_verb
def test_every_option_has_a_help_that_states_its_default(verb: str) -> None:
    for action in _actions(VERBS[verb]):
        text = _help(action, VERBS[verb])
        assert text, action.dest
        if action.option_strings and action.nargs != 0 and not action.required:
            assert "(default: " in text, action.dest


@each_verb
def test_a_default_that_is_a_value_is_shown_as_it_is(verb: str) -> None:
    for action in _actions(VERBS[verb]):
        values = action.default if isinstance(action.default, list) else [action.default]
        shown = " ".join(str(value) for value in values if value is not None)
        if action.nargs != 0 and shown and "(default: " not in str(action.help):
            assert f"(default: {shown})" in _help(action, VERBS[verb])


@each_verb
def test_an_output_is_named_by_what_it_is(verb: str) -> None:
    output = VERBS[verb]._option_string_actions.get("-o")
    if output is not None:
        known = {"NEW_PLANS": None, "FILE": Path, "DIR": Path, "OUT": Path}
        assert output.type is known[str(output.metavar)]


@pytest.mark.parametrize(
    ("verb", "option", "values"),
    [
        ("plan", "--encoder", ENCODER_NAMES),
        ("plan", "--skip", SKIP_MODULES),
        ("plan", "--protocol", (PAPER_PROTOCOL,)),
        ("xtiny", "--rule", RULES),
        ("xtiny", "--score", get_args(Score)),
    ],
)
def test_choices_are_those_of_the_code(verb: str, option: str, values: Any) -> None:
    assert tuple(_option(f"nnunet-iac {verb}", option).choices or ()) == tuple(values)


@pytest.mark.parametrize(
    ("verb", "option", "default"),
    [
        ("xtiny", "-K", width_study.IMAGES),
        ("compare", "--margin", MARGIN),
        ("report", "--margin", MARGIN),
        ("benchmark", "--repeats", Amounts().repeats),
        ("benchmark", "--batches", Amounts().batches),
        ("benchmark", "--validation-batches", Amounts().validation_batches),
        ("benchmark", "--cells", Amounts().cells),
    ],
)
def test_defaults_are_those_of_the_code(verb: str, option: str, default: Any) -> None:
    assert _option(f"nnunet-iac {verb}", option).default == default


def test_defaults_in_words_are_those_of_the_code() -> None:
    assert f"(default: {TOLERANCE:g})" in str(_option("nnunet-iac compare", "--tolerance").help)
    seeds = str(_option("nnunet-iac xtiny", "--seeds").help)
    curve, dispersion = (len(width_study.default_seeds(r)) for r in ("curve", "dispersion"))
    assert f"(default: {curve}; with --rule dispersion: {dispersion})" in seeds


# --- options that several verbs share ------------------------------------------------------------


def _parsed(parser: Parser, *words: str) -> dict[str, Any]:
    """Return what the words of an option are read as, whatever else the verb demands."""
    for action in parser._actions:
        action.required = False
    return vars(parser.parse_known_args(list(words))[0])


def _having(option: str) -> Any:
    found = [verb for verb, parser in VERBS.items() if option in parser._option_string_actions]
    assert found
    return pytest.mark.parametrize("verb", found)


def _fresh(verb: str) -> Parser:
    return dict(_below("nnunet-iac", cli._parser()))[verb]


@_having("--set")
def test_settings_of_every_set_add_up(verb: str) -> None:
    words = ("--set", "seed=1", "preset=swift", "--set", "norm=batch")
    found = _parsed(_fresh(verb), *words)["assignments"]
    assert found == ["seed=1", "preset=swift", "norm=batch"]


@pytest.mark.parametrize(
    ("verb", "option", "found"),
    [
        ("pareto", "-f", [0, 1]),
        ("predict", "-f", ["0", "1"]),
        ("pareto", "--caps", [0, 1]),
        ("xtiny", "--caps", [0, 1]),
        ("xtiny", "--within", [0, 1]),
        ("pareto", "--methods", ["iac", "random"]),
    ],
)
@pytest.mark.parametrize("between", [" ", ","])
def test_lists_have_spaces_as_in_nnunet_or_commas(
    verb: str, option: str, found: Any, between: str
) -> None:
    parser = _fresh(f"nnunet-iac {verb}")
    name = parser._option_string_actions[option].dest
    words = between.join(map(str, found)).split()
    assert _parsed(parser, option, *words)[name] == found


def test_the_methods_of_pareto_are_known_and_no_others(capsys: pytest.CaptureFixture[str]) -> None:
    parser = _fresh("nnunet-iac pareto")
    assert set(parser._option_string_actions["--methods"].choices or ()) == set(STYLES)
    with pytest.raises(SystemExit):
        main(["pareto", "-d", "4", "-c", "2d", "--caps", "8", "--methods", "random,darts"])
    assert "invalid choice: 'random,darts'" in capsys.readouterr().err


def test_a_word_too_many_ends_with_the_usage_of_its_verb(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["xtiny", "-d", "4", "-c", "2d", "-f", "0", "1"])
    assert capsys.readouterr().err.startswith("usage: nnunet-iac xtiny")


@_having("-device")
def test_every_verb_takes_the_same_devices_and_chooses_if_none_is_given(verb: str) -> None:
    action = _option(verb, "-device")
    assert (action.choices, action.default) == (DEVICES, None)
    assert "(default: cuda if torch finds a GPU, else cpu)" in str(action.help)


@pytest.mark.parametrize(("found", "device"), [(True, "cuda"), (False, "cpu")])
def test_the_device_is_cuda_if_there_is_one_and_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: bool, device: str
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: found)
    assert default_device() == device
    assert options.device_of(argparse.Namespace(device=None)) == device
    assert capsys.readouterr().err == f"device: {device}\n"


@pytest.mark.parametrize(
    ("device", "where"),
    [("cuda", "torch.cuda"), ("cuda:1", "torch.cuda"), ("mps", "torch.backends.mps")],
)
def test_a_device_is_taken_where_torch_has_it(
    monkeypatch: pytest.MonkeyPatch, device: str, where: str
) -> None:
    monkeypatch.setattr(f"{where}.is_available", lambda: True)
    require_device(device)
    monkeypatch.setattr(f"{where}.is_available", lambda: False)
    with pytest.raises(
        RuntimeError, match=f"the device {device} needs a GPU .* use the device cpu"
    ):
        require_device(device)


def test_a_run_on_the_cpu_does_not_ask_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has asked for CUDA cannot use it after a fork."""

    def asked() -> bool:
        raise AssertionError

    monkeypatch.setattr("torch.cuda.is_available", asked)
    require_device("cpu")
    assert provenance().hardware["gpu"] is None


# --- the trainers' folder ------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["", "{other}", "{ours}", "{other}:{ours}", "{other}::{more}"])
def test_the_export_keeps_the_folders_that_are_listed_and_names_ours_once(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    before: str,
) -> None:
    names = {"other": tmp_path / "my trainers", "more": tmp_path / "$more", "ours": trainers_dir()}
    given = before.replace(":", os.pathsep).format(**names)
    monkeypatch.setenv("nnUNet_extTrainer", given)
    assert main(["trainers-dir", "--export"]) == 0
    line = capsys.readouterr().out
    show = [sys.executable, "-c", "import os; print(os.environ['nnUNet_extTrainer'], end='')"]
    shell = ["bash", "-c", f"{line}{shlex.join(show)}"]
    found = subprocess.run(shell, capture_output=True, text=True, check=True).stdout
    kept = [folder for folder in given.split(os.pathsep) if folder]
    ours = [] if str(trainers_dir()) in kept else [str(trainers_dir())]
    assert found.split(os.pathsep) == kept + ours


# --- completion ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("xti", {"xtiny"}), ("xtiny --rule c", {"curve"}), ("plan --sk", {"--skip"})],
)
def test_a_shell_completes_verbs_options_and_choices(
    tmp_path: Path, typed: str, completed: set[str]
) -> None:
    line, out = f"nnunet-iac {typed}", tmp_path / "out"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": " "}
    asked |= {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(out)}
    command = [sys.executable, "-c", "from nnunet_iac.cli import main; main()"]
    subprocess.run(command, env={**os.environ, **asked}, check=True)
    assert set(out.read_text().split()) == completed
