"""The derivation on the page: a cell's forward and backward pass as a stand-alone NumPy module.

Knows how the two loops of a derivation become two functions with a documented interface. `optimized=True` shows the form
that runs, with its buffers. Refuses to derive anything and to write loops: `derivation` and `reading` do, and for the form
that runs `loops.Source`. Below it: derivation, reading, loops, spelling.
"""

import re
import textwrap

from .. import trees
from ..loops import Source
from ..spelling import array_text, called, kernel_text, kernels
from .derivation import Derivation
from .reading import Page, Stack, unique
from .tidy import tidied


def source(cell, state=None, xs=None, *, length=None, optimized=False):
    """The forward and the backward pass of a cell as the text of a Python module that needs only NumPy.

        forward(state, xs, **params)      -> (state, ys, saved)
        backward(d_state, d_ys, saved)    -> (d_state, d_xs, d_params)

    `params` are the arrays that the cell closes over, under the names that it uses. The derivation is the one that
    `scan` runs; `optimized=True` shows it as it runs, with every buffer.

    Shapes: as in `scan`: the state without, xs with a leading time axis. The shapes are part of the text, T is not.
    Where xs is None and `length` is given, forward takes T in place of xs and d_xs is None. A cell with `initial_state`
    and `input_size` (the library's own) can be given alone.

    Raises: what `scan` raises for a cell that cannot be traced; ArgumentError when sizes are not known.

    Example:
        >>> W, U = np.ones((2, 3)), np.ones((3, 3))
        >>> def cell(h, x):
        ...     z = x @ W + h @ U
        ...     h = tg.tanh(z)
        ...     return h, h
        >>> text = tg.explain.source(cell, np.zeros((1, 3)), np.ones((4, 1, 2)))
        >>> "z = xW[t] + h[t] @ U" in text and "dU = " in text
        True
    """
    return Module(Derivation(cell, state, xs, length), optimized).text


_SHORT = {  # kernels as a textbook has them; those of the ops guard against overflow and write into buffers
    "sigmoid": "def sigmoid(z):\n    return 1 / (1 + np.exp(-z))",
    "relu": "def relu(z):\n    return np.maximum(z, 0)",
    "softplus": "def softplus(z):\n    return np.logaddexp(z, 0)",
    "softmax": "def softmax(z, axis=-1):\n    e = np.exp(z - np.max(z, axis=axis, keepdims=True))\n"
               "    return e / np.sum(e, axis=axis, keepdims=True)",
}


ONCE = "once: depends on the parameters only"
BEFORE = "before the loop: depends on the inputs only, for all steps at once"
AFTER = "after the loop, for all steps at once"
_OTHERS = {"T", "np", "t", "saved", "d_state", "d_ys", "range", "zip", "len", "reversed"}  # names that the module needs itself


