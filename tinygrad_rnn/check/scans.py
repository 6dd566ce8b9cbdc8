"""check_scan: does a scan, of this library or any other, have the value and the derivatives of the loop that it stands for?

Knows an engine by five functions, and how to hold it against a plain loop over complex numbers, where Cauchy's integral
gives every derivative to twelve digits with no rule of anybody's. Refuses to know how a scan works. Below it: recurrences,
differences, report, gradients, ops.
"""

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from .. import ops
from ..errors import ArgumentError, message
from ..gradients import grad, jvp
from ..tensor import Tensor
from .differences import taylor
from .recurrences import INPUTS, RECURRENCES, plain_scan
from .report import Finding, Report, number, said, small

RADIUS, LOOSE = 0.02, 1e-6  # the circle of Cauchy's integral must stay far from the poles of tanh


@dataclass(frozen=True)
class Engine:
    """What `check_scan` must know of an engine. For PyTorch, say:

        def grad(f):                                    # gradients of a scalar function, that can be nested
            def gradients(*xs):
                xs = [x if x.requires_grad else x.requires_grad_() for x in xs]
                return torch.autograd.grad(f(*xs), xs, create_graph=True, allow_unused=True, materialize_grads=True)
            return gradients

        Engine("torch", torch.tensor, lambda t: t.detach().numpy(), grad, torch)

    `array` and `numpy` convert from and to NumPy, `ops` has tanh, sin, sum and stack. `jvp(f, primals, tangents) -> (y, y_dot)`
    is looked at where it is given.
    """

    name: str
    array: Any
    numpy: Any
    grad: Any
    ops: Any
    jvp: Any = None


def _ours():
    def gradients(f):
        return lambda *xs: grad(f, argnums=tuple(range(len(xs))))(*xs)

    return Engine("tinygrad_rnn", np.array, lambda t: t._array if isinstance(t, Tensor) else np.asarray(t), gradients,
                  SimpleNamespace(tanh=ops.tanh, sin=ops.sin, sum=ops.sum, stack=ops.stack), jvp)


def check_scan(scan, engine=None, *, orders=3, steps=(4, 1), recurrences=tuple(RECURRENCES), seed=0):
    """Check `scan(cell, state, xs) -> (state, ys)`, `cell(state, x) -> (state, y)`, against the loop that it stands for.

    On each of RECURRENCES: the value, the gradient of the initial state, the sequence and both weights, the second and the
    third derivative along random directions (mixed ones, so that no symmetric part hides an error), jvp where the engine
    has one, and that no input is written to. What scan refuses with TypeError or NotImplementedError (reverse, say, or a
    loop in a loop) is noted, not counted as wrong, unless it refuses everything.

    `engine` is an `Engine`, this library's by default; a NumPy loop over Tensors is checked as it is. `steps` are the
    lengths of sequences that are tried, `recurrences` the names of those of RECURRENCES.

    Raises: ArgumentError for what is no function, another order than 0 (values alone) to 3, no steps, an unknown recurrence.

    Example:
        >>> def loop(cell, state, xs):
        ...     ys = []
        ...     for t in range(len(tg.trees.flatten(xs)[0][0])):
        ...         state, y = cell(state, tg.trees.map(lambda x: x[t], xs))
        ...         ys.append(y)
        ...     return state, tg.trees.map(lambda *rows: np.stack(rows), *ys)
        >>> tg.check.check_scan(loop, orders=1).ok
        True
    """
    name = getattr(scan, "__name__", "scan")
    who = f"check_scan({name})"
    unknown = [label for label in recurrences if label not in RECURRENCES]
    for wrong, facts, remedy in ((not callable(scan), {"scan": type(scan).__name__}, "Pass a function: scan(cell, state, xs)."),
                                 (orders not in (0, 1, 2, 3), {"orders": orders}, "Pass 1, 2 or 3."),
                                 (not steps or any(T < 1 for T in steps), {"steps": steps}, "Pass lengths of 1 or more."),
                                 (unknown or not recurrences, {"unknown": ", ".join(unknown), "known": ", ".join(RECURRENCES)}, "Pass some of those known.")):
        if wrong:
            raise ArgumentError(message(who, "this cannot be checked", facts, remedy))
    battery = _Battery(scan, engine or _ours(), orders, np.random.default_rng(seed))
    for T in steps:
        for label in recurrences:
            battery.check(f"{label}, T = {T}", RECURRENCES[label], T)
    if not battery.checked and not battery.findings:
        battery.findings.append(Finding("it refuses every recurrence", recurrences[0], {"with": battery.notes[0].partition(": ")[2]}))
    return Report(who, tuple(battery.findings), battery.checked, tuple(dict.fromkeys(battery.notes)),
                  "Look at the first of these: the later ones may follow from it.")


