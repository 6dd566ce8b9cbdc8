"""Values that are linear in what a loop carries, as sums of products: the algebra of their parts.

Knows that v = k0 + u1·k1 + u2·k2 + … stays so when it is added, negated or multiplied with what is not carried, where a
factor can go instead of a pass of its own (into the weight of a product, into the constant part), and how such a value is
made. Refuses to know which ops there are in a body. Below it: ops, primitive, program.
"""

import math

import numpy as np

from .ops import add, matmul, multiply, negative, subtract
from .primitive import registry
from .program import Call, Value, frozen


class Form:
    """k0 + Σ u·k; `const` is None, a number or a value that is not carried, as are the k (None is 1)."""

    __slots__ = ("const", "terms")

    def __init__(self, const, terms):
        self.const, self.terms = const, terms

    def size(self):
        """How many things are added."""
        return len(self.terms) + (self.const is not None)


def key_of(op, args, statics, dtype):
    """What calls with equal results of this dtype have in common: 1 is 1.0 beside an array of floats, 0.0 is never −0.0."""
    own = [("v", id(a)) if isinstance(a, Value) else ("a", id(a)) if isinstance(a, np.ndarray) else a or repr(a * 1.0) for a in args]
    return op, tuple(own), tuple([(k, frozen(v)) for k, v in statics.items()]), dtype


class Forms:
    """The new calls, and for every old value what stands for it: a new value, or a form of which one can be made."""

    def __init__(self, body, carried, consts, roots):
        self.calls, self.maker, self.same, self.seen = [], {}, {}, {}
        self.carried, self.consts, self.roots = set(carried), set(consts), set(roots)
        self.forms, self.value = {}, {v: v for v in carried}
        self.uses, self.consumers = {}, {}
        for v in body.outputs:
            if isinstance(v, Value):
                self.uses[v] = self.uses.get(v, 0) + 1
                self.consumers.setdefault(v, []).append(None)
        for call in body.calls:
            for v in call.inputs:
                self.uses[v] = self.uses.get(v, 0) + 1
                self.consumers.setdefault(v, []).append(call)
            if all(a in self.consts for a in call.inputs):
                self.consts.update(call.outs)

    # ---- values -------------------------------------------------------------------------------------------------

    def is_carried(self, arg):
        """Whether an argument depends on what the loop carries."""
        return isinstance(arg, Value) and arg in self.carried

    def emit(self, op, *args, statics=None, like=None, shape=None):
        """A new call with one result; the result of an equal call that was made before is used again."""
        statics = statics or {}
        kind = like or next(a for a in args if isinstance(a, Value))
        key = key_of(op, args, statics, kind.dtype)
        found = self.seen.get(key)
        if found is not None:
            return found
        shape = shape if shape is not None else np.broadcast_shapes(*(a.shape for a in args if isinstance(a, (Value, np.ndarray))))
        out = Value(shape, kind.dtype)
        self.append(Call(op, args, statics, (out,)))
        self.seen[key] = out
        return out

    def append(self, call):
        """Make a call, and note of its results what is known of its arguments."""
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
        """The new value for a result of the body."""
        return self.made(value) if value in self.forms else self.value.get(value, self.same.get(value, value))

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
        """u·k, with a k that never changes in the weight that u is a product with."""
        call = self.maker.get(u)
        if call is not None and call.op is matmul and self.uses.get(u, 1) == 1 and self.fixed(k) and self.takes(call.args[1], u, k):
            return self.emit(matmul, call.args[0], self.times(call.args[1], k), shape=u.shape, like=u)
        return self.emit(multiply, u, k, shape=u.shape)

    # ---- forms --------------------------------------------------------------------------------------------------

    def form(self, arg, shape):
        """The form of an argument, if it has the shape of the result; a constant may broadcast to it."""
        if not isinstance(arg, Value) or not (arg in self.carried or arg in self.forms):
            return Form(arg, [])
        if arg.shape != shape:
            return None
        return self.forms.get(arg) or Form(None, [(self.made(arg), None)])

    def sum(self, a, b):
        """The form of the sum of two."""
        terms = list(a.terms)
        for u, k in b.terms:
            i = next((i for i, (w, _) in enumerate(terms) if w is u), None)
            if i is None:
                terms.append((u, k))
            else:
                terms[i] = (u, self.plus(1.0 if terms[i][1] is None else terms[i][1], 1.0 if k is None else k))
        return Form(b.const if a.const is None else a.const if b.const is None else self.plus(a.const, b.const), terms)

    def plus(self, a, b):
        """The sum of two factors, or of two constant parts."""
        if a is b and isinstance(a, Value):
            return self.emit(multiply, a, 2.0)
        for x, y in ((a, b), (b, a)):
            call = self.maker.get(y) if isinstance(y, Value) else None
            if call is not None and call.op is negative:
                return self.emit(subtract, x, call.args[0])
        return a + b if not isinstance(a, (Value, np.ndarray)) and not isinstance(b, (Value, np.ndarray)) else self.emit(add, a, b)

    def times(self, a, b):
        """The product of two factors; None is 1."""
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
            form = Form(None, [(self.formed(form), None)])
        return Form(None if form.const is None else self.pushed(form.const, k), [(u, self.times(q, k)) for u, q in form.terms])

    def pushed(self, value, k):
        """A constant part times k, with a k that never changes pushed into the weights that it is made of."""
        if not isinstance(value, Value) or not self.fixed(k) or self.uses.get(value, 1) > 1:
            return self.times(value, k)
        call = self.maker.get(value)
        if call is not None and call.op in (add, subtract) and all(isinstance(a, Value) and a.shape[-1:] == value.shape[-1:] for a in call.args):
            return self.emit(call.op, *(self.pushed(a, k) for a in call.args), shape=value.shape)
        if call is not None and call.op is matmul and self.takes(call.args[1], value, k):
            return self.emit(matmul, call.args[0], self.times(call.args[1], k), shape=value.shape)
        if call is not None and call.op is multiply and self.fixed(call.args[1]) and isinstance(
                call.args[0], Value) and call.args[0].shape == value.shape:
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

    def all_of(self, factors):
        """The product of some factors; None of none."""
        product = None
        for k in factors:
            product = self.times(product, k)
        return product
