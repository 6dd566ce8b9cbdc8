"""Source 002, elman: a tanh network with an output at every step, time first, states as columns.

    x (T, B, I)      target y (T, B, O)      h_t (H, B), h_0 = 0      y_t (O, B)
    params   Whx (H, I)   Whh (H, H)   Wyh (O, H)   bh (H, 1)   by (O, 1); h0 (H, B), if the start is not zero

    h_t = tanh(Whh h_{t-1} + Whx x_tᵀ + bh)      y_t = Wyh h_t + by      L = ½ Σ_{t,b,o} (y_t − target_t)²

By hand, with δ_t = ∂L/∂(pre-activation of h_t) and tanh' = 1 − tanh²:

    dy_t = y_t − target_t
    δ_t = (1 − h_t²) ∘ (Wyhᵀ dy_t + Whhᵀ δ_{t+1})        the error of this step, and what the next one hands back
    ∂L/∂Wyh = Σ_t dy_t h_tᵀ      ∂L/∂by = Σ_t Σ_b dy_t
    ∂L/∂Whh = Σ_t δ_t h_{t-1}ᵀ   ∂L/∂Whx = Σ_t δ_t x_t   ∂L/∂bh = Σ_t Σ_b δ_t
    ∂L/∂x_t = (Whxᵀ δ_t)ᵀ        ∂L/∂h_0 = Whhᵀ δ_1

The source keeps its states in a list that starts with h_0, so entry t, counted from 0, is the state *before*
step t. Its backward pass reads it as the state after. Everything but by is wrong; see `bptt_as_written`.

The source has neither loss nor data nor training: the loss above, the sines and the recipe are ours.

Knows the model, its derivation and its recipe. Refuses to know how the engine differentiates. Below it stand
the ops, `scan` and `gradients`.
"""

import numpy as np

from ..gradients import value_and_grad
from ..ops import square, swapaxes, tanh
from ..ops import sum as total
from ..scan import scan
from .record import Erratum, Progress, norms


def init(seed=0, inputs=1, hidden=16, outputs=1):
    """The source's start: normal matrices over √H, drawn in the order Whx, Whh, Wyh; biases zero.

    Example:
        >>> {name: value.shape for name, value in tg.sources.elman.init().items()}
        {'Whx': (16, 1), 'Whh': (16, 16), 'Wyh': (1, 16), 'bh': (16, 1), 'by': (1, 1)}
    """
    draw = np.random.RandomState(seed).randn
    shapes = {"Whx": (hidden, inputs), "Whh": (hidden, hidden), "Wyh": (outputs, hidden)}
    matrices = {name: draw(*shape) / np.sqrt(hidden) for name, shape in shapes.items()}
    return {**matrices, "bh": np.zeros((hidden, 1)), "by": np.zeros((outputs, 1))}


def data(steps=25, batch=8):
    """Sines that start at different phases; the target is the next point.

    Shapes: x (steps, batch, 1), y (steps, batch, 1).

    Example:
        >>> x, y = tg.sources.elman.data()
        >>> bool((x[1:] == y[:-1]).all())
        True
    """
    phases = 2 * np.pi * np.arange(batch) / batch
    wave = np.sin(0.5 * np.arange(steps + 1)[:, None] + phases)[:, :, None]
    return wave[:-1], wave[1:]


def example(seed=0):
    """A point for checking gradients: T 5, B 3, I 2, H 4, O 2, biases and a start that are not zero."""
    params = init(seed, 2, 4, 2)
    draw = np.random.RandomState(seed + 1).randn
    extra = {"bh": draw(4, 1), "by": draw(2, 1), "h0": draw(4, 3)}
    return {**params, **extra}, (draw(5, 3, 2), draw(5, 3, 2))


def stated_point():
    """The point at which the errata are measured: the source's start at seed 0, data drawn at seed 1, h_0 = 0.

    Example:
        >>> params, data = tg.sources.elman.stated_point()
        >>> round(float(tg.sources.elman.loss(params, *data)), 12)
        22.512532305123
    """
    draw = np.random.RandomState(1).randn
    return init(0, 2, 4, 2), (draw(5, 3, 2), draw(5, 3, 2))


# ── the model in ops ────────────────────────────────────────────────────────────────────────────────────


def forward(params, x):
    """The last state and the outputs of every step.

    Shapes: x (T, B, I) -> h (H, B), y (T, O, B).
    """
    Whx, Whh, Wyh, bh, by = (params[name] for name in ("Whx", "Whh", "Wyh", "bh", "by"))

    def cell(h, x):
        h = tanh(Whh @ h + Whx @ x.T + bh)
        y = Wyh @ h + by
        return h, y

    h0 = params["h0"] if "h0" in params else np.zeros((Whh.shape[0], x.shape[1]), Whh.dtype)
    return scan(cell, h0, x)


def loss(params, x, y):
    """Half the squared error, summed over steps, batch and outputs.

    Shapes: x (T, B, I), y (T, B, O); params as at the top of this page, h0 (H, B) if given.
    """
    _, outputs = forward(params, x)
    return 0.5 * total(square(outputs - swapaxes(y, 1, 2)))


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────


