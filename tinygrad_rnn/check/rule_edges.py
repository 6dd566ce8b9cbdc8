"""The edges of a rule: nan and infinite numbers, single precision, shapes that broadcast, and what only strict mode asks.

Knows for each edge how much of it a right rule must take. Refuses to be stricter by default than a right rule can bear.
Below it: inputs, rule_call, rule_values.
"""

import numpy as np

from .inputs import Case, Kind, accepts, another_axis, broadcast, other_sizes
from .rule_call import Refused
from .rule_values import examine, single


def nan_cotangents(rule, case):
    """A gradient that is linear in g passes on a nan, and is not finite where g is infinite."""
    y = accepts(rule.forward, case.arrays)
    for k in rule.rng.choice(y.size, min(3, y.size), replace=False):
        one = np.zeros(y.shape, y.dtype)
        one.flat[k] = 1
        try:
            reached = [np.abs(grad) > 1e-6 * np.max(np.abs(grad), initial=0.0) for grad in rule.call(case, one)]
            for label, bad in (("a nan in g", np.nan), ("an infinite g", np.inf)):
                g = rule.cotangent(y)
                g.flat[k] = bad
                placed = Case(label, case.arrays, False)
                for name, grad, hit in zip(rule.float_names, rule.call(placed, g), reached):
                    if np.any(np.isfinite(grad[hit])):
                        rule.find(f"the gradient of {name} is not linear in g", placed, cotangent=str(bad), gradient=str(grad[hit][np.isfinite(grad[hit])][0]))
                        return
        except Refused:
            return


def sizes(rule, inputs):
    """Other sizes. Where the longer of two arrays became the shorter, even another shape may be excused (a convolution
    exchanges its arguments there), but not where it comes of a size of 1 alone."""
    misfits = []
    for case in other_sizes(rule.forward, inputs, rule.rng):
        known = len(rule.findings)
        examine(rule, case)
        if case.turned:
            misfits += [finding for finding in rule.findings[known:] if finding.what.endswith("the wrong shape")]
    if any(not finding.case.startswith("size 1 ") for finding in misfits):
        rule.findings = [finding for finding in rule.findings if finding not in misfits]
        rule.notes += [f"{finding.what} on {finding.case.split(' (')[0]}" for finding in misfits]


def infinite_inputs(rule, case):
    """A nan beside a finite value of an infinite input is worth a remark: the product of 0 and inf in a right rule."""
    for i in rule.floats:
        if not (case.arrays[i].size and Kind(case.arrays[i]).free):
            continue
        for bad in (np.inf, -np.inf):
            arrays = [x.copy() for x in case.arrays]
            arrays[i].flat[rule.rng.integers(arrays[i].size)] = bad
            y = accepts(rule.forward, arrays)
            if y is None:
                continue
            try:
                grads = rule.call(Case(f"{rule.names[i]} with {bad}", tuple(arrays), False), rule.cotangent(y))
            except Refused:
                continue
            if any(np.any(np.isnan(grad)) for grad in grads):
                rule.notes.append(f"for an infinite entry of {rule.names[i]} forward is finite, and a gradient is nan")


def single_precision(rule, case):
    """The values in single precision, if that is not what was given; its dtype is a matter of strict mode."""
    down = Case("single precision", tuple(x.astype(np.float32) if x.dtype == np.float64 else x for x in case.arrays), False)
    y = accepts(rule.forward, down.arrays)
    if single(case) or y is None or y.dtype != np.float32:
        return
    _kept(rule, down, lambda what: rule.strict or not what.endswith("the wrong dtype"))


def broadcasting(rule, case):
    """Shapes that broadcast where the given ones do not: a rule need not take them, but what it returns must be right.

    In strict mode, one that sums an input's gradient for some shapes does so for all."""
    for i in rule.floats:
        sums, refused = False, []
        for other in broadcast(rule.forward, case.arrays, i):
            known = len(rule.findings)
            examine(rule, other)
            found = rule.findings[known:]
            rule.findings[known:] = [finding for finding in found if finding.what.endswith("is wrong")]
            misfits = [finding for finding in found if finding.what == f"the gradient of {rule.names[i]} has the wrong shape"]
            refused += misfits[:1]
            sums = sums or not found
        if rule.strict and sums:
            rule.findings += refused[:1]


def strictly(rule, case):
    """Read-only inputs, another number of axes, negative indices."""
    y = accepts(rule.forward, case.arrays)
    if y is None:
        return
    locked = [x.copy() for x in case.arrays]
    for x in locked:
        x.flags.writeable = False
    try:
        rule.call(Case("read-only inputs", case.arrays), rule.cotangent(y), locked)
    except Refused:
        pass
    stacked = another_axis(case.arrays, rule.rng)
    if stacked is not None and np.shape(accepts(rule.forward, stacked)) in ((len(stacked[0]), *y.shape), ()):
        _kept(rule, Case("one more axis", stacked, False), lambda what: what.endswith("is wrong"))
    if any(Kind(x).special == "indices" for x in case.arrays):
        examine(rule, Case("negative indices", tuple(x - int(x.max()) - 1 if x.dtype.kind == "i" and x.size else x for x in case.arrays)))


def _kept(rule, case, counts):
    """Examine a case of which only some findings count: a rule need not take it, but if it does, it must be right."""
    known = len(rule.findings)
    examine(rule, case)
    once = {finding.what: finding for finding in reversed(rule.findings[known:]) if counts(finding.what)}
    rule.findings[known:] = list(once.values())
