"""Equal bodies in which means and sums over the last axis have gone into weights.

Knows the values of the form α v + β Σv, with Σv the sum over the last axis, that are made of one v: sums and differences,
multiples, means and sums of such values are such values again, (α₁ I + β₁ J)(α₂ I + β₂ J) with J all ones and J J = n J. A
centred v, and the cotangent of one, are v − mean(v). What is linear on both sides of such a value takes it over:

    v = x W       α v + β Σv = x (α W + β ΣW)          the weight is changed instead of every product
    (α v + β Σv) K = v (α K + β 1 1ᵀK)                  with sums over the rows of K
    A (α v + β Σv) = r + β/α Σr,  r = α A v             after a sum over time, once

Refuses to know what is carried, and touches nothing that would be needed as it is anyway. Below it: program, ops, primitive.
"""

from . import ops
from .ops import add, matmul, multiply, subtract, transpose
from .primitive import registry
from .program import Call, Program, Value


def without_means(body, consts):
    """A Program with the results of `body` whose inputs `consts` are the same at every step."""
    return _Means(body, consts).program()


class _Law:
    """A value that is α v + β Σv, of the shape of v or, when it is `thin`, β Σv alone with one entry a row."""

    __slots__ = ("of", "a", "b", "thin")

    def __init__(self, of, a, b, thin=False):
        self.of, self.a, self.b, self.thin = of, a, b, thin


