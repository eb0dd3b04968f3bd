import base64
from dataclasses import replace

import numpy as np
import pytest
from searched_folders import SETTINGS, write_searched_run

from nnunet_iac.analysis.report.explorer import drawing, page_content, search_frames
from nnunet_iac.analysis.report.run import read_run
from nnunet_iac.analysis.trajectories.emergence import operations_left
from nnunet_iac.runs.records import Trajectory
from nnunet_iac.search.genotype import NOT_KEPT
from nnunet_iac.search.space import EDGES, OPERATIONS


def _shares(frames):
    values = np.frombuffer(base64.b64decode(frames["shares"]), np.uint8)
    return values.reshape(frames["epochs"], len(EDGES), len(OPERATIONS))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(write_searched_run(tmp_path_factory.mktemp("results")))


def test_frames_count_operations_as_the_log_does(run):
    left = (_shares(search_frames(run)) > 0).sum(axis=2)
    assert (left == operations_left(run.trajectory, run.events)).all()
    assert (left[-1] == 1).all()


def test_shares_of_an_edge_fill_a_byte(run):
    """The shares before the prune; rounding adds at most half a step per operation."""
    total = _shares(search_frames(run))[: SETTINGS.schedule.warmup_epochs].sum(axis=2)
    assert (abs(total.astype(int) - 255) <= 4).all()


def test_final_operations_are_the_genotypes_on_kept_edges(run):
    frames = search_frames(run)
    kept = [code for code in frames["kept"] if code != NOT_KEPT]
    assert len(kept) == 8
    assert [
        f for f, k in zip(frames["final"], frames["kept"], strict=True) if k != NOT_KEPT
    ] == kept


def test_full_search_has_a_final_operation_on_every_edge(tmp_path):
    full = SETTINGS.replace(search_epochs=10)
    frames = search_frames(read_run(write_searched_run(tmp_path, method="IAC", settings=full)))
    assert len(frames["final"]) == len(EDGES)
    assert (_shares(frames) > 0).all()


def test_run_without_epochs_is_left_out(tmp_path, run):
    given = read_run(write_searched_run(tmp_path, method="IAC-Discrete"))
    empty = replace(given, trajectory=Trajectory.of_rows([]))
    names = [search["name"] for search in page_content([("one", run), ("none", empty)])["searches"]]
    assert names == ["one"]


def test_lanes_of_a_node_do_not_overlap():
    lanes = drawing().lanes
    for node in {edge.target for edge in EDGES}:
        xs = sorted(lane.x for lane in lanes if EDGES[lane.index].target == node)
        assert (np.diff(xs) >= drawing().chip[0] + 4).all()
