import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualUNet
from torch import nn

from nnunet_iac.nn.retrofitted_unet import ImplantedUNet, require_supported, skip_channels


class SkipOnly(nn.Module):
    """The stock skip connection as an implant."""

    def forward(self, skip, up):
        return skip


class Recorder(nn.Module):
    """A stock skip connection that notes the shapes it is given."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, skip, up):
        self.shapes.append((tuple(skip.shape), tuple(up.shape)))
        return skip


def image(dimension):
    return torch.randn(2, 2, *(16, 8, 8)[:dimension], generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dimension", [2, 3])
@pytest.mark.parametrize("norm", ["Instance", "Batch"])
@pytest.mark.parametrize("features", [(4, 8, 12), (4, 8, 12, 16)], ids=["3 stages", "4 stages"])
def test_surgery_that_returns_the_skip_is_bit_equal_to_the_stock_net(
    tiny_unet, dimension, norm, features
):
    x = image(dimension)
    stock = tiny_unet(dimension, features, norm, deep_supervision=True).eval()
    expected = stock(x)
    net = ImplantedUNet(stock, [SkipOnly() for _ in features[1:]]).eval()
    outputs = net(x)
    assert len(outputs) == len(expected) == len(features) - 1
    assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))
    net.decoder.deep_supervision = False
    assert torch.equal(net(x), expected[0])


def test_implants_are_ordered_from_the_lowest_resolution(tiny_unet):
    unet = tiny_unet(2, (4, 8, 12, 16))
    assert skip_channels(unet) == [12, 8, 4]
    recorders = [Recorder() for _ in range(3)]
    ImplantedUNet(unet, recorders)(image(2))
    expected = [((2, c, h, h // 2),) * 2 for c, h in ((12, 4), (8, 8), (4, 16))]
    assert [recorder.shapes for recorder in recorders] == [[shapes] for shapes in expected]


def test_the_state_dict_holds_the_stock_nets_keys_and_tensors(tiny_unet):
    stock = tiny_unet(norm="Batch").state_dict()
    net = ImplantedUNet(tiny_unet(norm="Batch"), [nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
    added = net.state_dict().keys() - stock.keys()
    assert stock.keys() <= net.state_dict().keys()
    names = net.implants[0].state_dict()
    assert added == {f"implants.{level}.{name}" for level in (0, 1) for name in names}
    state = net.backbone_state()
    assert state.keys() == stock.keys()
    assert all(torch.equal(state[key], value) for key, value in stock.items())


def test_a_stock_state_dict_loads_into_the_implanted_net(tiny_unet):
    other = tiny_unet(seed=1).eval()
    net = ImplantedUNet(tiny_unet(), [SkipOnly(), SkipOnly()]).eval()
    net.load_state_dict(other.state_dict())
    assert torch.equal(net(image(2)), other(image(2)))


def test_an_unsupported_network_is_refused_by_name(tiny_unet):
    residual = ResidualUNet(
        1, 3, (4, 8, 8), nn.Conv2d, 3, (1, 2, 2), 1, 2, 1, nonlin=nn.ReLU, norm_op=nn.BatchNorm2d
    )
    with pytest.raises(ValueError, match=r"must be one of PlainConvUNet, .* a ResidualUNet: use"):
        ImplantedUNet(residual, [])


def test_a_network_of_two_stages_is_refused(tiny_unet):
    with pytest.raises(ValueError, match=r"at least 3 stages.* the plans describe 2$"):
        ImplantedUNet(tiny_unet(features=(4, 8)), [SkipOnly()])


def test_a_subclass_of_a_supported_network_is_supported(tiny_unet):
    unet = tiny_unet()
    unet.__class__ = type("MyUNet", (PlainConvUNet,), {})
    require_supported(unet)
