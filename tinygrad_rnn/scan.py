"""scan: a cell run over a sequence. What it means is nine lines of Python:

    def scan(cell, state, xs):
        ys = []
        for x in xs:
            state, y = cell(state, x)
            ys.append(y)
        return state, np.stack(ys)

with trees of arrays allowed for state, x and y. Knows the options (reverse, lengths, truncate, checkpoint), each
of which is a small program around the plain meaning, so that any two of them compose and every order of
derivative is right by construction; and when the loop of an earlier trace may serve again. Refuses to know how a compiled
loop works (`loops` does). Below it: derive, loops, gradients, following, program, ops, tensor, trees.
"""

import math
import weakref
from contextvars import ContextVar

import numpy as np

from . import trees
from .derive import run as run_loop
from .errors import ArgumentError, DomainError, DtypeError, ShapeError, TraceError, message
from .following import Follower, Recorded
from .gradients import checkpoint as checkpointed
from .loops import Loop
from .ops import concatenate, flip, getitem, stack, stop_gradient, where
from .program import Program, Tracer, code_of, literals_of, name_of
from .tensor import Tensor, mode, switched

step = ContextVar("step", default=None)  # the time index at which a watched plain loop is; None outside of one

_WHO = "scan(cell, state, xs)"


def scan(cell, state, xs, *, length=None, reverse=False, lengths=None, truncate=None, checkpoint=None, compiled=True):
    """Run `cell(state, x) -> (state, y)` over the leading axis of `xs`; returns the last state and the stacked ys.

    state_t, y_t = cell(state_{t−1}, x_t) for t = 0 … T−1.

    Shapes: `state`, `xs` and `ys` are trees; leaves of xs and ys are (T, …), those of the state keep shape and dtype.
    `xs` may be None with `length=T`. Python numbers in the state take the dtype of xs.

    `reverse`     runs from the last step to the first; y_t stays at its place.
    `lengths`     (B,) steps of each batch row (axis 0 of the state, axis 1 of xs): past its end a row's state is held and
                  its outputs are zero, and nothing that stands in the padding (nan, say) reaches a gradient.
    `truncate`    (k1, k2), truncated BPTT: the steps are cut into blocks of k1, and what enters within the block that starts
                  at b is carried back to cell b − (k2 − k1) and no further. Values do not change. Higher derivatives take
                  the state that enters a window as a constant.
    `checkpoint`  k, or "sqrt": keep only every k-th state for the backward and compute the rest again.
    `compiled`    False runs the same ops in a plain Python loop, where print, pdb and branches on values work.

    Raises: ArgumentError for a cell that does not return two things, ShapeError and DtypeError for a state that changes
    shape or dtype (naming leaf and step), for xs of unequal lengths, or lengths that do not fit; TraceError for a cell
    that looks at a traced value, which would be frozen to the first step.

    Gradient: that of the plain loop, at every order, for state, xs and whatever the cell closes over. Random numbers
    drawn in the cell would be drawn once: pass noise and masks as part of xs. (A cell is compared with itself at two steps
    whenever it closes over something new; an array that it begins to write into later, in place, goes unnoticed.)

    Source: the form is that of `jax.lax.scan`; truncation as in Williams and Peng, "An efficient gradient-based
    algorithm for on-line training of recurrent network trajectories" (1990).

    Example:
        >>> state, ys = tg.scan(lambda s, x: (s + x, s * x), np.zeros(()), np.array([1.0, 2.0, 3.0]))
        >>> float(state), ys
        (6.0, array([0., 2., 9.]))
    """
    T = _steps(xs, length)
    state = _prepared(state, xs)
    times = range(T)
    if lengths is not None:
        cell, xs = _with_lengths(cell, state, xs, lengths, T)
    now = mode.get()
    if now.recorder is not None and not now.tracing and hasattr(now.recorder, "enter"):
        cell = now.recorder.enter(cell)
    if reverse:
        times, xs = times[::-1], trees.map(lambda x: flip(x, 0), xs)
    run = _compiled if compiled else _plain
    if checkpoint is not None:
        run = _checkpointing(run, checkpoint, T)
    if truncate is not None:
        run = _truncating(run, truncate, T)
    state, ys = run(cell, state, xs, times)
    return state, trees.map(lambda y: flip(y, 0), ys) if reverse else ys


# ---- what comes in ------------------------------------------------------------------------------------------


