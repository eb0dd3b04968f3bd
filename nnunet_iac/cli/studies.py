"""Run the demo and studies, and compare methods at several widths."""

import argparse
import sys
from pathlib import Path

from nnunet_iac.cli.shared import (
    Verbs,
    add_device,
    add_settings,
    add_source,
    numbers,
    parse_settings,
    require_extra,
)

STUDY_MODULES = ("snakemake", "yaml", "jsonschema")
"""What the extra `study` brings."""


def add_demo(verbs: Verbs) -> None:
    """Add the verb demo."""
    parser = verbs.add_parser("demo", help="the whole method on a small real data set, in minutes")
    parser.add_argument("-o", metavar="DIR", type=Path, default=Path("demo"), help="default: demo")
    add_device(parser)
    text = "a tiny network and few iterations: checks in about a minute that everything works"
    parser.add_argument("--quick", action="store_true", help=text)
    parser.set_defaults(verb=_demo)


def add_pareto(verbs: Verbs) -> None:
    """Add the verb pareto."""
    parser = verbs.add_parser(
        "pareto",
        help="write a study of methods at several widths; draw Dice against cost",
        description="Writes DIR/study.yaml: the backbone and the methods on top of it at every "
        "width. Once the study has run, the same command draws Dice against parameters and MACs.",
    )
    add = parser.add_argument
    add_source(parser)
    add("--caps", metavar="N,N,...", type=numbers, required=True, help="the widths")
    default = "reference,continued,iac-lth,random"
    text = "of reference, continued, iac-lth, iac, random (default: all but iac)"
    add("--methods", metavar="NAME,...", default=default, help=text)
    add("-f", metavar="N,N,...", type=numbers, default=[0], help="default: 0")
    add("-tr", metavar="TRAINER", default="nnUNetTrainer", help="of the backbones")
    add_settings(parser, "settings of the methods, such as search_epochs=40")
    add_device(parser)
    add("-o", metavar="DIR", type=Path, default=Path("pareto"), help="default: pareto")
    add("--dry-run", action="store_true", help="print the trainings and stop")
    parser.set_defaults(verb=_pareto)


def add_study(verbs: Verbs) -> None:
    """Add the verb study."""
    parser = verbs.add_parser(
        "study",
        help="train data sets x folds x seeds x backbones x methods, and compare them",
        description="Runs what FILE describes through Snakemake. Run again, it resumes; words "
        "after --snakemake are Snakemake's own, such as --profile DIR.",
    )
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="what to train, in YAML")
    add("-o", metavar="DIR", type=Path, help="default: nnUNet_results/studies/NAME")
    add("--cores", metavar="N", type=int, help="for all jobs (default: all)")
    add("--gpus", metavar="N", type=int, help="one for each training (default: all)")
    add("--dry-run", action="store_true", help="print the trainings and their hours, and stop")
    add("--snakemake", metavar="WORD", nargs=argparse.REMAINDER, default=[])
    parser.set_defaults(verb=_study)


def _demo(arguments: argparse.Namespace) -> int:
    from nnunet_iac.workflow.demo import run_demo

    page = run_demo(
        arguments.o, arguments.device, arguments.quick, lambda line: print(line, flush=True)
    )
    print(f"report: {page}\nreport of the run alone: {page.parent / 'run' / 'index.html'}")
    return 0


def _pareto(arguments: argparse.Namespace) -> int:
    require_extra("study", *STUDY_MODULES)
    from nnunet_iac.runs.atomic import read_json
    from nnunet_iac.width.source import Source
    from nnunet_iac.workflow import pareto as widths
    from nnunet_iac.workflow.estimate import hours_of, plan_lines

    pareto = widths.Pareto(
        Source.of_plans(arguments.d, arguments.c, arguments.p, arguments.tr),
        tuple(arguments.caps),
        tuple(arguments.methods.split(",")),
        tuple(arguments.f),
        parse_settings(arguments.assignments),
        widths.study_name(arguments.o),
        arguments.device,
    )
    if arguments.dry_run:
        print(*plan_lines(pareto.study(), hours_of(pareto.study())), sep="\n")
        return 0
    path, results = pareto.write_study(arguments.o), arguments.o / "results.json"
    if not results.is_file():
        print(f"wrote {path}\nnext: nnunet-iac study {path} -o {arguments.o}")
        print(f"then the same command again, which draws {arguments.o / 'pareto.png'}")
        return 0
    found = widths.points(pareto, read_json(results)["runs"])
    print(widths.table(found))
    widths.write_points(pareto, found, arguments.o / "pareto.json")
    widths.draw_pareto(found, arguments.o / "pareto.png")
    print(f"wrote {arguments.o / 'pareto.json'}\ndrawn: {arguments.o / 'pareto.png'}")
    return 0


def _study(arguments: argparse.Namespace) -> int:
    require_extra("study", *STUDY_MODULES)
    from nnunet_iac.workflow.engine import run_study
    from nnunet_iac.workflow.study_checks import require_ready
    from nnunet_iac.workflow.study_file import read_study

    study = read_study(arguments.file)
    for note in study.deprecations:
        print(f"warning: {note}", file=sys.stderr)
    if arguments.dry_run:
        from nnunet_iac.workflow.estimate import hours_of, plan_lines

        require_ready(study)
        print(*plan_lines(study, hours_of(study)), sep="\n")
        return 0
    page = run_study(
        arguments.file, arguments.o, arguments.cores, arguments.gpus, arguments.snakemake
    )
    stored = "no report here: it is not due yet, or in the storage that Snakemake was given"
    print(f"report: {page}" if page.is_file() else stored)
    return 0
