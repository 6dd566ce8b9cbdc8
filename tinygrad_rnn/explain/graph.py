"""graph: the computation graph of a cell, rolled (one box with a loop) or unrolled in time, as Mermaid, DOT and SVG.

Knows how one step of a cell becomes boxes and arrows: what it calls, in the words of its own variables, where states,
inputs and parameters come in and what goes out. Refuses to know coordinates (`layered` does) and gradients. Below it:
watch, layered.
"""

import inspect
import textwrap
from dataclasses import dataclass

import numpy as np

from .. import trees
from ..errors import ArgumentError, ShapeError, message
from ..scan import checked, step
from ..tensor import Tensor, switched, tensor
from .layered import draw
from .watch import Naming, Watcher, caller, held

_WHO = "graph(cell, state, xs)"


@dataclass
class Box:
    """One node of the picture: `kind` is state, input, parameter, op, cell or output, `lines` is the text in it.

    `step` is the copy of the cell it stands in, None outside of any; `rank` its column.
    """

    kind: str
    lines: tuple
    step: int | None = None
    rank: int = 0


class Graph:
    """What `graph` returns: `boxes`, `arrows` (pairs of places in `boxes`) and `loops` (arrows back to the next step).

    Shown as a picture in a notebook; `str` is the Mermaid text.
    """

    def __init__(self, title, boxes, arrows, loops):
        self.title, self.boxes, self.arrows, self.loops = title, boxes, arrows, loops

    def _groups(self):
        """The copies of the cell that are drawn as frames around their ops."""
        steps = sorted({box.step for box in self.boxes if box.step is not None and box.kind != "cell"})
        one = "one step, repeated for every t" if self.loops else "step 0"
        return [(f"{self.title}: {one}" if len(steps) == 1 else f"{self.title}, step {t}", [i for i, box in enumerate(self.boxes) if box.step == t])
                for t in steps]

    def mermaid(self):
        """The graph as a Mermaid flowchart, which GitHub and many editors draw."""
        opened = {"state": '(["', "input": '(["', "output": '(["', "parameter": '{{"', "op": '["', "cell": '["'}
        closed = {"(": '"])', "{": '"}}', "[": '"]'}

        def spelled(i):
            box = self.boxes[i]
            text = "<br/>".join(_escaped(line, {'"': "#quot;", "<": "#lt;", ">": "#gt;"}) for line in box.lines)
            start = opened[box.kind]
            return f"n{i}{start}{text}{closed[start[0]]}:::{box.kind}"

        groups = self._groups()
        inside = {i for _, members in groups for i in members}
        lines = ["flowchart LR", *(f"  {spelled(i)}" for i in range(len(self.boxes)) if i not in inside)]
        for k, (label, members) in enumerate(groups):
            lines += [f'  subgraph g{k}["{label}"]', *(f"    {spelled(i)}" for i in members), "  end"]
        lines += [f"  n{a} --> n{b}" for a, b in self.arrows]
        lines += [f"  n{a} -. next step .-> n{b}" for a, b in self.loops]
        lines += [f"  classDef {kind} fill:{fill},stroke:{stroke},color:#000" for kind, (fill, stroke) in COLOURS.items()]
        return "\n".join(lines) + "\n"

    def dot(self):
        """The graph in DOT, the language of Graphviz."""
        shapes = {"op": "box", "cell": "box", "parameter": "hexagon"}

        def spelled(i):
            box, (fill, stroke) = self.boxes[i], COLOURS[self.boxes[i].kind]
            text = r"\n".join(_escaped(line, {"\\": r"\\", '"': r"\""}) for line in box.lines)
            return f'n{i} [label="{text}", shape={shapes.get(box.kind, "ellipse")}, style=filled, fillcolor="{fill}", color="{stroke}"]'

        groups = self._groups()
        inside = {i for _, members in groups for i in members}
        lines = ["digraph cell {", "  rankdir=LR", '  node [fontname="Helvetica", fontsize=11]',
                 *(f"  {spelled(i)}" for i in range(len(self.boxes)) if i not in inside)]
        for k, (label, members) in enumerate(groups):
            lines += [f"  subgraph cluster_{k} {{", f'    label="{label}"', '    style="rounded"', *(f"    {spelled(i)}" for i in members), "  }"]
        lines += [f"  n{a} -> n{b}" for a, b in self.arrows]
        lines += [f'  n{a} -> n{b} [style=dashed, constraint=false, label="next step"]' for a, b in self.loops]
        return "\n".join([*lines, "}"]) + "\n"

    def svg(self):
        """The graph as a picture that needs nothing but a browser."""
        return draw(self.boxes, self.arrows, self.loops, self._groups(), COLOURS)

    def save(self, path):
        """Write the graph; the ending of `path` (.svg, .dot, .mmd) says how.

        Raises: ArgumentError for another ending.
        """
        forms = {".svg": self.svg, ".dot": self.dot, ".gv": self.dot, ".mmd": self.mermaid}
        ending = next((ending for ending in forms if str(path).endswith(ending)), None)
        if ending is None:
            raise ArgumentError(message("save(path)", "the ending does not say in which form", {"path": path}, f"End it with one of {', '.join(forms)}."))
        with open(path, "w", encoding="utf-8") as file:
            file.write(forms[ending]())

    def _repr_svg_(self):
        return self.svg()

    def __str__(self):
        return self.mermaid()

    def __repr__(self):
        return f"Graph({self.title}: {len(self.boxes)} boxes, {len(self.arrows)} arrows, {len(self.loops)} loops)"


