"""The derivation on the page: a cell's forward and backward pass as a stand-alone NumPy module.

Knows how a loop is written for a reader: expressions in place of one call a line, the cell's own names, one comment a
part. `optimized=True` shows the form that runs, with its buffers. Refuses to derive anything: the loops come from
`derive`, the parts from `loops.Schedule`. Below it: scan, derive, loops, spelling.
"""

import numpy as np

from .. import trees
from ..derive import augmented, derived
from ..errors import ArgumentError, message
from ..loops import Schedule, Source
from ..program import Value
from ..scan import Trace, _prepared, _steps
from ..spelling import ATOM, Steps, kernel_text, kernels, spell
from ..tensor import Tensor
from .names import LocalNames, arguments, closed_over, state_names

_VIEWS = {"transpose", "reshape", "getitem", "identity", "stop_gradient"}


def source(cell, state=None, xs=None, *, optimized=False):
    """The forward and the backward pass of a cell as the text of a Python module that needs only NumPy.

        forward(state, xs, **params)      -> (state, ys, saved)
        backward(d_state, d_ys, saved)    -> (d_state, d_xs, d_params)

    `params` are the arrays that the cell closes over, under the names that it uses. The derivation is the one that
    `scan` runs; `optimized=True` shows it as it runs, with every buffer.

    Shapes: as in `scan`: the state without, xs with a leading time axis. The shapes are part of the text, T is not.
    A cell with `initial_state` and `input_size` (the library's own) can be given alone.

    Raises: what `scan` raises for a cell that cannot be traced.

    Example:
        >>> W, U = np.ones((2, 3)), np.ones((3, 3))
        >>> def cell(h, x):
        ...     z = x @ W + h @ U
        ...     h = tg.tanh(z)
        ...     return h, h
        >>> text = tg.explain.source(cell, np.zeros((1, 3)), np.ones((4, 1, 2)))
        >>> "h = np.tanh(z)" in text and "dU = " in text
        True
    """
    return _Module(Derivation(cell, state, xs), optimized).text


class Derivation:
    """A cell traced with names, its augmented loop and the derivative of that by every floating point input."""

    def __init__(self, cell, state=None, xs=None):
        state, xs = _given(cell, state, xs)
        state = _prepared(state, xs)
        self.T = _steps(xs, None)
        self.arguments = arguments(cell)
        states, self.structure = trees.flatten(state)
        leaves, self.xs_structure = trees.flatten(xs)
        if self.T == 0:
            leaves = [np.zeros((1, *np.shape(x)[1:]), x.dtype) for x in leaves]
        local = LocalNames()
        self.trace = trace = Trace(cell, states, self.structure, leaves, self.xs_structure, 0, 0, watch=local)
        self.y_structure = trace.y_structure
        self._name(cell, state, xs, local.found)
        self.loop = trace.loop()
        body = self.loop.body
        active = tuple(v.dtype.kind == "f" for v in body.inputs)
        self.forward = augmented(self.loop, active)
        shown = self.loop.n_states + self.loop.n_ys
        given = tuple(i < shown and isinstance(v, Value) and v.dtype.kind == "f" for i, v in enumerate(self.forward.body.outputs))
        self.backward = derived(self.forward, given)

    def _name(self, cell, state, xs, found):
        tracer = self.trace.tracer
        for number, array in enumerate(tracer._alive):
            tracer._values[id(array)].name = found.get(id(array), "")
        n = len(self.trace.states)
        for value, name in zip(self.trace.values[:n], state_names(self.structure, state, self.arguments[0])):
            value.name = name
        for value, name in zip(self.trace.values[n:], state_names(self.xs_structure, xs, self.arguments[1])):
            value.name = name
        outside = closed_over(cell)
        for i, (value, obj) in enumerate(tracer.closed):
            value.name = outside.get(id(obj._array if isinstance(obj, Tensor) else obj), "") or f"p{i}"
        for value, out in zip(self.trace.values[:n], self.trace.states):
            if out.name and self.structure.kind is not trees.LEAF and out not in self.trace.values:
                value.name = out.name


def _given(cell, state, xs):
    if state is None and hasattr(cell, "initial_state"):
        state = cell.initial_state((2,))
    if xs is None and hasattr(cell, "input_size"):
        xs = np.ones((3, 2, cell.input_size), trees.flatten(state)[0][0].dtype)
    if state is None or xs is None:
        raise ArgumentError(message("source(cell, state, xs)", "the sizes are not known", {"cell": type(cell).__name__},
                                    "Pass an initial state and a sequence, for example zeros of the right shapes."))
    return state, xs