class Module:
    """Puts the text together: kernels, forward, backward."""

    def __init__(self, derivation, optimized):
        self.d, self.optimized, self.lines, self.constants, self.calls = derivation, optimized, [], {}, []
        self.made = []  # the texts of the two loops, in the form that runs
        d, back = derivation, derivation.backward
        loop = d.forward if optimized else tidied(d.forward)[0]
        n, m = loop.n_states, loop.n_xs
        params = [(i, v) for i, v in enumerate(loop.body.inputs) if i >= n + m]
        taken = {*_OTHERS, "state", "xs", *_kernel_names(loop)}
        taken -= {"xs"} if d.xs_structure.kind is tuple else set()
        names = {v: unique(v.name or "p", taken) for _, v in params}
        places = [_free("states" if v.name in ("", "state") else v.name, taken) for v in loop.states]
        xs_names = ["xs"] if d.xs_structure.kind is trees.LEAF else [unique(v.name + "s", taken) for v in loop.xs]
        names |= {v: Stack(name) for v, name in zip(loop.xs, xs_names)}
        keywords = [names[v] for _, v in params]
        self.put(_wrapped("def forward(", ["state", "xs" if m else "T", *(["*", *keywords] if keywords else [])], "):"), 0)
        self.put('"""(state, ys, saved): the last state, the outputs of all steps, and what backward reads."""')
        self.unpack(d.xs_structure, xs_names, "xs")
        if m:
            self.put(f"T = len({xs_names[0]})")
        results = self.write(loop, names, set(taken), places, d.structure, "state", "")
        reads = self.reads(loop, back, names, xs_names, results)
        kept = list(dict.fromkeys(text for text, _ in reads.values()))
        shown = [r.whole if isinstance(r, Stack) else r for r in results[n:n + d.traced.n_ys]]
        self.put(_wrapped("saved = (", ["T", *kept], "," * (not kept) + ")"))
        self.put(f"return {_packed(d.structure, results[:n])}, {_packed(d.y_structure, shown)}, saved")
        self.put("", 0)
        self.put("", 0)

        loop = d.reading() if not optimized else back.loop
        used = {"T", *self.constants}
        locals_ = {text: unique(_word(text), used) for text in kept}
        taken = {*_OTHERS, *used, *_kernel_names(loop)}
        names, arrived = {}, {}
        count, leaf = len(back.arrived), d.y_structure.kind is trees.LEAF
        for i, v in zip(back.arrived, loop.xs[:count]):
            arrived[i] = "d_ys" if leaf else unique("d_y" if d.traced.n_ys == 1 else f"d_y{i - n + 1}", taken)
            names[v] = Stack(arrived[i])
        for v, (kind, where) in zip([*loop.xs[count:], *loop.consts], back.reads):
            text, shift = reads[kind, where]
            names[v] = Stack(locals_[text], shift) if v in loop.xs else locals_[text]
        self.put("def backward(d_state, d_ys, saved):", 0)
        self.put('"""(d_state, d_xs, d_params): the cotangents of all that went in, from those of all that came out."""')
        back_names = ["T", *(locals_[k] for k in kept)]
        one = f"{', '.join(back_names)}{',' * (not kept)} = saved"
        self.put(one if len(one) <= 110 else _wrapped("(", back_names, ") = saved"))
        places = [_free(f"d{v.name}" if v.name else "d_state", taken) for v in (d.forward.states[i] for i, _ in back.carried)]
        if not leaf:
            self.unpack(d.y_structure, [arrived.get(n + i, "_") for i in range(d.traced.n_ys)], "d_ys")
        sums = [f"d{d.forward.body.inputs[i].name}" for i in back.gives if i >= n + m]
        carried, direction = [i for i, _ in back.carried], ", from the last step to the first"
        found = self.write(loop, names, taken, places, d.structure, "d_state", direction, carried, sums)
        got = dict(zip(back.gives, (r.whole if isinstance(r, Stack) else r for r in found)))
        d_params = _wrapped("d_params = {", [f'"{self.keyword(v, params, keywords)}": {got[i]}' for i, v in params if i in got], "}")
        self.put(d_params)
        self.put(f"return {_packed(d.structure, [got.get(i, 'None') for i in range(n)])}, "
                 f"{_packed(d.xs_structure, [got.get(n + i, 'None') for i in range(m)])}, d_params")
        self.head(n, m)

    @staticmethod
    def keyword(value, params, keywords):
        return keywords[[v for _, v in params].index(value)]

    def put(self, text, depth=1):
        self.lines.append(textwrap.indent(text, "    " * depth) if text else "")

    def write(self, loop, names, taken, places, structure, state, direction, carried=None, sums=()):
        """Append the text of a loop; returns the texts of its results."""
        total = structure.count
        carried = list(range(total)) if carried is None else carried
        if self.optimized:
            fast = loop.faster()
            self.d._describe(fast)
            words = [unique(f"{p}{'_T' if loop.reverse else '0'}", taken) for p in places]
            self.unpack(structure, _spread(words, carried, total), state)
            same = dict(zip(loop.body.inputs, fast.body.inputs))
            names = {same[v]: name for v, name in names.items()} | dict(zip(fast.states, words))
            stacks = {v: t.whole for v, t in names.items() if isinstance(t, Stack)}
            made = Source(fast, {v: t for v, t in names.items() if v not in stacks}, stacks, taken)
            self.made.append(made)
            self.lines += map(_broken, made.lines)
            self.constants |= made.constants
            self.calls += made.calls
            return made.results
        page = Page(loop, names, taken, self.d.hints, places, sums)
        for title, lines in ((ONCE, page.once), (BEFORE, page.before)):
            if lines:
                self.put(f"\n# {title}")
                for line in lines:
                    self.put(line)
        if page.step or page.buffers:
            self.put(f"\n# the loop{direction}")
        for line in page.buffers:
            self.put(line)
        self.unpack(structure, _spread(page.starts, carried, total), state)
        if page.step:
            self.put("for t in reversed(range(T)):" if loop.reverse else "for t in range(T):")
            for line in page.step:
                self.put(line, 2)
        if page.after:
            self.put(f"\n# {AFTER}")
            for line in page.after:
                self.put(line)
        self.put("")
        self.constants |= page.constants
        self.calls += page.calls
        n = loop.n_states
        return [*page.results[:n], *(page.stacks.get(v, r) for v, r in zip(page.outputs, page.results[n:])), *page.results[n + loop.n_ys:]]

    def head(self, n, m):
        d, loop = self.d, self.d.forward
        size = lambda v, steps="": f"({', '.join([*([steps] if steps else []), *map(str, v.shape)])}{',' * (len(v.shape) + bool(steps) == 1)})"
        rows = [*((v.name or "state", size(v), "the state") for v in loop.states), *((v.name or "x", size(v, "T"), "the sequence") for v in loop.xs),
                *((v.name, size(v), "") for v in loop.consts)]
        wide, sizes = max(len(r[0]) for r in rows), max(len(r[1]) for r in rows)
        lines = [f'"""{d.cell}: its forward pass, and the backpropagation through time that follows from it.', "", "Shapes, for T steps:",
                 *(f"    {a:<{wide}}  {b:<{sizes}}  {c}".rstrip() for a, b, c in rows), '"""', "", "import numpy as np"]
        functions = kernels(self.calls)
        short = {} if self.optimized else {called(c.op): _SHORT[c.op.name] for c in self.calls if c.op.name in _SHORT and called(c.op) == c.op.name}
        others = kernel_text({name: function for name, function in functions.items() if name not in short})
        text = "\n\n\n".join([*short.values(), *([others] if others else [])])
        lines += ["", *(array_text(name, array) for name, array in self.constants.items())] if self.constants else []
        self.lines = [*lines, *(["", "", text] if text else []), "", "", *self.lines]

    @property
    def text(self):
        text = "\n".join(self.lines) + "\n"
        for i, name in enumerate(dict.fromkeys(re.findall(r"\bloop_\d+\b", text))):
            text = text.replace(name, f"inner{i + 1 if i else ''}")
        return re.sub(r"[ \t]+\n", "\n", re.sub(r"\n\n\n    ", "\n\n    ", text))

    def unpack(self, structure, names, source):
        if structure.kind is trees.LEAF:
            if names[0] != source:
                self.put(f"{names[0]} = {source}")
            return
        if all(name == "_" for name in names):
            return
        if structure.kind in (tuple, list) and all(c.kind is trees.LEAF for c in structure.children):
            self.put(f"{', '.join(names)}{',' * (len(names) == 1)} = {source}")
            return
        for name, path in zip(names, _paths(structure, source)):
            if name != "_":
                self.put(f"{name} = {path}")

    def reads(self, loop, back, names, xs_names, results):
        """{(kind, number): (text in forward, shift)} for what the backward pass reads."""
        out = {}
        for kind, where in back.reads:
            if kind == "input":
                v = loop.body.inputs[where]
                out[kind, where] = (xs_names[where - loop.n_states], None) if v in loop.xs else (names[v], None)
            else:
                r = results[where]
                out[kind, where] = (r.name, r.shift) if isinstance(r, Stack) else (r, None)
        return out


