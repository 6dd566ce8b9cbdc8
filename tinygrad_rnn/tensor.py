"""Tensor: an array and the call that made it.

Knows the array, its place in the graph of calls, and when a value may be looked at. Refuses to know
arithmetic: declaring an op (in `primitive`) binds its method here, and `gradients` binds `backward`. So
this module imports no op, and the circle Tensor -> ops -> Tensor does not exist. Below it: errors.

The graph is made of `Node`s that point to nodes, never to Tensors: a node keeps the arrays that the
derivative rules asked for and nothing else, so an intermediate that no rule needs is freed at once.
"""

import contextlib
import dis
import gc
import itertools
import sys
from contextvars import ContextVar

import numpy as np

from .errors import ArgumentError, DtypeError, GradientError, LostGradientError, ShapeError, TraceError, message

_order = itertools.count().__next__  # a parent's number is smaller than its children's: a topological order for free


class Node:
    """One call in the graph: who its inputs came from and what its rules will need."""

    __slots__ = ("plan", "parents", "saved", "shape", "dtype", "order")

    def __init__(self, plan, parents, saved, shape, dtype):
        self.plan, self.parents, self.saved, self.shape, self.dtype = plan, parents, saved, shape, dtype
        self.order = _order()


class Leaf(Node):
    """The start of a graph: a value that somebody wants the gradient of. The inputs of a transform are `live`
    only while its function runs: afterwards nobody but the transform itself can ask for their cotangents."""

    __slots__ = ("grad", "live")

    def __init__(self, shape, dtype):
        self.plan, self.parents, self.saved, self.shape, self.dtype = None, (), None, shape, dtype
        self.order = _order()
        self.grad: np.ndarray | None = None
        self.live = True


class Mode:
    """What a call does besides computing: keep a graph, tell a recorder. One per thread and context.

    A recorder's `record(op, args, statics)` stands in for every call of an op. A *tracing* one owns the values:
    `holds(array)` says which exist only inside its trace, `name` says of what. Any other only watches; if it
    has an `enter(cell)`, scan runs the cell that this returns.
    """

    __slots__ = ("grad", "recorder", "tracing")

    def __init__(self, grad=True, recorder=None):
        self.grad, self.recorder = grad, recorder
        self.tracing = recorder is not None and recorder.tracing


mode: ContextVar[Mode] = ContextVar("mode", default=Mode())  # noqa: B039  (a Mode is never changed, only replaced)


class switched(contextlib.ContextDecorator):
    """Run a block under another mode; the old one comes back, also after an exception."""

    def __init__(self, **changes):
        self.changes, self.tokens = changes, []

    def _recreate_cm(self):
        return switched(**self.changes)

    def __enter__(self):
        now, changes = mode.get(), self.changes
        self.tokens.append(mode.set(Mode(changes.get("grad", now.grad), changes.get("recorder", now.recorder))))

    def __exit__(self, *_):
        mode.reset(self.tokens.pop())


def no_grad():
    """Compute without keeping a graph, in this thread only; also usable as a decorator.

    Example:
        >>> x = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> with tg.no_grad():
        ...     (x * 2).requires_grad
        False
    """
    return _NoGrad(grad=False)


class _NoGrad(switched):
    """As `switched`, but not within a trace: there no graph is kept anyway, and the block would go unnoticed."""

    def _recreate_cm(self):
        return _NoGrad(**self.changes)

    def __enter__(self):
        now = mode.get()
        if now.tracing:
            raise TraceError(message("no_grad()", "would be lost in a trace", {"traced in": now.recorder.name},
                                     "Use stop_gradient on what is to be a constant, or scan(..., compiled=False)."))
        super().__enter__()


