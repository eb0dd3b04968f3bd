import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from nnunet_iac.width.candidates import (
    candidates,
    capped,
    capped_features,
    caps_of,
    with_widest,
)

FULL = (32, 64, 128, 256, 512, 512, 512)

# Published: exact parameter counts under the caps 512 ... 1 of plain 2-D U-Nets.
COUNTS = {
    "EchoNet": (5, 1, 2, (7766344, 5143368, 2076872, 706504, 212328, 53688, 13728, 3588, 978, 288)),
    "ACDC": (6, 1, 4, (20621076, 8359956, 2882580, 908756, 263316, 66644, 17076, 4484, 1236, 374)),
    "BraTS": (6, 4, 3, (20620943, 8360079, 2882959, 909327, 264015, 66991, 17247, 4567, 1275, 391)),
    "BUS-BRA": (
        *(7, 1, 2),
        (33471820, 11573580, 3686348, 1109836, 313644, 79260, 20244, 5280, 1434, 420),
    ),
    "ISIC, FIVES": (
        *(7, 3, 2),
        (33472396, 11574156, 3686924, 1110412, 314220, 79548, 20388, 5352, 1470, 438),
    ),
}


def _network(features, class_name="PlainConvUNet", **kwargs):
    return {
        "network_class_name": f"somewhere.{class_name}",
        "arch_kwargs": {"features_per_stage": features, **kwargs},
        "_kw_requires_import": [],
    }


@pytest.mark.parametrize("name", COUNTS)
def test_candidates_have_the_published_numbers_of_parameters(name):
    stages, channels, classes, published = COUNTS[name]
    found = []
    for candidate in candidates(_network(list(FULL[:stages]))):
        with torch.device("meta"):
            network = PlainConvUNet(
                *(channels, stages, candidate.features, nn.Conv2d, 3),
                *([1] + [2] * (stages - 1), 2, classes, 2),
                conv_bias=True,
                norm_op=nn.InstanceNorm2d,
                norm_op_kwargs={"affine": True},
                nonlin=nn.LeakyReLU,
            )
        found.append(sum(parameter.numel() for parameter in network.parameters()))
    assert tuple(found) == published


def test_caps_are_integer_halves_of_the_widest_stage():
    assert caps_of((32, 64, 128, 256, 320, 320)) == (320, 160, 80, 40, 20, 10, 5, 2, 1)
    assert caps_of((512,)) == (512, 256, 128, 64, 32, 16, 8, 4, 2, 1)


def test_a_cap_limits_every_stage_and_leaves_the_narrower_ones():
    assert capped_features((32, 64, 128, 256), 64) == (32, 64, 64, 64)


def test_candidates_come_from_wide_to_narrow_and_once_each():
    found = candidates(_network([8, 16]), [1, 16, 3, 2, 8, 16])
    assert [c.cap for c in found] == [16, 8, 3, 2, 1]
    assert found[2].features == (3, 3)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=8).map(sorted), st.integers(0, 12))
def test_a_capped_network_keeps_everything_but_its_widths(features, halvings):
    cap = max(1, features[-1] >> halvings)
    network = _network(features, strides=[[1, 1]], stem_channels=features[0])
    narrow = capped(network, cap)
    assert network == _network(features, strides=[[1, 1]], stem_channels=features[0])
    assert narrow["arch_kwargs"].pop("features_per_stage") == [min(cap, f) for f in features]
    assert narrow["arch_kwargs"].pop("stem_channels") == min(cap, features[0])
    assert narrow["arch_kwargs"].pop("strides") == [[1, 1]]
    assert not narrow.pop("arch_kwargs")
    assert narrow == {"network_class_name": "somewhere.PlainConvUNet", "_kw_requires_import": []}


def test_bottlenecks_are_capped_stage_by_stage():
    narrow = capped(_network([32, 64], bottleneck_channels=[8, 16]), 8)
    assert narrow["arch_kwargs"]["bottleneck_channels"] == [8, 8]


@pytest.mark.parametrize("features", [[8, 16, 8], [0, 8], [8, 8.5], 32, []])
def test_widths_that_are_not_monotone_whole_numbers_are_refused(features):
    with pytest.raises(ValueError, match=r"features_per_stage must be .* the plans have") as caught:
        candidates(_network(features))
    assert str(features) in str(caught.value)


def test_an_encoder_without_a_width_is_refused_by_name():
    timm = {
        "network_class_name": "nnunet_iac.nn.timm_unet.TimmUNet",
        "arch_kwargs": {"encoder": "resnet50"},
        "_kw_requires_import": [],
    }
    with pytest.raises(ValueError, match=r"TimmUNet \(encoder resnet50\), whose width is fixed"):
        candidates(timm)


@pytest.mark.parametrize("cap", [0, -8, 17])
def test_a_cap_that_makes_no_network_of_its_own_is_refused(cap):
    with pytest.raises(ValueError, match=f"widest stage, 16 channels; got {cap}"):
        candidates(_network([8, 16]), [16, 8, 4, 2, cap])


def test_a_named_cap_is_compared_with_the_widest():
    assert [each.cap for each in with_widest(_network([8, 16]), 4)] == [16, 4]
    assert [each.cap for each in with_widest(_network([8, 16]), 16)] == [16]


def test_fewer_than_five_candidates_are_refused_with_their_caps():
    with pytest.raises(ValueError, match="got the 4 caps 8, 4, 2, 1"):
        candidates(_network([4, 8]))
