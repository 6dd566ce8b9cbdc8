"""Recorders that look on while ops run: which ones, where their kinks are, and what rounding does to a result.

Knows two recorders for `tensor.mode`: a Watcher that notes what a check must know of a function, and a Shaker
that redoes it with every result rounded a little differently. Refuses to know derivatives.
Below it: scan (for the time index), tensor.
"""

import numpy as np

from ..scan import step
from ..tensor import Tensor, mode, switched


class Watcher:
    """Notes the ops that depend on tracked inputs: those the complex step does not see through, and kinks that were hit.

    `timed` are the positions of the inputs that a scan cut along their leading axis. `extreme` are ops that came out
    so large that a product of two such numbers overflows: derivatives beyond it are anybody's guess. `size` is the
    largest number that was seen.
    """

    tracing = False

    def __init__(self, inputs):
        self.inputs, self.opaque, self.kinks, self.extreme, self.timed, self.size = inputs, [], [], [], set(), 0.0

    def record(self, op, args, statics):
        depends = [type(arg) is Tensor and arg._node is not None for arg in args]
        y = op.apply(args, statics, mode.get().grad)
        if any(depends):
            self.size = max([self.size, *(_size(value) for value in (*args, *(y if type(y) is tuple else (y,))))])
            if not op.analytic and op.name not in self.opaque:
                self.opaque.append(op.name)
            if op.kinks and op.name not in self.kinks and on_kink(op, [getattr(arg, "_array", arg) for arg in args], statics):
                self.kinks.append(op.name)
            if op.name not in self.extreme and _extreme(y) and all(np.all(np.isfinite(getattr(arg, "_array", arg))) for arg in args):
                self.extreme.append(op.name)
        self._follow_time(op, args, statics, y)
        return y

    def _follow_time(self, op, args, statics, y):
        """`x[t]` at a step of a scan: x has a time axis. Flipped, for a reversed scan, it is still the same x."""
        if step.get() is None and op.name != "flip":
            return
        for position, x in self.inputs.items():
            if any(type(arg) is Tensor and arg._array is x for arg in args[:1]):
                if op.name == "flip":
                    self.inputs = self.inputs | {position: y._array}
                elif op.name == "getitem" and len(statics["index"]) == 1 and isinstance(statics["index"][0], int):
                    self.timed.add(position)


def _size(value):
    """The largest finite number of an array or a Tensor."""
    array = np.abs(np.asarray(value._array if type(value) is Tensor else value))
    return float(np.max(array, initial=0.0, where=np.isfinite(array))) if array.dtype.kind in "fiu" else 0.0


def _extreme(y):
    """Whether a square of some entry overflows or vanishes."""
    for one in y if type(y) is tuple else (y,):
        array = np.abs(one._array if type(one) is Tensor else one)
        if array.dtype.kind == "f" and array.size:
            limits = np.finfo(array.dtype)
            least = np.min(array, where=array > 0, initial=1.0)
            if not np.max(array) < limits.max**0.5 or least < limits.tiny**0.5:
                return True
    return False


def on_kink(op, arrays, statics):
    """Whether a call of `op` stands exactly where it has no derivative."""
    if callable(op.kinks):
        return bool(np.any(op.kinks(*arrays, **statics)))
    return bool(np.any(np.isin(np.real(arrays[0]), op.kinks)))


class Shaker:
    """Moves every result by 1 to 4 units in its last place, up or down: how far rounding may move an outcome.

    Source: Monte Carlo arithmetic, Parker, "Monte Carlo arithmetic: exploiting randomness in floating-point
    arithmetic" (1997).
    """

    tracing = False

    def __init__(self, rng):
        self.rng = rng

    def record(self, op, args, statics):
        y = op.apply(args, statics, mode.get().grad)
        if op.view:
            return y
        mixing = not op.elementwise and not op.analytic  # a softmax, say: inside it small entries met large ones
        inside = 1.0 if op.name in ("logsumexp", "log_softmax") else 0.0  # the logarithm of a number near 1
        if type(y) is tuple:
            return tuple(self._shake(one, mixing, inside) for one in y)
        return self._shake(y, mixing, inside)

    def _shake(self, y, mixing, inside):
        if type(y) is not Tensor:
            return self.shaken(y)
        moved = self.shaken(y._array)
        if mixing and y._array.dtype.kind == "f" and y._array.size:
            size = np.max(np.abs(y._array), initial=inside, where=np.isfinite(y._array))
            moved = (moved + np.finfo(moved.dtype).eps * size * self.rng.uniform(-1, 1, moved.shape)).astype(moved.dtype)
        if y._array.flags.writeable and y._array.base is None:
            y._array[...] = moved  # in place: what the op saved of its own output moves with it
        else:
            y._array = moved
        return y

    def shaken(self, x):
        """x, rounded differently."""
        x = np.asarray(x)
        if x.dtype.kind != "f":
            return x
        with np.errstate(all="ignore"):
            u = self.rng.uniform(1, 4, x.shape) * self.rng.choice((-1, 1), x.shape)
            return x * (1 + np.finfo(x.dtype).eps * u).astype(x.dtype)


def watching(recorder):
    """Run a block with `recorder` looking on."""
    return switched(recorder=recorder)
