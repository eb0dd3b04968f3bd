"""The whole method on a small real data set."""

import argparse
import os
from pathlib import Path

from nnunet_iac.cli.shared import Verbs, add_device


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser("demo", help="the whole method on a small real data set, in minutes")
    parser.add_argument("-o", metavar="DIR", type=Path, default=Path("demo"), help="default: demo")
    add_device(parser)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a tiny network and few iterations: checks in about a minute that everything works",
    )
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    # Read once, when torch is imported. Commands are forks of this process, and inherit it.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    from nnunet_iac.workflow.demo import run_demo

    page = run_demo(
        arguments.o, arguments.device, arguments.quick, lambda line: print(line, flush=True)
    )
    print(f"report: {page}\nreport of the run alone: {page.parent / 'run' / 'index.html'}")
    return 0
