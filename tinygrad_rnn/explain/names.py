"""Names: what the author of a cell calls its values.

Knows how to learn the local variables of a function (by looking at its frame when it returns), its arguments, and what
the things it closes over are called. Refuses to rename anything that has a name. Below it: trees, tensor.
"""

import inspect
import sys
from typing import Any

import numpy as np

from .. import trees
from ..tensor import Tensor


class LocalNames:
    """Wraps a cell; after a call `found` maps the identity of each array among its locals to the name that it got first."""

    def __init__(self):
        self.found, self.parts = {}, {}  # by a name of their own, and as a part of something that has one

    def __call__(self, cell):
        target = inspect.unwrap(cell)
        target = getattr(target, "__func__", target)
        code = getattr(target, "__code__", None) or getattr(type(cell).__call__, "__code__", None)

        def look(frame, event, _):
            if frame.f_code is not code:
                return None
            for name, value in frame.f_locals.items():  # before every line: a name may be bound again later
                self._learn(name, value)
            return look

        def called(*args):
            before = sys.gettrace()
            sys.settrace(look)
            try:
                return cell(*args)
            finally:
                sys.settrace(before)
                self.found = {**self.parts, **self.found}

        return called

    def _learn(self, name, value):
        if isinstance(value, Tensor):
            self.found.setdefault(id(value._array), name)
        elif isinstance(value, (tuple, list)):
            for i, part in enumerate(value):
                if isinstance(part, Tensor):
                    self.parts.setdefault(id(part._array), f"{name}{i}")


def arguments(cell):
    """The names of a cell's two arguments."""
    try:
        names = [p.name for p in inspect.signature(cell).parameters.values()]
    except (TypeError, ValueError):
        names = []
    return (names + ["state", "x"])[:2] if len(names) >= 2 else ("state", "x")


def closed_over(cell):
    """{identity of an array, or a number: name} for what a cell can see: its closure, the globals it reads, its own attributes."""
    function = inspect.unwrap(cell)
    owner = getattr(function, "__self__", None)
    function: Any = getattr(function, "__func__", function)
    if not hasattr(function, "__code__"):
        owner, function = cell, type(cell).__call__
    seen = {}
    code = function.__code__
    scope = {name: function.__globals__[name] for name in _read(code) if name in function.__globals__}
    for name, slot in zip(code.co_freevars, function.__closure__ or ()):
        try:
            scope[name] = slot.cell_contents
        except ValueError:
            continue
    for default in (inspect.signature(function).parameters.values() if callable(function) else ()):
        if default.default is not inspect.Parameter.empty:
            scope[default.name] = default.default
    if owner is not None:
        _collect(vars(owner) if hasattr(owner, "__dict__") else {}, "", seen)
    for name, value in scope.items():
        _collect({name: value}, "", seen)
    return seen


def _read(code):
    names = set(code.co_names)
    for constant in code.co_consts:
        if inspect.iscode(constant):
            names |= _read(constant)
    return names


def _collect(named, prefix, seen, depth=0):
    """Arrays under their own key or attribute: `p["W"]` is W, `self.weight_hh` is weight_hh."""
    value: Any
    for name, value in named.items():
        if type(value) is float:
            seen.setdefault(value, str(name))
        elif isinstance(value, (Tensor, np.ndarray)):
            seen.setdefault(id(value._array if isinstance(value, Tensor) else value), str(name))
        elif isinstance(value, dict) and depth < 3:
            _collect({str(k): v for k, v in value.items()}, name, seen, depth + 1)
        elif isinstance(value, (list, tuple)) and depth < 3:
            _collect({f"{name}{i}": v for i, v in enumerate(value)}, name, seen, depth + 1)
        elif hasattr(type(value), "tree_children") and depth < 3:
            _collect(value.tree_children(), name, seen, depth + 1)  # pyright: ignore[reportAttributeAccessIssue]
        elif hasattr(value, "__dict__") and not inspect.isclass(value) and not inspect.ismodule(value) and not callable(value) and depth < 2:
            _collect(vars(value), name, seen, depth + 1)


def state_names(structure, state, argument):
    """A short name for each leaf of a state: the key or field where there is one, else the argument's name with a number."""
    paths = trees.paths(state)
    if structure.kind is trees.LEAF:
        return [argument]
    return [path.rsplit(".", 1)[-1].replace("[", "").replace("]", "") if not path.startswith("[") else f"{argument}{path.strip('[]').replace('][', '_')}"
            for path in paths]