def _steps(xs, length):
    """The number of steps, which every leaf of xs must agree on."""
    if length is None and type(xs) in (Tensor, np.ndarray) and xs.ndim:
        return xs.shape[0]
    if length is not None and (not isinstance(length, (int, np.integer)) or length < 0):
        raise DomainError(message(_WHO, "length is not a number of steps", {"length": repr(length)}, "Pass an int, 0 or more."))
    leaves = trees.flatten(xs)[0]
    sizes = {np.shape(leaf)[:1] for leaf in leaves} | ({(length,)} if length is not None else set())
    if len(sizes) == 1 and () not in sizes:
        return sizes.pop()[0]
    facts = dict(zip(trees.paths(xs, "xs"), map(np.shape, leaves)))
    for name, shape in facts.items():
        if not shape:
            raise ShapeError(message(_WHO, f"{name} has no time axis", {name: shape}, "Give every leaf of xs a leading axis of T steps."))
    if not sizes:
        raise ArgumentError(message(_WHO, "neither xs nor length says how many steps", {}, "Pass length=T when there are no xs."))
    facts = {name: shape[0] for name, shape in facts.items()} | ({} if length is None else {"length": length})
    raise ShapeError(message(_WHO, "the sequences have unequal lengths", facts, "Pad them to one length and pass lengths=."))


_ARRAYS = {Tensor, np.ndarray}


def _prepared(state, xs):
    """The initial state with arrays for Python numbers, in the dtype of the first floating point leaf of xs."""
    if type(state) in _ARRAYS or _ARRAYS.issuperset(map(type, trees.flatten(state)[0])):
        return state
    floats = [leaf.dtype for leaf in trees.flatten(xs)[0] if getattr(leaf, "dtype", np.dtype(int)).kind == "f"]
    dtype = floats[0] if floats else np.dtype(float)

    def one(leaf):
        if isinstance(leaf, (Tensor, np.ndarray)):
            return leaf
        return np.asarray(leaf) if isinstance(leaf, (bool, np.bool_)) else np.asarray(leaf, dtype)

    return trees.map(one, state)


def _at(xs, t):
    return trees.map(lambda x: getitem(x, index=(t,)), xs)


def _part(xs, start, stop):
    return trees.map(lambda x: getitem(x, index=(slice(start, stop),)), xs)


# ---- the plain meaning --------------------------------------------------------------------------------------


def _plain(cell, state, xs, times):
    """The loop of the module's text; `times` are the time indices that reports speak of."""
    structure = trees.flatten(state)[1]
    if not times:
        return state, _no_outputs(cell, state, xs)
    watched = mode.get().recorder is not None
    columns, outputs = None, None
    for i, t in enumerate(times):
        token = step.set(t) if watched else None
        try:
            state, y = checked(cell(state, _at(xs, i)), state, structure, t)
        finally:
            if token is not None:
                step.reset(token)
        leaves, shape = trees.flatten(y)
        if columns is None:
            columns, outputs = [[] for _ in leaves], shape
        elif shape != outputs:
            raise ArgumentError(message(_WHO, f"the cell's output has another structure at step {t}", {"before": outputs, "now": shape},
                                        "Return outputs of one structure at every step."))
        for column, leaf in zip(columns, leaves):
            column.append(leaf)
    return state, trees.unflatten(outputs, [stack(column) for column in columns])


def _no_outputs(cell, state, xs):
    """T = 0: run the cell on zeros to learn the shapes of its outputs."""
    zeros = trees.map(lambda x: np.zeros(x.shape[1:], x.dtype), xs)
    state = trees.map(lambda s: np.zeros(s.shape, s.dtype), state)
    with np.errstate(all="ignore"):
        _, y = checked(cell(state, zeros), state, trees.flatten(state)[1], 0)
    return trees.map(lambda leaf: np.zeros((0, *np.shape(leaf)), getattr(leaf, "dtype", float)), y)


def checked(result, state, structure, t):
    """What a cell returned, if it is a state like the one that came in and an output."""
    if not isinstance(result, tuple) or len(result) != 2:
        got = f"a tuple of {len(result)}" if isinstance(result, tuple) else type(result).__name__
        raise ArgumentError(message(_WHO, f"the cell did not return (state, y) at step {t}", {"returned": got},
                                    "End the cell with `return state, y`; y may be the state itself, or None."))
    new, y = result
    leaves = trees.flatten_like(new, structure)
    if leaves is None:
        raise ArgumentError(message(_WHO, f"the cell changed the structure of its state at step {t}",
                                    {"in": structure, "out": trees.flatten(new)[1]}, "Return a state of the structure it came in with."))
    before = trees.flatten(state)[0]
    if all([type(leaf) is Tensor and leaf.shape == old.shape and leaf.dtype == old.dtype for old, leaf in zip(before, leaves)]):
        return trees.unflatten(structure, leaves), y
    for name, old, leaf in zip(trees.paths(state, "state"), before, leaves):
        if np.shape(leaf) != np.shape(old):
            raise ShapeError(message(_WHO, f"the cell changed the shape of its state at step {t}",
                                     {name: f"in {np.shape(old)} out {np.shape(leaf)}"}, "Return a state with the shapes it came in with."))
        if getattr(leaf, "dtype", old.dtype) != old.dtype:
            raise DtypeError(message(_WHO, f"the cell changed the dtype of its state at step {t}",
                                     {name: f"in {old.dtype} out {leaf.dtype}"}, "Start from a state of the dtype that the cell computes in."))
    return trees.unflatten(structure, [np.asarray(leaf, old.dtype) if isinstance(leaf, (int, float)) else leaf
                                       for old, leaf in zip(before, leaves)]), y


