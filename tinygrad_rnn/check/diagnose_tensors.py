"""What can become of one gradient after it was derived: scaled, clipped, transposed, exchanged, summed over the wrong steps.

Knows the mistakes that are made with a finished gradient, or with its parts from each step, and fits their free number (a
factor, a bound) to what was given. Refuses to know the graph's inside: `breakage` breaks the derivation itself. Below it:
breakage, diagnose_graph.
"""

import itertools
from dataclasses import dataclass
from fractions import Fraction
from functools import partial

import numpy as np

from .breakage import ACCUMULATED, BIAS, CLIPPED, CUT, FIRST, INITIAL, LAST, SCALED, SHORT, SIGN, options
from .bugs_rules import blockwise
from .diagnose_report import SHAPE

AVERAGED = "gradient averaged"
NOT_AVERAGED = "gradient not averaged"
ZERO = "gradient is zero"
WEIGHTS = "weights returned in place of their gradient"
DECAY = "weight decay left in"
TRANSPOSED = "gradient transposed"
EXCHANGED = "two gradients exchanged"
BLOCKS = "gates swapped"
ANOTHER = "the gradient of another value"
TIME = "time axis"

BOUNDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 10.0, 50.0, 100.0)


@dataclass(frozen=True)
class Alteration:
    """A mistake with a finished gradient: `make(view, name)` is what it gives, for a `View` of any point."""

    kind: str
    what: str
    rank: float
    make: object
    step: object = None
    told: object = None  # where what was given has not the shape of a gradient: a function of both that says whether it fits

    @property
    def key(self):
        return self.kind, self.what


class View:
    """The gradients of one point under the breakages found so far, whole and by step."""

    def __init__(self, graph, breakages, grads):
        self.graph, self.breakages, self.grads = graph, breakages, grads
        self._parts = self._values = None

    @property
    def parts(self):
        if self._parts is None:
            given = options(self.breakages)
            self._parts = self.graph.by_step(given.pop("hooks"), **given)
        return self._parts

    @property
    def cotangents(self):
        if self._values is None:
            self.graph.backward(**options(self.breakages))
            self._values = self.graph.cotangents
        return self._values

    def weighted(self, name, weights):
        """The parts of each step with weights, and the part that comes from no step."""
        return sum(w * part[name] for w, part in zip(weights, self.parts)) + self.parts[-1][name]


def close(a, b, tolerance):
    """Whether two arrays of one shape agree within an absolute tolerance, NaN with nothing."""
    a, b = np.asarray(a), np.asarray(b)
    return a.shape == b.shape and bool(np.all(np.abs(a - b) <= tolerance))


def alterations(view, name, given, sizes, common=False):
    """What may have been done to one finished gradient, with free numbers fitted to `given`; everything, or what is `common`."""
    grad, weight = view.grads[name], view.graph.values[name]
    if given.shape != grad.shape:
        yield from _of_another_shape(view, name, given)
        return
    if not np.any(given):
        initial = name in _initial(view.graph)
        yield Alteration(INITIAL if initial else ZERO, "the gradient of the initial state is zero: it is lost" if initial else
                         "the gradient is zero everywhere: it is never computed, or lost", 0, lambda v, n: np.zeros_like(v.grads[n]))
        return
    yield from _scaled(view, grad, given, sizes)
    yield from _weights(grad, weight, given, sizes)
    yield from _moved(view, name, grad, given)
    yield from _clipped(view, name, grad, given)
    if not common:
        if view.graph.T > 1:
            yield from _over_time(view, name)
        yield from _of_another_value(view, name, given)


def _initial(graph):
    """The tensors that enter as an initial state and nowhere else."""
    inner = {graph.parents[i][slot] for i, slot in graph.carries if graph.parents[i][slot] in graph.before}
    other = {j for i, parents in enumerate(graph.parents) for slot, j in enumerate(parents)
             if j in graph.before and i not in graph.before and (i, slot) not in graph.carries}
    return {name for name, i in graph.names.items() if inner & graph.downstream(name) and not other & graph.downstream(name)}


