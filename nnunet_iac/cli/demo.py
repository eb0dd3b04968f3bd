"""The whole method on a small real data set."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import Verbs, add_device


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser("demo", help="the whole method on a small real data set, in minutes")
    parser.add_argument("-o", metavar="DIR", type=Path, default=Path("demo"), help="default: demo")
    add_device(parser)
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    from nnunet_iac.analysis.report.demo import write_demo_report
    from nnunet_iac.analysis.report.document import write_report
    from nnunet_iac.host.demo import run_demo

    summary = run_demo(arguments.o, arguments.device, lambda line: print(line, flush=True))
    page = write_demo_report(arguments.o, summary)
    own = write_report([arguments.o / summary["run_folder"]], page.parent / "run")
    print(f"report: {page}\nreport of the run alone: {own}")
    return 0
