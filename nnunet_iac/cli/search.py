"""Print and draw a found cell, and recompute a search's decisions."""

import argparse
from pathlib import Path

from nnunet_iac.cli.options import Verbs, add_output, add_verb


def add_show(verbs: Verbs) -> None:
    """Add the verb show."""
    parser = add_verb(
        verbs,
        "show",
        "print a cell and the health of its search, and draw the cell",
        "The health lists dead edges, collapse, plateau, divergence and non-finite numbers.",
        run=_show,
        examples="""
        nnunet-iac show FOLD
        nnunet-iac show FOLD -o cell.svg
        """,
    )
    text = "genotype file, fold folder or checkpoint"
    parser.add_argument("path", metavar="PATH", type=Path, help=text)
    add_output(parser, "FILE", "picture of the cell, .svg or .png (default: none is drawn)")


def add_replay(verbs: Verbs) -> None:
    """Add the verb replay."""
    parser = add_verb(
        verbs,
        "replay",
        "recompute a search's decisions from its trajectory and compare them",
        "The exit status is 1 if a decision differs from the record.",
        run=_replay,
        examples="nnunet-iac replay FOLD",
    )
    text = "fold folder of a search, or its iac folder"
    parser.add_argument("fold", metavar="FOLD", type=Path, help=text)


def _show(arguments: argparse.Namespace) -> int:
    from nnunet_iac.runs.genotype_source import find_genotype, find_output_nodes

    try:
        genotype = find_genotype(arguments.path)
    except (FileNotFoundError, ValueError):
        # The health matters most while there is no cell yet.
        print(_health(arguments.path), end="")
        raise
    print(genotype)
    if health := _health(arguments.path):
        print(f"\n{health}", end="")
    if arguments.o is not None:
        from nnunet_iac.drawing.cell_picture import draw_cell

        draw_cell(genotype, arguments.o, find_output_nodes(arguments.path))
        print(f"drawn: {arguments.o}")
    return 0


def _health(path: Path) -> str:
    """Return the health of the search of a path as lines; nothing without a record."""
    from nnunet_iac.runs.folder import record_beside

    run = record_beside(path)
    if run is None:
        return ""
    if not run.health_file.is_file():
        return "Health:\n  not recorded\n"
    return "\n  ".join(["Health:", *map(str, run.read_health() or ["nothing to report"])]) + "\n"


def _replay(arguments: argparse.Namespace) -> int:
    from nnunet_iac.analysis.trajectories.replay import replay
    from nnunet_iac.runs.folder import RunFolder

    inside = RunFolder.of_fold(arguments.fold)
    replayed = replay(inside if inside.path.is_dir() else RunFolder(arguments.fold))
    print(replayed)
    return 0 if replayed.agrees else 1
