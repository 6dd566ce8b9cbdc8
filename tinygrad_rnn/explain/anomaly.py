"""anomaly: stop where the first NaN or infinity is born, and say which op, function, line and time step that is.

A network that explodes shows it many steps after the cause; a derivative at the edge of a domain shows it in a
parameter far away. Here every op's result is looked at as it is made, and in the backward what every rule returns.

Knows the difference between a value that is born bad and one that came in bad (a parameter after a step that was
too large) and that ops which only move elements never give birth. Refuses to repair anything. Below it: watch.
"""

import contextlib
import weakref

import numpy as np

from ..errors import NonFiniteError, message
from ..primitive import PICK
from ..scan import step
from ..tensor import Tensor
from .watch import Watcher, caller, function_of, held, line_of


@contextlib.contextmanager
def anomaly():
    """Raise at the first op, forward or backward, whose result is not finite.

    Watches this thread; inside it `scan` runs its plain loop, so that the time step is known. Backward rules are
    watched for everything that is computed in the block, also when `backward()` is called after it. Infinities that
    are spelled as numbers (`where(mask, x, -np.inf)`) are meant and pass; what they turn into a nan does not.

    Raises: NonFiniteError that names op, function, line, time step and the inputs that were not finite before.

    Example:
        >>> with tg.explain.anomaly():
        ...     tg.grad(lambda x: tg.sum(tg.where(x > 0, tg.log(x), 0.0)))(np.array([1.0, 0.0]))
        Traceback (most recent call last):
        ...
        tinygrad_rnn.errors.NonFiniteError: log(x): an infinity is born in the forward pass
          function  <lambda>
          line      <doctest tinygrad_rnn.explain.anomaly.anomaly[0]>:2
          x         (2,), finite, 0 to 1
          result    1 of 2 elements not finite, the first at [1] is -inf
        Keep the inputs where log is finite, also in a branch that where() does not take: log(where(x > 0, x, 1)).
    """
    with _Anomaly().watching("anomaly()"):
        yield


class _Anomaly(Watcher):
    def __init__(self):
        self.pulling = None  # the guard whose rules are running: what they call is their business
        self.meant = set()  # ids of the Tensors whose infinities somebody spelled
        self.origins = {}  # id of a view -> what the user calls the value that it shows

    def record(self, op, args, statics):
        with np.errstate(all="ignore"):
            y = self.run(op, args, statics)
        outs = y if type(y) is tuple else (y,)
        place = self.pulling.place if self.pulling else None
        if place is None:
            frame = caller()
            place = (step.get(), function_of(frame), line_of(frame))
            if not all(_finite(out) for out in outs):
                self._judge(op, args, outs, place, frame)
        for out in outs:
            if isinstance(out, Tensor) and out._node is not None:
                node = out._node.parents[0] if out._node.plan is PICK else out._node
                if type(node.plan) is not Guard:
                    node.plan = Guard(node.plan, self, place, _tracked_names(op, args))
        return y

    def _judge(self, op, args, outs, place, frame):
        """Whether what is not finite is news."""
        spelled = any(isinstance(a, (int, float)) and not np.isfinite(a) or id(a) in self.meant for a in args)
        if spelled and (_any_nan(args) or not _any_nan(outs)):
            for out in outs:
                if isinstance(out, Tensor):
                    self.meant.add(id(out))
                    weakref.finalize(out, self.meant.discard, id(out)).atexit = False
            return
        labels = _labels(op, args, frame, self.origins)
        if op.view:  # which gives birth to nothing
            for out in outs:
                if isinstance(out, (Tensor, np.ndarray)):
                    self.origins[id(out)] = labels[0]
                    weakref.finalize(out, self.origins.pop, id(out), None).atexit = False
            return
        bad = [a for a in args if not _finite(a)]
        if bad and all(not isinstance(a, Tensor) for a in args):
            return  # data that no Tensor has met: padding may be nan
        what = f"{_kind(outs)} is born in the forward pass"
        remedy = "Look at the sizes of the inputs: a smaller step, clipped gradients or another scale keep them finite."
        if op.name in _EDGES:
            remedy = (f"Keep the inputs where {op.name} is finite, also in a branch that where() does not take: "
                      "log(where(x > 0, x, 1)).")
        if bad and not spelled:
            label = next(label for label, a in zip(labels, args) if a is bad[0])
            what = f"{label} comes in with {_kind([bad[0]])}"
            remedy = f"Look at what made {label}: a step that was too large, or data that holds it already."
        _raise(op, place, what, [*zip(labels, map(_described, args)), ("result", _first_bad(outs))], remedy)


