"""Loops: a Program run T times, as generated NumPy source.

Knows which calls of a loop's body can leave the loop and how: every call is sorted into

    once      depends on what does not change from step to step      computed once
    before    depends on the inputs, not on the state                computed for all T at once
    loop      on the way from a state to the next one                one NumPy call per step, into a buffer
    after     depends on the state and never returns to it           computed for all T at once

Refuses to know gradients: a backward pass is a loop like any other. Below it: spelling, program.

A loop has three kinds of result: the last states, stacked outputs, and sums over time (weight gradients). A sum of
products over time is one product over all T·B rows.
"""

import keyword
import re

import numpy as np

from .program import Call, Program, Tracer, Value
from .rewrite import rewritten
from .spelling import ATOM, Steps, kernels, ours, spell
from .tensor import Tensor, switched


class Loop:
    """A body and how it is wired: `inputs = states + xs + consts`, `outputs = states + ys + sums`."""

    def __init__(self, body, n_states, n_xs, n_ys, reverse=False):
        self.body, self.n_states, self.n_xs, self.n_ys, self.reverse = body, n_states, n_xs, n_ys, reverse
        self.derived = {}  # what `derive` has made of this loop
        self.augmented = False  # whether its results enter a graph, where nobody can write to them
        self._run = None

    states = property(lambda self: self.body.inputs[:self.n_states])
    xs = property(lambda self: self.body.inputs[self.n_states:self.n_states + self.n_xs])
    consts = property(lambda self: self.body.inputs[self.n_states + self.n_xs:])
    next_states = property(lambda self: self.body.outputs[:self.n_states])
    ys = property(lambda self: self.body.outputs[self.n_states:self.n_states + self.n_ys])
    addends = property(lambda self: self.body.outputs[self.n_states + self.n_ys:])

    def __repr__(self):
        return f"loop({self.n_states} states, {self.n_xs} xs, {len(self.consts)} consts, {len(self.body.calls)} calls{', reversed' * self.reverse})"

    def run(self, T, arrays):
        """The results of T steps: last states, stacked ys, sums."""
        return (self._run or self.function)(T, *arrays)

    @property
    def function(self):
        """The generated function `(T, *arrays) -> results`."""
        if self._run is None:
            self._run = Source(self.faster()).compile()
        return self._run

    @property
    def name(self):
        """Under which the loop is called from another: a scan inside a cell."""
        return f"loop_{id(self)}"

    def faster(self):
        """The same loop with a body that makes fewer calls."""
        loop = Loop(rewritten(self.body, self.states, self.consts), self.n_states, self.n_xs, self.n_ys, self.reverse)
        loop.augmented = self.augmented
        return loop


# ---- what goes where ----------------------------------------------------------------------------------------


