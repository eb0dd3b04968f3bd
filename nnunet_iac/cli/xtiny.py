"""Choose a width before training."""

import argparse
import sys

from nnunet_iac.cli.shared import Verbs, add_device, add_source, numbers


def add_xtiny(verbs: Verbs) -> None:
    """Add the verb xtiny."""
    parser = verbs.add_parser(
        "xtiny",
        help="choose a U-Net's width before training and write plans for it",
        description="Scores narrower copies of the planned network at initialisation, on crops of "
        "the fold's training cases (XTinyU-Net), and writes plans for the width that is picked.",
    )
    add = parser.add_argument
    add_source(parser)
    add("-tr", metavar="TRAINER", default="nnUNetTrainer", help="whose network is scored")
    add("-f", metavar="FOLD", type=_fold, default=0, help="default: 0")
    add("-K", metavar="N", type=int, default=16, help="images (default: 16)")
    add("--seeds", metavar="N", type=int, help="initialisations (default: 8; dispersion: 16)")
    rules, text = ("curve", "slope", "dispersion"), "default: curve; dispersion is experimental"
    add("--rule", choices=rules, default="curve", help=text)
    caps = parser.add_mutually_exclusive_group()
    text = "candidates (default: halves down to 1)"
    caps.add_argument("--caps", metavar="N,N,...", type=numbers, help=text)
    caps.add_argument("--cap", metavar="N", type=int, help="take this width, without scoring")
    text = "caps between which the rule may pick (default: the published range)"
    add("--within", metavar="LARGEST,SMALLEST", type=_range, help=text)
    add("--score", choices=("sum", "frobenius"), default="sum", help="default: sum")
    add_device(parser)
    add("-o", metavar="NEW_ID", help="identifier of the new plans (default: PLANS_xtiny<cap>)")
    add("--dry-run", action="store_true", help="write nothing")
    parser.set_defaults(verb=_xtiny)


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
            within=arguments.within,
            device=arguments.device,
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


def _range(text: str) -> tuple[int, int]:
    found = numbers(text)
    if len(found) != 2:
        raise argparse.ArgumentTypeError(
            f"must be the largest and the smallest cap, such as 64,4; got {text}"
        )
    return found[0], found[1]


def _fold(text: str) -> int | str:
    return int(text) if text.isdecimal() else text
