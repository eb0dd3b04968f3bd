"""The networks with other skip modules, from scratch and as retrofits, as nnU-Net uses them."""

import copy

import numpy as np
import pytest
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned_unets import REQUIRES_IMPORT, arch_kwargs, operators
from torch import nn

from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.skip_modules import SKIP_MODULES
from nnunet_iac.nn.skip_unet import SkipUNet
from nnunet_iac.nn.timm_unet import ENCODERS, encoder_strides

CLASS_NAME = "nnunet_iac.nn.skip_unet.SkipUNet"
UNETS = "dynamic_network_architectures.architectures.unet"
TIMM_UNET = "nnunet_iac.nn.timm_unet.TimmUNet"
SPATIAL = (16, 8, 24)
"""Sides of the image; four stages halve it three times."""

dimensions = pytest.mark.parametrize("dimension", [2, 3])
skips = pytest.mark.parametrize("skip", SKIP_MODULES)
unets = pytest.mark.parametrize("unet", ["PlainConvUNet", "ResidualEncoderUNet"])
ways = pytest.mark.parametrize(
    "way",
    [*({"implant": skip} for skip in SKIP_MODULES), {"implant": "convolution"}],
    ids=[*SKIP_MODULES, "conv"],
)


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def skip_kwargs(skip, unet="PlainConvUNet", dimension=2):
    """Return the arch_kwargs of a network with a skip module."""
    own = {"skip": skip, "unet": f"{UNETS}.{unet}"}
    return {**own, **arch_kwargs(dimension, (4, 6, 8, 8), 1, unet)}


def planned(kwargs, input_channels=1, deep_supervision=False, class_name=CLASS_NAME):
    """Return the network as nnU-Net builds it from plans."""
    return get_network_from_plans(
        class_name,
        copy.deepcopy(kwargs),
        REQUIRES_IMPORT,
        input_channels,
        output_channels=3,
        deep_supervision=deep_supervision,
    )


def kwargs_of(skip, backbone):
    """Return the arch_kwargs of a 2-D network with a skip module around any backbone."""
    if backbone not in ENCODERS:
        return skip_kwargs(skip, backbone)
    stem = {"stem_channels": 8} if ENCODERS[backbone].has_stem else {}
    return {
        "skip": skip,
        "unet": TIMM_UNET,
        "encoder": backbone,
        "strides": encoder_strides(backbone),
        "n_conv_per_stage_decoder": 1,
        **stem,
        **operators(2),
    }


def planned_with(way, backbone, channels=1):
    """Return a stock network with something else than the cell in its skips."""
    kwargs = kwargs_of("attention", backbone)
    unet = kwargs.pop("unet")
    del kwargs["skip"]
    network = planned(kwargs, channels, class_name=unet)
    return retrofit(network, **{"residual": "none", **way})


def assert_nnunets_outputs(net, backbone, channels):
    """Check, on shapes alone, that outputs are as large as nnU-Net's targets for the strides."""
    # The scales of nnUNetTrainer._get_deep_supervision_scales: inverse cumulative strides.
    scales = (1 / np.cumprod(kwargs_of("attention", backbone)["strides"], axis=0))[:-1]
    sizes = [(2, 3, *map(int, scale * (64, 96))) for scale in scales]
    image = torch.empty(2, channels, 64, 96, device="meta")
    with torch.inference_mode():
        net.decoder.deep_supervision = True  # As nnU-Net switches it.
        assert [tuple(output.shape) for output in net(image)] == sizes
        net.decoder.deep_supervision = False
        assert net(image).shape == sizes[0]


