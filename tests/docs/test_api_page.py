"""The page on the public API: its script runs, and its table is the API."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import nnunet_iac
from nnunet_iac.nn import planned_retrofit

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text()


def test_its_script_finds_a_cell_and_leaves_the_backbone_as_it_was(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (script,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    before: dict[str, torch.Tensor] = {}
    retrofit = planned_retrofit.retrofit

    def noting(unet: Any, *arguments: Any, **keywords: Any) -> Any:
        if not before:
            before.update({key: tensor.clone() for key, tensor in unet.state_dict().items()})
        return retrofit(unet, *arguments, **keywords)

    monkeypatch.setattr(planned_retrofit, "retrofit", noting)
    names: dict[str, Any] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(script, names)
    assert isinstance(names["genotype"], nnunet_iac.Genotype)
    assert str(names["genotype"]) in capsys.readouterr().out
    assert names["network"].genotype == names["genotype"]
    assert names["observed"].epoch >= 6
    after = names["unet"].state_dict()
    assert after.keys() == before.keys() == names["network"].backbone_state().keys()
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert any(gate.item() for key, gate in names["network"].named_parameters() if "gate" in key)


def test_its_table_names_the_whole_api() -> None:
    rows = [row.split("|")[1] for row in PAGE.splitlines() if row.startswith("| `")]
    named = {name for row in rows for name in re.findall(r"`(\w+)", row)}
    assert named | {"__version__"} == set(nnunet_iac.__all__)
