import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="session")
def script() -> Callable[[str], ModuleType]:
    """Return what loads a script of docs as a module, by its path there without .py."""

    def load(path: str) -> ModuleType:
        name = path.replace("/", "_")
        specification = importlib.util.spec_from_file_location(name, DOCS / f"{path}.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[name] = module  # Dataclasses look for it there.
        specification.loader.exec_module(module)
        return module

    return load
