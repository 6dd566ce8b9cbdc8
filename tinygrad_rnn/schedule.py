"""What goes where: every call of a loop's body is sorted into once, before, loop or after.

Knows which calls can leave a loop, what they become when their arrays hold all steps (the op's `over_time`, traced),
and how a sum over time is taken inside a product. Refuses to know how anything is spelled. Below it: spelling, program, tensor.
"""

import numpy as np

from .program import Call, Tracer, Value
from .spelling import Steps, ours
from .tensor import Tensor, switched


class Schedule:
    """The calls of a loop's body, each in its part; `stacked` tells which value holds all T steps of another.

    A `readable` one moves only matrix products out of the loop, and writes sums of products as einsum: a reader finds the
    equations of the cell together, step by step.
    """

    def __init__(self, loop, readable=False):
        self.loop, self.readable = loop, readable
        self.once, self.before, self.inside, self.after = [], [], [], []
        self.summing = set()  # those of `after` that sum over time
        self.stacked, self.stored = {}, []
        self._maker, self._lifts, self._sums = {}, {}, {}
        self._sort()
        self.outputs = [self._output(v) for v in loop.ys]
        self.sums = [self._named_sum(v) for v in loop.addends]

    def _sort(self):
        """Find the loop: what is on the way from a state to the next one, and what cannot be lifted; stack what it reads."""
        loop, calls = self.loop, self.loop.body.calls
        varying, carried = {*loop.states, *loop.xs}, set(loop.states)
        for call in calls:
            self._maker.update(dict.fromkeys(call.outs, call))
            args = call.inputs
            if not varying.isdisjoint(args):
                varying.update(call.outs)
                liftable = call.op.elementwise or self.lift(call, varying) is not None
                stays = self.readable and call.op.name not in ("matmul", "einsum", "transpose")
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
            self.stacked[x] = Value((Steps(SAMPLE), *x.shape), x.dtype, x.name)
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
        if value in self.recurrent and (self.readable or not self._seen_through(value)):
            self.stored.append(value)
            self.stacked[value] = Value((Steps(SAMPLE), *value.shape), value.dtype, value.name)
            return self.stacked[value]
        call = self._maker[value]
        self._place(call)
        return self.stacked[value]

    def _seen_through(self, value):
        """Whether a value is a view of another result of the loop: then keeping that one keeps both."""
        call = self._maker.get(value)
        return call is not None and call.op.view and len(call.args) == 1 and call.args[0] in self.recurrent and (
            call.args[0] not in self.loop.states and self.lift(call, self.varying) is not None)

    def _place(self, call):
        """Put the lifted call before or after the loop."""
        tracer, inputs, outs = self.lift(call, self.varying)
        into = self.after if any(a in self.carried for a in call.inputs) else self.before
        known = {}
        for value, arg in inputs:
            known[value] = (self.stack(arg) if arg in self.varying else arg) if isinstance(arg, Value) else arg
        self.adopt(tracer, known, into)
        for out, lifted in zip(call.outs, outs):
            stacked = known.get(lifted, lifted)
            stacked.name = stacked.name or out.name
            self.stacked[out] = stacked

    @staticmethod
    def adopt(tracer, known, into):
        """Append what was traced to the list `into`, on the arguments that are `known` for its values."""
        for value, obj in tracer.closed:
            known.setdefault(value, obj._array if isinstance(obj, Tensor) else obj)
        for c in tracer.calls:
            into.append(Call(c.op, tuple(known.get(a, a) if isinstance(a, Value) else a for a in c.args), c.statics, c.outs))

    def lift(self, call, varying=None):
        """The call over time, traced: (tracer, [(its value, our argument)], outs); None when it must stay in the loop."""
        varying = self.varying if varying is None else varying
        if call in self._lifts:
            return self._lifts[call]
        stacked = [isinstance(a, Value) and a in varying for a in call.args]
        if call.op.elementwise and len({len(a.shape) for a, flag in zip(call.args, stacked) if flag} | {len(v.shape) for v in call.outs}) == 1:
            own = {a: Value((Steps(SAMPLE), *a.shape), a.dtype) if a in varying else Value(a.shape, a.dtype) for a in call.inputs}
            outs = [Value((Steps(SAMPLE), *v.shape), v.dtype) for v in call.outs]
            again = Call(call.op, tuple([own[a] if isinstance(a, Value) else a for a in call.args]), call.statics, tuple(outs))
            self._lifts[call] = _Lifted([again]), [(v, a) for a, v in own.items()], outs
            return self._lifts[call]
        tracer, inputs, tensors = Tracer(call.op.name), [], []
        for arg, flag in zip(call.args, stacked):
            if isinstance(arg, Value):
                sample = arg.like_ones()
                value, tensor = tracer.input(np.broadcast_to(sample, (SAMPLE, *arg.shape)) if flag else sample)
                inputs.append((value, arg))
                tensors.append(tensor)
            elif isinstance(arg, np.ndarray):  # one that a rule made: what becomes of it may depend on the number of steps
                value, tensor = tracer.input(arg)
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
        """The sum over time of an addend, under the addend's name."""
        made = self._sum(value)
        made.name = made.name or getattr(value, "name", "")
        return made

    def _sum(self, value):
        """As `_summed`; what is asked for twice is made once."""
        if not isinstance(value, Value):
            return self._summed(value)
        if value not in self._sums:
            self._sums[value] = self._summed(value)
        return self._sums[value]

    def _summed(self, value):
        """The value that holds Σ_t value_t; products and sums take the sum over time inside."""
        if not isinstance(value, Value) or value not in self.varying:
            return self._traced(lambda T, v: np.sum(np.broadcast_to(v, (T, *v.shape)), axis=0), [value], [False], with_steps=True)
        call = self._maker.get(value)
        if call is not None and value not in self.recurrent:
            if call.op.name in ("reshape", "transpose", "negative", "scatter_add") and len(call.args) == 1:
                inner = self._sum(call.args[0])
                return self._traced(lambda v: call.op(v, **call.statics), [inner], [False])
            if call.op.name in ("multiply", "divide"):  # a factor that never changes stands before the sum
                a, b = call.args
                varies = [isinstance(x, Value) and x in self.varying for x in (a, b)]
                if varies == [True, False] and a.shape == value.shape:
                    return self._traced(lambda a, b: call.op(a, b), [self._sum(a), b], [False, False])
                if varies == [False, True] and b.shape == value.shape and call.op.name == "multiply":
                    return self._traced(lambda a, b: call.op(a, b), [a, self._sum(b)], [False, False])
            if call.op.name == "concatenate" and ours(call.op):
                parts = [self._sum(part) for part in call.args]
                return self._traced(lambda *parts: call.op(*parts, **call.statics), parts, [False] * len(parts))
            if call.op.name in ("add", "subtract") and all(isinstance(a, Value) for a in call.args) and any(a.shape == value.shape for a in call.args):
                a, b = (self._sum(arg) for arg in call.args)
                return self._traced(lambda a, b: call.op(a, b), [a, b], [False, False])
            if call.op.name == "matmul" and all(
                    isinstance(a, Value) and len(a.shape) == 2 and a in self.varying for a in call.args):
                if self.readable:
                    return self._einsum(call)
                (a, b), (m, n) = call.args, value.shape
                turned = self._maker.get(a)
                if turned is not None and turned.op.name == "transpose" and a not in self.recurrent:
                    (rows,) = turned.args
                    return self._traced(lambda a, b: np.matmul(np.transpose(a.reshape((-1, m))), b.reshape((-1, n))),
                                        [self.stack(rows), self.stack(b)], [True, True])
                return self._traced(lambda a, b: np.matmul(np.transpose(a, (1, 0, 2)).reshape((m, -1)), b.reshape((-1, n))),
                                    [self.stack(a), self.stack(b)], [True, True])
            if call.op.name == "matmul" and not self.readable and all(np.ndim(a) == 2 if not isinstance(a, Value) else len(a.shape) == 2
                    for a in call.args) and [isinstance(a, Value) and a in self.varying for a in call.args] == [True, False]:
                return self._traced(lambda a, b: np.matmul(a, b), [self._sum(call.args[0]), call.args[1]], [False, False])
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
            like = arg if isinstance(arg, Value) else np.asarray(arg)
            sample = Value(like.shape[1:] if flag and isinstance(arg, Value) else like.shape, like.dtype).like_ones()
            value, tensor = tracer.input(np.broadcast_to(sample, (SAMPLE, *sample.shape)) if flag else sample)
            known[value] = arg
            tensors.append(tensor)
        with switched(grad=False, recorder=tracer), np.errstate(all="ignore"):
            out = function(*([Steps(SAMPLE)] if with_steps else []), *tensors)
        start = len(self.after)
        self.adopt(tracer, known, self.after)
        self.summing.update(self.after[start:])
        return tracer.value(out)


class _Lifted:
    """What the trace of a call over time would hold that needs no trace."""

    closed = ()

    def __init__(self, calls):
        self.calls = calls


SAMPLE = 3  # the number of steps of the samples on which lifted calls are traced; no result depends on it


def _over_time(call, stacked, tensors, readable):
    """The op on arrays with a leading time axis; None when it has no such form."""
    op = call.op
    if readable and op.name == "matmul" and stacked == [True, False] and len(call.args[1].shape) <= 2:
        return op(*tensors)  # NumPy's own rule for stacks of matrices says the same; rows are only faster
    if op.elementwise:
        rank = max(len(a.shape) if isinstance(a, Value) else np.ndim(a) for a in call.args)
        aligned = [t.reshape((Steps(SAMPLE), *(1,) * (rank - t.ndim + 1), *t.shape[1:])) if flag and t.ndim - 1 < rank else t
                   for t, flag in zip(tensors, stacked)]
        return op(*aligned, **call.statics)
    return None if op.over_time is None else op.over_time(Steps(SAMPLE), stacked, *tensors, **call.statics)
