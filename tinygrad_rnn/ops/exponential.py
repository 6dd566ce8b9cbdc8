"""Exponential family and trigonometry: exp, expm1, log, log1p, logaddexp, sqrt, sin, cos, tan, sinh, cosh, arctan, sinc.

Knows these functions and their derivatives. Refuses to hide a domain error: NumPy's own warning for the
logarithm of a negative number stays. Below it: primitive, domains.
"""

import math

import numpy as np

from ..domains import POSITIVE, REALS, Interval, away_from
from ..primitive import primitive


@primitive(method="exp", domain=REALS, elementwise=True, analytic=True)
def exp(x, /, *, out=None):
    """Exponential of every element: eˣ.

    Gradient: smooth; g y.

    Example:
        >>> tg.exp(np.zeros(2))
        array([1., 1.])
    """
    return np.exp(x, out=out)


exp.vjp(x=lambda g, y: g * y)


@primitive(domain=REALS, elementwise=True, analytic=True)
def expm1(x, /, *, out=None):
    """eˣ − 1, exact near 0.

    Gradient: smooth; g eˣ (y + 1 would lose it for negative x).

    Example:
        >>> tg.expm1(np.array([0.0, 1e-20]))
        array([0.e+00, 1.e-20])
    """
    return np.expm1(x, out=out)


expm1.vjp(x=lambda g, x: g * np.exp(x))


@primitive(method="log", domain=POSITIVE, elementwise=True, analytic=True)
def log(x, /, *, out=None):
    """Natural logarithm.

    Gradient: g / x; infinite at 0. In `where(x > 0, log(x), 0)` the branch that is not taken still gives
    0 · inf = nan at 0: guard the argument too, `log(where(x > 0, x, 1))`.

    Example:
        >>> tg.log(np.array([1.0, np.e]))
        array([0., 1.])
    """
    return np.log(x, out=out)


log.vjp(x=lambda g, x: g / x)


@primitive(domain=Interval(-0.8, 3), elementwise=True, analytic=True)
def log1p(x, /, *, out=None):
    """log(1 + x), exact near 0.

    Gradient: g / (1 + x).

    Example:
        >>> tg.log1p(np.array([0.0, 1e-20]))
        array([0.e+00, 1.e-20])
    """
    return np.log1p(x, out=out)


log1p.vjp(x=lambda g, x: g / (1 + x))


@primitive(domain=(REALS, REALS), broadcasts=True, elementwise=True,
           reference=lambda a, b: np.log(np.exp(a) + np.exp(b)))
def logaddexp(a, b, /, *, out=None):
    """log(eᵃ + eᵇ) without overflow. Not analytic: it has no complex form.

    Shapes: any two that broadcast together.

    Raises: ShapeError when they do not.

    Gradient: g eᵃ⁻ʸ and g eᵇ⁻ʸ, which sum to g.

    Example:
        >>> round(float(tg.logaddexp(1000.0, 1000.0)), 6)
        1000.693147
    """
    return np.logaddexp(a, b, out=out)


def _share(x, y):
    """e^(x−y) ≤ 1, and 0 where both are −inf."""
    return np.exp(x - np.where(np.isfinite(y), y, 0.0))


logaddexp.vjp(a=lambda g, a, y: g * _share(a, y), b=lambda g, b, y: g * _share(b, y))


@primitive(method="sqrt", domain=POSITIVE, elementwise=True, analytic=True)
def sqrt(x, /, *, out=None):
    """Square root.

    Gradient: g / (2 y); infinite at 0.

    Example:
        >>> tg.sqrt(np.array([1.0, 4.0]))
        array([1., 2.])
    """
    return np.sqrt(x, out=out)


sqrt.vjp(x=lambda g, y: g * 0.5 / y)


@primitive(method="sin", domain=REALS, elementwise=True, analytic=True)
def sin(x, /, *, out=None):
    """Sine.

    Gradient: smooth; g cos x.

    Example:
        >>> tg.sin(np.zeros(2))
        array([0., 0.])
    """
    return np.sin(x, out=out)


sin.vjp(x=lambda g, x: g * np.cos(x))


@primitive(method="cos", domain=REALS, elementwise=True, analytic=True)
def cos(x, /, *, out=None):
    """Cosine.

    Gradient: smooth; −g sin x.

    Example:
        >>> tg.cos(np.zeros(2))
        array([1., 1.])
    """
    return np.cos(x, out=out)


cos.vjp(x=lambda g, x: -g * np.sin(x))


@primitive(domain=Interval(-1.3, 1.3), elementwise=True, analytic=True)
def tan(x, /, *, out=None):
    """Tangent.

    Gradient: g (1 + y²).

    Example:
        >>> tg.tan(np.zeros(2))
        array([0., 0.])
    """
    return np.tan(x, out=out)


tan.vjp(x=lambda g, y: g * (1 + y * y))


@primitive(domain=REALS, elementwise=True, analytic=True)
def sinh(x, /, *, out=None):
    """Hyperbolic sine.

    Gradient: smooth; g cosh x.

    Example:
        >>> tg.sinh(np.zeros(2))
        array([0., 0.])
    """
    return np.sinh(x, out=out)


sinh.vjp(x=lambda g, x: g * np.cosh(x))


@primitive(domain=REALS, elementwise=True, analytic=True)
def cosh(x, /, *, out=None):
    """Hyperbolic cosine.

    Gradient: smooth; g sinh x.

    Example:
        >>> tg.cosh(np.zeros(2))
        array([1., 1.])
    """
    return np.cosh(x, out=out)


cosh.vjp(x=lambda g, x: g * np.sinh(x))


@primitive(domain=REALS, elementwise=True, analytic=True)
def arctan(x, /, *, out=None):
    """Inverse tangent.

    Gradient: smooth; g / (1 + x²).

    Example:
        >>> tg.arctan(np.zeros(2))
        array([0., 0.])
    """
    return np.arctan(x, out=out)


arctan.vjp(x=lambda g, x: g / (1 + x * x))


@primitive(domain=away_from(0.0, margin=1e-3), elementwise=True, analytic=True,
           reference=lambda x: np.sin(np.pi * x) / (np.pi * x))
def sinc(x, /):
    """sin(πx) / (πx), and 1 at 0, as in NumPy.

    Gradient: g (cos πx − y) / x; by its power series near 0, so that every order is right there too.

    Example:
        >>> tg.sinc(np.array([0.0, 0.5])).round(3)
        array([1.   , 0.637])
    """
    return np.sinc(x)


# sinc'(x) = Σ_k (−1)^k π^2k 2k / (2k+1)! x^(2k−1): where x is small the closed form loses every digit
_SINC_SERIES = [(-1) ** k * math.pi ** (2 * k) * 2 * k / math.factorial(2 * k + 1) for k in range(1, 14)]


def _sinc_x(g, x, y):
    small = np.less(np.abs(x), 0.5)
    z = np.where(small, x, 0.5)
    series = 0.0
    for coefficient in reversed(_SINC_SERIES):
        series = series * (z * z) + coefficient
    return g * np.where(small, series * z, (np.cos(np.pi * x) - y) / np.where(small, 1.0, x))


sinc.vjp(x=_sinc_x)