# ---- the module around the two loops ------------------------------------------------------------------------


class _Module:
    """Puts the text together: kernels, forward, backward."""

    def __init__(self, derivation, optimized):
        d, self.lines = derivation, []
        loop, back = d.forward, d.backward
        taken = {"T", "np", "t", "state", "xs", "saved", "d_state", "d_ys", "range", "zip", "len", "reversed"}
        names = {}
        for v in loop.body.inputs:
            names[v] = _unique(v.name or "p", taken)
        n, m = loop.n_states, loop.n_xs
        xs_names = ["xs"] if d.xs_structure.kind is trees.LEAF else [_unique(names[v] + "s", taken) for v in loop.xs]
        params = [(i, v) for i, v in enumerate(loop.body.inputs) if i >= n + m]
        write = _Fast if optimized else _Readable
        forward = write(loop, names, dict(zip(loop.xs, (_Steps(name) for name in xs_names))), set(taken))
        results = forward.results
        reads = self._reads(d, loop, back, names, xs_names, results)
        self.constants = {**forward.constants}
        kept = list(dict.fromkeys(text for text, _ in reads.values()))

        self.put("def forward(state, xs" + (", *, " + ", ".join(names[v] for _, v in params) if params else "") + "):", 0)
        self.put('"""(state, ys, saved) of the whole sequence."""')
        self.unpack(d.structure, [names[v] for v in loop.states], "state")
        self.unpack(d.xs_structure, xs_names, "xs")
        self.put(f"T = len({xs_names[0]})")
        self.lines += forward.lines
        shown = [r.whole if isinstance(r, _Steps) else r for r in results[n:n + d.loop.n_ys]]
        locals_ = self._as_locals(kept, forward.taken)
        self.put(f"return {_packed(d.structure, results[:n])}, {_packed(d.y_structure, shown)}, ({', '.join(['T', *kept])}{',' if not kept else ''})")
        self.put("", 0)
        self.put("", 0)

        taken = {"T", "np", "t", "saved", "d_state", "d_ys", "range", "zip", "len", "reversed", *(locals_.values())}
        inputs = back.loop.body.inputs
        names = {}
        for v in [*back.loop.states]:
            names[v] = _unique(v.name or f"d{n}", taken)
        steps, arrived = {}, []
        places = back.loop.xs
        count = len(back.arrived)
        for i, v in zip(back.arrived, places[:count]):
            name = _unique("d_y" if d.loop.n_ys == 1 else f"d_y{i - n}", taken) if d.y_structure.kind is not trees.LEAF else "d_ys"
            steps[v] = _Steps(name)
            arrived.append(name)
        for v, (kind, where) in zip([*places[count:], *back.loop.consts], back.reads):
            text, shift = reads[kind, where]
            name = locals_[text]
            if v in places:
                steps[v] = _Steps(name, shift)
            else:
                names[v] = name
        backward = write(back.loop, names, steps, taken)
        self.constants |= backward.constants
        self.put("def backward(d_state, d_ys, saved):", 0)
        self.put('"""(d_state, d_xs, d_params): the cotangents of everything that went in."""')
        self.put(f"{', '.join(['T', *(locals_[k] for k in kept)])}{',' if not kept else ''} = saved")
        carried = {i: names[v] for (i, _), v in zip(back.carried, back.loop.states)}
        self.unpack(d.structure, [carried.get(i, "_") for i in range(n)], "d_state")
        if d.y_structure.kind is not trees.LEAF:
            by_place = dict(zip(back.arrived, arrived))
            self.unpack(d.y_structure, [by_place.get(n + i, "_") for i in range(d.loop.n_ys)], "d_ys")
        self.lines += backward.lines
        got = dict(zip(back.gives, (r.whole if isinstance(r, _Steps) else r for r in backward.results)))
        d_params = ", ".join(f'"{v.name}": {got[i]}' for i, v in params if i in got)
        self.put(f"return {_packed(d.structure, [got.get(i, 'None') for i in range(n)])}, "
                 f"{_packed(d.xs_structure, [got.get(n + i, 'None') for i in range(m)])}, {{{d_params}}}")
        self.calls = [*forward.calls, *backward.calls]
        self.head(d)
        assert len(inputs) == len(names) + len(steps)

    def put(self, line, depth=1):
        self.lines.append(("    " * depth + line) if line else "")

    def head(self, d):
        lines = [f'"""{d.trace.tracer.name}: its forward pass, and its backpropagation through time as it was derived.', "",
                 "Shapes:", *(f"    {v.name or 'p'}: {list(v.shape)}" for v in d.loop.body.inputs), '"""', "", "import numpy as np", ""]
        for name, array in self.constants.items():
            lines += [f"{name} = np.array({np.asarray(array).tolist()!r}, np.{np.asarray(array).dtype.name}).reshape({np.shape(array)})"]
        text = kernel_text(kernels(self.calls))
        if text:
            lines += ["", text, ""]
        self.lines = [*lines, "", *self.lines]

    @property
    def text(self):
        return "\n".join(self.lines) + "\n"

    def unpack(self, structure, names, source):
        if structure.kind is trees.LEAF:
            if names[0] != source:
                self.put(f"{names[0]} = {source}")
            return
        flat = structure.kind in (tuple, list) and all(c.kind is trees.LEAF for c in structure.children)
        if flat:
            self.put(f"{', '.join(names)}{',' if len(names) == 1 else ''} = {source}")
            return
        for name, path in zip(names, _paths(structure, source)):
            self.put(f"{name} = {path}")

    def _reads(self, d, loop, back, names, xs_names, results):
        """{(kind, number): (text in forward, shift)} for what the backward pass reads."""
        out = {}
        for kind, where in back.reads:
            if kind == "input":
                v = loop.body.inputs[where]
                out[kind, where] = (xs_names[where - loop.n_states], None) if v in loop.xs else (names[v], None)
            else:
                r = results[where]
                out[kind, where] = (r.name, r.shift) if isinstance(r, _Steps) else (r, None)
        return out

    @staticmethod
    def _as_locals(kept, taken):
        """The names in backward of what forward kept: the same, where it is a name."""
        used = {"T"}
        return {text: _unique(text if text.isidentifier() else "kept", used) for text in kept}


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
        return f"({', '.join(inner)}{',' if len(inner) == 1 else ''})"

    return one(structure)


