import json
import math

import pytest
import timm
import torch
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from planned_unets import architecture

from nnunet_iac.cli import main
from nnunet_iac.host.architectures import ENCODER_NAMES, PAPER_SETTINGS
from nnunet_iac.host.networks import planned_network
from nnunet_iac.host.planning import NetworkChanges, write_plans
from nnunet_iac.host.plans import settings_of
from nnunet_iac.nn.skip_modules import SKIP_MODULES
from nnunet_iac.nn.skip_unet import SkipUNet
from nnunet_iac.nn.timm_unet import TimmUNet

UNET = "dynamic_network_architectures.architectures.unet."
FEATURES = (4, 8, 8, 8)
DATASET_JSON = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
    "numTraining": 10,
    "file_ending": ".nii.gz",
}


@pytest.fixture
def planned(preprocessed):
    """The data set's folder with plans of a small network, two- and three-dimensional."""
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    flat, solid = plans["configurations"]["2d"], plans["configurations"]["3d_fullres"]
    flat |= {"patch_size": [56, 40], "architecture": architecture(2, FEATURES, 2)}
    solid |= {
        "patch_size": [40, 56, 40],
        "batch_size": 2,
        "architecture": architecture(3, FEATURES, 2),
    }
    (preprocessed / "nnUNetPlans.json").write_text(json.dumps(plans))
    (preprocessed / "dataset.json").write_text(json.dumps(DATASET_JSON))
    return preprocessed


def configuration(folder, name="Mine"):
    return json.loads((folder / f"{name}.json").read_text())["configurations"]["2d"]


def built(folder, name="Mine"):
    manager = PlansManager(str(folder / f"{name}.json"))
    config = manager.get_configuration("2d")
    return planned_network(manager, config, 1, 3)


@pytest.mark.parametrize("encoder", ENCODER_NAMES[1:])
def test_an_encoder_pads_the_patch_to_what_it_can_halve_and_is_built_from_its_plans(
    planned, encoder
):
    write_plans("4", "2d", "nnUNetPlans", "Mine", {}, NetworkChanges(encoder))
    mine = configuration(planned)
    assert mine["patch_size"] == [64, 64]
    strides = mine["architecture"]["arch_kwargs"]["strides"]
    assert strides[0] == [1, 1]
    assert math.prod(side for side, _ in strides) == 32
    network = built(planned)
    assert isinstance(network, TimmUNet)
    outputs = network(torch.zeros(2, 1, 64, 64))
    assert [tuple(o.shape[2:]) for o in outputs] == [(64 >> k, 64 >> k) for k in range(5)]


def test_the_plain_encoder_is_the_one_plans_have(planned):
    write_plans("4", "2d", "nnUNetPlans", "Mine", {}, NetworkChanges("plain"))
    source = configuration(planned, "nnUNetPlans")
    assert configuration(planned) == {**source, "iac": {}}


@pytest.mark.parametrize("encoder", [None, "mobilenetv3_large"])
@pytest.mark.parametrize("skip", SKIP_MODULES)
def test_a_skip_module_goes_around_any_encoder(planned, encoder, skip):
    write_plans("4", "2d", "nnUNetPlans", "Mine", {}, NetworkChanges(encoder, skip))
    network = built(planned)
    assert isinstance(network, SkipUNet)
    assert network(torch.zeros(2, 1, 64, 64))[0].shape == (2, 3, 64, 64)


def test_an_encoder_leaves_the_skip_module_of_the_source_plans_in_place(planned):
    write_plans("4", "2d", "nnUNetPlans", "Gates", {}, NetworkChanges(skip="attention"))
    write_plans("4", "2d", "Gates", "Mine", {}, NetworkChanges("mobilenetv3_large"))
    write_plans(
        "4", "2d", "nnUNetPlans", "Both", {}, NetworkChanges("mobilenetv3_large", "attention")
    )
    assert configuration(planned)["architecture"] == configuration(planned, "Both")["architecture"]


def test_another_skip_module_takes_the_place_of_the_first(planned):
    write_plans("4", "2d", "nnUNetPlans", "Gates", {}, NetworkChanges(skip="attention"))
    write_plans("4", "2d", "Gates", "Mine", {}, NetworkChanges(skip="nested"))
    kwargs = configuration(planned)["architecture"]["arch_kwargs"]
    assert (kwargs["skip"], kwargs["unet"]) == ("nested", UNET + "PlainConvUNet")