def tensor(data, *, requires_grad=False, dtype=None):
    """Copy `data` into a Tensor.

    Shapes: any; nested lists as in `numpy.array`. Python floats become float64, arrays keep their dtype.

    Raises: DtypeError when data is not numeric, or a gradient is asked for a dtype that has none; ShapeError for nested
    lists of unequal lengths; LostGradientError for a tracked Tensor, unless the copy is to be a leaf of its own.

    Example:
        >>> tg.tensor([1.0, 2.0], requires_grad=True)
        tensor([1., 2.], requires_grad=True)
    """
    if isinstance(data, Tensor) and data._node is not None and not requires_grad:
        raise LostGradientError(message("tensor(data)", "a copy would drop the gradient of a tracked Tensor", {"shape": data.shape},
                                        "Use the Tensor itself, detach() to drop the gradient, or requires_grad=True for a new leaf."))
    remedy = "Pass numbers, or nested lists of numbers of equal lengths."
    try:
        array = np.array(data._look("tensor(data)") if isinstance(data, Tensor) else data, dtype=dtype)
    except ValueError as error:
        if "inhomogeneous" in str(error):
            raise ShapeError(message("tensor(data)", "the nested lists have unequal lengths", {}, remedy)) from error
        raise DtypeError(message("tensor(data)", "data is not numeric", {"data": repr(data)[:60]}, remedy)) from error
    if array.dtype.kind not in "biufc":
        raise DtypeError(message("tensor(data)", "data is not numeric", {"dtype": array.dtype}, remedy))
    out = Tensor(array)
    if requires_grad:
        out.requires_grad = True
    return out


