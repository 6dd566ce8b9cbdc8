"""What gradcheck differentiates: any function of trees, made a scalar function of a flat list of arrays.

Knows how a function of several outputs becomes one number, ⟨v, f⟩, how the gradients under test are asked for (the
engine's or your own), and the function ⟨u, ∇⟩ whose gradients are those of the next order. Refuses to judge.
Below it: gradients, recorders, tensor, trees.
"""

import contextlib
import inspect

import numpy as np

from .. import trees
from ..errors import ArgumentError, DtypeError, RuleError, message
from ..gradients import vjp
from ..tensor import Leaf, Tensor, switched
from .recorders import Watcher, watching


class Subject:
    """A function of a flat list of float arrays, made scalar: its value, its gradient, its next order."""

    def __init__(self, f, inputs, gradient, who):
        flat, roots = [trees.flatten(one) for one in inputs], _roots(f, inputs)
        given = [leaf for some, _ in flat for leaf in some]
        leaves = [_array(leaf) for leaf in given]
        names = [name for root, one in zip(roots, inputs) for name in trees.paths(one, root)]
        self.at = [i for i, leaf in enumerate(leaves) if leaf.dtype.kind == "f"]
        if not self.at:
            raise DtypeError(message(who, "no input is floating point", {n: x.dtype for n, x in zip(names, leaves)}, "Pass floats (2.0, not 2)."))
        self.names = [names[i] or f"inputs[{i}]" for i in self.at]
        self.point = [np.array(leaves[i]) for i in self.at]
        self.f, self.flat, self.own, self.who = f, flat, gradient, who
        self.leaves = [np.array(leaf) if isinstance(leaf, np.ndarray) else leaf for leaf in given]  # f gets no array of the caller's
        self.weights = None

    def inputs(self, floats):
        """The trees of the call, with `floats` for the floating point leaves."""
        leaves, out = list(self.leaves), []
        for i, x in zip(self.at, floats):
            leaves[i] = x
        for some, structure in self.flat:
            out.append(trees.unflatten(structure, leaves[:len(some)]))
            leaves = leaves[len(some):]
        return out

    def weigh(self, rng):
        """Choose v in ⟨v, f⟩: nothing for a single number, else random and of the outputs' own sizes."""
        with switched(grad=False), np.errstate(all="ignore"):
            ys = trees.flatten(self.f(*self.inputs([Tensor(np.array(x)) for x in self.point])))[0]
        ys = [np.asarray(y._array if isinstance(y, Tensor) else y) for y in ys]
        floats = [y for y in ys if y.dtype.kind == "f"]
        if not floats:
            raise ArgumentError(message(self.who, "f returns nothing that is floating point", {"returned": [y.dtype for y in ys]},
                                        "Return the value that is to be differentiated."))
        if self.own is not None and (len(floats) > 1 or floats[0].size != 1):
            raise ArgumentError(message(self.who, "your gradients are those of one number, f returns more", {"returned": [y.shape for y in floats]},
                                        "Return a scalar loss from f."))
        if len(floats) == 1 and floats[0].size == 1:
            self.weights = [None if y.dtype.kind == "f" else 0 for y in ys]
            return
        sizes = [np.max(np.abs(y[np.isfinite(y)]), initial=0.0) for y in ys]
        self.weights = [(rng.normal(size=y.shape).astype(np.float32) * 2.0 ** -np.round(np.log2(size)) if 0 < size < np.inf
                         else rng.normal(size=y.shape).astype(np.float32)) if y.dtype.kind == "f" else 0
                        for y, size in zip(ys, sizes)]

    @property
    def gain(self):
        """The largest weight of an output."""
        return max([1.0, *(float(np.max(np.abs(v))) for v in self.weights if isinstance(v, np.ndarray) and v.size)])

    def __call__(self, *floats):
        total = 0.0
        for y, v in zip(trees.flatten(self.f(*self.inputs(floats)))[0], self.weights):
            if v is None:
                total = y.reshape(()) + total if isinstance(y, (Tensor, np.ndarray)) else y + total
            elif not isinstance(v, int):
                total = (y * v.astype(y.dtype if y.dtype.kind == "f" else np.float64)).sum() + total
        return total

    def value(self, floats):
        """⟨v, f⟩ as a Python number, complex for complex inputs."""
        with switched(grad=False):
            y = self(*(Tensor(x) for x in floats))
        y = y._array if isinstance(y, Tensor) else np.asarray(y)
        return complex(y.reshape(())) if y.dtype.kind == "c" else float(y.reshape(()))

    def gradient(self, floats, shaker=None):
        """The gradients under test, or what they become when every operation rounds differently."""
        if self.own is not None:
            given = self.own(*self.inputs([np.array(x) for x in floats]))
            given = given if type(given) is tuple and len(given) == len(self.flat) else (given,)
            rows = [trees.flatten_like(one, structure) for one, (_, structure) in zip(given, self.flat)]
            if len(given) != len(self.flat) or None in rows:
                raise ArgumentError(message(self.who, "the gradients are not trees like the inputs",
                                            {"inputs": [s for _, s in self.flat], "gradients": [trees.flatten(g)[1] for g in given]},
                                            "Return one tree per input, of the input's structure."))
            every = [leaf for row in rows for leaf in row]
            grads = [_array(every[i]) for i in self.at]
            if any(g.dtype.kind not in "fiub" for g in grads):
                raise ArgumentError(message(self.who, "the gradients are not real numbers", {n: g.dtype for n, g in zip(self.names, grads)},
                                            "Return arrays of floats."))
            return grads
        y, pullback = vjp(self, *floats)
        one = np.ones(np.shape(y), getattr(y, "dtype", np.float64))
        return _recorded(pullback, one) if shaker is not None else [_array(g) for g in pullback(one)]

    def next(self, rng):
        """The function ⟨u, ∇⟩, whose gradients are those of the next order."""
        with np.errstate(all="ignore"):
            grads = self.gradient(self.point)
        sizes = [np.max(np.abs(g[np.isfinite(g)]), initial=0.0) for g in grads]
        return Next(self, [rng.normal(size=g.shape) * (2.0 ** -np.round(np.log2(s)) if 0 < s < np.inf else 1.0)
                            for g, s in zip(grads, sizes)])


