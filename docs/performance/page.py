"""Write docs/performance.md from the result files in this folder."""

from pathlib import Path
from typing import Any

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.runs.atomic import read_json, replacing

HERE = Path(__file__).parent


def results() -> dict[str, Any]:
    """Return every result file by its name."""
    return {path.stem: read_json(path) for path in sorted(HERE.glob("*.json"))}


def page() -> str:
    """Return the page."""
    environment = markdown_environment(HERE)
    environment.filters["ms"] = lambda seconds: f"{seconds * 1e3:.1f}"
    environment.filters["two"] = lambda value: f"{value:.2f}"
    environment.filters["minutes"] = lambda seconds: f"{seconds / 60:.1f}"
    found = results()
    growth = [found[name] for name in found if name.startswith("growth_")]
    template = environment.get_template("page.md.jinja")
    return template.render(r=found, growth=[found["step"], *growth, found["step_128"]])


def main() -> None:
    """Write the page."""
    with replacing(HERE.parent / "performance.md") as temporary:
        temporary.write_text(page())


if __name__ == "__main__":
    main()