class Tensor:
    """An array with a memory of the call that made it. Make one with `tensor(data)`.

    The array is the Tensor's own and read-only: data is copied in, `.numpy()` gives a read-only view, and
    `t[...] = v` is an error. Two Tensors that share an array therefore never surprise each other.

    Gradient: flows through every op of this package and through the NumPy functions that have one. `.item()`, `float(t)`
    and Python's `math` look at the value: no gradient flows through them.

    Example:
        >>> x = tg.tensor([1.0, 2.0], requires_grad=True)
        >>> (x * x).sum().backward()
        >>> x.grad
        array([2., 4.])
    """

    __slots__ = ("_array", "_node", "_trace", "__weakref__")  # `_trace` is set by a tracing recorder, on what it makes
    __hash__ = object.__hash__
    numpy_table = {  # NumPy function -> function on Tensors; declaring an op adds its own
        np.shape: lambda t: t.shape,
        np.ndim: lambda t: t.ndim,
        np.size: lambda t, axis=None: t.size if axis is None else t.shape[axis],
        np.zeros_like: lambda t, dtype=None: np.zeros(t.shape, dtype or t.dtype),
        np.ones_like: lambda t, dtype=None: np.ones(t.shape, dtype or t.dtype),
        np.empty_like: lambda t, dtype=None: np.empty(t.shape, dtype or t.dtype),
        np.full_like: lambda t, fill_value, dtype=None: np.full(t.shape, fill_value, dtype or t.dtype),
    }

    def __init__(self, array, node=None):
        self._array, self._node, self._trace = array, node, None

    # ---- what it is -----------------------------------------------------------------------------------------

    shape = property(lambda self: self._array.shape)
    dtype = property(lambda self: self._array.dtype)
    ndim = property(lambda self: self._array.ndim)
    size = property(lambda self: self._array.size)

    @property
    def requires_grad(self):
        """Whether a gradient flows to or through this value."""
        return self._node is not None

    @requires_grad.setter
    def requires_grad(self, wanted):
        self._fixed("requires_grad = …")
        if self._node is not None and not isinstance(self._node, Leaf):
            raise GradientError(message("requires_grad = …", "this Tensor is the result of a call",
                                        {"made by": self._node.plan}, "Use detach() to get a leaf with the same values."))
        if wanted and self._array.dtype.kind != "f":
            raise DtypeError(message("requires_grad", "only floating point values have a gradient",
                                     {"dtype": self._array.dtype}, "Pass dtype=np.float64 (or float32)."))
        if bool(wanted) != (self._node is not None):
            self._node = Leaf(self.shape, self.dtype) if wanted else None

    @property
    def grad(self):
        """The accumulated gradient of a leaf, a plain array of the Tensor's shape; None before any backward."""
        return self._node.grad if isinstance(self._node, Leaf) else None

    @grad.setter
    def grad(self, value):
        if not isinstance(self._node, Leaf):
            raise GradientError(message("grad = …", "only leaves hold a gradient", {"requires_grad": self.requires_grad},
                                        "Make the Tensor with requires_grad=True."))
        if value is not None:
            value = np.array(value, dtype=self.dtype)
            if value.shape != self.shape:
                raise ArgumentError(message("grad = value", "value has another shape than the Tensor",
                                            {"value": value.shape, "tensor": self.shape}, "Pass an array of the Tensor's shape."))
        self._node.grad = value

    # ---- looking at the values ------------------------------------------------------------------------------

    def _look(self, who):
        """The array, unless a cell is being traced: then the value exists for one step only."""
        if self._trace is not None and not self._trace.live:
            raise over(self, who)
        if traced(self):
            raise TraceError(message(f"{who}", "a traced value was turned into a plain one",
                                     {"shape": self.shape, "traced in": (self._trace or mode.get().recorder).name},
                                     "What it decides would be frozen to the first step: use where(condition, a, b), "
                                     "or scan(..., compiled=False)."))
        return self._array

    def _fixed(self, who):
        """Refuse to change what stands for a traced value: it serves in later traces too."""
        mark = self._trace
        if mark is not None:
            raise TraceError(message(who, "a traced value cannot be changed", {"shape": self.shape, "traced in": mark.name},
                                     "Make a new value with ops, or prepare the Tensor outside of the cell."))

    def numpy(self, *, who=".numpy()"):
        """The values as a read-only view; `who` is what an error calls the look at a traced value."""
        view = self._look(who).view()
        view.flags.writeable = False
        return view

    @property
    def data(self):
        """The values as a read-only view; assigning rebinds them (an optimiser's step), shape and dtype stay."""
        return self.numpy()

    @data.setter
    def data(self, values):
        self._fixed(".data = values")
        if self._node is not None and not isinstance(self._node, Leaf):
            raise GradientError(message(".data = values", "this Tensor is the result of a call, its values belong to the graph",
                                        {"made by": self._node.plan}, "Assign to leaves, or use detach()."))
        values = np.array(values._look(".data = values") if isinstance(values, Tensor) else values, dtype=self.dtype)
        if values.shape != self.shape:
            raise ArgumentError(message(".data = values", "values have another shape than the Tensor",
                                        {"values": values.shape, "tensor": self.shape}, "Pass an array of the Tensor's shape."))
        self._array = values

    def item(self):
        """The value of a Tensor of one element as a Python number."""
        return self._look(".item()").item()

    def tolist(self):
        """The values as nested lists of Python numbers."""
        return self._look(".tolist()").tolist()

    def argmax(self, axis=None):
        """The index of the largest element, a plain integer or array: it has no gradient to lose."""
        return np.argmax(self._look(".argmax()"), axis)

    def argmin(self, axis=None):
        """The index of the smallest element, a plain integer or array."""
        return np.argmin(self._look(".argmin()"), axis)

    def any(self, axis=None):
        """Whether an element is true, a plain bool or array."""
        return np.any(self._look(".any()"), axis)

    def all(self, axis=None):
        """Whether every element is true, a plain bool or array."""
        return np.all(self._look(".all()"), axis)

    def __array__(self, dtype=None, copy=None):
        array = self._look("np.asarray(tensor)")
        if self._node is not None:
            raise LostGradientError(message("np.asarray(tensor)", "this would drop the gradient of a tracked Tensor",
                                            {"shape": self.shape},
                                            "Use stack or concatenate to build arrays of Tensors, or detach() to drop it on purpose."))
        if dtype is not None and array.dtype != dtype:
            if copy is False:
                raise ValueError("np.asarray(tensor, dtype, copy=False): another dtype needs a copy")
            return array.astype(dtype)
        return array.copy() if copy else self.numpy()

    def __float__(self):
        return float(self._stored("float(tensor)").item())

    def __int__(self):
        return int(self._stored("int(tensor)").item())

    def _stored(self, who):
        """As `_look`; but NumPy asks for the number also when a Tensor is written into an array, which is no look."""
        caller = sys._getframe(2)
        if self._node is not None and dis.opname[caller.f_code.co_code[caller.f_lasti]] == "STORE_SUBSCR":
            raise LostGradientError(message("array[index] = tensor", "writing into a NumPy array would drop the gradient",
                                            {"shape": self.shape}, "Collect Tensors in a list and use stack or concatenate."))
        return self._look(who)

    def __index__(self):
        return self._look("tensor as an index").__index__()

    def __bool__(self):
        return bool(self._look("if tensor:"))

    def __len__(self):
        if not self.shape:
            raise ArgumentError(message("len(tensor)", "the Tensor has no axis", {"shape": ()}, "Use .item() for its value."))
        return self.shape[0]

    def __iter__(self):
        return (self[i] for i in range(len(self)))  # type: ignore[index]

    def __contains__(self, value):
        return value in self._look("value in tensor")

    def __format__(self, spec):
        return format(self.item(), spec) if spec else repr(self)

    def __repr__(self):
        if traced(self):
            return f"tensor(traced, shape={self.shape}, dtype={self.dtype})"
        text = np.array2string(self._array, separator=", ", prefix="tensor(")
        extra = [f"dtype={self.dtype}"] if self.dtype not in (np.float64, np.int64, np.bool_) else []
        if self._node is not None:
            extra.append("requires_grad=True" if isinstance(self._node, Leaf) else f"op={self._node.plan}")
        return f"tensor({', '.join([text, *extra])})"

    # ---- what would lose the gradient in silence ------------------------------------------------------------

    def __setitem__(self, index, value):
        raise LostGradientError(message("tensor[index] = value", "a Tensor is read-only, its graph may need the old values",
                                        {"shape": self.shape, "kept by": _keepers(self._array)},
                                        "Use where, concatenate or stack to build a new one."))

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        function = self.numpy_table.get(ufunc)
        if method == "__call__" and function is not None and not options:
            return function(*inputs)
        name = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
        return self._numpy_fallback(name, inputs, options, lambda plain, kw: getattr(ufunc, method)(*plain, **kw))

    def __array_function__(self, function, types, args, options):
        ours = self.numpy_table.get(function)
        if ours is not None:
            return ours(*args, **options)
        name = f"{function.__module__}.{function.__name__}".replace("numpy.", "np.", 1)
        return self._numpy_fallback(name, args, options, lambda plain, kw: function(*plain, **kw), function in _OF_NO_GRADIENT)

    @staticmethod
    def _numpy_fallback(name, args, options, call, harmless=False):
        """NumPy functions without a rule: fine where nothing is tracked, an error where a gradient would vanish."""
        into = options.get("out", ())
        if any(isinstance(out, Tensor) for out in (into if isinstance(into, tuple) else (into,))):
            raise LostGradientError(message(f"{name}(…, out=tensor)", "a Tensor is read-only, its graph may need the old values", {},
                                            "Use the result, and rebind the name to it."))
        if not harmless and any(tracked(a) for a in (*args, *options.values())):
            what = "writing into a NumPy array would drop the gradient" if into else "this NumPy function has no derivative rule here"
            raise LostGradientError(message(f"{name}(…)", what, {}, "Write it with ops of this package, declare it with "
                                            "@primitive, or use detach() to drop the gradient on purpose."))
        return call([untracked(a, name) for a in args], {k: untracked(v, name) for k, v in options.items()})

    def __reduce__(self):
        """Copies and pickles hold values, not graphs: a leaf stays a leaf, a result comes back detached."""
        leaf = isinstance(self._node, Leaf)
        return _restored, (self._look("pickle").copy(), leaf, self.grad if leaf else None)


