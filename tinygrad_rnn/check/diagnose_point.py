"""One point of a diagnosis: parameters, data, the unrolled loss there, and the gradients that were given.

Knows how far rounding may take a right gradient, and the breakages at this point by key, so that they can be found again at another.
Refuses to search. Below it: bugs, diagnose_graph, diagnose_tensors.
"""

from collections import defaultdict

import numpy as np

from .bugs import catalogue
from .diagnose_graph import Unrolled
from .diagnose_tensors import close


class Point:
    """One set of parameters and data: the unrolled loss, and what was given there."""

    def __init__(self, loss, params, data, value, given, wanted):
        self.params, self.data, self.value, self.given = params, data, value, given
        self.graph = Unrolled(loss, params, data, wanted)
        self.right = self.graph.backward()
        self.tolerance = {name: self._tolerance(name) for name in given}
        self._catalogue = None

    def _tolerance(self, name):
        """What rounding may do: 1e-8 of the gradient (1e-4 in float32), 1e-13 of the largest one, and 1e-12 of what was given."""
        single = self.graph.values[name].dtype == np.float32 or self.given[name].dtype == np.float32
        largest = max((_size(g) for g in self.right.values()), default=0.0)
        own, given = _size(self.right[name]), _size(self.given[name])
        return 1e-4 * own + 1e-6 * largest + 1e-5 * given if single else 1e-8 * own + 1e-13 * largest + 1e-12 * given

    def matches(self, grads, name):
        return close(grads[name], self.given[name], self.tolerance[name])

    def catalogue(self):
        """All breakages here by key, common and rare."""
        if self._catalogue is None:
            counts, self._catalogue = defaultdict(int), {}
            for b in catalogue(self.graph, rare=True):
                key = b.kind, b.place, b.what, b.scope
                counts[key] += 1
                self._catalogue[*key, counts[key]] = b
        return self._catalogue


def _size(g):
    """The largest finite entry."""
    return float(np.abs(g).max(initial=0.0, where=np.isfinite(g)))