def _ratio(a, b):
    """c with a ≈ c b, by least squares."""
    return float(np.sum(a * b) / max(np.sum(b * b), 1e-300))


def _scaled(view, grad, given, sizes):
    c = _ratio(given, grad)
    if not np.isfinite(c) or abs(c) < 1e-12 or abs(c - 1) < 1e-7:
        return
    for kind, what, rank in factor(c, sizes):
        yield Alteration(kind, what, rank, lambda v, n, c=c: c * v.grads[n])


def factor(c, sizes):
    """What a factor may be called: the sizes of the problem, ½, 2, a sign."""
    if abs(c + 1) < 1e-7:
        return [(SIGN, "the sign is reversed: the gradient of −L", 0)]
    if abs(abs(c) - 2) < 1e-7 or abs(abs(c) - 0.5) < 1e-7:
        sign = "−" if c < 0 else ""
        two = [(SCALED, f"a factor of {sign}{'2' if abs(c) > 1 else '½'} too much: the ½ of the loss, or the 2 of its derivative", 0)]
    else:
        two = []
    found = [(AVERAGED, f"divided by {_named(names, n)}: a mean where the loss has a sum", 0) for n, names in sizes.items() if n > 1 and abs(c * n - 1) < 1e-7]
    found += [(NOT_AVERAGED, f"{n} times too large: a sum where the loss has a mean over {_named(names, n)}", 0)
              for n, names in sizes.items() if n > 1 and abs(c / n - 1) < 1e-7]
    if two or found:
        return two + found
    nearest = Fraction(c).limit_denominator(1000)
    if nearest and abs(c / float(nearest) - 1) < 1e-7:
        return [(SCALED, f"a factor of {nearest} too much", 1)]
    return [(SCALED, f"a factor of {c:.6g} too much", 3)]


def _named(names, n):
    return f"{' or '.join(sorted(names))} = {n}"


def _weights(grad, weight, given, sizes):
    if weight.size < 2 and weight.ndim == 0:
        yield Alteration(WEIGHTS, "the parameter itself is returned", 2, lambda v, n: v.graph.values[n])
        return
    c = _ratio(given, weight)
    times = [f"{_named(names, n)} times " for n, names in sizes.items() if n > 1 and abs(c / n - 1) < 1e-9]
    words = "" if abs(c - 1) < 1e-9 else times[0] if times else f"{c:.6g} times "
    yield Alteration(WEIGHTS, f"{words}the weights themselves are returned in place of their gradient", 0, lambda v, n, c=c: c * v.graph.values[n])
    if weight.size >= 4:
        (a, b), *_ = np.linalg.lstsq(np.stack([weight.ravel(), grad.ravel()], 1), given.ravel(), rcond=None)
        if abs(a - 1) < 1e-7 and abs(b) > 1e-12:
            yield Alteration(WEIGHTS, f"the updated weights w − {-b:.6g} · gradient are returned in place of the gradient", 1,
                             lambda v, n, b=b: v.graph.values[n] + b * v.grads[n])
        elif abs(b - 1) < 1e-7 and abs(a) > 1e-9:
            yield Alteration(DECAY, f"{a:.6g} times the weights is added to the gradient", 1, lambda v, n, a=a: v.grads[n] + a * v.graph.values[n])


