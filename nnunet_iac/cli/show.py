"""Print and draw a found cell."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_iac.cli.shared import Verbs

if TYPE_CHECKING:
    from nnunet_iac.runs.folder import RunFolder


def add_to(verbs: Verbs) -> None:
    """Add the verb to the command's."""
    parser = verbs.add_parser("show", help="print and draw a found cell")
    parser.add_argument("path", metavar="PATH", type=Path, help="genotype, fold or checkpoint")
    parser.add_argument("-o", metavar="FILE", type=Path, help="draw it as .svg or .png")
    parser.set_defaults(verb=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb; return the exit status."""
    from nnunet_iac.runs.folder import record_beside
    from nnunet_iac.runs.genotype_source import find_genotype, find_output_nodes

    record = record_beside(arguments.path)
    try:
        genotype = find_genotype(arguments.path)
    except (FileNotFoundError, ValueError):
        if record is not None:  # The health matters most while there is no cell yet.
            print(_health(record))
        raise
    print(genotype)
    if record is not None:
        print(f"\n{_health(record)}")
    if arguments.o is not None:
        from nnunet_iac.drawing.cell_picture import draw_cell

        draw_cell(genotype, arguments.o, find_output_nodes(arguments.path))
        print(f"drawn: {arguments.o}")
    return 0


def _health(run: "RunFolder") -> str:
    """Return what was noticed about a search as text."""
    if not run.health_file.is_file():
        return "Health:\n  not recorded"
    return "\n  ".join(["Health:", *map(str, run.read_health() or ["nothing to report"])])
