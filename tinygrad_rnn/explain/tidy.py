"""Tidying a list of calls for a reader.

Knows the detours that rules take, and how a person would write the same: x·x is x², a + (−b) is a − b, the transpose of a
transpose is nothing, what is computed twice is computed once. Refuses to make anything faster: `rewrite` does that, and
its forms are not for reading. Below it: loops, program.
"""

import math

import numpy as np

from ..loops import Loop
from ..primitive import registry
from ..program import Call, Program, Value, frozen
from ..spelling import ours


def tidied(loop):
    """(the same loop without detours, a function from an old value to the one that takes its place)."""
    calls, place = straightened(loop.body.calls)
    outputs = [place(out) for out in loop.body.outputs]
    for old, new in zip(loop.body.outputs, outputs):
        if isinstance(new, Value) and new not in loop.body.inputs:
            new.name = new.name or old.name
    return Loop(Program(loop.body.inputs, calls, outputs), loop.n_states, loop.n_xs, loop.n_ys, loop.reverse), place


def straightened(calls, join=False):
    """(the calls without detours, a function from an old value to the one that takes its place).

    `join`: parts that were placed side by side and added become one concatenation.
    """
    swap, makers, seen, out = {}, {}, {}, []

    def place(value):
        return swap.get(value, value) if isinstance(value, Value) else value

    def put(call):
        key = call.op, tuple(a if isinstance(a, Value) else repr(a) for a in call.args), tuple(map(repr, map(frozen, call.statics.values())))
        if key in seen:
            for old, new in zip(call.outs, seen[key]):
                swap[old] = new
            return
        seen[key] = call.outs
        makers.update(dict.fromkeys(call.outs, call))
        out.append(call)

    def emit(call):
        call = Call(call.op, tuple(map(place, call.args)), call.statics, call.outs)
        *before, last = _joined(call, makers) if join and call.op is registry["add"] else _shorter(call, makers)
        for new in before:
            emit(new)
        if last is call:
            put(call)
        elif isinstance(last, Call):
            emit(last)
        else:
            swap[call.outs[0]] = place(last)

    for call in calls:
        emit(call)
    return out, place


