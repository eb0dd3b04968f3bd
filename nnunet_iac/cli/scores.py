"""Compare the scores of nnU-Nets, and write pages about runs."""

import argparse
from pathlib import Path
from typing import Any

from nnunet_iac.cli.options import Verbs, add_output, add_verb


def add_compare(verbs: Verbs) -> None:
    """Add the verb compare."""
    parser = add_verb(
        verbs,
        "compare",
        "test methods against their backbone on the same cases, by patient",
        "DIR is a model, a fold, a run's iac/reference, or predictions that "
        "nnUNetv2_evaluate_folder has scored. A model folder means all its folds.",
        run=_compare,
        examples="""
        nnunet-iac compare -a BACKBONE -b IACLTH -o comparison
        nnunet-iac compare -a BACKBONE -b IACLTH --control RANDOM --control CONTINUED
        """,
    )
    add = parser.add_argument
    folders: dict[str, Any] = {"metavar": "DIR", "type": Path, "action": "append"}
    text = "the backbone; once, or once for each -b"
    add("-a", **folders, required=True, help=text)
    text = "a method to compare with it; may be repeated"
    add("-b", **folders, required=True, help=text)
    text = "a control for each -b, such as a random cell; may be repeated (default: none)"
    add("--control", **folders, default=[], help=text)
    text = (
        "folder of comparison.csv, .json and .tex, and of plane.png if models were adapted "
        "(default: none is written)"
    )
    add_output(parser, "DIR", text)
    _add_statistics(parser, "the method is")
    text = "regular expression whose match in a case id is the patient (default: the runs' own)"
    add("--patient-pattern", metavar="RE", help=text)
    text = "also compare HD95 in mm and NSD; needs the extra surface"
    add("--surface", action="store_true", help=text)
    text = "with --surface: tolerance of NSD in mm (default: 1)"
    add("--tolerance", metavar="MM", type=float, help=text)
    text = "allow an -a that is not the backbone of -b"
    add("--unrelated", action="store_true", help=text)


def add_report(verbs: Verbs) -> None:
    """Add the verb report."""
    parser = add_verb(
        verbs,
        "report",
        "write a page about one or many runs, finished or in progress",
        "RUN is a fold folder with a record, a model folder, or a folder of models. Controls "
        "beside a run are included. Open DIR/index.html.",
        run=_report,
        examples="nnunet-iac report FOLD_OR_MODEL -o report",
    )
    add = parser.add_argument
    add("runs", metavar="RUN", type=Path, nargs="+", help="runs to report")
    add_output(parser, "DIR", "folder of the report", required=True)
    text = "also write the paper's tables and figures to DIR/paper"
    add("--paper", action="store_true", help=text)
    _add_statistics(parser, "cells are")


def _add_statistics(parser: argparse.ArgumentParser, subject: str) -> None:
    text = f"margin of non-inferiority: the loss of Dice up to which {subject} not inferior"
    parser.add_argument("--margin", metavar="DICE", type=float, default=0.01, help=text)
    text = "seed of the bootstrap"
    parser.add_argument("--seed", metavar="N", type=int, default=0, help=text)


def _compare(arguments: argparse.Namespace) -> int:
    from nnunet_iac.analysis.report.plane import write_plane
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
        for path in (*write_comparisons(arguments.o, made), *write_plane(arguments.o, made)):
            print(f"wrote {path}")
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from nnunet_iac.analysis.report.document import write_report

    runs, folder, paper = arguments.runs, arguments.o, arguments.paper
    page = write_report(runs, folder, paper=paper, margin=arguments.margin, seed=arguments.seed)
    print(f"report: {page}")
    return 0
