"""Tracing: a Python function run once, seen as a straight list of op calls.

Knows how to record the calls that a function makes on its inputs (`Tracer`), what the record is (`Program`: inputs,
calls, outputs, and a text of itself), and how to run it again. Refuses to know gradients: the record of a rule is a
record like any other. Below it: tensor.

The tape is the IR. A value is the identity of an array: every op makes a new one, so two Tensors around one array
are one value, and the rules of the backward walk, which wrap saved arrays anew, speak of the same values as the
forward did. What a function closes over (Tensors, arrays, numbers that its own code does not spell) is found when it
is used, and is an input of the program, never a part of it: a program does not go stale.
"""

import functools
import math
import types

import numpy as np

from .errors import TraceError, message
from .tensor import Leaf, Tensor, mode

# numbers that count as part of every program, whatever the text of its function: operators and ops bring them in
SPELLED = frozenset((0, 1, 2, 3, 4, -1, -2, 0.0, 0.5, 1.0, 2.0, -1.0, 0.25, 3.0, 4.0))


class Value:
    """One array of a program: an input, or the result of a call."""

    __array_ufunc__ = None  # comparing with an array says no, not which of its entries: lists of outputs hold both
    __slots__ = ("shape", "dtype", "name", "number")

    def __init__(self, shape, dtype, name="", number=-1):
        self.shape, self.dtype, self.name, self.number = tuple(shape), np.dtype(dtype), name, number

    @property
    def size(self):
        return math.prod(self.shape)

    def __repr__(self):
        return f"{self.name or 'v'}:{self.dtype}{list(self.shape)}"

    def like_ones(self):
        """Ones (zeros if integers: an index must fit) that take no memory: what a program runs on if only its calls matter."""
        out = np.ndarray(self.shape, self.dtype, _one(self.dtype), 0, (0,) * len(self.shape))  # broadcast_to, at a fifth of its cost
        out.flags.writeable = False
        return out


@functools.cache
def _one(dtype):
    return np.array(0 if dtype.kind in "iu" else 1, dtype)


class Call:
    """One op call: `outs = op(*args, **statics)`; an argument is a Value, a Python number or an array that a rule made. `inputs`
    are the arguments that are Values."""

    __slots__ = ("op", "args", "statics", "outs", "inputs")

    def __init__(self, op, args, statics, outs):
        self.op, self.args, self.statics, self.outs = op, args, statics, outs
        self.inputs = [arg for arg in args if isinstance(arg, Value)]


class Program:
    """Inputs, calls in order, outputs (Values, or arrays that are always the same). Printing it shows one call a line."""

    __slots__ = ("inputs", "calls", "outputs")

    def __init__(self, inputs, calls, outputs):
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.calls = _needed(calls, self.outputs)

    def __repr__(self):
        names = {}

        def name(arg):
            if not isinstance(arg, Value):
                return repr(arg) if isinstance(arg, (int, float)) else f"array{np.shape(arg)}"
            return names.setdefault(arg, arg.name or f"v{len(names)}")

        lines = [f"inputs {', '.join(f'{name(v)}: {v.dtype}{list(v.shape)}' for v in self.inputs)}"]
        for call in self.calls:
            extra = "".join(f", {k}={v}" for k, v in call.statics.items())
            lines.append(f"  {', '.join(name(v) for v in call.outs)} = {call.op.name}({', '.join(name(a) for a in call.args)}{extra})")
        return "\n".join([*lines, f"return {', '.join(name(v) for v in self.outputs)}"])

    def run(self, arrays):
        """The outputs for these inputs (arrays or Tensors); under a tracer the calls are recorded again."""
        known = dict(zip(self.inputs, arrays))
        replay(self.calls, known)
        return [known.get(out, out) if isinstance(out, Value) else out for out in self.outputs]


def replay(calls, known):
    """Make `calls` again on the arrays or Tensors in `known` (Value to array), adding their results to it."""
    for call in calls:
        y = call.op(*[known[a] if isinstance(a, Value) else a for a in call.args], **call.statics)
        known.update(zip(call.outs, y if isinstance(y, tuple) else (y,)))


def _needed(calls, outputs):
    """The calls that `outputs` depend on."""
    wanted, kept = {v for v in outputs if isinstance(v, Value)}, []
    for call in reversed(calls):
        if not wanted.isdisjoint(call.outs):
            kept.append(call)
            wanted.update(call.inputs)
    return kept[::-1]


class Mark:
    """What a Tensor made in a trace carries: whose trace it is, and whether that still goes on (later it means nothing)."""

    __slots__ = ("name", "live")

    def __init__(self, name):
        self.name, self.live = name, True


