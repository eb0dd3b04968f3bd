"""The command nnunet-iac: a function per verb.

A verb imports what it needs when it runs, so that the light ones start fast.
"""

import argparse
import os
import sys
from collections.abc import Sequence

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


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb; return the exit status.

    0; 1 where the doctor found faults, a replay disagrees or an ONNX file is not its network; 2 for
    an error.
    """
    # Read once, when torch is imported; other processes get the cores of threads that wait.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    parser = _parser()
    arguments, more = parser.parse_known_args(argv)
    if more and not hasattr(arguments, "more"):
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    arguments.more = more
    try:
        status: int = arguments.verb(arguments)
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnunet-iac", description="Implantable Adaptive Cells for nnU-Net."
    )
    parser.add_argument(
        "--version", action="version", version=nnunet_iac.__version__, help="print the version"
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for add in VERBS:
        add(verbs)
    return parser
