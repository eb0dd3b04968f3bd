"""The visit to a GPU machine, in a dry run on the CPU, and the page that is written from it."""

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from nnunet_iac.runs.atomic import read_json, write_json

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "evidence" / "gpu"
RUN = {
    "forward": ("search cell, plain 2-D", "attention, plain 3-D", "finetuning steps twice"),
    "speed": ("run, plain 2-D", "inference, residual 2-D"),
    "memory": ("finetuning, plain 2-D, activations kept",),
    "profile": ("finetuning step", "between epochs"),
    "variants": ("TF32 in float32 products", "compile_cells=true"),
}
"""Rows that these tests measure; each kind of row is among them."""

Load = Callable[[str], ModuleType]


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    """Return what imports a module of the visit, which find each other beside them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        yield importlib.import_module


@pytest.fixture(scope="module")
def measured(load: Load, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dry run's files."""
    visit, folder = load("visit"), tmp_path_factory.mktemp("visit")
    for name, kept in RUN.items():
        part = load(f"part_{name}")
        all_rows = part.rows
        with pytest.MonkeyPatch.context() as patch:
            chosen = {key: all_rows(visit.Visit("cpu", True), folder)[key] for key in kept}
            patch.setattr(part, "rows", lambda *_, chosen=chosen: chosen)
            file = folder / f"{name}.json"
            assert visit.measure(name, visit.Visit("cpu", True), file) == 0, file.read_text()
    return folder


def test_every_part_states_on_what_and_with_which_code_its_rows_were_measured(
    measured: Path,
) -> None:
    for name, kept in RUN.items():
        part = read_json(measured / f"{name}.json")
        assert {"date", "commit", "hardware", "versions", "device", "quick"} <= part.keys()
        assert {"torch", "cuda", "cudnn", "nnunetv2"} <= part["versions"].keys()
        assert part["complete"]
        assert part["rows"].keys() == set(kept)
        assert all(row["seconds"] >= 0 for row in part["rows"].values())


@pytest.mark.parametrize(
    ("part", "row", "keys"),
    [
        ("forward", "search cell, plain 2-D", {"single", "single holds", "tolerances"}),
        ("forward", "finetuning steps twice", {"equal to the bit", "not deterministic"}),
        ("speed", "run, plain 2-D", {"search_over_plain", "finetune_over_plain", "hours"}),
        ("speed", "inference, residual 2-D", {"inference_over_backbone"}),
        ("memory", "finetuning, plain 2-D, activations kept", {"estimated_mb", "peak_mb"}),
        ("profile", "finetuning step", {"launches", "waits", "copies", "longest_ms"}),
        ("profile", "between epochs", {"record_share", "checkpoint_share", "found_cell_s"}),
        ("variants", "TF32 in float32 products", {"seconds_of"}),
    ],
)
def test_a_row_has_what_the_page_shows(measured: Path, part: str, row: str, keys: set[str]) -> None:
    assert keys <= read_json(measured / f"{part}.json")["rows"][row].keys()


def test_a_device_agrees_with_itself_to_the_bit(measured: Path) -> None:
    rows = read_json(measured / "forward.json")["rows"]
    assert rows["search cell, plain 2-D"]["single"] == {"outputs": 0.0, "gradients": 0.0}
    assert rows["finetuning steps twice"]["equal to the bit"]


# --- the page ------------------------------------------------------------------------------------


