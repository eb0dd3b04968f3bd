import math

import pytest
import torch
from torch import nn

from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.nn.ticket import draw_ticket, load_ticket
from nnunet_iac.search.genotype import NOT_KEPT, UNDECIDED, Genotype
from nnunet_iac.search.pruning import full_mask
from nnunet_iac.search.relaxation import edge_weights, operation_weights
from nnunet_iac.search.space import EDGES, OPERATIONS

dimensions = pytest.mark.parametrize("dimension", [2, 3])
norms = pytest.mark.parametrize("norm", ["Instance", "Batch"])


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture
def network(tiny_unet):
    """Return a builder of retrofitted networks; equal backbones, cells drawn by `seed`."""

    def build(dimension=2, seed=0, genotype=None, active=None, values=None, **keywords):
        values = {"min_channels": 8, "residual": "none"} if values is None else values
        net = IACUNet(tiny_unet(dimension, **keywords), **values)
        generator = torch.Generator().manual_seed(seed)
        nn.init.normal_(net.alpha, generator=generator)
        nn.init.normal_(net.beta, generator=generator)
        if active is not None:
            net.prune(active)
        if genotype is not None:
            net.discretise(genotype)
        load_ticket(net, draw_ticket(net, seed))
        return net

    return build


def image(dimension=2):
    return torch.randn(2, 2, *(16, 8, 8)[:dimension], generator=torch.Generator().manual_seed(1))


def random_mask(seed):
    generator = torch.Generator().manual_seed(seed)
    active = torch.rand(14, 7, generator=generator) < 0.5
    active[:, seed % 7] = True
    return active


def backward(net, x):
    """Backpropagate a loss that treats no two voxels alike."""
    output = net(x)
    (output * torch.randn_like(output)).sum().backward()


@dimensions
@norms
@pytest.mark.parametrize("norm_setting", ["plans", "batch"])
def test_gradient_reaches_alpha_beta_and_cells_but_not_the_backbone(
    network, dimension, norm, norm_setting
):
    values = {"min_channels": 8, "norm": norm_setting, "residual": "none"}
    net = network(dimension, norm=norm, values=values).double()
    nn.init.normal_(net.beta, std=0.1)  # so small that no edge is at the cap
    backward(net, image(dimension).double())
    assert (net.alpha.grad != 0).all()
    assert net.beta.grad[:2].tolist() == [0, 0]
    assert (net.beta.grad[2:] != 0).all()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.weights())
    assert all(p.grad is None for part in (net.encoder, net.decoder) for p in part.parameters())


@dimensions
@pytest.mark.parametrize("seed", [None, 0], ids=["searching", "discrete"])
def test_checkpointed_cells_have_the_same_gradients(network, random_genotype, dimension, seed):
    genotype = None if seed is None else random_genotype(seed)
    gradients = []
    for checkpointing in (False, True):
        values = {"min_channels": 8, "activation_checkpointing": checkpointing}
        net = network(dimension, values=values, genotype=genotype).double()
        torch.manual_seed(0)
        backward(net, image(dimension).double())
        gradients.append({n: p.grad for n, p in net.named_parameters() if p.grad is not None})
    kept, checkpointed = gradients
    assert kept.keys() == checkpointed.keys()
    assert all(torch.equal(kept[name], checkpointed[name]) for name in kept)


@dimensions
@norms
def test_gradient_reaches_every_weight_of_the_discrete_cells(
    network, random_genotype, dimension, norm
):
    net = network(dimension, norm=norm, genotype=random_genotype(0)).double()
    backward(net, image(dimension).double())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in net.weights())
    trained = {name for name, p in net.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"implants"}
    assert net.alpha.grad is None


def test_all_levels_share_the_relaxation_of_alpha_and_beta(network):
    values = {"min_channels": 8, "edge_transform": "tan", "tan_clamp": 0.7}
    net = network(active=random_mask(0), values=values)
    phi, psi = net.mixing()
    assert torch.equal(phi, operation_weights(net.alpha, net.active))
    assert torch.equal(psi, edge_weights(net.beta, "tan", 0.7))
    assert (phi[~net.active] == 0).all()
    calls = []
    for cell in net.cells():
        cell.register_forward_pre_hook(lambda module, inputs: calls.append(inputs[2:]))
    net(image())
    assert len(calls) == 2
    assert all(torch.equal(c[0], phi) and torch.equal(c[1], psi) for c in calls)


def test_the_relaxation_stays_in_float32_under_autocast(network):
    net = network()
    with torch.autocast("cpu", torch.bfloat16):
        output = net(image())
        phi, psi = net.mixing()
    assert output.dtype == torch.bfloat16
    assert phi.dtype == psi.dtype == torch.float32