def with_open_norms(net):
    """Return the network without norms that start at zero, as timm's ResNet has in its blocks."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return net


def backpropagated(net):
    """Draw a gradient for every output of the network on a batch of two images."""
    outputs = net(torch.randn(2, 1, 64, 64))
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()


def without_gradient(parameters):
    """Return the names of parameters that got none, or zeros only."""
    return [name for name, p in parameters if p.grad is None or not p.grad.any()]


def image(dimension, channels=1):
    return torch.randn(2, channels, *SPATIAL[:dimension], dtype=torch.float64)


def randomised(net):
    """Return the network in float64 with every parameter drawn anew, for some start at zero."""
    for parameter in net.double().parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


@skips
@unets
@dimensions
@pytest.mark.parametrize("deep_supervision", [False, True], ids=["one output", "all outputs"])
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_a_network_of_plans_has_nnunets_outputs_and_gradients_everywhere(
    skip, unet, dimension, deep_supervision, channels
):
    net = planned(skip_kwargs(skip, unet, dimension), channels, deep_supervision)
    outputs = randomised(net)(image(dimension, channels))
    if not deep_supervision:
        outputs = [outputs]
    sizes = [tuple(size // scale for size in SPATIAL[:dimension]) for scale in (1, 2, 4)]
    expected = [(2, 3, *size) for size in sizes[: len(outputs)]]
    assert len(outputs) == (3 if deep_supervision else 1)
    assert [tuple(output.shape) for output in outputs] == expected
    sum((output * torch.randn_like(output)).sum() for output in outputs).backward()
    unused = () if deep_supervision else ("decoder.seg_layers.0.", "decoder.seg_layers.1.")
    for key, parameter in net.named_parameters():
        if not key.startswith(unused):
            assert parameter.grad is not None, key
            assert parameter.grad.abs().max() > 0, key


@skips
@unets
@dimensions
def test_a_state_dict_loads_strictly_into_another_network(skip, unet, dimension):
    net, other = (randomised(planned(skip_kwargs(skip, unet, dimension))).eval() for _ in range(2))
    x = image(dimension)
    assert not torch.equal(other(x), net(x))
    other.load_state_dict(net.state_dict(), strict=True)
    assert torch.equal(other(x), net(x))
    assert {key.split(".")[0] for key in net.state_dict()} == {"encoder", "decoder", "implants"}


# Plain and residual-encoder U-Nets have tests of their own above.
each_module_and_each_encoder = pytest.mark.parametrize(
    ("skip", "encoder"),
    [
        *((skip, "mobilenetv3_large") for skip in SKIP_MODULES),
        ("residual-attention", "vgg16"),
        ("attention", "resnet50"),
        ("nested", "efficientnetv2_s"),
        ("attention", "efficientnetv2_m"),
    ],
)


@each_module_and_each_encoder
def test_behind_a_published_encoder_outputs_are_as_large_as_nnunets_targets(skip, encoder):
    with torch.device("meta"):
        net = planned(kwargs_of(skip, encoder), input_channels=3)
    assert_nnunets_outputs(net, encoder, channels=3)


@each_module_and_each_encoder
def test_behind_a_published_encoder_a_gradient_reaches_every_parameter(skip, encoder):
    net = with_open_norms(planned(kwargs_of(skip, encoder), deep_supervision=True)).train()
    backpropagated(net)
    assert without_gradient(net.named_parameters()) == []


@each_module_and_each_encoder
def test_a_state_dict_behind_a_published_encoder_loads_strictly(skip, encoder):
    kwargs = kwargs_of(skip, encoder)
    net = planned(kwargs).eval()
    with torch.device("meta"):
        other = planned(kwargs)
    other = other.to_empty(device="cpu").eval()
    other.load_state_dict(net.state_dict(), strict=True)
    x = torch.randn(2, 1, 64, 64)
    with torch.inference_mode():
        assert torch.equal(other(x), net(x))


@pytest.mark.parametrize(
    ("implant", "backbone"),
    [
        *((implant, "mobilenetv3_large") for implant in (*SKIP_MODULES, "convolution")),
        ("nested", "PlainConvUNet"),
        ("attention", "ResidualEncoderUNet"),
        ("residual-attention", "vgg16"),
        ("attention", "resnet50"),
        ("nested", "efficientnetv2_s"),
        ("convolution", "efficientnetv2_m"),
    ],
)
def test_a_retrofit_of_every_backbone_has_outputs_as_large_as_nnunets_targets(implant, backbone):
    with torch.device("meta"):
        net = planned_with({"implant": implant}, backbone, channels=3)
    assert_nnunets_outputs(net, backbone, channels=3)


@ways
@pytest.mark.parametrize("backbone", ["ResidualEncoderUNet", "mobilenetv3_large"])
def test_a_retrofit_has_gradients_everywhere_but_in_its_frozen_backbone(way, backbone):
    net = planned_with(way, backbone).train()
    net.decoder.deep_supervision = True
    backpropagated(net)
    frozen = dict(net.named_parameters()).keys() - {
        f"implants.{name}" for name, _ in net.implants.named_parameters()
    }
    assert frozen
    assert {name for name, p in net.named_parameters() if p.grad is None} == frozen
    assert without_gradient(net.implants.named_parameters()) == []


@skips
def test_the_stock_predictor_covers_an_image_larger_than_the_patch(skip, monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "f")
    architecture = {
        "network_class_name": CLASS_NAME,
        "arch_kwargs": skip_kwargs(skip),
        "_kw_requires_import": REQUIRES_IMPORT,
    }
    configuration = {"patch_size": [32, 32], "architecture": architecture}
    plans = PlansManager({"plans_name": "p", "configurations": {"2d": configuration}})
    labels = {"background": 0, "a": 1, "b": 2}
    data = {"labels": labels, "channel_names": {"0": "x"}, "file_ending": ".nii.gz"}
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu")
    )
    trained = planned(skip_kwargs(skip)).eval()
    predictor.manual_initialization(
        *(planned(skip_kwargs(skip)), plans, plans.get_configuration("2d")),
        *([trained.state_dict()], data, "nnUNetTrainer", None),
    )
    x = torch.randn(1, 40, 48)
    logits = predictor.predict_logits_from_preprocessed_data(x[:, None]).float()
    assert logits.shape == (3, 1, 40, 48)
    assert logits.isfinite().all()
    # Windows start at rows 0 and 8 and columns 0 and 16: only the first holds what is compared.
    # The predictor sums in half precision, whose relative error is 2^-11 per rounding.
    with torch.inference_mode():
        window = trained(x[None, :, :32, :32])[0]
    torch.testing.assert_close(logits[:, 0, 4:8, 4:16], window[:, 4:8, 4:16], rtol=0.01, atol=0.01)


@skips
def test_deep_supervision_is_switched_through_the_decoder(skip):
    net = randomised(planned(skip_kwargs(skip), deep_supervision=True)).eval()
    x = image(2)
    outputs = net(x)
    net.decoder.deep_supervision = False
    assert torch.equal(net(x), outputs[0])


@skips
@unets
def test_all_weights_start_as_nnunet_draws_them(skip, unet):
    net = SkipUNet(
        *(1, 3, skip, f"{UNETS}.{unet}"),
        **{
            **{k: v for k, v in skip_kwargs(skip, unet).items() if k not in ("skip", "unet")},
            "conv_op": nn.Conv2d,
            "conv_bias": True,
            "norm_op": nn.InstanceNorm2d,
            "nonlin": nn.LeakyReLU,
        },
    )
    convolutions = [m for m in net.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
    before = [convolution.weight.clone() for convolution in convolutions]
    net.apply(net.initialize)
    for convolution, weight in zip(convolutions, before, strict=True):
        assert not torch.equal(convolution.weight, weight)
        assert convolution.bias is None or not convolution.bias.any()
    if unet == "ResidualEncoderUNet":
        assert not net.encoder.stages[0].blocks[0].conv2.norm.weight.any()


@skips
def test_a_network_with_another_skip_module_cannot_be_retrofitted(skip):
    with pytest.raises(ValueError, match="the plans describe a SkipUNet"):
        retrofit(planned(skip_kwargs(skip)))


def test_nested_skips_widen_the_decoder_and_other_modules_leave_it(tiny_unet):
    def inputs(skip):
        stages = planned(skip_kwargs(skip)).decoder.stages
        return [stage.convs[0].conv.in_channels for stage in stages]

    # Levels of 8, 6 and 4 channels: [up, skip], or [up, all nodes] of 1, 2 and 3 nodes.
    assert inputs("attention") == inputs("residual-attention") == [16, 12, 8]
    assert inputs("nested") == [16, 18, 16]


@skips
def test_a_published_encoder_keeps_its_own_initial_weights(skip):
    kwargs = kwargs_of(skip, "mobilenetv3_large")
    net = get_network_from_plans(CLASS_NAME, kwargs, REQUIRES_IMPORT, 2, 3, allow_init=False)
    trunk = copy.deepcopy(net.encoder.trunk.state_dict())
    net.apply(net.initialize)
    after = net.encoder.trunk.state_dict()
    assert all(torch.equal(after[key], value) for key, value in trunk.items())
    for part in (net.decoder.stages, net.decoder.transpconvs, net.implants):
        convolutions = [m for m in part.modules() if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))]
        biases = [m.bias for m in convolutions if m.bias is not None]
        assert convolutions
        assert not any(bias.any() for bias in biases)
    net.decoder.deep_supervision = True
    outputs = net(torch.randn(1, 2, 64, 64))
    assert [output.shape[-1] for output in outputs] == [64, 32, 16, 8, 4]


def test_an_unknown_skip_module_is_refused():
    with pytest.raises(ValueError, match="got 'dense'"):
        planned(skip_kwargs("dense"))


@pytest.mark.parametrize("name", ["no.such.UNet", f"{UNETS}.ResidualUNet", "torch.nn.Linear"])
def test_a_name_of_no_supported_unet_is_refused(name):
    with pytest.raises(ValueError, match=rf"got '{name}'"):
        planned({**skip_kwargs("attention"), "unet": name})
