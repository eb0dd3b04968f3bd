"""The captions of reports are those of docs/guide/reading-reports.md and of the example."""

import re
from pathlib import Path

from nnunet_iac.analysis.report.captions import CAPTIONS
from nnunet_iac.search.health import HealthEvent

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "reading-reports.md"


def test_page_has_every_caption_of_the_report():
    page = " ".join(PAGE.read_text().split())
    for name, caption in CAPTIONS.items():
        assert caption.format(margin=0.01) in page, name


def test_both_pages_that_explain_health_name_every_kind():
    kinds = re.findall(r"`([\w -]+)`", (HealthEvent.__doc__ or "").partition("\n")[0])
    assert len(kinds) == 5
    record = (PAGE.parents[1] / "reference" / "record.md").read_text()
    for kind in kinds:
        assert kind in CAPTIONS["health"]
        assert f"| `{kind}` |" in record


def test_the_example_report_has_the_captions_of_the_code() -> None:
    example = (PAGE.parents[1] / "example" / "report.md").read_text()
    # An adapted model, several searches or a faulty one has these, and the page the explorer.
    absent = {"explorer", "source_and_target", "plane", "agreement", "health"}
    for name, caption in CAPTIONS.items():
        assert (caption.format(margin=0.01) in example) is (name not in absent), name