def test_the_backbone_is_in_evaluation_mode_from_the_start_and_stays_there(network):
    net = network(norm="Batch", dropout_op=nn.Dropout2d, dropout_op_kwargs={"p": 0.5})
    for mode in (None, True, False, True):
        if mode is not None:
            assert net.train(mode) is net
        expected = mode is not False
        assert not any(m.training for part in (net.encoder, net.decoder) for m in part.modules())
        assert all(m.training is expected for m in net.implants.modules())


def test_nothing_of_the_backbone_moves_while_the_cells_train(network):
    net = network(norm="Batch", dropout_op=nn.Dropout2d, dropout_op_kwargs={"p": 0.5})
    before = {key: value.clone() for key, value in net.backbone_state().items()}
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        backward(net.train(), image())
        optimizer.step()
    after = net.backbone_state()
    assert any("running_mean" in key for key in before)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_no_parameter_of_the_backbone_requires_a_gradient(network, tiny_unet):
    net = network()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == dict(tiny_unet().named_parameters()).keys()


def test_the_names_in_a_checkpoint_are_frozen(network, random_genotype):
    searching = network().state_dict()
    assert {
        "alpha": (14, 7),
        "beta": (14,),
        "active": (14, 7),
        "genotype_codes": (14,),
        "implants.0.projections.0.1.weight": (8, 16, 1, 1),
        "implants.1.projections.1.1.weight": (8, 8, 1, 1),
        "implants.0.edges.0_2.sep_conv_3x3.1.2.weight": (2, 2, 1, 1),
        "implants.1.edges.4_5.dil_conv_5x5.1.weight": (2, 1, 5, 5),
        "implants.0.output.weight": (16, 32, 1, 1),
        "implants.0.output.bias": (16,),
    }.items() <= {name: tuple(tensor.shape) for name, tensor in searching.items()}.items()
    genotype = random_genotype(0)
    discrete = network(genotype=genotype).state_dict()
    added = discrete.keys() - searching.keys()
    norms = [n for e, o in genotype.operations.items() for n in affine_norms(e.name, o)]
    assert added == {
        f"implants.{level}.{name}.{kind}"
        for level in (0, 1)
        for name in ("projections.0.2", "projections.1.2", *norms)
        for kind in ("weight", "bias")
    }
    gated = network(values={"residual": "zero"}).state_dict()
    assert {"implants.0.gate", "implants.0.cell.edges.0_2.dil_conv_3x3.1.weight"} < gated.keys()


def affine_norms(edge, operation):
    """Return the names of the norms that learn scale and shift on an edge of the final cell."""
    suffixes = {"sep": ("0.3", "1.3"), "dil": ("3",)}.get(operation[:3], ())
    return [f"edges.{edge}.{operation}.{suffix}" for suffix in suffixes]


def test_a_stock_checkpoint_lacks_nothing_but_cells_and_architecture(network, tiny_unet):
    net = network()
    stock = tiny_unet(seed=5).state_dict()
    missing, unexpected = net.load_state_dict(stock, strict=False)
    assert not unexpected
    assert {key.split(".")[0] for key in missing} == {
        "implants",
        "alpha",
        "beta",
        "active",
        "genotype_codes",
    }
    assert all(torch.equal(net.state_dict()[key], value) for key, value in stock.items())


@dimensions
@pytest.mark.parametrize("deep_supervision", [True, False])
@pytest.mark.parametrize("is_discrete", [True, False], ids=["discrete", "searching"])
def test_a_zero_residual_starts_bit_equal_to_the_stock_net(
    network, tiny_unet, random_genotype, dimension, deep_supervision, is_discrete
):
    keywords = {
        "deep_supervision": deep_supervision,
        "dropout_op": nn.Dropout2d if dimension == 2 else nn.Dropout3d,
        "dropout_op_kwargs": {"p": 0.5},
    }
    genotype = random_genotype(0) if is_discrete else None
    values = {"residual": "zero", "min_channels": 8}
    net = network(dimension, genotype=genotype, values=values, **keywords).train()
    outputs, expected = (
        m(image(dimension)) for m in (net, tiny_unet(dimension, **keywords).eval())
    )
    if not deep_supervision:
        outputs, expected = [outputs], [expected]
    assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))


def test_pruning_removes_the_operations_from_every_level(network):
    net = network()
    before = len(net.weights())
    active = random_mask(1)
    net.prune(active)
    assert torch.equal(net.active, active)
    for cell in net.cells():
        for edge, row in zip(EDGES, active.tolist(), strict=True):
            names = [name for name, is_active in zip(OPERATIONS, row, strict=True) if is_active]
            assert list(cell.operations(edge)) == names
    assert len(net.weights()) < before


def test_a_pruned_operation_cannot_come_back(network):
    net = network(active=random_mask(1))
    with pytest.raises(AssertionError, match="deleted"):
        net.prune(full_mask())


