"""The numbers of docs/performance.md are those of its result files."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_performance_page_is_what_its_result_files_say():
    path = ROOT / "docs" / "performance" / "page.py"
    specification = importlib.util.spec_from_file_location("performance_page", path)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    assert (ROOT / "docs" / "performance.md").read_text() == module.page()
