"""Gates: sigmoids as tanhs, and those of one pre-activation as one.

Knows that σ(z) = ½ + ½ tanh(z/2), with the inner ½ in the weights, and that gates which lie side by side are squashed in one
call. Refuses to do so where the relative error of a σ counts: as a tanh it is exact to 2e-16 absolute, not relative (1e-4 at
z = −30). Below it: forms, ops, primitive, program.
"""

import numpy as np

from .forms import Form, Forms
from .ops import add, getitem, matmul, multiply, tanh
from .primitive import registry
from .program import Call, Value

# what hands a value on, what multiplies it, and what reads it beside numbers of the size of 1
_PASSING = {"where", "concatenate", "stack", "maximum", "minimum", "astype", "identity", "stop_gradient"}
_SCALING = {"multiply", "negative", "abs"}
_ABSOLUTE = {"add", "subtract", "matmul", "einsum", "tanh", "sigmoid", "sum", "mean", "exp", "sin", "cos", "relu", "softmax", "log_softmax",
             "logsumexp", "softplus"}


def delicate(body, shown):
    """Values whose *relative* error counts: they leave the loop, or a quotient, a logarithm or the like is made of them or of
    their products. ½ + ½ tanh(z / 2) is σ(z) within 1e-16, which is nothing beside 1 and everything beside σ(−40)."""
    outside, inside = {v for v in shown if isinstance(v, Value)}, set()
    for call in reversed(body.calls):
        name = call.op.name if registry.get(call.op.name) is call.op else ""
        passes = call.op.view or name in _PASSING
        scales = name in _SCALING or name == "divide" and not isinstance(call.args[1], Value)
        if passes and not outside.isdisjoint(call.outs):
            outside.update(call.inputs)
        if not inside.isdisjoint(call.outs) if passes or scales else name not in _ABSOLUTE:
            inside.update(call.inputs)
    return outside | inside


def widened(body, uses, delicate):
    """The calls, with neighbouring gates of two split arrays put together: σ(a_i + b_i) for i = 0, 1 is one σ of the two.

    Also returns {value: (array, start, stop)} for the pieces that stand for a_0, a_1 together.
    """
    maker = {v: call for call in body.calls for v in call.outs}
    groups = {}
    for call in body.calls:
        if call.op.name not in ("sigmoid", "tanh") or registry.get(call.op.name) is not call.op or call.outs[0] in delicate:
            continue
        total = maker.get(call.args[0])
        splits = [maker.get(a) for a in total.args] if total is not None and total.op is add and uses.get(call.args[0]) == 1 else []
        if len(splits) != 2 or any(s is None or s.op.name != "split_" for s in splits) or splits[0] is splits[1]:
            continue
        places = [s.outs.index(a) for s, a in zip(splits, total.args)]
        a, b = splits
        rank = len(a.args[0].shape)
        if (places[0] == places[1] and a.statics["sizes"] == b.statics["sizes"] and a.args[0].shape == b.args[0].shape and all(
                s.statics["axis"] % rank == rank - 1 for s in splits) and all(uses.get(part) == 1 for part in total.args)):
            groups.setdefault((call.op, a, b), []).append((places[0], call, total))
    calls, columns, at, gone = list(body.calls), {}, {}, set()
    for (op, a, b), found in groups.items():
        found.sort(key=lambda entry: entry[0])
        first, last = found[0][0], found[-1][0]
        if len(found) < 2 or last - first != len(found) - 1:
            continue
        sizes = a.statics["sizes"]
        start, stop = sum(sizes[:first]), sum(sizes[:last + 1])
        shape, dtype = (*a.args[0].shape[:-1], stop - start), a.args[0].dtype
        left, right, total, out = (Value(shape, dtype) for _ in range(4))
        index = {"index": (Ellipsis, slice(start, stop))}
        made = [Call(getitem, (a.args[0],), index, (left,)), Call(getitem, (b.args[0],), index, (right,)), Call(add, (left, right), {}, (total,)),
                Call(op, (total,), {}, (out,)),
                Call(a.op, (out,), {"sizes": sizes[first:last + 1], "axis": a.statics["axis"]}, tuple(call.outs[0] for _, call, _ in found))]
        columns |= {left: (a.args[0], start, stop), right: (b.args[0], start, stop)}
        at[min((total for _, _, total in found), key=calls.index)] = made
        gone |= {call for _, call, _ in found} | {total for _, _, total in found}
    return [new for call in calls for new in (*at.get(call, ()), *(() if call in gone else (call,)))], columns


