"""Whole studies through the command, on the embedded data: killed, failing, and on a SLURM."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from nnunet_iac.runs.checkpoint import FINAL, read_checkpoint, tensors_hash

pytestmark = pytest.mark.slow

SHORT = {
    "preset": "literal",
    "warmup_epochs": 1,
    "search_epochs": 7,
    "finetune_epochs": 2,
    "iterations_per_epoch": 2,
    "val_iterations_per_epoch": 1,
}
NAMES = ("whole", "broken")
MEASURED = ("minutes",)
"""Columns that differ from run to run."""
SLURM = ("slurmctld", "slurmd", "munged", "sbatch")
SLURM_CONF = Path("/etc/slurm/slurm.conf")
"""Where jobs look for it: their steps are started without the variable of that name."""
SYSTEM = os.pathsep.join(["/usr/sbin", "/sbin", "/usr/local/sbin"])
PROFILE = Path(__file__).parents[2] / "docs" / "guide" / "studies" / "slurm"


def study_file(folder: Path, name: str, methods: dict[str, Any], **dataset: Any) -> Path:
    path = folder / f"{name}.yaml"
    document = {
        "name": name,
        "device": "cpu",
        "datasets": [{"dataset": 4, **dataset}],
        "backbones": {"small": {"plans": "small", "trainer": "nnUNetTrainer_1epoch"}},
        "settings": SHORT,
        "methods": methods,
    }
    path.write_text(yaml.safe_dump(document))
    return path


def results(workspace: Any, name: str) -> Path:
    return workspace.path / "results" / "studies" / name


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "tables.csv").open() as file:
        return [
            {key: value for key, value in row.items() if key not in MEASURED}
            for row in csv.DictReader(file)
        ]


def start(
    workspace: Any, *words: object, output: Any = subprocess.DEVNULL, **environment: str
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(Path(sys.executable).with_name("nnunet-iac")), *map(str, words)],
        env={**os.environ, **workspace.environment, **workspace.forking_pools, **environment},
        start_new_session=True,
        stdout=output,
        stderr=output,
        text=True,
    )


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a SLURM with one node: this machine."""
    path = os.pathsep.join([os.environ["PATH"], SYSTEM])
    missing = [name for name in SLURM if shutil.which(name, path=path) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and a SLURM; missing: {', '.join(missing) or 'root'}")
    if SLURM_CONF.is_file():
        pytest.skip(f"this machine belongs to a SLURM: {SLURM_CONF} is there")
    tmp_path = tmp_path_factory.mktemp("slurm")
    host = subprocess.run(["hostname", "-s"], capture_output=True, text=True).stdout.strip()
    key, socket = tmp_path / "munge.key", tmp_path / "munge.socket"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    tmp_path.chmod(0o755)
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    configuration = tmp_path / "slurm.conf"
    SLURM_CONF.parent.mkdir(parents=True, exist_ok=True)
    SLURM_CONF.unlink(missing_ok=True)  # What a killed test left leads nowhere.
    SLURM_CONF.symlink_to(configuration)
    configuration.write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={socket}
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
StateSaveLocation={tmp_path}/state
SlurmdSpoolDir={tmp_path}/spool
SlurmctldPidFile={tmp_path}/slurmctld.pid
SlurmdPidFile={tmp_path}/slurmd.pid
SlurmctldLogFile={tmp_path}/slurmctld.log
SlurmdLogFile={tmp_path}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )
    environment = {"PATH": path}
    own = {**os.environ, **environment}
    files = [f"--{name}={tmp_path}/munge.{name.split('-')[0]}" for name in ("pid-file", "log-file")]
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket}"]
    daemons = [
        subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for command in (
            [*munged, *files, f"--seed-file={tmp_path}/munge.seed"],
            ["slurmctld", "-D"],
            ["slurmd", "-D", "-N", host],
        )
    ]
    try:
        deadline = time.monotonic() + 60
        state = ""
        while "idle" not in state:
            assert time.monotonic() < deadline, f"the node is {state!r}"
            time.sleep(0.5)
            seen = ["sinfo", "-h", "-o", "%t"]
            state = subprocess.run(seen, env=own, capture_output=True, text=True).stdout
        yield environment
    finally:
        subprocess.run(["scancel", "--user=root"], env=own, capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
        SLURM_CONF.unlink()


@dataclass(frozen=True)
class Background:
    """A command that was started, its folder of results, and the file of its output."""

    process: subprocess.Popen[str]
    folder: Path
    log: Path


@pytest.fixture(scope="module")
def on_slurm(
    workspace: Any, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Background | None]:
    """A study that has been started on a SLURM, or None where there is none."""
    try:
        slurm: dict[str, str] = request.getfixturevalue("slurm")
    except pytest.skip.Exception:
        yield None
        return
    place = tmp_path_factory.mktemp("study")
    path = study_file(place, "cluster", {"identity": None})
    words = (
        *("study", path, "-o", place / "study", "--snakemake", "--profile", PROFILE),
        *("--default-resources", "mem_mb=1000", "runtime=30", "slurm_account=none"),
        *("--latency-wait", 5, "--slurm-init-seconds-before-status-checks", 1),
        # sacct, the default, needs an accounting that this SLURM lacks.
        *("--slurm-status-command", "squeue", "--seconds-between-status-checks", 1),
    )
    with (place / "log.txt").open("w") as log:
        process = start(workspace, *words, output=log, **slurm)
    yield Background(process, place / "study", place / "log.txt")
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.usefixtures("on_slurm")  # It waits most of the time, so let it do so meanwhile.
def test_a_study_that_was_killed_resumes_and_ends_with_the_same_table(
    workspace: Any, tmp_path: Path
) -> None:
    methods: dict[str, Any] = {"iac-lth": None}
    whole = study_file(tmp_path, "whole", methods)
    planned = workspace.run("nnunet-iac", "study", whole, "--dry-run")
    assert planned.count("nnUNetTrainerIAC") == 1
    assert "trainings, one after the other" in planned
    assert not results(workspace, "whole").exists()
    workspace.study(whole)

    broken = study_file(tmp_path, "broken", methods)
    process = start(workspace, "study", broken, "--cores", 1)
    model = workspace.model("nnUNetTrainerIACLTH", "broken_2d_small_iac-lth_0")
    deadline = time.monotonic() + 300
    while not (model / "fold_0" / "iac" / "events.jsonl").is_file() or not any(
        model.glob("fold_0/checkpoint_latest.pth")
    ):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    own = results(workspace, "broken")
    workspace.run("nnunet-iac", "study", broken, "--cores", 1)
    assert " --c" in (own / "logs" / "train_4_2d_0_small_iac-lth_default_0.log").read_text()
    assert table(own) == table(results(workspace, "whole"))
    found = [
        [
            {key: run.get(key) for key in ("method", "dice", "genotype", "events", "epochs")}
            for run in json.loads((results(workspace, name) / "results.json").read_text())["runs"]
        ]
        for name in NAMES
    ]
    assert found[0] == found[1]
    models = [workspace.model("nnUNetTrainerIACLTH", f"{n}_2d_small_iac-lth_0") for n in NAMES]
    weights = [read_checkpoint(m / "fold_0" / FINAL)["network_weights"] for m in models]
    assert tensors_hash(weights[0]) == tensors_hash(weights[1])


def test_a_study_runs_on_a_slurm_through_its_profile(
    slurm: dict[str, str], on_slurm: Background
) -> None:
    assert on_slurm.process.wait(300) == 0, on_slurm.log.read_text()[-4000:]
    scored = [(row["method"], row["scores"]) for row in table(on_slurm.folder)]
    assert scored == [("identity", "validation cases")]
    assert "SLURM jobid" in on_slurm.log.read_text()
