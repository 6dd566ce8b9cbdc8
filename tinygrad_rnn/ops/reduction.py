"""Reductions: sum, mean, max, min, prod, var, std, norm, logsumexp, and the running cumsum.

Knows how elements are put together along axes and how a cotangent is spread over them again. Refuses to
guess an axis: None means all, as in NumPy. Below it: primitive, domains.
"""

import math

import numpy as np

from ..domains import NONZERO, REALS
from ..primitive import primitive

_AXES = ({"axis": None}, {"axis": 0}, {"axis": -1, "keepdims": True}, {"axis": (0, 2)})


def _sample(rng):
    return [((rng.normal(size=(2, 3, 4)),), dict(axes)) for axes in _AXES] + [((rng.normal(size=()),), {})]


_FAULTS = [((np.ones((2, 3)),), {"axis": 2}, "axis is out of range")]


def _normal(axis, ndim):
    """An axis argument as a tuple of non-negative axes."""
    if axis is None or not ndim:  # NumPy takes axis 0 and −1 of a number
        return tuple(range(ndim))
    return tuple(a % ndim for a in (axis if isinstance(axis, tuple) else (axis,)))


def _kept(shape, axis):
    """`shape` with 1 along the reduced axes."""
    axes = _normal(axis, len(shape))
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


def _count(shape, axis):
    return math.prod(shape[a] for a in _normal(axis, len(shape)))


def _repeated(g, shape):
    """`np.broadcast_to`, which takes ten times as long as this for the commonest case: one number for a whole array."""
    if type(g) is not np.ndarray or g.shape:
        return np.broadcast_to(g, shape)
    out = np.ndarray(shape, g.dtype, g, 0, (0,) * len(shape))
    out.flags.writeable = False
    return out


def _spread(g, shape, axis):
    """A reduced array as one that broadcasts against `shape`."""
    return g.reshape(_kept(shape, axis)) if axis is not None or g.shape else g


def _later(name):
    """The op over time: the axes count one more."""
    def over_time(T, stacked, x, *, axis, keepdims, **statics):
        axes = tuple(a + 1 for a in _normal(axis, x.ndim - 1))
        return getattr(np, name)(x, axis=axes, keepdims=keepdims, **statics)

    return over_time


@primitive(method="sum", domain=REALS, analytic=True, sample=_sample, over_time=_later("sum"), faults=_FAULTS)
def sum(x, /, *, axis=None, keepdims=False):
    """Sum over axes.

    Shapes: x without the summed axes, or with size 1 there when `keepdims`.

    Raises: ShapeError for an axis that x does not have.

    Gradient: smooth; g repeated along the axes.

    Example:
        >>> tg.sum(np.ones((2, 3)), 0)
        array([2., 2., 2.])
    """
    return np.add.reduce(x, axis=axis, keepdims=keepdims) if type(x) is np.ndarray else np.sum(x, axis=axis, keepdims=keepdims)


sum.vjp(x=lambda g, x_shape, axis: _repeated(_spread(g, x_shape, axis), x_shape))


@primitive(method="mean", domain=REALS, analytic=True, sample=_sample, over_time=_later("mean"), faults=_FAULTS)
def mean(x, /, *, axis=None, keepdims=False):
    """Mean over axes.

    Shapes: as `sum`.

    Raises: ShapeError for an axis that x does not have.

    Gradient: smooth; g / n repeated along the axes.

    Example:
        >>> tg.mean(np.array([1.0, 3.0]))
        np.float64(2.0)
    """
    return np.mean(x, axis=axis, keepdims=keepdims)


mean.vjp(x=lambda g, x_shape, axis: _repeated(_spread(g, x_shape, axis) / _count(x_shape, axis), x_shape))


def _share_of_extreme(g, x, y, axis):
    """g to the elements that reach the extreme, in equal parts."""
    hit = np.equal(x, _spread(y, x.shape, axis))
    return np.where(hit, _spread(g, x.shape, axis) / np.sum(hit, axis=axis, keepdims=True).astype(g.dtype), 0)


def _tied(x, axis, extreme):
    return np.sum(np.equal(x, extreme(x, axis=axis, keepdims=True)), axis=axis) > 1


@primitive(method="max", domain=REALS, sample=_sample, faults=_FAULTS, over_time=_later("max"),
           kinks=lambda x, axis, keepdims: _tied(x, axis, np.max),
           reference=lambda x, axis=None, keepdims=False: -np.min(-x, axis=axis, keepdims=keepdims))
