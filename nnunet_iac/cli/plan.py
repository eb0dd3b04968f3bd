"""Write plans that carry settings."""

import argparse
from pathlib import Path

from nnunet_iac.cli.options import (
    Verbs,
    add_new_plans,
    add_settings,
    add_source,
    add_verb,
    parse_settings,
)

ENCODER_CHOICES = (
    "plain",
    "vgg16",
    "resnet50",
    "mobilenetv3_large",
    "efficientnetv2_s",
    "efficientnetv2_m",
)
"""Listed here since the package that defines them imports torch; a test compares the two."""
SKIP_CHOICES = ("attention", "nested", "residual-attention")


def add_plan(verbs: Verbs) -> None:
    """Add the verb plan."""
    parser = add_verb(
        verbs,
        "plan",
        "write new plans that carry settings or another network",
        "The new plans use the same preprocessed data as those they start from. The command prints "
        "the trainings to run next.",
        run=_plan,
        examples="""
        nnunet-iac plan -d 4 -c 2d -o nnUNetPlans_adaptive --set preset=adaptive seed=1
        nnunet-iac plan -d 4 -c 2d -o nnUNetPlans_resnet50 --encoder resnet50
        """,
    )
    add_source(parser)
    add_new_plans(parser)
    add_settings(parser, "settings")
    add = parser.add_argument
    text = "encoder of the network, for 2-D configurations (default: the plans')"
    add("--encoder", choices=ENCODER_CHOICES, help=text)
    text = (
        "file of the encoder's ImageNet weights as timm saves them; nothing is downloaded "
        "(default: random weights)"
    )
    add("--encoder-weights", metavar="FILE", type=Path, help=text)
    text = "module in the skip connections, trained from scratch (default: the plans')"
    add("--skip", choices=SKIP_CHOICES, help=text)
    text = "patch, batch size and training of the paper's backbones (default: the plans')"
    add("--protocol", choices=("paper",), help=text)


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
