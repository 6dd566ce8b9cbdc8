"""The loop of a generated source: buffers, views of them, one NumPy call a line.

Knows where every result of a step is kept and writes the call into that place. It is the middle part of `emit.Source`,
which brings the schedule `s` and says what is made in blocks of steps. Refuses to know what a block shares (`blocks`), and
what stands before and after the loop. Below it: blocks, writing, lending, buffers, schedule, spelling, program.
"""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from .blocks import BlockText
from .buffers import Room, dtype_text, has_out, tuple_text
from .lending import Owned, lent
from .program import Value
from .schedule import SAMPLE
from .spelling import ATOM, ours
from .writing import SPREAD


class StepText(BlockText):
    """Writes the loop of a source; see `emit.Source`, which has what is only named here."""

    loop: Any
    whole: list
    sooner: list
    owned: list[Owned]
    viewed: set

    # ---- the loop -----------------------------------------------------------------------------------------------

    def _loop(self, initial):
        """Buffers, views of them, and the loop: first what a block of steps shares, then one line a call."""
        self.head, self.block, self.each, self.step, self.ends = [], [], [], [], []
        self.where, self.homes, self.finals, self.owner = {}, {}, [], {}
        made = {v: call for call in self.s.inside for v in call.outs}
        for state, value, start in zip(self.loop.states, self.loop.next_states, initial):
            self._state(state, value, start, made)
        self._joins(made)
        self.stacks, self.steps_of = {}, {}
        size = self.block_size
        read = [self.s.stacked.get(a, a) for c in self.s.inside for a in c.inputs]
        inside = SimpleNamespace(op=SimpleNamespace(view=False), outs=(), inputs=read)  # the steps, as one call between the others
        self.block_names, self.block_room = set(), Room([*self.early, inside, *self.late], self.full)
        self.lent, copied = lent(self, self.owned)
        for x in copied:
            self._copied(x)
        self._block(self.early, 0)
        self.room = Room(self.s.inside, self._step_reads())
        for k, call in enumerate(self.s.inside):
            self._call(call, k)
        lines = [*self.step, *(self._end(e) for e in self.ends)]
        early, self.block = self.block, []
        self._block(self.late, len(self.early) + 1)
        in_blocks = self.blocked and not self.at_once
        if in_blocks and any(call.op.name == "matmul" for call in self.tallies):
            self.head.append("first = True")
            self.block.append("first = False")
        if self.head:
            self.put("# buffers")
        for line in self.head:
            self.put(line)
        depth, rev = 1 + bool(in_blocks), "[::-1]" * self.loop.reverse
        if in_blocks:
            self.put("# the loop, in blocks of steps that stay in the cache")
            self.put(f"for start in range(0, T, {size}){rev}:")
            self.put(f"part = slice(start, min(start + {size}, T))", 2)
            self.put("n = part.stop - start", 2)
        elif early:
            self.put("# what the steps of the loop read")
        for line in early:
            self.put(line, depth)
        if not in_blocks:
            self.put("# the loop")
        names = ", ".join(name for name, _, _ in self.each) + "," * (len(self.each) == 1)
        sources = []
        for _, text, shape in self.each:
            if in_blocks and text not in self.block_names:
                text = f"{text}[part]"
            sources.append(f"[{text}[t, ...] for t in range(len({text}))]{rev}" if shape == () else text + rev)
        steps = "n" if in_blocks else "T"
        self.put(f"for {names} in zip({', '.join(sources)}):" if self.each else f"for _ in range({steps}):", depth)
        for line in lines or ["pass"]:
            self.put(line, depth + 1)
        if self.block and not in_blocks:
            self.put("# of all its steps")
        for line in self.block:
            self.put(line, depth)

    def every(self, name, sequence, shape):
        """Have `name` run over the steps of a sequence."""
        self.each.append((name, sequence, shape))

    def _step_reads(self):
        """Values that are read when the step's calls are done."""
        return [v for v in self.loop.next_states if isinstance(v, Value)]

    def _state(self, state, value, start, made):
        """Where a state lives: in a stack of T + 1 when its steps are read later, else in one buffer, or in two that change places
        where the next state is made while the old one still is read."""
        s, reverse = self.s, self.loop.reverse
        own = isinstance(value, Value) and value in made and value not in self.owner
        word, shape = self.name(state), "".join(f", {n}" for n in state.shape) or ","
        target = self.fresh(word + "_next")
        if state in s.stacked or own and value in s.stored:
            buffer, first, last = self.fresh(word + "s"), *(("T", "0") if reverse else ("0", "T"))
            dots = ", ..." if state.shape == () else ""
            old, new = ("[1:]", "[:-1]") if reverse else ("[:-1]", "[1:]")
            self.head += [f"{buffer} = np.empty((T + 1{shape}), {dtype_text(state)})", f"{buffer}[{first}] = {start}",
                          f"{word} = {buffer}[{first}{dots}]"]
            self.every(target, buffer + new, state.shape)
            if state in s.stacked:
                self.names[s.stacked[state], ""] = buffer + old
            if own and value in s.stored:
                self.names[s.stacked[value], ""] = buffer + new
            self.ends.append(f"{word} = {target}")
            self.finals.append(f"{buffer}[{last}{dots}].copy()")
        elif own and self._free_before(state, made[value]):
            target = word
            self.head.append(f"{word} = np.array({start})")
            self.finals.append(word)
        else:
            self.head.append(f"{word}, {target} = np.array({start}), np.empty({tuple_text(state.shape)}, {dtype_text(state)})")
            self.ends.append(f"{word}, {target} = {target}, {word}")
            self.finals.append(word)
        self.where[state] = word
        if own and has_out(made[value]):
            self.owner[value] = target
        else:
            self.ends.insert(0, (value, target))

    def _free_before(self, state, call):
        """Whether a state is read for the last time before `call` makes the next one: that may then lie where the state did."""
        readers = [c for c in self.s.inside if state in c.inputs]
        at = self.s.inside.index(call)
        return (has_out(call) and not any(v is state for v in self.loop.next_states) and not any(c.op.view for c in readers)
                and all(self.s.inside.index(c) < at for c in readers))

    def _end(self, end):
        """The last lines of a step: a state that is no result of the step's own calls is copied."""
        return f"{end[1]}[...] = {self._read(end[0])[0]}" if isinstance(end, tuple) else end

    # ---- where results are kept -----------------------------------------------------------------------------------

    def _joins(self, made):
        """Parts of a concatenation are written straight into its buffer."""
        self.parts, self.joined = {}, {}
        for call in self.s.inside:
            if call.op.name != "concatenate" or not ours(call.op) or call.outs[0] in self.owner:
                continue
            (out,) = call.outs
            axis, start, pieces = call.statics["axis"] % len(out.shape), 0, []
            for part in call.args:
                size = (part.shape if isinstance(part, Value) else np.shape(part))[axis]
                index = "..., " if axis == len(out.shape) - 1 else ":, " * axis
                free = (isinstance(part, Value) and part in made and has_out(made[part]) and part not in self.owner
                        and (part not in self.s.stored or out in self.s.stored) and part not in self.parts and part not in self.joined
                        and sum(a is part for a in call.args) == 1 and part.dtype == out.dtype
                        and (made[part].op.name != "matmul" or math.prod(out.shape[:axis]) == 1))  # `dot` wants a place in one piece
                if free:
                    self.parts[part] = out, index, f"{start}:{start + size}"
                pieces.append((part, f"{index}{start}:{start + size}", free))
                start += size
            self.joined[out] = pieces
        self.passing = {v for v in self.passing if (self.s.stacked[v], "") not in self.names}  # the others live with a state
        for part, (out, _, _) in self.parts.items():
            if part in self.s.stored and part not in self.passing:
                self.passing.discard(out)
        self.passing -= {part for part, (out, _, _) in self.parts.items() if out not in self.passing}

    def _place_part(self, part):
        """The name of the slice of a joined buffer into which a part is written."""
        out, index, piece = self.parts[part]
        buffer, name = self._buffer(out), self.name(part)
        if out in self.s.stored:
            lead, stacked = index if index.startswith("...") else ":, " + index, self.s.stacked[out]
            pieces = f"{self.steps_of[stacked] if out in self.passing else self.names[stacked, '']}[{lead}{piece}]"
            self.every(name, pieces, part.shape)
            if out in self.passing:
                self.block_names.add(pieces)
            if part in self.s.stored:
                if out in self.passing:
                    self.steps_of[self.s.stacked[part]] = pieces
                else:
                    self.names[self.s.stacked[part], ""] = pieces
        else:
            self.head.append(f"{name} = {buffer}[{index}{piece}]")
        return name

    def _buffer(self, value, call=None, k=0):
        """The name of the place where a result is kept: a state's, a slice of a stack, or a buffer for all steps."""
        if value in self.where:
            return self.where[value]
        if value in self.owner:
            name = self.owner[value]
            if value in self.s.stacked:
                self._home(value, self.s.stacked[value])
        elif value in self.parts:
            name = self._place_part(value)
        elif value in self.s.stored:
            name, stacked = self.name(value), self.s.stacked[value]
            buffer, rest = self.name(stacked, "s"), "".join(f", {n}" for n in value.shape) or ","
            if value in self.passing:
                self.head.append(f"{buffer} = np.empty((min(T, {self.block_size}){rest}), {dtype_text(value)})")
                part = self.steps_of[stacked] = self.fresh(buffer + "_b")
                self.block.append(f"{part} = {buffer}[:n]")
                self.block_names.add(part)
                self.every(name, part, value.shape)
            else:
                self._stack(buffer, value, f"T{rest}", value.size)
                self.every(name, buffer, value.shape)
                self.names[stacked, ""] = buffer
                self._home(value, stacked)
        else:
            name = call is not None and (self.room.in_place(call, k) or self.room.again(call, k))
            if name:
                self.room.keep(value, name, again=True)
            else:
                name = self.name(value)
                self.head.append(f"{name} = np.empty({tuple_text(value.shape)}, {dtype_text(value)})")
                self.room.keep(value, name)
            self._home(value, None)
        self.where[value] = name
        return name

    def _home(self, value, stacked):
        """Remember that a value has one place, so that views of it can be made outside the loop; with a sample of the place."""
        self.homes[value] = stacked, np.empty((SAMPLE,) * (stacked is not None) + value.shape, value.dtype)

    # ---- the calls of a step --------------------------------------------------------------------------------------

    def _call(self, call, k):
        """Write the k-th call of a step, into the place of its result where it has one."""
        if self._view(call):
            return
        if not has_out(call):
            texts = [self._read(a) for a in call.args]
            names = [self.name(v) if v not in self.s.stored else self.fresh(self.name(v) + "_new") for v in call.outs]
            self.step.append(f"{', '.join(names)} = {self._text(call, texts)}")
            for v, name in zip(call.outs, names):
                if v in self.s.stored:
                    self.step.append(f"{self._buffer(v)}[...] = {name}")
                self.where.setdefault(v, name)
                if call.op.view and isinstance(call.args[0], Value):
                    self.room.view(v, call.args[0], name)
            return
        (value,) = call.outs
        if value in self.joined:
            buffer = self._buffer(value, call, k)
            self.step += [f"{buffer}[{piece}] = {self._read(part)[0]}" for part, piece, written in self.joined[value] if not written]
            return
        texts = [self._read(a, value if call.op.elementwise else None) for a in call.args]
        self.step.append(self._into(call, texts, self._buffer(value, call, k)))

    def _read(self, arg, into=None):
        """(text, rank) inside the loop of an argument; next to a result of another shape a constant is spread out once."""
        if not isinstance(arg, Value):
            number = isinstance(arg, (int, float)) and not isinstance(arg, bool)
            return (self.scalar(arg, into.dtype), ATOM) if number and into is not None else self.arg(arg)
        if arg in self.where:
            return self.where[arg], ATOM
        s = self.s
        if arg in s.varying:
            stacked = s.stacked[arg]
            text = self.steps_of.get(stacked) or self.name(stacked)
            name = self.where[arg] = self.fresh(text.split("[")[0] + "_t")
            self.block_names |= {text} if stacked in self.steps_of else set()
            self.every(name, text, arg.shape)
            return name, ATOM
        if into is not None and arg.shape not in ((), into.shape) and into.size <= SPREAD:
            spread = self.names.get((arg, into.shape))
            if spread is None:
                spread = self.names[arg, into.shape] = self.fresh(self.name(arg) + "_rows")
                self.head.append(f"{spread} = np.broadcast_to({self.name(arg)}, {tuple_text(into.shape)}).copy()")
            return spread, ATOM
        return self.name(arg), ATOM

    def _view(self, call):
        """Make a view once for all steps, where it really is one; says whether it did."""
        home = self.homes.get(call.args[0]) if call.op.view and len(call.args) == 1 else None
        if home is None or any(v in self.s.stored or v in self.owner for v in call.outs):
            return False
        stacked, sample = home
        if stacked is None:
            found = call.op.forward(sample, **call.statics)
        else:
            found = sample if call.op.elementwise else call.op.over_time and call.op.over_time(SAMPLE, [True], sample, **call.statics)
        found = found if isinstance(found, tuple) else (found,)
        if any(f is None or f.size and not np.shares_memory(f, sample) for f in found):
            return False
        if stacked is None:
            names = [self.name(v) for v in call.outs]
            self.head.append(f"{', '.join(names)} = {self._text(call, [(self.where[call.args[0]], ATOM)])}")
            for v, name, f in zip(call.outs, names, found):
                self.where[v], self.homes[v] = name, (None, f)
                self.room.view(v, call.args[0], name)
            return True
        lines = []
        tracer, inputs, outs = self.s.lift(call)
        known = {inputs[0][0]: stacked}
        self.s.adopt(tracer, known, lines)
        for c in lines:
            self.head.append(f"{', '.join(self.name(v) for v in c.outs)} = {self._text(c, [self.arg(a) for a in c.args])}")
            self.viewed.update(c.outs)
        for v, lifted, f in zip(call.outs, outs, found):
            lifted = known.get(lifted, lifted)
            name = self.where[v] = self.fresh(self.name(v))
            self.every(name, self.name(lifted), v.shape)
            self.homes[v] = lifted, f
        return True
