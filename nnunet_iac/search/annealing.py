"""Learning-rate schedules as pure functions of the epoch."""

import math


def cosine_power(
    epoch: int, epochs: int, maximum: float, minimum: float = 0.0, power: float = 2.0
) -> float:
    """Return the learning rate of cosine power annealing at `epoch` of `epochs`.

    With c = (1 + cos(pi t/T))/2 the rate is min + (max - min) (p^(c+1) - p)/(p^2 - p), which
    falls from `maximum` at t = 0 to `minimum` at t = T (Hundt et al. 2019, sharpDARTS).
    `power` = 1 is its limit, plain cosine annealing.
    """
    cosine = (1 + math.cos(math.pi * epoch / epochs)) / 2
    share = cosine if power == 1 else (power ** (cosine + 1) - power) / (power**2 - power)
    return minimum + (maximum - minimum) * share


def polynomial(epoch: int, epochs: int, initial: float) -> float:
    """Return nnU-Net's learning rate initial (1 - t/T)^0.9 at `epoch` of `epochs`."""
    return initial * (1 - epoch / epochs) ** 0.9
