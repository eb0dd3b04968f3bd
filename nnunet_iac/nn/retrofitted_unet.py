"""Stock U-Nets with modules in their skip connections; frozen ones with trainable cells."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from nnunet_iac.nn.cell import Cell, CellShape, Layers, ReZero
from nnunet_iac.nn.discrete_cell import DiscreteCell
from nnunet_iac.nn.named_classes import named_class
from nnunet_iac.nn.search_cell import SearchCell
from nnunet_iac.nn.timm_unet import TimmUNet
from nnunet_iac.nn.tuned_norms import require_untuned, tune_norms
from nnunet_iac.search.genotype import UNDECIDED, Genotype
from nnunet_iac.search.pruning import full_mask
from nnunet_iac.search.relaxation import Active, edge_weights, operation_weights
from nnunet_iac.search.space import EDGES, OPERATIONS

SUPPORTED = (PlainConvUNet, ResidualEncoderUNet, TimmUNet)
_NAMES = ", ".join(supported.__name__ for supported in SUPPORTED)

IMPLANT_PREFIX = "implants."
"""Beginning of the names of a retrofit's own tensors."""

BACKBONE_PREFIXES = ("encoder.", "decoder.")
"""Beginnings of the names of a backbone's tensors."""


class ImplantedUNet(nn.Module):
    """A U-Net of dynamic_network_architectures with a module (skip, up) -> skip on every skip.

    Encoder and decoder are the stock network's own modules under their own names, so a stock
    checkpoint's keys are a subset of this network's and load unchanged. `implants` are ordered
    like the decoder's stages, the lowest resolution first.
    """

    encoder: Any
    decoder: UNetDecoder

    def __init__(self, unet: nn.Module, implants: Iterable[nn.Module]) -> None:
        super().__init__()
        require_supported(unet)
        require_untuned(unet.decoder)
        self.encoder = unet.encoder
        self.decoder = unet.decoder
        self.implants = nn.ModuleList(implants)

    def forward(self, x: Float[Tensor, "batch channels *spatial"]) -> Tensor | list[Tensor]:
        """Return logits; with deep supervision a list, the highest resolution first."""
        mixing = self.mixing()
        decoder = self.decoder
        skips = self.rewired(self.encoder(x))
        below = skips[-1]
        outputs = []
        for level, (upsample, stage, head) in enumerate(
            zip(decoder.transpconvs, decoder.stages, decoder.seg_layers, strict=True)
        ):
            up = upsample(below)
            skip = self.implanted(level, skips[-(level + 2)], up, *mixing)
            below = stage(torch.cat((up, skip), dim=1))
            if decoder.deep_supervision or level == len(decoder.stages) - 1:
                outputs.append(head(below))
        return outputs[::-1] if decoder.deep_supervision else outputs[0]

    def rewired(self, skips: list[Tensor]) -> list[Tensor]:
        """Return the encoder's tensors as the decoder gets them, the highest resolution first."""
        return skips

    def implanted(self, level: int, *inputs: Tensor) -> Tensor:
        """Return what the implant of a level gives."""
        return self.implants[level](*inputs)

    def mixing(self) -> tuple[Tensor, ...]:
        """Return what every implant gets after the skip and the upsampled tensor."""
        return ()

    def backbone_state(self) -> dict[str, Tensor]:
        """Return the stock network's part of the state dict, buffers included."""
        own = self.state_dict().items()
        return {key: value for key, value in own if key.startswith(BACKBONE_PREFIXES)}


def skip_channels(unet: Any) -> list[int]:
    """Return the channels of every skip connection, the lowest resolution first."""
    return list(unet.encoder.output_channels[-2::-1])


def require_supported(unet: nn.Module) -> None:
    """Check that a network is one that can be retrofitted (see `ImplantedUNet`)."""
    if not isinstance(unet, SUPPORTED):
        raise ValueError(
            f"the network must be one of {_NAMES}; the plans describe a {type(unet).__name__}: "
            "use the plans it was made from, or plan with one of nnU-Net's planners "
            "(nnUNetv2_plan_experiment -pl ExperimentPlanner or nnUNetPlannerResEncM)"
        )
    stages = len(unet.encoder.output_channels)
    if stages < 3:
        raise ValueError(
            f"the network must have at least 3 stages, since nnU-Net gives the lowest decoder "
            f"output no weight in deep supervision; the plans describe {stages}"
        )


def located_unet(name: str) -> type[nn.Module]:
    """Return the U-Net class of a dotted name, or raise a `ValueError`."""
    found = named_class(name)
    if not issubclass(found, SUPPORTED):
        raise ValueError(
            f"unet must be the dotted name of one of {_NAMES}; got {name!r}: take the "
            "network_class_name of the plans of an ordinary U-Net"
        )
    return found


