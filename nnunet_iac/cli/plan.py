"""Write plans that carry settings."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import Verbs, add_settings, add_source, parse_settings


def add_plan(verbs: Verbs) -> None:
    """Add the verb plan."""
    parser = verbs.add_parser("plan", help="write a new plans identifier that carries settings")
    add_source(parser)
    add = parser.add_argument
    add("-o", metavar="NEW_ID", required=True, help="identifier of the new plans")
    add_settings(parser, "settings; may be given more than once")
    text = "plain, vgg16, resnet50, mobilenetv3_large, efficientnetv2_s or efficientnetv2_m"
    add("--encoder", metavar="NAME", help=text)
    text = "ImageNet weights of the encoder as timm has them; nothing is ever downloaded"
    add("--encoder-weights", metavar="FILE", type=Path, help=text)
    text = "attention, nested or residual-attention, trained from scratch"
    add("--skip", metavar="NAME", help=text)
    text = "paper: patch, batch size and training of its backbones"
    add("--protocol", metavar="NAME", help=text)
    parser.set_defaults(verb=_plan)


def _plan(arguments: argparse.Namespace) -> int:
    from nnunet_iac.host.planning import NetworkChanges, next_commands, write_plans

    network = NetworkChanges(arguments.encoder, arguments.skip, arguments.protocol)
    if arguments.encoder_weights is not None and network.encoder is None:
        raise ValueError(
            f"--encoder-weights {arguments.encoder_weights} are for an encoder: add --encoder, or "
            "leave them out"
        )
    values = parse_settings(arguments.assignments)
    path, changed = write_plans(arguments.d, arguments.c, arguments.p, arguments.o, values, network)
    pretrained = None
    if arguments.encoder_weights is not None:
        from nnunet_iac.host.pretrained import write_pretrained

        try:
            pretrained = write_pretrained(path, arguments.c, arguments.encoder_weights)
        except BaseException:
            if changed:
                path.unlink()
            raise
    print(f"{'wrote' if changed else 'unchanged:'} {path}")
    if pretrained is not None:
        print(f"weights: {pretrained}")
    print(*next_commands(path, arguments.c, pretrained), sep="\n")
    return 0
