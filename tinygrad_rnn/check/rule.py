"""check_rule: is a vector-Jacobian product of plain NumPy functions right, everywhere its forward works?

Knows which trials a rule goes through, and in what order: the inputs as given, then what it does beside computing
(rule_habits), other values, sizes and memory layouts of the same kind, and the edges (rule_edges). Refuses to know any
engine. Below it: inputs, rule_call, rule_values, rule_habits, rule_edges, report.
"""

import random
import warnings

import numpy as np

from ..errors import ArgumentError, DtypeError, message
from .inputs import Case, Kind, other_values
from .report import Report, said
from .rule_call import Rule
from .rule_edges import broadcasting, infinite_inputs, nan_cotangents, single_precision, sizes, strictly
from .rule_habits import calls, layouts, memory, precision, pure
from .rule_values import examine


def check_rule(forward, vjp, inputs, *, strict=False, seed=0):
    """Check `vjp(g, *arrays) -> (gradient of each array)` as the derivative rule of `forward(*arrays) -> array`.

    Shapes: `inputs` is a tuple of arrays, the ones you would try first. Integer and boolean arrays are constants: their
    gradients may be None, or left out. The rest it makes by itself: other values (negative, large, small, integers,
    zeros, ties), repeated indices, other sizes where the forward takes them (1, 0 and 0-d among them), other memory
    layouts. What forward refuses, or answers with nan or inf, is left out.

    It looks at: every entry against central differences with a bound on their error, in double and in single precision;
    shape, dtype and type of every gradient; finite results; vjp(0) = 0 and linearity in g, to which belongs that a nan or
    an infinite cotangent is passed on; equal bits in 128 calls; inputs, g and global state (NumPy's, Python's random)
    left alone; memory shared between results, with inputs, or with a later call's results; what a rule remembers from
    earlier calls; precision lost inside. Shapes that broadcast although the given ones do not must not give a wrong value;
    a rule need not take them. `strict` adds what a right rule may be excused for: crashes on empty arrays and special
    values, nan at a kink or at the edge of forward's domain, read-only inputs, negative indices, other numbers of axes,
    broadcasting that works for some shapes only, float32 that becomes float64.

    Raises: DtypeError when no input is floating point, or one is in half precision; ArgumentError when forward or vjp
    cannot be called, and when forward does not return one array of finite floats for the inputs.

    Example:
        >>> rule = lambda g, a, b: (g * b, g * a)
        >>> tg.check.check_rule(lambda a, b: a * b, rule, (np.ones(3), np.arange(3.0))).ok
        True
        >>> print(tg.check.check_rule(np.sin, lambda g, x: (g * np.sin(x),), (np.ones(3),)).findings[0].what)
        the gradient of x is wrong
    """
    for name, function in (("forward", forward), ("vjp", vjp)):
        if not callable(function):
            raise ArgumentError(message("check_rule(forward, vjp, inputs)", f"{name} is no function", {name: type(function).__name__},
                                        "Pass two functions, forward(*arrays) and vjp(g, *arrays), and a tuple of arrays."))
    inputs = tuple(np.array(x) for x in (inputs if isinstance(inputs, (tuple, list)) else (inputs,)))
    rule = Rule(forward, vjp, inputs, strict, np.random.default_rng(seed))
    who = f"check_rule({rule.name})"
    if not rule.floats:
        raise DtypeError(message(who, "no input is floating point", {n: x.dtype for n, x in zip(rule.names, inputs)}, "Pass float arrays."))
    if any(inputs[i].dtype.itemsize < 4 for i in rule.floats):
        raise DtypeError(message(who, "half precision has too few digits to tell", {n: x.dtype for n, x in zip(rule.names, inputs)},
                                 "Pass float32 or float64 arrays."))
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        refusal = _refusal(forward, inputs)
        if refusal:
            raise ArgumentError(message(who, "forward does not give one array of finite floats for the inputs",
                                        {n: x.shape for n, x in zip(rule.names, inputs)} | refusal, "Pass inputs on which forward(*inputs) works."))
        state, python, printing = np.random.get_state(), random.getstate(), np.get_printoptions()
        np.random.seed(rule.rng.integers(2**31))  # so that a rule that seeds NumPy itself cannot hide
        try:
            _run(rule, inputs)
        finally:
            np.random.set_state(state)
            random.setstate(python)
            np.set_printoptions(**printing)
    return Report(who, tuple(rule.findings), rule.checked, tuple(dict.fromkeys(rule.notes)), f"Fix the rule and run the check again, seed={seed}.")


def _run(rule, inputs):
    """Everything, from the plainest to the strangest; enough findings end it."""
    given = Case("the inputs as given", inputs)
    like = Case("values like those given", tuple(Kind(x).like(rule.rng, x.shape) for x in inputs))
    if not pure(rule, given):
        return
    examine(rule, given)
    for part in (calls, memory, precision, nan_cotangents):
        part(rule, given)
    for case in other_values(inputs, rule.rng):
        examine(rule, case)
    sizes(rule, inputs)
    for part in (layouts, single_precision, broadcasting, infinite_inputs, *((strictly,) if rule.strict else ())):
        if not rule.enough:
            part(rule, like)


def _refusal(forward, inputs):
    """What forward says, or gives, instead of one array of finite floats; nothing if it does."""
    try:
        y = forward(*[x.copy() for x in inputs])
        if isinstance(y, tuple):
            return {"it returns": f"a tuple of {len(y)}"}
        y = np.asarray(y)
    except Exception as error:  # how somebody's function refuses an input is its own affair
        return {"it raises": f"{type(error).__name__}: {said(error)}"}
    if y.dtype.kind == "f" and np.all(np.isfinite(y)):
        return {}
    return {"it returns": f"{y.dtype} {y.shape}" + (" with nan or inf" if y.dtype.kind == "f" else "")}
