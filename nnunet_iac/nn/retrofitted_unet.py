"""The frozen U-Net with something new in its skip connections."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nnunet_iac.nn.cell import ZeroGated
from nnunet_iac.nn.decoder_norms import tune_norms
from nnunet_iac.nn.layers import Layers
from nnunet_iac.nn.recomputation import recomputed
from nnunet_iac.nn.surgery import ImplantedUNet, skip_channels
from nnunet_iac.search.genotype import Genotype
from nnunet_iac.search.settings import Settings


class RetrofittedUNet(ImplantedUNet):
    """A U-Net whose backbone is frozen and whose implants learn.

    The backbone has no gradients and stays in evaluation mode whatever `train` is called with.

    Args:
        unet: the stock network; its modules are taken over, not copied.
        settings: the structural settings decide the implants.
    """

    genotype: Genotype | None = None
    """The cell it runs, once there is one."""

    def __init__(self, unet: Any, settings: Settings) -> None:
        super().__init__(unet, ())
        self.settings = settings
        self.recomputes = settings.recompute_cells
        self.layers = Layers.of_levels(unet.encoder, settings.norm)
        self.skip_channels = skip_channels(unet)
        self.encoder.requires_grad_(False)
        self.decoder.requires_grad_(False)
        tuned = settings.decoder_norms == "tuned"
        self.tuned_norms = tune_norms(self.decoder) if tuned else nn.ModuleList()

    @abstractmethod
    def new_implants(self) -> nn.ModuleList:
        """Return fresh implants that hold every tensor the final ones may start from."""

    def architecture_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the network carries and does not run on in the end."""
        return []

    def implanted(self, level: int, *inputs: Tensor) -> Tensor:
        """Return what the implant of a level gives; its activations may be recomputed backward."""
        if self.recomputes and torch.is_grad_enabled():
            return recomputed(self.implants[level], *inputs)
        return super().implanted(level, *inputs)

    def train(self, mode: bool = True) -> "RetrofittedUNet":
        """Set the mode of the implants; the frozen backbone stays in evaluation mode."""
        super().train(mode)
        self.encoder.eval()
        self.decoder.eval()
        return self

    def weights(self) -> list[nn.Parameter]:
        """Return omega, the trainable parameters of the implants."""
        return list(self.implants.parameters())

    def norm_weights(self) -> list[nn.Parameter]:
        """Return what is tuned of the decoder's norms, in the finetuning only."""
        return list(self.tuned_norms.parameters())

    def implant(self, modules: Iterable[nn.Module]) -> None:
        """Put modules into the skip connections, the lowest resolution first."""
        like = next(self.decoder.parameters())
        # nnU-Net's predictor loads weights in inference mode, whose tensors could not be trained.
        with torch.inference_mode(False):
            implants = nn.ModuleList(self.gated(module) for module in modules)
            self.implants = implants.to(like.device, like.dtype).train(self.training)

    def gated(self, module: nn.Module) -> nn.Module:
        """Return the module, behind a gate that starts at zero where the settings say so."""
        return ZeroGated(module) if self.settings.residual == "zero" else module
