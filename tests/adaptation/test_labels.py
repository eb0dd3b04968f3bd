"""Which labels of a target fit a source, and how they are mapped to its numbers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from trained_models import DATASET

from nnunet_iac.adaptation.labels import (
    MAPPED_FROM,
    mapped_values,
    require_same_channels,
    require_same_labels,
    write_mapped_dataset,
)
from nnunet_iac.runs.atomic import read_json

PLAIN: dict[str, Any] = {"labels": {"background": 0, "organ": 1, "tumor": 2}}
REGIONS: dict[str, Any] = {
    "labels": {"background": 0, "whole": [1, 2], "core": [2]},
    "regions_class_order": [1, 2],
}


def test_a_label_to_ignore_may_be_missing_on_either_side() -> None:
    ignoring = {"labels": {**PLAIN["labels"], "ignore": 3}}
    require_same_labels(PLAIN, ignoring)
    require_same_labels(ignoring, PLAIN)


def test_channels_of_an_older_data_set_are_read() -> None:
    older = {"modality": {"0": "MRI"}}
    assert require_same_channels(older, {"channel_names": {"0": "T1"}}) == [
        "note: the channel MRI of the source is called T1 in the target"
    ]
    with pytest.raises(ValueError, match="the same order; the source has MRI and the target CT"):
        require_same_channels(older, {"modality": {"0": "CT"}})


@pytest.mark.parametrize("names", [("T2", "FLAIR"), ("t2", "t1"), ("FLAIR", "T1")])
def test_a_channel_of_the_source_must_not_be_at_another_place(names: tuple[str, str]) -> None:
    source = {"channel_names": {"0": "T1", "1": "T2"}}
    with pytest.raises(ValueError, match="the source's channels in the same order"):
        require_same_channels(source, {"channel_names": dict(zip("01", names, strict=True))})
    twice = {"channel_names": {"0": "zscore", "1": "zscore"}}
    assert len(require_same_channels(twice, {"channel_names": {"0": "T1", "1": "zscore"}})) == 1
    notes = require_same_channels(source, {"channel_names": {"0": "t1", "1": "FLAIR"}})
    assert [note.rpartition("called")[2] for note in notes] == [
        " t1 in the target",
        " FLAIR in the target",
    ]


def test_regions_must_be_the_same_and_in_the_same_order() -> None:
    require_same_labels(REGIONS, {**REGIONS, "labels": {**REGIONS["labels"], "ignore": 3}})
    alike = {"whole": [2, 1], "core": 2, "background": 0}
    require_same_labels(REGIONS, {**REGIONS, "labels": alike})
    others: tuple[dict[str, Any], ...] = (
        {**REGIONS, "regions_class_order": [2, 1]},
        {**REGIONS, "labels": {"background": 0, "whole": [1, 2], "core": [1]}},
        {**REGIONS, "labels": {"background": 0, "core": [2], "whole": [1, 2]}},
        {"labels": REGIONS["labels"]},
        PLAIN,
    )
    for other in others:
        with pytest.raises(ValueError, match="must have the source's labels"):
            require_same_labels(REGIONS, other)


def test_a_number_without_a_label_is_found_in_the_file_that_has_it(tmp_path: Path) -> None:
    raw = tmp_path / "Dataset030_Site"
    for part, name in {"imagesTr": "a_0000", "labelsTr": "a"}.items():
        (raw / part).mkdir(parents=True)
        image = SimpleITK.GetImageFromArray(np.array([[[0, 7]]], dtype=np.uint8))
        SimpleITK.WriteImage(image, raw / part / f"{name}.nii.gz")
    target = {**DATASET, "labels": {"background": 0, "organ": 1}}
    with pytest.raises(ValueError, match=r"a\.nii\.gz has 7: correct it"):
        write_mapped_dataset(raw, target, PLAIN, {0: 0, 1: 1}, tmp_path / "Dataset130_Mapped")


def test_what_a_killed_mapping_left_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, out = tmp_path / "Dataset030_Site", tmp_path / "Dataset130_Mapped"
    for part, name in {"imagesTr": "a_0000", "labelsTr": "a"}.items():
        (raw / part).mkdir(parents=True)
        image = SimpleITK.GetImageFromArray(np.ones((1, 2, 2), dtype=np.uint8))
        SimpleITK.WriteImage(image, raw / part / f"{name}.nii.gz")
    given = raw, {**DATASET, "labels": PLAIN["labels"]}, PLAIN, {0: 0, 1: 2, 2: 1}, out
    write_mapped_dataset(*given)

    def kill(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SimpleITKIO, "write_seg", kill)
        with pytest.raises(KeyboardInterrupt):
            write_mapped_dataset(*given)
    assert not (out / "dataset.json").exists()
    write_mapped_dataset(*given)
    assert {path.name for path in out.iterdir()} == {"dataset.json", "labelsTr"}


def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path) -> None:
    raw, out = tmp_path / "Dataset030_Site", tmp_path / "Dataset130_Mapped"
    for part, name in {"imagesTr": "a_0000", "labelsTr": "a"}.items():
        (raw / part).mkdir(parents=True)
        image = SimpleITK.GetImageFromArray(np.full((1, 2, 2), 0.5, dtype=np.float32))
        SimpleITK.WriteImage(image, raw / part / f"{name}.nii.gz")
    target = {**DATASET, "labels": PLAIN["labels"]}
    with pytest.raises(ValueError, match=r"a\.nii\.gz has 0\.5: correct it"):
        write_mapped_dataset(raw, target, PLAIN, {0: 0, 1: 1, 2: 2}, out)
    assert not out.exists()


def test_regions_are_not_mapped() -> None:
    with pytest.raises(ValueError, match="only plain labels can be mapped"):
        mapped_values(REGIONS, REGIONS, {"whole": "core"}, ())


def test_labels_are_renamed_dropped_missing_and_ignored() -> None:
    target = {"labels": {"background": 0, "lesion": 1, "vessel": 2, "ignore": 3}}
    found = mapped_values(PLAIN, target, {"lesion": "tumor", "vessel": "background"}, ["organ"])
    assert found == {0: 0, 1: 2, 2: 0, 3: 3}
    with pytest.raises(ValueError, match=r"'organ' is not: .* add --absent organ"):
        mapped_values(PLAIN, target, {"lesion": "tumor", "vessel": "background"}, ())
    with pytest.raises(ValueError, match=r"must name labels of the target, .*; got 'liver'"):
        mapped_values(PLAIN, target, {"liver": "organ"}, ())
    with pytest.raises(ValueError, match=r"labels that the target lacks; it has 'organ'"):
        mapped_values(PLAIN, PLAIN, {}, ["organ"])


@pytest.mark.parametrize("ignore", [{}, {"ignore": 3}])
def test_an_ignore_label_may_be_dropped(tmp_path: Path, ignore: dict[str, int]) -> None:
    raw, out = tmp_path / "Dataset030_Site", tmp_path / "Dataset130_Mapped"
    target = {**DATASET, "labels": {**PLAIN["labels"], "ignore": 3}}
    numbers = np.array([[[0, 1], [2, 3]]], dtype=np.uint8)
    for part, name in {"imagesTr": "a_0000", "labelsTr": "a"}.items():
        (raw / part).mkdir(parents=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(numbers), raw / part / f"{name}.nii.gz")
    source = {"labels": {**PLAIN["labels"], **ignore}}
    values = mapped_values(source, target, {"ignore": "background"}, ())
    write_mapped_dataset(raw, target, source, values, out)
    assert read_json(out / "dataset.json")["labels"] == source["labels"]
    written = SimpleITK.ReadImage(str(out / "labelsTr" / "a.nii.gz"))
    assert SimpleITK.GetArrayFromImage(written).tolist() == [[[0, 1], [2, 0]]]


def test_numbers_may_be_text_as_nnunet_reads_them() -> None:
    texts = {"labels": {name: str(number) for name, number in PLAIN["labels"].items()}}
    require_same_labels(PLAIN, texts)
    assert mapped_values(PLAIN, texts, {}, ()) == {0: 0, 1: 1, 2: 2}


def test_a_mapped_data_set_keeps_its_images_and_the_mapping(tmp_path: Path) -> None:
    raw, out = tmp_path / "Dataset030_Site", tmp_path / "Dataset130_Mapped"
    names = {"background": 0, "lesion": 1, "ignore": 2}
    target = {**DATASET, "labels": names}
    numbers = np.array([[[0, 1], [2, 1]]], dtype=np.uint8)
    for part, name in {"imagesTr": "a_0000", "labelsTr": "a"}.items():
        (raw / part).mkdir(parents=True)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(numbers), raw / part / f"{name}.nii.gz")
    values = mapped_values(PLAIN, target, {"lesion": "tumor"}, ["organ"])
    write_mapped_dataset(raw, target, PLAIN, values, out)
    written = SimpleITK.ReadImage(str(out / "labelsTr" / "a.nii.gz"))
    assert SimpleITK.GetArrayFromImage(written).tolist() == [[[0, 2], [3, 2]]]
    document = read_json(out / "dataset.json")
    assert document["labels"] == {**PLAIN["labels"], "ignore": 3}
    assert document["dataset"]["a"]["images"] == [f"../{raw.name}/imagesTr/a_0000.nii.gz"]
    assert document[MAPPED_FROM] == {
        "dataset": "Dataset030_Site",
        "numbers": {"0": 0, "1": 2, "2": 3},
    }