_EDGES = ("log", "log1p", "sqrt", "divide", "power", "norm", "std", "tan")


class Guard:
    """A node's plan that looks at what the rules return; in all else the plan it stands for."""

    def __init__(self, plan, watcher, place, names):
        self.plan, self.watcher, self.place, self.names = plan, watcher, place, names

    def __getattr__(self, name):
        return getattr(self.plan, name)

    def __repr__(self):
        return repr(self.plan)

    def pull(self, g, saved, into):
        """The cotangents of the inputs, if they are finite."""
        outer, self.watcher.pulling = self.watcher.pulling, self
        try:
            with np.errstate(all="ignore"):
                results = self.plan.pull(g, saved, None)  # each cotangent by itself, not added to others
        finally:
            self.watcher.pulling = outer
        for i, result in zip(self.plan.targets, results):
            if result is not None and not _finite(result):
                self._report(self.names[i], result, g)
        return results if into is None else self.plan.pull(g, saved, into)

    def _report(self, name, part, g):
        op, gs = self.plan.op, [one for one in (g if isinstance(g, tuple) else (g,)) if one is not None]
        if all(_finite(one) for one in gs):
            what = f"{_kind([part])} is born in the backward pass, in the cotangent of {name}"
            remedy = (f"Keep the inputs where the derivative of {op.name} is finite, also in a branch that where() does not "
                      "take: the guard belongs inside, as in sqrt(where(x > 0, x, 1)).")
        else:
            what = f"{_kind(gs)} comes in with the cotangent of the result"
            remedy = ("The cotangents that were added up here are too large, or the one that the backward started from is not "
                      "finite.")
        facts = [("g", _described(gs[0])), (f"cotangent of {name}", _first_bad([part]))]
        _raise(op, self.place, what, facts, remedy)


# ---- words --------------------------------------------------------------------------------------------------


def _raise(op, place, what, facts, remedy):
    t, function, line = place
    names = [*op.arrays, *([f"*{op.variadic}"] if op.variadic else [])]
    where = [("step", t)] * (t is not None) + [("function", function)] * bool(function) + [("line", line)]
    what += f", at step {t}" if t is not None else ""
    raise NonFiniteError(message(f"{op.name}({', '.join(names)})", what, [*where, *facts], remedy))


def _array(value):
    return value._array if isinstance(value, Tensor) else np.asarray(value)


def _finite(value):
    array = _array(value)
    return array.dtype.kind not in "fc" or bool(np.isfinite(array).all())


def _any_nan(values):
    return any(array.dtype.kind in "fc" and np.isnan(array).any() for array in map(_array, values))


def _kind(values):
    return "a nan" if _any_nan(values) else "an infinity"


def _described(value):
    array = _array(value)
    if array.dtype.kind not in "fc" or not array.size:
        return f"{array.shape}, {array.dtype}"
    good = array[np.isfinite(array)]
    span = f", {good.min():.4g} to {good.max():.4g}" if good.size and array.dtype.kind == "f" else ""
    state = "finite" if good.size == array.size else f"{array.size - good.size} of {array.size} elements not finite"
    return f"{array.shape}, {state}{span}"


def _first_bad(values):
    array = next(_array(v) for v in values if not _finite(v))
    bad = np.argwhere(~np.isfinite(array))
    at = f"the first at [{', '.join(map(str, bad[0]))}]" if array.ndim else "it"
    return f"{len(bad)} of {array.size} elements not finite, {at} is {array[tuple(bad[0])]}"


def _labels(op, args, frame, origins):
    """What the user calls the inputs: the variable that holds each, or the value that it is a view of, else the op's
    own name for it."""
    found = {}
    for name, value in sorted(held(frame), key=lambda pair: not pair[0].isidentifier()):
        found.setdefault(id(value), name)
    return [found.get(id(arg)) or origins.get(id(arg)) or name for arg, name in zip(args, _input_names(op, args))]


def _input_names(op, args):
    return [*op.arrays, *(f"{op.variadic}[{i}]" for i in range(len(args) - len(op.arrays)))]


def _tracked_names(op, args):
    return [name for arg, name in zip(args, _input_names(op, args)) if isinstance(arg, Tensor) and arg._node is not None]
