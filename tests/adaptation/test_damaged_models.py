"""Damaged files of models and adapters: an error of one line that names the file."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from trained_models import adapted, planned, write_model

from nnunet_iac.adaptation.adapter import ADAPTER_KEY, Adapter, content_hash
from nnunet_iac.cli import main
from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint

Change = Callable[[dict[str, Any]], Any]

WHOLE: list[Change] = [lambda _: None, lambda _: [], lambda _: {}, lambda _: "text"]


def _with(*keys: str, **values: Any) -> Change:
    """Return a change of what is below keys: other values, or without the keys that are None."""

    def change(content: dict[str, Any]) -> dict[str, Any]:
        inner = content
        for key in keys:
            inner = inner[key]
        inner.update(values)
        for key in [key for key, value in values.items() if value is None]:
            del inner[key]
        return content

    return change


PLANS = [
    *WHOLE,
    _with(configurations=[]),
    _with(configurations={}),
    _with(plans_name="a__b"),
    _with(plans_name=None),
    _with(dataset_name=None),
    _with("configurations", "2d", architecture=None),
    _with("configurations", "2d", "architecture", arch_kwargs="text"),
]
DATA = [*WHOLE, _with(labels=None), _with(channel_names=[]), _with(file_ending=None)]
CHECKPOINT = [*WHOLE, _with(network_weights=3), _with(network_weights=None)]
ADAPTER = [
    *WHOLE,
    _with(backbone=[]),
    _with(plans=3),
    _with(structure="text"),
    _with("structure", implant=None),
    _with("structure", channel_ratio=float("nan")),
    _with(provenance=[]),
    _with("provenance", trainer=None),
    _with(mirroring="text"),
    _with(sites=[]),
    _with(format="text"),
    _with(hash=None),
    _with(more=1),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_model(tmp_path_factory.mktemp("models"), "2d", planned(2))
    (made / "adapters").mkdir()
    adapted(made)[1].save(made / "adapters" / "site.safetensors")
    return made


def _refused(capsys: pytest.CaptureFixture[str], file: Path, *words: object) -> None:
    assert main([str(word) for word in words]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert str(file) in message


@contextmanager
def _whole_again(file: Path) -> Iterator[None]:
    """Put back what a file of the shared model had."""
    content = file.read_bytes()
    try:
        yield
    finally:
        file.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "change"),
    [("plans.json", c) for c in PLANS] + [("dataset.json", c) for c in DATA],
)
def test_a_model_with_a_damaged_file_is_not_exported(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, change: Change
) -> None:
    file = model / name
    with _whole_again(file):
        file.write_text(json.dumps(change(json.loads(file.read_text()))))
        _refused(capsys, file, "export", model, "-o", tmp_path / "out")


@pytest.mark.parametrize("change", CHECKPOINT)
def test_a_damaged_checkpoint_is_not_exported_and_no_backbone_of_adapters(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change
) -> None:
    file = model / "fold_0" / FINAL
    with _whole_again(file):
        torch.save(change(read_checkpoint(file)), file)
        _refused(capsys, file, "export", model, "-o", tmp_path / "out")
        _refused(capsys, file, "adapter", "list", model)


@pytest.mark.parametrize("change", ADAPTER)
def test_a_damaged_adapter_is_not_applied(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Change
) -> None:
    with safe_open(model / "adapters" / "site.safetensors", framework="pt") as file:
        document = json.loads(file.metadata()[ADAPTER_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changed = change(document)
    if isinstance(changed, dict) and changed.pop("hash", None) is not None:
        changed["hash"] = content_hash(tensors, changed)  # So that the rest is looked at.
    damaged = tmp_path / "other.safetensors"
    save_file(tensors, damaged, {ADAPTER_KEY: json.dumps(changed)})
    _refused(capsys, damaged, "adapter", "apply", model, damaged, "-o", tmp_path / "out")


def test_what_an_adapter_states_of_its_tensors_must_be_as_it_was_saved(
    model: Path, tmp_path: Path
) -> None:
    site, changed = model / "adapters" / "site.safetensors", tmp_path / "changed.safetensors"
    with safe_open(site, framework="pt") as file:
        document = json.loads(file.metadata()[ADAPTER_KEY])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    document["mirroring"] = [0]
    save_file(tensors, changed, {ADAPTER_KEY: json.dumps(document)})
    with pytest.raises(ValueError, match=r"changed\.safetensors is not what was saved: save it ag"):
        Adapter.read(changed)


def test_an_adapter_with_tensors_of_the_backbone_is_refused(model: Path, tmp_path: Path) -> None:
    adapter = Adapter.read(model / "adapters" / "site.safetensors")
    adapter.tensors["encoder.stem.weight"] = torch.zeros(1)
    adapter.save(tmp_path / "over.safetensors")
    with pytest.raises(ValueError, match=r"not contain tensors of the backbone; .*over\.saf"):
        Adapter.read(tmp_path / "over.safetensors")
