"""Shape: reshape, transpose, broadcast, concatenate, split, pad, flip, index. No arithmetic.

Knows where each element goes and comes back from. Refuses to copy where a view will do (`view=True` marks those
ops; a Tensor's array is read-only, so sharing is safe). Below it: primitive, domains.
"""

import functools

import numpy as np

from ..domains import REALS
from ..errors import ShapeError, message
from ..primitive import composite, primitive
from ..tensor import Tensor


def axes_of(who, x, axis, new=False):
    """An axis argument as a tuple of non-negative axes: of x, or of what x becomes when they are `new`."""
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    ndim = len(_shape(x)) + new * len(axes)
    for a in axes:
        if not -ndim <= a < ndim:
            raise ShapeError(message(who, f"axis is out of range: {a} is none of {ndim}", {"x": np.shape(x), "axis": axis},
                                     "Use an axis that the array has; -1 is the last one."))
    return tuple([a % ndim for a in axes])


def _shape(x):
    """As np.shape, which takes a while to find its way to a Tensor."""
    return x.shape if isinstance(x, (Tensor, np.ndarray)) else np.shape(x)


@primitive(domain=REALS, elementwise=True, analytic=True, view=True, numpy=False, reference=np.positive)
def identity(x, /):
    """The same values: a new start in the graph.

    Gradient: g.

    Example:
        >>> tg.ops.identity(np.ones(2))
        array([1., 1.])
    """
    return x


identity.vjp(x=lambda g: g)


@primitive(domain=REALS, elementwise=True, view=True, numpy=False, reference=np.positive)
def stop_gradient(x, /):
    """The same values, through which no gradient flows back.

    Gradient: none, by intent. State that is carried between chunks of a sequence keeps no history this way.

    Example:
        >>> float(tg.grad(lambda x: x * tg.stop_gradient(x))(3.0))
        3.0
    """
    return x


stop_gradient.vjp(x=None)


@primitive(method="astype", domain=REALS, elementwise=True, sample=lambda rng: [((rng.normal(size=3),), {"dtype": np.float64})],
           reference=lambda x, dtype: x.astype(dtype))
def astype(x, /, *, dtype):
    """x in another dtype.

    Gradient: g, in the dtype of x.

    Example:
        >>> tg.astype(np.ones(2), np.float32).dtype
        dtype('float32')
    """
    return np.asarray(x).astype(dtype)


astype.vjp(x=lambda g: g)


@primitive(domain=REALS, analytic=True, view=True, sample=lambda rng: [((rng.normal(size=(2, 6)),), {"shape": s}) for s in ((3, 4), (-1,), (2, 3, -1))],
           reference=lambda x, shape: np.ravel(x).reshape(shape), faults=[((np.ones((2, 3)),), {"shape": (4, 2)}, "cannot reshape")],
           over_time=lambda T, stacked, x, *, shape: np.reshape(x, (-1 if -1 not in shape else T, *shape)))
def reshape(x, /, *, shape):
    """The same elements in the same order (rows first) under another shape.

    Shapes: `shape` is an int or a tuple, one entry may be −1.

    Raises: ShapeError when the number of elements differs.

    Gradient: g in the shape of x.

    Example:
        >>> tg.reshape(np.arange(4.0), (2, 2))
        array([[0., 1.],
               [2., 3.]])
    """
    return np.reshape(x, shape)


reshape.vjp(x=lambda g, x_shape: np.reshape(g, x_shape))


@composite(method="reshape", numpy=None)
def _reshape_method(x, *shape):
    """The same elements under another shape, given as a tuple or as several ints."""
    return reshape(x, shape=shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)


@composite(method="flatten ravel", numpy=np.ravel)
def ravel(x):
    """All elements in one axis.

    Example:
        >>> tg.ravel(np.ones((2, 2)))
        array([1., 1., 1., 1.])
    """
    return reshape(x, shape=(-1,))


