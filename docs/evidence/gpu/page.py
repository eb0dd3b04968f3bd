"""Write docs/evidence/gpu.md from the JSON files that a visit to a GPU machine left here.

python docs/evidence/gpu/page.py
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined
from visit import LIMITS, SAME

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.runs.atomic import read_json, write_text

HERE = Path(__file__).parent
Part = Mapping[str, Any]


def measured(folder: Path) -> dict[str, Part]:
    """Return the files of the parts that have rows, by name."""
    files = {name: folder / f"{name}.json" for name in LIMITS}
    parts = {name: read_json(file) for name, file in files.items() if file.is_file()}
    return {name: part for name, part in parts.items() if "rows" in part}


def is_dry(part: Part) -> bool:
    """Return whether a part was measured elsewhere than on a GPU, or on tiny networks."""
    return bool(part["device"] != "cuda" or part["quick"])


def lacking(parts: Mapping[str, Part]) -> list[str]:
    """Return a line for every part that no GPU has measured as the first one, or not wholly."""
    lines = []
    first = next(iter(parts.values()), {})
    for name in LIMITS:
        if name not in parts:
            lines.append(f"{name}: not measured")
            continue
        part = parts[name]
        if is_dry(part):
            lines.append(f"{name}: a dry run on tiny networks")
            continue
        faults = [f"with another {key}" for key in SAME if part[key] != first[key]]
        if not part["complete"]:
            failed = {key: row["error"] for key, row in part["rows"].items() if "error" in row}
            faults += [f"{key} ({error})" for key, error in failed.items()]
            faults.append(part.get("stopped", "it was cut short"))
        if faults:
            lines.append(f"{name}: {'; '.join(faults)}")
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
    """Write the page, or report why there is none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=HERE, help="folder of the JSON files")
    parser.add_argument("--to", type=Path, default=HERE.parent / "gpu.md")
    given = parser.parse_args()
    parts = measured(given.results)
    print("\n".join(lacking(parts)) or "all parts were measured")
    if all(map(is_dry, parts.values())):
        print("no page is written: run bash setup_scripts/gpu.sh on a machine with a GPU")
        return 1
    write_text(given.to, page(given.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