def test_no_page_is_written_of_a_dry_run(
    load: Load, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    page, to = load("page"), tmp_path / "gpu.md"
    monkeypatch.setattr(sys, "argv", ["page.py", "--results", f"{measured}", "--to", f"{to}"])
    assert page.main() == 1
    assert not to.exists()
    printed = capsys.readouterr().out
    assert "speed: a dry run on tiny networks" in printed
    assert "training: not measured" in printed


def test_the_page_has_the_numbers_of_the_files_and_states_what_is_lacking(
    load: Load, measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, to = load("page"), tmp_path / "gpu.md"
    for name in RUN:
        part = read_json(measured / f"{name}.json")
        write_json(tmp_path / f"{name}.json", {**part, "device": "cuda", "quick": False})
    cut = read_json(tmp_path / "memory.json")
    cut["rows"]["search, plain 3-D, activations kept"] = {"error": "OutOfMemoryError: no", "at": ""}
    write_json(
        tmp_path / "memory.json", {**cut, "complete": False, "stopped": "it ended with status 1"}
    )
    monkeypatch.setattr(sys, "argv", ["page.py", "--results", f"{tmp_path}", "--to", f"{to}"])
    assert page.main() == 0
    text = to.read_text()
    ratio = read_json(measured / "speed.json")["rows"]["run, plain 2-D"]["search_over_plain"]
    assert f"| search step / plain step | ≤ 2.0 | {ratio:.3g} |" in text
    assert " | ≤ 1.3 | not measured |" in text
    assert "- training: not measured" in text
    assert "activations kept (OutOfMemoryError: no); it ended with status 1" in text


def test_the_page_names_parts_of_another_machine_and_leaves_out_those_without_rows(
    load: Load, measured: Path, tmp_path: Path
) -> None:
    page = load("page")
    write_json(tmp_path / "training.json", {"stopped": "there was no time left"})
    for name in RUN:
        part = read_json(measured / f"{name}.json")
        part |= {"device": "cuda", "quick": False, "commit": "a"}
        if name == "variants":
            part["hardware"]["gpu"] = "another"
        write_json(tmp_path / f"{name}.json", part)
    parts = page.measured(tmp_path)
    assert page.lacking(parts) == ["training: not measured", "variants: with another hardware"]
    assert f"Measured {read_json(measured / 'forward.json')['date']}" in page.page(tmp_path)


def test_the_page_of_the_repository_is_what_its_script_writes(load: Load) -> None:
    written = FOLDER.with_suffix(".md")
    files = sorted(FOLDER.glob("*.json"))
    assert written.is_file() == bool(files)
    if files:
        assert written.read_text() == load("page").page()


# --- what fails, and what continues --------------------------------------------------------------


@pytest.fixture
def part(load: Load, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A part with one row that counts its calls and one that fails as long as `broken`."""
    made = SimpleNamespace(calls=[], broken=True)

    def count() -> dict[str, Any]:
        made.calls.append(1)
        return {"value": 1}

    def fail() -> dict[str, Any]:
        if made.broken:
            raise ValueError("it is broken")
        return {"value": 2}

    made.rows = lambda visit, scratch: {"counted": count, "failing": fail}
    monkeypatch.setitem(sys.modules, "part_forward", made)
    return made


def test_a_row_that_fails_is_recorded_and_tried_again_and_the_others_are_kept(
    load: Load, part: Any, tmp_path: Path
) -> None:
    visit, file = load("visit"), tmp_path / "forward.json"
    dry = visit.Visit("cpu", True)
    assert visit.measure("forward", dry, file, "a") == 1
    rows = read_json(file)["rows"]
    assert rows["failing"]["error"] == "ValueError: it is broken"
    assert not read_json(file)["complete"]
    part.broken = False
    assert visit.measure("forward", dry, file, "a") == 0
    assert visit.measure("forward", dry, file, "a") == 0
    assert read_json(file)["rows"]["failing"]["value"] == 2
    assert len(part.calls) == 1
    assert visit.measure("forward", dry, file, "b") == 0
    assert read_json(file)["commit"] == "b"
    assert len(part.calls) == 2
    known = read_json(file)
    write_json(file, {**known, "hardware": {**known["hardware"], "gpu": "another"}})
    assert visit.measure("forward", dry, file, "b") == 0
    assert len(part.calls) == 3


def test_a_part_that_cannot_be_prepared_is_reported(load: Load, part: Any, tmp_path: Path) -> None:
    visit, file = load("visit"), tmp_path / "forward.json"
    part.rows = lambda visit, scratch: [][0]
    assert visit.measure("forward", visit.Visit("cpu", True), file) == 1
    assert read_json(file)["rows"]["preparation"]["error"] == "IndexError: list index out of range"


def test_a_part_that_takes_too_long_or_ends_badly_stops_no_other(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    visit, script = load("visit"), tmp_path / "script.py"
    script.write_text(
        "import sys, time\n"
        "sys.exit({'training': 3}.get(sys.argv[-1], 0)) if sys.argv[-1] != 'memory' else "
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(visit, "LIMITS", {"training": 9, "memory": 0.5, "profile": 9})
    monkeypatch.setattr(visit, "require_device", lambda device: None)
    words = [str(script), "--device", "cuda", "--to", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    assert visit.main() == 1
    assert read_json(tmp_path / "training.json") == {"stopped": "it ended with status 3"}
    assert read_json(tmp_path / "memory.json")["stopped"].startswith("it was stopped after")
    assert not (tmp_path / "profile.json").exists()
    monkeypatch.setattr(sys, "argv", [*words, "--minutes", "0"])
    assert visit.main() == 1
    assert read_json(tmp_path / "profile.json") == {"stopped": "there was no time left"}


def test_a_machine_without_a_gpu_is_refused_at_once(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(sys, "argv", ["visit.py", "--device", "cuda", "--to", f"{tmp_path}"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        load("visit").main()
    assert "the device cuda needs a GPU" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_script_names_options_that_it_does_not_know() -> None:
    command = ["bash", str(ROOT / "setup_scripts" / "gpu.sh"), "--fast"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "unknown option --fast" in done.stderr


# --- wheels --------------------------------------------------------------------------------------


def test_no_wheel_is_wanted_of_what_torch_or_the_machine_brings(load: Load) -> None:
    wheels = load("wheels")
    wanted = wheels.needed(["numpy", "matplotlib"])
    assert {"nnunetv2", "simpleitk", "batchgeneratorsv2", "hatchling"} <= wanted.keys()
    assert (
        not {"torch", "torchvision", "sympy", "numpy", "kiwisolver", "nnunet-iac"} & wanted.keys()
    )
    assert "kiwisolver" in wheels.needed([])


def test_a_packed_wheel_holds_the_same_files_and_is_smaller(load: Load, tmp_path: Path) -> None:
    wheels, wheel = load("wheels"), tmp_path / "some_name-1.0-py3-none-any.whl"
    files = {
        "some_name/a.py": "\n".join(f"x{n} = {n * n}" for n in range(9000)),
        "some_name-1.0.dist-info/RECORD": "some_name/a.py,,",
    }
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    before = wheel.stat().st_size
    assert not wheels.is_packed(wheel)
    wheels.pack(wheel)
    assert wheels.is_packed(wheel)
    assert wheel.stat().st_size <= before
    with zipfile.ZipFile(wheel) as archive:
        assert {name: archive.read(name).decode() for name in archive.namelist()} == files
    assert [path.name for path in tmp_path.iterdir()] == [wheel.name]
    assert wheels.is_wheel_of(wheel, "some-name", "1.0")
    assert not wheels.is_wheel_of(wheel, "some-name", "1.1")
