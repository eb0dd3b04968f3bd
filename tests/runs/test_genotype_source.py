import pytest
import torch

from nnunet_iac.nn.retrofitted_unet import IACUNet
from nnunet_iac.runs.folder import RunFolder
from nnunet_iac.runs.genotype_source import find_genotype, find_output_nodes
from nnunet_iac.search.settings import Settings


@pytest.fixture
def genotype(random_genotype):
    return random_genotype(1)


def _checkpoint(path, weights):
    torch.save({"network_weights": weights, "trainer_name": "nnUNetTrainerIACLTH"}, path)
    return path


def test_a_genotype_is_found_in_its_file_its_fold_and_its_record(tmp_path, genotype):
    run = RunFolder.of_fold(tmp_path / "fold_0")
    run.write_genotype(genotype)
    for path in (run.genotype_file, run.path, tmp_path / "fold_0"):
        assert find_genotype(path) == genotype


def test_a_genotype_is_found_in_the_weights_of_a_network(tmp_path, tiny_unet, genotype):
    network = IACUNet(tiny_unet())
    network.discretise(genotype)
    path = _checkpoint(tmp_path / "checkpoint_final.pth", network.state_dict())
    assert find_genotype(path) == genotype


def test_a_genotype_is_found_in_a_fold_without_a_record(tmp_path, tiny_unet, genotype):
    network = IACUNet(tiny_unet())
    network.discretise(genotype)
    _checkpoint(tmp_path / "checkpoint_final.pth", network.state_dict())
    assert find_genotype(tmp_path) == genotype


@pytest.mark.parametrize(
    ("codes", "message"),
    [([-3] * 14, "got -3"), ([-1] * 14, "node 2 has 0")],
)
def test_impossible_codes_are_refused_with_the_file_named(tmp_path, codes, message):
    weights = {"genotype_codes": torch.tensor(codes)}
    path = _checkpoint(tmp_path / "checkpoint_final.pth", weights)
    with pytest.raises(ValueError, match=rf"checkpoint_final\.pth must hold a genotype.*{message}"):
        find_genotype(path)


def test_the_number_of_output_nodes_is_the_runs_or_else_the_default(tmp_path):
    run = RunFolder.of_fold(tmp_path / "fold_0")
    run.write_settings(Settings(output_nodes=2))
    for path in (run.genotype_file, run.path, tmp_path / "fold_0", tmp_path / "fold_0" / "x.pth"):
        assert find_output_nodes(path) == 2
    assert find_output_nodes(tmp_path / "genotype.json") == 4


def test_the_number_of_output_nodes_is_found_in_a_checkpoint_without_a_record(tmp_path):
    own = {"iac": {"settings": {"output_nodes": 2}}}
    kwargs = {"arch_kwargs": {"settings": {"output_nodes": 2}}}
    exported = {"plans": {"configurations": {"2d": {"architecture": kwargs}}}}
    stock = {"plans": {"configurations": {"2d": {"architecture": {"arch_kwargs": {}}}}}}
    for content, nodes in (
        (own, 2),
        ({"init_args": {**exported, "configuration": "2d"}}, 2),
        ({"init_args": {**stock, "configuration": "2d"}}, 4),
    ):
        torch.save({"network_weights": {}, **content}, tmp_path / "checkpoint_final.pth")
        assert find_output_nodes(tmp_path) == nodes
