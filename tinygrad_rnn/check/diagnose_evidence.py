"""What can be told of a derivation without breaking the right one.

Knows gradients that are no numbers or of another shape, those of another forward pass, those that ignore the targets, and
derivations that write into their arguments or answer differently each time. Refuses to search. Below it: diagnose_forward,
diagnose_tensors, diagnose_report, diagnose_graph.
"""

import numpy as np

from .. import trees
from .diagnose_answer import read
from .diagnose_forward import forwards
from .diagnose_graph import Unrolled
from .diagnose_record import array
from .diagnose_report import INDEPENDENT, MUTATES, NOT_FINITE, SHAPE, STATEFUL, UNSTEADY, Finding
from .diagnose_tensors import close, factor


def not_finite(search):
    """Gradients with NaN or infinity in them."""
    bad = [name for name in search.left if not np.isfinite(search.main.given[name]).all()]
    return [Finding(NOT_FINITE, name, None, "the gradient holds NaN or infinity where the right one is finite", 1.0) for name in bad]


def misshapen(search):
    """Gradients that have not their parameter's shape."""
    shapes = {name: (search.main.given[name].shape, search.main.right[name].shape) for name in search.left}
    return [Finding(SHAPE, name, None, f"the gradient has the shape {a}, the parameter {b}", 1.0) for name, (a, b) in shapes.items() if a != b]


def of_another_forward(search):
    """The gradients of another forward pass: something else stands in the place of a weight, or the loss broadcasts."""
    point = search.main
    if search.case.same_loss and point.value is not None or not search.left:
        return []
    for kind, what, replaced in forwards(point.graph, broadcast_only=point.value is None):
        try:
            value, grads = point.graph.forward(replaced)
        except Exception:
            continue
        ratios = [_ratio_of(point.given[name], grads[name]) for name in search.left]
        c = next((r for r in ratios if r is not None), 1.0)
        same_value = point.value is None or np.isclose(value * c, point.value, rtol=1e-9)
        if same_value and all(close(c * grads[name], g, point.tolerance[name] + 1e-9 * np.abs(g).max(initial=0)) for name, g in point.given.items()):
            extra = "" if abs(c - 1) < 1e-9 else f"; {factor(c, search.sizes)[0][1]}"
            return [Finding(kind, name, None, what + extra, 0.95) for name in search.left]
    if point.value is not None:
        search.case.notes.append(f"the loss by hand is {point.value:.10g}, the loss is {point.graph.loss:.10g}: by hand something else is computed")
    return []


def independent(search):
    """Gradients that stay as they are when the targets change."""
    if search.case.function is None:
        return []
    point, found, left = search.main, [], list(search.left)
    for k in _targets(point):
        d = np.asarray(point.data[k])
        others = [d + 0.5 * (1 + np.abs(d)), -2.0 * d + 0.3] if d.dtype.kind == "f" else [np.roll(d, 1), d[::-1], np.where(d > 0, d - 1, d + 1)]
        still, moved = set(left), set()
        for other in others:
            data = (*point.data[:k], other.astype(d.dtype), *point.data[k + 1:])
            try:
                _, given, _ = search.case.ask(point.params, data)
                right = Unrolled(search.case.loss, point.params, data, point.graph.wanted).backward()
            except Exception:
                continue
            still = {name for name in still if close(given[name], point.given[name], point.tolerance[name])}
            moved |= {name for name in left if not close(right[name], point.right[name], 10 * point.tolerance[name])}
        names = [name for name in left if name in still and name in moved]
        left = [name for name in left if name not in names]
        found += [Finding(INDEPENDENT, name, None, "the gradient stays as it is when the targets change: no error term is in it", 0.95) for name in names]
    return found


def _ratio_of(a, b):
    return float(np.sum(a * b) / np.sum(b * b)) if np.shape(a) == np.shape(b) and np.any(b) else None


def _targets(point):
    """The places of the data that only the loss reads: changing them changes no value inside of a scan."""
    graph = point.graph
    found = []
    for k, d in enumerate(point.data):
        d = np.asarray(d)
        if d.dtype.kind not in "fiu" or d.size == 0:
            continue
        other = d + 0.37 if d.dtype.kind == "f" else np.roll(d, 1)
        try:
            changed = Unrolled(graph.function, point.params, (*point.data[:k], other, *point.data[k + 1:]), {})
        except Exception:
            continue
        inner = [[array(c.y) for c in g.calls if c.time is not None and not isinstance(c.y, tuple)] for g in (graph, changed)]
        if inner[0] and len(inner[0]) == len(inner[1]) and all(np.array_equal(a, b) for a, b in zip(*inner)):
            found.append(k)
    return found or [len(point.data) - 1] * bool(point.data)


# ---- behaviour --------------------------------------------------------------------------------------------


def behaviour(case):
    """A derivation that writes into its arguments, or answers differently when asked again."""
    if case.function is None:
        return []
    found = []
    copies = trees.map(lambda leaf: np.array(leaf) if isinstance(leaf, np.ndarray) else leaf, (case.params, list(case.data)))
    before = _named_arrays(case, copies)
    try:
        with np.errstate(all="ignore"):
            second = read(case.function(copies[0], *copies[1]), case.params)[1]
        third = case.ask(case.params, case.data)[1]
    except Exception as error:
        found.append(Finding(UNSTEADY, "all", None, f"a further call at the same point raises {type(error).__name__}: {error}", 1.0))
        return found
    after = _named_arrays(case, copies)
    changed = [name for name in {**before, **after} if not _same(before.get(name), after.get(name))]
    if changed:
        found.append(Finding(MUTATES, changed[0], None, "the derivation changes the arrays that it is given", 1.0))
    for name, g in case.main.given.items():
        if not _same(g, third.get(name), 1e-9):
            shapes = {np.shape(answer.get(name)) for answer in (case.main.given, second, third)}
            grows = len(shapes) == 1 and np.any(second[name] != g) and _same(second[name] - g, third[name] - second[name], 1e-6)
            kind, what = (STATEFUL, "adds as much again: the sum of the call before is kept") if grows else (
                UNSTEADY, "gives another gradient: it depends on chance, or on the calls before")
            found.append(Finding(kind, name, None, f"a further call at the same point {what}", 1.0))
    return found


def _named_arrays(case, arguments):
    """Copies of the arrays in (params, data), by name."""
    params, data = arguments
    names = {i: name for name, i in case.argument_names().items()}
    rows = [*zip(trees.paths(params), trees.flatten(params)[0]),
            *((names.get(i, f"data[{i}]") + ("" if not path else f".{path}"), leaf) for i, d in enumerate(data)
              for path, leaf in zip(trees.paths(d), trees.flatten(d)[0]))]
    return {name or "params": np.array(array(leaf)) for name, leaf in rows}


def _same(a, b, rtol=0.0):
    """Whether both are there, of one shape, and equal."""
    if a is None or b is None or a.shape != b.shape:
        return False
    return bool(np.allclose(a, b, rtol=rtol, atol=0, equal_nan=True)) if a.dtype.kind in "fc" else bool(np.array_equal(a, b))
