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
from .spelling import ATOM, Steps, kernels, spell
from .tensor import Tensor, switched


class Loop:
    """A body and how it is wired: `inputs = states + xs + consts`, `outputs = states + ys + sums`."""

    def __init__(self, body, n_states, n_xs, n_ys, reverse=False):
        self.body, self.n_states, self.n_xs, self.n_ys, self.reverse = body, n_states, n_xs, n_ys, reverse
        self.derived = {}  # what scan has derived from this loop
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
        if self._run is None:
            self._run = Source(self).compile()
        return self._run(T, *arrays)


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
        if value in self.recurrent:
            self.stored.append(value)
            self.stacked[value] = Value((Steps(_T), *value.shape), value.dtype, value.name)
            return self.stacked[value]
        call = self._maker[value]
        self._place(call)
        return self.stacked[value]

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
            if stacked in known.values() and stacked in self.stacked.values():  # an op that returned its input
                stacked = stacked
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
            if call.op.name == "matmul" and all(len(a.shape) == 2 and a in self.varying for a in call.args):
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
        self.results = [*self.finals, *self._stacked_results(), *(self.arg(v)[0] for v in s.sums)]

    def _stacked_results(self):
        """The stacked outputs; one that is held elsewhere too is copied, so that no two results share memory."""
        out, seen = [], set()
        for value, stacked in zip(self.loop.ys, self.schedule.outputs):
            if not isinstance(stacked, Value) or stacked not in self.stacks:
                if isinstance(stacked, Value) and (stacked in self.schedule.stacked.values() and value in self.schedule.varying):
                    text = self.name(stacked)
                    out.append(f"{text}.copy()" if stacked in seen or value in self.loop.xs or self._is_view(stacked) else text)
                    seen.add(stacked)
                else:
                    shape = value.shape if isinstance(value, Value) else np.shape(value)
                    out.append(f"np.broadcast_to({self.arg(value)[0]}, (T, {''.join(f'{n}, ' for n in shape)})).copy()")
                continue
            text = self.stacks[stacked]
            out.append(f"{text}.copy()" if stacked in seen else text)
            seen.add(stacked)
        return out

    def _is_view(self, stacked):
        return any(stacked in call.outs and (call.op.view or call.op.name in ("transpose", "reshape")) for call in self.calls)

    # ---- the loop -----------------------------------------------------------------------------------------------

    def _loop(self, initial):
        s, loop = self.schedule, self.loop
        head, tail, each, body = [], [], [], []  # before the loop, end of a step, (name, sequence) pairs, the step
        self.stacks = {}
        where = {}  # value -> name inside the loop
        rev = "[::-1]" if loop.reverse else ""
        old, new = (("[1:]", "[:-1]") if loop.reverse else ("[:-1]", "[1:]"))

        def every(name, sequence, shape):
            each.append((name, f"[{sequence}[t, ...] for t in range(T)]{rev}" if shape == () else f"{sequence}{rev}"))

        def take(value):
            """The name inside the loop of a value from outside."""
            if value not in where:
                if value in s.varying:
                    where[value] = self.fresh(self.name(s.stacked[value]) + "_t")
                    every(where[value], self.name(s.stacked[value]), value.shape)
                else:
                    where[value] = self.name(value)
            return where[value]

        made = {v for call in s.inside for v in call.outs}
        owner, self.finals = {}, []  # owner: loop value -> where its state keeps it
        for i, (state, value, start) in enumerate(zip(loop.states, loop.next_states, initial)):
            stack = state in s.stacked or isinstance(value, Value) and value in s.stacked and value in made and value not in owner
            word = self.name(state)
            shape = "".join(f", {n}" for n in state.shape)
            if stack:
                buffer = self.fresh(word + "s")
                head.append(f"{buffer} = np.empty((T + 1{shape}), {_dtype(state)})")
                head.append(f"{buffer}[{'T' if loop.reverse else '0'}] = {start}")
                where[state] = word
                every(word, buffer + old, state.shape)
                if state in s.stacked:
                    self.stacks[s.stacked[state]] = self.names[s.stacked[state], ""] = buffer + old
                target = self.fresh(word + "_next")
                every(target, buffer + new, state.shape)
                if isinstance(value, Value) and value in made and value not in owner:
                    if value in s.stacked:
                        self.stacks[s.stacked[value]] = self.names[s.stacked[value], ""] = buffer + new
                self.finals.append(f"{buffer}[{'0' if loop.reverse else 'T'}{', ...' if state.shape == () else ''}].copy()")
            else:
                target = self.fresh(word + "_next")
                head.append(f"{word}, {target} = np.array({start}), np.empty({_tuple(state.shape)}, {_dtype(state)})")
                where[state] = word
                tail.append(f"{word}, {target} = {target}, {word}")
                self.finals.append(word)
            if isinstance(value, Value) and value in made and value not in owner and self._writes(value):
                owner[value] = target
            else:
                tail.insert(0, (value, target))
        for call in s.inside:
            names = [(where.get(a) or take(a), ATOM) if isinstance(a, Value) else self.arg(a) for a in call.args]
            if len(call.outs) > 1:
                for v in call.outs:  # a name of its own: that of a stored value is bound to its slot
                    where[v] = self.fresh(self.name(v)) if v in s.stored else self.name(v)
                body.append(f"{', '.join(where[v] for v in call.outs)} = {spell(call, names)[0]}")
                body += [f"{self._slot(v, every, head)}[...] = {where[v]}" for v in call.outs if v in s.stored]
                continue
            (value,) = call.outs
            if value in owner:
                out = where[value] = owner[value]
            elif value in s.stored:
                out = self._slot(value, every, head)
                where[value] = out
            else:
                out = where[value] = self.name(value)
                if self._writes(value):
                    head.append(f"{out} = np.empty({_tuple(value.shape)}, {_dtype(value)})")
            if self._writes(value):
                body.append(_into(call, names, out))
            elif value in s.stored:
                body.append(f"{out}[...] = {spell(call, names)[0]}")
            else:
                body.append(f"{out} = {spell(call, names)[0]}")
        ends = []
        for item in tail:
            if isinstance(item, tuple):
                value, target = item
                text = (where.get(value) or take(value)) if isinstance(value, Value) else self.arg(value)[0]
                ends.append(f"{target}[...] = {text}")
            else:
                ends.append(item)
        if head:
            self.put("# buffers")
        for line in head:
            self.put(line)
        self.put("# the loop")
        if each:
            left = ", ".join(n for n, _ in each) + ("," if len(each) == 1 else "")
            self.put(f"for {left} in zip({', '.join(q for _, q in each)}):")
        else:
            self.put("for _ in range(T):")
        for line in [*body, *ends] or ["pass"]:
            self.put(line, 2)

    def _slot(self, value, every, head):
        """The name inside the loop of a slice of the buffer that keeps all steps of a value."""
        s = self.schedule
        word = self.name(value)
        buffer = self.name(s.stacked[value], "s")
        head.append(f"{buffer} = np.empty((T{''.join(f', {n}' for n in value.shape)},), {_dtype(value)})")
        every(word, buffer, value.shape)
        self.stacks[s.stacked[value]] = self.names[s.stacked[value], ""] = buffer
        return word

    def _writes(self, value):
        """Whether the call that makes the value can write into a buffer."""
        call = next(c for c in self.schedule.inside if value in c.outs)
        return len(call.outs) == 1 and _has_out(call)


def _has_out(call):
    if call.op.name == "matmul":
        return all(isinstance(a, Value) and a.shape for a in call.args) and call.outs[0].shape != ()
    if call.op.name in ("concatenate", "stack"):
        return True
    return call.op.takes_out and call.op.elementwise


def _into(call, names, out):
    texts = [text for text, _ in names]
    if call.op.name == "matmul":
        function = "np.dot" if all(len(a.shape) <= 2 for a in call.args) else "np.matmul"
        return f"{function}({texts[0]}, {texts[1]}, out={out})"
    if call.op.name in ("concatenate", "stack"):
        return f"np.{call.op.name}(({', '.join(texts)},), axis={call.statics['axis']}, out={out})"
    if call.op.name == "clip":
        return f"np.clip({texts[0]}, {call.statics['min']}, {call.statics['max']}, out={out})"
    return spell(call, names, out)[0]


def _tuple(shape):
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"


def _dtype(value):
    return f"np.{value.dtype.name}"
