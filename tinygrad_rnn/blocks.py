"""What a block of steps shares: calls on all its steps at once, before and after the steps themselves.

Knows where such a call writes: into a buffer of one block, into the block's place in a stack that somebody reads whole, or, a
sum over time, into what the blocks before have added up. Refuses to know which calls are made in blocks (`emit`) and what
a step does (`steps`). Below it: writing, buffers, schedule, spelling, program.
"""

import re
from typing import Any

from .buffers import Room, dtype_text, has_out, tuple_text
from .program import Value
from .schedule import SAMPLE, Schedule
from .spelling import ATOM, spell
from .writing import Text


class BlockText(Text):
    """Writes the lines `block`, and in `head` their buffers.

    `early`, `late`: the calls before and after the steps; `full`: results that somebody reads whole; `tallies`: sums over time
    that grow block by block; `passing`: what the loop keeps no longer than for a block; `at_once`: whether one block is all
    there is. `steps_of`: sequence -> name of its steps in a block; `block_names`: names of what is one block long; `stacks`:
    name of what holds all steps of a value -> name of its memory, dtype and entries of a step; `lent`: stack -> `lending.Owned`.
    """

    s: Schedule
    early: list
    late: list
    blocked: list
    full: set
    tallies: list
    passing: set
    views: dict
    block_size: int
    at_once: bool
    head: list[str]
    block: list[str]
    block_room: Room
    block_names: set
    steps_of: dict
    stacks: dict
    lent: dict[Any, Any]

    def _block(self, calls, first):
        """Calls on a block of steps: on slices of the sequences, into buffers of one block or the block's place in a stack."""
        room = self.block_room
        inner = {v for c in self.blocked for v in c.outs} | {self.s.stacked[v] for v in self.passing}
        sequences = set(self.s.stacked.values()) | {v for c in (*self.s.before, *self.s.after) for v in c.outs}

        def read(arg):
            if isinstance(arg, Value) and arg in sequences and arg not in inner:
                if arg not in self.steps_of:
                    text = self.name(arg)
                    if self.at_once and "[" not in text:
                        return text, ATOM
                    name = self.steps_of[arg] = self.fresh(text.split("[")[0] + "_b")
                    self.block.append(f"{name} = {text}{'[part]' * (not self.at_once)}")
                    if self.at_once:
                        self.block_names.add(name)
                return self.steps_of[arg], ATOM
            if isinstance(arg, Value) and arg in inner:
                return self.steps_of[arg], ATOM
            return self.arg(arg)

        for k, call in enumerate(calls, first):
            out = call.outs[0]
            if call in self.tallies:
                self._tally(call, [read(a) for a in call.args])
                continue
            plain = call.op.elementwise and has_out(call)
            texts = [(self.scalar(a, out.dtype), ATOM) if plain and type(a) in (int, float) else read(a) for a in call.args]
            if not has_out(call):
                names = [self.fresh(re.sub(r"\W", "", v.name) or "v") for v in call.outs]
                text = self._text(call, texts) if self.at_once else re.sub(r"(?<![.\w])T\b", "n", self._text(call, texts))
                if call.op.view and text in self.views:
                    names = self.views[text]
                else:
                    self.block.append(f"{', '.join(names)} = {text}")
                    self.views[text] = names
                self.steps_of.update(zip(call.outs, names))
                self.block_names.update(names)
                if call.op.view and len(call.outs) == 1 and isinstance(call.args[0], Value):
                    room.view(out, call.args[0], names[0])
                continue
            name = None if out in self.full else room.in_place(call, k) or room.again(call, k)
            if name is None:
                name = self.fresh(re.sub(r"\W", "", out.name) or "v")
                lead = f"{out.shape[0] // SAMPLE} * " if out.shape[0] > SAMPLE else ""
                rest = "".join(f", {m}" for m in out.shape[1:]) or ","
                if self.at_once:
                    self._stack(name, out, f"{lead}T{rest}", out.size // SAMPLE)
                    if out in self.full:
                        self.names[out, ""] = name
                elif out in self.full:
                    stack = self.names[out, ""] = self.fresh(name + "s")
                    self._stack(stack, out, f"{lead}T{rest}", out.size // SAMPLE)
                    self.block.append(f"{name} = {stack}[{lead}start:{lead}part.stop]")
                else:
                    buffer = self.fresh(name + "_all")
                    self.head.append(f"{buffer} = np.empty(({lead}min(T, {self.block_size}){rest}), {dtype_text(out)})")
                    self.block.append(f"{name} = {buffer}[:{lead}n]")
                room.keep(out, name)
            else:
                room.keep(out, name, again=True)
            self.steps_of[out] = name
            self.block_names.add(name)
            self.block.append(self._into(call, texts, name))

    def _stack(self, name, value, shape, size):
        """Room for all steps of a value, of so many entries each: new, or where something lies that is not read any more."""
        buffer = self.lent.get(value)
        if buffer is None:
            self.head.append(f"{name} = np.empty(({shape}), {dtype_text(value)})")
            self.stacks[name] = name, value.dtype, size
        else:
            self.head.append(f"{name} = {buffer.name}.reshape({shape})")
            self.stacks[name] = buffer.name, value.dtype, size

    def _copied(self, x):
        """A sequence that is overwritten before it is read for the last time: the steps read a copy."""
        stacked = self.s.stacked[x]
        text, name = self.name(stacked), self.fresh(f"{x.name or 'v'}_copy")
        if self.at_once:
            self.block.append(f"{name} = {text}.copy()")
        else:
            buffer = self.fresh(name + "_all")
            self.head.append(f"{buffer} = np.empty((min(T, {self.block_size}), {', '.join(map(str, x.shape))}), {dtype_text(x)})")
            self.block += [f"{name} = {buffer}[:n]", f"{name}[...] = {text}[part]"]
        self.steps_of[stacked] = name
        self.block_names.add(name)

    def _tally(self, call, texts):
        """A sum over time that a block adds to; the first block's product is the sum itself."""
        (out,) = call.outs
        total, place = self.name(out), f"({tuple_text(out.shape)}, {dtype_text(out)})"
        if self.at_once:
            self.block.append(f"{total} = {self._text(call, texts)}")
            return
        if call.op.name == "sum":
            self.head.append(f"{total} = np.zeros{place}")
            self.block.append(f"{total} += {spell(call, texts)[0]}")
            return
        part = self.fresh(total + "_b")
        self.head += [f"{total} = (np.empty if T else np.zeros){place}", f"{part} = np.empty{place}"]
        self.block += [f"np.dot({', '.join(text for text, _ in texts)}, {total} if first else {part})",
                       "if not first:", f"    {total} += {part}"]
