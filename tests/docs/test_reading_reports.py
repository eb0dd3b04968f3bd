"""docs/guide/reading-reports.md says of every figure what the report says."""

from pathlib import Path

from nnunet_iac.analysis.report.captions import CAPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "reading-reports.md"


def test_page_has_every_caption_of_the_report():
    page = " ".join(PAGE.read_text().split())
    for name, caption in CAPTIONS.items():
        assert caption.format(margin=0.01) in page, name