class RetrofittedUNet(ImplantedUNet):
    """A U-Net whose backbone is frozen and whose implants are trained.

    The backbone has no gradients and stays in evaluation mode whatever `train` is called with, but
    for what `unfreeze` has let learn.

    Args:
        unet: the backbone; its modules are taken over, not copied.
        norm: of the implants: `plans` for the backbone's own, or `batch`.
        residual: `zero` puts every implant behind a gate that starts at zero (`ReZero`); with
            `none` it replaces the skip.
        decoder_norms: `tuned` adds a trainable scale and shift to the decoder's norms; with
            `frozen` they stay as they are.
        activation_checkpointing: whether the activations inside the implants are computed again in
            the backward pass instead of kept.
        trained_backbone: what `unfreeze` lets learn: `none`, the `decoder`, or `all` of the
            backbone.
        sizes: of cells, as `CellShape.of_level` takes them; a convolution block has as many
            parameters as a cell of these sizes.
    """

    genotype: Genotype | None = None
    """The cell it runs, once there is one."""

    def __init__(
        self,
        unet: Any,
        *,
        norm: str = "plans",
        residual: str = "zero",
        decoder_norms: str = "frozen",
        activation_checkpointing: bool = False,
        trained_backbone: str = "none",
        **sizes: Any,
    ) -> None:
        super().__init__(unet, ())
        self.trained_backbone = trained_backbone
        self.backbone_learns = False
        self.norm = norm
        self.residual = residual
        self.activation_checkpointing = activation_checkpointing
        self.layers = Layers.of_levels(unet.encoder, norm)
        self.shapes = [CellShape.of_level(c, **sizes) for c in skip_channels(unet)]
        self.encoder.requires_grad_(False)
        self.decoder.requires_grad_(False)
        tuned = decoder_norms == "tuned"
        self.tuned_norms = tune_norms(self.decoder) if tuned else nn.ModuleList()

    @abstractmethod
    def new_implants(self) -> nn.ModuleList:
        """Return fresh implants that hold every tensor the final ones may start from."""

    def architecture_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that only a search uses; the final network carries them along."""
        return []

    def levels(self) -> Iterator[tuple[CellShape, Layers]]:
        """Yield the cell's shape and layers at every level, the lowest resolution first."""
        return zip(self.shapes, self.layers, strict=True)

    def implanted(self, level: int, *inputs: Tensor) -> Tensor:
        """Return the output of a level's implant, with activation checkpointing if it is on."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpointed(self.implants[level], *inputs)
        return super().implanted(level, *inputs)

    def train(self, mode: bool = True) -> "RetrofittedUNet":
        """Set the mode of all that learns; what is frozen stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        self.decoder.eval()
        for module in self._trained_modules() if self.backbone_learns else ():
            module.train(mode)
        return self

    def unfreeze(self, learns: bool = True) -> None:
        """Let `trained_backbone` learn, in the mode of `train`, or freeze it again."""
        self.backbone_learns = learns and self.trained_backbone != "none"
        for parameter in self.backbone_weights():
            parameter.requires_grad_(learns)
        self.train(self.training)

    def backbone_weights(self) -> list[nn.Parameter]:
        """Return the parameters of `trained_backbone`."""
        return [p for module in self._trained_modules() for p in module.parameters()]

    def _trained_modules(self) -> list[nn.Module]:
        decoder = self.decoder
        # The encoder is one of the decoder's modules.
        own = [decoder.transpconvs, decoder.stages, decoder.seg_layers]
        return {"none": [], "decoder": own, "all": [self.encoder, *own]}[self.trained_backbone]

    def weights(self) -> list[nn.Parameter]:
        """Return omega, the trainable parameters of the implants."""
        return list(self.implants.parameters())

    def norm_weights(self) -> list[nn.Parameter]:
        """Return the scales and shifts of `decoder_norms=tuned`; trained in finetuning only."""
        return list(self.tuned_norms.parameters())

    def implant(self, modules: Iterable[nn.Module]) -> None:
        """Put modules into the skip connections, the lowest resolution first."""
        like = next(self.decoder.parameters())
        # nnU-Net's predictor loads weights in inference mode, whose tensors could not be trained.
        with torch.inference_mode(False):
            implants = nn.ModuleList(self.gated(module) for module in modules)
            self.implants = implants.to(like.device, like.dtype).train(self.training)

    def gated(self, module: nn.Module) -> nn.Module:
        """Return the module, behind a gate that starts at zero if `residual` is `zero`."""
        return ReZero(module) if self.residual == "zero" else module