def _moved(view, name, grad, given):
    if grad.ndim == 2 and grad.shape[0] == grad.shape[1]:
        yield Alteration(TRANSPOSED, "the gradient is transposed", 1, lambda v, n: v.grads[n].T)
    elif grad.ndim == 2 and min(grad.shape) > 1 and max(grad.shape) % min(grad.shape) == 0:
        yield Alteration(TRANSPOSED, "every square block of the gradient (every gate) is transposed", 1, lambda v, n: blockwise(v.grads[n]))
    for other, g in view.grads.items():
        if other != name and g.shape == grad.shape:
            yield Alteration(EXCHANGED, f"it is the gradient of {other}", 1, lambda v, n, other=other: v.grads[other])
    for axis in {grad.ndim - 1, 0} if grad.ndim else ():
        for n in (2, 3, 4):
            if grad.shape[axis] % n == 0 and grad.shape[axis] > 1:
                for order in itertools.permutations(range(n)):
                    if list(order) != list(range(n)):
                        yield Alteration(BLOCKS, f"its {n} blocks along axis {axis} (gates) stand in the order {order}", 2 if n == grad.shape[axis] else 1.5,
                                         lambda v, m, n=n, axis=axis, order=order: np.concatenate([np.split(v.grads[m], n, axis)[i] for i in order], axis))
    for axis, n in enumerate(grad.shape):
        if n == view.graph.T > 1:
            yield Alteration(TIME, f"it runs backwards in time (axis {axis})", 1, lambda v, m, axis=axis: np.flip(v.grads[m], axis))
            for shift, words in ((1, "one step late"), (-1, "one step early")):
                yield Alteration(TIME, f"it stands {words} (axis {axis})", 1, lambda v, m, axis=axis, shift=shift: _shifted(v.grads[m], axis, shift))
                yield Alteration(TIME, f"it stands {words}, wrapped around (axis {axis})", 1,
                                 lambda v, m, axis=axis, shift=shift: np.roll(v.grads[m], shift, axis))


def _shifted(x, axis, shift):
    y = np.roll(x, shift, axis)
    index = [slice(None)] * x.ndim
    index[axis] = 0 if shift > 0 else -1
    y[tuple(index)] = 0
    return y


def _clipped(view, name, grad, given):
    for bound in {float(np.abs(given).max()), *BOUNDS}:
        hit = np.isclose(np.abs(given), bound, rtol=1e-12)
        if hit.any() and np.any(np.abs(grad) > bound) and (hit.sum() > 1 or bound in BOUNDS or grad.size == 1):
            yield Alteration(CLIPPED, f"every entry is clipped to ±{bound:g}", 0 if bound in BOUNDS else 2, lambda v, n, c=bound: np.clip(v.grads[n], -c, c))
    norm = float(np.linalg.norm(given))
    for bound in BOUNDS:
        if abs(norm / bound - 1) < 1e-9 < np.linalg.norm(grad) / bound - 1:
            yield Alteration(CLIPPED, f"the gradient is clipped to norm {bound:g}", 0,
                             lambda v, n, c=bound: v.grads[n] * min(1, c / np.linalg.norm(v.grads[n])))
    if view.graph.T > 1:
        for bound in BOUNDS:
            if np.abs(given).max() <= bound * (1 + 1e-12):
                yield Alteration(CLIPPED, f"the sum over time is clipped to ±{bound:g} after every step", 3, lambda v, n, c=bound: _running(v, n, c))


def clipped_together(view, given, any_bound):
    """All gradients scaled by one factor, such that their common norm is within a bound: one of the usual, or any."""
    norm = lambda grads: np.sqrt(sum(float(np.sum(grads[name] ** 2)) for name in given))
    if any(g.shape != view.grads[name].shape for name, g in given.items()):
        return
    bound, own = norm(given), norm(view.grads)
    usual = [b for b in BOUNDS if abs(bound / b - 1) < 1e-9]
    if 0 < bound < own * (1 - 1e-9) and (usual or any_bound):
        yield Alteration(CLIPPED, f"all gradients together are clipped to norm {usual[0] if usual else bound:g}", 0 if usual else 1,
                         lambda v, n: v.grads[n] * min(1.0, bound / norm(v.grads)))


def _running(view, name, bound):
    total = view.parts[-1][name]
    for part in reversed(view.parts[:-1]):
        total = np.clip(total + part[name], -bound, bound)
    return total


