"""Run the demo and studies, and compare methods at several widths."""

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from nnunet_iac.cli.options import (
    ListOf,
    Verbs,
    add_device,
    add_dry_run,
    add_folds,
    add_output,
    add_settings,
    add_source,
    add_trainer,
    add_verb,
    device_of,
    parse_settings,
    require_extra,
)

PARETO_METHODS = ("reference", "continued", "iac-lth", "random", "iac")
"""The methods of `workflow.pareto`, which is imported when it runs."""

STUDY_MODULES = ("snakemake", "yaml", "jsonschema")
"""Modules that the extra `study` installs."""


def add_demo(verbs: Verbs) -> None:
    """Add the verb demo."""
    parser = add_verb(
        verbs,
        "demo",
        "run the whole method on a small embedded data set, in minutes",
        "Trains a backbone, its retrofit and the continued backbone, predicts, and writes "
        "DIR/report/index.html. The same command resumes an interrupted demo.",
        run=_demo,
        examples="""
        nnunet-iac demo
        nnunet-iac demo --quick -o demo-quick
        """,
    )
    add_output(parser, "DIR", "folder of the demo", default=Path("demo"))
    add_device(parser)
    text = "check in about a minute that every step works, with a tiny network"
    parser.add_argument("--quick", action="store_true", help=text)


def add_pareto(verbs: Verbs) -> None:
    """Add the verb pareto."""
    command = "nnunet-iac pareto -d 4 -c 2d --caps 8 16 32 64 -o widths"
    parser = add_verb(
        verbs,
        "pareto",
        "write a study of methods at several widths, and draw Dice against cost",
        "Writes DIR/study.yaml: the backbone and the methods on top of it at every width. Once the "
        "study has run, the same command draws Dice against parameters and MACs.",
        run=_pareto,
        examples=f"{command}\nnnunet-iac study widths/study.yaml -o widths\n{command}",
    )
    add_source(parser)
    numbers: dict[str, Any] = {"action": ListOf, "of": int, "metavar": "N"}
    text = "widths: the most channels of a stage, such as 8 16 32 64"
    parser.add_argument("--caps", **numbers, required=True, help=text)
    words: dict[str, Any] = {"action": ListOf, "of": str, "metavar": "NAME"}
    default = ["reference", "continued", "iac-lth", "random"]
    text = "methods, reference being the backbone"
    add = parser.add_argument
    add("--methods", **words, choices=PARETO_METHODS, default=default, help=text)
    add_folds(parser, "folds", int, [0])
    add_trainer(parser, "trainer of the backbones")
    add_settings(parser, "settings of the methods")
    add_device(parser)
    add_output(parser, "DIR", "folder of the study and the figure", default=Path("pareto"))
    add_dry_run(parser, "print the trainings and their hours, and stop")


def add_study(verbs: Verbs) -> None:
    """Add the verb study."""
    parser = add_verb(
        verbs,
        "study",
        "train data sets x folds x seeds x backbones x methods, and compare them",
        "Runs through Snakemake what FILE describes. The same command resumes an interrupted "
        "study. The device is the key device of FILE (default: cuda if torch finds a GPU, else "
        "cpu).",
        run=_study,
        examples="""
        nnunet-iac study mine.yaml --dry-run
        nnunet-iac study mine.yaml --cores 16 --gpus 4
        nnunet-iac study mine.yaml --snakemake --profile my-profile
        """,
    )
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="study file, in YAML")
    text = (
        "folder of the results (default: nnUNet_results/studies/NAME, or of an as-run.yaml the "
        "folder it is in)"
    )
    add_output(parser, "DIR", text)
    add("--cores", metavar="N", type=int, help="CPU cores for all jobs (default: all)")
    text = "GPUs for all jobs, one per training (default: all)"
    add("--gpus", metavar="N", type=int, help=text)
    add_dry_run(parser, "print the trainings and their hours, and stop")
    text = "all words after it are Snakemake's own, such as --profile DIR (default: none)"
    keywords: dict[str, Any] = {"nargs": argparse.REMAINDER, "default": []}
    add("--snakemake", metavar="WORD", **keywords, help=text)


def _demo(arguments: argparse.Namespace) -> int:
    from nnunet_iac.workflow.demo import run_demo

    device = device_of(arguments)
    page = run_demo(arguments.o, device, arguments.quick, lambda line: print(line, flush=True))
    print(f"report: {page}\none short run: it shows that all steps work, not what they are worth")
    return 0


def _pareto(arguments: argparse.Namespace) -> int:
    require_extra("study", *STUDY_MODULES)
    from nnunet_iac.runs.atomic import content_of, read_json
    from nnunet_iac.width.source import Source
    from nnunet_iac.workflow import pareto as widths
    from nnunet_iac.workflow.estimate import hours_of, plan_lines

    pareto = widths.Pareto(
        Source.of_plans(arguments.d, arguments.c, arguments.p, arguments.tr),
        tuple(arguments.caps),
        tuple(arguments.methods),
        tuple(arguments.f),
        parse_settings(arguments.assignments),
        widths.study_name(arguments.o),
        device_of(arguments),
    )
    if arguments.dry_run:
        print(*plan_lines(pareto.study(), hours_of(pareto.study())), sep="\n")
        return 0
    path, results = pareto.write_study(arguments.o), arguments.o / "results.json"
    if not results.is_file():
        command = shlex.join(["nnunet-iac", "study", str(path), "-o", str(arguments.o)])
        print(f"wrote {path}\nnext: {command}")
        print(f"then the same command again, which draws {arguments.o / 'pareto.png'}")
        return 0
    with content_of(results):
        found = widths.points(pareto, read_json(results)["runs"])
    if not found:
        raise ValueError(
            f"a figure of widths needs all folds of a method at a width; {results} has them of "
            "none: name the folds that were trained with -f, or train the others"
        )
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
    print(f"device: {study.device}", file=sys.stderr, flush=True)
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
    stored = "no report here: some runs have not ended, or Snakemake was given another storage"
    print(f"report: {page}" if page.is_file() else stored)
    return 0