def test_the_paper_s_protocol_is_patch_batch_and_training_of_its_backbones(planned):
    network = NetworkChanges("resnet50", protocol="paper")
    write_plans("4", "2d", "nnUNetPlans", "Mine", {"seed": 2}, network)
    mine = configuration(planned)
    assert (mine["patch_size"], mine["batch_size"]) == ([128, 128], 128)
    settings = settings_of(mine)
    assert (settings.optimisation.deep_supervision, settings.optimisation.seed) == (False, 2)
    assert settings.data.backbone_trainer == PAPER_SETTINGS["backbone_trainer"]


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (NetworkChanges("resnet51"), "must be one of plain, vgg16, .* got 'resnet51'"),
        (NetworkChanges(skip="gates"), "must be one of attention, nested, .* got 'gates'"),
        (NetworkChanges(protocol="theirs"), "must be paper; got 'theirs'"),
    ],
)
def test_an_unknown_network_is_refused_by_name_and_nothing_is_written(planned, network, message):
    with pytest.raises(ValueError, match=message):
        write_plans("4", "2d", "nnUNetPlans", "Mine", {}, network)
    assert not (planned / "Mine.json").exists()


def test_a_timm_encoder_is_refused_for_three_dimensions(planned):
    with pytest.raises(ValueError, match="patches of 40x56x40: use 2d"):
        write_plans("4", "3d_fullres", "nnUNetPlans", "Mine", {}, NetworkChanges("vgg16"))


def test_the_paper_s_protocol_is_refused_for_three_dimensions(planned):
    with pytest.raises(ValueError, match="reduce by 8x8x8: use a 2d configuration"):
        write_plans("4", "3d_fullres", "nnUNetPlans", "Mine", {}, NetworkChanges(protocol="paper"))


def test_the_paper_s_protocol_is_refused_where_it_leaves_one_pixel(planned):
    plans = json.loads((planned / "nnUNetPlans.json").read_text())
    kwargs = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
    kwargs["strides"] = [[1, 1]] + [[2, 2]] * 7
    (planned / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=r"more than one pixel of; .* reduce by 128x128: use"):
        write_plans("4", "2d", "nnUNetPlans", "Mine", {}, NetworkChanges(protocol="paper"))


def test_plain_is_refused_where_plans_have_another_network(planned):
    write_plans("4", "2d", "nnUNetPlans", "Deep", {}, NetworkChanges("vgg16"))
    with pytest.raises(ValueError, match=r"describe a .*TimmUNet: start from nnUNetPlans"):
        write_plans("4", "2d", "Deep", "Mine", {}, NetworkChanges("plain"))


def test_a_timm_encoder_starts_from_plans_of_nnu_net(planned):
    write_plans("4", "2d", "nnUNetPlans", "Deep", {}, NetworkChanges("vgg16"))
    with pytest.raises(ValueError, match=r"source plans describe a .*TimmUNet: start"):
        write_plans("4", "2d", "Deep", "Mine", {}, NetworkChanges("resnet50"))


def test_a_skip_module_needs_a_network_the_surgery_knows(planned):
    plans = json.loads((planned / "nnUNetPlans.json").read_text())
    plans["configurations"]["2d"]["architecture"]["network_class_name"] = UNET + "ResidualUNet"
    (planned / "nnUNetPlans.json").write_text(json.dumps(plans))
    with pytest.raises(ValueError, match=r"describe a .*ResidualUNet: use plans"):
        write_plans("4", "2d", "nnUNetPlans", "Mine", {}, NetworkChanges(skip="nested"))


PLAN = ["plan", "-d", "4", "-c", "2d", "-o", "Mine"]


