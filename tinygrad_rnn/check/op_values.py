"""The values of an op held to its declaration: reference, out=, views, Tensors, single precision, stacks over time.

Knows each promise of a declaration that is about values. Refuses to know derivatives. Below it: inputs, report, tensor.
"""

import itertools

import numpy as np

from ..tensor import Tensor
from .inputs import layouts
from .report import said, small


def value(trial, arrays, statics, y):
    """The value is that of the reference, of the shape that NumPy would give it."""
    reference = trial.op.reference or (trial.op.numpy if callable(trial.op.numpy) else None)
    if reference is None:
        trial.notes.append("it has no reference: its value was not compared")
        return
    try:
        wanted = reference(*[a.copy() for a in arrays], **trial.op.bind(arrays, statics)[1])
    except Exception as error:
        trial.find(f"its reference raises {type(error).__name__}", arrays, statics, error=said(error))
        return
    if not _equal(y, wanted, 1e-12):
        trial.find("its value is not that of its reference", arrays, statics, apart=small(_apart(y, wanted)))


def out(trial, arrays, statics, y):
    """With a buffer for the result: the buffer is returned, and holds the same."""
    if trial.op.takes_out and not isinstance(y, tuple):
        buffer = np.full(np.shape(y), 7, np.asarray(y).dtype)
        try:
            result = trial.op.forward(*arrays, **trial.op.bind(arrays, statics)[1], out=buffer)
        except Exception as error:
            trial.find(f"it raises {type(error).__name__} with out=", arrays, statics, error=said(error))
            return
        if result is not buffer or not _equal(buffer, y, 0):
            trial.find("out= gives something else than the plain call", arrays, statics, apart=small(_apart(buffer, y)))


def kept(trial, arrays, statics, y):
    """Inputs unchanged, results in their own memory, the same from any memory layout."""
    copies = [a.copy() for a in arrays]
    results = trial.op(*copies, **statics)
    if not all(_equal(a, b, 0) for a, b in zip(copies, arrays)):
        trial.find("it writes to its inputs", arrays, statics)
    parts = results if isinstance(results, tuple) else (results,)
    if not trial.op.view and any(np.shares_memory(p, c) for p in parts for c in copies):
        trial.find("its result shares memory with an input; declare view=True", arrays, statics)
    for i, array in enumerate(arrays):
        for label, other in layouts(array):
            if not _equal(trial.op(*[other if k == i else a for k, a in enumerate(arrays)], **statics), y, 1e-13):
                trial.find("its value depends on how the arrays lie in memory", arrays, statics, layout=label)
                return


def tensors(trial, arrays, statics, y):
    """Plain arrays give plain arrays, Tensors give Tensors of the same values."""
    if any(isinstance(p, Tensor) for p in (y if isinstance(y, tuple) else (y,))):
        trial.find("plain arrays give a Tensor", arrays, statics)
    given = trial.op(*[Tensor(a.copy()) if a.dtype.kind == "f" else a for a in arrays], **statics)
    parts = given if isinstance(given, tuple) else (given,)
    if not all(isinstance(p, Tensor) for p in parts):
        trial.find("Tensors do not give a Tensor", arrays, statics)
    elif not _equal(tuple(p._array for p in parts), y if isinstance(y, tuple) else (y,), 0):
        trial.find("Tensors give another value than arrays", arrays, statics)


def single(trial, arrays, statics, y):
    """float32 stays float32, also beside Python numbers and NumPy scalars."""
    floats = [a.astype(np.float32) if a.dtype == np.float64 else a for a in arrays]
    if statics.get("dtype") is not None:
        return
    calls = [floats]
    if trial.op.broadcasts and len(arrays) == 2:
        calls += [[floats[0], float(floats[1].flat[0])], [floats[0], np.float64(floats[1].flat[0])], [float(floats[0].flat[0]), floats[1]]]
    for call in calls:
        result = trial.op(*[Tensor(a) if isinstance(a, np.ndarray) and a.dtype == np.float32 else a for a in call], **statics)
        for p, one in zip(result if isinstance(result, tuple) else (result,), y if isinstance(y, tuple) else (y,)):
            if np.asarray(one).dtype == np.float64 and p.dtype != np.float32:
                trial.find("float32 does not stay float32", arrays, statics, result=p.dtype)
                return
    if not _equal(trial.op(*floats, **statics), y, 1e-4):
        trial.find("its value in single precision is another one", arrays, statics, apart=small(_apart(trial.op(*floats, **statics), y)))


def over_time(trial, arrays, statics, y):
    """Lifted = stacked, whichever of the inputs carry a time axis."""
    op, T = trial.op, 3
    if op.over_time is None and not op.elementwise:
        return
    rows = [np.stack([_moved(a, trial.rng) for _ in range(T)]) for a in arrays]
    for stacked in itertools.product((True, False), repeat=len(arrays)):
        if not any(stacked):
            continue
        wanted = [op(*[row[t] if has else a for row, a, has in zip(rows, arrays, stacked)], **statics) for t in range(T)]
        wanted = tuple(np.stack(column) for column in zip(*wanted)) if isinstance(y, tuple) else np.stack(wanted)
        given = [row if has else a for row, a, has in zip(rows, arrays, stacked)]
        try:
            if op.over_time is not None:
                lifted = op.over_time(T, stacked, *given, **op.bind(arrays, statics)[1])
            else:
                rank = max(a.ndim for a in arrays)
                lifted = op(*[g.reshape((T, *(1,) * (rank - a.ndim), *a.shape)) if has else g for g, a, has in zip(given, arrays, stacked)], **statics)
        except Exception as error:
            trial.find(f"it raises {type(error).__name__} over time", arrays, statics, stacked=stacked, error=said(error))
            return
        if lifted is not None and not _equal(lifted, wanted, 1e-12):
            trial.find("over time it differs from a stack of calls", arrays, statics, stacked=stacked, apart=small(_apart(lifted, wanted)))
            return


def _moved(a, rng):
    """An array like a, moved a little; not across a boundary of the domain."""
    return (a * rng.uniform(0.9, 1.0, a.shape)).astype(a.dtype) if a.dtype.kind == "f" else a


def _equal(a, b, tolerance):
    if isinstance(a, tuple) or isinstance(b, tuple):
        return len(a) == len(b) and all(_equal(x, y, tolerance) for x, y in zip(a, b))
    a, b = np.asarray(a), np.asarray(b)
    size = np.max(np.abs(b), initial=0.0, where=np.isfinite(b)) if b.dtype.kind == "f" else 0.0
    return a.shape == b.shape and bool(np.allclose(a, b, rtol=tolerance, atol=tolerance * size, equal_nan=b.dtype.kind == "f"))


def _apart(a, b):
    if isinstance(a, tuple):
        return max(_apart(x, y) for x, y in zip(a, b))
    a, b = np.asarray(a, float), np.asarray(b, float)
    return float(np.max(np.abs(a - b), initial=0.0)) if a.shape == b.shape else np.inf