class Schedule:
    """The calls of a loop's body, each in its part; `stacked` tells which value holds all T steps of another.

    A `readable` one moves only matrix products out of the loop, and writes sums of products as einsum: a reader finds the
    equations of the cell together, step by step.
    """

    def __init__(self, loop, readable=False):
        self.loop, self.readable = loop, readable
        self.once, self.before, self.inside, self.after = [], [], [], []
        self.stacked, self.stored = {}, []
        self._maker, self._lifts = {}, {}
        self._sort()
        self.outputs = [self._output(v) for v in loop.ys]
        self.sums = [self._named_sum(v) for v in loop.addends]

    def _sort(self):
        loop, calls = self.loop, self.loop.body.calls
        varying, carried = {*loop.states, *loop.xs}, set(loop.states)
        for call in calls:
            self._maker.update(dict.fromkeys(call.outs, call))
            args = call.inputs
            if not varying.isdisjoint(args):
                varying.update(call.outs)
                flags = [a in varying for a in call.args if isinstance(a, Value)]
                liftable = self._lift(call, varying) is not None
                stays = self.readable and call.op.name not in ("matmul", "einsum")
                if not liftable or stays or not carried.isdisjoint(args):
                    carried.update(call.outs)
                if not liftable:
                    self._lifts[call] = None
            else:
                self.once.append(call)
        self.varying, self.carried = varying, carried
        inside = {v for v in loop.next_states if isinstance(v, Value) and v in carried}
        for call in reversed(calls):
            if not carried.isdisjoint(call.outs) and (self._lifts.get(call, 1) is None or not inside.isdisjoint(call.outs)):
                inside.update(call.outs)
                inside.update(a for a in call.inputs if a in carried)
        self.inside = [call for call in calls if not inside.isdisjoint(call.outs)]
        self.recurrent = inside | set(loop.states)
        for x in loop.xs:
            self.stacked[x] = Value((Steps(_T), *x.shape), x.dtype, x.name)
        for call in self.inside:
            for arg in call.inputs:
                if arg in varying and arg not in self.recurrent:
                    self.stack(arg)
        for v in loop.next_states:
            if isinstance(v, Value) and v in varying and v not in self.recurrent:
                self.stack(v)

    def stack(self, value):
        """The value that holds `value` of all steps; asking for it has it computed or stored."""
        if value in self.stacked:
            return self.stacked[value]
        if value in self.recurrent and not self._seen_through(value):
            self.stored.append(value)
            self.stacked[value] = Value((Steps(_T), *value.shape), value.dtype, value.name)
            return self.stacked[value]
        call = self._maker[value]
        self._place(call)
        return self.stacked[value]

    def _seen_through(self, value):
        """Whether a value is a view of another result of the loop: then keeping that one keeps both."""
        call = self._maker.get(value)
        return call is not None and call.op.view and len(call.args) == 1 and call.args[0] in self.recurrent and (
            call.args[0] not in self.loop.states and self._lift(call, self.varying) is not None)

    def _place(self, call):
        """Put the lifted call before or after the loop."""
        tracer, inputs, outs = self._lift(call, self.varying)
        into = self.after if any(a in self.carried for a in call.inputs) else self.before
        known = {}
        for value, arg in inputs:
            known[value] = (self.stack(arg) if arg in self.varying else arg) if isinstance(arg, Value) else arg
        self._adopt(tracer, known, into)
        for out, lifted in zip(call.outs, outs):
            stacked = known.get(lifted, lifted)
            stacked.name = stacked.name or out.name
            self.stacked[out] = stacked

    @staticmethod
    def _adopt(tracer, known, into):
        for value, obj in tracer.closed:
            known.setdefault(value, obj._array if isinstance(obj, Tensor) else obj)
        for c in tracer.calls:
            into.append(Call(c.op, tuple(known.get(a, a) if isinstance(a, Value) else a for a in c.args), c.statics, c.outs))

    def _lift(self, call, varying):
        """The call over time, traced: (tracer, [(its value, our argument)], outs); None when it must stay in the loop."""
        if call in self._lifts:
            return self._lifts[call]
        stacked = [isinstance(a, Value) and a in varying for a in call.args]
        tracer, inputs, tensors = Tracer(call.op.name), [], []
        for arg, flag in zip(call.args, stacked):
            if isinstance(arg, Value):
                sample = arg.like_ones()
                value, tensor = tracer.input(np.broadcast_to(sample, (_T, *arg.shape)) if flag else sample)
                inputs.append((value, arg))
                tensors.append(tensor)
            else:
                tensors.append(arg)
        with switched(grad=False, recorder=tracer), np.errstate(all="ignore"):
            out = _over_time(call, stacked, tensors, self.readable)
        if out is None:
            return None
        outs = [tracer.value(o) for o in (out if isinstance(out, tuple) else (out,))]
        self._lifts[call] = tracer, inputs, outs
        return self._lifts[call]

    def _output(self, value):
        """A stacked output: the stacked value, or the constant that is repeated."""
        return self.stack(value) if isinstance(value, Value) and value in self.varying else value

    # ---- sums over time -----------------------------------------------------------------------------------------

    def _named_sum(self, value):
        made = self._summed(value)
        made.name = made.name or getattr(value, "name", "")
        return made

    def _summed(self, value):
        """The value that holds Σ_t value_t; products and sums take the sum over time inside."""
        if not isinstance(value, Value) or value not in self.varying:
            return self._traced(lambda T, v: v * T, [value], [False], with_steps=True)
        call = self._maker.get(value)
        if call is not None and value not in self.recurrent:
            if call.op.name in ("reshape", "transpose", "negative") and len(call.args) == 1:
                inner = self._summed(call.args[0])
                return self._traced(lambda v: call.op(v, **call.statics), [inner], [False])
            if call.op.name in ("add", "subtract") and all(isinstance(a, Value) and a.shape == value.shape for a in call.args):
                a, b = (self._summed(arg) for arg in call.args)
                return self._traced(lambda a, b: call.op(a, b), [a, b], [False, False])
            if call.op.name == "matmul" and all(
                    isinstance(a, Value) and len(a.shape) == 2 and a in self.varying for a in call.args):
                if self.readable:
                    return self._einsum(call)
                a, b = (self.stack(arg) for arg in call.args)
                m, n = value.shape
                return self._traced(lambda a, b: np.matmul(np.transpose(a, (1, 0, 2)).reshape((m, -1)), b.reshape((-1, n))), [a, b], [True, True])
            if call.op.name == "sum" and not call.statics["keepdims"]:
                x = call.args[0]
                axes = call.statics["axis"]
                rank = len(x.shape)
                axes = range(rank) if axes is None else axes if isinstance(axes, tuple) else (axes,)
                return self._traced(lambda x: np.sum(x, axis=(0, *(a % rank + 1 for a in axes))), [self.stack(x)], [True])
        return self._traced(lambda x: np.sum(x, axis=0), [self.stack(value)], [True])

    def _einsum(self, call):
        """Σ_t a_t b_t as one einsum, transposes read through."""
        terms, args = [], []
        for arg, term in zip(call.args, ("tib", "tbj")):
            maker = self._maker.get(arg)
            if maker is not None and maker.op.name == "transpose":
                arg, term = maker.args[0], term[0] + term[:0:-1]
            terms.append(term)
            args.append(self.stack(arg))
        spec = f"{terms[0]},{terms[1]}->ij"
        return self._traced(lambda a, b: np.einsum(spec, a, b), args, [True, True])

    def _traced(self, function, args, stacked, with_steps=False):
        """Append what `function` does on `args` to the part after the loop; returns its result."""
        tracer, known, tensors = Tracer("sum over time"), {}, []
        for arg, flag in zip(args, stacked):
            sample = (Value(arg.shape[1:] if flag else arg.shape, arg.dtype) if isinstance(arg, Value) else Value(np.shape(arg), np.asarray(arg).dtype)).like_ones()
            value, tensor = tracer.input(np.broadcast_to(sample, (_T, *sample.shape)) if flag else sample)
            known[value] = arg
            tensors.append(tensor)
        with switched(grad=False, recorder=tracer), np.errstate(all="ignore"):
            out = function(*([Steps(_T)] if with_steps else []), *tensors)
        self._adopt(tracer, known, self.after)
        return tracer.value(out)