# ---- the compiled meaning -----------------------------------------------------------------------------------

_programs = {}  # key of a trace -> Known, the last that was asked for at the end: the others are forgotten first
_MOST_PROGRAMS = 512


def _compiled(cell, state, xs, times):
    """Trace the cell on the first step, and run the loop that the trace describes; its plain meaning when watched."""
    states, structure = trees.flatten(state)
    leaves, xs_structure = trees.flatten(xs)
    now, inputs, T = mode.get(), [*states, *leaves], len(times)
    if not T or now.recorder is not None and not now.tracing:
        return _plain(cell, state, xs, times)
    code = code_of(cell)
    seen, known, closed, traced, step = (id(code), structure, xs_structure), None, None, None, None
    if type(now.recorder) is Follower and not now.grad:
        step = now.recorder.ahead(run_loop, inputs)
    noted = step is not None and step.note is not None and step.note[0] == seen and step.note[1] == T
    if noted:
        known = step.note[2]
        closed = now.recorder.made(step, known.recorded, known.again(cell, structure, xs_structure))
    else:
        arrays = [x._array if type(x) is Tensor else x for x in inputs]
        if 0 in [x.size for x in arrays]:
            return _plain(cell, state, xs, times)
        shapes = (*seen, *[x.shape for x in arrays], *[x.dtype for x in arrays])
        _, known = _known.get(shapes, (code, None))
        if known is not None:
            closed = known.recorded.repeated(known.again(cell, structure, xs_structure))
        if closed is None:
            traced = Trace(cell, states, structure, leaves, xs_structure, 0, times[0])
            closed = [obj for _, obj in traced.tracer.closed]
            known = _programs.pop(traced.key, None) or Known(traced)
            _programs[traced.key] = known
            while len(_programs) > _MOST_PROGRAMS:
                _programs.pop(next(iter(list(_programs)), None), None)
            if len(_known) >= _MOST_PROGRAMS:
                _known.clear()
            _known[shapes] = code, known
    trail = closed and [_trail(obj) for obj in closed if type(obj) is not Tensor or obj._node is None and obj._trace is None]
    if (trail or not noted and known.trail != []) and T > 1 and not known.expects(trail):
        traced = traced or Trace(cell, states, structure, leaves, xs_structure, 0, times[0])
        traced.compare(Trace(cell, [out._array if isinstance(out, Tensor) else np.asarray(out) for out in traced.after],
                             structure, leaves, xs_structure, 1, times[1]))
        known.trail = trail
    if noted:
        out = now.recorder.passed(step)
    else:
        out = run_loop(*inputs, *closed, loop=known.loop, T=T)
        if step is not None:
            step.note = seen, T, known, code
    return known.trees(structure, out)


# (identity of a cell's code, shapes that it was called with) -> the code, which keeps its identity, and the program that
# it was last: what a call is expected to repeat
_known = {}


def _trail(obj):
    """(array or number, what is seen of it): what something closed over is recognised by, if the cell itself may have made
    it: would it do the same at the next step? (A Tensor that is tracked or that an outer trace made was there before. A
    number stands for itself.)"""
    if type(obj) is Tensor:
        obj = obj._array
    if not isinstance(obj, np.ndarray) or not obj.ndim:
        return np.asarray(obj).item(), None
    if type(obj.base) is np.ndarray:
        return weakref.ref(obj.base), (obj.strides, obj.__array_interface__["data"])
    return weakref.ref(obj), None


