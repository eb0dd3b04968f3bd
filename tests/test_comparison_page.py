"""The numbers of docs/comparison.md are those of its result files."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_comparison_page_is_what_its_result_files_say():
    path = ROOT / "docs" / "comparison" / "page.py"
    specification = importlib.util.spec_from_file_location("comparison_page", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert (ROOT / "docs" / "comparison.md").read_text() == module.page()
