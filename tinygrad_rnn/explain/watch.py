"""Watching a computation: every op call, where in the user's code it stands, and what the results are called there.

Knows the recorder that looks on without changing anything, which frames of the stack are the user's, and how a
value gets the name of the local variable that holds it: by identity, while the frame runs and when it returns.
Refuses to know what the looking is for: `trace`, `anomaly`, `ledger` and `graph` do. Below it: tensor, trees.
"""

import contextlib
import inspect
import sys

import numpy as np

from .. import trees
from ..errors import GradientError, TraceError, message
from ..tensor import Tensor, mode, switched, tensor

_HOME = __file__.rpartition("explain")[0]
_ENGINE = tuple(_HOME + name for name in (
    "tensor", "primitive", "ops", "walk", "gradients", "program", "derive", "spelling", "schedule", "buffers", "steps", "emit", "rewrite", "loops", "scan",
    "trees", "explain"))


class Watcher:
    """A recorder that lets every call happen as it would, also under another recorder that was there before."""

    tracing = False
    outer = None

    def record(self, op, args, statics):
        """Run the call."""
        return self.run(op, args, statics)

    def run(self, op, args, statics):
        """The call itself, passed on to whoever watched before."""
        return op.apply(args, statics, mode.get().grad) if self.outer is None else self.outer.record(op, args, statics)

    def enter(self, cell):
        """The cell that scan is to run in place of `cell`."""
        return self.outer.enter(cell) if hasattr(self.outer, "enter") else cell

    @contextlib.contextmanager
    def watching(self, who):
        """Watch what the block does in this thread."""
        self.outer = mode.get().recorder
        if mode.get().tracing:
            raise TraceError(message(who, "called while a cell is traced", {"traced in": self.outer.name},
                                     "Call it around the scan, not inside its cell."))
        with switched(recorder=self):
            yield self


# ---- the user's code ----------------------------------------------------------------------------------------


def is_users(frame):
    """Whether a frame runs code that uses the engine, as opposed to the engine's own or NumPy's."""
    module = (frame.f_globals.get("__name__") or "").partition(".")[0]  # what the engine spells and evaluates has no module
    return module not in ("", "numpy", "contextlib", "functools") and not frame.f_code.co_filename.startswith(_ENGINE)


def caller():
    """The innermost frame of the user's."""
    frame = sys._getframe(1)
    while frame.f_back is not None and not is_users(frame):
        frame = frame.f_back
    return frame


def function_of(frame):
    """What the function that a frame runs is called: "cell", "GRUCell.__call__"."""
    name = frame.f_code.co_qualname.rpartition("<locals>.")[2]
    return "" if name == "<module>" else name


def line_of(frame):
    """Where a frame is: "model.py:12"."""
    return f"{frame.f_code.co_filename.replace(chr(92), '/').rpartition('/')[2]}:{frame.f_lineno}"


def held(frame):
    """Names and arrays that a frame's variables hold, directly or as members of a container or of an object."""
    seen = {name: frame.f_globals[name] for name in frame.f_code.co_names if name in frame.f_globals}
    for name, value in (frame.f_locals | seen).items():
        yield from _members(name, value, 2)


def _members(name, value, depth):
    if isinstance(value, (Tensor, np.ndarray)):
        yield name, value
        return
    if not depth or isinstance(value, (type, type(sys))) or inspect.isroutine(value):
        return
    if isinstance(value, (list, tuple)):
        pairs = [(f"{name}[{i}]", member) for i, member in enumerate(value[:100])]
    else:
        found = value if isinstance(value, dict) else value.tree_children() if hasattr(type(value), "tree_children") else (
            getattr(value, "__dict__", {}))
        pairs = [(f"{name}.{key}" if isinstance(key, str) else f"{name}[{key!r}]", member)
                 for key, member in list(found.items())]
    for label, member in pairs:
        yield from _members(label, member, depth - 1)


class Naming:
    """Gives results the names of the variables that hold them.

    `expect(obj, entry)` says that a value is wanted a name for; `entry` has the fields `name`, `depth` and `step`.
    A caller's name is preferred to its callee's, as long as both hold the value at the same time step: what a
    cell calls `z` stays `z` inside the function to which it is passed, and after the loop.
    """

    def __init__(self, now):
        self.now, self._wanted, self._kept = now, {}, []

    def expect(self, obj, entry):
        """Look out for `obj`, which is kept alive so that its identity stays its own."""
        self._wanted.setdefault(id(obj), entry)
        self._kept.append(obj)

    def look(self, frame):
        """Name what the frame's variables hold now."""
        depth = None
        for name, value in list(frame.f_locals.items()):
            if name.startswith(("_", ".")):
                continue
            if isinstance(value, (Tensor, np.ndarray)):
                found = ((name, value),)
            elif isinstance(value, (list, tuple)) and len(value) <= 16:
                found = [(f"{name}[{i}]", member) for i, member in enumerate(value)]
            else:
                continue
            for label, member in found:
                entry = self._wanted.get(id(member))
                if entry is None:
                    continue
                depth = _depth(frame) if depth is None else depth
                better = not entry.name or entry.name.endswith("]") and entry.depth == depth
                if better or depth < entry.depth and self.now() == entry.step and not label.endswith("]"):
                    entry.name, entry.depth = label, depth

    @contextlib.contextmanager
    def at_returns(self):
        """Also look whenever a function of the user's returns."""
        def profile(frame, event, arg):
            if event == "return" and is_users(frame):
                self.look(frame)

        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            yield
        finally:
            sys.setprofile(before)


def _depth(frame):
    depth = 0
    while frame is not None:
        frame, depth = frame.f_back, depth + 1
    return depth


# ---- running a loss -----------------------------------------------------------------------------------------


def inputs(params):
    """Names of the leaves of `params`, and a copy of it in which those of a float dtype are leaves of a graph."""
    leaves, structure = trees.flatten(params)
    fresh = [tensor(leaf, requires_grad=True) if np.result_type(getattr(leaf, "dtype", leaf)).kind == "f" else leaf
             for leaf in leaves]
    names = [name or "params" for name in trees.paths(params)]
    tracked = {name: leaf for name, leaf in zip(names, fresh) if isinstance(leaf, Tensor) and leaf.requires_grad}
    return tracked, trees.unflatten(structure, fresh)


def arguments(data):
    """What a loss is called with after its params: a tuple as it is, anything else as one argument."""
    return data if isinstance(data, tuple) else (data,)


def refuse_untracked(who, value):
    """A loss of which no gradient can be asked gets a clear word."""
    if not isinstance(value, Tensor) or not value.requires_grad:
        raise GradientError(message(who, "the loss does not depend on params", {"returned": type(value).__name__},
                                    "Return a value computed from params with ops, not with detach() or .numpy()."))