class Known:
    """What a trace is remembered by: its loop, and what a later run of the cell is compared with."""

    def __init__(self, trace):
        self.loop, self.y_structure, self.n_states = trace.loop(), trace.y_structure, len(trace.states)
        self.recorded = Recorded(trace.tracer, trace.values, [*trace.states, *trace.ys])
        self.trail: list | None = None  # of what the cell closed over when two of its steps were last compared

    def expects(self, trail):
        """Whether two steps were compared when the cell closed over just this."""
        return self.trail is not None and len(trail) == len(self.trail) and all([
            (now is before or type(now) is not weakref.ref and now == before) and seen == as_before
            for (now, seen), (before, as_before) in zip(trail, self.trail)])

    def again(self, cell, structure, xs_structure):
        """The leaves of the next state and of what the cell returns besides, as a function of those that go in; None if they
        stand in other trees."""
        n = self.n_states

        def function(tensors):
            result = cell(trees.unflatten(structure, tensors[:n]), trees.unflatten(xs_structure, tensors[n:]))
            new, y = result if type(result) is tuple and len(result) == 2 else (None, None)
            after, (ys, y_structure) = trees.flatten_like(new, structure), trees.flatten(y)
            same = after is not None and (y_structure is self.y_structure or y_structure == self.y_structure)
            return [*after, *ys] if same else None

        return function

    def trees(self, structure, out):
        """The last state and the outputs."""
        return trees.unflatten(structure, out[:self.n_states]), trees.unflatten(self.y_structure, out[self.n_states:])


class Trace:
    """One step of a cell, recorded: the calls, what the cell closes over, and a key that says when two are the same."""

    def __init__(self, cell, states, structure, leaves, xs_structure, i, t, watch=None):
        self.cell, self.t = cell, t
        self.tracer = tracer = Tracer(name_of(cell), literals_of(cell))
        inputs = [tracer.input(s) for s in states]
        inputs += [tracer.input((x._array if type(x) is Tensor else x)[i, ...]) for x in leaves]
        self.values = [value for value, _ in inputs]
        tensors = [tensor for _, tensor in inputs]
        n = len(states)
        try:
            with switched(grad=False, recorder=tracer):
                before = trees.unflatten(structure, tensors[:n])
                called = cell if watch is None else watch(cell)
                after, y = checked(called(before, trees.unflatten(xs_structure, tensors[n:])), before, structure, t)
        finally:
            tracer.mark.live = False
        self.after = trees.flatten(after)[0]
        ys, self.y_structure = trees.flatten(y)
        self.states, self.ys = [tracer.value(leaf) for leaf in self.after], [tracer.value(leaf) for leaf in ys]
        self.closed = [obj if type(obj) is Tensor else np.array(obj) for _, obj in tracer.closed]  # (the cell may write into an array)
        self.key = (code_of(cell), structure, xs_structure, self.y_structure, tuple(tracer.key),
                    tuple([(v.shape, v.dtype) for v in self.values]), tuple([(v.number, v.shape, v.dtype) for v, _ in tracer.closed]),
                    tuple([v.number for v in (*self.states, *self.ys)]))

    def loop(self):
        """The loop that repeats this step."""
        body = Program([*self.values, *[v for v, _ in self.tracer.closed]], self.tracer.calls, [*self.states, *self.ys])
        return Loop(body, len(self.states), len(self.values) - len(self.states), len(self.ys))

    def compare(self, other):
        """Refuse a cell that would not do the same at the next step."""
        same = self.key == other.key and all(map(_same, self.closed, other.closed))
        if not same:
            what = "closes over a value that changes" if self.key == other.key else "makes other calls"
            raise TraceError(message(_WHO, f"the cell {what} from step {self.t} to step {other.t}", {"cell": self.tracer.name},
                                     "Pass what changes (counters, noise, masks) in state or xs, or use compiled=False."))


def _same(a, b):
    if a is b:
        return True
    a, b = (x._array if isinstance(x, Tensor) else np.asarray(x) for x in (a, b))
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f" and b.dtype.kind == "f")


# ---- the options --------------------------------------------------------------------------------------------


