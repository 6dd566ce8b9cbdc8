"""The ops: one file a family, one declaration an op. This file only gathers their names."""

from . import dialect as dialect
from .activation import gelu, log_softmax, relu, sigmoid, softmax, softplus, tanh
from .arithmetic import absolute, add, divide, floor, multiply, negative, power, sign, square, subtract
from .exponential import arctan, cos, cosh, exp, expm1, log, log1p, logaddexp, sin, sinc, sinh, sqrt, tan
from .indexing import PLACE, gather, getitem, scatter_add, take
from .linear import diagonal, dot, einsum, matmul, outer, tensordot, trace, tril, triu
from .reduction import cumsum, logsumexp, max, mean, min, norm, prod, std, sum, var
from .selection import (
    clip, equal, greater, greater_equal, isfinite, isnan, less, less_equal, logical_and, logical_not,
    logical_or, maximum, minimum, not_equal, where,
)
from .shape import (
    astype, broadcast_to, concatenate, expand_dims, flip, identity, moveaxis, pad, ravel, reshape, roll,
    split, squeeze, stack, stop_gradient, swapaxes, transpose, unstack,
)

abs = absolute  # NumPy's other name for it

__all__ = [
    "gelu", "log_softmax", "relu", "sigmoid", "softmax", "softplus", "tanh",
    "absolute", "add", "divide", "floor", "multiply", "negative", "power", "sign", "square", "subtract", "abs",
    "arctan", "cos", "cosh", "exp", "expm1", "log", "log1p", "logaddexp", "sin", "sinc", "sinh", "sqrt", "tan",
    "PLACE", "gather", "getitem", "scatter_add", "take",
    "diagonal", "dot", "einsum", "matmul", "outer", "tensordot", "trace", "tril", "triu",
    "cumsum", "logsumexp", "max", "mean", "min", "norm", "prod", "std", "sum", "var",
    "clip", "equal", "greater", "greater_equal", "isfinite", "isnan", "less", "less_equal", "logical_and",
    "logical_not", "logical_or", "maximum", "minimum", "not_equal", "where",
    "astype", "broadcast_to", "concatenate", "expand_dims", "flip", "identity", "moveaxis", "pad", "ravel",
    "reshape", "roll", "split", "squeeze", "stack", "stop_gradient", "swapaxes", "transpose", "unstack",
]
