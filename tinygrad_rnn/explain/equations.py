"""The derivation as equations: a cell, its backpropagation through time and the sums over time, as text or as LaTeX.

Knows how a call is written in mathematics (a product of matrices is juxtaposed, one of elements is ∘, a squared tanh is a
square) and which value belongs to which step: hₜ₋₁ comes in, hₜ goes out, dh⁺ₜ is what step t + 1 hands back. Refuses to
derive anything: the equations are those of the two loops of a `Derivation`. Below it: derivation, notation, tidy.
"""

import re

import numpy as np

from ..errors import DomainError, message
from ..program import Value
from ..spelling import index_text
from .derivation import Derivation
from .notation import Latex, Text
from .tidy import tidied, without_axis

_ADD, _SUM, _TIMES, _PRODUCT, _POWER, _ATOM = 1, 2, 3, 4, 5, 9  # how tightly an expression binds
_SHORT, _LONG = (12, 7), 85  # signs up to which a value that nobody named is written out: where it is read twice, once
_MARKUP = re.compile(r"\\mathrm|\\,|[\s{}_^]|(?<=\\)[A-Za-z]+")
_VIEWS = {"transpose", "getitem"}  # written out wherever they are read
_SILENT = {"reshape", "broadcast_to", "identity", "stop_gradient", "astype"}  # nothing in mathematics


def equations(cell, state=None, xs=None, *, length=None, form="text"):
    """The forward pass, the backward pass and the sums over time of a cell as equations.

    `form` is "text" (Unicode) or "latex": one `aligned` environment, of commands that KaTeX and MathJax know.
    The equations are those of `source`: dz is ∂L/∂z, dh⁺ₜ is the part of dhₜ that step t + 1 hands back, Σ_i and Σ_j
    run over the first and the second axis of one step.

    Shapes: as in `scan`; xs may be None with `length=T`. A cell with `initial_state` and `input_size` (the library's own)
    can be given alone.

    Raises: what `scan` raises for a cell that cannot be traced; ArgumentError when sizes are not known, DomainError
    for another form.

    Example:
        >>> W, U = np.ones((2, 3)), np.ones((3, 3))
        >>> def cell(h, x):
        ...     h = tg.tanh(x @ W + h @ U)
        ...     return h, h
        >>> print(tg.explain.equations(cell, np.zeros((1, 3)), np.ones((4, 1, 2))))
        cell
        <BLANKLINE>
        forward, t = 1 … T
            hₜ = tanh(xₜ W + hₜ₋₁ U)
            yₜ = hₜ
        <BLANKLINE>
        backward, t = T … 1, from dh⁺_T, the cotangent of the last state
            dhₜ = dh⁺ₜ + dyₜ
            dzₜ = dhₜ ∘ (1 − hₜ²)
            dh⁺ₜ₋₁ = dzₜ Uᵀ
        <BLANKLINE>
        gradients
            ∂L/∂h₀ = dh⁺₀
            ∂L/∂xₜ = dzₜ Wᵀ
            ∂L/∂W = Σₜ xₜᵀ dzₜ
            ∂L/∂U = Σₜ hₜ₋₁ᵀ dzₜ
    """
    if form not in ("text", "latex"):
        raise DomainError(message("equations(cell, state, xs, form)", "there is no such form", {"form": repr(form)}, 'Use "text" or "latex".'))
    derivation = Derivation(cell, state, xs, length, "equations(cell, state, xs)")
    return _Equations(derivation, Latex() if form == "latex" else Text()).text


