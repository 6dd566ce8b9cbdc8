"""Cell: what the library's cells share, and the messages of a call that does not fit.

Knows a cell's parameters by name, its state of zeros, and the sizes and dtype that it is called with. Refuses to
know equations, time, layers and directions. Below it: module, init, tensor, errors.

A cell of your own needs none of this: any callable `cell(state, x) -> (state, y)` goes into `scan` and
`Recurrent`. Derive from `Cell` to get messages that know your sizes:

    class Leaky(tg.nn.Cell):
        def __init__(self, input_size, hidden_size, *, dtype=np.float64, rng=None):
            super().__init__(input_size, hidden_size)
            self.add(dtype, rng, weight_ih=(hidden_size, input_size), decay=(hidden_size,))

        def __call__(self, h, x):
            self.check(h, x)
            h = tg.sigmoid(self.decay) * h + x @ self.weight_ih.T
            return h, h
"""

import math

import numpy as np

from ..errors import ArgumentError, DtypeError, ShapeError, message
from ..tensor import Tensor, tensor
from . import init
from .module import Module, check_sizes


class Cell(Module):
    """What the library's cells share: parameters by name, a state of zeros, and the check of what they are called with.

    `input_size`, `hidden_size`, and `state_sizes`: a dict of name to size of the last axis of each part of the state.
    The state is one array when there is one part, and a tuple of arrays when there are several. `output_size` is y's
    last axis.

    Raises: DomainError for sizes below 1.

    Example:
        >>> class Sum(tg.nn.Cell):
        ...     def __init__(self, size):
        ...         super().__init__(size, size)
        ...         self.add(float, 0, weight_ih=(size, size))
        ...
        ...     def __call__(self, h, x):
        ...         self.check(h, x)
        ...         h = h + x @ self.weight_ih.T
        ...         return h, h
        >>> tg.nn.Recurrent(Sum(3))(np.ones((4, 2, 3)))[0].shape
        (4, 2, 3)
    """

    shown = ("input_size", "hidden_size")

    def __init__(self, input_size, hidden_size):
        check_sizes(f"{type(self).__name__}(input_size, hidden_size)", input_size=input_size, hidden_size=hidden_size)
        self.input_size, self.hidden_size = input_size, hidden_size
        self.state_sizes = {"h": hidden_size}

    output_size = property(lambda self: self.state_sizes["h"])

    def add(self, dtype, rng, **shapes):
        """Add parameters, drawn uniformly between ±1/√H as PyTorch's; one without a shape is the number 0."""
        rng, bound = init.generator(rng), 1 / math.sqrt(self.hidden_size)
        for name, shape in shapes.items():
            setattr(self, name, tensor(init.uniform(rng, shape, bound, dtype), requires_grad=True) if shape else 0.0)

    def initial_state(self, batch=()):
        """Zeros for a batch of this shape: () for none, (B,) for rows.

        Example:
            >>> [part.shape for part in tg.nn.LSTMCell(3, 5).initial_state((2,))]
            [(2, 5), (2, 5)]
        """
        parts = tuple(np.zeros((*batch, size), self.weight_ih.dtype) for size in self.state_sizes.values())
        return parts if len(parts) > 1 else parts[0]

    def check(self, state, x):
        """Raise unless state and x have this cell's sizes and dtype.

        Raises: ArgumentError for swapped arguments or a state of another structure, ShapeError, DtypeError.
        """
        parts = state if type(state) is tuple else (state,)
        shape, weight = getattr(x, "shape", ()), self.weight_ih
        if shape[-1:] == (self.input_size,) and fits(x, weight) and len(parts) == len(self.state_sizes):
            batch = shape[:-1]
            if all([getattr(part, "shape", None) == (*batch, size) and fits(part, weight)
                    for part, size in zip(parts, self.state_sizes.values())]):
                return
        raise self._misfit(state, x)

    def _misfit(self, state, x):
        """The error that says which of the things that `check` asks for does not hold."""
        name, sizes, weight = type(self).__name__, self.state_sizes, self.weight_ih
        who, form = f"{name}(state, x)", "h" if len(sizes) == 1 else f"({', '.join(sizes)})"
        facts = {"state": _seen(state), "x": _seen(x), "weight_ih": weight.shape,
                 "state is": f"{form} of {', '.join(map(str, sizes.values()))} columns"}
        if self._is_state(x) and not self._is_state(state):
            remedy = "Call cell(state, x): the state comes first, the other way round than in PyTorch."
            return ArgumentError(message(who, "state and x look swapped", facts, remedy))
        parts = state if isinstance(state, tuple) else (state,)
        if len(parts) != len(sizes) or type(state) is not tuple and len(sizes) > 1:
            return ArgumentError(message(who, f"the state is not {form}", facts,
                                         "Start from cell.initial_state((B,))."))
        for part, value in {**dict(zip(sizes, parts)), "x": x}.items():
            if not isinstance(value, (Tensor, np.ndarray)):
                return ArgumentError(message(who, f"{part} is not an array", {part: type(value).__name__},
                                             "Pass an array or a Tensor."))
            if not fits(value, weight):
                return wrong_dtype(who, part, value, "weight_ih", weight)
        facts = {"x": x.shape, "weight_ih": weight.shape}
        if x.shape[-1:] != (self.input_size,):
            remedy = f"Make the cell with input_size={columns(x)}, or feed it {self.input_size} columns."
            return ShapeError(message(who, f"x has {columns(x)} columns, this cell was made for {self.input_size}",
                                      facts, remedy))
        for (part, size), value in zip(sizes.items(), parts):
            if value.shape[-1:] != (size,):
                return ShapeError(message(who, f"{part} has {columns(value)} columns, this cell was made for {size}",
                                          {part: value.shape, **facts}, f"Make the cell with hidden_size="
                                          f"{columns(value)}, or start from cell.initial_state((B,))."))
            if value.shape[:-1] != x.shape[:-1]:
                return ShapeError(message(who, f"{part} and x have different batches", {part: value.shape, **facts},
                                          "Give both the same axes before the last one."))

    def _is_state(self, value):
        parts = value if isinstance(value, tuple) else (value,)
        return [getattr(part, "shape", ())[-1:] for part in parts] == [(size,) for size in self.state_sizes.values()]


def fits(x, weight):
    """Whether x can be used as it is: another float dtype would change the layer's, complex numbers pass."""
    dtype = getattr(x, "dtype", None)
    return dtype == weight.dtype or dtype is not None and "c" in (dtype.kind, weight.dtype.kind)


def wrong_dtype(who, part, value, name, weight):
    """The error for an array of another dtype than the layer's."""
    other = f", or make the layer with dtype=np.{value.dtype}" if value.dtype.kind == "f" else ""
    return DtypeError(message(who, f"{part} is {value.dtype}, this layer computes in {weight.dtype}",
                              {part: f"{value.shape} {value.dtype}", name: f"{weight.shape} {weight.dtype}"},
                              f"Pass {part}.astype(np.{weight.dtype}){other}."))


def columns(x):
    """The size of the last axis; 0 for an array without axes."""
    return x.shape[-1] if x.shape else 0


def _seen(value):
    parts = value if isinstance(value, (tuple, list)) else (value,)
    shown = ", ".join(str(getattr(part, "shape", type(part).__name__)) for part in parts)
    return f"a {type(value).__name__} of {shown}" if isinstance(value, (tuple, list)) else shown
