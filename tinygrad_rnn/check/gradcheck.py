"""gradcheck: is every gradient of a function right, wrong, or can this check not tell?

Knows which orders are asked for, what may be asked at all, and how the orders follow from each other. Refuses to know what
the bug is (`diagnose` does), and how a gradient is compared. Below it: level, subject, verdicts.
"""

import numpy as np

from ..errors import ArgumentError, DomainError, DtypeError, message
from .level import Level
from .subject import Subject, watch
from .verdicts import GradientReport


def gradcheck(f, inputs, *, order=2, gradient=None, tolerance=None, entries=200, directions=4, float32=False, strict=False,
              seed=0, power=False):
    """Check the gradients of `f(*inputs)` against differences and the complex step, at orders 1 to `order`.

    Shapes: `inputs` is a tuple of trees, one per argument; leaves that are not floating point are constants. f returns a
    tree of arrays; one that is not a single number is checked through ⟨v, f⟩ for a random v.

    `order`       1, 2 or 3. Order n compares the gradient of ⟨u, ∇⟩ of order n − 1, u random.
    `gradient`    your own gradients in place of the engine's: a function of the inputs that returns one tree per input
                  (or one tree, for one input) for a scalar f. Then the order is 1.
    `tolerance`   relative; 1e-10 with the complex step, 1e-7 with differences, 1e-4 in single precision. What rounding
                  may explain is added to it.
    `entries`     how many entries are checked one by one; beyond it `directions` random directions per gradient are, with
                  the largest entries, and at higher orders two directions; single entries follow where one fails.
    `float32`     single precision is refused unless this is set: the reference is then computed in double precision.
    `strict`      make the report false also where a gradient cannot be told, as in a check that is vacuous.
    `power`       append which mistakes would pass unnoticed at this point (f's first input must be its parameters).

    Raises: DtypeError for single precision inputs, or when no input is floating point; DomainError for another order;
    ArgumentError when f or gradient is no function, f returns nothing to differentiate, or the gradients are not numbers in
    trees like the inputs. What f raises at the inputs themselves is not caught; beside them it makes a gradient `cannot tell`.

    Source: the order n check of the gradient is that of HIPS/autograd; the three verdicts are ours.

    Example:
        >>> report = tg.check.gradcheck(lambda w, x: tg.sum(tg.tanh(x @ w)), (np.eye(2), np.ones((3, 2))))
        >>> report.ok, report.verdict
        (True, 'right')
    """
    who = f"gradcheck({_name(f)})"
    inputs = inputs if type(inputs) is tuple else (inputs,)
    for name, function in (("f", f), ("gradient", gradient)):
        if not callable(function) and not (name == "gradient" and function is None):
            raise ArgumentError(message(who, f"{name} is no function", {name: type(function).__name__}, "Pass a function of the inputs."))
    if order not in (1, 2, 3) or not isinstance(order, int):
        raise DomainError(message(who, "there is no check of this order", {"order": order}, "Pass 1, 2 or 3."))
    subject = Subject(f, inputs, gradient, who)
    single = [name for name, x in zip(subject.names, subject.point) if x.dtype.itemsize < 8]
    if single and not float32:
        facts = {name: x.dtype for name, x in zip(subject.names, subject.point) if name in single}
        raise DtypeError(message(who, "differences in single precision see hardly more than three digits", facts,
                                 "Pass float64 inputs, or float32=True to check against a reference in double precision."))
    rng = np.random.default_rng(seed)
    subject.weigh(rng)
    problems = []
    method, rows, adjoint = "", [], "not run"
    level = subject
    for n in range(1, 1 + (order if gradient is None else 1)):
        level = level if n == 1 else level.next(rng)
        faults, watcher = watch(level)
        problems += faults
        if faults:
            break
        loose = max([4 * np.finfo(x.dtype).eps for x in subject.point if x.dtype != np.float64], default=0.0) * 200
        check = Level(level, n, rng, loose if tolerance is None else max(tolerance, loose), tolerance, watcher)
        check.prepare()
        problems += check.problems
        if n == 1:
            method, adjoint = check.method, check.adjoint
        rows += [check.row(i, entries if n == 1 else 0, directions if n == 1 else 2) for i in range(len(level.point))]
    first = [row for row in rows if row.order == 1]
    vacuous = bool(first) and all(row.yours == 0 and row.reason == "the function does not depend on it" for row in first)
    from_power = None
    if power:
        from .power import power as blind_spots
        from_power = blind_spots(f, inputs[0], inputs[1:])
    return GradientReport(who, tuple(rows), tuple(dict.fromkeys(problems)), method, adjoint, seed, strict, vacuous, from_power)


def _name(f):
    name = getattr(f, "__name__", type(f).__name__)
    return "f" if name == "<lambda>" else name
