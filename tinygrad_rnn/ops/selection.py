"""Selection: where, maximum, minimum, clip, and the comparisons and predicates that choose.

Knows which element is taken and that the gradient goes the same way. Ties are shared evenly. Refuses to make
a comparison differentiable. Below it: primitive, domains.
"""

import numpy as np

from ..domains import REALS, away_from
from ..primitive import primitive


@primitive(domain=(REALS, REALS, REALS), broadcasts=True, elementwise=True,
           sample=lambda rng: [((rng.normal(size=(2, 3)) > 0, rng.normal(size=(2, 3)), rng.normal(size=3)), {}),
                               ((np.array([True, False]), rng.normal(size=(3, 2)), rng.normal(size=())), {})])
def where(condition, a, b, /):
    """a where `condition` holds, else b.

    Shapes: any three that broadcast together.

    Raises: ShapeError when they do not.

    Gradient: g to the element that was taken, 0 to the other. Both sides are computed: an infinite derivative in
    the side that is not taken gives 0 · inf = nan, so guard the argument of that side as well.

    Example:
        >>> tg.where(np.array([True, False]), 1.0, np.zeros(2))
        array([1., 0.])
    """
    return np.where(condition, a, b)


where.vjp(condition=None, a=lambda g, condition: np.where(condition, g, 0), b=lambda g, condition: np.where(condition, 0, g))


def _half_at_ties(g, taken, tie):
    return np.where(taken, g, np.where(tie, 0.5 * g, 0))


@primitive(domain=(REALS, REALS), broadcasts=True, elementwise=True, kinks=np.equal,
           reference=lambda a, b: np.where(a > b, a, b))
def maximum(a, b, /, *, out=None):
    """The larger of two, element by element.

    Shapes: any two that broadcast together.

    Raises: ShapeError when they do not.

    Gradient: g to the larger one; ½ g to each where they are equal.

    Example:
        >>> tg.maximum(np.array([1.0, 5.0]), 3.0)
        array([3., 5.])
    """
    return np.maximum(a, b, out=out)


maximum.vjp(a=lambda g, a, b: _half_at_ties(g, np.greater(a, b), np.equal(a, b)),
            b=lambda g, a, b: _half_at_ties(g, np.less(a, b), np.equal(a, b)))


@primitive(domain=(REALS, REALS), broadcasts=True, elementwise=True, kinks=np.equal,
           reference=lambda a, b: np.where(a < b, a, b))
def minimum(a, b, /, *, out=None):
    """The smaller of two, element by element.

    Shapes: any two that broadcast together.

    Raises: ShapeError when they do not.

    Gradient: g to the smaller one; ½ g to each where they are equal.

    Example:
        >>> tg.minimum(np.array([1.0, 5.0]), 3.0)
        array([1., 3.])
    """
    return np.minimum(a, b, out=out)


minimum.vjp(a=lambda g, a, b: _half_at_ties(g, np.less(a, b), np.equal(a, b)),
            b=lambda g, a, b: _half_at_ties(g, np.greater(a, b), np.equal(a, b)))


@primitive(method="clip", domain=away_from(-1.0, 1.0), elementwise=True,
           kinks=lambda x, min, max: np.isin(x, [bound for bound in (min, max) if bound is not None]),
           sample=lambda rng: [((away_from(-1.0, 1.0).sample(rng, (3, 4)),), {"min": -1.0, "max": 1.0}),
                               ((away_from(1.0).sample(rng, (4,)),), {"max": 1.0})],
           reference=lambda x, min, max: np.where(
               x < (-np.inf if min is None else min), min, np.where(x > (np.inf if max is None else max), max, x)).astype(float))
def clip(x, /, *, min=None, max=None, out=None):
    """x held between two numbers; `min` or `max` may be None.

    Gradient: g strictly between the bounds, 0 at them and beyond.

    Example:
        >>> tg.clip(np.array([-2.0, 0.5, 2.0]), -1.0, 1.0)
        array([-1. ,  0.5,  1. ])
    """
    return np.clip(x, min, max, out=out)


def _inside(x, min, max):
    low = np.greater(x, -np.inf if min is None else min)
    return np.logical_and(low, np.less(x, np.inf if max is None else max))


clip.vjp(x=lambda g, x, min, max: np.where(_inside(x, min, max), g, 0))


def _comparison(name, method, symbol):
    def compare(a, b, /):
        return getattr(np, name)(a, b)

    compare.__name__ = compare.__qualname__ = name
    compare.__doc__ = f"""Whether a {symbol} b, element by element.

    Shapes: any two that broadcast together.

    Raises: ShapeError when they do not.

    Gradient: none, the result is boolean.

    Example:
        >>> tg.{name}(np.array([1.0, 2.0]), 2.0).shape
        (2,)
    """
    return primitive(compare, method=method, domain=(REALS, REALS), broadcasts=True, elementwise=True, kinks=np.equal).vjp(a=None, b=None)


greater = _comparison("greater", "__gt__", ">")
greater_equal = _comparison("greater_equal", "__ge__", "≥")
less = _comparison("less", "__lt__", "<")
less_equal = _comparison("less_equal", "__le__", "≤")
equal = _comparison("equal", "__eq__", "=")
not_equal = _comparison("not_equal", "__ne__", "≠")
logical_and = _comparison("logical_and", "__and__", "and")
logical_or = _comparison("logical_or", "__or__", "or")


@primitive(method="__invert__", elementwise=True)
def logical_not(x, /):
    """Whether x is false, element by element.

    Gradient: none, the result is boolean.

    Example:
        >>> tg.logical_not(np.array([True, False]))
        array([False,  True])
    """
    return np.logical_not(x)


logical_not.vjp(x=None)


@primitive(elementwise=True)
def isfinite(x, /):
    """Whether x is neither infinite nor nan, element by element.

    Gradient: none, the result is boolean.

    Example:
        >>> tg.isfinite(np.array([1.0, np.inf]))
        array([ True, False])
    """
    return np.isfinite(x)


isfinite.vjp(x=None)


@primitive(elementwise=True)
def isnan(x, /):
    """Whether x is nan, element by element.

    Gradient: none, the result is boolean.

    Example:
        >>> tg.isnan(np.array([1.0, np.nan]))
        array([False,  True])
    """
    return np.isnan(x)


isnan.vjp(x=None)
