import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerBN import (
    nnUNetTrainerBN,
)
from torch import nn

from nnunet_iac.runs.atomic import write_json
from nnunet_iac.width.candidates import candidates
from nnunet_iac.width.source import Source


class Stubborn(nnUNetTrainer):
    """Ignores the plans."""

    @staticmethod
    def build_network_architecture(
        plans_manager, configuration_manager, channels, classes, deep_supervision
    ):
        return nn.Conv2d(channels, classes, 3, padding=1)


class Old(nnUNetTrainer):
    """Has the signature of nnU-Net's earlier trainers."""

    @staticmethod
    def build_network_architecture(name, kwargs, imports, channels, classes, deep_supervision):
        return nn.Conv2d(channels, kwargs["features_per_stage"][-1] * classes, 1)


def _weights(network):
    return torch.cat([parameter.flatten() for parameter in network.parameters()])


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres", "residual"])
def test_a_network_depends_on_cap_and_seed_and_leaves_random_numbers_alone(source, configuration):
    given = source(configuration)
    before = torch.get_rng_state()
    first, again, other = (given.network(8, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(_weights(first), _weights(again))
    assert not torch.equal(_weights(first), _weights(other))
    assert first.encoder.output_channels == [8, 8, 8]
    assert first.decoder.deep_supervision is False


def test_the_plans_are_never_changed_even_by_a_trainer_that_does(source):
    given = source(trainer=nnUNetTrainerBN)
    before = given.digest()
    network = given.network(16, 0)
    assert any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert given.digest() == before


def test_costs_are_parameters_and_products_of_one_patch(source):
    # 2 channels to 32 * 2 by a 1x1 convolution on 16 x 16: weights 2 * 64, biases 64.
    cost = source(trainer=Old).cost(32)
    assert (cost.parameters, cost.macs) == (2 * 64 + 64, 2 * 64 * 16 * 16)


def test_a_trainer_of_the_old_signature_is_given_what_it_takes(source):
    assert source(trainer=Old).network(4, 0).out_channels == 8


def test_a_trainer_that_ignores_the_widths_of_the_plans_is_refused(source):
    given = source(trainer=Stubborn)
    # 2 channels to 2 by a 3x3 convolution: 2 * 2 * 9 + 2.
    with pytest.raises(ValueError, match=r"Stubborn has 38 parameters under the cap 32 and 38"):
        given.costs(candidates(given.architecture))


def test_the_second_stage_of_a_cascade_is_refused(source):
    with pytest.raises(ValueError, match="stage_two also takes the labels of 3d_lowres"):
        source("stage_two")


def test_a_network_that_cannot_be_built_is_the_plans_fault(source):
    given = source()
    given.architecture["arch_kwargs"]["strides"] = [1]
    with pytest.raises(ValueError, match=r"it is not \(AssertionError"):
        given.network(4, 0)


@pytest.mark.parametrize("missing", ["labels", "channel_names"])
def test_a_data_set_without_labels_or_channels_is_refused(preprocessed, source, missing):
    known = {key: value for key, value in source().dataset.items() if key != missing}
    write_json(preprocessed / "dataset.json", known)
    with pytest.raises(ValueError, match=r"dataset\.json must have the objects channel_names"):
        Source.of_plans("4", "2d", "nnUNetPlans", "nnUNetTrainer")


def test_plans_are_found_by_the_names_of_nnunets_commands(preprocessed):
    given = Source.of_plans("4", "2d", "nnUNetPlans", "nnUNetTrainer")
    assert (given.folder, given.patch_size, given.input_channels) == (preprocessed, (16, 16), 2)
    assert given.trainer.__name__ == "nnUNetTrainer"


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (("7", "2d", "nnUNetPlans", "nnUNetTrainer"), ValueError, "got '7'"),
        (("4", "2d", "Absent", "nnUNetTrainer"), FileNotFoundError, "name others with -p"),
        (("4", "3d", "nnUNetPlans", "nnUNetTrainer"), ValueError, "got '3d'"),
        (("4", "2d", "nnUNetPlans", "nnUNetTrainerAbsent"), RuntimeError, "nnUNetTrainerAbsent"),
    ],
)
def test_unknown_names_are_refused(preprocessed, names, error, message):
    with pytest.raises(error, match=message):
        Source.of_plans(*names)
