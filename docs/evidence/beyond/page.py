"""Write docs/evidence/beyond.md from the result files in this folder."""

from pathlib import Path
from typing import Any

from nnunet_iac.analysis.report.page import markdown_environment
from nnunet_iac.analysis.scores.method_table import MethodTable, markdown, method_tables
from nnunet_iac.analysis.scores.wording import difference_text, finding
from nnunet_iac.runs.atomic import read_json, write_text

HERE = Path(__file__).parent
NETWORKS = {
    "plain3d": "Plain U-Net",
    "residual3d": "Residual-encoder U-Net (`nnUNetPlannerResEncM`)",
}
MODELS = {"transfer": "2-D", "plain3d": "3-D, plain", "residual3d": "3-D, residual encoder"}
"""What was exported, by a word in its name."""


def result(name: str) -> Any:
    """Return a result file."""
    return read_json(HERE / f"{name}.json")


def searched(measured: Any) -> list[dict[str, Any]]:
    """Return the runs of a study that have a record: all but the references."""
    return [run for run in measured["runs"] if "commit" in run]


def three_d() -> list[tuple[str, MethodTable]]:
    """Return a table per network in three dimensions, with what it is."""
    tables = method_tables(result("three-d"))
    return [(NETWORKS[table.place["backbone"]], table) for table in tables]


def exports() -> list[dict[str, Any]]:
    """Return a row per exported model."""
    return [
        {
            **model,
            "said": next(said for word, said in MODELS.items() if word in model["model"]),
            "difference": max(case["difference"] for case in model["cases"]),
            "scale": max(case["scale"] for case in model["cases"]),
            "dice": min(case["dice"] for case in model["cases"]),
        }
        for model in result("exports")["models"]
    ]


def page() -> str:
    """Return the page."""
    environment = markdown_environment(HERE)
    environment.filters.update(difference=difference_text, table=markdown)
    (transfer,) = method_tables(result("transfer"), baselines=("iac-lth", "random"))
    measured = {
        "three-d": searched(result("three-d")),
        "transfer": searched(result("transfer")),
        "exports": [result("exports")],
    }
    return environment.get_template("page.md.jinja").render(
        three_d=three_d(),
        verdicts=[table.row("iac-lth").against["random"].verdict for _, table in three_d()],
        transfer=transfer,
        exports=exports(),
        repeats=result("exports")["repeats"],
        patch=exports()[-1]["patch"],
        measured=measured,
        finding=lambda table, method, baseline, name: finding(
            table.row(method).against[baseline], name
        ),
    )


def main() -> None:
    """Write the page."""
    write_text(HERE.parent / "beyond.md", page())


if __name__ == "__main__":
    main()