def _restored(array, requires_grad, grad):
    out = tensor(array, requires_grad=requires_grad)
    if grad is not None:
        out.grad = grad
    return out


def _keepers(array):
    """The ops that saved an array for their backward; looked for only when somebody is about to write into it."""
    nodes = [node for node in gc.get_objects() if type(node) is Node and type(node.saved) is tuple]
    return ", ".join(sorted({str(node.plan) for node in nodes if any(value is array for value in node.saved)})) or "no op so far"


def over(tensor, who):
    """The error for a Tensor of a trace that is over: it stands for no value any more."""
    return TraceError(message(who, "a Tensor of a trace that is over has no values", {"shape": tensor.shape, "made in": tensor._trace.name},
                              "Return from the cell, in state or y, what is to be looked at."))


def traced(tensor):
    """Whether the values exist only inside a trace that goes on: the innermost one, or one around it."""
    if tensor._trace is not None:
        return tensor._trace.live
    now = mode.get()
    return now.tracing and now.recorder.holds(tensor._array)


def tracked(value):
    """Whether a gradient flows through `value`, or through a member of a list or tuple of values."""
    if isinstance(value, (list, tuple)):
        return any(tracked(v) for v in value)
    return isinstance(value, Tensor) and (value._node is not None or mode.get().tracing)


def untracked(value, who):
    """`value` with read-only arrays in place of its Tensors."""
    if type(value) in (list, tuple):
        return type(value)([untracked(v, who) for v in value])
    return value.numpy(who=who) if isinstance(value, Tensor) else value


# functions of NumPy whose results have no derivative that could be lost
_OF_NO_GRADIENT = {np.argmax, np.argmin, np.argsort, np.allclose, np.isclose, np.array_equal, np.any, np.all, np.count_nonzero,
                   np.nonzero, np.searchsorted, np.result_type, np.can_cast, np.iscomplexobj, np.isrealobj, np.array2string, np.array_repr}
