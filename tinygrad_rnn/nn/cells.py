"""The cells: RNN, LSTM and GRU, as PyTorch writes them, for one step: `cell(state, x) -> (state, y)`.

Knows their equations, and PyTorch's names, shapes and gate order of the parameters. Refuses to know time, layers,
directions and dropout: `scan` and the containers do. Below it: ops, cell.

The products with x and with h are one matrix product each over all gates; the gates are parts of the sum. Where
only the sum of the two biases is needed they are added first: that sum then waits outside the loop over time.
"""

import numpy as np

from ..errors import DomainError, message
from ..ops import relu, sigmoid, split, tanh
from .cell import Cell
from .module import check_sizes

NONLINEARITIES = {"tanh": tanh, "relu": relu, "sigmoid": sigmoid, "identity": lambda z: z}


class RNNCell(Cell):
    """Elman's cell: h' = φ(W_ih x + b_ih + W_hh h + b_hh), and y = h'.

    φ is "tanh", "relu", "sigmoid" or "identity".

    Shapes: x (…, I), h (…, H); weight_ih (H, I), weight_hh (H, H), bias_ih, bias_hh (H,).

    Raises: DomainError for sizes below 1 or another nonlinearity; ArgumentError, ShapeError and DtypeError for a call
    that does not fit, also for arguments in PyTorch's order.

    Source: Elman, "Finding structure in time" (1990); parameters as torch.nn.RNNCell.

    Example:
        >>> cell = tg.nn.RNNCell(3, 5, rng=0)
        >>> state, ys = tg.scan(cell, cell.initial_state((2,)), np.zeros((7, 2, 3)))
        >>> ys.shape
        (7, 2, 5)
    """

    shown = ("input_size", "hidden_size", "bias=True", "nonlinearity='tanh'")

    def __init__(self, input_size, hidden_size, bias=True, nonlinearity="tanh", *, dtype=np.float64, rng=None):
        super().__init__(input_size, hidden_size)
        if nonlinearity not in NONLINEARITIES:
            raise DomainError(message("RNNCell(…)", "there is no such nonlinearity",
                                      {"nonlinearity": repr(nonlinearity)},
                                      f"Use one of {', '.join(NONLINEARITIES)}."))
        self.bias, self.nonlinearity, H = bool(bias), nonlinearity, hidden_size
        self.add(dtype, rng, weight_ih=(H, input_size), weight_hh=(H, H), bias_ih=bias and (H,), bias_hh=bias and (H,))

    def __call__(self, h, x):
        self.check(h, x)
        z = x @ self.weight_ih.T + (self.bias_ih + self.bias_hh) + h @ self.weight_hh.T
        h = NONLINEARITIES[self.nonlinearity](z)
        return h, h