@primitive(domain=REALS, analytic=True, view=True, sample=lambda rng: [((rng.normal(size=(2, 3, 4)),), {"axes": a}) for a in (None, (1, 0, 2), (0, -1, 1))],
           reference=lambda x, axes=None: np.moveaxis(x, range(x.ndim)[::-1] if axes is None else axes, range(x.ndim)),
           faults=[((np.ones((2, 3)),), {"axes": (0, 0)}, "repeated axis")],
           over_time=lambda T, stacked, x, *, axes: np.transpose(x, (0, *(a % (x.ndim - 1) + 1 for a in (axes or range(x.ndim - 1)[::-1])))))
def transpose(x, /, *, axes=None):
    """Axes in another order; reversed when `axes` is None.

    Shapes: x (n_0, …, n_k) to (n_axes[0], …, n_axes[k]).

    Raises: ShapeError when `axes` is no permutation.

    Gradient: g with the axes put back.

    Example:
        >>> tg.transpose(np.ones((2, 3))).shape
        (3, 2)
    """
    return np.transpose(x, axes)


transpose.vjp(x=lambda g, axes: np.transpose(g, None if axes is None else tuple(int(i) for i in np.argsort([a % len(axes) for a in axes]))))


@composite(method="transpose", numpy=None)
def _transpose_method(x, *axes):
    """Axes in another order, given as a tuple or as several ints; reversed when none are given."""
    return transpose(x, axes=(tuple(axes[0]) if isinstance(axes[0], (tuple, list)) else axes) if axes and axes[0] is not None else None)


Tensor.T = property(lambda self: transpose(self), doc="The axes reversed.")


def _permutation(ndim, moves):
    """The axes of a transpose that puts axis a at place b for every (a, b) of `moves`."""
    places = {b % ndim: a % ndim for a, b in moves}
    rest = iter(i for i in range(ndim) if i not in places.values())
    return tuple(places[i] if i in places else next(rest) for i in range(ndim))


@composite
def moveaxis(x, source, destination):
    """One axis (or several) moved to another place, the others in their order.

    Raises: ShapeError for an axis that x does not have.

    Example:
        >>> tg.moveaxis(np.ones((2, 3, 4)), 0, -1).shape
        (3, 4, 2)
    """
    source, destination = (axes_of("moveaxis(x, source, destination)", x, axis) for axis in (source, destination))
    return transpose(x, axes=_permutation(np.ndim(x), list(zip(source, destination))))


@composite(method="swapaxes")
def swapaxes(x, axis1, axis2):
    """Two axes exchanged.

    Raises: ShapeError for an axis that x does not have.

    Example:
        >>> tg.swapaxes(np.ones((2, 3, 4)), 0, 2).shape
        (4, 3, 2)
    """
    axis1, axis2 = axes_of("swapaxes(x, axis1, axis2)", x, (axis1, axis2))
    axes = list(range(np.ndim(x)))
    axes[axis1], axes[axis2] = axes[axis2], axes[axis1]
    return transpose(x, axes=tuple(axes))


@composite(method="squeeze")
def squeeze(x, axis=None):
    """Axes of size 1 taken away: all of them, or those named.

    Raises: ShapeError when a named axis is longer, or none that x has.

    Example:
        >>> tg.squeeze(np.ones((1, 3, 1))).shape
        (3,)
    """
    shape = np.shape(x)
    axes = [i for i, n in enumerate(shape) if n == 1] if axis is None else axes_of("squeeze(x, axis)", x, axis)
    if any(shape[a] != 1 for a in axes):
        raise ShapeError(message("squeeze(x, axis)", "a named axis is longer than 1", {"x": shape, "axis": axis}, "Name axes of size 1."))
    return reshape(x, shape=tuple(n for i, n in enumerate(shape) if i not in axes))


@composite
def expand_dims(x, axis):
    """An axis of size 1 put in, or several.

    Raises: ShapeError for a place that the result does not have.

    Example:
        >>> tg.expand_dims(np.ones(3), -1).shape
        (3, 1)
    """
    axes, sizes = axes_of("expand_dims(x, axis)", x, axis, new=True), iter(np.shape(x))
    return reshape(x, shape=tuple([1 if i in axes else next(sizes) for i in range(np.ndim(x) + len(axes))]))


