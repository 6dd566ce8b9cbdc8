"""Variants: cells of twenty lines, to be read as examples: minimal gated unit, IndRNN, layer-norm LSTM.

Knows their equations. Refuses everything else, as a cell of yours may: parameters, a check, the equations.
Below it: ops, cell, functional.
"""

import numpy as np

from ..ops import relu, sigmoid, split, tanh
from .cell import Cell
from .functional import layer_norm


class MGUCell(Cell):
    """Minimal gated unit: a GRU whose one gate both resets and updates; y = h'.

        f = σ(W_if x + W_hf h + b_f);  n = tanh(W_in x + W_hn (f h) + b_n);  h' = (1 − f) h + f n

    Shapes: x (…, I), h (…, H); weight_ih (2H, I), weight_hh (2H, H), bias_ih (2H,), in the order f, n.

    Raises: DomainError for sizes below 1; ArgumentError, ShapeError and DtypeError for a call that does not fit.

    Source: Zhou et al., "Minimal gated unit for recurrent neural networks" (2016).

    Example:
        >>> cell = tg.nn.MGUCell(3, 5, rng=0)
        >>> tg.scan(cell, cell.initial_state(), np.zeros((7, 3)))[1].shape
        (7, 5)
    """

    def __init__(self, input_size, hidden_size, *, dtype=np.float64, rng=None):
        super().__init__(input_size, hidden_size)
        H = hidden_size
        self.add(dtype, rng, weight_ih=(2 * H, input_size), weight_hh=(2 * H, H), bias_ih=(2 * H,))

    def __call__(self, h, x):
        self.check(h, x)
        H = self.hidden_size
        xf, xn = split(x @ self.weight_ih.T + self.bias_ih, 2, -1)
        f = sigmoid(xf + h @ self.weight_hh[:H].T)
        n = tanh(xn + (f * h) @ self.weight_hh[H:].T)
        h = h + f * (n - h)
        return h, h


class IndRNNCell(Cell):
    """Independently recurrent cell: each unit sees only itself; y = h'.

        h' = relu(W_ih x + b_ih + u h)

    Shapes: x (…, I), h (…, H); weight_ih (H, I), weight_hh (H,), bias_ih (H,).

    Raises: DomainError for sizes below 1; ArgumentError, ShapeError and DtypeError for a call that does not fit.

    Source: Li et al., "Independently recurrent neural network" (2018).

    Example:
        >>> cell = tg.nn.IndRNNCell(3, 5, rng=0)
        >>> tg.scan(cell, cell.initial_state(), np.zeros((7, 3)))[1].shape
        (7, 5)
    """

    def __init__(self, input_size, hidden_size, *, dtype=np.float64, rng=None):
        super().__init__(input_size, hidden_size)
        self.add(dtype, rng, weight_ih=(hidden_size, input_size), weight_hh=(hidden_size,), bias_ih=(hidden_size,))

    def __call__(self, h, x):
        self.check(h, x)
        h = relu(x @ self.weight_ih.T + self.bias_ih + self.weight_hh * h)
        return h, h


class LayerNormLSTMCell(Cell):
    """LSTM whose two products and whose cell are normalised; the state is (h, c) and y = h'.

        i, f, g, o = the four parts of N(W_ih x) s_ih + N(W_hh h) s_hh + b_ih
        c' = σ(f) c + σ(i) tanh(g);  h' = σ(o) tanh(N(c') s_c + b_c)

    N is `functional.layer_norm`; scales start at 1, shifts at 0. The shifts of the first two would only repeat b_ih.

    Shapes: x (…, I), h and c (…, H); weight_ih (4H, I), weight_hh (4H, H), bias_ih, scale_ih, scale_hh (4H,), scale_c,
    bias_c (H,).

    Raises: DomainError for sizes below 1; ArgumentError, ShapeError and DtypeError for a call that does not fit.

    Source: Ba et al., "Layer normalization" (2016), equations 29 to 31.

    Example:
        >>> cell = tg.nn.LayerNormLSTMCell(3, 5, rng=0)
        >>> tg.scan(cell, cell.initial_state(), np.zeros((7, 3)))[1].shape
        (7, 5)
    """

    def __init__(self, input_size, hidden_size, *, dtype=np.float64, rng=None):
        super().__init__(input_size, hidden_size)
        H = hidden_size
        self.state_sizes = {"h": H, "c": H}
        self.add(dtype, rng, weight_ih=(4 * H, input_size), weight_hh=(4 * H, H), bias_ih=(4 * H,),
                 scale_ih=(4 * H,), scale_hh=(4 * H,), scale_c=(H,), bias_c=(H,))
        for p, value in ((self.scale_ih, 1), (self.scale_hh, 1), (self.scale_c, 1), (self.bias_c, 0)):
            p.data = np.full(p.shape, value)

    def __call__(self, state, x):
        self.check(state, x)
        h, c = state
        z = layer_norm(x @ self.weight_ih.T, self.scale_ih, self.bias_ih)
        i, f, g, o = split(z + layer_norm(h @ self.weight_hh.T, self.scale_hh), 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(layer_norm(c, self.scale_c, self.bias_c))
        return (h, c), h
