"""Arithmetic: add, subtract, multiply, divide, negative, power, square, absolute, sign, and rounding.

Knows the arithmetic of arrays and its derivatives, one declaration an op. Refuses to know broadcasting: the
engine sums a cotangent over the axes along which its input was repeated. Below it: primitive, domains.
"""

import numpy as np

from ..domains import NONZERO, POSITIVE, REALS
from ..primitive import primitive


@primitive(method="__add__ __radd__", domain=(REALS, REALS), broadcasts=True, elementwise=True, analytic=True,
           faults=[((np.ones(2), np.ones(3)), {}, "the shapes do not broadcast together")])
def add(a, b, /, *, out=None):
    """Sum of two arrays: a + b.

    Shapes: any two that broadcast together.

    Raises: ShapeError when they do not.

    Gradient: smooth; g for both.

    Example:
        >>> tg.add(np.ones(2), 1.0)
        array([2., 2.])
    """
    return np.add(a, b, out=out)


add.vjp(a=lambda g: g, b=lambda g: g)


@primitive(method="__sub__ __rsub__", domain=(REALS, REALS), broadcasts=True, elementwise=True, analytic=True)
def subtract(a, b, /, *, out=None):
    """Difference of two arrays: a − b.

    Shapes: any two that broadcast together.

    Raises: ShapeError when they do not.

    Gradient: smooth; g and −g.

    Example:
        >>> tg.subtract(np.ones(2), 3.0)
        array([-2., -2.])
    """
    return np.subtract(a, b, out=out)


subtract.vjp(a=lambda g: g, b=lambda g: -g)


@primitive(method="__mul__ __rmul__", domain=(REALS, REALS), broadcasts=True, elementwise=True, analytic=True)
def multiply(a, b, /, *, out=None):
    """Product of two arrays, element by element: a · b.

    Shapes: any two that broadcast together.

    Raises: ShapeError when they do not.

    Gradient: smooth; g b and g a.

    Example:
        >>> tg.multiply(np.array([1.0, 2.0]), 3.0)
        array([3., 6.])
    """
    return np.multiply(a, b, out=out)


multiply.vjp(a=lambda g, b: g * b, b=lambda g, a: g * a)


@primitive(method="__truediv__ __rtruediv__", domain=(REALS, NONZERO), broadcasts=True, elementwise=True, analytic=True)
def divide(a, b, /, *, out=None):
    """Quotient of two arrays: a / b.

    Shapes: any two that broadcast together.

    Raises: ShapeError when they do not.

    Gradient: g / b and −g a / b²; smooth where b is not 0.

    Example:
        >>> tg.divide(np.array([1.0, 2.0]), 4.0)
        array([0.25, 0.5 ])
    """
    return np.divide(a, b, out=out)


divide.vjp(a=lambda g, b: g / b, b=lambda g, b, y: -g * y / b)


@primitive(method="__neg__", domain=REALS, elementwise=True, analytic=True)
def negative(x, /, *, out=None):
    """Sign reversed: −x.

    Gradient: smooth; −g.

    Example:
        >>> tg.negative(np.array([1.0, -2.0]))
        array([-1.,  2.])
    """
    return np.negative(x, out=out)


negative.vjp(x=lambda g: -g)


@primitive(method="__pow__ __rpow__", domain=(POSITIVE, REALS), broadcasts=True, elementwise=True, analytic=True)
def power(a, b, /, *, out=None):
    """a to the power b.

    Shapes: any two that broadcast together.

    Raises: ShapeError when they do not.

    Gradient: g b a^(b−1) and g a^b log a. Where b is 0 the first is 0, also at a = 0; where a is 0 the second is 0.

    Example:
        >>> tg.power(np.array([1.0, 2.0]), 3)
        array([1., 8.])
    """
    if type(b) in (int, float) and b == 2 and (type(b) is int or type(a) is float or isinstance(a, np.ndarray) and a.dtype.kind == "f"):
        return np.square(a, out=out)  # np.power is an order of magnitude slower
    return np.power(a, b, out=out)


def _power_base(g, a, b):
    if isinstance(b, (int, float)):
        return g * 0.0 if b == 0 else g * 2 * a if b == 2 else g * (b * a ** (b - 1))
    corner = np.logical_and(np.equal(a, 0), np.equal(b, 0))  # elsewhere b − 1 stays as it is, for the derivative by b
    return g * b * a ** np.where(corner, 1.0, b - 1)


def _power_exponent(g, a, y):
    return g * y * np.log(np.where(np.equal(a, 0), 1.0, a))


power.vjp(a=_power_base, b=_power_exponent)


@primitive(method="square", domain=REALS, elementwise=True, analytic=True)
def square(x, /, *, out=None):
    """Square of every element: x².

    Gradient: smooth; 2 g x.

    Example:
        >>> tg.square(np.array([1.0, -3.0]))
        array([1., 9.])
    """
    return np.square(x, out=out)


square.vjp(x=lambda g, x: g * 2 * x)


@primitive(method="__abs__ abs", domain=NONZERO, elementwise=True, kinks=(0.0,))
def absolute(x, /, *, out=None):
    """Absolute value: |x|. Not analytic: the complex step does not see through it.

    Gradient: g sign(x); at the kink 0 it is 0.

    Example:
        >>> tg.absolute(np.array([1.0, -2.0]))
        array([1., 2.])
    """
    return np.absolute(x, out=out)


absolute.vjp(x=lambda g, x: g * np.sign(x))


@primitive(domain=NONZERO, elementwise=True, kinks=(0.0,))
def sign(x, /, *, out=None):
    """−1, 0 or 1.

    Gradient: none (0 wherever it exists).

    Example:
        >>> tg.sign(np.array([5.0, -2.0, 0.0]))
        array([ 1., -1.,  0.])
    """
    return np.sign(x, out=out)


sign.vjp(x=None)


@primitive(method="__floor__", domain=REALS, elementwise=True, kinks=lambda x: np.equal(x, np.floor(x)))
def floor(x, /, *, out=None):
    """The largest integer that is not above x.

    Gradient: none (0 wherever it exists).

    Example:
        >>> tg.floor(np.array([1.5, -0.5]))
        array([ 1., -1.])
    """
    return np.floor(x, out=out)


floor.vjp(x=None)