def _with_lengths(cell, state, xs, lengths, T):
    """The cell and the sequences for rows that end early: a step past the end computes on real values and is dropped."""
    lengths = np.asarray(lengths)
    B = lengths.shape[0] if lengths.ndim == 1 else None
    facts = {"lengths": lengths.shape} | {name: np.shape(leaf) for name, leaf in zip(trees.paths(state, "state"), trees.flatten(state)[0])}
    if B is None or lengths.dtype.kind not in "iu" or any(np.shape(leaf)[:1] != (B,) for leaf in trees.flatten(state)[0]):
        raise ShapeError(message(_WHO, "lengths needs one integer per batch row, and the batch first in every leaf of the state", facts,
                                 "Pass integers of shape (B,) and a state whose leaves are (B, …)."))
    if lengths.size and (lengths.min() < 0 or lengths.max() > T):
        raise DomainError(message(_WHO, "a length lies outside the sequence", {"lengths": f"{lengths.min()} to {lengths.max()}", "T": T},
                                  f"Pass lengths between 0 and {T}."))
    active = np.arange(T)[:, None] < lengths
    # a padded step is fed the row's last real values (or, for an empty row, those of the longest one)
    rows = np.where(lengths > 0, np.arange(B), np.argmax(lengths) if B else 0)
    times = np.minimum(np.arange(T)[:, None], np.maximum(lengths[rows] - 1, 0))

    def filled(name, x):
        if np.shape(x)[1:2] != (B,):
            raise ShapeError(message(_WHO, f"{name} has no batch axis of the size of lengths", {name: np.shape(x), "lengths": (B,)},
                                     "Give every leaf of xs the shape (T, B, …)."))
        real = stop_gradient(x)[times, rows] if lengths.any() else np.ones(np.shape(x), x.dtype)
        return where(_against(active, x), x, real)

    def masked(state, x_and_active):
        x, active = x_and_active
        new, y = checked(cell(state, x), state, structure, step.get() or 0)
        for name, leaf in zip(trees.paths(y, "y"), trees.flatten(y)[0]):
            if np.shape(leaf)[:1] != (B,):
                raise ShapeError(message(_WHO, f"{name} has no batch axis of the size of lengths", {name: np.shape(leaf), "lengths": (B,)},
                                         "Return outputs of shape (B, …), so that those past a row's end can be zero."))
        held = trees.map(lambda a, b: where(_against(active, a), a, b), new, state)
        return held, trees.map(lambda leaf: where(_against(active, leaf), leaf, 0.0), y)

    structure = trees.flatten(state)[1]
    leaves, xs_structure = trees.flatten(xs)
    xs = trees.unflatten(xs_structure, [filled(name, x) for name, x in zip(trees.paths(xs, "xs"), leaves)])
    return masked, (xs, active)


def _against(mask, x):
    """A mask shaped so that it broadcasts over the axes that x has beyond it."""
    return mask.reshape(mask.shape + (1,) * (np.ndim(x) - mask.ndim))


def _checkpointing(run, k, T):
    """Segments of k steps, each computed again in the backward: memory grows with T / k + k."""
    k = math.isqrt(max(T - 1, 0)) + 1 if k == "sqrt" else k
    if not isinstance(k, int) or k < 1:
        raise DomainError(message(_WHO, "checkpoint is not a number of steps", {"checkpoint": repr(k)}, 'Pass a positive int, or "sqrt".'))

    def segments(cell, state, xs, times):
        parts = []
        for start in range(0, len(times), k):
            stop = min(start + k, len(times))
            segment = checkpointed(lambda state, xs, times=times[start:stop]: run(cell, state, xs, times))
            state, ys = segment(state, _part(xs, start, stop))
            parts.append(ys)
        return state, _joined(parts) if parts else _no_outputs(cell, state, xs)

    return segments


def _joined(parts):
    return parts[0] if len(parts) == 1 else trees.map(lambda *ys: concatenate(ys), *parts)


def _truncating(run, truncate, T):
    """One window per block: it starts as far back as the block's cotangents may travel, at a state that is a constant."""
    fits = isinstance(truncate, tuple) and len(truncate) == 2 and all(isinstance(k, (int, np.integer)) and k >= 1 for k in truncate)
    if not fits:
        raise DomainError(message(_WHO, "truncate is not a pair of step counts", {"truncate": repr(truncate)}, "Pass (k1, k2), two positive ints."))
    k1, k2 = truncate

    def windows(cell, state, xs, times):
        T = len(times)
        if k2 >= k1 >= T or not T:
            return run(cell, state, xs, times)
        held = trees.map(stop_gradient, state)
        last, (before, values) = _plain(lambda s, x: _with_state_before(cell, s, x), held, trees.map(stop_gradient, xs), times)
        before, values, last = trees.map(stop_gradient, (before, values, last))
        parts = []
        for b in range(0, T, k1):
            start, stop = max(0, b - (k2 - k1)), min(b + k1, T)
            if b <= start and start >= stop:  # nothing of this short block reaches any cell
                parts.append(_part(values, b, stop))
                end = last
                continue
            entry = state if start == 0 else _at(before, start)
            end, ys = run(cell, entry, _part(xs, start, stop), times[start:stop])
            if start > b:
                parts.append(_part(values, b, start))
                parts.append(ys)
            else:
                parts.append(_part(ys, b - start, stop - start))
        return end, _joined(parts)

    return windows


def _with_state_before(cell, state, x):
    new, y = cell(state, x)
    return new, (state, y)