def _unique(word, taken):
    word = "".join(c if c.isalnum() or c == "_" else "_" for c in word) or "v"
    name = word if word not in taken else next(f"{word}{i}" for i in range(2, 10**6) if f"{word}{i}" not in taken)
    taken.add(name)
    return name


class _Steps:
    """A stacked sequence: `name`, or its slice without the last (shift 0) or the first (shift 1) entry of T + 1."""

    def __init__(self, name, shift=None):
        self.name, self.shift = name, shift

    @property
    def whole(self):
        return self.name + {None: "", 0: "[:-1]", 1: "[1:]"}[self.shift]

    @property
    def now(self):
        return f"{self.name}[t + 1]" if self.shift == 1 else f"{self.name}[t]"


class _Fast:
    """The text of the form that runs."""

    def __init__(self, loop, names, steps, taken):
        made = Source(loop, names, {v: s.whole for v, s in steps.items()}, taken)
        self.lines, self.constants, self.taken, self.calls = made.body, made.constants, made.taken, made.calls
        self.results = made.results


# ---- a loop for a reader ------------------------------------------------------------------------------------


class _Readable:
    """The text of a loop as a person would write it: expressions, the cell's own names, `[t]` for a step."""

    def __init__(self, loop, names, steps, taken):
        self.loop, self.taken, self.constants, self.lines = loop, taken, {}, []
        self.s = s = Schedule(loop, readable=True)
        self.text = dict(names)  # value -> its name outside the loop (and inside, where that is the same)
        self.steps = {s.stacked[v]: seq for v, seq in steps.items()}  # stacked value -> sequence
        self._live()
        self.calls = [c for c in (*s.once, *s.before, *s.inside, *s.after) if self.live(c)]
        self._straight(s.once, "once: depends on the parameters only")
        self._straight(s.before, "before the loop: depends on the inputs only")
        self._loop()
        self._straight(s.after, "after the loop")
        self.results = [*self.finals, *map(self._sequence, loop.ys, s.outputs), *(self.outside(v)[0] for v in s.sums)]

    # ---- what is needed, and how often ---------------------------------------------------------------------------

    def _live(self):
        s = self.s
        wanted = {v for v in (*s.outputs, *s.sums) if isinstance(v, Value)}
        wanted |= {s.stacked.get(v, v) for v in self.loop.next_states if isinstance(v, Value)}
        inside = {v for c in s.inside for v in c.outs}
        self.uses = dict.fromkeys(wanted, 2)  # a result has a name of its own
        for call in reversed([*s.once, *s.before, *s.inside, *s.after]):
            if call in s.inside or not wanted.isdisjoint(call.outs):
                for a in call.inputs:
                    a = a if a in inside or a not in s.stacked or call not in s.inside else s.stacked[a]
                    wanted.add(a)
                    self.uses[a] = self.uses.get(a, 0) + 1
        self.wanted = wanted | inside

    def live(self, call):
        return not self.wanted.isdisjoint(call.outs)

    # ---- outside the loop ---------------------------------------------------------------------------------------

    def outside(self, arg):
        """(text, rank) of an argument outside the loop."""
        if not isinstance(arg, Value):
            return self._literal(arg)
        if arg in self.steps:
            return self.steps[arg].whole, ATOM
        if arg not in self.text:
            self.text[arg] = self._fresh(arg.name or "v")
        found = self.text[arg]
        return found if isinstance(found, tuple) else (found, ATOM)

    def _straight(self, calls, title):
        todo = [c for c in calls if self.live(c)]
        said = False
        inside = {a for c in self.s.inside for a in c.inputs}
        for call in todo:
            text = spell(call, [self.outside(a) for a in call.args])
            out = call.outs[0]
            once = self.uses.get(out, 0) == 1 and not out.name or call.op.name in _VIEWS and not out.name
            in_loop = out in inside or any(self.s.stacked.get(a) is out for a in inside)
            if len(call.outs) == 1 and once and (not in_loop or call.op.name == "transpose" and call in self.s.once):
                self.text[out] = text
                continue
            if not said:
                self.put(f"# {title}")
                said = True
            for v in call.outs:
                self.text[v] = self._fresh(v.name or self._describe(call))
            self.put(f"{', '.join(self.text[v] for v in call.outs)} = {text[0]}")

    def _describe(self, call):
        """A name for a result that has none: a product is called after its factors."""
        parts = [self.outside(a)[0] for a in call.args]
        if call.op.name == "matmul" and all(p.isidentifier() for p in parts):
            return "_".join(parts)
        return {"multiply": "product", "add": "total", "subtract": "difference", "matmul": "product"}.get(call.op.name, call.op.name.strip("_"))

    def _literal(self, arg):
        if isinstance(arg, Steps):
            return "T", ATOM
        if isinstance(arg, (bool, int, float)):
            return (repr(arg), ATOM if arg >= 0 else 4) if arg == arg and abs(arg) != float("inf") else (f"float('{arg}')", ATOM)
        array = np.asarray(arg)
        if array.ndim == 0:
            return self._literal(array.item())
        if array.dtype.kind == "f" and (array == array.flat[0]).all() if array.size else True:
            value = array.flat[0].item() if array.size else 0.0
            kind = "zeros" if value == 0 else "ones" if value == 1 else None
            if kind:
                return f"np.{kind}({array.shape}, np.{array.dtype.name})", ATOM
        for name, known in self.constants.items():
            if known is arg:
                return name, ATOM
        name = self._fresh("constant")
        self.constants[name] = arg
        return name, ATOM

    def _sequence(self, value, stacked):
        if isinstance(stacked, Value) and stacked in self.steps:
            return self.steps[stacked]
        if isinstance(value, Value) and value in self.s.varying:
            return _Steps(self.outside(stacked)[0])
        shape = value.shape if isinstance(value, Value) else np.shape(value)
        return f"np.broadcast_to({self.outside(value)[0]}, (T, {''.join(f'{n}, ' for n in shape)}))"

    def put(self, line, depth=1):
        self.lines.append("    " * depth + line)

    def _fresh(self, word):
        return _unique(word, self.taken)

    # ---- the loop -----------------------------------------------------------------------------------------------

    def _loop(self):
        s, loop = self.s, self.loop
        if not s.inside and all(v is n for v, n in zip(loop.states, loop.next_states)):
            self.finals = [self.text[v] for v in loop.states]
            return
        made = {v: c for c in s.inside for v in c.outs}
        stored = set(s.stored)
        inline = {v for v in made if self._inlined(v, made, stored)}
        lines = [c for c in s.inside if not (len(c.outs) == 1 and c.outs[0] in inline)]
        last = self._last_reads(lines, made, inline)
        head, body = [], []
        owner = {}  # a variable's name -> (value, last line that reads it)
        where = {}  # value -> (text, rank) inside the loop
        for state, out in zip(loop.states, loop.next_states):
            where[state] = self.text[state], ATOM
            owner[self.text[state]] = state
            if state in s.stacked or isinstance(out, Value) and out in stored and out in made and self._first(out) is state:
                seq = self._fresh(self.text[state] + "s" if not self.text[state].endswith("s") else self.text[state] + "_all")
                shape = "".join(f", {n}" for n in state.shape)
                head += [f"{seq} = np.empty((T + 1{shape}), np.{state.dtype.name})", f"{seq}[{'T' if loop.reverse else 0}] = {self.text[state]}"]
                if state in s.stacked:
                    self.steps[s.stacked[state]] = _Steps(seq, 1 if loop.reverse else 0)
                if isinstance(out, Value) and out in stored and out in made and self._first(out) is state:
                    self.steps[s.stacked[out]] = _Steps(seq, 0 if loop.reverse else 1)
                where[state, "stack"] = f"{seq}[{'t' if loop.reverse else 't + 1'}]"
        for v in s.stored:
            if v not in loop.states and s.stacked[v] not in self.steps:
                seq = self._fresh(v.name or "kept")
                head.append(f"{seq} = np.empty((T{''.join(f', {n}' for n in v.shape)}{',' if not v.shape else ''}), np.{v.dtype.name})")
                self.steps[s.stacked[v]] = _Steps(seq)
        aliases = {}

        def text(arg, k):
            if not isinstance(arg, Value):
                return self._literal(arg)
            if arg in inline and arg not in where:
                call = made[arg]
                return spell(call, [text(a, k) for a in call.args])
            if arg in where:
                return where[arg]
            stacked = s.stacked.get(arg)
            if stacked is not None and arg in s.varying:
                seq = self.steps.get(stacked) or _Steps(self.outside(stacked)[0])
                count = sum(a is arg for c in s.inside for a in c.inputs)
                if count > 1:
                    name = self._fresh(arg.name or "now")
                    aliases[name] = seq.now
                    where[arg] = name, ATOM
                    return where[arg]
                return seq.now, ATOM
            return self.outside(arg)

        for k, call in enumerate(lines):
            right, _ = spell(call, [text(a, k) for a in call.args])
            targets = []
            for v in call.outs:
                seq = self.steps.get(s.stacked.get(v)) if v in stored else None
                if seq is not None and v not in loop.next_states:
                    targets.append(seq.now)
                    where[v] = seq.now, ATOM
                    continue
                word = self._state_name(v) or v.name or self._describe_inside(call)
                name = word if word in owner and self._free(owner[word], k, last, v) else self._fresh(word)
                owner[name] = v
                where[v] = name, ATOM
                targets.append(name)
            body.append(f"{', '.join(targets)} = {right}")
            for v in call.outs:
                if v in stored and v in loop.next_states and s.stacked[v] in self.steps and self.steps[s.stacked[v]].shift is None:
                    body.append(f"{self.steps[s.stacked[v]].now} = {where[v][0]}")
        left, right = [], []
        for state, out in zip(loop.states, loop.next_states):
            name, value = self.text[state], text(out, len(lines))[0]
            if name != value:
                left.append(name)
                right.append(value)
        if left:
            body.append(f"{', '.join(left)} = {', '.join(right)}")
        body += [f"{where[state, 'stack']} = {self.text[state]}" for state in loop.states if (state, "stack") in where]
        self.put("# the loop")
        for line in head:
            self.put(line)
        self.put("for t in reversed(range(T)):" if loop.reverse else "for t in range(T):")
        for name, now in aliases.items():
            self.put(f"{name} = {now}", 2)
        for line in body or ["pass"]:
            self.put(line, 2)
        self.finals = [self.text[v] for v in loop.states]

    def _first(self, value):
        """The state that a next state belongs to, if it belongs to several."""
        return next(state for state, out in zip(self.loop.states, self.loop.next_states) if out is value) if value in self.loop.next_states else None

    def _state_name(self, value):
        state = self._first(value)
        return self.text[state] if state is not None else None

    def _inlined(self, value, made, stored):
        call = made[value]
        views = call.op.name in _VIEWS
        return (len(call.outs) == 1 and not value.name and value not in stored and value not in self.loop.next_states
                and (self.uses.get(value, 0) <= 1 or views))

    def _last_reads(self, lines, made, inline):
        """For each value the last line that reads it, looking through expressions."""
        last = {}

        def read(value, k):
            if value in inline:
                for a in made[value].inputs:
                    read(a, k)
            else:
                last[value] = k

        for k, call in enumerate(lines):
            for a in call.inputs:
                read(a, k)
        for out in self.loop.next_states:
            if isinstance(out, Value):
                read(out, len(lines))
        return last

    def _free(self, holder, k, last, value):
        """Whether the variable that holds `holder` may be given a new value by line k."""
        if holder in self.loop.next_states and holder is not value:
            return False
        keeps = isinstance(holder, Value) and holder in self.loop.states and holder in self.loop.next_states
        return not keeps and last.get(holder, -1) <= k

    def _describe_inside(self, call):
        return {"multiply": "product", "add": "total", "subtract": "difference", "matmul": "product"}.get(call.op.name, call.op.name.strip("_"))