def _over_time(view, name):
    T = view.graph.T
    time = view.graph.clock

    def pattern(kind, what, weights, rank, step=None):
        return Alteration(kind, what, rank, lambda v, n: v.weighted(n, weights), step)

    steps = np.arange(T)
    yield pattern(LAST, "only what the last step contributes is returned: the steps are not summed", steps == T - 1, 2, time[max(T - 2, 0)])
    yield pattern(FIRST, "only what the first step contributes is returned: each step overwrites the one before it in the loop", steps == 0, 2, time[T - 1])
    if np.any(view.parts[-1][name]):
        yield Alteration(FIRST, "only what the first step contributes is returned, nothing of what follows the loop", 3, lambda v, n: v.parts[0][n],
                         time[T - 1])
    yield pattern(SHORT, "what the first step (t = 0) contributes is left out of the sum", steps > 0, 2, time[0])
    yield pattern(SHORT, "what the last step contributes is left out of the sum", steps < T - 1, 2, time[T - 1])
    yield pattern(ACCUMULATED, "a running sum is added up again at every step: accumulators are not reset", steps + 1, 2, time[T - 2])
    yield pattern(ACCUMULATED, "a running sum is added up again at every step (from the first on): accumulators are not reset", T - steps, 2, time[1])
    for k in range(2, T):
        yield pattern(CUT, f"only the last {k} steps contribute", steps >= T - k, 3, time[T - 1 - k])
    yield Alteration(AVERAGED, f"the steps are averaged, not summed (T = {T})", 2, lambda v, n: v.weighted(n, np.full(T, 1 / T)), time[T - 1])


def _of_another_value(view, name, given):
    """The cotangent of another value of the same shape: dh in place of dh_0, δ in place of dh."""
    graph, size = view.graph, 1e-8 * np.abs(given).max(initial=0.0)
    for i, g in enumerate(view.cotangents):
        if g is None or isinstance(g, list) or np.shape(g) != given.shape or i in graph.names.values() or graph.where[i][0] is None:
            continue
        if np.abs(g - given).max(initial=0.0) <= size:
            words = f"it is the gradient of {graph.label(i)} at t = {graph.time(i)}"
            kind, end = (INITIAL, ", one step short of the initial state") if name in _initial(graph) else (ANOTHER, "")
            yield Alteration(kind, words + end, 2,
                             lambda v, n, i=i: v.cotangents[i], graph.time(i))


def _of_another_shape(view, name, given):
    """A gradient that came in a shape which is not its parameter's."""
    grad = view.grads[name]
    if given.size == grad.size:
        if given.shape == grad.T.shape and grad.ndim == 2:
            yield Alteration(TRANSPOSED, f"the gradient is transposed: {given.shape} for {grad.shape}", 0, lambda v, n: v.grads[n].T)
        yield Alteration(SHAPE, f"the gradient has the shape {given.shape}, the parameter {grad.shape}", 1,
                         lambda v, n: v.grads[n].reshape(given.shape))
    for axes in (c for r in range(1, given.ndim + 1) for c in itertools.combinations(range(given.ndim), r)):
        if _same_but_ones(given.sum(axis=axes).shape, grad.shape) and np.allclose(given.sum(axis=axes).reshape(grad.shape), grad, rtol=1e-7, atol=1e-12):
            summed = f"the gradient is not summed over axis {', '.join(map(str, axes))}"
            yield Alteration(BIAS, f"{summed}: it has the shape {given.shape}, the parameter {grad.shape}", 0,
                             lambda v, n: v.grads[n], told=partial(_summed, axes))
            return


def _summed(axes, given, grad, tolerance):
    total = given.sum(axis=axes) if given.ndim > max(axes) else given
    return _same_but_ones(total.shape, grad.shape) and close(total.reshape(grad.shape), grad, tolerance)


def _same_but_ones(a, b):
    return [n for n in a if n != 1] == [n for n in b if n != 1]
