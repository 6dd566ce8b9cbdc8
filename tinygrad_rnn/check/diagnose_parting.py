"""Where two gradients part, when no mistake that is known explains them.

Knows two ways to tell the time step: a gradient that has a time axis shows it, and a derivation that can be called is asked
about ever longer sequences. Refuses to know bugs. Below it: diagnose_graph.
"""

import numpy as np

from .diagnose_graph import Unrolled
from .diagnose_report import Parting


def parting(case, names):
    """The first step, in backward order, and the tensor at which the given gradients leave the right ones."""
    point = case.main
    graph = point.graph
    for name in names:
        given, right = point.given[name], point.right[name]
        axes = [axis for axis, n in enumerate(right.shape) if n == graph.T > 1]
        if name in graph.wanted and len(axes) == 1 and given.shape == right.shape:
            off = np.abs(given - right) > point.tolerance[name]
            steps = np.nonzero(off.any(axis=tuple(a for a in range(right.ndim) if a != axes[0])))[0]
            if len(steps):
                return Parting(int(steps.max()), name)
    shorter = _by_length(case, names)
    return shorter or Parting(None, names[0])


def first_steps(data, T, n):
    """The first n of T steps of whatever has an axis of T."""
    return tuple(np.take(d, range(n), np.shape(d).index(T)) if T in np.shape(d) else d for d in data)


def _by_length(case, names):
    """Ask for the first 1, 2, … steps alone: wrong from n steps on means that the gradients part n − 1 steps before the last."""
    point = case.main
    T = point.graph.T
    if case.function is None or T < 2 or not any(T in np.shape(d) for d in point.data):
        return None
    for n in range(1, T + 1):
        data = first_steps(point.data, T, n)
        try:
            graph = Unrolled(case.loss, point.params, data, point.graph.wanted)
            _, given, _ = case.ask(point.params, data)
        except Exception:
            return None
        if graph.T != n:
            return None
        right = graph.backward()
        for name in names:
            tolerance = 1e-7 * np.abs(right[name]).max(initial=0) + 1e-12
            if name in given and (given[name].shape != right[name].shape or np.any(np.abs(given[name] - right[name]) > tolerance)):
                return Parting(point.graph.clock[T - n], name)
    return None
