"""The retrofitted network: a frozen U-Net with an adaptive cell in every skip connection."""

from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nnunet_iac.nn.cell import Cell, CellShape, DiscreteCell, ZeroGated, full_width_cell
from nnunet_iac.nn.layers import Layers
from nnunet_iac.nn.search_cell import SearchCell
from nnunet_iac.nn.surgery import ImplantedUNet, skip_channels
from nnunet_iac.search.genotype import UNDECIDED, Genotype
from nnunet_iac.search.pruning import full_mask
from nnunet_iac.search.relaxation import edge_weights, operation_weights
from nnunet_iac.search.settings import Settings
from nnunet_iac.search.space import EDGES, OPERATIONS


class IACUNet(ImplantedUNet):
    """A frozen U-Net with search cells or, once a genotype is known, discrete cells.

    alpha and beta are parameters shared by all levels; genotype and mask are integer buffers, so
    the structure travels in the weights. `load_state_dict` reads them first and rebuilds the
    cells where they differ, so one instance can load the checkpoints of folds with other cells.

    The backbone has no gradients and stays in evaluation mode whatever `train` is called with.

    Args:
        unet: the stock network; its modules are taken over, not copied.
        settings: the structural settings decide the cells.
    """

    alpha: nn.Parameter
    beta: nn.Parameter
    active: Bool[Tensor, "edges operations"]
    genotype_codes: Tensor

    def __init__(self, unet: nn.Module, settings: Settings) -> None:
        super().__init__(unet, ())
        self.settings = settings
        self._layers = Layers.of_encoder(unet.encoder, settings)
        self._shapes = [CellShape.of_level(c, settings) for c in skip_channels(unet)]
        self.alpha = nn.Parameter(torch.zeros(len(EDGES), len(OPERATIONS)))
        self.beta = nn.Parameter(torch.zeros(len(EDGES)))
        self.register_buffer("active", full_mask())
        codes = torch.full((len(EDGES),), UNDECIDED, dtype=torch.int64)
        self.register_buffer("genotype_codes", codes)
        self.genotype: Genotype | None = None
        self.encoder.requires_grad_(False)
        self.decoder.requires_grad_(False)
        self._implant_search_cells()
        self.train()

    def mixing(self) -> tuple[Tensor, ...]:
        """Return (phi, Psi) in float32 while searching, nothing once discrete."""
        if self.genotype is not None:
            return ()
        with torch.autocast(self.alpha.device.type, enabled=False):
            phi = operation_weights(self.alpha, self.active)
            psi = edge_weights(self.beta, self.settings.edge_transform, self.settings.tan_clamp)
        return phi, psi

    def implanted(self, level: int, *inputs: Tensor) -> Tensor:
        """Return what the cell of a level gives; its activations may be recomputed backward."""
        if self.settings.recompute_cells and torch.is_grad_enabled():
            return checkpoint(self.implants[level], *inputs, use_reentrant=False)
        return super().implanted(level, *inputs)

    def train(self, mode: bool = True) -> "IACUNet":
        """Set the mode of the implants; the frozen backbone stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        self.decoder.eval()
        return self

    def prune(self, active: Bool[Tensor, "edges operations"]) -> None:
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
        self._implant(DiscreteCell(shape, self._layers, genotype) for shape in self._shapes)
        self.alpha.requires_grad_(False)
        self.beta.requires_grad_(False)

    def cells(self) -> list[Any]:
        """Return the cells, the lowest resolution first."""
        return [
            implant.cell if isinstance(implant, ZeroGated) else implant for implant in self.implants
        ]

    def weights(self) -> list[nn.Parameter]:
        """Return omega, the trainable parameters of the cells."""
        return list(self.implants.parameters())

    def full_width_implants(self) -> nn.ModuleList:
        """Return new implants with the final parameters of every edge, operation and level."""
        return nn.ModuleList(
            self._gated(full_width_cell(shape, self._layers)) for shape in self._shapes
        )

    def _implant_search_cells(self) -> None:
        self.genotype = None
        self.genotype_codes.fill_(UNDECIDED)
        self.active.fill_(True)
        self._implant(SearchCell(shape, self._layers) for shape in self._shapes)
        self.alpha.requires_grad_(True)
        self.beta.requires_grad_(True)

    def _implant(self, cells: Any) -> None:
        # nnU-Net's predictor loads weights in inference mode, whose tensors could not be trained.
        with torch.inference_mode(False):
            implants = nn.ModuleList(self._gated(cell) for cell in cells)
            self.implants = implants.to(self.alpha.device, self.alpha.dtype).train(self.training)

    def _gated(self, cell: Cell) -> nn.Module:
        return ZeroGated(cell) if self.settings.residual == "zero" else cell

    def _restructure(self, codes: list[int], active: Bool[Tensor, "edges operations"]) -> None:
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
