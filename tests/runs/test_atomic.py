import os
import stat

import pytest

from nnunet_iac.runs.atomic import (
    read_json,
    remove_leftovers,
    replacing,
    write_json,
    write_text,
)


def test_text_is_written_into_folders_that_do_not_exist_yet(tmp_path):
    path = tmp_path / "a" / "b" / "text.txt"
    write_text(path, "φ(ψ)\n")
    assert path.read_text(encoding="utf-8") == "φ(ψ)\n"


def test_an_error_keeps_the_old_file_and_leaves_no_temporary(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the new")
            raise OSError("disk full")

    with pytest.raises(RuntimeError, match=r"file\.txt must be written .*disk full.*kept: free"):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]


def test_a_written_file_has_the_permissions_that_open_would_give(tmp_path, monkeypatch):
    (tmp_path / "plain").touch()
    # It is the whole process's: another thread's files would get the wrong ones.
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the mask was changed"))
    write_text(tmp_path / "atomic", "")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")]
    assert modes[0] == modes[1]


def test_json_survives_the_round_trip(tmp_path):
    document = {"values": [1, 2.5, None, True], "nested": {"name": "ψ"}}
    write_json(tmp_path / "document.json", document)
    assert read_json(tmp_path / "document.json") == document


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan_and_no_infinity(tmp_path, value):
    path = tmp_path / "document.json"
    write_json(path, 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"dice": value})
    assert read_json(path) == 1
    assert os.listdir(tmp_path) == ["document.json"]


@pytest.mark.parametrize("content", [b"", b'{"half": ', b"\xff\xfe\x00"])
def test_a_damaged_json_file_is_named(tmp_path, content):
    (tmp_path / "damaged.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged\.json must be a JSON file"):
        read_json(tmp_path / "damaged.json")


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / "iac").mkdir()
    for name in ("file.txt", "iac/.writing.file.txt.x1.txt", ".writing.file.txt.y.txt", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / ".writing.model" / "fold_0").mkdir(parents=True)
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".hidden", "file.txt", "iac"]
    assert os.listdir(tmp_path / "iac") == []