def _recorded(pullback, one):
    """The gradients, their rules run as recorded ops: a tracked cotangent makes them so."""
    return [_array(g) for g in pullback(Tensor(one, Leaf(one.shape, one.dtype)))]


def _array(g):
    """A gradient as a plain array, also where something that the function closes over is tracked."""
    return g._array if isinstance(g, Tensor) else np.asarray(g)


class Next(Subject):
    """⟨u, ∇ of the order below⟩."""

    gain = property(lambda self: max([1.0, *(float(np.max(np.abs(u))) for u in self.directions if u.size)]))

    def __init__(self, below, directions):
        self.below, self.directions, self.own = below, directions, None
        self.names, self.point, self.who = below.names, below.point, below.who

    def __call__(self, *floats):
        y, pullback = vjp(self.below, *floats)
        total = 0.0
        for g, u in zip(pullback(np.ones(np.shape(y), getattr(y, "dtype", np.float64))), self.directions):
            total = (g * u.astype(g.dtype)).sum() + total
        return total


def _roots(f, inputs):
    """What to call the arguments: nothing for a dict or a module whose entries have names of their own."""
    try:
        named = [p.name for p in inspect.signature(f).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    except (TypeError, ValueError):
        named = []
    named = [*named[:len(inputs)], *(f"inputs[{i}]" for i in range(len(named), len(inputs)))]
    bare = [name for one in inputs if trees.flatten(one)[1].names for name in trees.paths(one)]
    return ["" if trees.flatten(one)[1].names and len(set(bare)) == len(bare) else name for name, one in zip(named, inputs)]


def watch(subject):
    """Run once with a recorder: what the complex step cannot see through, kinks, time axes; and is the function pure?"""
    held, problems, watcher = [], [], Watcher({})
    constants = [(leaf, leaf.copy()) for leaf in getattr(subject, "leaves", ()) if isinstance(leaf, np.ndarray)]

    def once(*floats):
        held[:] = [x._array for x in floats]
        watcher.inputs = dict(enumerate(held))
        return subject(*floats)

    with np.errstate(all="ignore"):
        try:
            with watching(watcher):
                y, pullback = vjp(once, *subject.point)
                opaque, kinks = list(watcher.opaque), list(watcher.kinks)  # of the function; what its rules are made of is no matter
                one = np.ones(np.shape(y), getattr(y, "dtype", np.float64))
                if subject.own is None:
                    pullback(one)
                    with contextlib.suppress(RuleError):  # rules that are not made of ops are a matter of the next order
                        _recorded(pullback, one)
            watcher.opaque, watcher.kinks = opaque, kinks
            runs = [(subject.value(subject.point), *(subject.gradient(subject.point) if subject.own is None else ())) for _ in range(2)]
        except RuleError as error:
            return [str(error).splitlines()[0]], watcher
    if any(not np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in [*zip(held, subject.point), *constants]):
        problems.append("the function writes to its inputs")
    if np.any(one != 1):
        problems.append("the backward writes to its cotangent")
    if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(*runs)):
        problems.append("the function is not deterministic: two calls with the same inputs differ")
    return problems, watcher
