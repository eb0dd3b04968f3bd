import pytest
import torch
from torch import nn

from nnunet_iac.host.pretrained import read_encoder_weights


def test_a_weights_file_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"existing file; .*none\.pth is none"):
        read_encoder_weights(tmp_path / "none.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.bin"])
@pytest.mark.parametrize("content", [b"", b"<html>", b"\x80\x02\x83\xfb.", b"PK\x03\x04"])
def test_a_damaged_weights_file_is_refused(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} cannot be read as one"):
        read_encoder_weights(tmp_path / name)


@pytest.mark.parametrize("content", [[torch.ones(1)], {"state_dict": {"a": torch.ones(1)}}])
def test_a_file_that_is_no_state_dict_is_refused(content, tmp_path):
    torch.save(content, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth holds something else"):
        read_encoder_weights(tmp_path / "model.pth")


def test_a_file_with_a_pickled_object_is_refused_and_not_executed(tmp_path):
    torch.save(nn.Linear(1, 1), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"model\.pth cannot be read as one"):
        read_encoder_weights(tmp_path / "model.pth")
