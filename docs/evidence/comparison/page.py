"""Write docs/evidence/comparison.md from networks.json in this folder."""

from pathlib import Path

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.runs.atomic import read_json, write_text

HERE = Path(__file__).parent


def page() -> str:
    """Return the page."""
    environment = markdown_environment(HERE)
    environment.filters["percent"] = lambda value: f"{100 * value:+.1f} %" if value else "0"
    environment.filters["million"] = lambda value: f"{value / 1e6:.2f} M"
    environment.filters["giga"] = lambda value: f"{value / 1e9:.2f} G"
    networks = read_json(HERE / "networks.json")
    return environment.get_template("page.md.jinja").render(networks=networks)


def main() -> None:
    """Write the page."""
    write_text(HERE.parent / "comparison.md", page())


if __name__ == "__main__":
    main()
