"""The command nnunet-iac: a function per verb.

A verb imports what it needs when it runs, so that the light ones start fast.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import TextIO, cast

import nnunet_iac
from nnunet_iac.cli import (
    adaptation,
    benchmark,
    export,
    installation,
    plan,
    scores,
    search,
    studies,
    xtiny,
)
from nnunet_iac.cli.options import HelpText
from nnunet_iac.host.terminal import HarmlessStream

VERBS = (
    studies.add_demo,
    plan.add_plan,
    adaptation.add_adapt,
    adaptation.add_adapter,
    adaptation.add_predict,
    xtiny.add_xtiny,
    studies.add_pareto,
    studies.add_study,
    export.add_export,
    search.add_show,
    search.add_replay,
    scores.add_compare,
    scores.add_report,
    benchmark.add_benchmark,
    installation.add_doctor,
    installation.add_trainers_dir,
)
"""In the order of the help."""

DESCRIPTION = """\
Add small adaptive cells (Implantable Adaptive Cells) to the skip connections of a U-Net that \
nnU-Net has trained, adapt it to another site, and compare with controls.

Research software, not a medical device."""

WHERE_TO_START = """\
start here:
  nnunet-iac demo --quick                              try every step on embedded data, in a minute
  eval "$(nnunet-iac trainers-dir --export)"           let nnU-Net find the trainers
  nnunet-iac doctor                                    check the installation
  nnUNetv2_train 4 2d 0                                train the backbone, if you have none
  nnUNetv2_train 4 2d 0 -tr nnUNetTrainerIACDiscrete   retrofit it with a random cell
  nnUNetv2_train 4 2d 0 -tr nnUNetTrainerIACLTH        retrofit it with a searched cell
  nnUNetv2_train 4 2d 0 -tr nnUNetTrainerContinue      the control: the backbone trained for longer
  nnunet-iac report FOLD -o report                     write a page on what the cells gain

nnunet-iac VERB --help explains a verb and shows an example."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit status.

    0; 1 where the doctor found faults, a replay disagrees or an ONNX file is not its network; 2 for
    an error; 130 after Ctrl-C.
    """
    # Read once, when torch is imported; other processes get the cores of threads that wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    parser = _parser()
    _complete(parser)
    if not (sys.argv[1:] if argv is None else argv):
        parser.print_help(sys.stderr)
        return 2
    arguments, more = parser.parse_known_args(argv)
    if more and not hasattr(arguments, "more"):
        arguments.usage_error(f"unrecognized arguments: {' '.join(more)}")
    arguments.more = more
    streams = HarmlessStream(sys.stdout), HarmlessStream(sys.stderr)
    with redirect_stdout(cast(TextIO, streams[0])), redirect_stderr(cast(TextIO, streams[1])):
        try:
            status: int = arguments.verb(arguments)
        except (ValueError, RuntimeError, OSError) as error:
            print(f"error: {error}".replace("\r", "\\r"), file=sys.stderr)
            return 2
        except KeyboardInterrupt as error:
            print(f"interrupted: {str(error) or 'run the same command again'}", file=sys.stderr)
            return 130
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-iac", description=DESCRIPTION, epilog=WHERE_TO_START, formatter_class=HelpText
    )
    parser.add_argument(
        "--version", action="version", version=nnunet_iac.__version__, help="print the version"
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    for add in VERBS:
        add(verbs)
    return parser


def _complete(parser: argparse.ArgumentParser) -> None:
    """Answer a shell that asks for completions, if the extra `completion` is installed."""
    if importlib.util.find_spec("argcomplete") is not None:
        import argcomplete

        argcomplete.autocomplete(parser)