def _shorter(call, makers):
    """The calls, or the value, that take the place of a call."""
    if not ours(call.op) or len(call.outs) != 1 or not call.args:
        return [call]
    if call.op.name in ("add", "subtract") and (rest := _with_nothing_added(call)) is not None:
        return [rest]
    if not isinstance(call.args[0], Value):
        return [call]
    (out,), name, x = call.outs, call.op.name, call.args[0]
    made = makers.get(x)
    made = made if made is not None and ours(made.op) else None
    if name == "transpose":
        axes = _axes(call)
        if axes == tuple(range(len(axes))):
            return [x]
        if made is not None and made.op.name == "transpose" and tuple(_axes(made)[a] for a in axes) == tuple(range(len(axes))):
            return [made.args[0]]
        if made is not None and made.op.name == "einsum" and axes == (1, 0) and len(made.args) == 2:
            left, right = made.statics["subscripts"].split("->")[0].split(",")
            to = made.statics["subscripts"].split("->")[1][::-1]
            return [Call(made.op, made.args[::-1], {**made.statics, "subscripts": f"{right},{left}->{to}"}, call.outs)]
    if name == "getitem" and len(call.args) == 1 and made is not None and made.op.name == "matmul":
        a, b = (without_axis(v, makers) for v in made.args)  # rows and columns of one are vectors
        if call.statics["index"] == (..., 0) and b is not None and b[1] == -1:
            return [Call(made.op, (made.args[0], b[0]), {}, call.outs)]
        if call.statics["index"] == (..., 0, slice(None)) and a is not None and a[1] == -2:
            return [Call(made.op, (a[0], made.args[1]), {}, call.outs)]
    if name == "einsum" and len(call.args) == 2:
        terms, to = call.statics["subscripts"].split("->")
        for i, (term, arg) in enumerate(zip(terms.split(","), call.args)):
            found = without_axis(arg, makers)
            if found is not None and term[found[1]] not in to:
                parts, args = terms.split(","), list(call.args)
                letter = term[found[1]]
                parts[i], args[i] = term.replace(letter, ""), found[0]
                return [Call(call.op, tuple(args), {**call.statics, "subscripts": f"{','.join(parts)}->{to}"}, call.outs)]
    if name in ("reshape", "broadcast_to") and x.shape == out.shape or name in ("identity", "stop_gradient"):
        return [x]
    if name == "reshape" and made is not None and made.op.name == "sum" and not made.statics["keepdims"] and out.shape == _kept(made):
        return [Call(made.op, made.args, {**made.statics, "keepdims": True}, call.outs)]
    if name == "divide" and made is not None and made.op.name == "sum" and isinstance(call.args[1], (int, float)):
        if call.args[1] * math.prod(_kept(made)) == math.prod(made.args[0].shape):
            statics = {k: made.statics.get(k, default) for k, default in registry["mean"].defaults.items()}
            return [Call(registry["mean"], made.args, statics, call.outs)]
    if name in _LINEAR and _negated(x, makers) is not None:
        inner = Value(out.shape, out.dtype, f"minus_{out.name}" if out.name else "")
        return [Call(call.op, (_negated(x, makers), *call.args[1:]), call.statics, (inner,)), Call(registry["negative"], (inner,), {}, call.outs)]
    over_time = name == "sum" and call.statics["axis"] == 0 and not call.statics["keepdims"]
    if over_time and made is not None and made.op.name == "sum" and made.statics["keepdims"]:
        axes = made.statics["axis"] if isinstance(made.statics["axis"], tuple) else (made.statics["axis"],)
        inner = Value([n for i, n in enumerate(made.args[0].shape) if i and i not in axes], out.dtype)
        return [Call(call.op, made.args, {**made.statics, "axis": (0, *axes), "keepdims": False}, (inner,)),
                Call(registry["reshape"], (inner,), {"shape": out.shape}, call.outs)]
    if name == "multiply" and x is call.args[1]:
        return [Call(registry["power"], (x, 2), {}, call.outs)]
    if name in ("add", "subtract", "multiply", "divide") and len(call.args) == 2:
        args = tuple(_narrow(a, b, out, makers) for a, b in (call.args, call.args[::-1]))
        if any(a is not b for a, b in zip(args, call.args)):
            return [Call(call.op, args, call.statics, call.outs)]
    if name == "subtract" and made is not None and made.op.name == "subtract" and made.args[1] is call.args[1] and made.outs[0].shape == out.shape:
        double = Value(call.args[1].shape, call.args[1].dtype)
        return [Call(registry["multiply"], (2, call.args[1]), {}, (double,)), Call(call.op, (made.args[0], double), {}, call.outs)]
    if name == "add" and (twice := _twice(*call.args, makers)):
        rest, part = twice
        if rest is None:
            return [Call(registry["multiply"], (2, part), {}, call.outs)]
        double = Value(part.shape, part.dtype)
        return [Call(registry["multiply"], (2, part), {}, (double,)), Call(call.op, (rest, double), {}, call.outs)]
    if name in ("add", "subtract", "multiply", "matmul") and len(call.args) == 2:
        y = call.args[1]
        x_, y_ = (_negated(v, makers) for v in (x, y))
        opposite = {"add": "subtract", "subtract": "add"}.get(name)
        if opposite and y_ is not None:
            return [Call(registry[opposite], (x, y_), {}, call.outs)]
        if name == "add" and x_ is not None:
            return [Call(registry["subtract"], (y, x_), {}, call.outs)]
        if name in ("multiply", "matmul") and (x_ is not None or y_ is not None):
            product = Value(out.shape, out.dtype, f"minus_{out.name}" if out.name else "")
            inner = Call(call.op, (x if x_ is None else x_, y if y_ is None else y_), call.statics, (product,))
            if x_ is not None and y_ is not None:
                return [Call(call.op, inner.args, call.statics, call.outs)]
            return [inner, Call(registry["negative"], (product,), {}, call.outs)]
    return [call]


