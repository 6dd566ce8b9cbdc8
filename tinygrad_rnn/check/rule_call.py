"""One call of a rule, looked at from all sides but its values: what came back, and what was touched on the way.

Knows that a gradient is an array of its input's shape and dtype, and that a rule leaves everything else as it was.
Refuses to know derivatives. Below it: inputs, report.
"""

import inspect
import random

import numpy as np

from .inputs import SPECIAL, VALUES
from .report import Finding, said

ENOUGH = 25


class Refused(Exception):
    """The rule gave nothing to compare; the finding is already noted."""


class Rule:
    """A forward and its rule under test; findings gather here."""

    def __init__(self, forward, vjp, inputs, strict, rng):
        self.forward, self.vjp, self.strict, self.rng = forward, vjp, strict, rng
        self.floats = [i for i, x in enumerate(inputs) if x.dtype.kind == "f"]
        self.names = _names(forward, vjp, len(inputs))
        self.name = getattr(forward, "__name__", "forward").replace("<lambda>", "forward")
        self.findings, self.notes, self.checked, self.usual = [], [], 0, {}

    @property
    def enough(self):
        """Whether more findings would tell nothing new."""
        return len(self.findings) >= ENOUGH

    @property
    def float_names(self):
        return [self.names[i] for i in self.floats]

    def find(self, what, case, **facts):
        self.findings.append(Finding(what, case.label, {"inputs": " ".join(str(x.shape) for x in case.arrays)} | facts))

    def cotangent(self, y):
        """A random cotangent for an output."""
        return np.asarray(self.rng.normal(size=y.shape), y.dtype)

    def call(self, case, g, arrays=None):
        """The gradients of the floating point inputs, after looking at everything but their values."""
        arrays = [np.array(x) for x in case.arrays] if arrays is None else arrays
        before, g_before, world = [x.copy() for x in arrays], g.copy(), _world()
        try:
            results = self.vjp(g, *arrays)
        except Exception as error:  # a rule may fail in any way it likes
            self.raised(error, case)
            raise Refused from error
        self.checked += 1
        for name, x, old in zip(self.names, arrays, before):
            if not np.array_equal(x, old, equal_nan=x.dtype.kind == "f"):
                self.find(f"the rule writes to its input {name}", case)
        if not np.array_equal(g, g_before, equal_nan=True):
            self.find("the rule writes to its cotangent", case)
        changed = [name for name, state in _world().items() if state != world[name]]
        if changed:
            self.find("the rule changes global state", case, state=", ".join(changed))
        return self.fitting(results, arrays, case)

    def raised(self, error, case):
        """A crash counts where a right rule has no excuse for it; else it is noted."""
        special = case.label in VALUES or case.label in SPECIAL or case.label.startswith("size 0")
        if case.gentle or self.strict and special and not isinstance(error, np.linalg.LinAlgError):
            self.find(f"the rule raises {type(error).__name__}", case, error=said(error))
        else:
            self.notes.append(f"the rule raises {type(error).__name__} on {case.label.split(' (')[0]}")

    def fitting(self, results, arrays, case):
        """The gradients as arrays, if there is one for each input, of its shape and dtype."""
        if not isinstance(results, (tuple, list)):
            results = (results,)
        if len(results) == len(self.floats) < len(arrays):
            results = [results[self.floats.index(i)] if i in self.floats else None for i in range(len(arrays))]
        if len(results) != len(arrays):
            self.find("the rule returns another number of gradients than inputs", case, gradients=len(results), wanted=len(arrays))
            raise Refused
        grads, refused = [], False
        for i in self.floats:
            x, grad = arrays[i], np.zeros_like(arrays[i]) if results[i] is None else self.plain(results[i], i, case)
            if grad.shape != x.shape:
                self.find(f"the gradient of {self.names[i]} has the wrong shape", case, gradient=grad.shape, input=x.shape)
                refused = True
            elif grad.dtype != x.dtype:
                self.find(f"the gradient of {self.names[i]} has the wrong dtype", case, gradient=grad.dtype, input=x.dtype)
                refused = refused or grad.dtype.kind not in "fiub"
            grads.append(grad)
        if refused:
            raise Refused
        return grads

    def plain(self, result, i, case):
        """A gradient as an array; a list, a matrix or a masked array is none, whatever it holds."""
        if type(result) is not np.ndarray and not isinstance(result, (np.generic, int, float)):
            self.find(f"the gradient of {self.names[i]} is no array", case, type=type(result).__name__)
            try:
                return np.array(result, float)
            except (TypeError, ValueError):
                raise Refused from None
        return np.asarray(result)


def _world():
    """The state that a rule must leave as it was, by name."""
    generator = np.random.get_state()[1:3]
    return {"NumPy's error handling": np.geterr(), "NumPy's printing": np.get_printoptions(),
            "NumPy's random generator": (generator[0].tobytes(), generator[1]), "Python's random generator": random.getstate()}


def _names(forward, vjp, count):
    """What the forward, or else the rule, calls its arrays."""
    for function, skipped in ((forward, 0), (vjp, 1)):
        try:
            named = [p for p in inspect.signature(function).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        except (TypeError, ValueError):
            continue
        if len(named) >= count + skipped and named[skipped].name != "args":
            return [p.name for p in named[skipped:skipped + count]]
    return [f"input {i}" for i in range(count)]
