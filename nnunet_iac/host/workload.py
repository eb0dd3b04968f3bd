"""Workload of a benchmark: a network, a batch of random images, and nnU-Net's loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn

from nnunet_iac.host.devices import require_device
from nnunet_iac.host.networks import built_from_plans
from nnunet_iac.host.planning import preprocessed_folder
from nnunet_iac.host.plans import (
    architecture_of,
    configuration_of,
    configurations_of,
    read_dataset,
    read_plans,
    settings_of,
)
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.retrofitted_unet import IACUNet, require_supported
from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.nn.timm_unet import STEM_CHANNELS, known_encoder
from nnunet_iac.search.setting_parts import ControlPart, RetrofitPart
from nnunet_iac.search.settings import Settings


@dataclass(frozen=True)
class Workload:
    """A training step's size; by default nnU-Net's 2-D plan of the Hippocampus at batch size 12.

    `features` are channels per stage; `architecture`, as in plans, replaces them. `input_channels`
    include a cascade's masks of the stage before, `classes` the background unless they are
    `regions`, which may overlap.
    """

    batch_size: int = 12
    patch_size: tuple[int, ...] = (56, 40)
    features: tuple[int, ...] = (32, 64, 128, 256)
    input_channels: int = 1
    classes: int = 3
    regions: bool = False
    settings: Settings = field(default_factory=Settings)
    device: str = "cpu"
    architecture: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name, sizes, counts, rule in (
            ("the batch size", (self.batch_size,), (1,), "an integer"),
            ("the patch size", self.patch_size, (2, 3), "two or three integers"),
            ("features", self.features, range(3, 100), "integers for three or more stages,"),
        ):
            right = isinstance(sizes, tuple) and len(sizes) in counts
            if not right or not all(type(size) is int and size >= 1 for size in sizes):
                shown = ", ".join(map(repr, sizes)) if isinstance(sizes, tuple) else repr(sizes)
                raise ValueError(f"{name} must be {rule} >= 1; got {shown}: give another")
        divisors = self._divisors()
        if len(divisors) != len(self.patch_size):
            raise ValueError(
                f"the patch must have {len(divisors)} sides, as in the plans; got {self.patch_size}"
            )
        whole = not any(s % d for s, d in zip(self.patch_size, divisors, strict=True))
        if not whole or self.patch_size == divisors:
            raise ValueError(
                "every side of the patch must be a multiple of "
                f"{' x '.join(map(str, divisors))} with {len(self.features)} stages, and one a "
                f"larger one; got {self.patch_size}"
            )
        require_device(self.device)

    def _divisors(self) -> tuple[int, ...]:
        """Return by how much the encoder reduces every side."""
        return [(), *self._reductions()][-1]

    def _reductions(self) -> list[tuple[int, ...]]:
        """Return by how much every side is reduced at each stage of the encoder."""
        axes = len(self.patch_size)
        if self.architecture is None:
            return [(2**stage,) * axes for stage in range(len(self.features))]
        with built_from_plans():
            strides = self.architecture["arch_kwargs"]["strides"]
            sides = ([s] * axes if isinstance(s, int) else s for s in strides)
            reductions = np.cumprod([*sides], axis=0)
            return [tuple(map(int, stage)) for stage in reductions]

    @classmethod
    def of_plans(cls, dataset: str, configuration: str, plans: str, device: str) -> "Workload":
        """Return the size that plans describe."""
        folder = preprocessed_folder(dataset)
        path = folder / f"{plans}.json"
        if not path.is_file():
            raise FileNotFoundError(f"the plans must exist; {path} does not: check -d and -p")
        content = read_plans(path)
        known = configurations_of(content)
        if configuration not in known:
            raise ValueError(
                f"{path} must have the configuration; got {configuration}, has {', '.join(known)}"
            )
        config = configuration_of(content, configuration)
        architecture = architecture_of(config)
        data = read_dataset(folder / "dataset.json")
        manager = PlansManager(content)
        try:
            labels = manager.get_label_manager(data)
            inputs = determine_num_input_channels(manager, configuration, data)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(
                f"the labels in {folder / 'dataset.json'} must be some that nnU-Net can learn; "
                f"they are not ({error}): correct them"
            ) from error
        return cls(
            batch_size=config.get("batch_size", 0),
            patch_size=_tuple(config.get("patch_size")),
            features=_tuple(_features(architecture["arch_kwargs"])),
            input_channels=inputs,
            classes=labels.num_segmentation_heads,
            regions=labels.has_regions,
            settings=settings_of(config),
            device=device,
            architecture=architecture,
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return network, size and settings that were given, in plain types, for a report."""
        network = (self.architecture or {}).get("network_class_name", PlainConvUNet.__name__)
        sizes = {"patch_size": list(self.patch_size), "features": list(self.features)}
        keys = ("partial_channels", "channel_ratio", "min_channels")
        cell = {key: getattr(self.settings.cell, key) for key in keys}
        given, data = self.settings.written, self.settings.data
        return {
            **{"network": network.rpartition(".")[2], "batch_size": self.batch_size},
            **{**sizes, **cell, "device": self.device},
            "settings": {key: value for key, value in given.items() if not hasattr(data, key)},
        }

    def unet(self) -> nn.Module:
        """Return a new stock network with deep supervision on the device."""
        if self.architecture is not None:
            with built_from_plans():
                keys = ("network_class_name", "arch_kwargs", "_kw_requires_import")
                arguments = (self.architecture[key] for key in keys)
                ends = self.input_channels, self.classes
                net = get_network_from_plans(*arguments, *ends, deep_supervision=True)
            require_supported(net)
            return net.to(self.device)
        dimension, stages = len(self.patch_size), len(self.features)
        net = PlainConvUNet(
            *(self.input_channels, stages, self.features),
            *(getattr(nn, f"Conv{dimension}d"), 3, [1] + [2] * (stages - 1)),
            n_conv_per_stage=2,
            num_classes=self.classes,
            n_conv_per_stage_decoder=2,
            conv_bias=True,
            norm_op=getattr(nn, f"InstanceNorm{dimension}d"),
            norm_op_kwargs={"eps": 1e-5, "affine": True},
            nonlin=nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            deep_supervision=True,
        )
        return net.to(self.device)

    def retrofit(self, unet: nn.Module | None = None) -> IACUNet:
        """Return a new retrofit with search cells of the settings' sizes, of a U-Net or a new one.

        Several retrofits may share a U-Net as long as it stays frozen.

        Raises:
            ValueError: the settings are those of a control.
        """
        if (part := self.settings.cell.trainable_part) in get_args(ControlPart):
            raise ValueError(
                f"trainable_part of a retrofit must be one of {', '.join(get_args(RetrofitPart))}; "
                f"got {part}: measure under other plans, or choose one with --set"
            )
        arguments = {**self.settings.cell.network_arguments(), "implant": "cell"}
        network = retrofit(self.unet() if unet is None else unet, **arguments)
        assert isinstance(network, IACUNet)
        return network

    def supernet(self, active: Tensor | None = None, unet: nn.Module | None = None) -> IACUNet:
        """Return a retrofitted network with search cells, pruned to `active`."""
        network = self.retrofit(unet)
        load_ticket(network, draw_ticket(network, self.settings.optimisation.seed))
        if active is not None:
            network.prune(active)
        return network

    def batch(self) -> tuple[Tensor, list[Tensor]]:
        """Return random images and, for every output, random labels."""
        generator = torch.Generator().manual_seed(0)
        size = (self.batch_size, self.input_channels, *self.patch_size)
        images = torch.randn(size, generator=generator).to(self.device)
        values, channels = (2, self.classes) if self.regions else (self.classes, 1)
        # The lowest stage has no output; the others are as large as the encoder's tensors.
        sides = [np.floor_divide(self.patch_size, by) for by in self._reductions()[:-1]]
        shapes = [(self.batch_size, channels, *map(int, side)) for side in sides]
        labels = [torch.randint(values, shape, generator=generator) for shape in shapes]
        return images, [target.to(self.device) for target in labels]

    def loss(self) -> nn.Module:
        """Return nnU-Net's Dice and cross-entropy with its weights of deep supervision."""
        dice = {"batch_dice": True, "smooth": 1e-5, "do_bg": self.regions, "ddp": False}
        kind = MemoryEfficientSoftDiceLoss
        if self.regions:
            one: nn.Module = DC_and_BCE_loss({}, dice, dice_class=kind)
        else:
            one = DC_and_CE_loss(dice, {}, weight_ce=1, weight_dice=1, dice_class=kind)
        outputs = len(self.features) - 1
        weights = [2.0**-k for k in range(outputs - 1)] + [0.0]
        return DeepSupervisionWrapper(one, [w / sum(weights) for w in weights])

    def resized(
        self,
        batch_size: int | None,
        patch_size: Sequence[int] | None,
        features: Sequence[int] | None,
        settings: Settings | None,
    ) -> "Workload":
        """Return the workload with what is given replaced; features only without plans."""
        if features is not None and self.architecture is not None:
            raise ValueError("plans fix the features; got both: leave out -d or --features")
        return replace(
            self,
            batch_size=self.batch_size if batch_size is None else batch_size,
            patch_size=self.patch_size if patch_size is None else tuple(patch_size),
            features=self.features if features is None else tuple(features),
            settings=settings or self.settings,
        )


def _features(arch_kwargs: Mapping[str, Any]) -> Any:
    """Return the channels per stage, which plans of a timm encoder leave to it."""
    if "encoder" in arch_kwargs:
        stem = arch_kwargs.get("stem_channels") or STEM_CHANNELS
        return known_encoder(arch_kwargs["encoder"]).output_channels(stem)
    return arch_kwargs.get("features_per_stage")


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