class LSTMCell(Cell):
    """Long short-term memory with a forget gate; the state is (h, c) and y = h'.

        i, f, g, o = the four parts of W_ih x + b_ih + W_hh h + b_hh
        c' = σ(f) c + σ(i) tanh(g);  h' = σ(o) tanh(c')

    `forget_bias`  the sum of the forget gate's biases at the start; None draws them like the others.
    `peephole`     the gates also see the cell: i + p_i c, f + p_f c, o + p_o c'.
    `proj_size`    P: h' = W_hr (σ(o) tanh(c')), of P columns; 0 for none.

    Shapes: x (…, I), h (…, H or P), c (…, H); weight_ih (4H, I), weight_hh (4H, H or P), bias_ih, bias_hh (4H,),
    weight_hr (P, H), peephole_i, peephole_f, peephole_o (H,).

    Raises: DomainError for sizes below 1; ArgumentError, ShapeError and DtypeError for a call that does not fit, also
    for arguments in PyTorch's order.

    Source: Hochreiter and Schmidhuber (1997); Gers et al. (2000), the forget gate, (2002), peepholes; Sak et al.
    (2014), the projection; parameters as torch.nn.LSTMCell.

    Example:
        >>> cell = tg.nn.LSTMCell(3, 5, forget_bias=1.0, rng=0)
        >>> (h, c), y = cell(cell.initial_state((2,)), np.zeros((2, 3)))
        >>> y.shape
        (2, 5)
    """

    shown = ("input_size", "hidden_size", "bias=True", "proj_size=0", "peephole=False")

    def __init__(self, input_size, hidden_size, bias=True, *, forget_bias=None, peephole=False, proj_size=0,
                 dtype=np.float64, rng=None):
        super().__init__(input_size, hidden_size)
        if proj_size:
            check_sizes("LSTMCell(…)", proj_size=proj_size)
        if proj_size >= hidden_size or forget_bias is not None and not bias:
            what = "a forget bias needs biases" if proj_size < hidden_size else "proj_size is not below hidden_size"
            facts = {"proj_size": proj_size, "hidden_size": hidden_size, "forget_bias": forget_bias, "bias": bias}
            raise DomainError(message("LSTMCell(…)", what, facts, "Change one of the two."))
        self.bias, self.proj_size, self.peephole = bool(bias), proj_size, bool(peephole)
        H, P = hidden_size, proj_size or hidden_size
        self.state_sizes = {"h": P, "c": H}
        peepholes = dict.fromkeys(("peephole_i", "peephole_f", "peephole_o"), peephole and (H,))
        self.add(dtype, rng, weight_ih=(4 * H, input_size), weight_hh=(4 * H, P), bias_ih=bias and (4 * H,),
                 bias_hh=bias and (4 * H,), weight_hr=proj_size and (P, H), **peepholes)
        if forget_bias is not None:
            for p, start in ((self.bias_ih, forget_bias), (self.bias_hh, 0.0)):
                p.data = np.concatenate([p.data[:H], np.full(H, start), p.data[2 * H:]])

    def __call__(self, state, x):
        self.check(state, x)
        h, c = state
        i, f, g, o = split(x @ self.weight_ih.T + (self.bias_ih + self.bias_hh) + h @ self.weight_hh.T, 4, -1)
        if self.peephole:
            i, f = i + self.peephole_i * c, f + self.peephole_f * c
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        if self.peephole:
            o = o + self.peephole_o * c
        h = sigmoid(o) * tanh(c)
        if self.proj_size:
            h = h @ self.weight_hr.T
        return (h, c), h


class GRUCell(Cell):
    """Gated recurrent unit; y = h'.

        r = σ(W_ir x + b_ir + W_hr h + b_hr);  z = σ(W_iz x + b_iz + W_hz h + b_hz)
        n = tanh(W_in x + b_in + r (W_hn h + b_hn));  h' = (1 − z) n + z h

    With `reset_after=False` the reset gate acts before the product, n = tanh(W_in x + b_in + W_hn (r h) + b_hn).

    Shapes: x (…, I), h (…, H); weight_ih (3H, I), weight_hh (3H, H), bias_ih, bias_hh (3H,), in the order r, z, n.

    Raises: DomainError for sizes below 1; ArgumentError, ShapeError and DtypeError for a call that does not fit, also
    for arguments in PyTorch's order.

    Source: Cho et al., "Learning phrase representations using RNN encoder-decoder" (2014), reset before;
    torch.nn.GRUCell, reset after. Cho's z is 1 − z here.

    Example:
        >>> cell = tg.nn.GRUCell(3, 5, rng=0)
        >>> h, y = cell(cell.initial_state(), np.zeros(3))
        >>> y.shape
        (5,)
    """

    shown = ("input_size", "hidden_size", "bias=True", "reset_after=True")

    def __init__(self, input_size, hidden_size, bias=True, *, reset_after=True, dtype=np.float64, rng=None):
        super().__init__(input_size, hidden_size)
        self.bias, self.reset_after, H = bool(bias), bool(reset_after), hidden_size
        self.add(dtype, rng, weight_ih=(3 * H, input_size), weight_hh=(3 * H, H), bias_ih=bias and (3 * H,),
                 bias_hh=bias and (3 * H,))

    def __call__(self, h, x):
        self.check(h, x)
        H = self.hidden_size
        if self.reset_after:
            xr, xz, xn = split(x @ self.weight_ih.T + self.bias_ih, 3, -1)
            hr, hz, hn = split(h @ self.weight_hh.T + self.bias_hh, 3, -1)
            r, z = sigmoid(xr + hr), sigmoid(xz + hz)
            n = tanh(xn + r * hn)
        else:
            a, xn = split(x @ self.weight_ih.T + (self.bias_ih + self.bias_hh), [2 * H], -1)
            r, z = split(sigmoid(a + h @ self.weight_hh[:2 * H].T), 2, -1)
            n = tanh(xn + (r * h) @ self.weight_hh[2 * H:].T)
        h = n + z * (h - n)
        return h, h