COLOURS = {"state": ("#cfe5f5", "#0072b2"), "input": ("#cdeee2", "#009e73"), "parameter": ("#fdebc5", "#c98a00"),
           "op": ("#ffffff", "#555555"), "cell": ("#ffffff", "#555555"), "output": ("#f6dcea", "#b5568c")}


def _escaped(text, table):
    return "".join(table.get(c, c) for c in text)


def graph(cell, state, xs, *, steps=None, ops=True):
    """The computation graph of a cell.

    `steps`  None draws one step with a loop from the state that goes out to the state that comes in; a number draws
             so many steps one after the other.
    `ops`    False draws the whole cell as one box.

    Shapes: as for `scan`; only the first step of `xs` is looked at.

    Raises: ShapeError for sequences of no steps; ArgumentError for fewer than one of `steps`.

    Example:
        >>> W, U = np.ones((2, 3)), np.ones((3, 3))
        >>> def cell(h, x):
        ...     h = tg.tanh(x @ W + h @ U)
        ...     return h, h
        >>> picture = tg.explain.graph(cell, np.zeros(3), np.zeros((5, 2)))
        >>> picture
        Graph(cell: 10 boxes, 9 arrows, 1 loops)
        >>> picture.mermaid().splitlines()[1]
        '  n0(["hₜ₋₁"]):::state'
        >>> tg.explain.graph(cell, np.zeros(3), np.zeros((5, 2)), steps=3, ops=False)
        Graph(cell: 13 boxes, 12 arrows, 0 loops)
    """
    if steps is not None and (not isinstance(steps, int) or steps < 1):
        raise ArgumentError(message(_WHO, "steps is not a number of steps", {"steps": repr(steps)}, "Pass a positive int, or None for one step and a loop."))
    wired = _wired(cell, state, xs)
    picture = _Drawing(wired, rolled=steps is None, ops=ops)
    before = [picture.box("state", (name + picture.index(-1),), None, 0) for name in wired.state_names]
    first = list(before)
    for t in range(steps or 1):
        before = picture.step(t, before)
    loops = list(zip(before, first)) if steps is None else []
    return Graph(wired.title, picture.boxes, picture.arrows, loops)


# ---- one step of the cell, wired ----------------------------------------------------------------------------


