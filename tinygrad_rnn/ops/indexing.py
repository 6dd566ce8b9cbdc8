"""Indexing: x[…] with slices, ints, None, … and arrays; take, gather; and scatter_add, its other direction.

Knows where the picked elements lie, so that a cotangent is added back at the same places. Refuses assignment:
a Tensor is read-only. Below it: primitive, domains.

An index is parted into a static template and the arrays in it, so that an index array can be a value of a
traced cell. Cotangents of many slices of one array are added into one buffer (`into`), not into many.
"""

import math

import numpy as np

from ..domains import REALS
from ..errors import DtypeError, TraceError, message
from ..primitive import composite, primitive
from ..tensor import Tensor, mode, traced
from .shape import axes_of


class _Place:
    """Where an index array stands in a template."""

    def __repr__(self):
        return "□"


PLACE = _Place()


def _parted(index):
    """A NumPy index as (template, arrays): arrays, lists and Tensors leave a PLACE behind."""
    template, arrays = [], []
    for part in index if type(index) is tuple else (index,):
        if isinstance(part, (Tensor, np.ndarray, list)) and not (isinstance(part, np.ndarray) and part.ndim == 0 and part.dtype.kind in "iu"):
            part = part if isinstance(part, Tensor) else np.asarray(part, dtype=None if np.size(part) else np.intp)
            if part.dtype.kind not in "iub":
                raise DtypeError(message("x[index]", "an index array is not of an integer or boolean dtype", {"dtype": part.dtype},
                                         "Use integers, or a boolean mask."))
            arrays.append(part)
            part = PLACE
        elif isinstance(part, (np.integer, np.ndarray)):
            part = int(part)
        template.append(part)
    return tuple(template), arrays


def _filled(index, where):
    rest = iter(where)
    return tuple(next(rest) if part is PLACE else part for part in index)


def _basic(index):
    return not any(part is PLACE for part in index)


def _getitem_over_time(T, stacked, x, *where, index):
    if stacked[0] and not any(stacked[1:]) and _basic(index):
        return getitem(x, *where, index=(slice(None), *index))
    return None


@primitive(domain=REALS, analytic=True, view=True, numpy=False, over_time=_getitem_over_time,
           sample=lambda rng: [((rng.normal(size=(4, 3)),), {"index": i}) for i in (
               (1,), (slice(1, 3),), (Ellipsis, 0), (None, slice(None, None, 2)), (slice(None), slice(None, None, -1)))]
           + [((rng.normal(size=(4, 3)), np.array([2, 0, 2])), {"index": (PLACE,)}),
              ((rng.normal(size=(4, 3)), np.array([3, 0]), np.array([1, 1])), {"index": (PLACE, PLACE)}),
              ((rng.normal(size=(4, 3)), rng.normal(size=(4, 3)) > 0), {"index": (PLACE,)})],
           reference=lambda x, *where, index: np.array(x.tolist(), x.dtype).reshape(x.shape)[_filled(index, where)],
           remedy="Use an index that lies inside the array.",
           faults=[((np.ones((2, 3)),), {"index": (2,)}, "out of bounds"), ((np.ones(3),), {"index": (0, 0)}, "too many indices")])
def getitem(x, /, *where, index):
    """Elements of an array, as `x[index]` in NumPy; `index` is a template in which PLACE stands for the arrays `where`.

    Shapes: as in NumPy.

    Raises: IndexingError for an index outside x; DtypeError for an index array of floats.

    Gradient: g added at the same places; elements that were picked twice get both.

    Example:
        >>> tg.ops.getitem(np.arange(3.0), index=(slice(0, 2),))
        array([0., 1.])
    """
    return x[_filled(index, where) if where else index]


@primitive(domain=REALS, analytic=True, numpy=False,
           sample=lambda rng: [((rng.normal(size=3),), {"index": (slice(None), 1), "shape": (3, 4)}),
                               ((rng.normal(size=(3, 2)), np.array([0, 2, 0])), {"index": (PLACE,), "shape": (4, 2)})],
           reference=lambda values, *where, index, shape: sum(
               (np.zeros(shape, int) + (np.arange(math.prod(shape)).reshape(shape) == place)) * value for place, value in
               zip(np.arange(math.prod(shape)).reshape(shape)[_filled(index, where)].ravel(), values.ravel())),
           over_time=lambda T, stacked, g_, *where, index, shape: scatter_add(
               g_, index=(slice(None), *index), shape=(T, *shape)) if _basic(index) else None)
