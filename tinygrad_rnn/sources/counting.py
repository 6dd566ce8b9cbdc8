"""Source 001, counting: how many ones are in (1, 1, 0)? A recurrent network of two scalars.

    x (N, T) records × time        y (N,) the counts        s_t (N,), one state per record, s_0 = 0
    params   wx, wrec: two numbers; s0 (N,), if the start is not zero

    linear     s_t = x_t wx + s_{t-1} wrec                      for t = 1 … T
    logistic   s_t = σ(x_t wx + s_{t-1} wrec)                   for t = 1 … T−1, and s_T as in the linear one
    both       L = (1/N) Σ_i (s_{i,T} − y_i)²

By hand, with g_t = ∂L/∂(x_t wx + s_{t-1} wrec):

    g_T = (2/N) (s_T − y)
    g_{t-1} = g_t wrec                        linear
    g_{t-1} = g_t wrec s_{t-1} (1 − s_{t-1})  logistic, as σ' = σ (1 − σ)
    ∂L/∂wx = Σ_i Σ_t g_t x_t        ∂L/∂wrec = Σ_i Σ_t g_t s_{t-1}
    ∂L/∂x_t = g_t wx                ∂L/∂s_0 = g_1 wrec

Both derivations of the source are right. What is wrong is the cost that it prints for the linear network:
(3,1) minus (3,) broadcasts to (3,3), every prediction is compared with every count. Whoever differentiates
that cost, by hand or by machine, trains perfectly towards the wrong optimum.

Knows the two models, their derivation and their recipes. Refuses to know how the engine differentiates.
Below it stand the ops, `scan` and `gradients`.
"""

import numpy as np

from ..gradients import value_and_grad
from ..ops import mean, sigmoid, square
from ..scan import scan
from .record import Erratum, Progress, norms

START = {"wx": 0.2, "wrec": 1.5}
RATES = {"wx": 0.02, "wrec": 0.0006}


def init(seed=1234):
    """The start of the logistic network: two draws from the normal distribution. The linear one has `START`.

    Example:
        >>> tg.sources.counting.init()
        {'wx': 0.47143516373249306, 'wrec': -1.1909756947064645}
    """
    wx, wrec = np.random.RandomState(seed).randn(2)
    return {"wx": float(wx), "wrec": float(wrec)}


def data():
    """Three records of three bits, and how many ones each of them has.

    Shapes: x (3, 3), y (3,).

    Example:
        >>> tg.sources.counting.data()[1]
        array([1., 2., 3.])
    """
    return np.tril(np.ones((3, 3))), np.array([1.0, 2.0, 3.0])


def example(seed=0):
    """A point for checking gradients: four records of six real numbers, and a start that is not zero."""
    draw = np.random.RandomState(seed).randn
    return {"wx": float(draw()), "wrec": float(draw()), "s0": draw(4)}, (draw(4, 6), draw(4))


# ── the model in ops ────────────────────────────────────────────────────────────────────────────────────


def predict_linear(params, x):
    """The last state of the linear network.

    Shapes: x (N, T) -> (N,).

    Example:
        >>> tg.sources.counting.predict_linear(tg.sources.counting.START, tg.sources.counting.data()[0])
        array([0.45, 0.75, 0.95])
    """
    wx, wrec = params["wx"], params["wrec"]

    def cell(s, x):
        s = x * wx + s * wrec
        return s, None

    return scan(cell, _start(params, x), x.T)[0]


def predict_logistic(params, x):
    """The last state of the logistic network, whose last step is linear.

    Shapes: x (N, T) -> (N,).
    """
    wx, wrec = params["wx"], params["wrec"]

    def cell(s, x):
        s = sigmoid(x * wx + s * wrec)
        return s, None

    s, _ = scan(cell, _start(params, x), x.T[:-1])
    return x[:, -1] * wx + s * wrec


def loss_linear(params, x, y):
    """Mean squared error of the linear network.

    Shapes: x (N, T), y (N,); params wx and wrec numbers, s0 (N,) if given.

    Example:
        >>> round(float(tg.sources.counting.loss_linear(tg.sources.counting.START, *tg.sources.counting.data())), 4)
        2.0225
    """
    return mean(square(predict_linear(params, x) - y))


def loss_logistic(params, x, y):
    """Mean squared error of the logistic network.

    Shapes: x (N, T) with T ≥ 1, y (N,); params wx and wrec numbers, s0 (N,) if given.
    """
    return mean(square(predict_logistic(params, x) - y))


def loss_as_written(params, x, y):
    """The cost that the source reports for the linear network: (N, 1) minus (N,) is (N, N), and all of it is summed.

    Shapes: x (N, T), y (N,).

    Example:
        >>> round(float(tg.sources.counting.loss_as_written(tg.sources.counting.START, *tg.sources.counting.data())), 4)
        7.0675
    """
    s = predict_linear(params, x)
    return mean(square(s[:, None] - y)) * y.shape[0]


