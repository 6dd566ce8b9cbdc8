"""Cotangents of rows that were divided by their root, written with the quotient.

Knows one law: where the forward pass made y = d / r with a root r, the backward pass meets d only as (t / r) d, with t a sum
over c y, c the cotangent of y: that is t y. So d need not be kept, and the rows of a cotangent have the divisor in common,

    (c − y mean(c y)) / r          r = √(mean(d d) + ε)

Holds up to rounding wherever y is finite (elsewhere t is not finite either: it is made of y), but for what lies below the
smallest normal number times |t|, where y has lost digits. Refuses to make a dividend again out of a quotient, y r: an
infinite r would make nan of it. Below it: ops, primitive, program.
"""

from .ops import divide, multiply
from .primitive import registry
from .program import Call, Program, Value

_LINEAR = ("reshape", "broadcast_to", "negative")  # with one input, and numbers beside it: multiply, divide


def without_dividends(backward, forward, results):
    """The calls `backward`, as far as the values `results` need them, that read quotients of `forward` instead of dividends."""
    roots = {call.outs[0] for call in forward if call.op is registry["sqrt"]}
    read = {v for call in backward for v in call.inputs}
    quotients = {call.args[0]: (call.outs[0], call.args[1]) for call in forward if call.op is divide and isinstance(call.args[0], Value)
                 and call.args[1] in roots and call.outs[0] in read and call.outs[0].shape == call.args[0].shape}
    if read.isdisjoint(quotients):
        return backward
    search = _Search(backward)
    for call in backward:
        search.visit(call, quotients)
    return Program([], search.calls, results).calls


class _Search:
    def __init__(self, backward):
        self.maker, self.calls, self.made = {v: call for call in backward for v in call.outs}, [], {}

    def visit(self, call, quotients):
        """Take over a call; a product with a dividend becomes one with the quotient, where the law holds."""
        if call.op is multiply and all(isinstance(a, Value) and a.shape == call.outs[0].shape for a in call.args):
            for factor, d in (call.args, call.args[::-1]):
                if d in quotients and d not in self.maker:
                    y, r = quotients[d]
                    t = self.undivided(factor, r, y)
                    if t is not None:
                        call = Call(multiply, (t, y), {}, call.outs)
                        break
        self.calls.append(call)

    def undivided(self, value, r, y):
        """The value times r, where it is t / r, repeated along rows or times numbers, with a t that was made of y; or None."""
        call = self.maker.get(value)
        if call is None or registry.get(call.op.name) is not call.op:
            return None
        if call.op is divide and call.args[1] is r:
            return call.args[0] if isinstance(call.args[0], Value) and call.args[0].shape == value.shape and self.reads(call.args[0], y) else None
        if not (call.op.name in _LINEAR or call.op in (multiply, divide) and type(call.args[1]) in (int, float)) or not isinstance(call.args[0], Value):
            return None
        if (value, r) not in self.made:
            inner = self.undivided(call.args[0], r, y)
            if inner is not None:
                out = Value(value.shape, value.dtype)
                self.calls.append(Call(call.op, (inner, *call.args[1:]), call.statics, (out,)))
                inner = out
            self.made[value, r] = inner
        return self.made[value, r]

    def reads(self, value, y):
        """Whether a value is made of y."""
        seen, todo = set(), [value]
        while todo:
            v = todo.pop()
            if v is y:
                return True
            call = self.maker.get(v)
            if call is not None and v not in seen:
                todo += call.inputs
            seen.add(v)
        return False
