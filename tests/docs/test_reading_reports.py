"""docs/guide/reading-reports.md says of every figure what the report says."""

import re
from importlib import import_module
from pathlib import Path

from nnunet_iac.analysis.report.captions import CAPTIONS

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "reading-reports.md"


def test_page_has_every_caption_of_the_report():
    page = " ".join(PAGE.read_text().split())
    for name, caption in CAPTIONS.items():
        assert caption.format(margin=0.01) in page, name


def test_page_names_functions_that_exist():
    names = re.findall(r"`(nnunet_iac\.[\w.]+)`", PAGE.read_text())
    assert len(names) > 5
    for name in names:
        module, _, function = name.rpartition(".")
        assert hasattr(import_module(module), function), name