def _broadcast_over_time(T, stacked, x, *, shape):
    missing = len(shape) - (x.ndim - 1)
    return np.broadcast_to(np.reshape(x, (T, *(1,) * missing, *x.shape[1:])) if missing else x, (T, *shape))


@primitive(domain=REALS, analytic=True, view=True, sample=lambda rng: [((rng.normal(size=(3, 1)),), {"shape": (2, 3, 4)})],
           reference=lambda x, shape: x + np.zeros(shape), faults=[((np.ones(3),), {"shape": (2, 4)}, "could not be broadcast")],
           remedy="Ask for a shape whose last axes are those of the array, or where it has size 1.", over_time=_broadcast_over_time)
def broadcast_to(x, /, *, shape):
    """x repeated along new axes and axes of size 1.

    Shapes: `shape` ends like x, or where x has size 1 in any size.

    Raises: ShapeError when it does not.

    Gradient: g summed over the repeated axes.

    Example:
        >>> tg.broadcast_to(np.ones(2), (3, 2)).shape
        (3, 2)
    """
    return np.broadcast_to(x, shape)


broadcast_to.vjp(x=lambda g: g)


# ---- joining and parting ------------------------------------------------------------------------------------


def _part_slices(g, shapes, axis):
    out, start = [], 0
    for shape in shapes:
        out.append(g[(slice(None),) * (axis % g.ndim) + (slice(start, start + shape[axis]),)])
        start += shape[axis]
    return out


def _lifted_parts(T, stacked, parts):
    return [part if has else np.broadcast_to(part, (T, *part.shape)) for has, part in zip(stacked, parts)]


def _concatenate_over_time(T, stacked, *parts, axis):
    return concatenate_(*_lifted_parts(T, stacked, parts), axis=axis + 1 if axis >= 0 else axis)


def concatenate_kernel(*parts, axis=0, out=None):
    """Arrays joined along an axis that they have; `concatenate([a, b], axis)` is the public form.

    Shapes: equal but along `axis`.

    Raises: ShapeError when they are not.

    Gradient: each part gets its slice of g.

    Example:
        >>> tg.concatenate([np.ones(1), np.zeros(2)])
        array([1., 0., 0.])
    """
    return np.concatenate(parts, axis=axis, out=out)


concatenate_kernel.__name__ = "concatenate"
concatenate_ = primitive(
    concatenate_kernel, domain=REALS, analytic=True, over_time=_concatenate_over_time, numpy=False,
    sample=lambda rng: [((rng.normal(size=(2, 3)), rng.normal(size=(2, 1)), rng.normal(size=(2, 2))), {"axis": 1}),
                        ((rng.normal(size=2), rng.normal(size=3)), {})],
    faults=[((np.ones((2, 3)), np.ones((3, 3))), {"axis": 1}, "must match exactly")],
    reference=lambda *parts, axis: np.moveaxis(np.array([row for part in parts for row in np.moveaxis(part, axis, 0)]), 0, axis),
    remedy="Make all axes but the joined one equal.")
concatenate_.vjp(parts=lambda g, parts_shape, axis: _part_slices(g, parts_shape, axis))


@composite
def concatenate(parts, axis=0):
    """Arrays joined along an axis that they have.

    Shapes: equal but along `axis`.

    Raises: ShapeError when they are not.

    Gradient: each part gets its slice of g.

    Example:
        >>> tg.concatenate([np.ones(1), np.zeros(2)])
        array([1., 0., 0.])
    """
    return concatenate_(*parts, axis=axis)


def _stack_over_time(T, stacked, *parts, axis):
    return stack_(*_lifted_parts(T, stacked, parts), axis=axis + 1 if axis >= 0 else axis)


