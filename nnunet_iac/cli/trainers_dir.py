"""Print the folder for nnUNet_extTrainer."""

import argparse

from nnunet_iac.cli.shared import Verbs


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser("trainers-dir", help="print the folder for nnUNet_extTrainer")
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    from nnunet_iac.host.trainer_lookup import trainers_dir

    print(trainers_dir())
    return 0
