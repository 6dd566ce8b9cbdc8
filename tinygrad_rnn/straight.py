"""Straight: a program as a Python function, one call a line, and no call that could be saved.

Knows which calls repeat an earlier one, which results nobody reads, which line may write into the buffer of an earlier one,
and that the loops in it are written out where they stand. Refuses to know where the program comes from, and how the text of
a loop is made. Below it: emit, writing, lending, buffers, spelling, program, workspace.
"""

import re
from collections import Counter

import numpy as np

from .buffers import Room, has_out
from .emit import Source
from .lending import Owned
from .program import Call, Program, Value, frozen
from .spelling import ours
from .workspace import LEAST_BYTES
from .writing import SPREAD, Text

_BOUND = re.compile(r"^ *(?:for )?(\w+(?:, \w+)*),?(?: =| in) ")  # the names that a line gives


def once(calls, same):
    """The calls without those that an earlier one has made already, or that nothing but constants go into; `same` tells
    what stands for a value."""
    kept, seen = [], {}
    for call in calls:
        args = tuple([same.get(a, a) if isinstance(a, Value) else a for a in call.args])
        own = [a if isinstance(a, Value) else frozen(a) if isinstance(a, (int, float)) else id(a) for a in args]
        key = call.op, *own, *map(frozen, call.statics.values())
        if key in seen:
            same.update(zip(call.outs, seen[key]))
        elif not any(isinstance(a, Value) for a in args) and len(call.outs) == 1:
            made = call.op.forward(*args, **call.statics)
            made = np.asarray(made[0] if type(made) is tuple else made)
            same[call.outs[0]] = made if made.size > SPREAD else np.ascontiguousarray(made).reshape(made.shape)
        else:
            seen[key] = call.outs
            kept.append(Call(call.op, args, call.statics, call.outs))
    return kept


def shorter(program):
    """The program without the results of loops that only a further derivative would read."""
    read = {a for call in program.calls for a in call.inputs} | {v for v in program.outputs if isinstance(v, Value)}
    calls = []
    for call in program.calls:
        loop = call.statics.get("loop")
        if loop is not None and loop is not loop.shorter:
            start, stop = loop.shorter.n_states + loop.shorter.n_ys, loop.n_states + loop.n_ys
            if read.isdisjoint(call.outs[start:stop]):
                call = Call(call.op, call.args, call.statics | {"loop": loop.shorter}, call.outs[:start] + call.outs[stop:])
        calls.append(call)
    return Program(program.inputs, calls, program.outputs)


def steady(loop, args):
    """The loop and what goes into it, where a sequence that holds the same at every step is none: a cotangent of a sum, say,
    goes in once, and beside another array of its shape it is a number."""
    n, m, inputs = loop.n_states, loop.n_states + loop.n_xs, loop.body.inputs
    same = {i for i in range(n, m) if isinstance(args[i], np.ndarray) and len(args[i]) and (args[i] == args[i][0]).all()
            and (np.signbit(args[i]) == np.signbit(args[i][0])).all()}
    if not same:
        return loop, args
    numbers = {inputs[i]: float(args[i].flat[0]) for i in same if args[i].dtype.kind == "f" and args[i].size and np.isfinite(args[i].flat[0])
               and args[i].tobytes() == args[i].flat[:1].tobytes() * args[i].size}
    calls = [_with_numbers(call, numbers) for call in loop.body.calls]
    order = [*(i for i in range(len(inputs)) if i not in same), *sorted(same)]
    made = type(loop)(Program([inputs[i] for i in order], calls, loop.body.outputs), n, loop.n_xs - len(same), loop.n_ys, loop.reverse)
    made.augmented, made.roots, made.shorter = loop.augmented, loop.roots, loop.shorter
    return made, [np.ascontiguousarray(args[i][0]).reshape(inputs[i].shape) if i in same else args[i] for i in order]


def _with_numbers(call, numbers):
    """The call with a number for each of these values, where nothing but its value counts."""
    if not (call.op.elementwise and ours(call.op) and len(call.outs) == 1):
        return call
    out = call.outs[0]
    if not any(a.shape == out.shape and a.dtype == out.dtype and a not in numbers for a in call.inputs):
        return call
    args = [numbers[a] if isinstance(a, Value) and a in numbers and a.dtype == out.dtype else a for a in call.args]
    return Call(call.op, tuple(args), call.statics, call.outs)


