"""Equal bodies that make fewer calls in the loop.

Knows the algebra that moves work out of a loop's body: a value that is linear in what the loop carries is kept as

    v = k0 + u1·k1 + u2·k2 + …        u carried (products with matrices, …), k not: k is computed for all steps at once

so that factors meet outside (g·s'(z)·f becomes g·(s'(z)·f)), biases join the inputs' products, and a factor of a matrix
product goes into the matrix. σ(z) becomes ½ + ½ tanh(z/2) with the inner ½ in the weights, and the gates of one
pre-activation become one tanh. A sum over the last axis is a product with a column, which takes in the factors that never
change; those that are the same along a row stand behind it. Refuses to change what is computed beyond rounding: σ is then
exact to 2e-16 absolute, not relative (1e-4 at z = −30), and factors whose product overflows (k A where A > 1e38 r for a
root r = 1 / k in float32) give inf, or inf · 0 = nan, where one by one they gave less. Below it: program, ops, primitive.
"""

import math

import numpy as np

from .ops import add, getitem, matmul, multiply, negative, subtract, tanh, transpose
from .primitive import registry
from .program import Call, Program, Value, frozen


def rewritten(body, carried, consts, shown=(), roots=()):
    """A Program with the results of `body`, for a loop that carries the inputs `carried`; `consts` are the same at every step,
    `shown` are those results that leave the loop for anybody's use, `roots` those inputs that are square roots."""
    return _Rewriter(body, carried, consts, shown, roots).program


WIDE = 1 << 12  # elements from which on a pass over an array costs more than a call


# what hands a value on, what multiplies it, and what reads it beside numbers of the size of 1
_PASSING = {"where", "concatenate", "stack", "maximum", "minimum", "astype", "identity", "stop_gradient"}
_SCALING = {"multiply", "negative", "abs"}
_ABSOLUTE = {"add", "subtract", "matmul", "einsum", "tanh", "sigmoid", "sum", "mean", "exp", "sin", "cos", "relu", "softmax", "log_softmax",
             "logsumexp", "softplus"}


def _delicate(body, shown):
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


def _widened(body, uses, delicate):
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


class _Form:
    """k0 + Σ u·k; `const` is None, a number or a value that is not carried, as are the k (None is 1)."""

    __slots__ = ("const", "terms")

    def __init__(self, const, terms):
        self.const, self.terms = const, terms

    def size(self):
        """How many things are added."""
        return len(self.terms) + (self.const is not None)


