"""check_op: the battery that every op of the library passes, for an op of yours.

Knows what an op promises by its declaration (reference, domain, out=, view, analytic, elementwise, broadcasts, kinks,
faults, over_time) and holds it to each. Refuses to know which ops there are.
Below it: op_values, gradcheck, rule, primitive.
"""

import warnings

import numpy as np

from ..errors import ArgumentError, DomainError, message
from ..primitive import Primitive
from .gradcheck import gradcheck
from .op_values import kept, out, over_time, single, tensors, value
from .report import Finding, Report, said
from .rule import check_rule

SHAPES = ((3, 4), (), (1,), (5,), (2, 1, 3))
PAIRS = (((3, 4), (3, 4)), ((3, 4), (4,)), ((3, 1), (1, 4)), ((), (2, 3)), ((2, 3), ()))


def check_op(op, *, seed=0, order=2):
    """Check an op made with `@primitive` against everything that its declaration promises.

    On every sample: the value against `reference` (or the NumPy function of its name), with out= and without, from any
    memory layout, in single precision, with Tensors; inputs untouched; results in memory of their own unless `view`; the
    rules at orders 1 to `order` (`gradcheck`) and one by one as plain functions (`check_rule`); the complex step where
    `analytic`; each subset of the inputs stacked over time against a stack of calls; bad inputs against their `faults`.

    Raises: ArgumentError for something that is no op; DomainError for another order.

    Example:
        >>> @tg.primitive(domain=tg.domains.REALS, elementwise=True, analytic=True, reference=lambda x: x * x * x)
        ... def cube(x, /, *, out=None):
        ...     "x³ of every element."
        ...     return np.power(x, 3, out=out)
        >>> _ = cube.vjp(x=lambda g, x: g * 3 * x * x)
        >>> tg.check.check_op(cube).ok
        True
    """
    if not isinstance(op, Primitive):
        raise ArgumentError(message("check_op(op)", "this is no op", {"type": type(op).__name__},
                                    "Pass what @primitive returns; a function made of ops can be checked with gradcheck."))
    if order not in (1, 2, 3):
        raise DomainError(message(f"check_op({op.name})", "there is no check of this order", {"order": order}, "Pass 1, 2 or 3."))
    battery = _Battery(op, np.random.default_rng(seed), order)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        battery.run()
    return Report(f"check_op({op.name})", tuple(battery.findings), battery.checked, tuple(dict.fromkeys(battery.notes)),
                  f"Fix the declaration of {op.name} and run the check again, seed={seed}.")


def samples(op, rng):
    """What an op is tried on: its own samples, or arrays from its domain in shapes that elementwise ops take."""
    if op.sample is not None:
        return [(tuple(np.asarray(a) for a in arrays), dict(statics)) for arrays, statics in op.sample(rng)]
    count = len(op.arrays) or 2
    domains = op.domain if isinstance(op.domain, tuple) else (op.domain,) * count
    if count == 1:
        return [((np.asarray(domains[0].sample(rng, shape)),), {}) for shape in (SHAPES if op.elementwise else SHAPES[:1])]
    shapes = [(*pair, *[(3, 4)] * (count - 2)) for pair in (PAIRS if op.broadcasts else PAIRS[:1])]
    return [(tuple(np.asarray(d.sample(rng, s)) for d, s in zip(domains, row)), {}) for row in shapes]