class _Means:
    """`laws`: value -> what it is of another; `fixed`: values that never change; `maker`, `users`: the calls around a value."""

    def __init__(self, body, consts):
        self.body, self.fixed, self.laws, self.maker, self.users = body, set(consts), {}, {}, {}
        for call in body.calls:
            self.maker.update(dict.fromkeys(call.outs, call))
            for v in call.inputs:
                self.users.setdefault(v, []).append(call)
            if all(a in self.fixed for a in call.inputs):
                self.fixed.update(call.outs)
            elif len(call.outs) == 1 and registry.get(call.op.name) is call.op and call.outs[0].dtype.kind == "f":
                law = self.law_of(call, call.op.name, call.outs[0])
                if law is not None:
                    self.laws[call.outs[0]] = law
        self.results = {v for v in body.outputs if isinstance(v, Value)}
        self.before, self.instead = {}, {}  # call -> calls to be made before it, and in its place

    # ---- which values are α v + β Σv ------------------------------------------------------------------------------

    def law_of(self, call, name, out):
        args = call.args
        if name in ("sum", "mean"):
            (x,), axis = args, call.statics["axis"]
            axis = axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis
            if not isinstance(axis, int) or not x.shape or axis % len(x.shape) != len(x.shape) - 1 or x.dtype != out.dtype:
                return None
            law, n = self.law(x), x.shape[-1]
            return None if law.thin else _Law(law.of, 0, (law.a + n * law.b) / (n if name == "mean" else 1), True)
        if name in ("reshape", "broadcast_to"):
            law = self.law(args[0])
            if law.thin and out.shape in ((*law.of.shape[:-1], 1), law.of.shape[:-1]) and args[0].size == out.size:
                return law
            if law.thin and name == "broadcast_to" and out.shape == law.of.shape and args[0].shape == (*law.of.shape[:-1], 1):
                return _Law(law.of, 0, law.b)
            return law if args[0].shape == out.shape and args[0] in self.laws else None
        if name == "negative":
            return self.multiple(args[0], -1)
        if name in ("multiply", "divide") and isinstance(args[0], Value) and type(args[1]) in (int, float) and args[1]:
            return self.multiple(args[0], args[1] if name == "multiply" else 1 / args[1])
        if name == "multiply" and isinstance(args[1], Value) and type(args[0]) in (int, float):
            return self.multiple(args[1], args[0])
        if name in ("add", "subtract") and all(isinstance(x, Value) and x.dtype == out.dtype and x not in self.fixed for x in args):
            x, y = (self.law(arg) for arg in args)
            sign, wide = 1 if name == "add" else -1, (*x.of.shape[:-1], 1)
            if x.of is y.of and not (x.thin and y.thin) and out.shape == x.of.shape and all(
                    not law.thin or arg.shape == wide for law, arg in zip((x, y), args)):
                return _Law(x.of, x.a + sign * y.a, x.b + sign * y.b)
        return None

    def law(self, value):
        return self.laws.get(value) or _Law(value, 1, 0)

    def multiple(self, value, k):
        law = self.law(value)
        return _Law(law.of, law.a * k, law.b * k, law.thin)

    # ---- who takes them over ----------------------------------------------------------------------------------------

    def program(self):
        families = {}
        for value, law in self.laws.items():
            families.setdefault(law.of, []).append(value)
        for of, family in families.items():
            inner = {*family, of}
            read = [v for v in inner if v in self.results or any(inner.isdisjoint(call.outs) for call in self.users.get(v, ()))]
            wide = [v for v in read if not self.law(v).thin and self.law(v).a and self.law(v).b]
            if len(read) == len(wide) == 1 and self.images(of):
                call = self.maker[wide[0]]
                self.image(of, self.laws[wide[0]], call)
                self.replace(call)
                continue
            for v in wide:
                takers = [call for call in self.users.get(v, ()) if inner.isdisjoint(call.outs)]
                if v not in self.results and all(self.takes(call, v) for call in takers):
                    for call in takers:
                        self.taken(call, v)
        if not self.instead:
            return self.body
        calls = [made for call in self.body.calls for made in (*self.before.get(call, ()), *self.instead.get(call, (call,)))]
        return Program(self.body.inputs, calls, self.body.outputs)

    def images(self, value):
        """Whether a value is a product with a weight, or a sum of such, that nobody else reads."""
        call = self.maker.get(value)
        if value in self.fixed:
            return len(value.shape) > 0
        if call is None or value in self.results:
            return False
        if call.op is matmul:
            return call.args[1] in self.fixed and len(call.args[1].shape) == 2
        return call.op in (add, subtract) and all(
            isinstance(a, Value) and a.shape[-1:] == value.shape[-1:] and a.dtype == value.dtype and self.images(a)
            and (a in self.fixed or len(self.users[a]) == 1) for a in call.args)

    def image(self, value, law, at):
        """α v + β Σv of such a value."""
        call = self.maker.get(value)
        if value in self.fixed:
            return self.shifted(value, law.a, law.b, -1, at)
        if call.op is matmul:
            return self.emit(at, matmul, call.args[0], self.shifted(call.args[1], law.a, law.b, -1, at), like=value)
        return self.emit(at, call.op, *(self.image(a, law, at) for a in call.args), like=value)

    def takes(self, call, v):
        """Whether a call is a product with v that can take over what v is."""
        if call.op is not matmul or call in self.instead or call.args[0] is call.args[1] or any(
                not isinstance(a, Value) or len(a.shape) != 2 or a.dtype != v.dtype for a in call.args):
            return False
        if call.args[0] is v:
            return call.args[1] in self.fixed
        out = call.outs[0]  # a sum over time, perhaps of the transpose
        while out not in self.results and len(self.users.get(out, ())) == 1 and self.users[out][0].op is transpose:
            (out,) = self.users[out][0].outs
        return out in self.results and not self.users.get(out)

    def taken(self, call, v):
        law, (out,) = self.laws[v], call.outs
        if call.args[0] is v:
            self.emit(call, matmul, law.of, self.shifted(call.args[1], law.a, law.b, 0, call), like=out)
        else:
            self.shifted(self.emit(call, matmul, call.args[0], law.of, like=out), law.a, law.b, -1, call)
        self.replace(call)

    # ---- calls ----------------------------------------------------------------------------------------------------

    def emit(self, at, op, *args, like, shape=None, statics=None):
        """A new call before `at`."""
        out = Value(like.shape if shape is None else shape, like.dtype)
        self.before.setdefault(at, []).append(Call(op, args, statics or {}, (out,)))
        return out

    def replace(self, call):
        """Have the last call made before `call` give its result."""
        last = self.before[call].pop()
        self.instead[call] = (Call(last.op, last.args, last.statics, call.outs),)

    def shifted(self, m, a, b, axis, at):
        """α m + β Σm with the sum over an axis; of a transpose, the transpose of that."""
        call = self.maker.get(m)
        if call is not None and call.op is transpose and len(m.shape) == 2 and call.statics["axes"] in (None, (1, 0)):
            inner = self.shifted(call.args[0], a, b, -1 - axis, at)
            return self.emit(at, transpose, inner, like=m, statics=call.statics)
        axis, n = axis % len(m.shape), m.shape[axis]
        thin = (*m.shape[:axis], 1, *m.shape[axis + 1:])
        scaled = m if a == 1 else self.emit(at, multiply, m, a, like=m)
        if abs(a + n * b) < 1e-12 * abs(a):
            part = self.emit(at, ops.mean, scaled, like=m, shape=thin, statics=dict(axis=axis, keepdims=True))
            return self.emit(at, subtract, scaled, part, like=m)
        part = self.emit(at, ops.sum, m, like=m, shape=thin, statics=dict(axis=axis, keepdims=True))
        return self.emit(at, add, scaled, self.emit(at, multiply, part, b, like=part), like=m)