class Tracer:
    """A recorder that owns the values of one run of a function.

    `literals` are the floats that count as part of the program (None: all); any other is an input of it.
    `closed` lists what the function closed over: pairs of Value and the object itself, in the order of first use.
    `several` tells for each call whether its result is a tuple, which may be one of a single array.
    `key` grows into a hashable account of the calls: equal keys (and equal inputs) mean equal programs.
    """

    tracing = True

    def __init__(self, name, literals=None):
        self.name, self.literals, self.mark = name, literals, Mark(name)
        self.calls, self.several, self.closed, self.key = [], [], [], []
        self._values, self._inner = {}, set()  # id of an array -> Value; ids of the arrays that exist only in this trace
        self._numbers = {}  # (number, dtype) -> its Value and Tensor
        self._alive, self._objects = [], []  # what has been seen is kept, so that no other array gets its id

    # ---- values -------------------------------------------------------------------------------------------------

    def input(self, array, name="", tracked=False):
        """A Tensor that stands for an input of the function; `tracked` makes it the start of a graph."""
        array = array._array if isinstance(array, Tensor) else array
        array = array.view()  # one array passed twice is two inputs
        value = self._new(array, name)
        self._inner.add(id(array))
        tensor = Tensor(array, Leaf(array.shape, array.dtype) if tracked and array.dtype.kind == "f" else None)
        tensor._trace = self.mark
        return value, tensor

    def _new(self, array, name=""):
        value = self._values[id(array)] = Value(array.shape, array.dtype, name, len(self._alive))
        self._alive.append(array)
        return value

    def array(self, value):
        """The array of a Value."""
        return self._alive[value.number]

    def holds(self, array):
        """Whether the array exists only inside this trace."""
        return id(array) in self._inner

    def value(self, obj):
        """The Value of a result of the function; what was never seen is closed over."""
        if isinstance(obj, Tensor):
            return self._values.get(id(obj._array)) or self._close(obj, obj._array)
        if isinstance(obj, np.ndarray):
            return self._values.get(id(obj)) or self._close(obj, obj)
        return self._close(obj, np.asarray(obj))

    def meet(self, tensor):
        """Know a Tensor before something else around its array is used: it is what the function closes over."""
        self.value(tensor)

    def _close(self, obj, array):
        mark = getattr(obj, "_trace", None)
        if mark is not None and not mark.live:
            raise TraceError(message(f"{self.name}(…)", "uses a Tensor that an earlier trace made",
                                     {"made in": mark.name, "shape": obj.shape},
                                     "Return what a later call needs: a traced value stands for one run of the function only."))
        value = self._new(array)
        self.closed.append((value, obj))
        self._objects.append(obj)
        return value

    def _number(self, number, args):
        """A number that the function's code does not spell is an input: an array of the dtype it is used in."""
        if type(number) is not float or self.literals is None or number in self.literals:
            return number, number
        dtype = _dtype_among(args)
        found = self._numbers.get((number, dtype))
        if found is None:
            array = np.asarray(number, dtype)
            found = self._numbers[number, dtype] = (self._close(array, array), Tensor(array))
        return found

    def numbers(self):
        """The Values of the numbers among what is closed over."""
        return {value for value, _ in self._numbers.values()}

    # ---- calls --------------------------------------------------------------------------------------------------

    def record(self, op, args, statics):
        """Run the call, and write it down."""
        refs, tensors = [], []
        for arg in args:
            kind = type(arg)
            if kind is Tensor:
                value = self._values.get(id(arg._array)) or self._close(arg, arg._array)
            elif kind is float or kind is int or kind is bool:
                value, arg = self._number(arg, args)
            else:
                array = op.coerce(arg) if kind is not np.ndarray else arg
                if isinstance(array, np.ndarray):
                    value, arg = self._values.get(id(array)) or self._close(array, array), Tensor(array)
                else:
                    value, arg = self._number(array, args)
            refs.append(value)
            tensors.append(arg)
        if not any(type(t) is Tensor for t in tensors):
            return op.apply(tensors, statics, False)
        y = op.apply(tensors, statics, mode.get().grad)
        values = tuple([self._result(out) for out in (y if type(y) is tuple else (y,))])
        self.calls.append(Call(op, tuple(refs), statics, values))
        self.several.append(type(y) is tuple)
        fixed = () if statics is op.defaults else map(frozen, statics.values())
        self.key.append((op, *[r.number if type(r) is Value else frozen(r) for r in refs], *fixed))
        return y

    def _result(self, tensor):
        tensor._trace, array = self.mark, tensor._array
        self._inner.add(id(array))
        return self._new(array)


def name_of(function):
    """What a report calls a function."""
    return getattr(function, "__qualname__", None) or type(function).__name__


def code_of(function):
    """What runs when the function is called: a changed function is another program, whatever its trace looks like."""
    return getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None) or type(function)


def literals_of(function):
    """The numbers that stand in the function's own text; every other number may change from call to call."""
    code = code_of(function)
    return _spelled(code) if isinstance(code, types.CodeType) else SPELLED


@functools.lru_cache(maxsize=4096)
def _spelled(code):
    found = set(SPELLED)
    for constant in code.co_consts:
        if type(constant) in (int, float):
            found.add(constant)
        elif isinstance(constant, types.CodeType):
            found |= _spelled(constant)
    return frozenset(found)


def _dtype_among(args):
    """The dtype in which a number is used: that of the first floating point array beside it."""
    return next((a.dtype for a in args if isinstance(a, (Tensor, np.ndarray)) and a.dtype.kind == "f"), np.dtype(float))


def frozen(static):
    """A static or a number as part of a key: 2, 2.0 and True are three things, and so are 0.0 and −0.0."""
    kind = type(static)
    if kind is int or kind is float or kind is bool:
        return kind, static or repr(static)
    if isinstance(static, (tuple, list)):
        return (int, *static) if {int}.issuperset(map(type, static)) else tuple([frozen(s) for s in static])
    if isinstance(static, slice):
        return "slice", static.start, static.stop, static.step
    return static
