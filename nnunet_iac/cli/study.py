"""Train many runs, and compare them."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import STUDY_MODULES, Verbs, require_extra


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser(
        "study",
        help="train data sets x folds x seeds x backbones x methods, and compare them",
        description="Runs what FILE describes through Snakemake. Run again, it resumes; words "
        "after --snakemake are Snakemake's own, such as --profile DIR.",
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="what to train, in YAML")
    parser.add_argument("-o", metavar="DIR", type=Path, help="default: nnUNet_results/studies/NAME")
    parser.add_argument("--cores", metavar="N", type=int, help="for all jobs (default: all)")
    parser.add_argument(
        "--gpus", metavar="N", type=int, help="one for each training (default: all)"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the trainings and their hours, and stop"
    )
    parser.add_argument("--snakemake", metavar="WORD", nargs=argparse.REMAINDER, default=[])
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    require_extra("study", *STUDY_MODULES)
    from nnunet_iac.workflow.engine import run_study
    from nnunet_iac.workflow.study_checks import require_ready
    from nnunet_iac.workflow.study_file import read_study

    if arguments.dry_run:
        from nnunet_iac.workflow.estimate import hours_of, plan_lines

        study = read_study(arguments.file)
        require_ready(study)
        print(*plan_lines(study, hours_of(study)), sep="\n")
        return 0
    page = run_study(
        arguments.file, arguments.o, arguments.cores, arguments.gpus, arguments.snakemake
    )
    stored = "no report here: it is not due yet, or in the storage that Snakemake was given"
    print(f"report: {page}" if page.is_file() else stored)
    return 0
