"""Write plans that carry settings."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import Verbs, add_settings, add_source, parse_settings


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser("plan", help="write a new plans identifier that carries settings")
    add_source(parser)
    parser.add_argument("-o", metavar="NEW_ID", required=True, help="identifier of the new plans")
    add_settings(parser, "settings; may be given more than once")
    parser.add_argument(
        "--encoder",
        metavar="NAME",
        help="plain, vgg16, resnet50, mobilenetv3_large, efficientnetv2_s or efficientnetv2_m",
    )
    parser.add_argument(
        "--encoder-weights",
        metavar="FILE",
        type=Path,
        help="ImageNet weights of the encoder as timm has them; nothing is ever downloaded",
    )
    parser.add_argument(
        "--skip",
        metavar="NAME",
        help="attention, nested or residual-attention, trained from scratch",
    )
    parser.add_argument(
        "--protocol", metavar="NAME", help="paper: patch, batch size and training of its backbones"
    )
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
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
    for line in next_commands(path, arguments.c, pretrained):
        print(line)
    return 0