def _kernel_names(loop):
    return {called(c.op) for c in loop.body.calls}


def _free(word, taken):
    return unique(word, set(taken))


def _word(text):
    """A name for what a text stands for: of T + 1 stacked states the first T are those before a step."""
    name = re.match(r"[A-Za-z_]\w*", text)
    return f"{name[0]}{'_before' * text.endswith('[:-1]')}" if name else "kept"


def _spread(words, places, count):
    """`count` names: `words` at their places, and _ elsewhere."""
    at = dict(zip(places, words))
    return [at.get(i, "_") for i in range(count)]


def _wrapped(start, items, end, width=110):
    """Items between brackets, over several lines where one is too long."""
    one = f"{start}{', '.join(items)}{end}"
    if len(one) <= width or not items:
        return one
    lines = [""]
    for item in items:
        if len(lines[-1]) + len(item) > width - 8:
            lines.append("")
        lines[-1] += item + ", "
    return "\n".join([start, *("    " + line.rstrip() for line in lines), end]) if not start.startswith("def") else (
        start + "\n" + "\n".join("        " + line.rstrip() for line in lines).rstrip(",") + end)


def _broken(line, width=110):
    """The head of a loop over many stacks, over several lines."""
    found = re.fullmatch(r"( *)for (.*?),? in zip\((.*)\):", line)
    if found is None or len(line) <= width + 10:
        return line
    space, names, stacks = found.groups()
    inner = [f"\n{space}        ".join(textwrap.wrap(part, width - 8)) for part in (names, stacks)]
    return f"{space}for (\n{space}        {inner[0]},\n{space}) in zip(\n{space}        {inner[1]},\n{space}):"


def _tuple(items):
    return f"({', '.join(items)}{',' * (len(items) == 1)})"


def _paths(structure, root):
    if structure.kind is trees.LEAF:
        return [root]
    if structure.kind is type(None):
        return []
    keys = structure.names or range(len(structure.children))
    if issubclass(structure.kind, tuple) and structure.names or structure.template is not None:
        return [p for k, c in zip(keys, structure.children) for p in _paths(c, f"{root}.{k}")]
    return [p for k, c in zip(keys, structure.children) for p in _paths(c, f"{root}[{k!r}]")]


def _packed(structure, texts):
    """The text that builds a tree of these leaf texts (a named tuple as a plain one: the module stands alone)."""
    rest = iter(texts)

    def one(s):
        if s.kind is trees.LEAF:
            return next(rest)
        if s.kind is type(None):
            return "None"
        inner = [one(c) for c in s.children]
        if issubclass(s.kind, dict) or s.template is not None:
            return "{" + ", ".join(f"{k!r}: {v}" for k, v in zip(s.names, inner)) + "}"
        if s.kind is list:
            return f"[{', '.join(inner)}]"
        return _tuple(inner)

    return one(structure)
