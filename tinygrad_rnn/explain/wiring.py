"""wiring: one step of a cell, recorded as values that flow from call to call.

Knows which of a cell's values are states, inputs and parameters, what the cell calls them, and what each call would
say in a box. Refuses to know how it is drawn (`graph` does). Below it: watch, scan.
"""

import inspect
from dataclasses import dataclass

import numpy as np

from .. import trees
from ..errors import ShapeError, message
from ..scan import checked, step
from ..tensor import Tensor, switched, tensor
from .watch import Naming, Watcher, caller, held, is_users


@dataclass
class Value:
    """Something that flows: made by call number `call`, or an input (`kind`)."""

    kind: str
    call: int = -1
    name: str = ""
    depth: int = 0
    step: int | None = None


class _Wiring(Watcher):
    def __init__(self):
        self.naming, self.values, self.calls, self.alive = Naming(step.get), {}, [], []

    def know(self, obj, value):
        self.values[id(obj)] = value
        self.alive.append(obj)
        self.naming.expect(obj, value)
        return value

    def record(self, op, args, statics):
        frame = caller()
        self.naming.look(frame)
        y = self.run(op, args, statics)
        sources, numbers = [], []
        for arg in args:
            if isinstance(arg, Tensor) or isinstance(arg, np.ndarray) and (arg.ndim or id(arg) in self.values):
                value = self.values.get(id(arg))
                if value is None:
                    value = self.know(arg, Value("parameter", name=_name_in_cell(arg, frame)))
                    value.depth = -1  # keeps this name
                sources.append(value)
                numbers.append(None)
            else:
                numbers.append(f"{float(np.asarray(arg)):g}" if np.ndim(arg) == 0 else "[…]")
        outs = y if type(y) is tuple else (y,)
        made = [self.know(out, Value("op", len(self.calls))) for out in outs]
        self.calls.append((_text(op, numbers, statics), sources, made))
        return y


def _name_in_cell(parameter, frame):
    """What the cell calls a parameter, or else the function nearest to the cell that has a name for it."""
    label = "constant"
    while frame is not None and frame.f_code is not wired.__code__:
        if is_users(frame):
            label = next((name for name, value in held(frame) if value is parameter), label)
        frame = frame.f_back
    return label.rpartition(".")[2]


SIGNS = {"add": "+", "subtract": "−", "multiply": "×", "divide": "÷", "matmul": "@", "dot": "@", "power": "^"}


def _text(op, numbers, statics):
    """What stands in the box of a call: "tanh", "×", "1 − ·", "sum axis=1"."""
    if op.name in SIGNS:
        sign = SIGNS[op.name]
        return f"{numbers[0] or '·'} {sign} {numbers[1] or '·'}" if any(numbers) else sign
    shown = [_index(v) if k == "index" else f"{k}={v}" for k, v in statics.items() if v is not op.defaults.get(k)]
    shown = [text for text in shown if len(text) <= 16]
    name = {"getitem": "", "negative": "−"}.get(op.name, op.name.rstrip("_"))
    return " ".join([part for part in (name, *(n for n in numbers if n), *shown) if part]) or op.name


def _index(index):
    def one(part):
        if isinstance(part, slice):
            ends = (part.start, part.stop, *([] if part.step is None else [part.step]))
            return ":".join("" if end is None else str(end) for end in ends)
        return "…" if part is Ellipsis else str(part)

    return f"[{', '.join(map(one, index))}]"


@dataclass
class Wired:
    """A cell's step: its calls in order, and where states, inputs and outputs hang."""

    title: str
    calls: list
    states: list
    inputs: list
    state_names: list
    input_names: list
    results: list
    outputs: list
    output_names: list


def wired(who, cell, state, xs):
    """Run the cell on its first step and look on."""
    title = getattr(cell, "__qualname__", type(cell).__qualname__).rpartition("<locals>.")[2]
    sizes = {name: np.shape(leaf)[:1] for name, leaf in zip(trees.paths(xs, "xs"), trees.flatten(xs)[0])}
    if any(size in ((), (0,)) for size in sizes.values()):
        raise ShapeError(message(who, "the sequences have no first step", sizes, "Pass sequences of at least one step."))
    wiring = _Wiring()
    numbers = trees.map(lambda leaf: float(leaf) if isinstance(leaf, int) else leaf, state)
    states, structure = trees.flatten(trees.map(tensor, numbers))
    leaves, xs_structure = trees.flatten(trees.map(lambda leaf: tensor(leaf[0]), xs))
    known_states = [wiring.know(leaf, Value("state")) for leaf in states]
    known_inputs = [wiring.know(leaf, Value("input")) for leaf in leaves]
    before = trees.unflatten(structure, states)
    with wiring.watching(who), switched(grad=False), wiring.naming.at_returns():
        after, y = checked(cell(before, trees.unflatten(xs_structure, leaves)), before, structure, 0)
    parameters = inspect.signature(cell).parameters.values()
    own = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    roots = own[:2] if len(own) > 1 else ["state", "x"]
    state_names, input_names = (_names(known, trees.paths(tree, root)) for known, tree, root in zip(
        (known_states, known_inputs), (state, xs), roots))
    results, outputs = ([wiring.values.get(id(leaf)) for leaf in trees.flatten(tree)[0]] for tree in (after, y))
    return Wired(title, wiring.calls, known_states, known_inputs, state_names, input_names, results, outputs,
                 trees.paths(y, "y"))


def _names(values, paths):
    """What the cell calls its inputs, if it has a name for each; a name is used once."""
    own = [value.name for value in values]
    return own if all(own) and len(set(own)) == len(own) else paths
