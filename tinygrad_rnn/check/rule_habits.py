"""What a rule does beside computing: what it remembers, whose memory its results lie in, and how precisely it works.

Knows that equal values give equal bits, whenever they are asked for and wherever they lie. Refuses to know whether the
values are right. Below it: inputs, rule_call, rule_values, report.
"""

import itertools

import numpy as np

from .inputs import Case, Kind, accepts
from .inputs import layouts as placed_elsewhere
from .report import small
from .rule_call import Refused
from .rule_values import single

REPEATS = 128


def pure(rule, case):
    """Whether forward does the same in equal calls and leaves its inputs alone; else nothing can be said about its rule."""
    arrays = [x.copy() for x in case.arrays]
    first, second = np.array(rule.forward(*arrays)), rule.forward(*[x.copy() for x in case.arrays])
    if not all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(arrays, case.arrays)):
        rule.find("forward writes to its inputs", case)
    elif not np.array_equal(first, second):
        rule.find("forward gives different values in equal calls", case)
    return not rule.findings


def calls(rule, case):
    """Equal bits in many calls; nothing remembered from calls with other inputs, of the forward or of the rule."""
    other = Case("values like those given", tuple(Kind(x).like(rule.rng, x.shape) for x in case.arrays))
    y = accepts(rule.forward, other.arrays)
    g = rule.cotangent(accepts(rule.forward, case.arrays))
    try:
        first = [grad.copy() for grad in rule.call(case, g)]
        for k in range(REPEATS):
            if not _same(first, rule.call(case, g)):
                rule.find("equal calls give different gradients", case, call=k + 2)
                return
        if y is None or y.shape != g.shape:
            return
        rule.call(other, rule.cotangent(y))
        accepts(rule.forward, other.arrays)
        if not _same(first, rule.call(case, g)):
            rule.find("the rule remembers an earlier call", case, after="a call with other values")
            return
        held = [np.array(x) for x in case.arrays]
        rule.call(case, g, held)
        for x, new in zip(held, other.arrays):
            x[...] = new
        reused = [grad.copy() for grad in rule.call(other, g, held)]
        if not _close(reused, rule.call(other, g.copy())):
            rule.find("the rule remembers an earlier call", case, after="the same arrays with other values in them")
    except Refused:
        return


def memory(rule, case):
    """Whose memory the results lie in, and whether it stays theirs."""
    y = accepts(rule.forward, case.arrays)
    arrays = [np.array(x) for x in case.arrays]
    try:
        for g in (rule.cotangent(y), np.ones_like(y)):  # where g is 1, a rule may think that it need not multiply
            first = rule.call(case, g, arrays)
            copies = [grad.copy() for grad in first]
            for name, grad in zip(rule.float_names, first):
                for other, x in zip(rule.names, arrays):
                    if np.shares_memory(grad, x):
                        rule.find(f"the gradient of {name} shares memory with the input {other}", case)
            mine = [k for k, grad in enumerate(first) if not np.shares_memory(grad, g)]
            for k in mine:
                for j in mine:
                    if j < k and np.shares_memory(first[j], first[k]):
                        rule.find(f"the gradients of {rule.float_names[j]} and {rule.float_names[k]} share memory", case)
            second = rule.call(case, 2 * g)
            if not _same(copies, first):
                rule.find("a later call changes the gradients of an earlier one", case)
            elif any(np.shares_memory(a, b) for a in first for b in second):
                rule.find("gradients of two calls share memory", case)
    except Refused:
        return


