"""Train methods at several widths, and draw Dice against cost."""

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
        help="train methods at several widths and draw Dice against cost",
        description="Trains the reference and the methods on top of it at every width, as a study, "
        "and draws Dice against parameters and MACs. Run again, it goes on.",
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
    parser.add_argument("-tr", metavar="TRAINER", default="nnUNetTrainer", help="of the reference")
    add_settings(parser, "settings of the other methods")
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
    from nnunet_iac.workflow.engine import plan_lines, run_study
    from nnunet_iac.workflow.estimate import hours_of
    from nnunet_iac.workflow.pareto import Pareto, study_name
    from nnunet_iac.workflow.pareto_figure import draw_pareto
    from nnunet_iac.workflow.pareto_points import points, table, write_points

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
    page = run_study(pareto.write_study(arguments.o), arguments.o, None, None, [])
    found = points(pareto, read_json(page.with_name("results.json"))["runs"])
    print(table(found))
    write_points(pareto, found, arguments.o / "pareto.json")
    draw_pareto(found, arguments.o / "pareto.png")
    print(f"wrote {arguments.o / 'pareto.json'}\ndrawn: {arguments.o / 'pareto.png'}")
    return 0
