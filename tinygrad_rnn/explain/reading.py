"""A loop on the page: written for a person, with expressions, the cell's own names and `[t]` for a step.

Knows which results get a line of their own (those that the author named, that are kept, or that are read twice) and which
are written into the expression that reads them. Refuses to decide what leaves the loop: `Schedule` does, in the form that
moves matrix products alone. Below it: loops, spelling, tidy, words.
"""

import numpy as np

from ..loops import Schedule
from ..program import Value
from ..spelling import ATOM, Steps, spell
from .tidy import straightened
from .words import described, telling

WIDTH = 100  # characters of an expression; a longer one is cut in two
_VIEWS = {"transpose", "reshape", "getitem", "identity", "stop_gradient", "swapaxes"}


class Stack:
    """All steps of a value: `name`, or its slice without the last (shift 0) or the first (shift 1) entry of T + 1."""

    def __init__(self, name, shift=None):
        self.name, self.shift = name, shift

    @property
    def whole(self):
        return self.name + {None: "", 0: "[:-1]", 1: "[1:]"}[self.shift]

    @property
    def now(self):
        return f"{self.name}[t + 1]" if self.shift == 1 else f"{self.name}[t]"


def unique(word, taken):
    """`word`, or with a number behind it if it is taken; it is taken from now on."""
    word = "".join(c if c.isalnum() or c == "_" else "_" for c in word) or "v"
    name = word if word not in taken else next(f"{word}{i}" for i in range(2, 10**6) if f"{word}{i}" not in taken)
    taken.add(name)
    return name


