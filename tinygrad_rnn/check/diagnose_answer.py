"""What a hand derivation hands over: a loss and gradients by name, as arrays.

Knows the forms that people return (a pair, gradients alone, a tree like the parameters, lists in place of arrays) and what is no
gradient at all. Refuses to judge a gradient. Below it: diagnose_record, trees.
"""

import numpy as np

from .. import trees
from ..errors import ArgumentError, message
from .diagnose_record import array


def read(result, params):
    """(loss or None, {name: array}, {name: what it is, if it is no array of numbers})."""
    value, grads = result if isinstance(result, tuple) and len(result) == 2 else (None, result)
    if not isinstance(grads, dict) and not hasattr(grads, "tree_children"):
        rows = trees.flatten_like(grads, trees.flatten(params)[1])
        if rows is None:
            raise ArgumentError(message("by_hand(params, *data)", "the gradients are not a dict, nor a tree like params",
                                        {"returned": type(grads).__name__}, "Return (loss, {name: gradient})."))
        grads = trees.unflatten(trees.flatten(params)[1], rows)
    grads = _as_leaves(grads, params)
    names = trees.paths(grads) if trees.flatten(grads)[1].kind is not trees.LEAF else ["params"]
    found, bad = {}, {}
    for name, g in zip(names, trees.flatten(grads)[0]):
        g = array(g.value if isinstance(g, _Whole) else g)
        if g.dtype.kind in "iu" or g.dtype.kind == "c" and not np.any(np.imag(g)):
            g = np.real(g).astype(float)
        if g.dtype.kind == "f":
            found[name] = np.array(g)
        else:
            bad[name] = "complex numbers" if g.dtype.kind == "c" else f"an array of {g.dtype}"
    return _number(value), found, bad


class _Whole:
    """A list that stands where an array belongs: one leaf."""

    def __init__(self, value):
        try:
            self.value = np.asarray(value)
        except ValueError:
            self.value = np.asarray(None)


def _as_leaves(grads, params):
    """The gradients with lists of numbers as leaves, wherever the parameter is an array."""
    if isinstance(grads, dict) and isinstance(params, dict):
        return {key: _as_leaves(g, params[key]) if key in params else g for key, g in grads.items()}
    if isinstance(grads, (list, tuple)) and trees.flatten(params)[1].kind is trees.LEAF:
        return _Whole(grads)
    return grads


def _number(value):
    """The loss as a number, None when it is none."""
    value = None if value is None else array(value)
    return float(value.reshape(-1)[0]) if value is not None and value.size == 1 and value.dtype.kind in "fiu" else None
