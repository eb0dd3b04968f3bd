"""Discrete cells compiled alone; a backend of torch that needs no compiler stands in for CUDA's."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

from nnunet_iac.nn.cost import multiply_accumulates
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.records import BackboneRecord
from nnunet_iac.search.controls import uniform_genotype
from nnunet_iac.search.settings import Settings
from nnunet_iac.training import compilation, controller
from nnunet_iac.training.compilation import compile_cells, compiles_cells, require_compiler
from nnunet_iac.training.controller import Phase, SearchController
from nnunet_iac.training.method import IAC_LTH
from nnunet_iac.training.recorder import Recorder

TinyUNet = Callable[..., nn.Module]

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")  # It is torch that reads it.


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    """Let torch forget what earlier tests compiled."""
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def network(tiny_unet: TinyUNet) -> IACUNet:
    """Return a retrofit with two levels of discrete cells and open gates."""
    made: Any = retrofit(tiny_unet(), uniform_genotype("dil_conv_3x3"), min_channels=4)
    for implant in made.implants:
        implant.gate.data.fill_(0.5)
    return made


def _outputs(network: IACUNet) -> list[torch.Tensor]:
    """Return logits in training and in evaluation, and the gradients of all cell weights."""
    x = torch.randn(2, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    network.train()
    network.zero_grad()
    logits: Any = network(x)
    logits[0].square().mean().backward()
    gradients = [p.grad.clone() for p in network.weights() if p.grad is not None]
    network.eval()
    with torch.no_grad():
        return [logits[0].detach(), network(x)[0], *gradients]


@torch._dynamo.config.patch(cache_size_limit=2)
def test_compiled_cells_keep_their_keys_and_what_they_compute(network: IACUNet) -> None:
    keys, plain = list(network.state_dict()), _outputs(network)
    work = multiply_accumulates(network, torch.zeros(1, 2, 16, 16))
    counter = CompileCounterWithBackend("eager")
    compile_cells(network, counter)
    assert counter.frame_count == 0
    for found, wanted in zip(_outputs(network), plain, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)
    _outputs(network)
    assert counter.frame_count == 2 * len(network.cells()), "each is compiled once for each mode"
    assert list(network.state_dict()) == keys
    assert multiply_accumulates(network, torch.zeros(1, 2, 16, 16)) == work


def test_a_search_compiles_the_cells_of_its_finetuning_and_no_others(
    tmp_path: Path, tiny_unet: TinyUNet, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[nn.Module] = []

    def compile_and_note(network: Any) -> None:
        compile_cells(network, "eager")
        compiled.extend(network.cells())

    monkeypatch.setattr(controller, "compiles_cells", lambda settings, _: settings.compile_cells)
    monkeypatch.setattr(controller, "compile_cells", compile_and_note)
    settings = Settings(warmup_epochs=1, compile_cells=True)
    made: Any = retrofit(tiny_unet())
    recorder = Recorder(settings, RunFolder(tmp_path / "iac"), lambda line: None)
    run = SearchController(settings, IAC_LTH, recorder)
    run.start(made, BackboneRecord("", "", 0, ""), {})
    epoch = 0
    while run.phase is not Phase.FINETUNE:
        run.optimisers(made)
        assert compiled == []
        epoch += 1
        run.end_epoch(made, epoch, seconds=1.0, loss=1.0)
    run.optimisers(made)
    assert compiled == made.cells()


def test_cells_are_compiled_on_cuda_where_the_settings_ask_for_it() -> None:
    asked, default = Settings(compile_cells=True).optimisation, Settings().optimisation
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert compiles_cells(asked, cuda)
    assert not compiles_cells(asked, cpu)
    assert not compiles_cells(default, cuda)


def test_a_torch_that_cannot_compile_is_found_before_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("Cannot find a working triton installation\nand more")

    monkeypatch.setattr(compilation.torch, "compile", fail)
    with pytest.raises(RuntimeError, match=r"\(Cannot find a working triton installation\): inst"):
        require_compiler(torch.device("cpu"))