@dataclass
class _Value:
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
            if isinstance(arg, (Tensor, np.ndarray)) and (np.ndim(arg) or id(arg) in self.values or isinstance(arg, Tensor)):
                value = self.values.get(id(arg))
                if value is None:
                    label = next((name for name, held_value in held(frame) if held_value is arg), "constant")
                    value = self.know(arg, _Value("parameter", name=label.rpartition(".")[2]))
                    value.depth = -1  # keeps this name
                sources.append(value)
                numbers.append(None)
            else:
                numbers.append(f"{float(np.asarray(arg)):g}" if np.ndim(arg) == 0 else "[…]")
        outs = y if type(y) is tuple else (y,)
        made = [self.know(out, _Value("op", len(self.calls))) for out in outs]
        self.calls.append((_text(op, numbers, statics), sources, made))
        return y


_SIGNS = {"add": "+", "subtract": "−", "multiply": "×", "divide": "÷", "matmul": "@", "dot": "@", "power": "^"}


def _text(op, numbers, statics):
    """What stands in the box of a call: "tanh", "×", "1 − ·", "sum axis=1"."""
    if op.name in _SIGNS:
        sign = _SIGNS[op.name]
        return f"{numbers[0] or '·'} {sign} {numbers[1] or '·'}" if any(numbers) else sign
    shown = [_index(v) if k == "index" else f"{k}={v}" for k, v in statics.items() if v is not op.defaults.get(k)]
    shown = [text for text in shown if len(text) <= 16]
    name = {"getitem": "", "negative": "−"}.get(op.name, op.name.rstrip("_"))
    return " ".join([part for part in (name, *(n for n in numbers if n), *shown) if part]) or op.name


def _index(index):
    def one(part):
        if isinstance(part, slice):
            return ":".join("" if p is None else str(p) for p in ((part.start, part.stop) if part.step is None else (part.start, part.stop, part.step)))
        return "…" if part is Ellipsis else str(part)

    return f"[{', '.join(map(one, index))}]"


@dataclass
class _Wired:
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