class Page:
    """The parts of a loop's text, lists of lines: `once`, `before`, `buffers`, `step`, `after`; and the texts of its `results`.

    `names` are those of the constants and the stacks of the sequences, `taken` is not free, `hints` are names that a value
    need not have, `sums` are those of the sums over time. `starts` are the places into which the initial states go, in order.
    """

    def __init__(self, loop, names, taken, hints, states, sums=()):
        self.loop, self.taken, self.hints, self.constants = loop, taken, hints, {}
        self.s = s = Schedule(loop, readable=True)
        parts = s.once, s.before, s.after
        calls, place = straightened([c for part in parts for c in part], join=True)
        of = {id(v): k for k, part in enumerate(parts) for c in part for v in c.outs}
        s.once, s.before, s.after = ([c for c in calls if of.get(id(c.outs[0]), 2) == k] for k in range(3))
        self.place = place
        self.stacked = {v: place(w) for v, w in s.stacked.items()}
        self.sums = [place(v) for v in s.sums]
        for name, new in zip(sums or [v.name for v in s.sums], self.sums):
            new.name = name if new.name in hints or not new.name else new.name
        self.outputs = [place(v) for v in s.outputs]
        self.text, self.stacks, self.pending = {}, {}, {}
        for value, name in names.items():
            if isinstance(name, Stack):
                self.stacks[self.stacked[value]] = name
            else:
                self.text[value] = name
        self.made = {v: c for c in s.inside for v in c.outs}
        self.nexts = {v for v in loop.next_states if isinstance(v, Value)}
        self._count()
        self.calls = [c for c in (*s.once, *s.before, *s.inside, *s.after) if self.live(c)]
        self.here = None  # names inside the loop, while it is written
        self.once, self.before, self.buffers, self.step, self.after = [], [], [], [], []
        self.lines = self.once
        self._straight(s.once)
        self.lines = self.before
        self._straight(s.before)
        self._loop(states)
        self.lines = self.after
        self._straight(s.after)
        self.results = [*self.finals, *map(self._sequence, loop.ys, self.outputs), *(self.render(v)[0] for v in self.sums)]

    # ---- what is needed, and how often ---------------------------------------------------------------------------

    def _count(self):
        s = self.s
        results = [v for v in (*self.outputs, *self.sums) if isinstance(v, Value)]
        results += [self.stacked.get(v, self.place(v)) for v in self.loop.next_states if isinstance(v, Value) and v not in self.made]
        self.uses = dict.fromkeys(results, 2)
        self.wanted = set(results) | set(self.made)
        for call in reversed([*s.once, *s.before, *s.inside, *s.after]):
            if call in s.inside or self.live(call):
                for a in call.inputs:
                    a = self._read(a) if call in s.inside else a
                    self.wanted.add(a)
                    self.uses[a] = self.uses.get(a, 0) + 1

    def _read(self, arg):
        """What a call in the loop reads: a result of the loop, all steps of a sequence, or something fixed."""
        return arg if arg in self.made or arg in self.loop.states else self.stacked.get(arg, self.place(arg))

    def live(self, call):
        return not self.wanted.isdisjoint(call.outs)

    def _inlined(self, call):
        """Whether the result of a call goes into the expression that reads it."""
        if len(call.outs) != 1:
            return False
        (v,) = call.outs
        named = v.name and v.name not in self.hints
        if v in self.made:
            return not named and v not in self.s.stored and v not in self.nexts and (self.uses.get(v, 0) <= 1 or call.op.name in _VIEWS)
        if call in self.s.once and call.op.name in ("transpose", "getitem") and len(call.inputs) == 1 and (v.name in self.hints or not v.name):
            return v not in self.sums and v not in self.outputs
        in_loop = any(self._read(a) is v for c in self.s.inside for a in c.inputs) or v in self.stacked.values() and any(
            self.stacked.get(n) is v for n in self.loop.next_states if isinstance(n, Value))
        return not named and not in_loop and (self.uses.get(v, 0) <= 1 or call.op.name in _VIEWS and self.uses[v] < 3)

    # ---- expressions --------------------------------------------------------------------------------------------

    def render(self, arg):
        """(text, rank) of an argument, inside the loop or outside."""
        if not isinstance(arg, Value):
            return self._literal(arg)
        if self.here is not None:
            if arg in self.here:
                return self.here[arg], ATOM
            if arg not in self.pending:
                stack = self._read(arg)
                if stack in self.stacks:
                    return self.stacks[stack].now, ATOM
                if arg in self.s.varying:
                    return f"{self.text[stack]}[t]", ATOM
                arg = stack
        if arg in self.pending:
            return self._spelled(self.pending[arg])
        if arg in self.stacks:
            return self.stacks[arg].whole, ATOM
        if arg not in self.text:
            self.text[arg] = unique(arg.name or "v", self.taken)
        return self.text[arg], ATOM

    def expression(self, call):
        """The text of a call; parts of one that is too long get lines of their own before it."""
        while True:
            text = self._spelled(call)[0]
            cut = [(telling(a), len(words), a) for a in self._inside(call) if len(words := self.render(a)[0]) > 12]
            if len(text) <= WIDTH or not cut:
                return text
            value, before = max(cut, key=lambda c: c[:2])[2], len(self.lines)
            inner = self.expression(self.pending[value])
            if len(self.lines) == before:  # else it became shorter
                self._assign(self.pending.pop(value), inner)

    def _inside(self, call):
        """The values that are written out within the text of a call."""
        for a in call.args:
            if isinstance(a, Value) and a in self.pending and (self.here is None or a not in self.here):
                yield a
                yield from self._inside(self.pending[a])

    def _assign(self, call, text):
        """A line for a result outside the places that are kept."""
        names = [unique(v.name or described(call, (), {}), self.taken) for v in call.outs]
        for v, name in zip(call.outs, names):
            (self.text if self.here is None else self.here)[v] = name
        self.lines.append(f"{', '.join(names)} = {text}")

    def _spelled(self, call):
        floats = any(isinstance(a, Value) and a.dtype.kind == "f" for a in call.args)  # 2.0 is 2 where it makes no difference
        return spell(call, [self.render(a) if floats or type(a) is not float else (repr(a), ATOM if a >= 0 else 4) for a in call.args])

    def _literal(self, arg):
        if isinstance(arg, Steps):
            return "T", ATOM
        if isinstance(arg, (bool, int, float)):
            if arg != arg or abs(arg) == float("inf"):
                return f"float('{arg}')", ATOM
            return (repr(int(arg)) if isinstance(arg, float) and arg.is_integer() and abs(arg) < 1e6 else repr(arg)), ATOM if arg >= 0 else 4
        array = np.asarray(arg)
        if array.ndim == 0:
            return self._literal(array.item())
        if not array.size or (array == array.flat[0]).all() and array.flat[0] in (0, 1):
            kind = "ones" if array.size and array.flat[0] == 1 else "zeros"
            return f"np.{kind}({array.shape}{dtype(array)})", ATOM
        for name, known in self.constants.items():
            if known is arg:
                return name, ATOM
        name = unique("constant", self.taken)
        self.constants[name] = arg
        return name, ATOM

    # ---- the parts ----------------------------------------------------------------------------------------------

    def _straight(self, calls):
        for call in [c for c in calls if self.live(c)]:
            if self._inlined(call):
                self.pending[call.outs[0]] = call
            else:
                self._assign(call, self.expression(call))
        self._merge_equal()

    def _merge_equal(self):
        """Lines with equal right sides become one: a = b = …"""
        left = {}
        for line in self.lines:
            names, right = line.split(" = ", 1)
            left.setdefault(right, []).append(names)
        self.lines[:] = [" = ".join([*names, right]) for right, names in left.items()]

    def _loop(self, places):
        s, loop = self.s, self.loop
        self.here, self.finals, self.starts, self.lines = {}, [], [], self.step
        first = {}  # next state -> the first state that it becomes
        for state, out in zip(loop.states, loop.next_states):
            if isinstance(out, Value):
                first.setdefault(out, state)
        inside = self._in_order([c for c in s.inside if not self._inlined(c)])
        reads, kept, self.holds = self._last_reads(inside), {}, {}
        for state, out, word in zip(loop.states, loop.next_states, places):
            own = isinstance(out, Value) and out in self.made and first[out] is state and out in s.stored
            if state in s.stored or own:
                stack = unique(word, self.taken)
                self._buffer(stack, state, "T + 1")
                now, then = ("t + 1", "t") if loop.reverse else ("t", "t + 1")
                if state in s.stored:
                    self.stacks[self.stacked[state]] = Stack(stack, 1 if loop.reverse else 0)
                if own:
                    self.stacks[self.stacked[out]] = Stack(stack, 0 if loop.reverse else 1)
                self.here[state], kept[state] = f"{stack}[{now}]", f"{stack}[{then}]"
                self.starts.append(f"{stack}[{'T' if loop.reverse else '0'}]")
                self.finals.append(f"{stack}[{'0' if loop.reverse else 'T'}]")
            else:
                self.here[state] = unique(word, self.taken)
                self.holds[self.here[state]] = state
                self.starts.append(self.here[state])
                self.finals.append(self.here[state])
        for v in sorted(s.stored, key=[*loop.states, *self.made].index):
            if v not in loop.states and self.stacked[v] not in self.stacks:
                word = v.name or "kept"
                stack = unique(word + "s" * (word in self.taken and word + "s" not in self.taken), self.taken)
                self._buffer(stack, v, "T")
                self.stacks[self.stacked[v]] = Stack(stack)
        self.pending |= {c.outs[0]: c for c in s.inside if self._inlined(c)}
        for k, call in enumerate(inside):
            text = self.expression(call)
            names = [self._target(v, call, first, kept, reads, k) for v in call.outs]
            self.lines.append(f"{', '.join(names)} = {text}")
            for v, name in zip(call.outs, names):
                self.here[v] = name
                if v in s.stored and self.stacks[self.stacked[v]].now != name:
                    self.lines.append(f"{self.stacks[self.stacked[v]].now} = {name}")
        left, right = [], []
        for state, out in zip(loop.states, loop.next_states):
            name, value = kept.get(state, self.here[state]), self.render(out)[0]
            if name != value:
                left.append(name)
                right.append(value)
        if left:
            self.lines.append(f"{', '.join(left)} = {', '.join(right)}")
        self.here = None

    def _buffer(self, name, value, steps):
        shape = f"({', '.join([steps, *map(str, value.shape)])})" if value.shape else steps
        self.buffers.append(f"{name} = np.empty({shape}{dtype(value)})")

    def _target(self, v, call, first, kept, reads, k):
        """Where a result of the loop is written: into a stack, over the state that it follows, or to a name of its own."""
        state = first.get(v)
        if state is not None and state in kept:
            return kept[state]
        if v in self.s.stored:
            return self.stacks[self.stacked[v]].now
        word = self.here[state] if state is not None else v.name
        if word in self.holds and reads.get(self.holds[word], -1) <= k and self.holds[word] not in self.nexts:
            self.holds[word] = v
            return word
        word = unique(v.name or described(call, (), {}), self.taken)
        self.holds[word] = v
        return word

    def _in_order(self, lines):
        """What is handed to the next step comes last, where nothing in this step reads it."""
        read = {a for c in self.s.inside for a in c.inputs}
        last = [c for c in lines if len(c.outs) == 1 and c.outs[0] in self.nexts and c.outs[0] not in read]
        return [c for c in lines if c not in last] + last

    def _last_reads(self, lines):
        """For each value of the loop the last line that reads it, looking through expressions; the end is a line too."""
        last, inner = {}, {c.outs[0]: c for c in self.s.inside if self._inlined(c)}

        def read(value, k):
            if value in inner:
                for a in inner[value].inputs:
                    read(a, k)
            else:
                last[value] = k

        for k, call in enumerate(lines):
            for a in call.inputs:
                read(a, k)
        for state, out in zip(self.loop.states, self.loop.next_states):
            if isinstance(out, Value):
                read(out, len(lines) - (out is state))
        return last

    def _sequence(self, value, stacked):
        if isinstance(value, Value) and value in self.s.varying:
            return self.render(stacked)[0]
        shape = value.shape if isinstance(value, Value) else np.shape(value)
        return f"np.broadcast_to({self.render(self.place(value))[0]}, (T, {''.join(f'{n}, ' for n in shape)}))"


def dtype(value):
    """The dtype argument of a new array: none for float64."""
    return "" if value.dtype == np.float64 else f", np.{value.dtype.name}"
