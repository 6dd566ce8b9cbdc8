"""Equal bodies that make fewer calls in the loop.

Knows which calls of a body are rewritten: what is linear in what the loop carries becomes a form (`forms`), so that factors
meet outside (g·s'(z)·f becomes g·(s'(z)·f)), biases join the inputs' products, and a factor of a matrix product goes into the
matrix; sums along rows become products (`rows`), sigmoids tanhs (`gates`). What is divided by a root is multiplied with its
reciprocal, which is finite unless the root is 0. Refuses to change what is computed beyond rounding, within the limits that
the three state. Below it: forms, rows, gates, ops, primitive, program.
"""

import numpy as np

from .forms import Form, key_of
from .gates import Gates, delicate, widened
from .ops import matmul
from .primitive import registry
from .program import Call, Program, Value
from .rows import Rows, ones


def rewritten(body, carried, consts, shown=(), roots=()):
    """A Program with the results of `body`, for a loop that carries the inputs `carried`; `consts` are the same at every step,
    `shown` are those results that leave the loop for anybody's use, `roots` those inputs that are square roots."""
    return _Rewriter(body, carried, consts, shown, roots).program


class _Rewriter(Gates, Rows):
    """Goes through the calls once; `program` is what came of them."""

    def __init__(self, body, carried, consts, shown, roots):
        super().__init__(body, carried, consts, roots)
        self.delicate, self.skip, self.factors = delicate(body, shown), set(), {}
        calls, self.columns = widened(body, self.uses, self.delicate)
        for call in calls:
            self.visit(call)
        self.fold_columns()
        outputs = [self.out(v) if isinstance(v, Value) else v for v in body.outputs]
        self.without_axes(outputs[:len(carried)])
        self.program = Program(body.inputs, self.calls, outputs)

    def visit(self, call):
        """Take over a call: as a form, as what one of the parts makes of it, or as it is."""
        if call in self.skip:
            return
        call = Call(call.op, tuple(self.same.get(a, a) if isinstance(a, Value) else a for a in call.args), call.statics, call.outs)
        if not any(self.is_carried(a) or isinstance(a, Value) and a in self.forms for a in call.args):
            self.plain(call)
            return
        name = call.op.name if registry.get(call.op.name) is call.op else None
        form = self.form_of(call, name) if len(call.outs) == 1 else None
        if form is not None:
            (v,) = call.outs
            self.forms[v] = form
            self.carried.add(v)
            if self.uses.get(v, 0) > 1 and form.size() > 1:
                self.forms[v] = self.by_rows(v, form) or Form(None, [(self.made(v), None)])
            return
        if name == "matmul" and self.rows_behind(call):
            return
        if name == "split_" and self.gates(call):
            return
        if name in ("sum", "mean", "var", "reshape") and self.row_sum(call, name) or name == "sigmoid" and self.sigmoid(call):
            return
        args = tuple(self.made(a) if isinstance(a, Value) else a for a in call.args)
        if name == "broadcast_to" and call.args[0] in self.forms:
            self.thin[call.outs[0]] = self.forms[call.args[0]]
        self.append(Call(call.op, args, call.statics, call.outs))
        for out in call.outs:
            self.value[out] = out

    def plain(self, call):
        """A call on nothing carried stays as it is; a repetition of it disappears."""
        key = key_of(call.op, call.args, call.statics, call.outs[0].dtype)
        found = self.seen.get(key)
        if found is not None and len(call.outs) == 1:
            self.same[call.outs[0]] = found
            return
        if len(call.outs) == 1:
            self.seen[key] = call.outs[0]
        if call.op.name in ("sum", "mean") and registry.get(call.op.name) is call.op and self.sums_rows(call):
            n = call.args[0].shape[-1]
            call = Call(matmul, (call.args[0], ones(n, 1.0 if call.op.name == "sum" else 1 / n, call.outs[0].dtype)), {}, call.outs)
        self.append(call)

    def form_of(self, call, name):
        """The form of the result of an op called `name`; None if it has none."""
        (out,) = call.outs
        if out.dtype.kind != "f" or name not in ("add", "subtract", "negative", "multiply", "divide") or any(
                isinstance(a, Value) and a.dtype != out.dtype for a in call.args):
            return None
        forms = [self.form(a, out.shape) for a in call.args]
        if None in forms:
            return None
        if name == "negative":
            return self.scaled(forms[0], -1.0)
        a, b = forms
        if name == "add":
            return self.sum(a, b)
        if name == "subtract":
            b = self.scaled(b, -1.0)
            return None if b is None else self.sum(a, b)
        if name == "multiply" and a.terms and b.terms or name == "divide" and b.terms:
            return None
        if name == "divide":
            by = b.const
            if not isinstance(by, (Value, np.ndarray)):
                return self.scaled(a, 1 / by) if 1e-30 < abs(by) < 1e30 else None
            root = by in self.roots if isinstance(by, Value) else False  # the reciprocal of a root is finite, unless it is 0
            return self.scaled(a, self.emit(registry["divide"], 1.0, by)) if root else None
        form, k = (a, b.const) if a.terms else (b, a.const)
        return self.scaled(form, k)
