"""The numbers of an epoch that nnU-Net does not log, for its additional loggers."""

import numpy as np
import torch

from nnunet_iac.runs.records import TrajectoryRow
from nnunet_iac.search.importance import distribution
from nnunet_iac.search.pruning import PruningState
from nnunet_iac.search.settings import Settings


def search_scalars(
    row: TrajectoryRow, state: PruningState | None, settings: Settings
) -> dict[str, float]:
    """Return the numbers of a search's epoch by name.

    `operations_left` and `edges_settled` (edges with one operation left) are taken after the
    prune; `entropy` of p in nats, mean over the edges, and `divergence`, what the stability test
    measured, mean over the edges that were compared, are what the prune saw. What
    is undefined is left out: the divergence where nothing was compared, the entropy where p is no
    distribution on any edge (`raw-strict`).

    Args:
        row: of the epoch.
        state: after the prune; None in the warm-up.
        settings: of the run.
    """
    active = torch.from_numpy(row.active)
    p = distribution(torch.from_numpy(row.alpha), torch.from_numpy(row.beta), active, settings)
    entropy = -torch.xlogy(p, p).sum(dim=1).numpy()
    left = (active if state is None else state.active).sum(dim=1)
    numbers = {"operations_left": float(left.sum()), "edges_settled": float((left == 1).sum())}
    for name, values in (("entropy", entropy), ("divergence", row.divergence)):
        defined = values[np.isfinite(values)]
        if defined.size:
            numbers[name] = float(defined.mean())
    return numbers