def test_the_genotype_travels_in_its_buffer(network, random_genotype):
    genotype = random_genotype(4)
    searching, net = network(), network(genotype=genotype)
    assert searching.genotype_codes.tolist() == [UNDECIDED] * 14
    assert net.genotype_codes.tolist().count(NOT_KEPT) == 6
    assert Genotype.from_codes(net.genotype_codes.tolist()) == genotype
    searching.load_state_dict(net.state_dict())
    assert searching.genotype == genotype


def test_alpha_and_beta_outlive_the_discretisation(network, random_genotype):
    net = network(seed=3)
    alpha, beta = net.alpha.detach().clone(), net.beta.detach().clone()
    net.discretise(random_genotype(0))
    assert torch.equal(net.alpha, alpha)
    assert torch.equal(net.beta, beta)


@pytest.mark.parametrize("values", [{"residual": "none"}, {}], ids=["none", "zero"])
@pytest.mark.parametrize("inference", [False, True], ids=["training", "inference mode"])
def test_one_instance_loads_checkpoints_of_every_structure_in_turn(
    network, random_genotype, values, inference
):
    # nnUNetPredictor loads the folds' checkpoints into one network, again for every case.
    builders = [
        {},
        {"active": random_mask(0)},
        {"active": random_mask(1)},
        {"active": random_mask(0), "genotype": random_genotype(0)},
        {"genotype": random_genotype(1)},
        {"active": random_mask(1), "genotype": random_genotype(1)},
    ]
    nets = [network(2, seed, values=values, **b).eval() for seed, b in enumerate(builders)]
    for net in nets:
        for name, parameter in net.named_parameters():
            if name.endswith("gate"):
                nn.init.constant_(parameter, 0.5)
    host = network(2, 9, values=values).eval()
    with torch.inference_mode(inference):
        expected = [net(image()) for net in nets]
        for index in (0, 3, 0, 1, 4, 3, 5, 5, 2, 4):
            host.load_state_dict(nets[index].state_dict())
            assert torch.equal(host(image()), expected[index])
            assert host.state_dict().keys() == nets[index].state_dict().keys()
    assert len({output.sum().item() for output in expected}) == len(nets)


def test_cells_rebuilt_while_predicting_can_be_loaded_and_trained_afterwards(
    network, random_genotype
):
    host, other = network(), network(seed=1, genotype=random_genotype(0))
    with torch.inference_mode():
        host.load_state_dict(other.state_dict())
    host.load_state_dict(other.state_dict())
    backward(host, image())
    assert all(p.grad is not None for p in host.weights())


def test_loading_the_same_structure_keeps_the_parameters_that_optimisers_hold(
    network, random_genotype
):
    for keywords in ({"active": random_mask(0)}, {"genotype": random_genotype(0)}):
        net, other = network(**keywords), network(seed=1, **keywords)
        before = net.weights()
        net.load_state_dict(other.state_dict())
        assert all(a is b for a, b in zip(before, net.weights(), strict=True))
        assert all(torch.equal(a, b) for a, b in zip(before, other.weights(), strict=True))


def test_a_rebuilt_network_trains_what_its_structure_has(network, random_genotype):
    searching, discrete = network(), network(genotype=random_genotype(0))
    host = network()
    host.load_state_dict(discrete.state_dict())
    assert not host.alpha.requires_grad
    assert not host.beta.requires_grad
    host.load_state_dict(searching.state_dict())
    assert host.alpha.requires_grad
    assert host.beta.requires_grad
    assert host.genotype is None


@pytest.mark.parametrize("mode", [True, False])
def test_rebuilt_cells_take_dtype_device_and_mode_of_the_network(network, random_genotype, mode):
    host = network().double().train(mode)
    other = network(seed=1, genotype=random_genotype(0)).double().train(mode)
    host.load_state_dict(other.state_dict())
    assert {p.dtype for p in host.weights()} == {torch.float64}
    assert {p.device for p in host.weights()} == {host.alpha.device}
    assert all(module.training is mode for module in host.implants.modules())
    assert torch.equal(host(image().double()), other(image().double()))


def test_a_checkpoint_that_does_not_fit_is_refused(network):
    state = network(values={"min_channels": 8}).state_dict()
    with pytest.raises(RuntimeError, match=r"size mismatch for implants\.0\.cell\.projections"):
        network(values={"min_channels": 12}).load_state_dict(state)


def test_every_level_has_a_cell_of_its_own_width(network):
    net = network(features=(8, 16, 160, 24), values={})
    shapes = [(cell.shape.skip_channels, cell.shape.channels) for cell in net.cells()]
    assert shapes == [(160, 40), (16, 16), (8, 16)]


def test_a_new_network_is_uniform_over_operations_and_edges(tiny_unet):
    phi, psi = IACUNet(tiny_unet()).mixing()
    assert phi.flatten().tolist() == pytest.approx([1 / 7] * 98)
    assert math.isclose(psi[13].item(), 0.2, rel_tol=1e-6)
