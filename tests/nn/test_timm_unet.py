import functools
import json
import socket
import subprocess
import sys
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned_unets import arch_kwargs
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nnunet_iac.host.architectures import timm_architecture
from nnunet_iac.host.pretrained import read_encoder_weights
from nnunet_iac.nn.retrofitted_unet import IACUNet, ImplantedUNet, skip_channels
from nnunet_iac.nn.timm_unet import (
    ENCODERS,
    TimmEncoder,
    TimmUNet,
    encoder_strides,
    load_encoder_weights,
    padded_patch_size,
)

encoders = pytest.mark.parametrize("encoder", ENCODERS)

# What nnU-Net's planner writes for a 2-D configuration, with few stages and channels.
BASE = arch_kwargs(2, (8, 16, 32), 2)


class SkipOnly(nn.Module):
    """The stock skip connection as an implant, whatever else it is given."""

    def forward(self, skip, up, *mixing):
        return skip


def built(encoder, channels=2, deep_supervision=False, device="cpu", allow_init=True, **keywords):
    """Return a network of three classes, as nnU-Net builds it from plans."""
    plans = timm_architecture(encoder, BASE)
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(0)
        return get_network_from_plans(
            plans["network_class_name"],
            {**plans["arch_kwargs"], **keywords},
            plans["_kw_requires_import"],
            channels,
            3,
            allow_init=allow_init,
            deep_supervision=deep_supervision,
        )


@functools.cache
def network(encoder):
    """Return a network for two-channel images; no test changes it."""
    return built(encoder).eval().requires_grad_(False)


def image(channels=2, batch=2, size=(64, 64)):
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1))


# --- the values that plans need --------------------------------------------------------------


@encoders
def test_the_strides_begin_with_one_and_multiply_to_32(encoder):
    strides = encoder_strides(encoder)
    assert strides == [[1, 1], [2, 2], [2, 2], [2, 2], [2, 2], [2, 2]]
    assert np.prod(strides, axis=0).tolist() == [32, 32]


@given(st.sampled_from(list(ENCODERS)), st.lists(st.integers(1, 4096), min_size=2, max_size=2))
def test_a_padded_patch_is_the_smallest_of_multiples_of_32_that_holds_the_patch(encoder, patch):
    for side, padded in zip(patch, padded_patch_size(encoder, patch), strict=True):
        assert padded % 32 == 0
        assert side <= padded < side + 32


def test_56_by_40_is_padded_to_64_by_64_and_multiples_of_32_stay():
    assert padded_patch_size("vgg16", (56, 40)) == [64, 64]
    assert padded_patch_size("resnet50", [96, 32]) == [96, 32]


@pytest.mark.parametrize("patch", [[16, 56, 40], [0, 32], [32]])
def test_a_patch_that_has_not_two_positive_sides_is_refused(patch):
    with pytest.raises(ValueError, match=rf"got \[{', '.join(map(str, patch))}\]: use a 2-D"):
        padded_patch_size("vgg16", patch)


def test_batch_norms_with_activations_are_refused_where_they_are_synchronised(monkeypatch):
    monkeypatch.setattr("nnunet_iac.nn.timm_unet.is_initialized", lambda: True)
    sizes = 1, 32, nn.Conv2d
    with pytest.raises(ValueError, match="mobilenetv3_large must be trained by one process"):
        TimmEncoder("mobilenetv3_large", *sizes)
    TimmEncoder("resnet50", *sizes)


@pytest.mark.parametrize(
    "function",
    [
        encoder_strides,
        lambda encoder: padded_patch_size(encoder, [32, 32]),
        lambda encoder: timm_architecture(encoder, BASE),
        lambda encoder: TimmUNet(1, 2, encoder, encoder_strides("vgg16"), nn.Conv2d),
    ],
)
def test_an_unknown_encoder_is_refused_with_the_known_ones(function):
    known = "vgg16, resnet50, mobilenetv3_large, efficientnetv2_s, efficientnetv2_m"
    with pytest.raises(ValueError, match=f"one of {known}; got 'vit'"):
        function("vit")


def test_one_number_of_convolutions_counts_for_every_stage():
    planned = timm_architecture("vgg16", {**BASE, "n_conv_per_stage_decoder": 3})
    assert {*planned["arch_kwargs"]["n_conv_per_stage_decoder"]} == {3}


