"""Write a page about runs."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import Verbs


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser(
        "report",
        help="a page about one or many runs, finished or not",
        description="RUN: a fold folder with a record, a model folder, or a folder of models. "
        "Controls beside a run are included.",
    )
    parser.add_argument("runs", metavar="RUN", type=Path, nargs="+")
    parser.add_argument("-o", metavar="DIR", type=Path, required=True, help="folder of the report")
    parser.add_argument(
        "--paper", action="store_true", help="the paper's tables and figures as well, in DIR/paper"
    )
    parser.add_argument(
        "--margin",
        metavar="DICE",
        type=float,
        default=0.01,
        help="loss of Dice up to which cells are not inferior (default: 0.01)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of the bootstrap (default: 0)"
    )
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    from nnunet_iac.analysis.report.document import write_report

    page = write_report(
        arguments.runs,
        arguments.o,
        paper=arguments.paper,
        margin=arguments.margin,
        seed=arguments.seed,
    )
    print(f"report: {page}")
    return 0
