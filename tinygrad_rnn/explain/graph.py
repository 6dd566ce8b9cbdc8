"""graph: the computation graph of a cell, rolled (one box with a loop) or unrolled in time, as Mermaid, DOT and SVG.

Knows how one step of a cell becomes boxes and arrows, and how these are spelled in three languages. Refuses to know how
a cell is looked at (`wiring` does), coordinates (`layered` does) and gradients. Below it: wiring, layered.
"""

import textwrap
from dataclasses import dataclass

from ..errors import ArgumentError, message
from . import wiring
from .layered import draw

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
        return [(f"{self.title}: {one}" if len(steps) == 1 else f"{self.title}, step {t}",
                 [i for i, box in enumerate(self.boxes) if box.step == t]) for t in steps]

    def mermaid(self):
        """The graph as a Mermaid flowchart, which GitHub and many editors draw."""
        opened = {"state": '(["', "input": '(["', "output": '(["', "parameter": '{{"', "op": '["', "cell": '["'}
        closed = {"(": '"])', "{": '"}}', "[": '"]'}
        table = {'"': "#quot;", "<": "#lt;", ">": "#gt;", "#": "#35;", "`": "#96;", "\n": " "}

        def spelled(i):
            box = self.boxes[i]
            text = "<br/>".join(_escaped(line, table) for line in box.lines)
            start = opened[box.kind]
            return f"n{i}{start}{text}{closed[start[0]]}:::{box.kind}"

        groups = self._groups()
        inside = {i for _, members in groups for i in members}
        lines = ["flowchart LR", *(f"  {spelled(i)}" for i in range(len(self.boxes)) if i not in inside)]
        for k, (label, members) in enumerate(groups):
            lines += [f'  subgraph g{k}["{_escaped(label, table)}"]', *(f"    {spelled(i)}" for i in members), "  end"]
        lines += [f"  n{a} --> n{b}" for a, b in self.arrows]
        lines += [f"  n{a} -. next step .-> n{b}" for a, b in self.loops]
        lines += [f"  classDef {kind} fill:{fill},stroke:{stroke},color:#000" for kind, (fill, stroke) in COLOURS.items()]
        return "\n".join(lines) + "\n"

    def dot(self):
        """The graph in DOT, the language of Graphviz."""
        shapes = {"op": "box", "cell": "box", "parameter": "hexagon"}
        table = {"\\": r"\\", '"': r"\"", "\n": " "}

        def spelled(i):
            box, (fill, stroke) = self.boxes[i], COLOURS[self.boxes[i].kind]
            text = r"\n".join(_escaped(line, table) for line in box.lines)
            shape = shapes.get(box.kind, "ellipse")
            return f'n{i} [label="{text}", shape={shape}, style=filled, fillcolor="{fill}", color="{stroke}"]'

        groups = self._groups()
        inside = {i for _, members in groups for i in members}
        lines = ["digraph cell {", '  graph [rankdir=LR, fontname="Helvetica", fontsize=12]', '  node [fontname="Helvetica", fontsize=11]',
                 '  edge [fontname="Helvetica", fontsize=10]',
                 *(f"  {spelled(i)}" for i in range(len(self.boxes)) if i not in inside)]
        for k, (label, members) in enumerate(groups):
            lines += [f"  subgraph cluster_{k} {{", f'    label="{_escaped(label, table)}"', '    style="rounded"',
                      *(f"    {spelled(i)}" for i in members), "  }"]
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
            raise ArgumentError(message("save(path)", "the ending does not say in which form", {"path": path},
                                        f"End it with one of {', '.join(forms)}."))
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
        raise ArgumentError(message(_WHO, "steps is not a number of steps", {"steps": repr(steps)},
                                    "Pass a positive int, or None for one step and a loop."))
    wired = wiring.wired(_WHO, cell, state, xs)
    picture = _Drawing(wired, rolled=steps is None, ops=ops)
    before = [picture.box("state", (name + picture.index(-1),), None, 0) for name in wired.state_names]
    first = list(before)
    for t in range(steps or 1):
        before = picture.step(t, before)
    loops = list(zip(before, first)) if steps is None else []
    return Graph(wired.title, picture.boxes, picture.arrows, loops)


# ---- boxes and arrows ---------------------------------------------------------------------------------------

_SUBSCRIPTS = str.maketrans("0123456789-t", "₀₁₂₃₄₅₆₇₈₉₋ₜ")


def _sides(text, sources):
    """An operation whose order matters with what it is between, as far as that has names: "h − n", "x @ ·"."""
    if text not in ("−", "÷", "^", "@") or len(sources) != 2:
        return text
    sides = ["·" if value.name.endswith("]") else value.name or "·" for value in sources]
    return text if sides == ["·", "·"] else f" {text} ".join(sides)


def _named(names, text):
    """A call with the variables that hold its results: "f = sigmoid", "i, f, g, o = split", "h = · + ·"."""
    if not all(names) or any(name.endswith("]") for name in names):
        return text
    text = f"· {text} ·" if text in wiring.SIGNS.values() else text.partition(" ")[0] if len(names) > 1 else text
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
        self.arrows += [(places[id(value)], box) for value, box in zip(values, boxes) if id(value) in places]
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
            box = self.box("op", (_named([value.name for value in made], _sides(text, sources)),), t, rank)
            self.arrows += [(places[key], box) for key in dict.fromkeys(map(id, sources)) if key in places]
            places.update((id(value), box) for value in made)
            needs.append((box, sources))
        for value_id, place in places.items():
            if self.boxes[place].kind == "parameter":
                users = [box for box, sources in needs if any(id(value) == value_id for value in sources)]
                self.boxes[place].rank = min(self.boxes[box].rank for box in users) - 1
        return max([self.boxes[box].rank for box, _ in needs], default=base + 1)
