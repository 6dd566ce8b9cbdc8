"""A cell with names, its loop, and the loop's derivative: what the printed forms of a derivation share.

Knows how to trace a cell for reading: with the author's names where there are some and descriptions where there are none,
without the detours that rules take (a transpose of a transpose, a product with itself). Refuses to derive anything: the
loops are those of `derive`. Below it: scan, derive, names, tidy, words.
"""

import numpy as np

from .. import trees
from ..derive import augmented, derived
from ..errors import ArgumentError, message
from ..loops import Loop
from ..primitive import registry
from ..program import Call, Program, Value
from ..scan import Trace, _prepared, _steps
from ..tensor import Tensor
from .names import LocalNames, arguments, closed_over, state_names
from .tidy import tidied
from .words import SQUASHES, described

_SPELLED = 1000  # elements up to which an array that nobody named stands in the text


class Derivation:
    """A traced cell, its augmented loop (`forward`) and the derivative of that (`backward`) by every floating point input.

    `hints` are the names that nobody gave: values that have one may be written into the expression that reads them.
    """

    def __init__(self, cell, state=None, xs=None, length=None, who="source(cell, state, xs)"):
        state, xs = _given(cell, state, xs, length, who)
        state = _prepared(state, xs)
        self.T = _steps(xs, length)
        self.arguments = arguments(cell)
        states, self.structure = trees.flatten(state)
        leaves, self.xs_structure = trees.flatten(xs)
        if self.T == 0:
            leaves = [np.zeros((1, *np.shape(x)[1:]), x.dtype) for x in leaves]
        local = LocalNames()
        self.trace = trace = Trace(cell, states, self.structure, leaves, self.xs_structure, 0, 0, watch=local)
        self.cell, self.y_structure = trace.tracer.name.replace(".<locals>", ""), trace.y_structure
        if self.T > 1:
            after = [out._array if isinstance(out, Tensor) else np.asarray(out) for out in trace.after]
            trace.compare(Trace(cell, after, self.structure, leaves, self.xs_structure, 1, 1))
        self.literals = {}  # numbers that nobody named: they stand in the text
        self.transposes = {}  # W.T of an array W: NumPy has made it before we could see it
        self._name(cell, state, xs, local.found)
        self.traced = self._with_literals(trace.loop())
        self.hints = self._describe(self.traced)
        numbers = {value for value, _ in trace.tracer._numbers.values()}  # a number may stand behind others that are no ops
        active = tuple(v.dtype.kind == "f" and v not in numbers for v in self.traced.body.inputs)
        self.forward = augmented(self.traced, active)
        shown = self.traced.n_states + self.traced.n_ys
        given = tuple(i < shown and isinstance(v, Value) and v.dtype.kind == "f" for i, v in enumerate(self.forward.body.outputs))
        self.backward = derived(self.forward, given)

    def _with_literals(self, loop):
        body, spelled = loop.body, self.literals
        bases = {v.name: v for v in body.inputs}
        before = []
        for value, (name, base) in self.transposes.items():
            if name not in bases:
                bases[name] = Value(base.shape, base.dtype, name)
            value.name = ""
            before.append(Call(registry["transpose"], (bases[name],), {"axes": None}, (value,)))
        calls = before + [Call(c.op, tuple(spelled.get(a, a) if isinstance(a, Value) else a for a in c.args), c.statics, c.outs) for c in body.calls]
        inputs = [v for v in body.inputs if (v not in spelled or v in body.outputs) and v not in self.transposes]
        inputs += [v for v in bases.values() if v not in body.inputs]
        return Loop(Program(inputs, calls, body.outputs), loop.n_states, loop.n_xs, loop.n_ys, loop.reverse)

    def reading(self):
        """The backward loop without detours, with descriptions for what has no name."""
        loop, _ = tidied(self.backward.loop)
        self.hints |= self._describe(loop) | {f"minus_{name}" for name in self.hints}
        return loop

    def _name(self, cell, state, xs, found):
        tracer = self.trace.tracer
        for array in tracer._alive:
            tracer._values[id(array)].name = found.get(id(array), "")
        n = len(self.trace.states)
        for value, name in zip(self.trace.values[:n], state_names(self.structure, state, self.arguments[0])):
            value.name = name
        for value, name in zip(self.trace.values[n:], state_names(self.xs_structure, xs, self.arguments[1])):
            value.name = value.name if self.xs_structure.kind is not trees.LEAF and value.name else name
        outside, numbers = closed_over(cell), {value: number for (number, _), (value, _) in tracer._numbers.items()}
        for i, (value, obj) in enumerate(tracer.closed):
            name = outside.get(numbers[value] if value in numbers else id(obj._array if isinstance(obj, Tensor) else obj), "")
            value.name = name or f"p{i}"
            if name or isinstance(obj, Tensor):
                continue
            base = getattr(obj, "base", None)
            if base is not None and id(base) in outside and _is_transpose(obj, base):
                self.transposes[value] = outside[id(base)], base
            elif value.size <= _SPELLED:
                self.literals[value] = numbers.get(value, np.asarray(obj))
        for value, out in zip(self.trace.values[:n], self.trace.states):
            out.name = out.name or value.name
        for i, out in enumerate(self.trace.ys):
            out.name = out.name or ("y" if len(self.trace.ys) == 1 else f"y{i + 1}")
        nexts = {out.name: out for out in self.trace.states}
        for value in tracer._values.values():  # a name that was bound to another shape before is not the state's
            if value.name in nexts and value not in self.trace.values and value.shape != nexts[value.name].shape:
                value.name += "_inner"
        for value, out in zip(self.trace.values[:n], self.trace.states):
            if out.name and self.structure.kind is not trees.LEAF and out not in self.trace.values:
                value.name = out.name

    @staticmethod
    def _describe(loop):
        """Name what has no name after what it is; returns these names and those of their cotangents."""
        body = loop.body
        used = {v.name for v in (*body.inputs, *(v for c in body.calls for v in c.outs))}
        readers, makers, hints = {}, {v: c for c in body.calls for v in c.outs}, set()
        for call in body.calls:
            for a in call.inputs:
                readers.setdefault(a, []).append(call)
        several = sum(c.op.name in SQUASHES - {"split_"} for c in body.calls) > 1
        for call in body.calls:
            for v in call.outs:
                if not v.name:
                    word = described(call, readers.get(v, ()), makers, several)
                    v.name = word if word not in used else next(f"{word}{i}" for i in range(2, 10**6) if f"{word}{i}" not in used)
                    used.add(v.name)
                    hints |= {v.name, f"d{v.name}"}
        return hints


def _is_transpose(array, base):
    same = array.__array_interface__["data"] == base.__array_interface__["data"]
    return same and array.ndim > 1 and (array.shape, array.strides) == (base.shape[::-1], base.strides[::-1])


def _given(cell, state, xs, length, who):
    if state is None and hasattr(cell, "initial_state"):
        state = cell.initial_state((2,))
    if xs is None and length is None and hasattr(cell, "input_size"):
        xs = np.ones((3, 2, cell.input_size), trees.flatten(state)[0][0].dtype)
    if state is None or xs is None and length is None:
        raise ArgumentError(message(who, "the sizes are not known", {"cell": type(cell).__name__},
                                    "Pass an initial state and a sequence, for example zeros of the right shapes."))
    return state, xs