class _Rewriter:
    def __init__(self, body, carried, consts, shown, roots):
        self.roots, self.delicate = set(roots), _delicate(body, shown)
        self.calls, self.maker, self.same, self.seen = [], {}, {}, {}
        self.carried, self.consts, self.forms, self.value = set(carried), set(consts), {}, {v: v for v in carried}
        self.uses, self.consumers, self.skip, self.factors, self.thin = {}, {}, set(), {}, {}
        for v in body.outputs:
            if isinstance(v, Value):
                self.uses[v] = self.uses.get(v, 0) + 1
                self.consumers.setdefault(v, []).append(None)
        self.returning = {v for v in body.outputs[:len(carried)] if isinstance(v, Value)}  # those that a next state is made of
        for call in reversed(body.calls):
            if not self.returning.isdisjoint(call.outs):
                self.returning.update(call.inputs)
        self.turned = {call.outs[0]: call for call in body.calls if call.op is transpose and call.statics["axes"] in (None, (1, 0))}  # Aᵀ -> of A
        for call in body.calls:
            for v in call.inputs:
                self.uses[v] = self.uses.get(v, 0) + 1
                self.consumers.setdefault(v, []).append(call)
            if all(a in self.consts for a in call.inputs):
                self.consts.update(call.outs)
        calls, self.columns = _widened(body, self.uses, self.delicate)
        for call in calls:
            self.visit(call)
        self.fold_columns()
        outputs = [self.out(v) if isinstance(v, Value) else v for v in body.outputs]
        self.without_axes(outputs[:len(carried)])
        self.program = Program(body.inputs, self.calls, outputs)

    # ---- values -------------------------------------------------------------------------------------------------

    def is_carried(self, arg):
        return isinstance(arg, Value) and arg in self.carried

    def emit(self, op, *args, statics=None, like=None, shape=None):
        """A new call with one result; the result of an equal call that was made before is used again."""
        statics = statics or {}
        key = op, tuple(("v", id(a)) if isinstance(a, Value) else ("a", id(a)) if isinstance(a, np.ndarray) else a for a in args), tuple(
            (k, frozen(v)) for k, v in statics.items())
        found = self.seen.get(key)
        if found is not None:
            return found
        shape = shape if shape is not None else np.broadcast_shapes(*(a.shape for a in args if isinstance(a, (Value, np.ndarray))))
        kind = like or next(a for a in args if isinstance(a, Value))
        out = Value(shape, kind.dtype)
        self.append(Call(op, args, statics, (out,)))
        self.seen[key] = out
        return out

    def append(self, call):
        self.calls.append(call)
        if call.op is registry["sqrt"]:
            self.roots.update(call.outs)
        for out in call.outs:
            self.maker[out] = call
            if any(self.is_carried(a) for a in call.args):
                self.carried.add(out)
            elif all(a in self.consts for a in call.inputs):
                self.consts.add(out)

    def out(self, value):
        return self.made(value) if value in self.forms else self.value.get(value, self.same.get(value, value))

    # ---- one call -----------------------------------------------------------------------------------------------

    def visit(self, call):
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
                self.forms[v] = self.by_rows(v, form) or _Form(None, [(self.made(v), None)])
            return
        if name == "matmul" and self.rows_behind(call):
            return
        if name == "split_" and self.gates(call):
            return
        if name in ("sum", "mean", "var", "reshape", "sigmoid") and self.lowered(call, name):
            return
        args = tuple(self.made(a) if isinstance(a, Value) else a for a in call.args)
        if name == "broadcast_to" and call.args[0] in self.forms:
            self.thin[call.outs[0]] = self.forms[call.args[0]]
        self.append(Call(call.op, args, call.statics, call.outs))
        for out in call.outs:
            self.value[out] = out

    def plain(self, call):
        """A call on nothing carried stays as it is; a repetition of it disappears."""
        key = call.op, tuple(("v", id(a)) if isinstance(a, Value) else ("a", id(a)) if isinstance(a, np.ndarray) else a for a in call.args), tuple(
            (k, frozen(v)) for k, v in call.statics.items())
        found = self.seen.get(key)
        if found is not None and len(call.outs) == 1:
            self.same[call.outs[0]] = found
            return
        if len(call.outs) == 1:
            self.seen[key] = call.outs[0]
        if call.op.name in ("sum", "mean") and registry.get(call.op.name) is call.op and self._sums_rows(call):
            n = call.args[0].shape[-1]
            call = Call(matmul, (call.args[0], self.ones(n, 1.0 if call.op.name == "sum" else 1 / n, call.outs[0].dtype)), {}, call.outs)
        self.append(call)

    # ---- forms --------------------------------------------------------------------------------------------------

    def form(self, arg, shape):
        """The form of an argument, if it has the shape of the result; a constant may broadcast to it."""
        if not isinstance(arg, Value) or not (arg in self.carried or arg in self.forms):
            return _Form(arg, [])
        if arg.shape != shape:
            return None
        return self.forms.get(arg) or _Form(None, [(self.made(arg), None)])

    def form_of(self, call, name):
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

    def sum(self, a, b):
        terms = list(a.terms)
        for u, k in b.terms:
            i = next((i for i, (w, _) in enumerate(terms) if w is u), None)
            if i is None:
                terms.append((u, k))
            else:
                terms[i] = (u, self.plus(1.0 if terms[i][1] is None else terms[i][1], 1.0 if k is None else k))
        return _Form(b.const if a.const is None else a.const if b.const is None else self.plus(a.const, b.const), terms)

    def plus(self, a, b):
        if a is b and isinstance(a, Value):
            return self.emit(multiply, a, 2.0)
        for x, y in ((a, b), (b, a)):
            call = self.maker.get(y) if isinstance(y, Value) else None
            if call is not None and call.op is negative:
                return self.emit(subtract, x, call.args[0])
        return a + b if not isinstance(a, (Value, np.ndarray)) and not isinstance(b, (Value, np.ndarray)) else self.emit(add, a, b)

    def times(self, a, b):
        if a is None or not isinstance(a, (Value, np.ndarray)) and a == 1:
            return b
        if not isinstance(b, (Value, np.ndarray)) and b == 1:
            return a
        if not isinstance(a, Value) and not isinstance(b, Value):
            return self.numbers(a, b)
        if not isinstance(b, (Value, np.ndarray)):
            return self.emit(negative, a) if b == -1 else self.emit(multiply, a, b)
        if not isinstance(a, (Value, np.ndarray)):
            return self.emit(negative, b) if a == -1 else self.emit(multiply, b, a)
        return self.emit(multiply, a, b)

    def numbers(self, a, b):
        """The product of two numbers or arrays that a rewriting made; the same array whenever it is asked for."""
        key = "numbers", *(id(k) if isinstance(k, np.ndarray) else k for k in (a, b))
        if key not in self.seen:
            self.seen[key] = a, b, a * b
        return self.seen[key][2]

    def scaled(self, form, k):
        """The form times something that is not carried; None where that would make more calls than it saves."""
        number = not isinstance(k, (Value, np.ndarray))
        costs = [q for _, q in form.terms if q is None or not isinstance(q, (Value, np.ndarray))]
        if form.size() > 1 and costs and not (number and abs(k) == 1):
            form = _Form(None, [(self.formed(form), None)])
        return _Form(None if form.const is None else self.pushed(form.const, k), [(u, self.times(q, k)) for u, q in form.terms])

    def pushed(self, value, k):
        """A constant part times k, with a k that never changes pushed into the weights that it is made of."""
        if not isinstance(value, Value) or not self.fixed(k) or self.uses.get(value, 1) > 1:
            return self.times(value, k)
        call = self.maker.get(value)
        if call is not None and call.op in (add, subtract) and all(isinstance(a, Value) and a.shape[-1:] == value.shape[-1:] for a in call.args):
            return self.emit(call.op, *(self.pushed(a, k) for a in call.args), shape=value.shape)
        if call is not None and call.op is matmul and self.takes(call.args[1], value, k):
            return self.emit(matmul, call.args[0], self.times(call.args[1], k), shape=value.shape)
        if call is not None and call.op is multiply and self.fixed(call.args[1]) and isinstance(call.args[0], Value) and call.args[0].shape == value.shape:
            return self.emit(multiply, call.args[0], self.times(call.args[1], k), shape=value.shape)
        return self.times(value, k)

    def fixed(self, k):
        """Whether k is the same at every step."""
        return not isinstance(k, Value) or k in self.consts

    def takes(self, weight, product, k):
        """Whether a factor k of a product can go into its right factor."""
        if isinstance(weight, np.ndarray):
            return isinstance(k, (int, float))
        if not (isinstance(weight, Value) and len(weight.shape) == 2 and weight in self.consts):
            return False
        shape = () if not isinstance(k, (Value, np.ndarray)) else k.shape
        return math.prod(shape) == 1 and len(shape) <= 2 or shape == product.shape[-1:]

    def formed(self, form):
        """The value of a form."""
        if form.const is None and len(form.terms) == 1 and form.terms[0][1] is None:
            return form.terms[0][0]
        plus, minus = [], []
        for u, k in form.terms:
            if k is None:
                plus.append(u)
            elif not isinstance(k, (Value, np.ndarray)) and k in (1, -1):
                (plus if k == 1 else minus).append(u)
            else:
                plus.append(self.product(u, k))
        if form.const is not None and not (not isinstance(form.const, (Value, np.ndarray)) and form.const == 0):
            plus.append(form.const)
        values = [p for p in plus if isinstance(p, Value)]
        shape = np.broadcast_shapes(*(v.shape for v in [*values, *minus]))
        if not values:
            total = self.emit(negative, minus.pop(0)) if not plus else self.emit(subtract, plus.pop(0), minus.pop(0), shape=shape)
        else:
            plus.remove(values[0])
            total = values[0]
        for p in plus:
            total = self.emit(add, total, p, shape=shape)
        for m in minus:
            total = self.emit(subtract, total, m, shape=shape)
        return total

    def product(self, u, k):
        call = self.maker.get(u)
        if call is not None and call.op is registry["broadcast_to"] and u.shape[-1:] != call.args[0].shape[-1:] == (1,) and isinstance(k, Value):
            number, thins, vectors, rest = self.sorted_factors(k, u.shape)
            if (number != 1 or thins) and all(isinstance(factor, Value) for factor in rest):  # cheaper before it is repeated
                thin = self.thin.get(u) or _Form(None, [(call.args[0], None)])
                for factor in [number, *thins]:
                    thin = self.scaled(thin, factor)
                u = self.emit(call.op, self.formed(thin), statics=call.statics, shape=u.shape)
                k = self.all_of([*vectors, *rest])
                if k is None:
                    return u
        if call is not None and call.op is matmul and self.uses.get(u, 1) == 1 and self.fixed(k) and self.takes(call.args[1], u, k):
            return self.emit(matmul, call.args[0], self.times(call.args[1], k), shape=u.shape, like=u)
        return self.emit(multiply, u, k, shape=u.shape)

    def made(self, value):
        """The new value for an old one."""
        if value not in self.value:
            form = self.forms.get(value)
            if form is None:
                return self.same.get(value, value)
            made = self.formed(form)
            if not made.name and made is not value:
                made.name = value.name
            self.value[value] = made
        return self.value[value]

    # ---- factors of rows ----------------------------------------------------------------------------------------

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
        return _Form(None, [(self.formed(_Form(None, [self.without(u, k, common[0], v.shape) for u, k in form.terms])), common[0])]) if common else None

    def without(self, u, k, r, shape):
        """The term u·k without the factor r, which is in k or in what u repeats along a row."""
        if r in self.thins(k, shape):
            number, thins, vectors, rest = self.sorted_factors(k, shape)
            thins.remove(r)
            k = self.all_of([*vectors, *thins, *rest])
            return u, number if k is None else self.times(k, number)
        thin = _Form(None, [self.without(w, q, r, shape) for w, q in self.thin[u].terms])
        out = self.emit(self.maker[u].op, self.formed(thin), statics=self.maker[u].statics, shape=shape)
        self.thin[out] = thin
        return out, k

    def thins(self, k, shape):
        """The factors of k that are the same along a row."""
        _, found, _, _ = self.sorted_factors(k, shape) if k is not None else (1.0, [], [], [])
        return found

    def wide(self, v, size):
        """Whether a pass over so many elements costs more than a call, where v is made: outside the loop all steps are one call."""
        return size >= WIDE or v not in self.returning

    def side(self, call, v):
        """On which side of a product with v a factor of v's rows costs less than on v; None where on neither."""
        if call.op is not matmul or any(not isinstance(a, Value) or len(a.shape) != 2 or a.dtype != v.dtype for a in call.args):
            return None
        a, b = call.args
        if a is v and b is not v:
            return 0 if self.fixed(b) and b.shape[1] < b.shape[0] else None
        turned = self.turned.get(a)
        return 1 if turned is not None and turned.args[0] is not v and not self.is_carried(turned.args[0]) and a.shape[0] < v.shape[1] else None

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
                self.forms[out] = _Form(None, [(self.emit(matmul, u, other, shape=out.shape), k)])
            else:
                turned = self.turned[other]
                rows = self.same.get(turned.args[0], turned.args[0])
                scaled = self.emit(multiply, rows, k, shape=rows.shape)
                scaled = self.emit(turned.op, scaled, statics=turned.statics, shape=other.shape)
                self.forms[out] = _Form(None, [(self.emit(matmul, scaled, u, shape=out.shape), None)])
            self.carried.add(out)
            return True
        return False

    def fold_columns(self):
        """Factors of some columns of a product go into these columns of its right factor."""
        for product, factors in self.factors.items():
            at = next((k for k, call in enumerate(self.calls) if product in call.outs), None)
            if at is not None:
                call = self.calls[at]
                weight = Value(call.args[1].shape, call.args[1].dtype)
                self.calls[at:at + 1] = [Call(multiply, (call.args[1], factors), {}, (weight,)),
                                         Call(call.op, (call.args[0], weight), call.statics, call.outs)]

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

    # ---- larger patterns ----------------------------------------------------------------------------------------

    def gates(self, call):
        """One tanh for all gates of a pre-activation that is split and squashed part by part."""
        (z,) = call.args
        squash = []
        for part in call.outs:
            users = self.consumers.get(part, [])
            if len(users) != 1 or users[0] is None or users[0].op.name not in ("sigmoid", "tanh") or registry.get(users[0].op.name) is not users[0].op:
                return False
            if users[0].op.name == "sigmoid" and users[0].outs[0] in self.delicate:
                return False
            squash.append(users[0])
        axis = call.statics["axis"] % len(z.shape)
        if axis != len(z.shape) - 1:
            return False
        inner = np.concatenate([np.full(n, 0.5 if s.op.name == "sigmoid" else 1.0, z.dtype) for n, s in zip(call.statics["sizes"], squash)])
        form = self.forms.get(z) or _Form(None, [(self.made(z), None)])
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
        return _Form(None if form.const is None else self.pushed(form.const, k), terms)

    def lowered(self, call, name):
        """σ as a tanh; sums over the last axis as products with a column, which BLAS does faster than a reduction."""
        (x, *_), (out,) = call.args, call.outs
        if name == "sigmoid":
            if out in self.delicate:
                return False
            form = self.forms.get(x) or _Form(None, [(self.made(x), None)])
            t = self.emit(tanh, self.formed(self.each(form, 0.5)))
            self.forms[out] = _Form(0.5, [(t, 0.5)])
            self.carried.add(out)
            self.forms[out] = _Form(None, [(self.made(out), None)])
            return True
        if name == "reshape":
            if out.shape == x.shape:
                self.forms[out] = self.forms.get(x) or _Form(None, [(self.made(x), None)])
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
        if not self._sums_rows(call):
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
        if self.wide(out, x.size) and call is not None and call.op is multiply and call.args[0].shape == x.shape and not self.is_carried(call.args[1]):
            number, thins, vectors, rest = self.sorted_factors(call.args[1], x.shape)
            if (thins or vectors) and all(isinstance(k, Value) for k in rest):
                weight, x, thin, vector, k = weight * number, call.args[0], *map(self.all_of, (thins, vectors, rest))
                x = x if k is None else self.emit(multiply, x, k, shape=x.shape)
        if vector is None:
            column = self.ones(x.shape[-1], weight, x.dtype)
        else:
            column = self.emit(registry["reshape"], self.times(vector, weight), statics={"shape": (x.shape[-1], 1)}, shape=(x.shape[-1], 1))
        return _Form(None, [(self.emit(matmul, x, column, shape=out.shape, like=x), thin)])

    def ones(self, n, weight, dtype):
        """A column with which a product is `weight` times the sum over the last axis."""
        key = "column", n, weight, dtype
        if key not in self.seen:
            self.seen[key] = np.full((n, 1), weight, dtype)
        return self.seen[key]

    def all_of(self, factors):
        """The product of some factors; None of none."""
        product = None
        for k in factors:
            product = self.times(product, k)
        return product

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
    def _sums_rows(cls, call):
        x, out = call.args[0], call.outs[0]
        return call.statics["keepdims"] and cls._last_axis(call.statics["axis"], x) and out.dtype == x.dtype and out.dtype.kind == "f"

    @staticmethod
    def _last_axis(axis, x):
        axes = axis if isinstance(axis, tuple) else (axis,)
        return len(x.shape) == 2 and len(axes) == 1 and axes[0] is not None and axes[0] % len(x.shape) == len(x.shape) - 1
