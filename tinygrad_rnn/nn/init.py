"""Initialisers: arrays of random weights from an explicit generator.

Knows the distributions that layers start from. Refuses to know layers, and any global random state: one seed
gives one set of weights, bit for bit. Below it: errors.

Weights are (outputs, inputs), as in `x @ W.T`. Numbers are drawn in float64 and then rounded, so a float32 model
starts where the float64 model of the same seed does. Use them as

    layer.weight.data = tg.nn.init.orthogonal(rng, layer.weight.shape)
"""

import math

import numpy as np

from ..errors import ArgumentError, ShapeError, message

RELU_GAIN = math.sqrt(2)  # half of the inputs of a relu's successors are 0


def generator(rng):
    """The `numpy.random.Generator` that `rng` stands for: itself, one from a seed, or for None one from fresh entropy.

    Raises: ArgumentError for anything else.

    Example:
        >>> tg.nn.init.generator(0).integers(10) == np.random.default_rng(0).integers(10)
        np.True_
    """
    if rng is None or isinstance(rng, (int, np.integer)) and not isinstance(rng, bool):
        return np.random.default_rng(rng)
    if isinstance(rng, np.random.Generator):
        return rng
    raise ArgumentError(message("generator(rng)", "this is neither a generator nor a seed", {"rng": repr(rng)[:60]},
                                "Pass numpy.random.default_rng(seed), or the seed."))


def uniform(rng, shape, bound=1.0, dtype=np.float64):
    """Uniform numbers between −bound and bound. PyTorch's layers start from bound 1/√H (recurrent) or 1/√I (linear).

    Example:
        >>> tg.nn.init.uniform(0, (2, 3), 0.1).shape
        (2, 3)
    """
    return generator(rng).uniform(-bound, bound, shape).astype(dtype)


def normal(rng, shape, std=1.0, dtype=np.float64):
    """Normal numbers with mean 0.

    Example:
        >>> tg.nn.init.normal(0, (2, 3), 0.1).shape
        (2, 3)
    """
    return (std * generator(rng).standard_normal(shape)).astype(dtype)


def _fans(who, shape):
    if len(shape) < 2:
        raise ShapeError(message(who, "a weight has at least two axes, (outputs, inputs)", {"shape": shape},
                                 "Use uniform or normal for a vector."))
    rest = math.prod(shape[2:])
    return max(shape[1] * rest, 1), max(shape[0] * rest, 1)  # an empty weight needs no bound, and must not divide by 0


def glorot_uniform(rng, shape, gain=1.0, dtype=np.float64):
    """Uniform with bound gain · √(6 / (inputs + outputs)); PyTorch calls it Xavier.

    Raises: ShapeError for fewer than two axes.

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural networks" (2010).

    Example:
        >>> bool(abs(tg.nn.init.glorot_uniform(0, (3, 3))).max() <= 1.0)
        True
    """
    return uniform(rng, shape, gain * math.sqrt(6 / sum(_fans("glorot_uniform(rng, shape)", shape))), dtype)


def glorot_normal(rng, shape, gain=1.0, dtype=np.float64):
    """Normal with deviation gain · √(2 / (inputs + outputs)).

    Raises: ShapeError for fewer than two axes.

    Source: Glorot and Bengio (2010).

    Example:
        >>> tg.nn.init.glorot_normal(0, (3, 3)).shape
        (3, 3)
    """
    return normal(rng, shape, gain * math.sqrt(2 / sum(_fans("glorot_normal(rng, shape)", shape))), dtype)


def he_uniform(rng, shape, gain=RELU_GAIN, dtype=np.float64):
    """Uniform with bound gain · √(3 / inputs); the gain √2 is that of relu. PyTorch calls it Kaiming.

    Raises: ShapeError for fewer than two axes.

    Source: He et al., "Delving Deep into Rectifiers" (2015).

    Example:
        >>> tg.nn.init.he_uniform(0, (3, 3)).shape
        (3, 3)
    """
    return uniform(rng, shape, gain * math.sqrt(3 / _fans("he_uniform(rng, shape)", shape)[0]), dtype)


def he_normal(rng, shape, gain=RELU_GAIN, dtype=np.float64):
    """Normal with deviation gain / √inputs.

    Raises: ShapeError for fewer than two axes.

    Source: He et al. (2015).

    Example:
        >>> tg.nn.init.he_normal(0, (3, 3)).shape
        (3, 3)
    """
    return normal(rng, shape, gain / math.sqrt(_fans("he_normal(rng, shape)", shape)[0]), dtype)


def orthogonal(rng, shape, gain=1.0, dtype=np.float64):
    """A matrix with orthonormal rows or columns, whichever are fewer, times gain; uniform over all such.

    Shapes: axes after the first are flattened into columns.

    Raises: ShapeError for fewer than two axes.

    Source: Saxe et al., "Exact solutions to the nonlinear dynamics of learning in deep linear networks" (2013).

    Example:
        >>> Q = tg.nn.init.orthogonal(0, (3, 3))
        >>> bool(np.allclose(Q @ Q.T, np.eye(3)))
        True
    """
    _fans("orthogonal(rng, shape)", shape)
    rows, columns = shape[0], math.prod(shape[1:])
    a = generator(rng).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(a)
    q = q * np.where(np.diagonal(r) < 0, -1.0, 1.0)  # the sign that makes the draw uniform, and the result unique
    return (gain * (q if rows >= columns else q.T)).reshape(shape).astype(dtype)


def gates(initialiser, rng, shape, count, **options):
    """A weight of `count` gates, stacked along the first axis, each drawn for itself.

    An orthogonal matrix of shape (4H, H) is not four orthogonal ones.

    Raises: ShapeError when the rows do not divide into `count` gates.

    Example:
        >>> W = tg.nn.init.gates(tg.nn.init.orthogonal, 0, (12, 3), 4)
        >>> bool(np.allclose(W[:3] @ W[:3].T, np.eye(3)))
        True
    """
    if shape[0] % count:
        raise ShapeError(message("gates(initialiser, rng, shape, count)", "the rows are not whole gates",
                                 {"shape": shape, "count": count}, "Pass shape (count · H, …)."))
    rng = generator(rng)
    return np.concatenate([initialiser(rng, (shape[0] // count, *shape[1:]), **options) for _ in range(count)])