def checkpointed(module: nn.Module, *inputs: Any) -> Any:
    """Return a module's output with activation checkpointing.

    Only the inputs are kept; the backward pass computes the activations again, without a second
    update of running statistics.
    """
    return checkpoint(
        module,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _running_statistics_kept(module)),
    )


@contextmanager
def _running_statistics_kept(module: nn.Module) -> Iterator[None]:
    """Return a context in which the batch norms of a module update no running statistics."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm, _, count in kept:
            norm.momentum = 0.0
            norm.num_batches_tracked = None if count is None else count.clone()
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


class IACUNet(RetrofittedUNet):
    """A frozen backbone with search cells or, once a genotype is known, discrete cells.

    alpha and beta are parameters shared by all levels; genotype and mask are integer buffers, so
    the structure travels in the weights. `load_state_dict` reads them first and rebuilds the
    cells where they differ, so one instance can load the checkpoints of folds with other cells.

    Args:
        edge_transform: t of the edge weights, `tanh` or `tan`.
        tan_clamp: the largest |beta| that `tan` is applied to.
        retrofit: as `RetrofittedUNet` takes it.
    """

    alpha: nn.Parameter
    beta: nn.Parameter
    active: Active
    genotype_codes: Tensor

    def __init__(
        self,
        unet: nn.Module,
        *,
        edge_transform: str = "tanh",
        tan_clamp: float = 1.5,
        **retrofit: Any,
    ) -> None:
        super().__init__(unet, **retrofit)
        self.edge_transform = edge_transform
        self.tan_clamp = tan_clamp
        self.alpha = nn.Parameter(torch.zeros(len(EDGES), len(OPERATIONS)))
        self.beta = nn.Parameter(torch.zeros(len(EDGES)))
        self.register_buffer("active", full_mask())
        self.register_buffer("genotype_codes", torch.full((len(EDGES),), UNDECIDED))
        self._implant_search_cells()
        self.train()

    def mixing(self) -> tuple[Tensor, ...]:
        """Return phi (edges, operations) and Psi (edges) in float32; of discrete cells nothing."""
        if self.genotype is not None:
            return ()
        with torch.autocast(self.alpha.device.type, enabled=False):
            phi = operation_weights(self.alpha, self.active)
            psi = edge_weights(self.beta, self.edge_transform, self.tan_clamp)
        return phi, psi

    def prune(self, active: Active) -> None:
        """Remove the operations outside `active`, on whatever device, from all levels."""
        active = active.to(self.active.device)
        assert not (active & ~self.active).any(), "a deleted operation cannot become active"
        self.active.copy_(active)
        for cell in self.cells():
            cell.prune(active)

    def discretise(self, genotype: Genotype) -> None:
        """Replace the cells of all levels by fresh discrete cells; alpha and beta are kept."""
        self.genotype = genotype
        self.genotype_codes.copy_(torch.tensor(genotype.to_codes()))
        self.implant(DiscreteCell(*sizes, genotype) for sizes in self.levels())
        self.alpha.requires_grad_(False)
        self.beta.requires_grad_(False)

    def cells(self) -> list[Any]:
        """Return the cells, the lowest resolution first."""
        return [x.cell if isinstance(x, ReZero) else x for x in self.implants]

    def new_implants(self) -> nn.ModuleList:
        """Return fresh implants with the final parameters of every edge, operation and level."""
        operations = dict.fromkeys(EDGES, OPERATIONS)
        return nn.ModuleList(self.gated(Cell(*sizes, operations)) for sizes in self.levels())

    def architecture_parameters(self) -> list[nn.Parameter]:
        """Return alpha (14 edges, 7 operations) and beta (14 edges)."""
        return [self.alpha, self.beta]

    def _implant_search_cells(self) -> None:
        self.genotype = None
        self.genotype_codes.fill_(UNDECIDED)
        self.active.fill_(True)
        self.implant(SearchCell(*sizes) for sizes in self.levels())
        self.alpha.requires_grad_(True)
        self.beta.requires_grad_(True)

    def _restructure(self, codes: list[int], active: Active) -> None:
        """Rebuild the cells unless they already have the given structure."""
        if codes != self.genotype_codes.tolist() or bool((active & ~self.active).any()):
            if codes[0] == UNDECIDED:
                self._implant_search_cells()
            else:
                self.discretise(Genotype.from_codes(codes))
        if self.genotype is None:
            self.prune(active)

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        codes, active = (state_dict.get(prefix + key) for key in ("genotype_codes", "active"))
        if codes is not None and active is not None:
            self._restructure(codes.tolist(), active.to(self.active.device))
        super()._load_from_state_dict(state_dict, prefix, *arguments)
