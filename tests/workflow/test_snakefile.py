"""The rules of a study, with steps that only write their files."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from nnunet_iac.host.devices import default_device
from nnunet_iac.workflow import engine
from nnunet_iac.workflow.study_file import read_document

STEP = f"""#!{sys.executable}
import sys
from pathlib import Path
if "_poor_" in " ".join(sys.argv):
    sys.exit("the budget must leave room")
Path(sys.argv[sys.argv.index("--to") + 1]).write_text("{{}}")
if "report" in sys.argv:
    Path("results.json").touch()
    Path("tables.csv").touch()
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what writes and runs a study with these seeds, and returns its folder."""
    step = tmp_path / "a {step} of 'mine'; $(touch it)"
    step.write_text(STEP)
    step.chmod(0o755)
    monkeypatch.setenv("NNUNET_IAC_PYTHON", str(step))
    monkeypatch.setattr(engine, "require_ready", lambda study: None)
    monkeypatch.setattr(
        engine, "_remove_outdated", lambda own, study: (own / engine.STUDY_PAGE).unlink(True)
    )

    def run(*seeds: int, methods: Sequence[str] = ("random",)) -> Path:
        document = {
            "name": "s",
            "datasets": [{"dataset": "Dataset004_My data"}],
            "seeds": list(seeds),
            "methods": {name: {"as": "random"} for name in methods},
        }
        path = tmp_path / "s.yaml"
        path.write_text(yaml.safe_dump(document))
        return engine.run_study(path, tmp_path / "out", 1, None, []).parent

    return run


def test_a_study_that_grows_runs_what_is_new_and_nothing_that_it_has(write: Any) -> None:
    folder = write(0, 1)
    assert (folder / engine.STUDY_PAGE).is_file()
    # Jobs on other machines read the device that was chosen here.
    assert read_document(folder / engine.AS_RUN)["device"] == default_device()
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()}
    # The copy of the study is a study file of its folder.
    copied = (folder / engine.AS_RUN).read_text()
    assert engine.run_study(folder / engine.AS_RUN, None, 1, None, []).parent == folder
    assert (folder / engine.AS_RUN).read_text() == copied
    assert before == {p.name: p.stat().st_mtime_ns for p in (folder / "runs").iterdir()}
    write(0, 1, 2)
    assert (folder / engine.STUDY_PAGE).is_file()
    now = {path.name: path.stat().st_mtime_ns for path in (folder / "runs").iterdir()}
    assert len(now) == len(before) + 1
    cells = [name for name in before if "random" in name]
    assert [now[name] for name in cells] == [before[name] for name in cells]


def test_a_job_that_fails_keeps_no_other_from_running_and_is_named(
    write: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError, match="all jobs of the study must succeed"):
        write(0, methods=("poor", "random"))
    run = "Dataset004_My data_2d_0_planned_{}_default_0"
    own, log = tmp_path / "out", Path("logs") / f"train_{run.format('poor')}.log"
    shown = "".join(capfd.readouterr())
    assert str(log) in shown
    assert (own / log).read_text() == "the budget must leave room\n"
    assert (own / "runs" / f"{run.format('random')}.json").is_file()
    assert not (own / engine.STUDY_PAGE).exists()
    write(0)
    assert (own / engine.STUDY_PAGE).is_file()


def test_an_interrupted_study_states_how_many_runs_are_done(
    write: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        runs = tmp_path / "out" / "runs"
        runs.mkdir()
        (runs / "Dataset004_My data_2d_0_planned_random_default_0.json").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(engine.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"1 of 2 runs are done; run the same command"):
        write(0)


def test_a_study_that_other_machines_may_run_must_name_its_device(tmp_path: Path) -> None:
    path, document = tmp_path / "s.yaml", {"name": "s", "datasets": [{"dataset": 4}], "methods": {}}
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ValueError, match=r"must name its device, .* names none: add device: cuda"):
        engine.run_study(path, tmp_path / "out", None, None, ["--profile", "slurm"])
    assert not (tmp_path / "out").exists()
