"""RNN, LSTM, GRU: stacks of one kind of cell, called and named as in PyTorch.

Knows PyTorch's constructor arguments, shapes, returns and parameter names (`weight_ih_l0_reverse`). Refuses to know
equations (the cells do) and time (`Recurrent` does). Below it: recurrent, cells.
"""

import copy

import numpy as np

from ..errors import ShapeError, message
from ..ops import stack
from . import init
from .cell import columns, fits, wrong_dtype
from .cells import GRUCell, LSTMCell, RNNCell
from .module import check_sizes
from .recurrent import Recurrent


class _Stack(Recurrent):
    """`num_layers` of one kind of cell; the subclasses say which."""

    cell: type

    def __init__(self, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, return_state,
                 dtype, rng, **options):
        check_sizes(f"{type(self).__name__}(input_size, hidden_size, num_layers)", input_size=input_size,
                    hidden_size=hidden_size, num_layers=num_layers)
        rng, directions = init.generator(rng), 2 if bidirectional else 1
        sizes = [input_size] + [directions * (options.get("proj_size") or hidden_size)] * (num_layers - 1)
        cells = [self.cell(size, hidden_size, bias, dtype=dtype, rng=rng, **options) for size in sizes
                 for _ in range(directions)]
        super().__init__(cells, bidirectional=bidirectional, batch_first=batch_first, dropout=dropout,
                         return_state=return_state, rng=rng)
        self.input_size, self.hidden_size, self.bias = input_size, hidden_size, bool(bias)

    # ---- PyTorch's names ------------------------------------------------------------------------------------

    def _suffixes(self):
        return [f"_l{i // self.directions}{'_reverse' if i % self.directions else ''}" for i in range(len(self.cells))]

    def tree_children(self):
        """The parameters of all cells under PyTorch's names."""
        return {name + suffix: p for cell, suffix in zip(self.cells, self._suffixes())
                for name, p in cell.tree_children().items()}

    def tree_replace(self, children):
        """A copy with cells that hold these parameters."""
        new = copy.copy(self)
        new.cells = [cell.tree_replace({name: children[name + suffix] for name in cell.tree_children()})
                     for cell, suffix in zip(self.cells, self._suffixes())]
        return new

    def _cell_of(self, name):
        """The cell that holds the parameter of this name, and what the cell calls it."""
        if "cells" in self.__dict__ and "_l" in name:
            for cell, suffix in zip(self.cells, self._suffixes()):
                if name.endswith(suffix) and (own := name.removesuffix(suffix)) in cell.tree_children():
                    return cell, own
        return None, name

    def __getattr__(self, name):
        cell, own = self._cell_of(name)
        if cell is None:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(cell, own)

    def __setattr__(self, name, value):
        cell, own = self._cell_of(name)
        object.__setattr__(self if cell is None else cell, own, value)

    # ---- PyTorch's call -------------------------------------------------------------------------------------

    def __call__(self, input, hx=None, *, lengths=None, **options):
        self._check(input, hx)
        parts = None if hx is None else hx if isinstance(hx, (tuple, list)) else (hx,)
        rows = None if parts is None else zip(*(self._unstacked(part) for part in parts))
        states = None if rows is None else [row if len(row) > 1 else row[0] for row in rows]
        output, states = self.run(input, states, lengths, options)
        if not self.return_state:
            return output
        if isinstance(states[0], tuple):
            return output, tuple(stack(list(part)) for part in zip(*states))
        return output, stack(states)

    def _unstacked(self, part):
        return [part[i] for i in range(len(self.cells))]

    def _check(self, input, hx):
        """Raise unless input and hx have this layer's sizes and dtype."""
        name, sizes, weight = type(self).__name__, self.cells[0].state_sizes, self.cells[0].weight_ih
        who, shape = f"{name}(input, hx)", getattr(input, "shape", ())
        form = "(B, T, I) or (T, I)" if self.batch_first else "(T, B, I) or (T, I)"
        if len(shape) not in (2, 3):
            raise ShapeError(message(who, "input is not a sequence", {"input": shape or type(input).__name__},
                                     f"Pass an array of shape {form}."))
        if shape[-1] != self.input_size:
            remedy = f"Make the layer with input_size={columns(input)}, or feed it {self.input_size} columns."
            raise ShapeError(message(who,
                                     f"input has {columns(input)} columns, this layer was made for {self.input_size}",
                                     {"input": shape, "weight_ih_l0": weight.shape}, remedy))
        if not fits(input, weight):
            raise wrong_dtype(who, "input", input, "weight_ih_l0", weight)
        if hx is None:
            return
        parts = hx if isinstance(hx, (tuple, list)) else (hx,)
        names = {"h_0": sizes["h"], "c_0": sizes.get("c")} if len(sizes) > 1 else {"hx": sizes["h"]}
        if len(parts) != len(names) or len(names) > 1 and not isinstance(hx, (tuple, list)):
            raise ShapeError(message(who, f"hx is not {' and '.join(names)}", {"hx": f"{len(parts)} array(s)"},
                                     f"Pass ({', '.join(names)}), as the layer returns it."))
        batch = () if len(shape) == 2 else (shape[0 if self.batch_first else 1],)
        for (part, size), value in zip(names.items(), parts):
            needed = (len(self.cells), *batch, size)
            if getattr(value, "shape", None) != needed:
                raise ShapeError(message(who, f"{part} does not have the shape of this layer's state",
                                         {"input": shape, part: getattr(value, "shape", type(value).__name__),
                                          "needed": needed},
                                         "Pass one state per layer and direction, for the batch of the input."))
            if not fits(value, weight):
                raise wrong_dtype(who, part, value, "weight_ih_l0", weight)