def test_plan_states_what_changed_and_which_two_trainings_follow(planned, capsys):
    assert main([*PLAN, "--encoder", "resnet50"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines == [
        "patch_size: [64, 64], was [56, 40]",
        "next: nnUNetv2_train 4 2d FOLD -p Mine",
        "then: nnUNetv2_train 4 2d FOLD -tr nnUNetTrainerIACDiscrete -p Mine",
    ]


def test_plan_names_no_retrofit_after_a_skip_module_trained_from_scratch(planned, capsys):
    assert main([*PLAN, "--skip", "nested"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["next: nnUNetv2_train 4 2d FOLD -p Mine"]


def test_plan_names_no_retrofit_of_plans_that_have_a_skip_module_already(planned, capsys):
    write_plans("4", "2d", "nnUNetPlans", "Gates", {}, NetworkChanges(skip="attention"))
    assert main([*PLAN, "-p", "Gates", "--set", "seed=1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["next: nnUNetv2_train 4 2d FOLD -p Mine"]


def test_plan_names_the_trainer_that_finetunes_a_control(planned, capsys):
    assert main([*PLAN, "--set", "genotype=random:3"]) == 0
    assert capsys.readouterr().out.endswith("-tr nnUNetTrainerIACDiscrete -p Mine\n")
    assert settings_of(configuration(planned)).cell.genotype == "random:3"


def test_the_path_of_a_convolution_means_the_folder_the_plans_are_made_in(
    planned, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    write_plans("4", "2d", "nnUNetPlans", "Mine", {"genotype": "conv:runs/fold_{fold}"})
    genotype = settings_of(configuration(planned)).cell.genotype
    assert genotype == f"conv:{tmp_path}/runs/fold_{{fold}}"


def test_encoder_weights_become_a_checkpoint_that_training_starts_from(planned, tmp_path, capsys):
    published = {
        key: torch.rand_like(tensor) if tensor.is_floating_point() else tensor + 1
        for key, tensor in timm.create_model("mobilenetv3_large_100").state_dict().items()
    }  # No norm is as every new one is.
    torch.save(published, tmp_path / "weights.pth")
    words = ["--encoder", "mobilenetv3_large", "--encoder-weights", str(tmp_path / "weights.pth")]
    assert main([*PLAN, *words]) == 0
    path = planned / "Mine_pretrained.pth"
    assert f"-p Mine -pretrained_weights {path}\n" in capsys.readouterr().out
    weights = torch.load(path, weights_only=True)["network_weights"]
    trunk = {
        key.removeprefix("encoder.trunk."): tensor
        for key, tensor in weights.items()
        if key.startswith("encoder.trunk.")
    }
    # Everything before the classifier; a stem of four channels takes the three colours' place,
    # red, green, blue, red, times 3/4, so that equal channels give what they gave.
    first = "conv_stem.weight"
    classifier = ("conv_head.", "classifier.")
    assert trunk.keys() == {key for key in published if not key.startswith(classifier)}
    assert [k for k in trunk if k != first and not torch.equal(trunk[k], published[k])] == []
    torch.testing.assert_close(trunk[first], published[first][:, [0, 1, 2, 0]] * 0.75)
    network = built(planned)
    network.load_state_dict(weights)
    before = path.stat().st_mtime_ns
    assert main([*PLAN, *words]) == 0
    assert path.stat().st_mtime_ns == before


def test_encoder_weights_do_not_overwrite_a_checkpoint_with_other_content(planned, tmp_path):
    words = [*PLAN, "--encoder", "mobilenetv3_large", "--encoder-weights"]
    for name in ("a.pth", "b.pth"):
        published = timm.create_model("mobilenetv3_large_100", pretrained=False).state_dict()
        torch.save(published, tmp_path / name)
    assert main([*words, str(tmp_path / "a.pth")]) == 0
    before = (planned / "Mine_pretrained.pth").read_bytes()
    assert main([*words, str(tmp_path / "b.pth")]) == 2
    assert (planned / "Mine_pretrained.pth").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--encoder-weights", "absent.pth"], "add --encoder"),
        (["--encoder", "resnet50", "--encoder-weights", "absent.pth"], "absent.pth is none"),
        (["--encoder", "plain", "--encoder-weights", "absent.pth"], "are for a timm encoder"),
    ],
)
def test_encoder_weights_without_a_use_are_refused_and_nothing_is_written(
    planned, capsys, words, message
):
    assert main([*PLAN, *words]) == 2
    assert message in capsys.readouterr().err
    assert not (planned / "Mine.json").exists()