def max(x, /, *, axis=None, keepdims=False):
    """Largest element over axes.

    Shapes: as `sum`.

    Raises: ShapeError for an axis that x does not have, or an empty one.

    Gradient: g to the largest element; ties share it evenly.

    Example:
        >>> tg.max(np.array([[1.0, 3.0], [5.0, 2.0]]), axis=0)
        array([5., 3.])
    """
    return np.max(x, axis=axis, keepdims=keepdims)


max.vjp(x=_share_of_extreme)


@primitive(method="min", domain=REALS, sample=_sample, faults=_FAULTS, over_time=_later("min"),
           kinks=lambda x, axis, keepdims: _tied(x, axis, np.min),
           reference=lambda x, axis=None, keepdims=False: -np.max(-x, axis=axis, keepdims=keepdims))
def min(x, /, *, axis=None, keepdims=False):
    """Smallest element over axes.

    Shapes: as `sum`.

    Raises: ShapeError for an axis that x does not have, or an empty one.

    Gradient: g to the smallest element; ties share it evenly.

    Example:
        >>> tg.min(np.array([[1.0, 3.0], [5.0, 2.0]]), axis=0)
        array([1., 2.])
    """
    return np.min(x, axis=axis, keepdims=keepdims)


min.vjp(x=_share_of_extreme)


@primitive(method="prod", domain=NONZERO, analytic=True, sample=_sample, over_time=_later("prod"), faults=_FAULTS)
def prod(x, /, *, axis=None, keepdims=False):
    """Product over axes.

    Shapes: as `sum`.

    Raises: ShapeError for an axis that x does not have.

    Gradient: g times the product of the others, exact also where elements are 0.

    Example:
        >>> tg.grad(tg.prod)(np.array([0.0, 2.0, 3.0]))
        array([6., 0., 0.])
    """
    return np.prod(x, axis=axis, keepdims=keepdims)


def _product_of_others(g, x, axis):
    """Products of what stands before and after each element: no division, so zeros are no special case."""
    shape, axes = x.shape, _normal(axis, x.ndim)
    others = tuple(i for i in range(x.ndim) if i not in axes)
    order = others + axes
    rows = np.transpose(x, order).reshape((*(shape[i] for i in others), _count(shape, axis)))
    n = rows.shape[-1]
    eye = np.eye(n, dtype=bool)
    factors = np.where(eye, 1.0, rows[..., None, :])
    products = np.prod(factors, axis=-1)
    back = products.reshape(tuple(shape[i] for i in order)).transpose(tuple(int(i) for i in np.argsort(order)))
    return _spread(g, shape, axis) * back


prod.vjp(x=_product_of_others)


def _centered_power(x, axis, ddof, keepdims):
    """The variance as the mean of squares less the square of the mean: another formula than the kernel's."""
    n = _count(x.shape, axis)
    mean = np.sum(x, axis=axis, keepdims=keepdims) / n
    return (np.sum(x * x, axis=axis, keepdims=keepdims) / n - mean * mean) * n / (n - ddof)


@primitive(method="var", domain=REALS, analytic=True, sample=_sample, over_time=_later("var"), faults=_FAULTS,
           reference=lambda x, axis=None, ddof=0, keepdims=False: _centered_power(x, axis, ddof, keepdims))
def var(x, /, *, axis=None, ddof=0, keepdims=False):
    """Variance over axes: Σ (x − mean)² / (n − ddof).

    Shapes: as `sum`.

    Raises: ShapeError for an axis that x does not have.

    Gradient: smooth; 2 g (x − mean) / (n − ddof). `ddof` is 0 as in NumPy; PyTorch's default is 1.

    Example:
        >>> tg.var(np.array([1.0, 3.0]))
        np.float64(1.0)
    """
    if np.iscomplexobj(x):  # NumPy's takes the squared modulus there, which is not analytic
        return np.sum(np.square(_deviation(x, axis)), axis=axis, keepdims=keepdims) / (_count(np.shape(x), axis) - ddof)
    return np.var(x, axis=axis, ddof=ddof, keepdims=keepdims)


def _deviation(x, axis):
    return x - np.mean(x, axis=axis, keepdims=True)


var.vjp(x=lambda g, x, axis, ddof: _spread(g, x.shape, axis) * _deviation(x, axis) * (2 / (_count(x.shape, axis) - ddof)))


def _over_or_zero(a, b):
    """a / b, and 0 where b is 0: the subgradient that is taken at the tip of a cone."""
    tip = np.equal(b, 0)
    return np.where(tip, 0, a / np.where(tip, 1, b))


@primitive(method="std", domain=REALS, analytic=True, sample=lambda rng: _sample(rng)[:-1], over_time=_later("std"), faults=_FAULTS,
           kinks=lambda x, axis, ddof, keepdims: np.equal(np.std(x, axis=axis), 0),
           reference=lambda x, axis=None, ddof=0, keepdims=False: _centered_power(x, axis, ddof, keepdims) ** 0.5)
