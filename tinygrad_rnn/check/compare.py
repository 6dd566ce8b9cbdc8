"""compare: several ways to one gradient, side by side, and which of them are independent of each other.

Knows six ways: backpropagation through time by the engine (its compiled scan, and the plain loop), a derivation by hand, real-time
recurrent learning, central differences, the complex step. Refuses to name a bug: `diagnose` does. Below it: rtrl, differences,
diagnose_graph.

Two ways that share a mistake agree. Those that run the same rules can agree and be wrong; agreement counts between ways that
share nothing but the loss.
"""

from dataclasses import dataclass, field

import numpy as np

from .. import trees
from ..errors import ArgumentError, DtypeError, message
from ..gradients import value_and_grad
from ..tensor import Tensor, switched
from .diagnose_graph import Unrolled
from .diagnose_record import Watcher, array, is_float
from .differences import derivative
from .report import columns
from .rtrl import influences

ENGINE, LOOP, RTRL, HAND, DIFFERENCES, COMPLEX = "engine", "plain loop", "RTRL", "by hand", "differences", "complex step"
SHARED = {  # what a way stands on, beside the forward pass that all but a derivation by hand run
    ENGINE: {"rules", "scan compiled"},
    LOOP: {"rules", "walk in time"},
    RTRL: {"rules"},
    HAND: set(),
    DIFFERENCES: set(),
    COMPLEX: set(),
}
WHO = "compare(loss, params, data)"
SHIFTS = {"softmax", "log_softmax", "logsumexp"}  # analytic in fact: the maximum that they subtract cancels


@dataclass(frozen=True)
class Comparison:
    """Gradients by way and name, the largest relative distance of each pair of ways, and its tolerance.

    True when all pairs agree. `independent` are the pairs that share no machinery, `skipped` says why a way is missing, or
    a gradient from a way.
    """

    gradients: dict
    distances: dict
    tolerances: dict
    independent: tuple
    skipped: dict = field(default_factory=dict)

    @property
    def ok(self):
        """Whether every pair of ways agrees."""
        return all(self.distances[pair] <= self.tolerances[pair] for pair in self.distances)

    def __bool__(self):
        return self.ok

    def __str__(self):
        ways = list(self.gradients)
        rows = [["", *ways]]
        for a in ways:
            cells = []
            for b in ways:
                pair = (a, b) if (a, b) in self.distances else (b, a)
                cells.append("" if a == b else f"{self.distances[pair]:.0e}" + ("" if self.distances[pair] <= self.tolerances[pair] else " ✗"))
            rows.append([a, *cells])
        parted = [name for name in self.gradients[ENGINE] if len(self.sides(name)) > 1]
        verdict = "all agree" if self.ok else f"they part in {', '.join(parted)}"
        wrong = {}
        for name in parted:
            wrong.setdefault(" against ".join(", ".join(side) for side in self.sides(name)), []).append(name)
        wrong = [f"{', '.join(names)}: {sides}" for sides, names in wrong.items()]
        lines = [f"compare: {len(ways)} ways, {verdict}", *("  " + row for row in columns(rows)), *wrong]
        same = [way for way in ways if "rules" in SHARED[way]]
        others = ", ".join(way for way in ways if way not in same)
        lines.append(f"Independent of each other: {others}, and one of {', '.join(same)} (these run the same rules).")
        return "\n".join([*lines, *(f"  note: no {what}: {why}" for what, why in self.skipped.items())])

    def sides(self, name):
        """The ways that have this gradient, in groups that agree; the largest group first."""
        groups = []
        for way in (way for way in self.gradients if name in self.gradients[way]):
            home = next((group for group in groups if self._agree(group[0], way, name)), None)
            groups.append([way]) if home is None else home.append(way)
        return sorted(groups, key=len, reverse=True)

    def _agree(self, a, b, name):
        return _distance(self.gradients[a][name], self.gradients[b][name]) <= self.tolerances[a, b]

    def worst(self, a, b):
        """The gradient in which two ways differ most."""
        return max(self._common(a, b), key=lambda name: _distance(self.gradients[a][name], self.gradients[b][name]))

    def _common(self, a, b):
        return [name for name in self.gradients[a] if name in self.gradients[b]]