class Straight(Text):
    """The text of a program as a Python function `run(inputs…) -> outputs…`: one call a line, into a buffer whose value
    nobody reads any more where there is one. A loop that is called once is written out where it is called."""

    def __init__(self, program):
        super().__init__()
        self.calls, self.inputs = [], [self.name(v) for v in program.inputs]
        self.lasting.update(zip(self.inputs, self.inputs))
        self._makers = {v: call for call in program.calls for v in call.outs}
        self.lies, self.rooms = {}, {}  # result of a loop -> name of its buffer -> dtype, entries a step, steps
        self.wanted = {a for call in program.calls for a in call.inputs} | {v for v in program.outputs if isinstance(v, Value)}
        room = Room(program.calls, [v for v in program.outputs if isinstance(v, Value)])
        self._ends = []  # numbers of the lines before which a loop has let go of what it leaves behind
        self._loops = [k for k, call in enumerate(program.calls) if "loop" in call.statics]
        loops = Counter(call.statics.get("loop") for call in program.calls)
        for k, call in enumerate(program.calls):
            if loops[call.statics.get("loop", ...)] == 1:
                self._written_out(call, k, room)
            else:
                self._line(call, k, room)
                self.calls.append(call)
        self._let_go({self.arg(v)[0] for v in program.outputs})
        self._name_short()
        self.results, seen = [], set()
        for v in program.outputs:
            fresh = isinstance(v, Value) and v.shape != () and v not in seen and self._is_new(v)
            seen.add(v if isinstance(v, Value) else None)
            self.results.append(self.arg(v)[0] if fresh else f"np.array({self.arg(v)[0]})")

    def _line(self, call, k, room):
        """One call."""
        texts, out = [self.arg(a) for a in call.args], call.outs[0]
        writes = len(call.outs) == 1 and out.shape != () and call.op.elementwise and has_out(call) and ours(call.op)
        name = room.in_place(call, k) if writes else None
        if name is not None:
            self.names[out, ""] = name
            self.put(self._into(call, texts, name))
            return
        self.put(f"{', '.join([self.name(v) for v in call.outs])} = {self._text(call, texts)}")
        if writes:
            room.keep(out, self.name(out))
        elif call.op.view and len(call.outs) == 1 and isinstance(call.args[0], Value):
            room.view(out, call.args[0], self.name(out))

    def _written_out(self, call, k, room):
        """A loop in the place of its call. It may overwrite what an earlier one kept and nobody reads after it."""
        (loop, args), T = steady(call.statics["loop"], call.args), call.statics["T"]
        texts = [self.arg(a if isinstance(a, Value) else np.asarray(a))[0] for a in args]
        fast, n, m = loop.faster(), loop.n_states, loop.n_states + loop.n_xs
        inputs = dict(zip(fast.body.inputs, texts))
        owned = self._owned(zip(args, fast.body.inputs), fast.xs, k, room, T)
        made = Source(fast, {v: inputs[v] for v in (*fast.states, *fast.consts)}, dict(zip(fast.xs, texts[n:m])), T=T, within=self, owned=owned)
        self.put(f"T = {T}")
        start = len(self.lines)
        self.lines += made.lines
        self.calls += made.calls
        for i, (out, text) in enumerate(zip(call.outs, made.results)):
            if out in self.wanted:
                text = text.removesuffix(".copy()") if loop.augmented and i < n else text  # nobody writes into a stack of states
                if text.isidentifier():
                    self.names[out, ""] = text
                else:
                    self.put(f"{self.name(out)} = {text}")
        for out, stacked in zip(call.outs[n:], made.s.outputs):
            name = made.name(made._base(stacked)).split("[")[0] if isinstance(stacked, Value) else None
            if name in made.stacks:
                self.lies[out], *entries = made.stacks[name]
                self.rooms[self.lies[out]] = *entries, T
        if k < max(self._loops) and T * made.width >= LEAST_BYTES:
            self._forgotten(start, {*made.results, *self.names.values(), *self.lies.values(), *self.lasting.values()})

    def _forgotten(self, start, kept):
        """Let go of what a loop leaves behind: its buffers, and the views of them, would live as long as the function runs."""
        bound = [name for line in self.lines[start:] for names in _BOUND.findall(line) for name in names.split(", ")]
        names = [name for name in dict.fromkeys(bound) if name not in kept and name != "T"]
        for i in range(0, len(names), 20):
            self.put(f"del {', '.join(names[i:i + 20])}")
        self._ends.append(len(self.lines))

    def _let_go(self, kept):
        """The same of what was made once, when no later loop reads it."""
        gone, lines = [], []
        for end in self._ends:
            before, later = (set(re.findall(r"\w+", "\n".join(part))) for part in (self.lines[:end], self.lines[end:]))
            names = [name for text, name in self.lasting.items() if text != name and name in before - later - kept and name not in gone]
            lines += [(end, f"del {', '.join(names)}")] * bool(names)
            gone += names
        for end, line in reversed(lines):
            self.lines.insert(end, f"    {line}")

    def _owned(self, pairs, xs, k, room, T):
        """The buffers that the k-th call, a loop, may overwrite: what lies there is read for the last time, and as a sequence."""
        inside, pairs = {}, list(pairs)
        for value, name in self.lies.items():
            inside.setdefault(name, set()).add(value)
        owned = []
        for name, values in inside.items():
            dtype, size, steps = self.rooms[name]
            readers = [(arg, x) for arg, x in pairs if isinstance(arg, Value) and room.root.get(arg, arg) in values]
            if steps == T and T * size * dtype.itemsize >= LEAST_BYTES and all(room.last.get(v, -1) <= k for v in values) and all(
                    arg in values and x in xs for arg, x in readers):
                owned.append(Owned(name, dtype, size, [x for _, x in readers]))
        return owned

    def _is_new(self, value):
        """Whether nobody else holds the memory of a result."""
        call = self._makers.get(value)
        if call is None or call.op.view:
            return False
        return not call.statics["loop"].augmented if "loop" in call.statics else ours(call.op)  # a stranger may return its input

    @property
    def text(self):
        """The source."""
        return "\n".join([f"def run({', '.join(self.inputs)}):", *self.lines, f"    return [{', '.join(self.results)}]"]) + "\n"