class Gates(Forms):
    """`delicate`: values whose relative error counts; `columns`: what `widened` has put together; `factors`: a product -> factors
    of its columns; `skip`: calls that are done."""

    delicate: set
    columns: dict
    factors: dict
    skip: set

    def gates(self, call):
        """One tanh for all gates of a pre-activation that is split and squashed part by part."""
        (z,) = call.args
        squash = []
        for part in call.outs:
            users = self.consumers.get(part, [])
            user = users[0] if len(users) == 1 else None
            if user is None or user.op.name not in ("sigmoid", "tanh") or registry.get(user.op.name) is not user.op:
                return False
            if user.op.name == "sigmoid" and user.outs[0] in self.delicate:
                return False
            squash.append(user)
        axis = call.statics["axis"] % len(z.shape)
        if axis != len(z.shape) - 1:
            return False
        inner = np.concatenate([np.full(n, 0.5 if s.op.name == "sigmoid" else 1.0, z.dtype) for n, s in zip(call.statics["sizes"], squash)])
        form = self.forms.get(z) or Form(None, [(self.made(z), None)])
        if (inner == 1).all():
            t = self.emit(tanh, self.made(z))
        else:
            scaled = self.each(form, inner)
            t = self.emit(tanh, self.formed(scaled))
            full = np.broadcast_to(inner, z.shape).copy()
            t = self.emit(add, self.emit(multiply, t, full, shape=z.shape), 1 - full, shape=z.shape)
        outs = tuple(Value(p.shape, p.dtype, s.outs[0].name) for p, s in zip(call.outs, squash))
        self.append(Call(call.op, (t,), call.statics, outs))
        for s, out in zip(squash, outs):
            self.value[s.outs[0]] = out
            self.carried.add(s.outs[0])
            self.skip.add(s)
        return True

    def sigmoid(self, call):
        """σ as a tanh, unless its relative error counts; says whether it was."""
        (x,), (out,) = call.args, call.outs
        if out in self.delicate:
            return False
        form = self.forms.get(x) or Form(None, [(self.made(x), None)])
        t = self.emit(tanh, self.formed(self.each(form, 0.5)))
        self.forms[out] = Form(0.5, [(t, 0.5)])
        self.carried.add(out)
        self.forms[out] = Form(None, [(self.made(out), None)])
        return True

    def each(self, form, k):
        """Every part of a form times a factor that never changes: products take it into their weights."""
        terms = []
        for u, q in form.terms:
            call = self.maker.get(u)
            product, start, stop = self.columns.get(u, (None, 0, 0))
            source = self.maker.get(product)
            if q is None and isinstance(k, float) and source is not None and source.op is matmul and self.takes(source.args[1], product, k):
                factors = self.factors.setdefault(product, np.ones(product.shape[-1], product.dtype))
                factors[start:stop] *= k
                terms.append((u, None))
            elif q is None and call is not None and call.op is matmul and self.uses.get(u, 1) == 1 and self.takes(call.args[1], u, k):
                terms.append((self.emit(matmul, call.args[0], self.times(call.args[1], k), shape=u.shape), None))
            else:
                terms.append((u, self.times(q, k)))
        return Form(None if form.const is None else self.pushed(form.const, k), terms)

    def fold_columns(self):
        """Factors of some columns of a product go into these columns of its right factor."""
        for product, factors in self.factors.items():
            at = next((k for k, call in enumerate(self.calls) if product in call.outs), None)
            if at is not None:
                call = self.calls[at]
                weight = Value(call.args[1].shape, call.args[1].dtype)
                self.calls[at:at + 1] = [Call(multiply, (call.args[1], factors), {}, (weight,)),
                                         Call(call.op, (call.args[0], weight), call.statics, call.outs)]
