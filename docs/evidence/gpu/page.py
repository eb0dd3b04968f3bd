"""Write docs/evidence/gpu.md from the JSON files that a visit to a GPU machine left here.

python docs/evidence/gpu/page.py
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined
from visit import LIMITS

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.runs.atomic import read_json, write_text

HERE = Path(__file__).parent
Part = Mapping[str, Any]


def measured(folder: Path) -> dict[str, Part]:
    """Return the files of the parts that are there, by name."""
    files = {name: folder / f"{name}.json" for name in LIMITS}
    return {name: read_json(file) for name, file in files.items() if file.is_file()}


def lacking(parts: Mapping[str, Part]) -> list[str]:
    """Return a line for every part that no GPU has measured, or not all of."""
    lines = []
    for name in LIMITS:
        part = parts.get(name)
        if part is None or "rows" not in part:
            lines.append(f"{name}: not measured")
        elif part["device"] != "cuda" or part["quick"]:
            lines.append(f"{name}: a dry run on tiny networks")
        elif not part["complete"]:
            failed = [
                f"{key} ({row['error']})" for key, row in part["rows"].items() if "error" in row
            ]
            lines.append(f"{name}: {'; '.join([*failed, part.get('stopped', 'it was cut short')])}")
    return lines


def targets(parts: Mapping[str, Part]) -> list[dict[str, Any]]:
    """Return what is allowed of the plain 2-D network, and what was found; the page has words."""
    return [
        {"key": key, "limit": limit, "found": value(parts, *at, key)}
        for *at, key, limit in (
            ("speed", "run, plain 2-D", "search_over_plain", 2.0),
            ("speed", "run, plain 2-D", "finetune_over_plain", 0.9),
            ("speed", "inference, plain 2-D", "inference_over_backbone", 1.3),
            ("profile", "between epochs", "record_share", 0.01),
        )
    ]


def value(parts: Mapping[str, Part], part: str, row: str, key: str) -> Any:
    """Return a number of a row, or None where it was not measured."""
    return parts.get(part, {}).get("rows", {}).get(row, {}).get(key)


def page(folder: Path = HERE) -> str:
    """Return the page."""
    parts = measured(folder)
    environment = markdown_environment(HERE)
    environment.filters["ms"] = lambda seconds: f"{1e3 * seconds:.1f}"
    environment.filters["number"] = lambda x: (
        f"{x:.3g}" if isinstance(x, float | int) else "not measured"
    )
    environment.undefined = ChainableUndefined  # A row that failed has nothing but its error.
    return environment.get_template("page.md.jinja").render(
        parts=parts, lacking=lacking(parts), targets=targets(parts)
    )


def main() -> int:
    """Write the page, or say why there is none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE, help="folder of the JSON files")
    parser.add_argument("--to", type=Path, default=HERE.parent / "gpu.md")
    given = parser.parse_args()
    missing = lacking(measured(given.results))
    print("\n".join(missing) or "all parts were measured")
    if len(missing) == len(LIMITS):
        print("no page is written: run bash setup_scripts/gpu.sh on a machine with a GPU")
        return 1
    write_text(given.to, page(given.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
