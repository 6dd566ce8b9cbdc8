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


def without_dividends(backward, forward, results, kept=None):
    """The calls `backward`, as far as the values `results` need them, that read quotients of `forward` instead of dividends.

    `kept` are the values that can be read; None while that is being found out, for cotangents of all results. Where some of
    the cotangents are missing, t may be made of other things: a dividend that is not kept is replaced nevertheless.
    """
    roots = {call.outs[0] for call in forward if call.op is registry["sqrt"]}
    read = {v for call in backward for v in call.inputs}
    quotients = {(call.args[0], call.args[1]): call.outs[0] for call in forward if call.op is divide and call.args[1] in roots
                 and isinstance(call.args[0], Value) and call.args[0].shape == call.outs[0].shape
                 and call.outs[0] in (read if kept is None else kept)}
    if read.isdisjoint(d for d, _ in quotients):
        return backward
    search = _Search(backward, quotients, kept)
    for call in backward:
        search.visit(call)
    return Program([], search.calls, results).calls


class _Search:
    """`quotients`: (d, r) -> y; `calls`: those of the backward pass so far."""

    def __init__(self, backward, quotients, kept):
        self.quotients, self.kept, self.calls, self.made = quotients, kept, [], {}
        self.maker = {v: call for call in backward for v in call.outs}

    def visit(self, call):
        """Take over a call; a product with a dividend becomes one with the quotient, where the law holds."""
        if call.op is multiply and all(isinstance(a, Value) and a.shape == call.outs[0].shape for a in call.args):
            for factor, d in (call.args, call.args[::-1]):
                divided = self.division(factor)
                y = self.quotients.get((d, divided.args[1])) if divided is not None and d not in self.maker else None
                if y is not None and (self.reads(divided.args[0], y) or self.kept is not None and d not in self.kept):
                    call = Call(multiply, (self.undivided(factor), y), {}, call.outs)
                    break
        self.calls.append(call)

    def division(self, value):
        """The call t / r of which a value is a number of times, repeated along rows; or None."""
        call = self.maker.get(value)
        while call is not None and registry.get(call.op.name) is call.op and isinstance(call.args[0], Value) and (
                call.op.name in _LINEAR or call.op in (multiply, divide) and type(call.args[1]) in (int, float)):
            call = self.maker.get(call.args[0])
        return call if call is not None and call.op is divide and all(
            isinstance(a, Value) and a.shape == call.outs[0].shape for a in call.args) else None

    def undivided(self, value):
        """The same of t instead of t / r."""
        call = self.maker[value]
        if call is self.division(value):
            return call.args[0]
        if value not in self.made:
            inner, self.made[value] = self.undivided(call.args[0]), Value(value.shape, value.dtype)
            self.calls.append(Call(call.op, (inner, *call.args[1:]), call.statics, (self.made[value],)))
        return self.made[value]

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
