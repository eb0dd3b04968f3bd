"""The error of a run on an Apple GPU (`-device mps`) where torch lacks an operation for it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

FALLBACK_VARIABLE = "PYTORCH_ENABLE_MPS_FALLBACK"


@contextmanager
def fallback_named() -> Iterator[None]:
    """Return a context whose error about an operation that MPS lacks names torch's fallback.

    Raises:
        RuntimeError: torch lacks an operation, and its own error names the MPS device.
    """
    try:
        yield
    except NotImplementedError as error:
        lacking = re.search(r"operator '(\S+)' .*MPS device", str(error))
        if lacking is None:
            raise
        raise RuntimeError(
            f"with -device mps torch must have every operation for MPS; it has no {lacking[1]}: "
            f"set {FALLBACK_VARIABLE}=1, so that such operations run on the CPU, which is slower, "
            "or use -device cpu"
        ) from error