def _joined(call, makers):
    """A concatenation for a sum of parts that fill an axis, each placed among zeros."""
    (out,), parts, pending = call.outs, {}, [*call.args]
    while pending:
        part = pending.pop()
        made = makers.get(part) if isinstance(part, Value) else None
        if made is not None and made.op is registry["add"]:
            pending += made.args
        elif made is not None and made.op is registry["scatter_add"] and len(made.args) == 1:
            place = [(axis, one.indices(n)) for axis, (one, n) in enumerate(zip(made.statics["index"], out.shape))
                     if isinstance(one, slice) and one.indices(n) != (0, n, 1)]
            if len(place) != 1 or place[0] in parts or not all(isinstance(one, slice) for one in made.statics["index"]):
                return _shorter(call, makers)
            parts[place[0]] = made.args[0]
        else:
            return _shorter(call, makers)
    places = sorted(parts)
    axis, last = places[0][0], 0
    for one, (start, stop, step) in places:
        if (one, start, step) != (axis, last, 1):
            return _shorter(call, makers)
        last = stop
    if last != out.shape[axis]:
        return _shorter(call, makers)
    return [Call(registry["concatenate"], tuple(parts[place] for place in places), {"axis": axis}, call.outs)]


def without_axis(value, makers):
    """(x, axis) for a value that is x with one more axis of size 1, the last (−1) or the one before (−2)."""
    made = makers.get(value) if isinstance(value, Value) else None
    if made is None or made.op is not registry["getitem"] or len(made.args) != 1:
        return None
    index = made.statics["index"]
    if sum(part is None for part in index) != 1 or not all(part is None or part is Ellipsis or part == slice(None) for part in index):
        return None
    if index[-1] is None:
        return made.args[0], -1
    return (made.args[0], -2) if len(index) > 1 and index[-2] is None and index[-1] == slice(None) else None


_LINEAR = {"sum", "mean", "reshape", "transpose", "broadcast_to", "divide"}


def _kept(call):
    """The shape that a sum has when it keeps its axes."""
    x, axis = call.args[0], call.statics["axis"]
    axes = range(len(x.shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    axes = {a % len(x.shape) for a in axes}
    return tuple(1 if i in axes else n for i, n in enumerate(x.shape))


def _narrow(arg, other, out, makers):
    """What was spread out to the shape of a result that would have it anyway."""
    made = makers.get(arg) if isinstance(arg, Value) else None
    if made is None or made.op is not registry["broadcast_to"] or not isinstance(other, Value) or not isinstance(made.args[0], Value):
        return arg
    return made.args[0] if np.broadcast_shapes(made.args[0].shape, other.shape) == out.shape else arg


def _with_nothing_added(call):
    """x for x + 0, 0 + x and x − 0."""
    x, *others = call.args if isinstance(call.args[0], Value) or call.op.name == "subtract" else call.args[::-1]
    nothing = all(type(other) in (int, float) and other == 0 for other in others)
    return x if nothing and isinstance(x, Value) and (x.shape, x.dtype) == (call.outs[0].shape, call.outs[0].dtype) else None


def _twice(a, b, makers):
    """(rest, part) of a sum in which a part stands twice: rest + part + part; rest may be None."""
    if a is b and isinstance(a, Value):
        return None, a
    for x, y in ((a, b), (b, a)):
        made = makers.get(x) if isinstance(x, Value) else None
        at = [a is y for a in made.args] if made is not None and made.op is registry["add"] else []
        if isinstance(y, Value) and True in at and y.shape == made.outs[0].shape:
            return made.args[1 - at.index(True)], y
    return None


def _negated(value, makers):
    """x for −x."""
    made = makers.get(value) if isinstance(value, Value) else None
    return made.args[0] if made is not None and made.op is registry["negative"] and isinstance(made.args[0], Value) else None


def _axes(call):
    rank = len(call.args[0].shape)
    axes = call.statics["axes"]
    return tuple(range(rank))[::-1] if axes is None else tuple(a % rank for a in axes)
