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


def test_a_network_that_is_still_searching_has_no_genotype(tmp_path, tiny_unet):
    network = IACUNet(tiny_unet())
    path = _checkpoint(tmp_path / "checkpoint_latest.pth", network.state_dict())
    with pytest.raises(ValueError, match=r"checkpoint_latest\.pth is still searching"):
        find_genotype(path)


def test_a_stock_checkpoint_has_no_genotype(tmp_path, tiny_unet):
    path = _checkpoint(tmp_path / "checkpoint_final.pth", tiny_unet().state_dict())
    with pytest.raises(ValueError, match=r"checkpoint_final\.pth has no genotype"):
        find_genotype(path)


@pytest.mark.parametrize(
    ("codes", "message"),
    [([7] * 14, "got 7"), ([-3] * 14, "got -3"), ([-1] * 14, "node 2 has 0"), ([3], "14; got 1")],
)
def test_impossible_codes_are_refused_with_the_file_named(tmp_path, codes, message):
    weights = {"genotype_codes": torch.tensor(codes)}
    path = _checkpoint(tmp_path / "checkpoint_final.pth", weights)
    with pytest.raises(ValueError, match=rf"checkpoint_final\.pth must hold a genotype.*{message}"):
        find_genotype(path)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_an_empty_or_damaged_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "checkpoint_final.pth"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"checkpoint_final\.pth must be an nnU-Net checkpoint"):
        find_genotype(path)


def test_something_else_in_a_checkpoints_place_is_named(tmp_path):
    torch.save([1, 2], tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth must be an nnU-Net checkpoint"):
        find_genotype(tmp_path / "other.pth")


def test_an_empty_genotype_file_is_named(tmp_path):
    (tmp_path / "genotype.json").touch()
    with pytest.raises(ValueError, match=r"genotype\.json must be a JSON file"):
        find_genotype(tmp_path / "genotype.json")


def test_a_fold_whose_search_has_not_ended_and_a_missing_path_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"fold whose search has ended.*genotype\.json"):
        find_genotype(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"gone\.json does not exist"):
        find_genotype(tmp_path / "gone.json")


def test_the_number_of_output_nodes_is_the_runs_or_else_the_default(tmp_path):
    run = RunFolder.of_fold(tmp_path / "fold_0")
    run.write_settings(Settings(output_nodes=2))
    for path in (run.genotype_file, run.path, tmp_path / "fold_0", tmp_path / "fold_0" / "x.pth"):
        assert find_output_nodes(path) == 2
    assert find_output_nodes(tmp_path / "genotype.json") == 4
