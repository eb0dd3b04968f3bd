"""A trained U-Net, frozen, with a search cell or a discrete cell in every skip connection."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nnunet_iac.nn.cell import DiscreteCell, ReZero, full_width_cell
from nnunet_iac.nn.retrofitted_unet import RetrofittedUNet
from nnunet_iac.nn.search_cell import SearchCell
from nnunet_iac.search.genotype import UNDECIDED, Genotype
from nnunet_iac.search.pruning import full_mask
from nnunet_iac.search.relaxation import edge_weights, operation_weights
from nnunet_iac.search.space import EDGES, OPERATIONS


class IACUNet(RetrofittedUNet):
    """A frozen backbone with search cells or, once a genotype is known, discrete cells.

    alpha and beta are parameters shared by all levels; genotype and mask are integer buffers, so
    the structure travels in the weights. `load_state_dict` reads them first and rebuilds the
    cells where they differ, so one instance can load the checkpoints of folds with other cells.

    Args:
        unet: the backbone.
        edge_transform: t of the edge weights, `tanh` or `tan`.
        tan_clamp: the largest |beta| that `tan` is applied to.
        retrofit: as `RetrofittedUNet` takes it.
    """

    alpha: nn.Parameter
    beta: nn.Parameter
    active: Bool[Tensor, "edges operations"]
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
        codes = torch.full((len(EDGES),), UNDECIDED, dtype=torch.int64)
        self.register_buffer("genotype_codes", codes)
        self.genotype: Genotype | None = None
        self._given_mixing: tuple[Tensor, ...] | None = None
        self._implant_search_cells()
        self.train()

    def mixing(self) -> tuple[Tensor, ...]:
        """Return phi (edges, operations) and Psi (edges) in float32; of discrete cells nothing."""
        if self._given_mixing is not None:
            return self._given_mixing
        if self.genotype is not None:
            return ()
        with torch.autocast(self.alpha.device.type, enabled=False):
            phi = operation_weights(self.alpha, self.active)
            psi = edge_weights(self.beta, self.edge_transform, self.tan_clamp)
        return phi, psi

    @contextmanager
    def mixed_by(
        self, phi: Float[Tensor, "edges operations"], psi: Float[Tensor, " edges"]
    ) -> Iterator[None]:
        """Return a context in which the search cells mix with the given weights."""
        self._given_mixing = phi, psi
        try:
            yield
        finally:
            self._given_mixing = None

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
        self.implant(DiscreteCell(*sizes, genotype) for sizes in self.levels())
        self.alpha.requires_grad_(False)
        self.beta.requires_grad_(False)

    def cells(self) -> list[Any]:
        """Return the cells, the lowest resolution first."""
        return [
            implant.cell if isinstance(implant, ReZero) else implant for implant in self.implants
        ]

    def new_implants(self) -> nn.ModuleList:
        """Return fresh implants with the final parameters of every edge, operation and level."""
        return nn.ModuleList(self.gated(full_width_cell(*sizes)) for sizes in self.levels())

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
