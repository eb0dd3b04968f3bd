"""U-Nets with another skip module than the cell: trained from scratch, and as retrofits."""

from functools import partial
from typing import Any

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import Tensor, nn

from nnunet_iac.nn.cell import Layers
from nnunet_iac.nn.cost import cell_parameters, mean_parameters
from nnunet_iac.nn.retrofitted_unet import (
    ImplantedUNet,
    RetrofittedUNet,
    checkpointed,
    located_unet,
    skip_channels,
)
from nnunet_iac.nn.skip_modules import (
    ConvolutionBlock,
    NestedSkips,
    build_skip_module,
    equal_widths,
    require_skip_module,
    widen_for_nested_skips,
)
from nnunet_iac.search.genotype import Genotype


class SkipUNet(ImplantedUNet):
    """An ordinary network for nnU-Net's plans: a stock U-Net with skip modules, all of it trained.

    Attention gates and residual attention have one module per level. Nested skips (U-Net++) are
    one module for all levels, and the decoder's stages take all nodes of their level. Deep
    supervision is nnU-Net's, one output per decoder stage; U-Net++'s own, on the nodes of the
    highest resolution, would not fit nnU-Net's loss.

    Args:
        skip: one of `SKIP_MODULES`.
        unet: dotted class name of the U-Net.
        arch_kwargs: what that class takes, `deep_supervision` included.
    """

    def __init__(
        self, input_channels: int, num_classes: int, skip: str, unet: str, **arch_kwargs: Any
    ) -> None:
        require_skip_module(skip)
        network: Any = located_unet(unet)(
            input_channels=input_channels, num_classes=num_classes, **arch_kwargs
        )
        super().__init__(network, ())
        self.nested = skip == "nested"
        if self.nested:
            self.implants.append(NestedSkips(self.encoder))
            widen_for_nested_skips(self.decoder)
        else:
            levels = zip(skip_channels(network), Layers.of_levels(self.encoder), strict=True)
            self.implants.extend(build_skip_module(skip, *level) for level in levels)
        self._initialise_unet = partial(network.apply, network.initialize)

    def initialize(self, module: nn.Module) -> None:
        """Draw all initial weights when `module` is the whole network.

        nnU-Net applies this to every module. The U-Net's are those of its own class; the implants'
        are He's, as everywhere in nnU-Net.
        """
        if module is self:
            self._initialise_unet()
            self.implants.apply(InitWeights_He(1e-2))

    def rewired(self, skips: list[Tensor]) -> list[Tensor]:
        """Return the concatenated nodes of every level where skips are nested."""
        if not self.nested:
            return skips
        return [*(torch.cat(nodes, dim=1) for nodes in self.implants[0](skips)), skips[-1]]

    def implanted(self, level: int, *inputs: Tensor) -> Tensor:
        """Return a level's output; nested skips are complete already."""
        return inputs[0] if self.nested else super().implanted(level, *inputs)


class SkipModuleUNet(RetrofittedUNet):
    """A frozen backbone with attention gates, residual attention or convolutions in its skips.

    A convolution has as many parameters as the cell of its level has on average over all cells,
    until `match` is given another one; the widths travel in the weights' shapes.
    """

    def __init__(self, unet: nn.Module, kind: str, **retrofit: Any) -> None:
        super().__init__(unet, **retrofit)
        self.kind = kind
        self.match(None)
        self.train()

    def match(self, genotype: Genotype | None) -> None:
        """Give convolutions as many parameters as a cell has; None means the average cell."""
        self._widths: list[tuple[int, int]] = []
        if self.kind == "convolution":
            for shape, layers in self.levels():
                count = (
                    mean_parameters(shape, layers)
                    if genotype is None
                    else cell_parameters(shape, layers, genotype)
                )
                self._widths.append(equal_widths(shape.skip_channels, count, layers))
        self.implant(self._drawn())

    def match_network(self, other: "SkipModuleUNet") -> None:
        """Give convolutions the widths of another network's."""
        self._widths = other._widths
        self.implant(self._drawn())

    def new_implants(self) -> nn.ModuleList:
        """Return fresh implants."""
        return nn.ModuleList(self.gated(module) for module in self._drawn())

    def _drawn(self) -> list[nn.Module]:
        if self.kind == "convolution":
            return [
                ConvolutionBlock(shape.skip_channels, widths, layers)
                for (shape, layers), widths in zip(self.levels(), self._widths, strict=True)
            ]
        return [
            build_skip_module(self.kind, s.skip_channels, layers) for s, layers in self.levels()
        ]

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        prefixes = [f"{prefix}implants.{level}." for level in range(len(self.implants))]
        if self.kind == "convolution" and any(key.startswith(prefixes[0]) for key in state_dict):
            inner = "cell." if self.residual == "zero" else ""
            widths = [ConvolutionBlock.widths_of(state_dict, start + inner) for start in prefixes]
            if widths != self._widths:
                self._widths = widths
                self.implant(self._drawn())
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class NestedUNet(RetrofittedUNet):
    """A frozen backbone whose decoder gets the last dense node of every level in place of the skip.

    U-Net++ (Zhou et al. 2018) concatenates all nodes of a level; a frozen decoder has room for one
    tensor, and the last node has seen the others. The lowest skip has no dense node and stays.
    """

    def __init__(self, unet: nn.Module, **retrofit: Any) -> None:
        super().__init__(unet, **retrofit)
        like = next(self.decoder.parameters())
        self.implants = self.new_implants().to(like.device, like.dtype)
        self.train()

    def new_implants(self) -> nn.ModuleList:
        """Return fresh dense nodes, one module for all levels."""
        layers = self.layers[0]
        norm = (layers.norm_op, layers.norm_kwargs) if self.norm == "batch" else None
        nested = NestedSkips(self.encoder, norm=norm)
        return nn.ModuleList([LastNodes(nested, self.residual == "zero")])

    def rewired(self, skips: list[Tensor]) -> list[Tensor]:
        """Return the last nodes in place of the skips."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpointed(self.implants[0], skips)
        return self.implants[0](skips)

    def implanted(self, level: int, *inputs: Tensor) -> Tensor:
        """Return the skip, which is a dense node already."""
        return inputs[0]


class LastNodes(nn.Module):
    """The last dense node of every level, or skip + gate x node with gates that start at zero."""

    def __init__(self, nested: NestedSkips, gated: bool) -> None:
        super().__init__()
        self.nested = nested
        levels = len({name.partition("_")[0] for name in nested.nodes}) if gated else 0
        self.gates = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(levels))

    def forward(self, skips: list[Tensor]) -> list[Tensor]:
        """Return as many tensors as came, of the same shapes; lowest skip and bottleneck as is."""
        last = [nodes[-1] for nodes in self.nested(skips)]
        for level, gate in enumerate(self.gates):
            last[level] = skips[level] + gate * last[level]
        return [*last, skips[-1]]
