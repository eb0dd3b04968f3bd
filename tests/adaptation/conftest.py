"""What all tests of adapting share."""

from multiprocessing.pool import ThreadPool

import pytest


@pytest.fixture(autouse=True)
def no_pool_for_a_list_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nnU-Net list the files of a data set in a thread instead of twelve processes."""
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", lambda processes: ThreadPool(1))