@encoders
def test_plans_get_norm_and_the_rest_from_nnu_nets_own_and_are_plain_json(encoder):
    before = deepcopy(BASE)
    section = timm_architecture(encoder, BASE)
    assert json.loads(json.dumps(section)) == section
    assert section["network_class_name"] == "nnunet_iac.nn.timm_unet.TimmUNet"
    assert section["_kw_requires_import"] == ["conv_op", "norm_op", "dropout_op", "nonlin"]
    stem = {} if encoder == "vgg16" else {"stem_channels": 8}
    removed = {"n_stages", "features_per_stage", "kernel_sizes", "n_conv_per_stage"}
    assert section["arch_kwargs"] == {
        **{key: value for key, value in BASE.items() if key not in removed},
        **stem,
        "encoder": encoder,
        "strides": encoder_strides(encoder),
        "n_conv_per_stage_decoder": [2] * 5,
    }
    section["arch_kwargs"]["norm_op_kwargs"]["eps"] = 1
    assert before == BASE


def test_the_decoder_gets_the_number_of_convolutions_that_most_stages_have():
    base = {**BASE, "n_conv_per_stage_decoder": [1, 3, 3]}
    assert timm_architecture("resnet50", base)["arch_kwargs"]["n_conv_per_stage_decoder"] == [3] * 5


# --- the networks ----------------------------------------------------------------------------


@encoders
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("deep_supervision", [True, False], ids=["pyramid", "single"])
def test_logits_have_the_images_size_or_are_the_pyramid_of_the_strides(
    encoder, channels, deep_supervision
):
    net = built(encoder, channels, deep_supervision, device="meta")
    with torch.inference_mode():
        outputs = net(torch.empty(2, channels, 64, 96, device="meta"))
    # nnU-Net's scales (nnUNetTrainer._get_deep_supervision_scales): the inverse cumulative strides.
    scales = (1 / np.cumprod(net.encoder.strides, axis=0))[:-1]
    sizes = [(2, 3, *map(int, scale * (64, 96))) for scale in scales]
    assert isinstance(outputs, list) == deep_supervision
    tensors = outputs if deep_supervision else [outputs]
    assert [tuple(t.shape) for t in tensors] == (sizes if deep_supervision else sizes[:1])


def test_the_decoder_switches_deep_supervision_of_a_built_network():
    net = built("mobilenetv3_large").eval()
    single = net(image())
    net.decoder.deep_supervision = True
    outputs = net(image())
    assert len(outputs) == 5
    assert torch.equal(outputs[0], single)


@encoders
def test_a_gradient_that_is_not_zero_reaches_every_parameter(encoder):
    net = built(encoder, deep_supervision=True).train()
    for module in net.modules():  # timm starts the last norm of a ResNet's block at zero.
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    sum(logits.square().mean() for logits in net(image())).backward()
    assert [name for name, weight in net.named_parameters() if not weight.grad.any()] == []


@encoders
def test_a_state_dict_loads_strictly_into_another_network_with_the_same_logits(encoder):
    other = built(encoder, device="meta").to_empty(device="cpu").eval()
    other.load_state_dict(network(encoder).state_dict(), strict=True)
    assert torch.equal(other(image()), network(encoder)(image()))


