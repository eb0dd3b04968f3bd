"""Choose a width before training."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from nnunet_iac.cli.options import (
    ListOf,
    Verbs,
    add_device,
    add_dry_run,
    add_fold,
    add_new_plans,
    add_source,
    add_trainer,
    add_verb,
    device_of,
)


def add_xtiny(verbs: Verbs) -> None:
    """Add the verb xtiny."""
    parser = add_verb(
        verbs,
        "xtiny",
        "choose a U-Net's width before training and write plans for it",
        "Scores narrower copies of the plans' network at initialisation, on crops of the fold's "
        "training cases (XTinyU-Net), and writes plans for the width that is picked. A cap is the "
        "largest number of channels that a stage may have.",
        run=_xtiny,
        examples="""
        nnunet-iac xtiny -d 4 -c 2d
        nnunet-iac xtiny -d 4 -c 2d --within 64 4 --dry-run
        nnunet-iac xtiny -d 4 -c 2d --cap 16
        """,
    )
    add = parser.add_argument
    add_source(parser)
    add_trainer(parser, "trainer whose network is scored")
    add_fold(parser, "fold whose training cases are scored, or all", _fold, 0)
    add("-K", metavar="N", type=int, default=16, help="training cases, one crop each")
    text = "initialisations, each with one vote (default: 8; with --rule dispersion: 16)"
    add("--seeds", metavar="N", type=int, help=text)
    text = "rule that picks a width; dispersion is experimental"
    add("--rule", choices=("curve", "slope", "dispersion"), default="curve", help=text)
    caps = parser.add_mutually_exclusive_group()
    numbers: dict[str, Any] = {"action": ListOf, "of": int}
    text = "caps to score, such as 64 32 16 8 4 (default: the plans' widest, and halves down to 1)"
    caps.add_argument("--caps", metavar="N", **numbers, help=text)
    text = "take this cap, without scoring (default: the rule picks one)"
    caps.add_argument("--cap", metavar="N", type=int, help=text)
    text = (
        "largest and smallest cap that the rule may pick, such as 64 4 (default: the published "
        "range)"
    )
    add("--within", metavar="CAP", **numbers, help=text)
    text = "sensitivity: to the sum of the outputs, or the Frobenius norm of the Jacobian"
    add("--score", choices=("sum", "frobenius"), default="sum", help=text)
    add_device(parser)
    add_new_plans(parser, "PLANS_xtinyCAP, such as nnUNetPlans_xtiny16")
    add_dry_run(parser, "print the choice and write nothing")


def _xtiny(arguments: argparse.Namespace) -> int:
    from nnunet_iac.host.planning import next_commands
    from nnunet_iac.width.candidates import with_widest
    from nnunet_iac.width.figure import draw_width
    from nnunet_iac.width.planning import figure_file, require_name, write_width
    from nnunet_iac.width.source import Source
    from nnunet_iac.width.study import choose_width, cost_lines

    if arguments.cap is not None and arguments.within is not None:
        raise ValueError(
            f"--within limits what a rule may pick; --cap {arguments.cap} takes a width without "
            "one: leave one of them out"
        )
    within = None if arguments.within is None else _range(arguments.within)
    source = Source.of_plans(arguments.d, arguments.c, arguments.p, arguments.tr)
    if arguments.o is not None:
        require_name(source, arguments.o)
    study = None
    if arguments.cap is None:
        study = choose_width(
            source,
            arguments.rule,
            fold=arguments.f,
            images=arguments.K,
            seeds=None if arguments.seeds is None else range(arguments.seeds),
            score=arguments.score,
            caps=arguments.caps,
            within=within,
            device=device_of(arguments),
            report=lambda line: print(line, file=sys.stderr, flush=True),
        )
        print(*study.lines(), sep="\n")
    else:
        named = with_widest(source.architecture, arguments.cap)
        print(*cost_lines(named, source.costs(named), arguments.cap), sep="\n")
    if arguments.dry_run:
        return 0
    cap = arguments.cap if study is None else study.pick
    chosen = None if study is None else study.document()
    path, written = write_width(source, cap, arguments.o, chosen)
    print(f"{'wrote' if written else 'unchanged:'} {path}")
    if study is not None:
        figure = figure_file(path, arguments.c)
        if not written:
            print("the record of the earlier choice stays; -o NEW_ID would record this one")
        if written or not figure.exists():
            draw_width(study, figure)
            print(f"drawn: {figure}")
    print(*next_commands(path, arguments.c, None), sep="\n")
    return 0


def _range(caps: Sequence[int]) -> tuple[int, int]:
    if len(caps) != 2:
        raise ValueError(
            "--within must be the largest and the smallest cap, such as 64 4; got "
            f"{' '.join(map(str, caps))}"
        )
    return caps[0], caps[1]


def _fold(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
