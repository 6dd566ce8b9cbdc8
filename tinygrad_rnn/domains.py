"""Where an op may be sampled: plain data that a test, a checker or a person turns into numbers.

Knows intervals and the points that lie too near a kink or a pole. Refuses to know ops, strategies and
random generators' seeds. Nothing stands below it.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Domain:
    """Real numbers from `low` to `high` that keep `margin` away from each of `points`."""

    low: float = -3.0
    high: float = 3.0
    points: tuple = ()
    margin: float = 0.1

    def sample(self, rng, shape=(), dtype=np.float64):
        """Draw an array from the domain with a `numpy.random.Generator`.

        Example:
            >>> bool((tg.domains.POSITIVE.sample(np.random.default_rng(0), (4,)) > 0).all())
            True
        """
        x = rng.uniform(self.low, self.high, shape)
        for point in self.points:
            near = np.abs(x - point) < self.margin
            x = np.where(near, point + np.where(x < point, -1, 1) * self.margin * (1 + np.abs(x - point)), x)
        return x.astype(dtype)

    def __contains__(self, value):
        return bool(self.low <= value <= self.high and all(abs(value - p) >= self.margin for p in self.points))


def Interval(low, high):
    """The numbers between `low` and `high`.

    Example:
        >>> 0.5 in tg.domains.Interval(0, 1)
        True
    """
    return Domain(float(low), float(high))


def away_from(*points, margin=0.1, low=-3.0, high=3.0):
    """The reals without a neighbourhood of each of `points`.

    Example:
        >>> 0.05 in tg.domains.away_from(0.0)
        False
    """
    return Domain(float(low), float(high), tuple(float(p) for p in points), margin)


REALS = Domain()
POSITIVE = Domain(0.1, 4.0)
NONZERO = away_from(0.0)
