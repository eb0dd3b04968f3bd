"""Test one nnU-Net against another, by patient."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import Verbs


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser(
        "compare",
        help="test one nnU-Net against another on the same cases, by patient",
        description="DIR: a model, a fold, a run's iac/reference, or predictions that "
        "nnUNetv2_evaluate_folder has scored. A model folder means all its folds.",
    )
    parser.add_argument(
        "-a",
        metavar="DIR",
        type=Path,
        action="append",
        required=True,
        help="the reference: the backbone; once, or once for each -b",
    )
    parser.add_argument(
        "-b",
        metavar="DIR",
        type=Path,
        action="append",
        required=True,
        help="a method to compare with it; may be given more than once",
    )
    parser.add_argument(
        "--control",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="a control for each -b, such as a random cell; may be given more than once",
    )
    parser.add_argument(
        "-o", metavar="DIR", type=Path, help="write comparison.csv, .json and .tex here"
    )
    parser.add_argument(
        "--margin",
        metavar="DICE",
        type=float,
        default=0.01,
        help="loss of Dice up to which b is not inferior (default: 0.01)",
    )
    parser.add_argument(
        "--seed", metavar="N", type=int, default=0, help="of the bootstrap (default: 0)"
    )
    parser.add_argument(
        "--patient-pattern",
        metavar="RE",
        help="regular expression whose match in a case id is the patient (default: the runs' own)",
    )
    parser.add_argument(
        "--surface", action="store_true", help="also HD95 and NSD; needs the extra surface"
    )
    parser.add_argument("--tolerance", metavar="MM", type=float, help="of NSD (default: 1)")
    parser.add_argument("--unrelated", action="store_true", help="a need not be the backbone of b")
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
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