def compare(loss, params, data, by_hand=None):
    """Gradients of one loss in every way that there is, and how far they lie apart.

    Shapes: `loss(params, *data)` is a scalar made of ops; `by_hand(params, *data) -> (loss, grads)` or a dict of gradients.

    What is by hand may lack some gradients; the report says which. In single precision the differences are taken in
    double precision, if the loss can be computed in it.

    Raises: GradientError when the loss does not depend on the parameters; ArgumentError when it is not finite, when data is
    no tuple, and when nothing that is by hand has the name of a parameter.

    Example:
        >>> def loss(p, x):
        ...     return tg.sum(tg.scan(lambda h, x: (tg.tanh(h * p["w"] + x), None), np.zeros(2), x)[0])
        >>> report = tg.check.compare(loss, {"w": np.array(0.5)}, (np.ones((4, 2)),))
        >>> report.ok, list(report.gradients)
        (True, ['engine', 'plain loop', 'RTRL', 'differences', 'complex step'])
    """
    if not isinstance(data, (tuple, list)):
        raise ArgumentError(message(WHO, "data is no tuple", {"data": type(data).__name__}, "Pass a tuple: (xs,) for one array."))
    data, skipped = tuple(data), {}
    graph = Unrolled(loss, params, data)
    if not np.all(np.isfinite(array(graph.root))):
        raise ArgumentError(message(WHO, "the loss is not finite here", {"loss": float(array(graph.root))}, "Compare at a point where it is."))
    gradients = {ENGINE: _engine(loss, params, data)}
    with switched(recorder=Watcher()):
        gradients[LOOP] = _engine(loss, params, data)
    gradients[RTRL] = influences(graph)
    if by_hand is not None:
        gradients[HAND] = _by_hand(by_hand, params, data, graph)
        lacking = [name for name in graph.values if name not in gradients[HAND]]
        if lacking:
            skipped["gradient by hand of " + ", ".join(lacking)] = "it was not given"
    gradients[DIFFERENCES], errors = _differences(loss, params, data)
    try:
        gradients[COMPLEX] = _complex(graph)
    except _NotAnalytic as error:
        skipped[COMPLEX] = str(error)
    ways = list(gradients)
    distances, tolerances = {}, {}
    exact = 1e-4 if any(v.dtype == np.float32 for v in graph.values.values()) else 1e-8
    for n, a in enumerate(ways):
        for b in ways[n + 1:]:
            common = [name for name in gradients[a] if name in gradients[b]]
            distances[a, b] = max((_distance(gradients[a][name], gradients[b][name]) for name in common), default=0.0)
            slack = max((errors[name] / _size(gradients[a][name]) for name in common), default=0.0) if DIFFERENCES in (a, b) else 0.0
            tolerances[a, b] = max(exact, 8 * slack)
    independent = tuple((a, b) for a, b in distances if not SHARED[a] & SHARED[b])
    return Comparison(gradients, distances, tolerances, independent, skipped)


def _size(g):
    return float(np.linalg.norm(g)) or 1.0


def _distance(a, b):
    if np.shape(a) != np.shape(b):
        return np.inf
    return float(np.linalg.norm(np.subtract(a, b)) / max(_size(a), _size(b))) if np.isfinite(a).all() and np.isfinite(b).all() else np.inf


def _engine(loss, params, data):
    _, grads = value_and_grad(loss)(params, *data)
    names = [name or "params" for name in trees.paths(params)]
    leaves = trees.flatten(params)[0]
    found = iter(trees.flatten(grads)[0])
    return {name: np.asarray(array(next(found))) for name, leaf in zip(names, leaves) if is_float(leaf)}


