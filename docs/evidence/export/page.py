"""Write docs/evidence/export.md from exports.json in this folder."""

from pathlib import Path
from typing import Any

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.runs.atomic import read_json, write_text

HERE = Path(__file__).parent
NETWORKS = {"PlainConvUNet": "plain", "ResidualEncoderUNet": "residual encoder"}


def rows(measured: Any) -> list[dict[str, Any]]:
    """Return a row per exported model."""
    return [
        {
            **model,
            "said": f"{len(model['patch'])}-D, {NETWORKS[model['network']]}",
            "difference": max(case["difference"] for case in model["cases"]),
            "scale": max(case["scale"] for case in model["cases"]),
            "dice": min(case["dice"] for case in model["cases"]),
        }
        for model in measured["models"]
    ]


def page() -> str:
    """Return the page."""
    measured = read_json(HERE / "exports.json")
    template = markdown_environment(HERE).get_template("page.md.jinja")
    return template.render(measured=measured, models=rows(measured))


def main() -> None:
    """Write the page."""
    write_text(HERE.with_suffix(".md"), page())


if __name__ == "__main__":
    main()