class RNN(_Stack):
    """Layers of `RNNCell`: `output, h_n = layer(input, h_0)`, as torch.nn.RNN.

    Called as `layer(input, hx=None, *, lengths=None, **options)`. `lengths` (B,) stands for PyTorch's packed sequences:
    outputs past a row's end are 0, its state is that of its last step. Options go to `scan`.

    Shapes: input (T, B, I), (B, T, I) with batch_first, or (T, I); output the same with D·H columns, D the number of
    directions; h_0 and h_n (L·D, B, H). For each layer k, and again with `_reverse`: weight_ih_lk (H, I or D·H),
    weight_hh_lk (H, H), bias_ih_lk, bias_hh_lk (H,).

    Raises: DomainError for sizes below 1; ShapeError and DtypeError that name the argument, the parameter and both
    sizes.

    Gradient: that of the loop at every order; with T = 0 the state goes through unchanged, and so does its gradient.

    Source: torch.nn.RNN. Beyond it: "sigmoid" and "identity", `lengths`, `return_state`, and `rng` for weights and
    masks.

    Example:
        >>> layer = tg.nn.RNN(3, 5, num_layers=2, bidirectional=True, rng=0)
        >>> output, h_n = layer(np.zeros((7, 2, 3)))
        >>> output.shape, h_n.shape
        ((7, 2, 10), (4, 2, 5))
    """

    cell = RNNCell
    shown = ("input_size", "hidden_size", "num_layers=1", "nonlinearity='tanh'", "bias=True", *Recurrent.shown)

    def __init__(self, input_size, hidden_size, num_layers=1, nonlinearity="tanh", bias=True, batch_first=False,
                 dropout=0.0, bidirectional=False, *, return_state=True, dtype=np.float64, rng=None):
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, return_state,
                         dtype, rng, nonlinearity=nonlinearity)
        self.nonlinearity = nonlinearity


class LSTM(_Stack):
    """Layers of `LSTMCell`: `output, (h_n, c_n) = layer(input, (h_0, c_0))`, as torch.nn.LSTM.

    Called as `RNN` is.

    Shapes: input (T, B, I), (B, T, I) with batch_first, or (T, I); output the same with D·H columns, D the number of
    directions; h_0 and h_n (L·D, B, H), c_0 and c_n too. For each layer k, and again with `_reverse`: weight_ih_lk (4H,
    I or D·H), weight_hh_lk (4H, H), bias_ih_lk, bias_hh_lk (4H,), gates in the order i, f, g, o. With proj_size P every
    h has P columns in place of H, and weight_hr_lk is (P, H).

    Raises: DomainError for sizes below 1; ShapeError and DtypeError that name the argument, the parameter and both
    sizes.

    Gradient: that of the loop at every order; with T = 0 the state goes through unchanged, and so does its gradient.

    Source: torch.nn.LSTM. Beyond it: `lengths`, `return_state`, and `rng` for weights and masks.

    Example:
        >>> layer = tg.nn.LSTM(3, 5, num_layers=2, bidirectional=True, rng=0)
        >>> output, (h_n, c_n) = layer(np.zeros((7, 2, 3)))
        >>> output.shape, c_n.shape
        ((7, 2, 10), (4, 2, 5))
    """

    cell = LSTMCell
    shown = ("input_size", "hidden_size", "num_layers=1", "bias=True", "proj_size=0", *Recurrent.shown)

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
                 bidirectional=False, proj_size=0, *, return_state=True, dtype=np.float64, rng=None):
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, return_state,
                         dtype, rng, proj_size=proj_size)
        self.proj_size = proj_size


class GRU(_Stack):
    """Layers of `GRUCell`: `output, h_n = layer(input, h_0)`, as torch.nn.GRU.

    Called as `RNN` is. The reset gate acts after the product with h; for Cho's form put `GRUCell(…, reset_after=False)`
    into `Recurrent`.

    Shapes: input (T, B, I), (B, T, I) with batch_first, or (T, I); output the same with D·H columns, D the number of
    directions; h_0 and h_n (L·D, B, H). For each layer k, and again with `_reverse`: weight_ih_lk (3H, I or D·H),
    weight_hh_lk (3H, H), bias_ih_lk, bias_hh_lk (3H,), gates in the order r, z, n.

    Raises: DomainError for sizes below 1; ShapeError and DtypeError that name the argument, the parameter and both
    sizes.

    Gradient: that of the loop at every order; with T = 0 the state goes through unchanged, and so does its gradient.

    Source: torch.nn.GRU. Beyond it: `lengths`, `return_state`, and `rng` for weights and masks.

    Example:
        >>> layer = tg.nn.GRU(3, 5, num_layers=2, bidirectional=True, rng=0)
        >>> output, h_n = layer(np.zeros((7, 2, 3)))
        >>> output.shape, h_n.shape
        ((7, 2, 10), (4, 2, 5))
    """

    cell = GRUCell
    shown = ("input_size", "hidden_size", "num_layers=1", "bias=True", *Recurrent.shown)

    def __init__(self, input_size, hidden_size, num_layers=1, bias=True, batch_first=False, dropout=0.0,
                 bidirectional=False, *, return_state=True, dtype=np.float64, rng=None):
        super().__init__(input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, return_state,
                         dtype, rng)