def stack_kernel(*parts, axis=0, out=None):
    """Arrays of one shape along a new axis; `stack([a, b], axis)` is the public form.

    Shapes: all equal.

    Raises: ShapeError when they are not.

    Gradient: each part gets its slice of g.

    Example:
        >>> tg.stack([np.ones(2), np.zeros(2)]).shape
        (2, 2)
    """
    return np.stack(parts, axis=axis, out=out)


stack_kernel.__name__ = "stack"
stack_ = primitive(
    stack_kernel, domain=REALS, analytic=True, over_time=_stack_over_time, numpy=False,
    sample=lambda rng: [((rng.normal(size=(2, 3)), rng.normal(size=(2, 3))), {"axis": a}) for a in (0, 1, -1)],
    faults=[((np.ones(2), np.ones(3)), {}, "same shape")],
    reference=lambda *parts, axis: np.moveaxis(np.array(parts), 0, axis), remedy="Stack arrays of one shape.")
stack_.vjp(parts=lambda g, axis: list(unstack(g, axis)))


@composite
def stack(parts, axis=0):
    """Arrays of one shape along a new axis.

    Shapes: all equal.

    Raises: ShapeError when they are not.

    Gradient: each part gets its slice of g.

    Example:
        >>> tg.stack([np.ones(2), np.zeros(2)]).shape
        (2, 2)
    """
    return stack_(*parts, axis=axis)


def _rejoined(g, y, join):
    return join([np.zeros(part.shape, part.dtype) if one is None else one for one, part in zip(g, y)])


@primitive(domain=REALS, analytic=True, view=True, numpy=False, sample=lambda rng: [((rng.normal(size=(2, 6)),), {"sizes": (1, 2, 3), "axis": 1})],
           reference=lambda x, sizes, axis: tuple(np.take(x, range(sum(sizes[:i]), sum(sizes[:i + 1])), axis) for i in range(len(sizes))),
           faults=[((np.ones(5),), {"sizes": (2, 2)}, "the sizes do not add up")],
           over_time=lambda T, stacked, x, *, sizes, axis: split_(x, sizes=sizes, axis=axis + 1 if axis >= 0 else axis))
def split_(x, /, *, sizes, axis=0):
    """An array parted along an axis into pieces of the given sizes; `split` is the public form.

    Raises: ShapeError when the sizes do not add up.

    Gradient: the cotangents joined again, zeros for a part that nobody used.

    Example:
        >>> [part.shape for part in tg.split(np.ones((2, 6)), 3, axis=1)]
        [(2, 2), (2, 2), (2, 2)]
    """
    if np.sum(sizes) != x.shape[axis]:
        raise ValueError(f"the sizes do not add up to {x.shape[axis]}")
    return tuple(np.split(x, np.cumsum(sizes[:-1]), axis=axis))


split_.vjp(x=lambda g, y, axis: _rejoined(g, y, lambda parts: concatenate_(*parts, axis=axis)))


@functools.lru_cache(maxsize=64)
def _equal(size, count):
    """The sizes of equal parts, the same tuple each time."""
    return (size,) * count