class _Battery:
    """The checks on one op; findings gather here."""

    def __init__(self, op, rng, order):
        self.op, self.rng, self.order = op, rng, order
        self.findings, self.notes, self.checked = [], [], 0

    def find(self, what, arrays, statics, **facts):
        shapes = ", ".join(str(np.shape(a)) for a in arrays)
        stated = "".join(f", {k}={v}" for k, v in statics.items())
        self.findings.append(Finding(what, f"{self.op.name}({shapes}{stated})", facts))

    def run(self):
        op = self.op
        if not repr(op).startswith(f"{op.name}(") or " keeps " not in repr(op):
            self.find("its repr does not say what it keeps", (), {}, repr=repr(op))
        try:
            cases = samples(op, self.rng)
        except Exception as error:  # a sample may fail in any way
            self.find(f"its sample raises {type(error).__name__}", (), {}, error=said(error))
            return
        if not cases:
            self.find("its sample gives nothing to try it on", (), {})
        for arrays, statics in cases:
            try:
                y = op(*[a.copy() for a in arrays], **statics)
            except Exception as error:  # an op may fail in any way
                self.find(f"it raises {type(error).__name__} on a sample", arrays, statics, error=said(error))
                continue
            if not all(isinstance(part, (np.ndarray, np.generic)) for part in (y if isinstance(y, tuple) else (y,))):
                self.find("it returns something else than arrays", arrays, statics, type=type(y).__name__)
                continue
            for part in (value, out, kept, tensors, single, over_time):
                self.checked += 1
                part(self, arrays, statics, y)
            self.gradients(arrays, statics)
        if not self.findings:
            self.rules(*next(((a, s) for a, s in cases if max((x.ndim for x in a), default=0) > 0), cases[0]))
        for arrays, statics, part in op.faults:
            self.fault(arrays, statics, part)

    # ---- derivatives ----------------------------------------------------------------------------------------

    def differentiable(self, arrays):
        """The positions of the floating point inputs that have a rule."""
        names = [*self.op.arrays, *[self.op.variadic] * (len(arrays) - len(self.op.arrays))]
        return [i for i, (name, a) in enumerate(zip(names, arrays)) if a.dtype.kind == "f" and self.op.rules.get(name, self) is not None]

    def gradients(self, arrays, statics):
        """gradcheck at every order, in double and in single precision; the complex step where the op says it is analytic."""
        wanted = self.differentiable(arrays)
        if not wanted:
            return

        def f(*floats):
            full = list(arrays)
            for i, x in zip(wanted, floats):
                full[i] = x
            return self.op(*full, **statics)

        f.__name__ = self.op.name
        seed, inputs = int(self.rng.integers(2**31)), tuple(arrays[i] for i in wanted)
        try:
            reports = [gradcheck(f, inputs, order=self.order, seed=seed)]
            if statics.get("dtype") is None:
                reports.append(gradcheck(f, tuple(x.astype(np.float32) for x in inputs), order=1, float32=True, seed=seed))
        except Exception as error:
            self.find(f"differentiating it raises {type(error).__name__}", arrays, statics, error=said(error))
            return
        for report, precision in zip(reports, ("", " in single precision")):
            self.checked += sum(row.entries for row in report.rows)
            for problem in report.problems:
                self.find(problem + precision, arrays, statics)
            for row in report.rows:
                if row.verdict == "wrong":
                    name = [*self.op.arrays, *[self.op.variadic] * len(arrays)][wanted[report.rows.index(row) % len(wanted)]]
                    self.find(f"the rule of {name} is wrong at order {row.order}{precision}", arrays, statics,
                              yours=row.yours, numerical=row.numerical, at=row.index)
        if self.op.analytic and reports[0].rows and not reports[0].method.startswith("complex step"):
            self.find("it is declared analytic, but the complex step does not see through it", arrays, statics, method=reports[0].method)

    def rules(self, arrays, statics):
        """The rules as plain functions, before the engine tidies up after them."""
        op, wanted = self.op, self.differentiable(arrays)
        if not wanted:
            return
        mask = sum(1 << i for i in wanted)
        bound = op.bind(arrays, statics)[1]
        if isinstance(op(*arrays, **statics), tuple):
            return  # several outputs: gradcheck has seen them

        def full(floats):
            every = list(arrays)
            for i, x in zip(wanted, floats):
                every[i] = x
            return every

        def forward(*floats):
            return op.forward(*full(floats), **bound)

        def vjp(g, *floats):
            every, plan = full(floats), op.plan(mask, len(arrays))
            pulled = plan.pull(g, plan.save(every, np.asarray(forward(*floats)), bound), None)
            by_place = dict(zip(plan.targets, pulled))
            return [_summed(np.asarray(by_place[k]), x.shape) for k, x in enumerate(floats)]

        report = check_rule(forward, vjp, tuple(arrays[i] for i in wanted), seed=int(self.rng.integers(2**31)))
        self.checked += report.checked
        for finding in report.findings:
            self.find(finding.what, arrays, statics, on=finding.case, **finding.facts)
        floats = [arrays[i].astype(np.float32) for i in wanted]
        y = np.asarray(forward(*floats))
        if y.dtype == np.float32:
            for i, result in zip(wanted, vjp(np.ones_like(y), *floats)):
                if result.dtype != np.float32:
                    self.find("a rule turns float32 into float64", arrays, statics, input=i, gradient=result.dtype)

    # ---- what goes wrong ------------------------------------------------------------------------------------

    def fault(self, arrays, statics, part):
        """A declared bad input is refused, by name, in the words that were declared."""
        self.checked += 1
        try:
            self.op(*arrays, **statics)
        except (ValueError, TypeError, IndexError) as error:
            text = str(error)
            if part not in text or not text.startswith(f"{self.op.name}("):
                self.find("a fault has another message than declared", arrays, statics, message=text.splitlines()[0], declared=part)
        else:
            self.find("a declared fault goes through", arrays, statics, declared=part)


def _summed(g, shape):
    """What the engine does with a cotangent along repeated axes."""
    if g.shape == shape or g.ndim < len(shape):
        return g
    extra = g.ndim - len(shape)
    axes = (*range(extra), *(i + extra for i, n in enumerate(shape) if n == 1 and g.shape[i + extra] != 1))
    return g.sum(axis=axes, keepdims=True).reshape(shape) if np.broadcast_shapes(g.shape, shape) == g.shape else g
