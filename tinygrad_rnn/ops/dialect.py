"""Where a NumPy function, called on a Tensor, means something else than the op of its name, or takes other words.

Knows NumPy's signatures: `np.cumsum(t)` flattens, `np.linalg.norm(t, 1)` is another norm. Refuses to guess: what has
no counterpart here is an error. Below it: the families of ops.
"""

import numpy as np

from ..errors import LostGradientError, message
from ..primitive import composite
from .linear import diagonal, einsum, trace
from .reduction import cumsum, norm
from .selection import clip
from .shape import moveaxis, ravel, reshape, roll


@composite(numpy=np.cumsum)
def _cumsum(a, axis=None):
    return cumsum(ravel(a), axis=0) if axis is None else cumsum(a, axis=axis)


@composite(numpy=np.roll)
def _roll(a, shift, axis=None):
    return reshape(roll(ravel(a), shift, axis=0), a.shape) if axis is None else roll(a, shift, axis=axis)


@composite(numpy=np.diagonal)
def _diagonal(a, offset=0, axis1=0, axis2=1):
    return diagonal(moveaxis(a, (axis1, axis2), (-2, -1)), offset=offset)


@composite(numpy=np.trace)
def _trace(a, offset=0, axis1=0, axis2=1):
    return trace(moveaxis(a, (axis1, axis2), (-2, -1)), offset)


@composite(numpy=np.clip)
def _clip(a, a_min=None, a_max=None, *, min=None, max=None):
    return clip(a, min=a_min if min is None else min, max=a_max if max is None else max)


@composite(numpy=np.einsum)
def _einsum(subscripts, *operands, optimize=False):
    return einsum(subscripts, *operands)  # `optimize` is about speed alone


@composite(numpy=np.linalg.norm)
def _norm(x, ord=None, axis=None, keepdims=False):
    if not (ord is None or ord == 2 and len(x.shape if axis is None else np.atleast_1d(axis)) == 1 or ord == "fro"):
        raise LostGradientError(message("np.linalg.norm(tensor, ord)", "only the Euclidean norm has a derivative rule here", {"ord": ord},
                                        "Write another one with abs, max, sum and power."))
    return norm(x, axis=axis, keepdims=keepdims)