@encoders
def test_features_have_the_channels_and_strides_that_the_encoder_publishes(encoder):
    trunk = network(encoder).encoder.trunk
    assert tuple(trunk.feature_info.channels()) == ENCODERS[encoder].channels
    features = network(encoder).encoder(image(size=(64, 96)))
    assert [f.shape[1] for f in features] == network(encoder).encoder.output_channels
    assert [tuple(f.shape[2:]) for f in features] == [(64 // 2**s, 96 // 2**s) for s in range(6)]


@encoders
def test_nothing_in_a_trunk_is_random(encoder):
    net = network(encoder)
    assert torch.equal(net(image()), net(image()))
    trunk = deepcopy(net.encoder.trunk).train()  # Batch statistics: what is left is dropout.
    x = image(8 if net.encoder.stem else 2)
    assert all(torch.equal(*pair) for pair in zip(trunk(x), trunk(x), strict=True))


@encoders
def test_surgery_with_the_identity_is_bit_equal_to_the_stock_net(encoder):
    net = network(encoder)
    expected = net(image())
    implanted = ImplantedUNet(net, [SkipOnly() for _ in range(5)]).eval()
    assert torch.equal(implanted(image()), expected)
    retrofitted = IACUNet(deepcopy(net), residual="none")
    assert len(retrofitted.implants) == 5
    assert not torch.equal(retrofitted(image()), expected)
    retrofitted.implants = nn.ModuleList(SkipOnly() for _ in skip_channels(net))
    assert torch.equal(retrofitted.train()(image()), expected)


@encoders
def test_the_stock_predictor_covers_an_image_of_another_size_than_the_patch(encoder, monkeypatch):
    monkeypatch.setenv("nnUNet_compile", "f")
    configuration = {
        "patch_size": padded_patch_size(encoder, (50, 64)),
        "architecture": timm_architecture(encoder, BASE),
    }
    plans = PlansManager({"plans_name": "p", "configurations": {"2d": configuration}})
    labels = {"background": 0, "a": 1, "b": 2}
    data = {"labels": labels, "channel_names": {"0": "x", "1": "y"}, "file_ending": ".nii.gz"}
    predictor = nnUNetPredictor(
        use_mirroring=False, perform_everything_on_device=False, device=torch.device("cpu")
    )
    net = built(encoder)
    predictor.manual_initialization(
        *(net, plans, plans.get_configuration("2d"), [network(encoder).state_dict()]),
        *(data, "nnUNetTrainer", None),
    )
    x = image(batch=1, size=(80, 96))
    logits = predictor.predict_logits_from_preprocessed_data(x[0][:, None]).float()
    assert logits.shape == (3, 1, 80, 96)
    assert logits.isfinite().all()
    # Windows start at rows 0 and 16 and columns 0 and 32: only the first holds what is compared.
    # The predictor sums in half precision, whose relative error is 2^-11 per rounding.
    window = network(encoder)(x[:, :, :64, :64])[0]
    torch.testing.assert_close(
        logits[:, 0, 8:16, 8:32], window[:, 8:16, 8:32], rtol=0.01, atol=0.01
    )


@encoders
def test_nnu_nets_initial_weights_go_to_stem_and_decoder_only(encoder):
    net = built(encoder, allow_init=False)
    trunk = {key: tensor.clone() for key, tensor in net.encoder.trunk.state_dict().items()}
    own = {name: weight for name, weight in net.named_parameters() if ".trunk." not in name}
    before = {name: weight.detach().clone() for name, weight in own.items()}
    net.apply(net.initialize)
    assert all(torch.equal(trunk[key], t) for key, t in net.encoder.trunk.state_dict().items())
    convolutions = [name for name, weight in own.items() if weight.ndim == 4]
    # Of five stages an upsampling, two convolutions and a head; and the stem's two.
    assert len(convolutions) == 5 * 4 + 2 * (encoder != "vgg16")
    for name in convolutions:
        assert not torch.equal(own[name], before[name])
        assert not own[name.removesuffix("weight") + "bias"].any()
    # He for a slope of 0.01: deviation sqrt(2 / (1 + 0.01^2) / (9 inputs)).
    widest = net.decoder.stages[0].convs[0].conv.weight
    expected = (2 / 1.0001 / (9 * widest.shape[1])) ** 0.5
    assert widest.std().item() == pytest.approx(expected, rel=0.01)


def test_the_kernel_sizes_are_the_decoders_and_the_stems_norm_is_the_plans():
    net = built("mobilenetv3_large", device="meta", kernel_sizes=5, norm_op=None)
    assert net.decoder.stages[0].convs[0].conv.kernel_size == (5, 5)
    assert net.encoder.stem.convs[0].conv.kernel_size == (3, 3)
    assert not any(isinstance(m, nn.InstanceNorm2d) for m in net.modules())
    assert type(network("resnet50").encoder.stem.convs[1].norm) is nn.InstanceNorm2d


def test_a_stem_has_32_channels_by_default():
    net = TimmUNet(1, 2, "mobilenetv3_large", (1, 2, 2, 2, 2, 2), nn.Conv2d)
    assert net.encoder.output_channels == [32, 16, 24, 40, 112, 960]


# --- refusals --------------------------------------------------------------------------------


@encoders
def test_a_side_that_is_no_multiple_of_32_is_refused_with_one_that_works(encoder):
    with pytest.raises(ValueError, match=rf"a {encoder} encoder .* got 56x40: .* pad to 64x64"):
        network(encoder)(image(size=(56, 40)))


@encoders
def test_strides_other_than_the_encoders_are_refused(encoder):
    with pytest.raises(
        ValueError, match=rf"the encoder {encoder}, \[\[1, 1\], .*; got \[\[2, 2\], \[2, 2\]\]"
    ):
        built(encoder, strides=[[2, 2], 2])


def test_a_3d_network_is_refused_in_plans_and_when_built():
    with pytest.raises(ValueError, match=r"vgg16 is .* 2-D images; got torch\..*\.Conv3d"):
        timm_architecture("vgg16", {**BASE, "conv_op": "torch.nn.modules.conv.Conv3d"})
    with pytest.raises(ValueError, match=r"resnet50 is .* 2-D images; got Conv3d"):
        built("resnet50", conv_op="torch.nn.modules.conv.Conv3d")


def test_a_stem_for_vgg16_is_refused():
    with pytest.raises(ValueError, match=r"left out for vgg16, .* 64 channels; got 32"):
        built("vgg16", stem_channels=32)


def test_networks_are_built_without_any_connection(monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError(f"a connection to {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    for encoder in ENCODERS:
        built(encoder, device="meta")


def test_timm_is_not_imported_before_a_trunk_is_built():
    program = "import nnunet_iac.nn.timm_unet, sys; sys.exit('timm' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


# --- the published networks ------------------------------------------------------------------

# Parameters and multiply-accumulates ("GFLOPS", in 10^9) that torchvision prints for its weights
# of the architecture (docs.pytorch.org/vision/stable/models.html; to three decimals in `meta` of
# VGG16_Weights, ResNet50_Weights, MobileNet_V3_Large_Weights, EfficientNet_V2_{S,M}_Weights), at
# the size it prints them for. Then the parameters and multiply-accumulates of the head alone, by
# hand; 1x1 convolutions before a pooling act on every pixel of the last feature.
PUBLISHED = {
    "vgg16": (
        *(224, 138_357_544, 15.470),
        (25088 * 4096 + 4096) + (4096 * 4096 + 4096) + (4096 * 1000 + 1000),
        25088 * 4096 + 4096 * 4096 + 4096 * 1000,
    ),
    "resnet50": (224, 25_557_032, 4.089, 2048 * 1000 + 1000, 2048 * 1000),
    "mobilenetv3_large": (
        *(224, 5_483_032, 0.217),
        (960 * 1280 + 1280) + (1280 * 1000 + 1000),
        960 * 1280 + 1280 * 1000,
    ),
    "efficientnetv2_s": (
        *(384, 21_458_488, 8.366),
        (256 * 1280 + 2 * 1280) + (1280 * 1000 + 1000),
        256 * 1280 * 12 * 12 + 1280 * 1000,
    ),
    "efficientnetv2_m": (
        *(480, 54_139_356, 24.582),
        (512 * 1280 + 2 * 1280) + (1280 * 1000 + 1000),
        512 * 1280 * 15 * 15 + 1280 * 1000,
    ),
}


def cost(module, channels, side):
    """Return parameters and multiply-accumulates for one square image."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module.eval()(torch.empty(1, channels, side, side, device="meta"))
    return sum(p.numel() for p in module.parameters()), counter.get_total_flops() // 2


@encoders
def test_the_trunk_costs_what_is_published_without_the_head(encoder):
    side, parameters, billions, head_parameters, head_macs = PUBLISHED[encoder]
    full_parameters, full_macs = cost(full_model(encoder, device="meta"), 3, side)
    assert full_parameters == parameters
    assert round(full_macs / 1e9, 3) == billions
    stem = None if encoder == "vgg16" else 3
    with torch.device("meta"):
        trunk = TimmEncoder(encoder, 3, stem, nn.Conv2d).trunk
    assert cost(trunk, 3, side) == (parameters - head_parameters, full_macs - head_macs)


# --- pretrained weights ----------------------------------------------------------------------


def full_model(encoder, device="cpu", **keywords):
    """Return timm's whole model with random weights and statistics."""
    from timm import create_model

    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.manual_seed(2)
        model = create_model(ENCODERS[encoder].timm_name, pretrained=False, **keywords).eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
    return model


@pytest.mark.parametrize(
    ("encoder", "suffix"),
    [
        ("vgg16", "pth"),
        ("resnet50", "safetensors"),
        ("mobilenetv3_large", "pth"),
        ("mobilenetv3_large", "safetensors"),
    ],
)
def test_the_trunk_gets_the_weights_of_a_file_and_gives_the_whole_models_features(
    encoder, suffix, tmp_path
):
    small_head = {"mlp_ratio": 1 / 512} if encoder == "vgg16" else {}
    model = full_model(encoder, **small_head)
    save = save_file if suffix == "safetensors" else torch.save
    save(model.state_dict(), tmp_path / f"weights.{suffix}")
    net = built(encoder, 3, **({} if encoder == "vgg16" else {"stem_channels": 3})).eval()
    own = {k: t.clone() for k, t in net.state_dict().items() if ".trunk." not in k}
    load_encoder_weights(net, read_encoder_weights(tmp_path / f"weights.{suffix}"))
    assert torch.equal(net.encoder.trunk(image(3))[-1], model.forward_features(image(3)))
    assert all(torch.equal(net.state_dict()[key], tensor) for key, tensor in own.items())


@encoders
def test_the_weights_of_every_encoders_whole_model_fit(encoder):
    net = built(encoder, 4, device="meta")
    load_encoder_weights(net, full_model(encoder, device="meta").state_dict())


def test_the_first_convolution_sums_the_colours_for_a_grey_image():
    model = full_model("mobilenetv3_large")
    net = built("mobilenetv3_large", stem_channels=1).eval()
    load_encoder_weights(net, model.state_dict())
    torch.testing.assert_close(
        net.encoder.trunk(image(1))[-1],
        model.forward_features(image(1).expand(-1, 3, -1, -1)),
        rtol=1e-4,
        atol=1e-5,
    )


def test_the_first_convolution_repeats_the_colours_for_a_stem():
    weights = full_model("mobilenetv3_large").state_dict()
    red, green, blue = weights["conv_stem.weight"].unbind(dim=1)
    net = built("mobilenetv3_large", stem_channels=5)
    load_encoder_weights(net, weights)
    # Five channels of the same value are to give what three gave: times 3/5.
    expected = torch.stack([red, green, blue, red, green], dim=1) * 0.6
    torch.testing.assert_close(net.encoder.trunk.conv_stem.weight.detach(), expected)


def test_the_trunks_own_weights_load_and_old_files_need_no_counters():
    net = built("mobilenetv3_large")
    weights = {
        k: t.clone() for k, t in network("mobilenetv3_large").encoder.trunk.state_dict().items()
    }
    without = {k: t for k, t in weights.items() if not k.endswith("num_batches_tracked")}
    assert len(without) < len(weights)
    load_encoder_weights(net, without)
    assert all(torch.equal(weights[k], t) for k, t in net.encoder.trunk.state_dict().items())


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (lambda w: w.pop("blocks.1.0.bn1.weight"), r"blocks\.1\.0\.bn1\.weight is missing"),
        (
            lambda w: w.update({"bn1.bias": torch.zeros(7)}),
            r"bn1\.bias has the shape \[7\] instead of \[16\]",
        ),
        (
            lambda w: w.update({"conv_stem.weight": torch.zeros(16, 4, 3, 3)}),
            r"conv_stem\.weight has the shape \[16, 4, 3, 3\] instead of \[16, 8, 3, 3\]",
        ),
        (lambda w: w.update({"blocks.9.bn1.bias": torch.zeros(7)}), r"blocks\.9\..* is unknown"),
    ],
    ids=["missing", "shape", "input", "unknown"],
)
def test_weights_that_do_not_fit_are_refused_and_change_nothing(change, finding):
    net = built("mobilenetv3_large")
    before = deepcopy(net.state_dict())
    weights = full_model("mobilenetv3_large").state_dict()
    change(weights)
    with pytest.raises(ValueError, match=f"timm's mobilenetv3_large_100, .*; {finding}: give"):
        load_encoder_weights(net, weights)
    assert all(torch.equal(before[key], tensor) for key, tensor in net.state_dict().items())


def test_the_weights_of_another_encoder_are_refused():
    net = built("efficientnetv2_s", device="meta")
    weights = full_model("mobilenetv3_large", device="meta").state_dict()
    with pytest.raises(ValueError, match=r"timm's tf_efficientnetv2_s, .* conv_stem\.weight has"):
        load_encoder_weights(net, weights)
