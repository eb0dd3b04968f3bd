"""Which releases of nnU-Net are supported, and what of them our code relies on.

A release that breaks one of these is not supported until the code or the versions are changed.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from packaging.requirements import Requirement

import nnunet_iac
from nnunet_iac.host.trainer_lookup import exported_trainers, trainers_dir
from nnunet_iac.training import backbone_trainers, trainers

SUPPORTED = ">=2.8.1,<2.9"
ROOT = Path(nnunet_iac.__file__).parent
HOOKS = {name: getattr(nnUNetTrainer, name) for name in vars(nnUNetTrainer)}
HOOKS = {name: hook for name, hook in HOOKS.items() if inspect.isfunction(hook)}
OURS = [
    getattr(trainers, name, None) or getattr(backbone_trainers, name)
    for name in exported_trainers(trainers_dir())
]


def _nodes(kind: type) -> Iterator[tuple[Path, Any]]:
    """Yield the nodes of a kind in the code of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, kind):
                yield path, node


def test_the_supported_releases_are_those_of_the_metadata_and_the_pages() -> None:
    requirements = map(Requirement, metadata.requires("nnunet-iac") or ())
    specifier = next(r.specifier for r in requirements if r.name == "nnunetv2" and not r.marker)
    assert specifier == Requirement(f"nnunetv2{SUPPORTED}").specifier
    assert metadata.version("nnunetv2") in specifier
    docs = ROOT.parent / "docs" / "install.md"
    assert "| nnU-Net | 2.8.1 or newer, below 2.9 |" in docs.read_text()


def test_all_that_is_imported_from_the_host_is_there() -> None:
    found = [
        (node.module, alias.name)
        for _, node in _nodes(ast.ImportFrom)
        if (node.module or "").startswith("nnunetv2")
        for alias in node.names
    ]
    assert len(found) > 20
    for module, name in found:
        place = importlib.import_module(module)
        assert hasattr(place, name) or importlib.import_module(f"{module}.{name}"), (module, name)


def test_the_hosts_methods_are_called_with_positions_alone() -> None:
    """So a parameter that the next release renames changes nothing."""
    named = [
        f"{path.name}:{node.lineno}"
        for path, node in _nodes(ast.Call)
        if isinstance(node.func, ast.Attribute) and node.func.attr in HOOKS.keys() - {"__init__"}
        if node.keywords
    ]
    assert named == []


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_overrides_take_what_the_host_passes(cls: type) -> None:
    for name, hook in HOOKS.items():
        own = getattr(cls, name)
        if own is hook or own.__module__.startswith("nnunetv2."):
            continue
        parameters = inspect.signature(hook).parameters
        least = [p for p in parameters.values() if p.default is p.empty]
        for count in (len(least), len(parameters)):
            inspect.signature(own).bind(*range(count))
        inspect.signature(own).bind(**dict.fromkeys(parameters.keys() - {"self"}), **_self(own))


def _self(method: Any) -> dict[str, None]:
    return {"self": None} if "self" in inspect.signature(method).parameters else {}


@pytest.mark.parametrize("cls", OURS, ids=lambda cls: cls.__name__)
def test_networks_are_built_as_this_release_and_the_next_ask_for_them(cls: Any) -> None:
    """This one decides by the name `plans_manager`; the next knows only this form."""
    signature = inspect.signature(cls.build_network_architecture)
    assert list(signature.parameters) == [
        *("plans_manager", "configuration_manager"),
        *("num_input_channels", "num_output_channels", "enable_deep_supervision"),
    ]
    signature.bind(1, 2, 3, 4, enable_deep_supervision=False)  # As nnU-Net's predictor does.


@pytest.mark.parametrize("how", ["position", "filename_or_checkpoint", "whatever_it_is_called"])
def test_a_checkpoint_is_loaded_whatever_its_parameter_is_called(tmp_path: Path, how: str) -> None:
    trainer: Any = object.__new__(trainers.nnUNetTrainerIACLTH)
    trainer.run = trainer.settings = type("Run", (), {"identity": {}})()
    path = str(tmp_path / "checkpoint_latest.pth")
    with pytest.raises(FileNotFoundError, match=r"checkpoint_latest\.pth"):
        trainer.load_checkpoint(*([path] if how == "position" else []), **_named(how, path))


def _named(how: str, path: str) -> dict[str, str]:
    return {} if how == "position" else {how: path}