def std(x, /, *, axis=None, ddof=0, keepdims=False):
    """Standard deviation over axes: the square root of `var`.

    Shapes: as `sum`.

    Raises: ShapeError for an axis that x does not have.

    Gradient: g (x − mean) / ((n − ddof) y); 0 where all elements are equal.

    Example:
        >>> tg.std(np.array([1.0, 3.0]))
        np.float64(1.0)
    """
    if np.iscomplexobj(x):
        return np.sqrt(var(x, axis=axis, ddof=ddof, keepdims=keepdims))
    first = x[tuple(slice(0, 1) if i in _normal(axis, x.ndim) else slice(None) for i in range(x.ndim))] if np.ndim(x) else x
    return np.std(x - first, axis=axis, ddof=ddof, keepdims=keepdims)  # of equal elements exactly 0, which their mean would miss


std.vjp(x=lambda g, x, y, axis, ddof: _over_or_zero(_spread(g, x.shape, axis) * _deviation(x, axis),
                                                    _spread(y, x.shape, axis) * (_count(x.shape, axis) - ddof)))


@primitive(domain=REALS, sample=lambda rng: _sample(rng), over_time=lambda T, stacked, x, *, axis, keepdims: norm(
    x, axis=tuple(a + 1 for a in _normal(axis, x.ndim - 1)), keepdims=keepdims), numpy=np.linalg.norm, faults=_FAULTS, analytic=True,
    kinks=lambda x, axis, keepdims: np.logical_not(np.any(x, axis=axis)),
    reference=lambda x, axis=None, keepdims=False: np.sum(np.abs(x) ** 2, axis=axis, keepdims=keepdims) ** 0.5)
def norm(x, /, *, axis=None, keepdims=False):
    """Euclidean norm over axes: √Σ x². Over all elements when `axis` is None.

    Shapes: as `sum`.

    Raises: ShapeError for an axis that x does not have.

    Gradient: g x / y; 0 at the origin.

    Example:
        >>> tg.norm(np.array([3.0, 4.0]))
        np.float64(5.0)
    """
    return np.sqrt(np.sum(np.square(x), axis=axis, keepdims=keepdims))


norm.vjp(x=lambda g, x, y, axis: _over_or_zero(_spread(g, x.shape, axis) * x, _spread(y, x.shape, axis)))


@primitive(method="logsumexp", domain=REALS, sample=_sample, faults=_FAULTS,
           reference=lambda x, axis=None, keepdims=False: np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims)),
           over_time=lambda T, stacked, x, *, axis, keepdims: logsumexp(
               x, axis=tuple(a + 1 for a in _normal(axis, x.ndim - 1)), keepdims=keepdims))
def logsumexp(x, /, *, axis=None, keepdims=False):
    """log Σ eˣ over axes without overflow.

    Shapes: as `sum`.

    Raises: ShapeError for an axis that x does not have.

    Gradient: g eˣ⁻ʸ, the softmax; 0 where every element is −inf (the value there is −inf).

    Example:
        >>> round(float(tg.logsumexp(np.array([1000.0, 1000.0]))), 6)
        1000.693147
    """
    top = np.max(x, axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0)
    with np.errstate(divide="ignore"):
        y = np.log(np.sum(np.exp(x - top), axis=axis, keepdims=True)) + top
    return y if keepdims else y.reshape(np.sum(x, axis=axis).shape)


def _logsumexp_x(g, x, y, axis):
    y = _spread(y, x.shape, axis)
    return _spread(g, x.shape, axis) * np.exp(x - np.where(np.isfinite(y), y, 0))


logsumexp.vjp(x=_logsumexp_x)


@primitive(method="cumsum", domain=REALS, analytic=True, faults=[((np.ones((2, 3)),), {"axis": 2}, "axis is out of range")],
           sample=lambda rng: [((rng.normal(size=(2, 3)),), {"axis": a}) for a in (0, -1)],
           over_time=lambda T, stacked, x, *, axis: np.cumsum(x, axis=axis + 1 if axis >= 0 else axis))
def cumsum(x, /, *, axis=-1):
    """Running sum along an axis. Along the last one by default (NumPy's default flattens).

    Shapes: x, unchanged.

    Raises: ShapeError for an axis that x does not have.

    Gradient: smooth; the running sum of g from the other end.

    Example:
        >>> tg.cumsum(np.array([1.0, 2.0, 3.0]))
        array([1., 3., 6.])
    """
    return np.cumsum(x, axis=axis)


cumsum.vjp(x=lambda g, axis: np.flip(np.cumsum(np.flip(g, axis), axis=axis), axis))
