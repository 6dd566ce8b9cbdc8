"""A second opinion: reverse mode over single numbers, in Python floats.

It shares nothing with the library. NumPy's arrays of objects do the broadcasting, the products of matrices, the
reductions and the indexing, so a program written with NumPy's names runs on `boxed` scalars as it runs on Tensors.
Partial derivatives are scalars again, made when they are asked for, so every order of derivative is there.
"""

import math

import numpy as np


class Scalar:
    """A number, and for each number it was computed from a function that gives the partial derivative."""

    def __init__(self, value, *parents):
        self.value, self.parents = float(value), parents

    def __add__(self, other):
        other = scalar(other)
        return Scalar(self.value + other.value, (self, lambda: 1.0), (other, lambda: 1.0))

    def __mul__(self, other):
        other = scalar(other)
        return Scalar(self.value * other.value, (self, lambda: other), (other, lambda: self))

    def __truediv__(self, other):
        other = scalar(other)
        return Scalar(self.value / other.value, (self, lambda: 1.0 / other), (other, lambda: -self / (other * other)))

    def __pow__(self, n):
        return Scalar(self.value ** n, (self, lambda: n * self ** (n - 1)))

    def __neg__(self):
        return -1.0 * self

    def __sub__(self, other):
        return self + -1.0 * scalar(other)

    def __rsub__(self, other):
        return scalar(other) - self

    def __rtruediv__(self, other):
        return scalar(other) / self

    __radd__, __rmul__ = __add__, __mul__

    def tanh(self):
        y = Scalar(math.tanh(self.value), (self, lambda: 1.0 - y * y))
        return y

    def exp(self):
        y = Scalar(math.exp(self.value), (self, lambda: y))
        return y

    def log(self):
        return Scalar(math.log(self.value), (self, lambda: 1.0 / self))

    def sin(self):
        return Scalar(math.sin(self.value), (self, self.cos))

    def cos(self):
        return Scalar(math.cos(self.value), (self, lambda: -self.sin()))

    def sqrt(self):
        y = Scalar(math.sqrt(self.value), (self, lambda: 0.5 / y))
        return y

    def __lt__(self, other):
        return self.value < scalar(other).value

    def __gt__(self, other):
        return self.value > scalar(other).value


def scalar(x):
    return x if isinstance(x, Scalar) else Scalar(x)


def boxed(x):
    """An array of scalars of an array of numbers; what NumPy unpacked is put into an array again."""
    if isinstance(x, np.ndarray) and x.dtype == object:
        return x
    out = np.empty(np.shape(x), object)
    out[...] = x if isinstance(x, Scalar) else np.vectorize(Scalar, otypes=[object])(x) if np.size(x) else x
    return out


def values(xs):
    return np.array([scalar(x).value for x in xs.flat]).reshape(xs.shape)


def gradient(y, xs):
    """Arrays of scalars: the derivatives of the scalar y with respect to the arrays of scalars `xs`."""
    order, seen, stack = [], set(), [(y, False)]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif id(node) not in seen:
            seen.add(id(node))
            stack.append((node, True))
            stack += [(parent, False) for parent, _ in node.parents]
    slopes = {id(y): Scalar(1.0)}
    for node in reversed(order):
        for parent, partial in node.parents if id(node) in slopes else ():
            slopes[id(parent)] = slopes.get(id(parent), Scalar(0.0)) + slopes[id(node)] * partial()
    found = [np.empty(a.shape, object) for a in xs]
    for a, g in zip(xs, found):
        for i in np.ndindex(a.shape):
            g[i] = slopes.get(id(a[i]), Scalar(0.0))
    return found
