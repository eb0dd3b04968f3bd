"""Recompute a search's decisions."""

import argparse
from pathlib import Path

from nnunet_iac.cli.shared import Verbs


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser(
        "replay", help="recompute a search's decisions from its trajectory; 1 if they disagree"
    )
    parser.add_argument("fold", metavar="FOLD", type=Path, help="fold folder, or its iac folder")
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    from nnunet_iac.analysis.trajectories.replay import replay
    from nnunet_iac.runs.folder import RunFolder

    inside = RunFolder.of_fold(arguments.fold)
    replayed = replay(inside if inside.path.is_dir() else RunFolder(arguments.fold))
    print(replayed)
    return 0 if replayed.agrees else 1