class _Battery:
    """The checks on one scan; findings gather here."""

    def __init__(self, scan, engine, orders, rng):
        self.scan, self.engine, self.orders, self.rng = scan, engine, orders, rng
        self.findings, self.notes, self.checked = [], [], 0

    def check(self, label, recurrence, T):
        """Value, derivatives and purity on one recurrence."""
        engine, draw = self.engine, self.rng.normal
        point = [draw(size=(2, 3)), draw(size=(T, 2, 2)), draw(size=(2, 3)), 0.7 * draw(size=(3, 3))]
        reference = lambda *arrays: recurrence(np, plain_scan, *arrays)
        under_test = lambda *arrays: recurrence(engine.ops, self.scan, *arrays)
        wanted = reference(*point)
        weights = [draw(size=np.shape(y)) for y in wanted]
        native = [engine.array(x) for x in point]
        try:
            given = [engine.numpy(y) for y in under_test(*native)]
        except (TypeError, NotImplementedError) as error:
            self.notes.append(f"{label.split(',')[0]} was refused: {said(error)}")
            return
        except Exception as error:  # somebody's scan may fail in any way it likes
            self.findings.append(Finding(f"it raises {type(error).__name__}", label, {"error": said(error)}))
            return
        self.checked += len(wanted)
        for k, (y, right) in enumerate(zip(given, wanted)):
            if y.shape != np.shape(right) or not np.allclose(y, right, rtol=1e-9, atol=1e-10):
                apart = small(np.max(np.abs(y - right))) if y.shape == np.shape(right) else f"{y.shape} for {np.shape(right)}"
                self.findings.append(Finding("the value is wrong", label, {"result": k, "apart": apart}))
                return
        fixed = [engine.array(w) for w in weights]

        def loss(*arrays):
            return _total(engine.ops, under_test(*arrays), fixed)

        def exact(*arrays):
            return sum((w * y).sum() for w, y in zip(weights, reference(*arrays)))

        self.derivatives(label, loss, exact, point)
        if engine.jvp is not None:
            self.forward(label, loss, exact, point)
        if not all(np.array_equal(engine.numpy(a), b) for a, b in zip(native, point)):
            self.findings.append(Finding("an input was written to", label, {}))

    def derivatives(self, label, loss, exact, point):
        """Orders 1 to 3: each input by itself, then all inputs in different directions at once."""
        alone = [[self.rng.normal(size=x.shape) if k == i else np.zeros(x.shape) for k, x in enumerate(point)] for i in range(len(point))]
        mixed = [[self.rng.normal(size=x.shape) for x in point] for _ in range(3)]
        for order in range(1, self.orders + 1):
            plans = [(INPUTS[i], [u] + mixed[1:order]) for i, u in enumerate(alone)]
            for name, directions in plans:
                wanted = _mixed_derivative(exact, point, directions)
                if np.isnan(wanted):
                    continue
                try:
                    given = self.nested(loss, point, directions)
                except Exception as error:  # an engine may not go to this order
                    what = f"the derivative of order {order} raises {type(error).__name__}"
                    self.findings.append(Finding(what, label, {"error": said(error)}))
                    return
                self.checked += 1
                if not abs(given - wanted) <= LOOSE * max(1.0, abs(wanted)):
                    self.findings.append(Finding(f"the derivative of order {order} is wrong", label, {
                        "with respect to": name, "yours": number(given), "right": number(wanted), "error": small(abs(given - wanted))}))
                    return

    def nested(self, loss, point, directions):
        """The engine's derivative of `loss` along all of `directions`, one grad in another."""
        engine, f = self.engine, loss
        for direction in directions:
            f = _slope(engine, f, [engine.array(u) for u in direction])
        return float(engine.numpy(f(*(engine.array(x) for x in point))))

    def forward(self, label, loss, exact, point):
        direction = [self.rng.normal(size=x.shape) for x in point]
        wanted = _mixed_derivative(exact, point, [direction])
        _, given = self.engine.jvp(loss, tuple(self.engine.array(x) for x in point), tuple(self.engine.array(u) for u in direction))
        self.checked += 1
        if abs(float(self.engine.numpy(given)) - wanted) > LOOSE * max(1.0, abs(wanted)):
            self.findings.append(Finding("jvp is wrong", label, {"yours": number(self.engine.numpy(given)), "right": number(wanted)}))


def _total(m, ys, weights):
    total = 0.0
    for y, w in zip(ys, weights):
        total = total + m.sum(y * w)
    return total


def _slope(engine, f, direction):
    """The function ⟨∇f, direction⟩."""
    return lambda *arrays: _total(engine.ops, engine.grad(f)(*arrays), direction)


def _mixed_derivative(f, point, directions):
    """D f along one, two or three directions; nan where circles of two sizes do not agree on it."""
    with np.errstate(all="ignore"):
        for radius in (RADIUS, RADIUS / 3, RADIUS / 9):
            a, b = (_polarized(f, point, directions, r) for r in (radius, radius / 2))
            if abs(a - b) <= 0.1 * LOOSE * max(1.0, abs(b)):
                return float(a)
    return np.nan


def _polarized(f, point, directions, radius):
    """A mixed derivative from derivatives along sums and differences of its directions."""
    n, total = len(directions), 0.0
    for signs in np.ndindex(*(2,) * (n - 1)):
        sign = [1.0, *(1.0 - 2.0 * s for s in signs)]
        along = [sum(s * d[k] for s, d in zip(sign, directions)) for k in range(len(point))]
        series = taylor(lambda z, along=along: f(*(x + z * u for x, u in zip(point, along))), radius / n)
        total += np.prod(sign) * series[n]
    return total / (2 ** (n - 1) * math.factorial(n))