def _wired(cell, state, xs):
    title = getattr(cell, "__qualname__", type(cell).__qualname__).rpartition("<locals>.")[2]
    sizes = {name: np.shape(leaf)[:1] for name, leaf in zip(trees.paths(xs, "xs"), trees.flatten(xs)[0])}
    if any(size in ((), (0,)) for size in sizes.values()):
        raise ShapeError(message(_WHO, "the sequences have no first step", sizes, "Pass sequences of at least one step."))
    wiring = _Wiring()
    states, structure = trees.flatten(trees.map(lambda leaf: tensor(np.asarray(leaf, float) if isinstance(leaf, (int, float)) else leaf), state))
    leaves, xs_structure = trees.flatten(trees.map(lambda leaf: tensor(leaf[0]), xs))
    known_states = [wiring.know(leaf, _Value("state")) for leaf in states]
    known_inputs = [wiring.know(leaf, _Value("input")) for leaf in leaves]
    before = trees.unflatten(structure, states)
    with wiring.watching(_WHO), switched(grad=False), wiring.naming.at_returns():
        after, y = checked(cell(before, trees.unflatten(xs_structure, leaves)), before, structure, 0)
    own = [p.name for p in inspect.signature(cell).parameters.values() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    state_names, input_names = (_names(known, trees.paths(tree, own[i] if i < len(own) else name)) for i, (known, tree, name) in enumerate(
        ((known_states, state, "state"), (known_inputs, xs, "x"))))
    results, outputs = ([wiring.values.get(id(leaf)) for leaf in trees.flatten(tree)[0]] for tree in (after, y))
    return _Wired(title, wiring.calls, known_states, known_inputs, state_names, input_names, results, outputs, trees.paths(y, "y"))


def _names(values, paths):
    """What the cell calls its inputs, if it has a name for each; a name is used once."""
    own = [value.name for value in values]
    return own if all(own) and len(set(own)) == len(own) else paths


# ---- boxes and arrows ---------------------------------------------------------------------------------------

_SUBSCRIPTS = str.maketrans("0123456789-t", "₀₁₂₃₄₅₆₇₈₉₋ₜ")


def _named(names, text):
    """A call with the variables that hold its results: "f = sigmoid", "i, f, g, o = split", "h = · + ·"."""
    if not all(names) or any(name.endswith("]") for name in names):
        return text
    text = f"· {text} ·" if text in _SIGNS.values() else text.partition(" ")[0] if len(names) > 1 else text
    return f"{', '.join(names)} = {text}"


class _Drawing:
    def __init__(self, wired, rolled, ops):
        self.wired, self.rolled, self.ops = wired, rolled, ops
        self.boxes, self.arrows = [], []
        wanted = {id(value) for value in [*wired.results, *wired.outputs] if value is not None}
        self.calls = []  # those that something depends on
        for i, (_, sources, made) in reversed(list(enumerate(wired.calls))):
            if any(id(value) in wanted for value in made):
                self.calls.append(i)
                wanted.update(map(id, sources))
        self.calls.reverse()

    def box(self, kind, lines, step, rank):
        self.boxes.append(Box(kind, lines, step, rank))
        return len(self.boxes) - 1

    def index(self, t):
        """The time index of a name: hₜ₋₁ in the rolled picture, h₀ in the unrolled one."""
        text = ("t" if t == 0 else f"t{t}") if self.rolled else str(t)
        return text.translate(_SUBSCRIPTS)

    def step(self, t, before):
        """Draw one copy of the cell, and return the boxes of the states that leave it."""
        base, wired = self.boxes[before[0]].rank if before else 2 * t, self.wired
        places = dict(zip(map(id, wired.states), before))
        inputs = [self.box("input", (name + self.index(t),), None, base) for name in wired.input_names]
        places |= dict(zip(map(id, wired.inputs), inputs))
        last = self._ops(t, base, places) if self.ops else self._whole(t, base, [*before, *inputs], places)
        self._out("output", wired.output_names, wired.outputs, t, last + 1, places)
        return self._out("state", wired.state_names, wired.results, t, last + 1, places)

    def _out(self, kind, names, values, t, rank, places):
        boxes = [self.box(kind, (name + self.index(t),), None, rank) for name in names]
        self.arrows += [(places[id(value)], box) for value, box in zip(values, boxes) if value is not None and id(value) in places]
        return boxes

    def _whole(self, t, base, inputs, places):
        names = dict.fromkeys(value.name for i in self.calls for value in self.wired.calls[i][1] if value.kind == "parameter")
        cell = self.box("cell", (self.wired.title, *textwrap.wrap(", ".join(names), 24)), t, base + 1)
        self.arrows += [(i, cell) for i in inputs]
        places.update({id(value): cell for i in self.calls for value in self.wired.calls[i][2]})
        return base + 1

    def _ops(self, t, base, places):
        """The calls of a step, each one column to the right of what it needs; parameters just before their first use."""
        needs = []
        for i in self.calls:
            text, sources, made = self.wired.calls[i]
            for value in sources:
                if value.kind == "parameter" and id(value) not in places:
                    places[id(value)] = self.box("parameter", (value.name,), t, base + 1)
            rank = 1 + max((self.boxes[places[id(value)]].rank for value in sources if id(value) in places), default=base)
            box = self.box("op", (_named([value.name for value in made], text),), t, rank)
            self.arrows += [(places[id(value)], box) for value in {id(value): value for value in sources}.values() if id(value) in places]
            places.update((id(value), box) for value in made)
            needs.append((box, sources))
        for value_id, place in places.items():
            if self.boxes[place].kind == "parameter":
                self.boxes[place].rank = min(self.boxes[box].rank for box, sources in needs if any(id(v) == value_id for v in sources)) - 1
        return max([self.boxes[box].rank for box, _ in needs], default=base + 1)
