"""The two records in which every source reports: a mistake in a derivation, and an epoch of training.

Knows how far two gradients lie apart. Refuses to know models and the engine: an `Erratum` carries the two
functions that it compares. Nothing of the library stands below it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


def relative_error(found, expected):
    """How far `found` lies from `expected`, as a share of what was expected.

    ‖found − expected‖ / ‖expected‖, and the plain distance where `expected` is zero.

    Example:
        >>> tg.sources.record.relative_error(np.array([3.0, 5.0]), np.array([3.0, 4.0]))
        0.2
    """
    distance, size = np.linalg.norm(np.subtract(found, expected)), np.linalg.norm(expected)
    return float(distance / size if size else distance)


def norms(grads, names):
    """The Euclidean norm of each gradient that is named, as a dict.

    Example:
        >>> tg.sources.record.norms({"W": np.array([3.0, 4.0]), "x": 7.0}, ["W"])
        {'W': 5.0}
    """
    return {name: float(np.linalg.norm(grads[name])) for name in names}


@dataclass(frozen=True)
class Erratum:
    """A mistake of a source: what it says, which gradients it spoils, and by how much at a stated point.

    `wrong` gives the relative error of each spoilt gradient at `point()`, `right` names those that agree
    with the corrected derivation. `as_written` and `corrected` are called as `f(params, *data)` and return
    `(loss, grads)`. A mistake that never reaches a gradient (a figure in the prose, a line that cannot run)
    has no functions: it is words alone.
    """

    what: str
    wrong: Mapping[str, float] = field(default_factory=dict)
    right: Iterable[str] = ()
    at: str = ""
    point: Callable[[], tuple[dict, tuple]] | None = None
    as_written: Callable[..., tuple[Any, dict]] | None = None
    corrected: Callable[..., tuple[Any, dict]] | None = None

    def measure(self):
        """The relative error of every gradient at the stated point, as measured now: {} when there is none.

        Example:
            >>> {name: round(error, 3) for name, error in tg.sources.elman.ERRATA[0].measure().items()}
            {'Whx': 0.884, 'Whh': 1.294, 'Wyh': 0.845, 'bh': 1.121, 'by': 0.0}
        """
        if self.point is None or self.as_written is None or self.corrected is None:
            return {}
        params, data = self.point()
        found, expected = self.as_written(params, *data)[1], self.corrected(params, *data)[1]
        return {name: relative_error(found[name], expected[name]) for name in [*self.wrong, *self.right]}


@dataclass(frozen=True)
class Progress:
    """One epoch of training: what holds after `epoch` passes over the data, before the next update.

    `grad_norms` are the norms of the gradients of the whole training set at these `params`, before any
    clipping; `figures` is what else the source prints (validation, accuracy, predictions).
    """

    epoch: int
    loss: float
    grad_norms: dict[str, float]
    params: dict[str, Any]
    figures: dict[str, Any] = field(default_factory=dict)
