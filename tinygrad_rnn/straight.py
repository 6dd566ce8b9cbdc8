"""Straight: a program without loops of its own as a Python function, one call a line, and no call that could be saved.

Knows which calls repeat an earlier one, which results nobody reads, and which line may write into the buffer of an earlier
one. Refuses to know where the program comes from, and what a loop in it does. Below it: emit, buffers, spelling, program.
"""

import re

import numpy as np

from .buffers import Room, has_out
from .emit import Source
from .program import Call, Program, Value, frozen
from .spelling import kernels, ours, spell

_SPREAD = 1 << 16  # elements up to which a repeated constant is worth its memory: strides of 0 are slow


def once(calls, same):
    """The calls without those that an earlier one has made already, or that nothing but constants go into; `same` tells
    what stands for a value."""
    kept, seen = [], {}
    for call in calls:
        args = tuple([same.get(a, a) if isinstance(a, Value) else a for a in call.args])
        key = call.op, *[a if isinstance(a, (Value, int, float, bool)) else id(a) for a in args], *map(frozen, call.statics.values())
        key = key, tuple(map(type, args))
        if key in seen:
            same.update(zip(call.outs, seen[key]))
        elif not any(isinstance(a, Value) for a in args) and len(call.outs) == 1:
            made = np.asarray(call.op.forward(*args, **call.statics))
            same[call.outs[0]] = made if made.size > _SPREAD else np.ascontiguousarray(made).reshape(made.shape)
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


class Straight(Source):
    """The text of a program as a Python function `run(inputs…) -> outputs…`: one call a line, into a buffer whose value
    nobody reads any more where there is one."""

    def __init__(self, program):
        self.names, self.constants, self.short, self.taken = {}, {}, {}, {"np", "run", "empty"}
        self.body = self.lines = []
        self.calls, self.inputs = program.calls, [self.name(v) for v in program.inputs]
        room = Room(self.calls, [v for v in program.outputs if isinstance(v, Value)])
        for k, call in enumerate(self.calls):
            texts, out = [self.arg(a) for a in call.args], call.outs[0]
            writes = len(call.outs) == 1 and out.shape != () and call.op.elementwise and has_out(call) and ours(call.op)
            name = room.in_place(call, k) if writes else None
            if name is not None:
                self.names[out, ""] = name
                self.put(self._into(call, texts, name))
                continue
            text = spell(call, texts)[0]
            if call.op.name == "sum" and text.startswith("np.sum("):  # the method is called at a third of the cost
                text = re.sub(r"^np\.sum\((\w+)(, )?", r"\1.sum(", text)
            self.put(f"{', '.join([self.name(v) for v in call.outs])} = {text}")
            if writes:
                room.keep(out, self.name(out))
            elif call.op.view and len(call.outs) == 1 and isinstance(call.args[0], Value):
                room.view(out, call.args[0], self.name(out))
        if self.short:
            words = sorted(self.short)
            self.lines.insert(0, f"    {', '.join(self.short[w] for w in words)} = {', '.join(f'np.{w}' for w in words)}")
        self._makers, self.results, seen = {v: call for call in self.calls for v in call.outs}, [], set()
        for v in program.outputs:
            fresh = isinstance(v, Value) and v.shape != () and v not in seen and self._is_new(v)
            seen.add(v if isinstance(v, Value) else None)
            self.results.append(self.arg(v)[0] if fresh else f"np.array({self.arg(v)[0]})")

    def _is_new(self, value):
        """Whether nobody else holds the memory of a result."""
        call = self._makers.get(value)
        if call is None or call.op.view:
            return False
        return not call.statics["loop"].augmented if "loop" in call.statics else ours(call.op)  # a stranger may return its input

    @property
    def text(self):
        """The source."""
        return "\n".join([f"def run({', '.join(self.inputs)}):", *self.body, f"    return [{', '.join(self.results)}]"]) + "\n"

    def compile(self):
        """The function."""
        scope = {"np": np, **self.constants, **kernels(self.calls)}
        exec(compile(self.text, "<compiled>", "exec"), scope)
        scope["run"].source = self.text
        return scope["run"]
