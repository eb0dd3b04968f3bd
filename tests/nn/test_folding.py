"""Networks for inference, and networks that plans name: the same numbers as what was trained."""

import onnxruntime
import pytest
import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nnunet_iac.host.onnx_export import INPUT, export_onnx
from nnunet_iac.nn.cell import ReZero
from nnunet_iac.nn.folding import fold_for_inference
from nnunet_iac.nn.planned_retrofit import retrofit
from nnunet_iac.nn.tuned_norms import TunedNorm
from nnunet_iac.search.genotype import Genotype

EVERY_OPERATION = Genotype.from_codes([0, 1, 2, -1, 3, -1, 4, -1, 5, 6, -1, -1, -1, 0])
WAYS = {
    "cell": {},
    "cell, tuned norms": {"decoder_norms": "tuned"},
    "cell, batch norms": {"norm": "batch"},
    "convolution": {"implant": "convolution"},
    "attention": {"implant": "attention"},
    "nested": {"implant": "nested"},
    "residual attention": {"implant": "residual-attention"},
}


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def trained(unet, **values):
    """Return a retrofit whose every parameter and statistic is off its start."""
    genotype = EVERY_OPERATION if "implant" not in values else None
    network = retrofit(unet, genotype, min_channels=8, **values)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for module in network.modules():
            if isinstance(module, _BatchNorm) and module.running_mean is not None:
                module.running_mean.normal_(generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
    network.decoder.deep_supervision = False
    return network.eval()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("norm", ["Instance", "Batch"])
@torch.no_grad()
def test_the_folded_network_gives_the_same_logits_and_leaves_the_other_alone(tiny_unet, way, norm):
    network = trained(tiny_unet(2, norm=norm), **WAYS[way])
    x = torch.randn(1, 2, 16, 8, generator=torch.Generator().manual_seed(1))
    before = network(x)
    small = fold_for_inference(network)
    assert torch.allclose(small(x), before, atol=1e-4)
    assert torch.equal(network(x), before)


def test_gates_norms_and_hooks_are_gone(tiny_unet):
    settings = {"decoder_norms": "tuned", "norm": "batch"}
    small = fold_for_inference(trained(tiny_unet(2, norm="Batch"), **settings))
    assert not any(isinstance(m, ReZero) for m in small.modules())
    hooks = [hook for m in small.modules() for hook in m._forward_hooks.values()]
    assert not any(isinstance(hook, TunedNorm) for hook in hooks)
    run = [m for m in small.implants.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not run


def residual_unet() -> ResidualEncoderUNet:
    """Return a residual-encoder U-Net in 3-D with two input channels."""
    return ResidualEncoderUNet(
        input_channels=2,
        n_stages=3,
        features_per_stage=(8, 8, 16),
        conv_op=nn.Conv3d,
        kernel_sizes=3,
        strides=(1, 2, 2),
        n_blocks_per_stage=1,
        num_classes=3,
        n_conv_per_stage_decoder=1,
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
    )


def require_onnx_to_agree(network, path, *patch):
    """Check that the ONNX file gives the logits of its network for an image of two channels."""
    export_onnx(network, 2, patch, path)
    x = torch.randn(1, 2, *patch)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {INPUT: x.numpy()})
    expected = network(x)
    assert expected.std() > 1e-2
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)


ONNX_WAYS = {
    **{way: ("Instance", values) for way, values in WAYS.items() if "norms" not in way},
    "cell, batch and tuned norms": ("Batch", {"decoder_norms": "tuned", "norm": "batch"}),
}


@pytest.mark.parametrize("way", ONNX_WAYS)
@torch.no_grad()
def test_an_onnx_file_gives_the_same_logits(tiny_unet, tmp_path, way):
    norm, values = ONNX_WAYS[way]
    network = trained(tiny_unet(2, norm=norm), **values)
    require_onnx_to_agree(network, tmp_path / "network.onnx", 16, 8)


@torch.no_grad()
def test_an_onnx_file_of_a_residual_encoder_in_three_dimensions_gives_the_same_logits(tmp_path):
    require_onnx_to_agree(trained(residual_unet()), tmp_path / "network.onnx", 8, 16, 8)


def unsettled(norm: _BatchNorm) -> _BatchNorm:
    """Return a batch norm that has seen images."""
    norm.running_mean.uniform_(-1, 1)
    norm.running_var.uniform_(0.5, 2)
    return norm


@torch.no_grad()
def test_a_tuned_norm_of_a_batch_norm_without_scale_and_shift_is_kept():
    norm, tuned = unsettled(nn.BatchNorm2d(6, affine=False)), TunedNorm(6)
    tuned.scale.uniform_(0.5, 2)
    tuned.shift.uniform_(-1, 1)
    norm.register_forward_hook(tuned)
    layers = nn.Sequential(nn.Conv2d(2, 6, 3), norm).eval()
    x = torch.randn(1, 2, 8, 8)
    assert torch.allclose(fold_for_inference(layers)(x), layers(x), atol=1e-5)


@pytest.mark.parametrize("channels", [4, 6])
@torch.no_grad()
def test_a_batch_norm_behind_a_transposed_convolution_is_kept(channels):
    upsampling = nn.ConvTranspose2d(4, channels, 2, 2)
    layers = nn.Sequential(upsampling, unsettled(nn.BatchNorm2d(channels))).eval()
    x = torch.randn(1, 4, 8, 8)
    assert torch.allclose(fold_for_inference(layers)(x), layers(x), atol=1e-5)
