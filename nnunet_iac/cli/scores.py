"""Compare the scores of nnU-Nets, and write pages about runs."""

import argparse
from pathlib import Path
from typing import Any

from nnunet_iac.cli.shared import Verbs


def add_compare(verbs: Verbs) -> None:
    """Add the verb compare."""
    parser = verbs.add_parser(
        "compare",
        help="test one nnU-Net against another on the same cases, by patient",
        description="DIR: a model, a fold, a run's iac/reference, or predictions that "
        "nnUNetv2_evaluate_folder has scored. A model folder means all its folds.",
    )
    add = parser.add_argument
    folders: dict[str, Any] = {"metavar": "DIR", "type": Path, "action": "append"}
    text = "the reference: the backbone; once, or once for each -b"
    add("-a", **folders, required=True, help=text)
    text = "a method to compare with it; may be given more than once"
    add("-b", **folders, required=True, help=text)
    text = "a control for each -b, such as a random cell; may be given more than once"
    add("--control", **folders, default=[], help=text)
    add("-o", metavar="DIR", type=Path, help="write comparison.csv, .json and .tex here")
    _add_statistics(parser, "b is")
    text = "regular expression whose match in a case id is the patient (default: the runs' own)"
    add("--patient-pattern", metavar="RE", help=text)
    add("--surface", action="store_true", help="also HD95 and NSD; needs the extra surface")
    add("--tolerance", metavar="MM", type=float, help="of NSD (default: 1)")
    add("--unrelated", action="store_true", help="a need not be the backbone of b")
    parser.set_defaults(verb=_compare)


def add_report(verbs: Verbs) -> None:
    """Add the verb report."""
    parser = verbs.add_parser(
        "report",
        help="a page about one or many runs, finished or not",
        description="RUN: a fold folder with a record, a model folder, or a folder of models. "
        "Controls beside a run are included.",
    )
    add = parser.add_argument
    add("runs", metavar="RUN", type=Path, nargs="+")
    add("-o", metavar="DIR", type=Path, required=True, help="folder of the report")
    text = "the paper's tables and figures as well, in DIR/paper"
    add("--paper", action="store_true", help=text)
    _add_statistics(parser, "cells are")
    parser.set_defaults(verb=_report)


def _add_statistics(parser: argparse.ArgumentParser, subject: str) -> None:
    text = f"loss of Dice up to which {subject} not inferior (default: 0.01)"
    parser.add_argument("--margin", metavar="DICE", type=float, default=0.01, help=text)
    text = "of the bootstrap (default: 0)"
    parser.add_argument("--seed", metavar="N", type=int, default=0, help=text)


def _compare(arguments: argparse.Namespace) -> int:
    from nnunet_iac.analysis.scores.comparison_tables import table, write_comparisons
    from nnunet_iac.analysis.scores.comparisons import compare_folders
    from nnunet_iac.analysis.scores.surface import TOLERANCE

    if arguments.tolerance is not None and not arguments.surface:
        raise ValueError(
            f"--tolerance {arguments.tolerance:g} is that of NSD, which needs --surface: add "
            "--surface, or leave it out"
        )
    tolerance = TOLERANCE if arguments.tolerance is None else arguments.tolerance
    made = compare_folders(
        arguments.a,
        arguments.b,
        arguments.control,
        patient_pattern=arguments.patient_pattern,
        margin=arguments.margin,
        seed=arguments.seed,
        tolerance=tolerance if arguments.surface else None,
        unrelated=arguments.unrelated,
    )
    print(table(made))
    if arguments.o is not None:
        for path in write_comparisons(arguments.o, made):
            print(f"wrote {path}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from nnunet_iac.analysis.report.document import write_report

    runs, folder, paper = arguments.runs, arguments.o, arguments.paper
    page = write_report(runs, folder, paper=paper, margin=arguments.margin, seed=arguments.seed)
    print(f"report: {page}")
    return 0