_T = 3  # the number of steps of the samples on which lifted calls are traced; no result depends on it


def _over_time(call, stacked, tensors, readable):
    """The op on arrays with a leading time axis; None when it has no such form."""
    op = call.op
    if readable and op.name == "matmul" and stacked == [True, False] and len(call.args[1].shape) <= 2:
        return op(*tensors)  # NumPy's own rule for stacks of matrices says the same; rows are only faster
    if op.elementwise:
        rank = max(len(a.shape) for a in call.inputs)
        aligned = [t.reshape((Steps(_T), *(1,) * (rank - t.ndim + 1), *t.shape[1:])) if flag and t.ndim - 1 < rank else t
                   for t, flag in zip(tensors, stacked)]
        return op(*aligned, **call.statics)
    return None if op.over_time is None else op.over_time(Steps(_T), stacked, *tensors, **call.statics)


# ---- the source ---------------------------------------------------------------------------------------------


class Source:
    """The text of a loop as a Python function `run(T, states…, xs…, consts…) -> (states…, ys…, sums…)`."""

    def __init__(self, loop, names=None, sequences=None, taken=()):
        self.loop, self.schedule = loop, Schedule(loop)
        self.names, self.taken, self.constants = {(v, ""): name for v, name in (names or {}).items()}, {"T", "np", "run", *taken}, {}
        self.body = self.lines = []
        self._write(sequences)

    def compile(self):
        """The function."""
        scope = {"np": np, **self.constants, **kernels(self.calls)}
        exec(compile(self.text, "<loop>", "exec"), scope)
        scope["run"].source = self.text
        return scope["run"]

    @property
    def text(self):
        """The source."""
        results = "".join(r + ", " for r in self.results)
        return "\n".join([f"def run({', '.join(['T', *self.inputs])}):", *self.body, f"    return ({results})"]) + "\n"

    # ---- names --------------------------------------------------------------------------------------------------

    def name(self, value, suffix="", prefer=""):
        """The name of a value; a new one on first use."""
        if (value, suffix) not in self.names:
            word = re.sub(r"\W+", "_", prefer or value.name or "v").strip("_") or "v"
            word = f"{'v' if word[0].isdigit() else ''}{word}{suffix}"
            self.names[value, suffix] = self.fresh(word)
        return self.names[value, suffix]

    def fresh(self, word):
        """`word`, with a number behind it if it is taken."""
        if word in self.taken or keyword.iskeyword(word):
            word = next(f"{word}{i}" for i in range(1, 10**6) if f"{word}{i}" not in self.taken)
        self.taken.add(word)
        return word

    def arg(self, arg):
        """(text, rank) of an argument: a name, a number, or the name of an array that a rule made."""
        if isinstance(arg, Value):
            return self.name(arg), ATOM
        if isinstance(arg, Steps):
            return "T", ATOM
        if isinstance(arg, (bool, int, float)):
            return (repr(arg), ATOM) if arg == arg and abs(arg) != float("inf") else (f"float('{arg}')", ATOM)
        return self.constant(arg), ATOM

    def constant(self, array):
        """The name under which an array that a rule made is bound."""
        for name, known in self.constants.items():
            if known is array:
                return name
        name = self.fresh("constant")
        self.constants[name] = array
        return name

    # ---- writing ------------------------------------------------------------------------------------------------

    def put(self, line, depth=1):
        self.lines.append("    " * depth + line)

    def straight(self, calls, title):
        """Calls outside the loop: one expression a line."""
        wanted = self._wanted(calls)
        if wanted:
            self.put(f"# {title}")
        for call in wanted:
            text, _ = spell(call, [self.arg(a) for a in call.args])
            self.put(f"{', '.join(self.name(v) for v in call.outs)} = {text}")

    def _wanted(self, calls):
        return [call for call in calls if any(v in self.live for v in call.outs)]

    def _mark_live(self):
        """What the results need, from the end to the start."""
        s = self.schedule
        results = [*s.outputs, *s.sums, *(s.stacked.get(v, v) if isinstance(v, Value) else v for v in self.loop.next_states)]
        self.live = {v for v in results if isinstance(v, Value)}
        for call in reversed([*s.once, *s.before, *s.inside, *s.after]):
            if call in s.inside or not self.live.isdisjoint(call.outs):
                for a in call.inputs:
                    self.live.add(a)
                    self.live.add(s.stacked.get(a, a))

    def _write(self, sequences):
        s, loop = self.schedule, self.loop
        self._mark_live()
        self.calls = [*self._wanted(s.once), *self._wanted(s.before), *s.inside, *self._wanted(s.after)]
        initial = [self.names.get((v, "")) or self.name(v, "0") for v in loop.states]
        for v in loop.states:
            self.names.pop((v, ""), None)
        for v in loop.xs:
            self.names[s.stacked[v], ""] = sequences[v] if sequences else self.name(v, "s")
        self.inputs = [*initial, *(self.names[s.stacked[v], ""] for v in loop.xs), *(self.name(v) for v in loop.consts)]
        self.straight(s.once, "once")
        self.straight(s.before, "before the loop: depends on the inputs only")
        self._loop(initial)
        self.straight(s.after, "after the loop")
        self._sequences = {s.stacked[v] for v in loop.xs}
        self._makers = {v: call for call in self.calls for v in call.outs}
        self.results = [*self.finals, *self._stacked_results(), *(self.arg(v)[0] for v in s.sums)]

    def _stacked_results(self):
        """The stacked outputs. A view of an input is copied; and, where a person will hold the results as plain arrays, so
        is what shares memory with another result."""
        out, seen = [], set()
        for value, stacked in zip(self.loop.ys, self.schedule.outputs):
            if not isinstance(value, Value) or value not in self.schedule.varying:
                shape = value.shape if isinstance(value, Value) else np.shape(value)
                out.append(f"np.broadcast_to({self.arg(value)[0]}, (T, {''.join(f'{n}, ' for n in shape)})).copy()")
                continue
            base = self._base(stacked)
            copied = base in self._sequences or not self.loop.augmented and base in seen
            out.append(self.name(stacked) + ".copy()" * copied)
            seen.add(base)
        return out

    def _base(self, stacked):
        """The value whose memory a stacked value may be a view of."""
        call = self._makers.get(stacked)
        return self._base(call.args[0]) if call is not None and call.op.view and isinstance(call.args[0], Value) else stacked

    # ---- the loop -----------------------------------------------------------------------------------------------

    def _loop(self, initial):
        """Buffers, views of them, and the loop itself: one NumPy call a line, each into the place where its result is kept."""
        self.head, self.each, self.step, self.ends = [], [], [], []
        self.where, self.homes, self.finals, self.owner = {}, {}, [], {}
        made = {v: call for call in self.schedule.inside for v in call.outs}
        for state, value, start in zip(self.loop.states, self.loop.next_states, initial):
            self._state(state, value, start, made)
        self._joins(made)
        for call in self.schedule.inside:
            self._call(call)
        lines = [*self.step, *(self._end(e) for e in self.ends)]
        if self.head:
            self.put("# buffers")
        for line in self.head:
            self.put(line)
        self.put("# the loop")
        names = ", ".join(name for name, _ in self.each) + "," * (len(self.each) == 1)
        self.put(f"for {names} in zip({', '.join(text for _, text in self.each)}):" if self.each else "for _ in range(T):")
        for line in lines or ["pass"]:
            self.put(line, 2)

    def every(self, name, sequence, shape):
        """Have `name` run over the steps of a sequence."""
        rev = "[::-1]" if self.loop.reverse else ""
        self.each.append((name, f"[{sequence}[t, ...] for t in range(T)]{rev}" if shape == () else f"{sequence}{rev}"))

    def _state(self, state, value, start, made):
        """Where a state lives: in a stack of T + 1 when its steps are read later, else in two buffers that change places."""
        s, reverse = self.schedule, self.loop.reverse
        own = isinstance(value, Value) and value in made and value not in self.owner
        word, shape = self.name(state), "".join(f", {n}" for n in state.shape)
        target = self.fresh(word + "_next")
        if state in s.stacked or own and value in s.stacked:
            buffer, first, last = self.fresh(word + "s"), *(("T", "0") if reverse else ("0", "T"))
            dots = ", ..." if state.shape == () else ""
            old, new = ("[1:]", "[:-1]") if reverse else ("[:-1]", "[1:]")
            self.head += [f"{buffer} = np.empty((T + 1{shape}), {_dtype(state)})", f"{buffer}[{first}] = {start}", f"{word} = {buffer}[{first}{dots}]"]
            self.every(target, buffer + new, state.shape)
            if state in s.stacked:
                self.names[s.stacked[state], ""] = buffer + old
            if own and value in s.stacked:
                self.names[s.stacked[value], ""] = buffer + new
            self.ends.append(f"{word} = {target}")
            self.finals.append(f"{buffer}[{last}{dots}].copy()")
        else:
            self.head.append(f"{word}, {target} = np.array({start}), np.empty({_tuple(state.shape)}, {_dtype(state)})")
            self.ends.append(f"{word}, {target} = {target}, {word}")
            self.finals.append(word)
        self.where[state] = word
        if own and self._writes(made[value]):
            self.owner[value] = target
        else:
            self.ends.insert(0, (value, target))

    def _end(self, end):
        """The last lines of a step: a state that is no result of the step's own calls is copied."""
        return f"{end[1]}[...] = {self._read(end[0])[0]}" if isinstance(end, tuple) else end

    def _joins(self, made):
        """Parts of a concatenation are written straight into its buffer."""
        self.parts, self.joined = {}, {}
        for call in self.schedule.inside:
            if call.op.name != "concatenate" or not ours(call.op) or call.outs[0] in self.owner:
                continue
            (out,) = call.outs
            axis, start, pieces = call.statics["axis"] % len(out.shape), 0, []
            for part in call.args:
                size = (part.shape if isinstance(part, Value) else np.shape(part))[axis]
                index = "..., " if axis == len(out.shape) - 1 else ":, " * axis
                free = (isinstance(part, Value) and part in made and self._writes(made[part]) and part not in self.owner
                        and part not in self.schedule.stored and part not in self.parts and part not in self.joined and sum(a is part for a in call.args) == 1
                        and part.dtype == out.dtype)
                if free:
                    self.parts[part] = out, index, f"{start}:{start + size}"
                pieces.append((part, f"{index}{start}:{start + size}", free))
                start += size
            self.joined[out] = pieces

    def _place_part(self, part):
        """The name of the slice of a joined buffer into which a part is written."""
        out, index, piece = self.parts[part]
        buffer, name = self._buffer(out), self.name(part)
        if out in self.schedule.stored:
            lead = index if index.startswith("...") else ":, " + index
            self.every(name, f"{self.names[self.schedule.stacked[out], '']}[{lead}{piece}]", part.shape)
        else:
            self.head.append(f"{name} = {buffer}[{index}{piece}]")
        return name

    def _buffer(self, value):
        """The name of the place where a result is kept: a state's, a slice of a stack, or one buffer for all steps."""
        if value in self.where:
            return self.where[value]
        if value in self.owner:
            name = self.owner[value]
            if value in self.schedule.stacked:
                self._home(value, self.schedule.stacked[value])
        elif value in self.parts:
            name = self._place_part(value)
        elif value in self.schedule.stored:
            name, stacked = self.name(value), self.schedule.stacked[value]
            buffer = self.name(stacked, "s")
            self.head.append(f"{buffer} = np.empty((T{''.join(f', {n}' for n in value.shape)},), {_dtype(value)})")
            self.every(name, buffer, value.shape)
            self.names[stacked, ""] = buffer
            self._home(value, stacked)
        else:
            name = self.name(value)
            self.head.append(f"{name} = np.empty({_tuple(value.shape)}, {_dtype(value)})")
            self._home(value, None)
        self.where[value] = name
        return name

    def _home(self, value, stacked):
        """Remember that a value has one place, so that views of it can be made outside the loop; with a sample of the place."""
        self.homes[value] = stacked, np.empty((_T,) * (stacked is not None) + value.shape, value.dtype)

    def _call(self, call):
        if self._view(call):
            return
        if len(call.outs) > 1 or not self._writes(call):
            texts = [self._read(a) for a in call.args]
            names = [self.name(v) if v not in self.schedule.stored else self.fresh(self.name(v) + "_new") for v in call.outs]
            self.step.append(f"{', '.join(names)} = {spell(call, texts)[0]}")
            for v, name in zip(call.outs, names):
                if v in self.schedule.stored:
                    self.step.append(f"{self._buffer(v)}[...] = {name}")
                self.where.setdefault(v, name)
            return
        (value,) = call.outs
        if value in self.joined:
            buffer = self._buffer(value)
            self.step += [f"{buffer}[{piece}] = {self._read(part)[0]}" for part, piece, written in self.joined[value] if not written]
            return
        texts = [self._read(a, value) for a in call.args]
        self.step.append(_into(call, texts, self._buffer(value)))

    def _read(self, arg, into=None):
        """(text, rank) inside the loop of an argument; next to a result of another shape a constant is spread out once."""
        if not isinstance(arg, Value):
            return (self.scalar(arg, into.dtype), ATOM) if into is not None and isinstance(arg, (int, float)) and not isinstance(arg, bool) else self.arg(arg)
        if arg in self.where:
            return self.where[arg], ATOM
        s = self.schedule
        if arg in s.varying:
            name = self.where[arg] = self.fresh(self.name(s.stacked[arg]) + "_t")
            self.every(name, self.name(s.stacked[arg]), arg.shape)
            return name, ATOM
        if into is not None and arg.shape not in ((), into.shape) and self.elementwise and into.size <= _SPREAD:
            spread = self.names.get((arg, into.shape))
            if spread is None:
                spread = self.names[arg, into.shape] = self.fresh(self.name(arg) + "_rows")
                self.head.append(f"{spread} = np.broadcast_to({self.name(arg)}, {_tuple(into.shape)}).copy()")
            return spread, ATOM
        return self.name(arg), ATOM

    def scalar(self, number, dtype):
        """A number as a bound array of no axes: NumPy converts a Python number at every call."""
        key = "number", repr(number), dtype
        if key not in self.names:
            word = {0.0: "zero", 0.5: "half", 1.0: "one", 2.0: "two", -1.0: "minus_one"}.get(number, "number")
            self.names[key] = self.fresh(word)
            self.constants[self.names[key]] = np.array(number, dtype)
        return self.names[key]

    def _view(self, call):
        """Make a view once for all steps, where it really is one; says whether it did."""
        home = self.homes.get(call.args[0]) if call.op.view and len(call.inputs) == 1 and len(call.args) == 1 else None
        if home is None or any(v in self.schedule.stored or v in self.owner for v in call.outs):
            return False
        stacked, sample = home
        if stacked is None:
            found = call.op.forward(sample, **call.statics)
        else:
            found = sample if call.op.elementwise else call.op.over_time and call.op.over_time(_T, [True], sample, **call.statics)
        found = found if isinstance(found, tuple) else (found,)
        if any(f is None or not np.shares_memory(f, sample) for f in found if f is None or f.size):
            return False
        if stacked is None:
            names = [self.name(v) for v in call.outs]
            self.head.append(f"{', '.join(names)} = {spell(call, [(self.where[call.args[0]], ATOM)])[0]}")
            for v, name, f in zip(call.outs, names, found):
                self.where[v], self.homes[v] = name, (None, f)
            return True
        lines = []
        tracer, inputs, outs = self.schedule._lift(call, self.schedule.varying)
        known = {inputs[0][0]: stacked}
        self.schedule._adopt(tracer, known, lines)
        for c in lines:
            self.head.append(f"{', '.join(self.name(v) for v in c.outs)} = {spell(c, [self.arg(a) for a in c.args])[0]}")
        for v, lifted, f in zip(call.outs, outs, found):
            lifted = known.get(lifted, lifted)
            name = self.where[v] = self.fresh(self.name(v))
            self.every(name, self.name(lifted), v.shape)
            self.homes[v] = lifted, f
        return True

    def _writes(self, call):
        """Whether a call can write into a buffer."""
        self.elementwise = call.op.elementwise
        return len(call.outs) == 1 and _has_out(call)


_SPREAD = 1 << 16  # elements up to which a constant is worth spreading over the rows of a batch


def _has_out(call):
    if call.op.name == "matmul":
        return call.outs[0].shape != ()
    if call.op.name in ("concatenate", "stack"):
        return True
    return call.op.takes_out and call.op.elementwise


def _into(call, names, out):
    texts = [text for text, _ in names]
    if call.op.name == "matmul":
        function = "np.dot" if all(np.ndim(a) <= 2 if isinstance(a, np.ndarray) else len(a.shape) <= 2 for a in call.args) else "np.matmul"
        return f"{function}({texts[0]}, {texts[1]}, out={out})"
    if call.op.name in ("concatenate", "stack"):
        return f"np.{call.op.name}(({', '.join(texts)},), axis={call.statics['axis']}, out={out})"
    if call.op.name == "power" and isinstance(call.args[1], (int, float)) and call.args[1] == 2:
        return f"np.square({texts[0]}, out={out})"
    if call.op.name == "clip":
        return f"np.clip({texts[0]}, {call.statics['min']}, {call.statics['max']}, out={out})"
    return spell(call, names, out)[0]


def _tuple(shape):
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _dtype(value):
    return f"np.{value.dtype.name}"