class _Equations:
    """The three parts: forward, backward, gradients."""

    def __init__(self, derivation, words):
        self.d, self.w = d, w = derivation, words
        (loop, place), back, n_ys = tidied(d.forward), d.backward, d.traced.n_ys
        self.symbols = {}  # value -> (text, rank) under which it is read
        self.makers, self.rows, self.reads = {}, [], {}
        reading = d.reading()
        outputs = d.forward.body.outputs
        for out in reading.body.outputs:
            if isinstance(out, Value):
                self.reads[out] = 1
        of_forward = {v: place((d.forward.body.inputs if kind == "input" else outputs)[k])
                      for v, (kind, k) in zip([*reading.xs[len(back.arrived):], *reading.consts], back.reads)}
        for call in (*loop.body.calls, *reading.body.calls):
            for a in call.inputs:
                a = of_forward.get(a, a)
                self.reads[a] = self.reads.get(a, 0) + 1
        for v in loop.states:
            self.symbols[v] = w.name(v.name or "h", "t-1"), _ATOM
        for v in loop.xs:
            self.symbols[v] = w.name(v.name or "x", "t"), _ATOM
        for v in loop.consts:
            self.symbols[v] = w.name(v.name), _ATOM
        nexts = {}
        for state, out in zip(loop.states, loop.next_states):
            if isinstance(out, Value):
                nexts.setdefault(out, w.name(state.name or "h", "t"))
        self._equate(loop, nexts, lambda v: w.name(v.name, "t" if v in self.varying else ""))
        for state, out in zip(loop.states, loop.next_states):
            text = w.name(state.name or "h", "t")
            if self._symbol(out) != text:
                self.rows.append((text, self.render(out)[0]))
        shown = [f"y{i + 1}" if n_ys > 1 else "y" for i in range(n_ys)]
        self.rows += [(w.name(y, "t"), self.render(out)[0]) for y, out in zip(shown, loop.ys) if self._symbol(out) != w.name(y, "t")]
        forward, self.rows = self.rows, []

        for v, source in of_forward.items():
            self.symbols[v] = self.render(source)
        n = d.forward.n_states
        names = [d.forward.states[i].name or "h" for i, _ in back.carried]
        for v, name in zip(reading.states, names):
            self.symbols[v] = w.cotangent(name, "t", plus=True), _ATOM
        for i, v in zip(back.arrived, reading.xs):
            self.symbols[v] = w.cotangent(shown[i - n], "t"), _ATOM
        self._equate(reading, {}, self._cotangent, back=True)
        self.rows += [(w.cotangent(name, "t-1", plus=True), self.render(out)[0]) for name, out in zip(names, reading.next_states)]
        backward, self.rows = self.rows, []
        for name in names:
            self.rows.append((w.gradient(w.name(name, "0")), w.cotangent(name, "0", plus=True)))
        results = dict(zip(back.gives, reading.body.outputs))
        inputs, m = d.forward.body.inputs, d.forward.n_xs
        sums = {}
        for i, out in results.items():
            if n <= i < n + m:
                self.rows.append((w.gradient(w.name(inputs[i].name or "x", "t")), self.render(out)[0]))
            elif i >= n + m:
                for index, part in self._placed(out):
                    text, rank = self.render(part)
                    left = w.gradient(w.name(inputs[i].name) + index)
                    sums.setdefault(w.total("t", text if rank > _ADD else f"({text})"), []).append(left)
        self.rows += [(" = ".join(left), right) for right, left in sums.items()]
        states = ", ".join(w.cotangent(name, "T", plus=True) for name in names)
        which = "states" if len(names) > 1 else "state"
        head = f"backward, t = T … 1, from {states if isinstance(w, Text) else f'${states}$'}, the cotangent{'s' * (len(names) > 1)} of the last {which}"
        self.text = w.page(d.cell, [("forward, t = 1 … T", forward), (head, backward), ("gradients", self.rows)])

    # ---- which values have an equation of their own ---------------------------------------------------------------

    def _equate(self, loop, fixed, name, back=False):
        """An equation for every value that somebody named, that goes to the next step, or that is long and read twice."""
        body = loop.body
        self.makers |= {v: c for c in body.calls for v in c.outs}
        self.varying, used, reads = {*loop.states, *loop.xs}, set(fixed.values()), self.reads
        for call in body.calls:
            if not self.varying.isdisjoint(call.inputs):
                self.varying.update(call.outs)
        final = {out for out in body.outputs[:None if back else loop.n_states + self.d.traced.n_ys] if isinstance(out, Value)}
        for call in body.calls:
            if len(call.outs) > 1:
                left = [self._fresh(v, name, used) for v in call.outs]
                self.rows.append((", ".join(left), self._call(call)[0]))
                self.symbols |= {v: (text, _ATOM) for v, text in zip(call.outs, left)}
                continue
            (v,) = call.outs
            named = v.name and v.name not in self.d.hints
            text = self._call(call)[0]
            size = len(_MARKUP.sub("", text))
            twice = reads.get(v, 0) > 1 and size > _SHORT[back] or size > _LONG
            if v in fixed:
                self.rows.append((fixed[v], text))
                self.symbols[v] = fixed[v], _ATOM
            elif v in self.varying and call.op.name not in _VIEWS | _SILENT and (
                    twice and (back or v not in final) or named and (v not in final or not back or reads[v] > 1)) or (
                    named and v in self.varying and v not in final):
                left = self._fresh(v, name, used)
                self.rows.append((left, text))
                self.symbols[v] = left, _ATOM

    def _fresh(self, value, name, used):
        """The symbol of a value; a name that was bound again gets a prime."""
        text = name(value)
        while text in used:
            text += "′" if isinstance(self.w, Text) else "'"
        used.add(text)
        return text

    def _cotangent(self, value):
        step = "t" if value in self.varying else ""
        return self.w.cotangent(value.name[1:], step) if value.name.startswith("d") and len(value.name) > 1 else self.w.name(value.name, step)

    def _symbol(self, value):
        return self.symbols.get(value, ("",))[0] if isinstance(value, Value) else ""

    # ---- expressions --------------------------------------------------------------------------------------------

    def render(self, arg):
        """(text, rank) of an argument."""
        if not isinstance(arg, Value):
            array = np.asarray(arg)
            if array.ndim == 0 or array.size and (array == array.flat[0]).all():
                number = array.flat[0].item()
                number = int(number) if isinstance(number, float) and number.is_integer() else number
                return self.w.number(number), _ATOM if number >= 0 else _TIMES
            return "C", _ATOM
        if arg in self.symbols:
            return self.symbols[arg]
        return self._call(self.makers[arg])

    def _bound(self, arg, rank):
        """The text of an argument, in brackets where it binds less tightly than `rank`."""
        text, own = self.render(arg)
        return text if own >= rank else f"({text})"

    def _call(self, call):
        op, args, w = call.op.name, call.args, self.w
        if op in ("add", "subtract"):
            sign = "+" if op == "add" else w.minus
            return f"{self._bound(args[0], _ADD)} {sign} {self._bound(args[1], _ADD if op == 'add' else _TIMES)}", _ADD
        if op == "negative":
            return f"{w.minus}{self._bound(args[0], _TIMES)}", _ADD
        if op == "multiply" and any(np.ndim(a) == 0 if not isinstance(a, Value) else a.shape == () for a in args):
            return w.scaled.join(self._bound(a, _TIMES) for a in args), _TIMES
        if op == "multiply":
            return w.times.join(self._bound(a, _TIMES) if self._maker(a) != "matmul" else f"({self.render(a)[0]})" for a in args), _TIMES
        if op == "divide":
            return (w.ratio(self.render(args[0])[0], self.render(args[1])[0]), _PRODUCT) if w.ratio("", "") else (
                f"{self._bound(args[0], _TIMES)} / {self._bound(args[1], _POWER)}", _TIMES)
        if op == "matmul":
            if outer := self._outer(call):
                return f"{self._bound(outer[0], _PRODUCT)}{w.beside}{w.transposed(self._bound(outer[1], _ATOM))}", _PRODUCT
            return f"{self._bound(args[0], _PRODUCT)}{w.beside}{self._bound(args[1], _POWER)}", _PRODUCT
        if op == "power":
            return w.power(self._bound(args[0], _ATOM), self.render(args[1])[0]), _POWER
        if op == "square":
            return w.power(self._bound(args[0], _ATOM), "2"), _POWER
        if op == "transpose":
            return self._transposed(args[0])
        if op == "sqrt":
            return w.root(self.render(args[0])[0]), _ATOM
        if op in _SILENT:
            return self.render(args[0])
        if op == "sum" and isinstance(args[0], Value):
            return w.total(self._letters(call), self._bound(args[0], _TIMES)), _SUM
        if op in ("concatenate", "stack"):
            return f"[{', '.join(self.render(a)[0] for a in args)}]", _ATOM
        if op == "getitem" and len(args) == 1:
            return f"{self._bound(args[0], _ATOM)}[{index_text(call.statics['index'])}]", _ATOM
        return w.apply(op, [self.render(a)[0] for a in args]), _ATOM

    def _outer(self, call):
        """(u, v) for a product of u as a column with v as a row."""
        found = [without_axis(a, self.makers) if self._maker(a) == "getitem" and len(a.shape) == 2 else None for a in call.args]
        return [x for x, _ in found] if None not in found and [axis for _, axis in found] == [-1, -2] else None

    def _placed(self, value):
        """[(index, part)] of a gradient that is put together of parts at places that do not overlap; else the whole."""
        parts, pending = [], [value]
        while pending:
            call = self.makers.get(pending.pop()) if all(isinstance(v, Value) and v not in self.symbols for v in pending[-1:]) else None
            if call is not None and call.op.name == "add":
                pending += call.args[::-1]
            elif call is not None and call.op.name == "scatter_add" and len(call.args) == 1:
                parts.append(call)
            else:
                return [("", value)]
        covered = np.zeros(value.shape)
        for call in parts:
            covered[call.statics["index"]] += 1
        return [(f"[{index_text(c.statics['index'])}]", c.args[0]) for c in parts] if covered.max() <= 1 else [("", value)]

    def _maker(self, arg):
        """The op of a value that is written out where it is read."""
        return self.makers[arg].op.name if isinstance(arg, Value) and arg not in self.symbols and arg in self.makers else ""

    def _transposed(self, arg):
        """(A B)ᵀ is Bᵀ Aᵀ, and (Aᵀ)ᵀ is A."""
        if self._maker(arg) == "transpose":
            return self.render(self.makers[arg].args[0])
        if self._maker(arg) == "matmul":
            if outer := self._outer(self.makers[arg]):
                return f"{self._bound(outer[1], _PRODUCT)}{self.w.beside}{self.w.transposed(self._bound(outer[0], _ATOM))}", _PRODUCT
            a, b = (self._transposed(x) for x in self.makers[arg].args)
            return self.w.beside.join(text if rank >= _POWER else f"({text})" for text, rank in (b, a)), _PRODUCT
        return self.w.transposed(self._bound(arg, _ATOM)), _ATOM

    @staticmethod
    def _letters(call):
        """What a sum runs over: i the first axis of a step's array, j the second, k the third."""
        x, axis = call.args[0], call.statics["axis"]
        axes = range(len(x.shape)) if axis is None else axis if isinstance(axis, tuple) else (axis,)
        return ",".join("ijklm"[a % len(x.shape)] for a in axes)