@composite(method="split")
def split(x, sections, axis=0):
    """An array parted along an axis.

    Shapes: `sections` is the number of equal parts, or the places where to cut, as in NumPy.

    Raises: ShapeError when the axis cannot be parted equally.

    Gradient: the cotangents joined again, zeros for a part that nobody used.

    Example:
        >>> [part.shape for part in tg.split(np.ones((2, 6)), 3, axis=1)]
        [(2, 2), (2, 2), (2, 2)]
    """
    shape = _shape(x)
    if type(axis) is int and -len(shape) <= axis < len(shape):  # as most are
        axis %= len(shape)
    else:
        (axis,) = axes_of("split(x, sections, axis)", x, axis)
    n = shape[axis]
    if isinstance(sections, int):
        if n % sections:
            raise ShapeError(message("split(x, sections, axis)", "the axis cannot be parted equally",
                                     {"x": np.shape(x), "axis": axis, "sections": sections}, "Pass the places where to cut."))
        sizes = _equal(n // sections, sections)
    else:
        cuts = [0, *sections, n]
        sizes = tuple(b - a for a, b in zip(cuts, cuts[1:]))
    return split_(x, sizes=sizes, axis=axis)


@primitive(method="unstack", domain=REALS, analytic=True, view=True, sample=lambda rng: [((rng.normal(size=(3, 2)),), {"axis": a}) for a in (0, 1)],
           over_time=lambda T, stacked, x, *, axis: unstack(x, axis=axis + 1 if axis >= 0 else axis))
def unstack(x, /, *, axis=0):
    """The slices of an array along an axis, as a tuple of arrays without that axis.

    Shapes: (…, n, …) to n arrays (…, …).

    Gradient: the cotangents stacked again, zeros for a slice that nobody used.

    Example:
        >>> tg.unstack(np.eye(2))
        (array([1., 0.]), array([0., 1.]))
    """
    return tuple(np.moveaxis(x, axis, 0))


unstack.vjp(x=lambda g, y, axis: _rejoined(g, y, lambda parts: stack_(*parts, axis=axis)))


# ---- reordering ---------------------------------------------------------------------------------------------


@primitive(domain=REALS, analytic=True, sample=lambda rng: [((rng.normal(size=(2, 3)),), {"width": w}) for w in (((1, 2), (0, 1)), ((0, 0), (3, 0)))],
           reference=lambda x, width: np.pad(x, width), numpy=False, over_time=lambda T, stacked, x, *, width: pad_(x, width=((0, 0), *width)))
def pad_(x, /, *, width):
    """Zeros before and after each axis; `pad(x, width)` is the public form.

    Gradient: g without the border.

    Example:
        >>> tg.pad(np.ones(2), (1, 0))
        array([0., 1., 1.])
    """
    return np.pad(x, width)


pad_.vjp(x=lambda g, width: g[tuple(slice(before, n - after) for (before, after), n in zip(width, g.shape))])


@composite
def pad(x, pad_width):
    """Zeros before and after each axis.

    Shapes: `pad_width` as in NumPy: an int, a pair for all axes, or a pair for each.

    Gradient: g without the border.

    Example:
        >>> tg.pad(np.ones(2), (1, 0))
        array([0., 1., 1.])
    """
    width = np.broadcast_to(np.asarray(pad_width), (np.ndim(x), 2))
    return pad_(x, width=tuple((int(before), int(after)) for before, after in width))


@primitive(domain=REALS, analytic=True, view=True, sample=lambda rng: [((rng.normal(size=(2, 3)),), {"axis": a}) for a in (None, 0, (0, 1))],
           over_time=lambda T, stacked, x, *, axis: np.flip(x, tuple(range(1, x.ndim)) if axis is None else tuple(
               a % (x.ndim - 1) + 1 for a in (axis if isinstance(axis, tuple) else (axis,)))))
def flip(x, /, *, axis=None):
    """Elements in reverse order along axes; along all when `axis` is None.

    Shapes: x, unchanged.

    Gradient: g flipped back.

    Example:
        >>> tg.flip(np.array([1.0, 2.0]))
        array([2., 1.])
    """
    return np.flip(x, axis)


flip.vjp(x=lambda g, axis: np.flip(g, axis))


@primitive(domain=REALS, analytic=True, sample=lambda rng: [((rng.normal(size=(3, 4)),), {"shift": 2, "axis": 1})],
           over_time=lambda T, stacked, x, *, shift, axis: np.roll(x, shift, axis + 1 if axis >= 0 else axis))
def roll(x, /, *, shift, axis=-1):
    """Elements moved along an axis, those that fall off coming in again. Along the last one by default.

    Shapes: x, unchanged.

    Gradient: g rolled back.

    Example:
        >>> tg.roll(np.array([1.0, 2.0, 3.0]), 1)
        array([3., 1., 2.])
    """
    return np.roll(x, shift, axis)


roll.vjp(x=lambda g, shift, axis: np.roll(g, -shift, axis))
