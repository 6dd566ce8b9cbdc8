"""Activations: tanh, sigmoid, softplus, relu, gelu, softmax, log_softmax.

Knows the squashing functions of recurrent cells, stable at ±1e3 and ±inf without a warning. Refuses to know
layers. Below it: primitive, domains.
"""

import math

import numpy as np

from ..domains import NONZERO, REALS
from ..primitive import composite, primitive


@primitive(method="tanh", domain=REALS, elementwise=True, analytic=True,
           reference=lambda x: (np.exp(x) - np.exp(-x)) / (np.exp(x) + np.exp(-x)))
def tanh(x, /, *, out=None):
    """Hyperbolic tangent of every element: (eˣ − e⁻ˣ) / (eˣ + e⁻ˣ).

    Gradient: smooth; g (1 − y²).

    Example:
        >>> tg.tanh(np.array([0.0, np.inf]))
        array([0., 1.])
    """
    return np.tanh(x, out=out)


tanh.vjp(x=lambda g, y: g * (1 - y * y))


@primitive(method="sigmoid", domain=REALS, elementwise=True, analytic=True,
           reference=lambda x: 0.5 + 0.5 * np.tanh(0.5 * x))
def sigmoid(x, /, *, out=None):
    """Logistic function: 1 / (1 + e⁻ˣ).

    Gradient: smooth; g y (1 − y).

    Example:
        >>> tg.sigmoid(np.array([0.0, 1000.0]))
        array([0.5, 1. ])
    """
    e = np.exp(np.minimum(np.negative(x), x))  # e^-|x|, spelled so that it is analytic on both sides
    return np.divide(np.exp(np.minimum(x, 0), out=out), np.add(e, 1), out=out)


sigmoid.vjp(x=lambda g, y: g * (y * (1 - y)))


@primitive(method="softplus", domain=REALS, elementwise=True,
           reference=lambda x: np.log(1 + np.exp(x)))
def softplus(x, /, *, out=None):
    """log(1 + eˣ) without overflow.

    Gradient: smooth; g σ(x), which is 1 at +inf.

    Example:
        >>> tg.softplus(np.array([-1000.0, 1000.0]))
        array([   0., 1000.])
    """
    with np.errstate(invalid="ignore"):  # logaddexp warns of a nan that comes in
        return np.logaddexp(x, 0.0, out=out)


softplus.vjp(x=lambda g, x: g * sigmoid(x))


@primitive(method="relu", domain=NONZERO, elementwise=True, kinks=(0.0,),
           reference=lambda x: np.where(x > 0, x, 0.0))
def relu(x, /, *, out=None):
    """max(x, 0).

    Gradient: g where x > 0, else 0; at the kink 0 it is 0.

    Example:
        >>> tg.relu(np.array([-1.0, 2.0]))
        array([0., 2.])
    """
    return np.maximum(x, 0, out=out)


relu.vjp(x=lambda g, y: np.where(np.greater(y, 0), g, 0))


@composite(method="gelu")
def gelu(x):
    """x Φ(x) in the tanh form: ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))).

    Gradient: smooth.

    Source: Hendrycks and Gimpel, "Gaussian Error Linear Units" (2016), the approximation; within 1e-3 of the erf form.

    Example:
        >>> tg.gelu(np.array([0.0, 10.0]))
        array([ 0., 10.])
    """
    return 0.5 * x * (1.0 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))


def _shifted(x, axis):
    top = np.max(x, axis=axis, keepdims=True)
    return x - np.where(np.isfinite(top), top, 0)


def _axis_later(op):
    """The op over time: every axis counts one more, unless it is counted from the end."""
    def over_time(T, stacked, x, *, axis):
        return op(x, axis=axis + 1 if axis >= 0 else axis)

    return over_time


@primitive(method="softmax", domain=REALS, sample=lambda rng: [((rng.normal(size=(3, 4)),), {"axis": a}) for a in (-1, 0)],
           reference=lambda x, axis: np.exp(x) / np.exp(x).sum(axis, keepdims=True),
           over_time=lambda T, stacked, x, *, axis: _axis_later(softmax)(T, stacked, x, axis=axis),
           faults=[((np.ones((2, 3)),), {"axis": 2}, "axis is out of range")])
def softmax(x, /, *, axis=-1):
    """eˣ / Σ eˣ along an axis, shifted by the maximum of that axis.

    Shapes: x (…, n, …), the result too; it sums to 1 along `axis`.

    Raises: ShapeError for an axis that x does not have.

    Gradient: y (g − Σ g y). A row that is all −inf has no distribution: it gives nan.

    Example:
        >>> tg.softmax(np.array([1000.0, 1000.0, -np.inf]))
        array([0.5, 0.5, 0. ])
    """
    e = np.exp(_shifted(x, axis))
    with np.errstate(invalid="ignore"):
        return e / np.sum(e, axis=axis, keepdims=True)


softmax.vjp(x=lambda g, y, axis: y * (g - np.sum(g * y, axis=axis, keepdims=True)))


@primitive(method="log_softmax", domain=REALS, sample=lambda rng: [((rng.normal(size=(3, 4)),), {"axis": a}) for a in (-1, 0)],
           reference=lambda x, axis: x - np.log(np.exp(x).sum(axis, keepdims=True)),
           over_time=lambda T, stacked, x, *, axis: _axis_later(log_softmax)(T, stacked, x, axis=axis),
           faults=[((np.ones((2, 3)),), {"axis": 2}, "axis is out of range")])
def log_softmax(x, /, *, axis=-1):
    """x − log Σ eˣ along an axis: the logarithm of `softmax`, exact where that would underflow.

    Shapes: x (…, n, …), the result too.

    Raises: ShapeError for an axis that x does not have.

    Gradient: g − eʸ Σ g.

    Example:
        >>> tg.log_softmax(np.array([1000.0, 0.0]))
        array([    0., -1000.])
    """
    z = _shifted(x, axis)
    with np.errstate(divide="ignore"):
        return z - np.log(np.sum(np.exp(z), axis=axis, keepdims=True))


log_softmax.vjp(x=lambda g, y, axis: g - np.exp(y) * np.sum(g, axis=axis, keepdims=True))