def _by_hand(by_hand, params, data, graph):
    if callable(by_hand):
        copy = trees.map(lambda leaf: np.array(leaf) if isinstance(leaf, np.ndarray) else leaf, params)
        result = by_hand(copy, *(np.array(d) if isinstance(d, np.ndarray) else d for d in data))
        by_hand = result[1] if isinstance(result, tuple) and len(result) == 2 else result
    found = {name or "params": np.asarray(array(g)) for name, g in zip(trees.paths(by_hand), trees.flatten(by_hand)[0])}
    if not set(found) & set(graph.values):
        raise ArgumentError(message(WHO, "nothing that is by hand has the name of a parameter",
                                    {"by hand": ", ".join(found) or "nothing", "parameters": ", ".join(graph.values)},
                                    "Return (loss, grads) with one gradient per parameter, under its name."))
    return {name: found[name] for name in graph.values if name in found}


def _differences(loss, params, data):
    """Central differences, each entry with a bound on its own error; the bounds of a tensor are put together."""
    params, data, eps = _widened(loss, params, data)
    leaves, structure = trees.flatten(params)
    names, found, errors = [name or "params" for name in trees.paths(params)], {}, {}
    for n, (name, leaf) in enumerate(zip(names, leaves)):
        if not is_float(leaf):
            continue
        value, bound = np.zeros(np.shape(array(leaf))), 0.0
        for index in np.ndindex(value.shape):
            def along(t, n=n, index=index):
                moved = np.array(array(leaves[n]))
                moved[index] += t
                y = loss(trees.unflatten(structure, [*leaves[:n], moved, *leaves[n + 1:]]), *data)
                return float(y._array if isinstance(y, Tensor) else y)

            estimate = derivative(along, max(1.0, abs(float(array(leaf)[index]))), noise=8 * eps * abs(along(0.0)))
            value[index] = estimate.value
            bound += estimate.error**2
        found[name], errors[name] = value, float(np.sqrt(bound))
    return found, errors


def _widened(loss, params, data):
    """The loss's arguments in double precision, where it takes them, and the rounding error of what it then returns."""
    wide = lambda leaf: np.asarray(array(leaf), np.float64) if is_float(leaf) else leaf
    for arguments in ((trees.map(wide, params), trees.map(wide, data)), (params, data)):
        try:
            y = loss(arguments[0], *arguments[1])
        except DtypeError:  # a state in single precision that it makes itself, say
            continue
        break
    return *arguments, float(np.finfo(np.asarray(array(y)).dtype).eps)


class _NotAnalytic(Exception):
    """The complex step says nothing about this loss."""


def _complex(graph):
    """∂L/∂θ_k = Im L(θ + i h e_k) / h, by running the recorded calls again on complex numbers."""
    names = {c.op.name for c in graph.calls if c.node in graph.index and not c.op.analytic and c.op.name not in SHIFTS}
    if names:
        raise _NotAnalytic(f"not analytic: {', '.join(sorted(names))}")
    h, found = 2.0**-200, {}
    for name, value in graph.values.items():
        g = np.zeros(value.shape)
        for index in np.ndindex(value.shape):
            moved = value.astype(complex)
            moved[index] += 1j * h
            g[index] = np.imag(_rerun(graph, name, moved)) / h
        found[name] = g
    return found


def _rerun(graph, name, value):
    """The loss when one tensor has another value: only what depends on it is computed again."""
    new = {graph.inputs[name]._node: value}
    with np.errstate(all="ignore"):
        for call in graph.calls:
            if not any(isinstance(a, Tensor) and a._node in new for a in call.args):
                continue
            y = call.op.forward(*(new.get(a._node, a._array) if isinstance(a, Tensor) else a for a in call.args), **call.statics)
            for old, one in zip(*((call.y, y) if isinstance(call.y, tuple) else ((call.y,), (y,)))):
                if old._node is not None:
                    new[old._node] = np.asarray(one)
    return complex(np.reshape(new.get(graph.root._node, graph.root._array), ()))