def precision(rule, case):
    """Moved by less than single precision resolves, a gradient in double precision moves along in a straight line."""
    if single(case):
        return
    rng, verdicts = rule.rng, []
    for _ in range(3):
        arrays = [np.asarray(x * (1 + 0.1 * rng.uniform(0.2, 1, x.shape)) + (x == 0) * 0.1 * rng.uniform(0.2, 1, x.shape))
                  if x.dtype.kind == "f" and Kind(x).free else np.array(x) for x in case.arrays]
        y = accepts(rule.forward, arrays)
        if y is None:
            return
        g = rng.normal(size=y.shape)
        towards = [2e-7 * rng.normal(size=x.shape) * np.abs(x) if x.dtype.kind == "f" else None for x in arrays]
        h = 2e-7 * rng.normal(size=g.shape) * np.abs(g)
        ts = rng.uniform(-1, 1, 24)
        moved = lambda t: [x if d is None else x + t * d for x, d in zip(arrays, towards)]
        try:
            rows = [np.concatenate([grad.ravel() for grad in rule.call(case, g + t * h, moved(t))]) for t in ts]
        except Refused:
            return
        values = [np.asarray(rule.forward(*moved(t))).ravel() for t in ts]
        verdicts.append((_roughness(ts, np.array(rows)), _roughness(ts, np.array(values))))
    if all(rough > 1e-9 and smooth < 1e-11 for rough, smooth in verdicts):
        rule.find("the rule loses precision inside", case,
                  **{"relative noise": small(min(r for r, _ in verdicts)), "of forward": small(max(s for _, s in verdicts))})


def layouts(rule, case):
    """Equal values give equal gradients, however they lie in memory."""
    y = accepts(rule.forward, case.arrays)
    if y is None:
        return
    g, count = rule.cotangent(y), len(case.arrays)
    try:
        wanted = [grad.copy() for grad in rule.call(case, g)]
        tried = [(f"{label} of {name}", g, [other if k == i else np.array(x) for k, x in enumerate(case.arrays)], wanted)
                 for i, (name, array) in enumerate(zip(rule.names, case.arrays)) for label, other in placed_elsewhere(array)]
        tried += [(f"{label} of g", other, [np.array(x) for x in case.arrays], wanted) for label, other in placed_elsewhere(g)]
        for i, j in itertools.combinations(range(count), 2):
            if not _alike(case.arrays[i], case.arrays[j]):
                continue
            one = case.arrays[i].copy()
            arrays = [one if k in (i, j) else x.copy() for k, x in enumerate(case.arrays)]
            if accepts(rule.forward, arrays) is not None:
                label = "one object for " + " and ".join((rule.names[i], rule.names[j]))
                right = [grad.copy() for grad in rule.call(Case(label, case.arrays), g, [x.copy() for x in arrays])]
                tried.append((label, g, arrays, right))
        for label, cotangent, arrays, right in tried:
            placed = Case(label, case.arrays)
            if not _close(rule.call(placed, cotangent, arrays), right):
                rule.find("the gradient depends on how the arrays lie in memory", placed)
                return
        spread = np.broadcast_to(np.asarray(1.7, g.dtype), g.shape)
        if not _close(rule.call(case, spread), [grad.copy() for grad in rule.call(case, np.array(spread))], wanted):
            rule.find("the gradient depends on how the arrays lie in memory", Case("a broadcast view as g", case.arrays))
    except Refused:
        return


def _alike(a, b):
    return a.shape == b.shape and a.dtype == b.dtype and a.dtype.kind == "f"


def _same(a, b):
    """Equal to the last bit."""
    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(a, b))


def _close(a, b, sizes=None):
    """Equal but for the order of summation; `sizes` are arrays as large as what may cancel."""
    loose = 1e-4 if any(x.dtype.itemsize < 8 for x in a) else 1e-9
    size = [np.max(np.abs(s), initial=0.0, where=np.isfinite(s)) for s in sizes or b]
    return all(np.allclose(x, y, rtol=loose, atol=loose * s, equal_nan=True) for x, y, s in zip(a, b, size))


def _roughness(ts, rows):
    """How far the rows lie from a straight line in t, relative to their size; in the middle of all entries that are not 0."""
    size = np.max(np.abs(rows), axis=0)
    if not np.all(np.isfinite(size)) or not np.any(size > 0):
        return 0.0
    design = np.stack([np.ones_like(ts), ts], axis=1)
    residual = rows - design @ np.linalg.lstsq(design, rows, rcond=None)[0]
    return float(np.max(np.sqrt(np.mean(residual**2, axis=0))[size > 0] / np.maximum(size, 0.1 * size.max())[size > 0]))
