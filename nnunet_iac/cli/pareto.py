"""Compare methods at several widths: a study file, and a figure of its results."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import (
    STUDY_MODULES,
    Verbs,
    add_device,
    add_settings,
    add_source,
    numbers,
    require_extra,
)


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser(
        "pareto",
        help="write a study of methods at several widths; draw Dice against cost",
        description="Writes DIR/study.yaml: the backbone and the methods on top of it at every "
        "width. Once the study has run, the same command draws Dice against parameters and MACs.",
    )
    add_source(parser)
    parser.add_argument("--caps", metavar="N,N,...", type=numbers, required=True, help="the widths")
    parser.add_argument(
        "--methods",
        metavar="NAME,...",
        default="reference,continued,iac-lth,random",
        help="of reference, continued, iac-lth, iac, random (default: all but iac)",
    )
    parser.add_argument("-f", metavar="N,N,...", type=numbers, default=[0], help="default: 0")
    parser.add_argument("-tr", metavar="TRAINER", default="nnUNetTrainer", help="of the backbones")
    add_settings(parser, "settings of the methods, such as search_epochs=40")
    add_device(parser)
    parser.add_argument(
        "-o", metavar="DIR", type=Path, default=Path("pareto"), help="default: pareto"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the trainings and stop")
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    require_extra("study", *STUDY_MODULES)
    from nnunet_iac.runs.atomic import read_json
    from nnunet_iac.search.settings import parse_assignment
    from nnunet_iac.width.source import Source
    from nnunet_iac.workflow.estimate import hours_of, plan_lines
    from nnunet_iac.workflow.pareto import (
        Pareto,
        draw_pareto,
        points,
        study_name,
        table,
        write_points,
    )

    pareto = Pareto(
        Source.of_plans(arguments.d, arguments.c, arguments.p, arguments.tr),
        tuple(arguments.caps),
        tuple(arguments.methods.split(",")),
        tuple(arguments.f),
        dict(parse_assignment(assignment) for assignment in arguments.assignments),
        study_name(arguments.o),
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
    found = points(pareto, read_json(results)["runs"])
    print(table(found))
    write_points(pareto, found, arguments.o / "pareto.json")
    draw_pareto(found, arguments.o / "pareto.png")
    print(f"wrote {arguments.o / 'pareto.json'}\ndrawn: {arguments.o / 'pareto.png'}")
    return 0