def bptt(params, x, y):
    """Loss and gradients, derived by hand.

    Shapes: the gradients are shaped as the parameters, x (T, B, I) and h0 (H, B).
    """
    Whx, Whh, Wyh, bh, by = (params[name] for name in ("Whx", "Whh", "Wyh", "bh", "by"))
    T = len(x)
    h = _states(params, x)
    dy = [Wyh @ h[t + 1] + by - y[t].T for t in range(T)]
    d = {name: np.zeros_like(params[name]) for name in ("Whx", "Whh", "Wyh", "bh", "by")} | {"x": np.zeros(x.shape)}
    dh = np.zeros_like(h[0])
    for t in reversed(range(T)):
        delta = (1 - h[t + 1] ** 2) * (Wyh.T @ dy[t] + dh)
        d["Wyh"] += dy[t] @ h[t + 1].T
        d["by"] += dy[t].sum(axis=1, keepdims=True)
        d["Whh"] += delta @ h[t].T
        d["Whx"] += delta @ x[t]
        d["bh"] += delta.sum(axis=1, keepdims=True)
        d["x"][t] = (Whx.T @ delta).T
        dh = Whh.T @ delta
    return 0.5 * sum(np.sum(e**2) for e in dy), d | {"h0": dh}


def bptt_as_written(params, x, y):
    """The source's backward pass: entry t of the list of states is taken for the state after step t.

    It is the state before step t. So dWyh multiplies with h_{t-1}, tanh' is taken of h_{t-1} (and what is handed
    back to the step before inherits that), and dWhh multiplies with h_{t-2}, which at the first step is entry −1
    of a Python list: the very last state.
    """
    Whx, Whh, Wyh, bh, by = (params[name] for name in ("Whx", "Whh", "Wyh", "bh", "by"))
    T = len(x)
    h = _states(params, x)
    dy = [Wyh @ h[t + 1] + by - y[t].T for t in range(T)]
    d = {name: np.zeros_like(params[name]) for name in ("Whx", "Whh", "Wyh", "bh", "by")} | {"x": np.zeros(x.shape)}
    dh = np.zeros_like(h[0])
    for t in reversed(range(T)):
        delta = (1 - h[t] ** 2) * (Wyh.T @ dy[t] + dh)
        d["Wyh"] += dy[t] @ h[t].T
        d["by"] += dy[t].sum(axis=1, keepdims=True)
        d["Whh"] += delta @ h[t - 1].T
        d["Whx"] += delta @ x[t]
        d["bh"] += delta.sum(axis=1, keepdims=True)
        d["x"][t] = (Whx.T @ delta).T
        dh = Whh.T @ delta
    return 0.5 * sum(np.sum(e**2) for e in dy), d | {"h0": dh}


def _states(params, x):
    """h_0 … h_T: entry t is the state before step t, counted from 0; T + 1 entries."""
    Whx, Whh, bh = params["Whx"], params["Whh"], params["bh"]
    h = [params["h0"] if "h0" in params else np.zeros((len(Whh), x.shape[1]))]
    for t in range(len(x)):
        h.append(np.tanh(Whh @ h[t] + Whx @ x[t].T + bh))
    return h


# ── recipe ──────────────────────────────────────────────────────────────────────────────────────────────


def train(params=None, *, seed=0, hidden=16, epochs=200, rate=0.003, gradient=None):
    """Gradient descent on all sines at once, without clipping.

    Yields `Progress`; figures: rmse from the third step on (one point does not tell where on a sine it lies).
    `gradient(params, x, y) -> (loss, grads)` is the engine's unless given: `gradient=bptt_as_written` diverges.
    """
    params = dict(params or init(seed, hidden=hidden))
    gradient, (x, y) = gradient or value_and_grad(loss), data()
    for epoch in range(epochs + 1):
        value, grads = gradient(params, x, y)
        outputs = params["Wyh"] @ np.array(_states(params, x)[3:]) + params["by"]
        rmse = float(np.sqrt(np.mean((outputs - y[2:].swapaxes(1, 2)) ** 2)))
        yield Progress(epoch, float(value), norms(grads, params), params, {"rmse": rmse})
        params = {name: value - rate * np.asarray(grads[name]) for name, value in params.items()}


ERRATA = (
    Erratum(
        "The list of states starts with h_0, so its entry t is the state before step t, and the backward pass reads it "
        "as the state after: dWyh multiplies with h_{t-1}; tanh' is taken of h_{t-1}, which spoils dbh, dWhx and all "
        "that is handed back in time; dWhh multiplies with h_{t-2}, which wraps to the last state at the first step.",
        wrong={"Whx": 0.8839, "Whh": 1.2945, "Wyh": 0.8450, "bh": 1.1210},
        right=("by",),
        at="the source's start at seed 0 with T 5, B 3, I 2, H 4, O 2 and data drawn at seed 1",
        point=stated_point,
        as_written=bptt_as_written,
        corrected=bptt,
    ),
    Erratum("The source defines no loss, has no data and never trains: its gradients are never put to a test."),
)
