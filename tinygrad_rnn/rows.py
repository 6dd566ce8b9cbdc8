"""Factors that are the same along a row, and sums along rows.

Knows that a sum over the last axis is a product with a column, which takes in the factors that never change; those that are
the same along a row stand behind it, as they do behind other products of wide arrays:

    (k u) W = k (u W)        Aᵀ (k u) = (k A)ᵀ u        k one number a row: there is less to multiply

and that NumPy repeats a number along a row fastest where it has no axes. Refuses to know what else is linear. The products
are the same within rounding, but for overflow: k A is inf where A > 1e38 r for a root r = 1 / k in float32, and inf · 0 is
nan, where one by one they gave less. Below it: forms, ops, primitive, program.
"""

import functools

import numpy as np

from .forms import Form, Forms
from .ops import matmul, multiply, negative, subtract, transpose
from .primitive import registry
from .program import Call, Value

WIDE = 1 << 12  # elements from which on a pass over an array costs more than a call


@functools.lru_cache(maxsize=256)
def ones(n, weight, dtype):
    """A column with which a product is `weight` times the sum over the last axis; the same one whenever it is asked for."""
    return np.full((n, 1), weight, dtype)


class Rows(Forms):
    """Where factors of rows go; `thin`: what is repeated along rows -> the form of its one number a row."""

    def __init__(self, body, carried, consts, roots):
        super().__init__(body, carried, consts, roots)
        self.thin = {}
        self.returning = {v for v in body.outputs[:len(carried)] if isinstance(v, Value)}  # what a next state is made of
        for call in reversed(body.calls):
            if not self.returning.isdisjoint(call.outs):
                self.returning.update(call.inputs)
        self.turned = {call.outs[0]: call for call in body.calls if call.op is transpose and call.statics["axes"] in (None, (1, 0))}

    def wide(self, v, size):
        """Whether a pass over so many elements costs more than a call, where v is made: outside the loop all steps are one call."""
        return size >= WIDE or v not in self.returning

    # ---- behind products ----------------------------------------------------------------------------------------

    def product(self, u, k):
        """u·k; what u repeats along rows takes its factors before it is repeated."""
        call = self.maker.get(u)
        if call is not None and call.op is registry["broadcast_to"] and isinstance(k, Value) and (
                u.shape[-1:] != call.args[0].shape[-1:] == (1,) and u.size == u.shape[-1] * call.args[0].size):
            number, thins, vectors, rest = self.sorted_factors(k, u.shape)
            if (number != 1 or thins) and all(isinstance(factor, Value) for factor in rest):
                thin = self.thin.get(u) or Form(None, [(call.args[0], None)])
                for factor in [number, *thins]:
                    thin = self.scaled(thin, factor)
                u = self.emit(call.op, self.formed(thin), statics=call.statics, shape=u.shape)
                k = self.all_of([*vectors, *rest])
                if k is None:
                    return u
        return super().product(u, k)

    def by_rows(self, v, form):
        """The form as a value times a factor that is the same along a row, which all its terms have in common and every product
        that reads it can take behind it, where there is less to multiply; None where that is not so."""
        if form.const is not None or not self.wide(v, v.size) or not all(
                call is not None and self.side(call, v) is not None for call in self.consumers.get(v, (None,))):
            return None
        common = None
        for u, k in form.terms:
            found = self.thins(k, v.shape)
            if u in self.thin and self.thin[u].const is None:
                parts = [self.thins(q, v.shape) for _, q in self.thin[u].terms]
                found = found + [r for r in parts[0] if all(r in part for part in parts)]
            common = [r for r in found if common is None or r in common]
        if not common:
            return None
        rest = Form(None, [self.without(u, k, common[0], v.shape) for u, k in form.terms])
        return Form(None, [(self.formed(rest), common[0])])

    def without(self, u, k, r, shape):
        """The term u·k without the factor r, which is in k or in what u repeats along a row."""
        if r in self.thins(k, shape):
            number, thins, vectors, rest = self.sorted_factors(k, shape)
            thins.remove(r)
            k = self.all_of([*vectors, *thins, *rest])
            return u, number if k is None else self.times(k, number)
        thin = Form(None, [self.without(w, q, r, shape) for w, q in self.thin[u].terms])
        out = self.emit(self.maker[u].op, self.formed(thin), statics=self.maker[u].statics, shape=shape)
        self.thin[out] = thin
        return out, k

    def thins(self, k, shape):
        """The factors of k that are the same along a row."""
        _, found, _, _ = self.sorted_factors(k, shape) if k is not None else (1.0, [], [], [])
        return found

    def side(self, call, v):
        """On which side of a product with v a factor of v's rows costs less than on v; None where on neither."""
        if call.op is not matmul or any(not isinstance(a, Value) or len(a.shape) != 2 or a.dtype != v.dtype for a in call.args):
            return None
        a, b = call.args
        if a is v and b is not v:
            return 0 if self.fixed(b) and b.shape[1] < b.shape[0] else None
        rows = self.turned[a].args[0] if a in self.turned else v
        return 1 if rows is not v and not self.is_carried(rows) and a.shape[0] < v.shape[1] else None

    def rows_behind(self, call):
        """(k u) W = k (u W) and Aᵀ (k u) = (k A)ᵀ u for a factor k of the rows of u."""
        (out,) = call.outs
        for i, v in enumerate(call.args):
            form = self.forms.get(v) if isinstance(v, Value) and v not in self.value else None
            if form is None or form.const is not None or len(form.terms) != 1 or not self.wide(v, v.size) or self.side(call, v) != i:
                continue
            (u, k), other = form.terms[0], call.args[1 - i]
            if not isinstance(k, Value) or k.shape != (v.shape[0], 1) or u.shape != v.shape:
                continue
            if i == 0:
                self.forms[out] = Form(None, [(self.emit(matmul, u, other, shape=out.shape), k)])
            else:
                turned = self.turned[other]
                rows = self.same.get(turned.args[0], turned.args[0])
                scaled = self.emit(multiply, rows, k, shape=rows.shape)
                scaled = self.emit(turned.op, scaled, statics=turned.statics, shape=other.shape)
                self.forms[out] = Form(None, [(self.emit(matmul, scaled, u, shape=out.shape), None)])
            self.carried.add(out)
            return True
        return False

    # ---- sums along rows ----------------------------------------------------------------------------------------

    def row_sum(self, call, name):
        """Sums over the last axis as products with a column, which BLAS does faster than a reduction; says whether it was one."""
        (x, *_), (out,) = call.args, call.outs
        if name == "reshape":
            if out.shape == x.shape:
                self.forms[out] = self.forms.get(x) or Form(None, [(self.made(x), None)])
                self.carried.add(out)
                return True
            inner = self.maker.get(self.value.get(x))
            if inner is None or inner.op.name != "sum" or self.uses.get(x) != 1 or inner.statics["keepdims"]:
                return False
            y = inner.args[0]
            if not self._last_axis(inner.statics["axis"], y) or out.shape != (*y.shape[:-1], 1):
                return False
            negated = self.maker.get(y)
            sign = negated is not None and negated.op is negative
            self.forms[out] = self.column(negated.args[0] if sign else y, -1.0 if sign else 1.0, out)
            self.carried.add(out)
            return True
        form = self.forms.get(x)
        if form is not None and x not in self.value and self.uses.get(x) == 1 and form.const is None and form.size() == 1 and isinstance(
                form.terms[0][1], (int, float)) and form.terms[0][0].shape == x.shape and name != "var":
            (base, factor), = form.terms
        else:
            base, factor = self.made(x), 1.0
        x = base
        if not self.sums_rows(call):
            return False
        n = x.shape[-1]
        if name == "var":
            d = self.emit(subtract, x, self.formed(self.column(x, 1 / n, out)), shape=x.shape)
            x, n = self.emit(multiply, d, d), n - call.statics["ddof"]
        self.forms[out] = self.column(x, (1.0 if name == "sum" else 1 / n) * factor, out)
        self.carried.add(out)
        return True

    def column(self, x, weight, out):
        """The form of weight · Σ x over the last axis: a product with a column. Of what x is a product of, factors that are the
        same along a row are taken out of the sum, and those that never change become the column."""
        call, thin, vector = self.maker.get(x), None, None
        if self.wide(out, x.size) and call is not None and call.op is multiply and call.args[0].shape == x.shape and not self.is_carried(
                call.args[1]):
            number, thins, vectors, rest = self.sorted_factors(call.args[1], x.shape)
            if (thins or vectors) and all(isinstance(k, Value) for k in rest):
                weight, x, thin, vector, k = weight * number, call.args[0], *map(self.all_of, (thins, vectors, rest))
                x = x if k is None else self.emit(multiply, x, k, shape=x.shape)
        if vector is None:
            column = ones(x.shape[-1], weight, x.dtype)
        else:
            column = self.emit(registry["reshape"], self.times(vector, weight), statics={"shape": (x.shape[-1], 1)}, shape=(x.shape[-1], 1))
        return Form(None, [(self.emit(matmul, x, column, shape=out.shape, like=x), thin)])

    def sorted_factors(self, k, shape):
        """What k is a product of: a number, what is the same along a row, vectors that never change, and the rest."""
        if isinstance(k, (int, float)):
            return k, [], [], []
        call = self.maker.get(k) if isinstance(k, Value) else None
        if call is not None and call.op in (multiply, negative):
            number, *lists = (-1.0 if call.op is negative else 1.0), [], [], []
            for arg in call.args:
                n, *found = self.sorted_factors(arg, shape)
                number *= n
                lists = [mine + theirs for mine, theirs in zip(lists, found)]
            return number, *lists
        if isinstance(k, Value) and k.shape == (*shape[:-1], 1):
            return 1.0, [k], [], []
        if isinstance(k, Value) and k in self.consts and k.shape == shape[-1:]:
            return 1.0, [], [k], []
        return 1.0, [], [], [k]

    @classmethod
    def sums_rows(cls, call):
        """Whether a call adds up every row of a matrix, and keeps the axis."""
        x, out = call.args[0], call.outs[0]
        return call.statics["keepdims"] and cls._last_axis(call.statics["axis"], x) and out.dtype == x.dtype and out.dtype.kind == "f"

    @staticmethod
    def _last_axis(axis, x):
        """Whether an axis is the last one of a matrix, and nothing else."""
        axes = axis if isinstance(axis, tuple) else (axis,)
        return len(x.shape) == 2 and len(axes) == 1 and axes[0] is not None and axes[0] % len(x.shape) == len(x.shape) - 1

    # ---- numbers ------------------------------------------------------------------------------------------------

    def without_axes(self, states):
        """In the loop a single number stands beside an array without its axes: NumPy repeats nothing else as fast."""
        inside, calls = {v for v in states if isinstance(v, Value)}, []
        for call in reversed(self.calls):
            if not inside.isdisjoint(call.outs):
                inside.update(call.inputs)
        for call in self.calls:
            if call.op.elementwise and not inside.isdisjoint(call.outs) and call.outs[0].size > 1:
                single = {}
                for a in call.inputs:
                    spread = self.maker.get(a)
                    source = spread.args[0] if spread is not None and spread.op is registry["broadcast_to"] else a
                    if source.size == 1 and source.shape and self.is_carried(source):
                        single[a] = source
                if any(a.shape == call.outs[0].shape for a in call.inputs if a not in single):
                    for a, source in single.items():
                        single[a] = Value((), source.dtype)
                        calls.append(Call(registry["reshape"], (source,), {"shape": ()}, (single[a],)))
                    call = Call(call.op, tuple([single.get(a, a) if isinstance(a, Value) else a for a in call.args]), call.statics, call.outs)
            calls.append(call)
        self.calls = calls
