import pytest
import torch
from torch import nn

from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.nn.ticket import draw_ticket, load_ticket


@pytest.fixture(params=[2, 3], ids=["2d", "3d"])
def network(request, tiny_unet):
    return IACUNet(tiny_unet(request.param), min_channels=8, residual="none")


def test_the_search_cells_start_from_the_corner_of_the_tickets_tensors(network):
    ticket = draw_ticket(network, 0)
    load_ticket(network, ticket)
    sliced = 0
    for name, parameter in network.implants.named_parameters():
        full = ticket[f"implants.{name}"]
        assert torch.equal(parameter, full[tuple(slice(0, size) for size in parameter.shape)])
        sliced += parameter.shape != full.shape
    assert sliced == 2 * 14 * 12


def test_the_discrete_cells_start_from_the_ticket_itself(network, random_genotype):
    ticket = draw_ticket(network, 0)
    load_ticket(network, ticket)
    network.prune(torch.eye(7, dtype=torch.bool).repeat(2, 1))
    network.discretise(random_genotype(0))
    load_ticket(network, ticket)
    for name, parameter in network.implants.named_parameters():
        assert torch.equal(parameter, ticket[f"implants.{name}"])


def test_a_search_and_its_discrete_cell_start_from_the_same_numbers(network, random_genotype):
    ticket = draw_ticket(network, 0)
    load_ticket(network, ticket)
    searching = {name: p.clone() for name, p in network.implants.named_parameters()}
    network.discretise(random_genotype(0))
    load_ticket(network, ticket)
    common = dict(network.implants.named_parameters()).keys() & searching.keys()
    assert any("sep_conv" in name for name in common)
    for name in common:
        corner = tuple(slice(0, size) for size in searching[name].shape)
        assert torch.equal(network.implants.get_parameter(name)[corner], searching[name])


def test_a_ticket_is_drawn_by_its_seed_alone(network):
    first, second, other = (draw_ticket(network, seed) for seed in (0, 0, 1))
    load_ticket(network, other)
    third = draw_ticket(network, 0)
    assert first.keys() == second.keys() == other.keys() == third.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(torch.equal(first[name], third[name]) for name in first)
    drawn = [name for name in first if first[name].ndim > 1]
    assert all(not torch.equal(first[name], other[name]) for name in drawn)


def test_drawing_a_ticket_leaves_the_global_random_state_alone(network):
    before = torch.random.get_rng_state()
    draw_ticket(network, 3)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_ticket_is_drawn_like_nnunet_initialises(network):
    ticket = draw_ticket(network, 0)
    projection = ticket["implants.0.projections.0.1.weight"]
    # Kaiming normal with slope 0.01: variance 2 / (1 + 1e-4) / fan_in
    fan_in = projection.shape[1]
    assert projection.var().item() == pytest.approx(2 / 1.0001 / fan_in, rel=0.35)
    assert (ticket["implants.0.output.bias"] == 0).all()
    scales = [tensor for name, tensor in ticket.items() if name.endswith("3.weight")]
    norm_scales = [scale for scale in scales if scale.ndim == 1]
    assert norm_scales
    assert all((scale == 1).all() for scale in norm_scales)


def test_a_ticket_does_not_share_memory_with_the_cells(network):
    ticket = draw_ticket(network, 0)
    load_ticket(network, ticket)
    copies = {name: tensor.clone() for name, tensor in ticket.items()}
    for parameter in network.weights():
        nn.init.zeros_(parameter)
    assert all(torch.equal(ticket[name], copies[name]) for name in ticket)


def test_a_ticket_of_gated_cells_holds_closed_gates(tiny_unet):
    network = IACUNet(tiny_unet(), residual="zero", min_channels=8)
    nn.init.ones_(network.implants[0].gate)
    ticket = draw_ticket(network, 0)
    load_ticket(network, ticket)
    assert ticket["implants.0.gate"] == 0
    assert network.implants[0].gate == 0
    assert "implants.1.cell.edges.4_5.dil_conv_5x5.2.weight" in ticket