def scatter_add(values, /, *where, index, shape):
    """Zeros of a shape with `values` added at `index`: the transpose of indexing.

    Shapes: values as `x[index]` for an x of shape `shape`.

    Gradient: g[index].

    Example:
        >>> tg.ops.scatter_add(np.ones(2), np.array([0, 0]), index=(tg.ops.PLACE,), shape=(3,))
        array([2., 0., 0.])
    """
    return _add_at(np.zeros(shape, values.dtype), values, where, index)


def _add_at(into, values, where, index):
    if where:
        np.add.at(into, _filled(index, where), values)
    else:
        into[index] += values
    return into


def _getitem_x(g, where, x_shape, index, into):
    if into is None:
        return scatter_add(g, *where, index=index, shape=x_shape)
    _add_at(into.total, g, where, index)
    return into


getitem.vjp(x=_getitem_x, where=None)
scatter_add.vjp(values=lambda g, where, index: getitem(g, *where, index=index), where=None)


@composite(method="__getitem__", numpy=None)
def _getitem_method(x, index):
    """x[index], as in NumPy."""
    template, arrays = ((index,), ()) if type(index) is int else _parted(index)
    if arrays and mode.get().tracing and any([a.dtype.kind == "b" and a.ndim for a in arrays]):
        template, arrays = _parted(_counted(x, template, arrays))
    return getitem(x, *arrays, index=template)


def _counted(x, template, arrays):
    """The index with integers for masks: how many entries a mask picks is fixed where its values are known, and in a trace
    they must be."""
    for a in arrays:
        if a.dtype.kind == "b" and a.ndim and isinstance(a, Tensor) and traced(a):
            raise TraceError(message("x[mask]", "the shape of the result depends on a mask that is traced", {"x": x.shape, "mask": a.shape},
                                     "Use where(mask, x, 0), or close over the mask as a plain array."))
    known = [a._array if isinstance(a, Tensor) and a.dtype.kind == "b" else a for a in arrays]
    try:
        np.broadcast_to(False, x.shape)[_filled(template, [np.zeros(a.shape, a.dtype) if isinstance(a, Tensor) else a for a in known])]
    except IndexError as error:
        raise getitem.explain(error, (x, *arrays), {"index": template}) from error
    rest, index = iter(known), []
    for part in template:
        a = next(rest) if part is PLACE else None
        index += [part] if a is None else np.nonzero(a) if a.dtype.kind == "b" and a.ndim else [a]
    return tuple(index)


@composite(method="take")
def take(x, indices, axis=None):
    """Slices of an array picked by an integer array along an axis; of the flat array when `axis` is None.

    Shapes: x with the axis replaced by the axes of `indices`.

    Raises: IndexingError for an index outside the axis; DtypeError for indices that are not integers; ShapeError for an
    axis that x does not have.

    Gradient: g added to the picked slices; a slice that was picked twice gets both.

    Example:
        >>> tg.take(np.array([10.0, 20.0]), np.array([1, 1, 0]))
        array([20., 20., 10.])
    """
    if axis is None:
        x, axis = np.reshape(x, (-1,)), 0
    (axis,) = axes_of("take(x, indices, axis)", x, axis)
    template, arrays = _parted((slice(None),) * axis + (indices,))
    return getitem(x, *arrays, index=template)


@composite(numpy=np.take_along_axis)
def gather(x, indices, axis):
    """One element per index along an axis, as `numpy.take_along_axis` and `torch.gather`.

    Shapes: indices like x but along `axis`; the result is like indices.

    Raises: IndexingError for an index outside the axis; ShapeError for an axis that x does not have.

    Gradient: g added to the picked elements.

    Example:
        >>> tg.gather(np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1], [0]]), 1)
        array([[2.],
               [3.]])
    """
    shape = np.shape(indices)
    (axis,) = axes_of("gather(x, indices, axis)", indices, axis)
    grid = [np.arange(n).reshape((-1, *(1,) * (len(shape) - 1 - i))) for i, n in enumerate(shape)]
    grid[axis] = indices
    return getitem(x, *grid, index=(PLACE,) * len(shape))