def _start(params, x):
    return params["s0"] if "s0" in params else np.zeros(x.shape[0])


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────


def bptt_linear(params, x, y):
    """Loss and gradients of the linear network, derived by hand.

    Shapes: gradients of wx and wrec are numbers, of x (N, T), of s0 (N,).
    """
    s = _states_linear(params, x)
    error = s[-1] - y
    return np.mean(error**2), _back_linear(params, x, s, 2 / len(y) * error)


def _states_linear(params, x):
    """s_0 … s_T: entry t is the state before step t."""
    s = [_start(params, x)]
    for t in range(x.shape[1]):
        s.append(x[:, t] * params["wx"] + s[t] * params["wrec"])
    return s


def _back_linear(params, x, s, g):
    dwx, dwrec, dx = 0.0, 0.0, np.zeros(x.shape)
    for t in reversed(range(x.shape[1])):
        dwx += g @ x[:, t]
        dwrec += g @ s[t]
        dx[:, t] = g * params["wx"]
        g = g * params["wrec"]
    return {"wx": dwx, "wrec": dwrec, "x": dx, "s0": g}


def bptt_logistic(params, x, y):
    """Loss and gradients of the logistic network, derived by hand.

    Shapes: gradients of wx and wrec are numbers, of x (N, T), of s0 (N,).
    """
    wx, wrec, T = params["wx"], params["wrec"], x.shape[1]
    s = [_start(params, x)]
    for t in range(T - 1):
        s.append(1 / (1 + np.exp(-(x[:, t] * wx + s[t] * wrec))))
    s.append(x[:, T - 1] * wx + s[T - 1] * wrec)
    error = s[T] - y

    g = 2 / len(y) * error
    dwx, dwrec, dx = 0.0, 0.0, np.zeros(x.shape)
    for t in reversed(range(T)):
        dwx += g @ x[:, t]
        dwrec += g @ s[t]
        dx[:, t] = g * wx
        g = g * wrec if t == 0 else g * wrec * s[t] * (1 - s[t])
    return np.mean(error**2), {"wx": dwx, "wrec": dwrec, "x": dx, "s0": g}


def bptt_as_written(params, x, y):
    """The cost that the source reports and its gradient: the mistake is in the cost alone.

    Each prediction is drawn to every count, g_T = (2/N) Σ_j (s_T − y_j), so N s_T − Σ_j y_j stands where
    s_T − y belongs.
    """
    s = _states_linear(params, x)
    error = s[-1][:, None] - y
    return np.sum(error**2) / len(y), _back_linear(params, x, s, 2 / len(y) * error.sum(axis=1))


# ── recipe ──────────────────────────────────────────────────────────────────────────────────────────────


def train_linear(params=None, *, epochs=50_000, rates=None, gradient=None):
    """Gradient descent on all records at once, with a learning rate of its own for each weight.

    Yields `Progress`. `gradient(params, x, y) -> (loss, grads)` is the engine's unless given:
    `gradient=bptt_linear` trains by hand, `gradient=bptt_as_written` to the wrong optimum.

    Example:
        >>> *_, last = tg.sources.counting.train_linear(epochs=3)
        >>> last.epoch
        3
    """
    gradient, rates = gradient or value_and_grad(loss_linear), rates or RATES
    yield from _descend(dict(params or START), epochs, rates, gradient)


def train_logistic(params=None, *, seed=1234, epochs=15_000, rate=0.001, gradient=None):
    """Gradient descent on all records at once, with one learning rate.

    Yields `Progress`. `gradient(params, x, y) -> (loss, grads)` is the engine's unless given.
    """
    rates = {"wx": rate, "wrec": rate}
    gradient = gradient or value_and_grad(loss_logistic)
    yield from _descend(dict(params or init(seed)), epochs, rates, gradient)


def _descend(params, epochs, rates, gradient):
    x, y = data()
    for epoch in range(epochs + 1):
        loss, grads = gradient(params, x, y)
        yield Progress(epoch, float(loss), norms(grads, params), params)
        params = {name: float(value - rates[name] * grads[name]) for name, value in params.items()}


ERRATA = (
    Erratum(
        "The cost printed for the linear network subtracts (3,1) from (3,) and sums the (3,3) that comes out of it: "
        "7.0675 in place of 2.0225 at the start and 4.0 in place of 0 at the solution. The gradients it trains with "
        "are those of the right cost; the gradient of the printed one is (−26.325, −5.54).",
        wrong={"wx": 1.5211, "wrec": 1.7980},
        at="the source's start wx = 0.2, wrec = 1.5 and its data",
        point=lambda: (dict(START), data()),
        as_written=bptt_as_written,
        corrected=bptt_linear,
    ),
    Erratum("The log printed for the linear network is that of a second run: its figures do not follow from its code."),
    Erratum(
        "The logistic network cannot represent the counts: its least loss is .0950359750, with outputs 1.37, 1.61 and "
        "3.02. The source rounds them before it prints them, and they read 1, 2, 3."
    ),
)
