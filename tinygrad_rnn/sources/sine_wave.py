"""Source 000, sine wave: a sigmoid network that reads 50 points of a sine and predicts the next one.

    X (N, T, 1) records × time      Y (N, O)      s_t (H, 1), a column for each record, s_{-1} = 0
    params   U (H, T)   W (H, H)   V (O, H); s0 (H, 1), one start for all records, if it is not zero

The input is masked: at step t the network sees m_t, which is zero but for x_t at entry t. So U m_t = U[:,t] x_t,
column t of U is used at step t and never again, while W and V are shared by all steps. There are no biases.

    a_t = U[:,t] x_t + W s_{t-1}      s_t = σ(a_t)      ŷ = V s_{T-1}      L = Σ_records ½ Σ_o (ŷ − y)²

By hand, with δ_t = ∂L/∂a_t and σ' = σ (1 − σ):

    e = ŷ − y                                          ∂L/∂V = e s_{T-1}ᵀ
    δ_{T-1} = (Vᵀe) ∘ s_{T-1} ∘ (1 − s_{T-1})          ∂L/∂U[:,t] = δ_t x_t
    δ_{t-1} = (Wᵀδ_t) ∘ s_{t-1} ∘ (1 − s_{t-1})        ∂L/∂W = Σ_t δ_t s_{t-1}ᵀ
    ∂L/∂s_{-1} = Wᵀδ_0                                 ∂L/∂x_t = U[:,t]ᵀδ_t

Truncated after k: k is the number of products with Wᵀ that a gradient may cross, so k + 1 cells receive it.
That can mean three things, which differ in numbers (k ≥ T−1 is the full gradient in A and in B):

    A  last step        the sums above run over t = T−1 … T−1−k alone                        blocks (T, k+1)
    B  sliding window   an error at every step, each carried k steps back from where it is   blocks (1, k+1)
    C  chunks           in full inside blocks of c steps, nothing from one to the next       blocks (c, c)

Blocks (k1, k2): the steps are cut at 0, k1, 2 k1, …; the errors of the block that starts at b are carried back
as far as cell b − (k2 − k1). `truncate=k` is A, which is what the source means: its loss has only a last step.

The source's backward pass is none: it adds up W s and U x, forward values without an error in them. See ERRATA.

Knows the model, its derivation and its recipe. Refuses to know how the engine differentiates. Below it stand
the ops, `scan` and `gradients`.
"""

import numpy as np

from ..gradients import value_and_grad
from ..ops import broadcast_to, moveaxis, reshape, sigmoid, square, swapaxes
from ..ops import sum as total
from ..scan import scan
from .record import Erratum, Progress, norms


def init(seed=12161, hidden=100, steps=50, outputs=1, low=0.0, high=1.0):
    """Uniform weights, drawn in the source's order U, V, W.

    Its own range, 0 to 1, saturates 100 units at once: from step 2 on every state is exactly 1.0 and the true
    gradients of U and W are exactly 0. `low=-1/√H, high=1/√H` is a start that learns.

    Example:
        >>> {name: value.shape for name, value in tg.sources.sine_wave.init().items()}
        {'U': (100, 50), 'V': (1, 100), 'W': (100, 100)}
    """
    draw = np.random.RandomState(seed).uniform
    shapes = {"U": (hidden, steps), "V": (outputs, hidden), "W": (hidden, hidden)}
    return {name: draw(low, high, shape) for name, shape in shapes.items()}


def data(part="training"):
    """Windows of 50 points of sin 0, sin 1, … sin 199 and the point after each: 0–99 to train on, 100–149 to validate.

    Shapes: X (100, 50, 1) and Y (100, 1), or 50 of each.

    Example:
        >>> X, Y = tg.sources.sine_wave.data("validation")
        >>> bool(X[0, 1, 0] == Y[0, 0] == np.sin(150.0)), X.shape
        (False, (50, 50, 1))
    """
    wave = np.sin(np.arange(200.0))
    starts = {"training": np.arange(100), "validation": np.arange(100, 150)}[part]
    return wave[starts[:, None] + np.arange(50)][:, :, None], wave[starts + 50][:, None]


def example(seed=0, outputs=2):
    """A point for checking gradients: three records of six steps, four units, two outputs, a start that is not zero."""
    params = init(seed, 4, 6, outputs, -1.0, 1.0)
    draw = np.random.RandomState(seed + 1).randn
    return {**params, "s0": draw(4, 1)}, (draw(3, 6, 1), draw(3, outputs))


# ── the model in ops ────────────────────────────────────────────────────────────────────────────────────


def predict(params, X, truncate=None):
    """The output after the last step, ŷ, a column for each record.

    Shapes: X (N, T, 1) -> (O, N).
    """
    s, _ = _run(params, X, _cell(params["W"]), None if truncate is None else (X.shape[1], truncate + 1))
    return params["V"] @ s


def loss(params, X, Y, truncate=None):
    """Half the squared error of the prediction, summed over outputs and records.

    Shapes: X (N, T, 1), Y (N, O); params U (H, T), W (H, H), V (O, H), s0 (H, 1) if given.

    Gradient: `truncate=k` lets it cross k transitions of the recurrence and no more; the value stays as it is.

    Example:
        >>> sine = tg.sources.sine_wave
        >>> round(float(sine.loss(sine.init(), *sine.data("validation"))), 6)
        66107.731796
    """
    return 0.5 * total(square(predict(params, X, truncate) - Y.T))


def loss_every_step(params, X, Y, blocks=None):
    """The same network with an output and a target at every step: where schemes A, B and C part.

    Shapes: X (N, T, 1), Y (N, T, O); params as in `loss`.

    Gradient: `blocks=(k1, k2)` truncates it, the value stays as it is.
    """
    _, states = _run(params, X, _cell(params["W"]), blocks)
    return 0.5 * total(square(params["V"] @ states - moveaxis(Y, 0, 2)))


def loss_as_written(params, X, Y):
    """The loss under the source's layer, which multiplies the state by V where W belongs.

    With one output V s is (1, 1) and broadcasts over all units in silence; W is never used, so its gradient
    under this forward pass is exactly 0. Shapes: as in `loss`, with O = 1.
    """
    s, _ = _run(params, X, _cell(params["V"]), None)
    return 0.5 * total(square(params["V"] @ s - Y.T))


def _cell(W):
    def cell(s, at):
        u, x = at
        s = sigmoid(u * x + W @ s)
        return s, s

    return cell


def _run(params, X, cell, blocks):
    (N, T), (H, _) = X.shape[:2], params["U"].shape
    s0 = params["s0"] if "s0" in params else np.zeros((H, 1), params["U"].dtype)
    columns = reshape(params["U"].T, (T, H, 1)), reshape(swapaxes(X, 0, 1), (T, 1, N))
    return scan(cell, broadcast_to(s0, (H, N)), columns, truncate=blocks)


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────


def bptt(params, X, Y, truncate=None):
    """Loss and gradients, derived by hand; `truncate=k` is scheme A.

    Shapes: the gradients are shaped as U, V, W, X (under "x") and s0 (H, 1).
    """
    s = _states(params, X)
    e = params["V"] @ s[-1] - Y.T
    return 0.5 * np.sum(e**2), _back(params, X, s, e, truncate)


def _back(params, X, s, e, truncate=None):
    U, V, W = params["U"], params["V"], params["W"]
    x, T = X[:, :, 0], X.shape[1]
    dU, dV, dW, dx = np.zeros_like(U), e @ s[T].T, np.zeros_like(W), np.zeros(X.shape)
    first = 0 if truncate is None else max(0, T - 1 - truncate)
    ds = V.T @ e
    for t in reversed(range(first, T)):
        delta = ds * s[t + 1] * (1 - s[t + 1])
        dU[:, t] = delta @ x[:, t]
        dW += delta @ s[t].T
        dx[:, t, 0] = U[:, t] @ delta
        ds = W.T @ delta
    return {"U": dU, "V": dV, "W": dW, "x": dx, "s0": ds.sum(axis=1, keepdims=True) * (first == 0)}


def bptt_every_step(params, X, Y, blocks=None):
    """Loss and gradients of `loss_every_step`, derived by hand; `blocks=(k1, k2)` as at the top of this page.

    Shapes: the gradients are shaped as U, V, W, X (under "x") and s0 (H, 1).
    """
    U, V, W = params["U"], params["V"], params["W"]
    s, x, T = _states(params, X), X[:, :, 0], X.shape[1]
    e = [V @ s[t + 1] - Y[:, t].T for t in range(T)]
    dU, dW, dx, ds0 = np.zeros_like(U), np.zeros_like(W), np.zeros(X.shape), np.zeros_like(s[0])
    dV = sum(e[t] @ s[t + 1].T for t in range(T))

    k1, k2 = blocks or (T, T)
    for b in range(0, T, k1):
        first, ds = max(0, b - (k2 - k1)), 0.0
        for t in reversed(range(first, min(b + k1, T))):
            ds = ds + V.T @ e[t] if t >= b else ds
            delta = ds * s[t + 1] * (1 - s[t + 1])
            dU[:, t] += delta @ x[:, t]
            dW += delta @ s[t].T
            dx[:, t, 0] += U[:, t] @ delta
            ds = W.T @ delta
        ds0 += ds * (first == 0)
    value = 0.5 * sum(np.sum(e[t] ** 2) for t in range(T))
    return value, {"U": dU, "V": dV, "W": dW, "x": dx, "s0": ds0.sum(axis=1, keepdims=True)}


def bptt_as_written(params, X, Y, reach=5, clip=10.0):
    """What the source calls backward: sums of U m_t and W s_{t-1}, which hold no error.

    At step t both are added min(t, reach) times to totals that are never reset, the totals are added to dU and dW,
    (H, 1) into every column, and all three gradients are clipped before the next step. dV adds e s_tᵀ of every
    step, though only the last one has an output. Records are clipped apart and added up here.
    """
    U, V, W = params["U"], params["V"], params["W"]
    s, x, (N, T) = _states(params, X), X[:, :, 0], X.shape[:2]
    e = V @ s[T] - Y.T
    u_total, w_total = np.zeros_like(s[0]), np.zeros_like(s[0])
    u, w, dV = np.zeros_like(s[0]), np.zeros_like(s[0]), np.zeros((N, *V.shape))
    for t in range(T):
        u_total += min(t, reach) * U[:, t : t + 1] * x[:, t]
        w_total += min(t, reach) * (W @ s[t])
        u, w = np.clip(u + u_total, -clip, clip), np.clip(w + w_total, -clip, clip)
        dV = np.clip(dV + e.T[:, :, None] * s[t + 1].T[:, None, :], -clip, clip)
    dU, dW = (np.repeat(columns.sum(axis=1, keepdims=True), n, axis=1) for columns, n in ((u, T), (w, len(W))))
    return 0.5 * np.sum(e**2), {"U": dU, "V": dV.sum(axis=0), "W": dW}


def bptt_cost_as_written(params, X, Y):
    """Loss and gradients when y (O,) minus ŷ (O, 1) is taken at its word: an (O, O) of all pairs.

    Each output is drawn to every target, so O ŷ_o − Σ_j y_j stands where ŷ_o − y_o belongs. With O = 1 it is right.
    """
    s = _states(params, X)
    pairs = (params["V"] @ s[-1]).T[:, :, None] - Y[:, None, :]
    return 0.5 * np.sum(pairs**2), _back(params, X, s, pairs.sum(axis=2).T)


def _states(params, X):
    """s_{-1} … s_{T-1}, a column for each record: entry t is the state before step t."""
    U, W, (N, T) = params["U"], params["W"], X.shape[:2]
    s = [np.repeat(params["s0"], N, axis=1) if "s0" in params else np.zeros((len(W), N))]
    for t in range(T):
        s.append(1 / (1 + np.exp(-(U[:, t : t + 1] * X[:, t, 0] + W @ s[t]))))
    return s


# ── recipe ──────────────────────────────────────────────────────────────────────────────────────────────


def train(params=None, *, seed=0, hidden=16, epochs=25, rate=0.05, truncate=5, clip=10.0, gradient=None):
    """The source's complete system, corrected: one record after another, each gradient clipped, then one update.

    Yields `Progress`; figures: validation, the summed loss there, and rmse. `gradient(params, X, Y) -> (loss,
    grads)` is the engine's unless given: `gradient=bptt_as_written` trains as the source does. The source's own
    start and rate are `train(init(), rate=1e-4)`.
    """
    params = dict(params or init(seed, hidden, low=-(hidden**-0.5), high=hidden**-0.5))
    gradient = gradient or value_and_grad(lambda p, x, y: loss(p, x, y, truncate))
    (X, Y), validation = data(), data("validation")
    for epoch in range(epochs + 1):
        value, grads = bptt(params, X, Y, truncate)
        error = float(bptt(params, *validation)[0])
        figures = {"validation": error, "rmse": (2 * error / validation[1].size) ** 0.5}
        yield Progress(epoch, float(value), norms(grads, params), params, figures)
        for i in range(len(X)):
            _, grads = gradient(params, X[i : i + 1], Y[i : i + 1])
            params = {name: value - rate * np.clip(grads[name], -clip, clip) for name, value in params.items()}


ERRATA = (
    Erratum(
        "The layer's forward pass multiplies the previous state by V where W belongs. With one output V s is (1,1) and "
        "broadcasts in silence, so under that forward the gradient of W is exactly 0, while the loss function uses W.",
        wrong={"U": 1.0853, "V": 0.3751, "W": 1.0, "s0": 0.9995},
        at="example(0, outputs=1): 3 records, 6 steps, 4 units, 1 output",
        point=lambda: example(0, 1),
        as_written=value_and_grad(loss_as_written),
        corrected=bptt,
    ),
    Erratum(
        "The prose says learning rate 0.001, every sequence and a mean squared error. The code says 0.0001, bptt 5, "
        "and its error is half a sum."
    ),
    Erratum("float() of a (1,1) array, by which the loss is printed, is a TypeError in NumPy 2."),
    Erratum(
        "y (O,) minus ŷ (O,1) broadcasts to (O,O): with more than one output every prediction is compared with every "
        "target. With one output it is right.",
        wrong={"U": 0.7289, "V": 1.0142, "W": 0.6441, "x": 1.0574, "s0": 0.2524},
        at="example(0): 3 records, 6 steps, 4 units, 2 outputs",
        point=example,
        as_written=bptt_cost_as_written,
        corrected=bptt,
    ),
    Erratum(
        "The backward pass of the complete system adds W s_{t-1} to dW and U m_t to dU: forward values without an "
        "error in them, summed cumulatively and clipped inside the loop over time. Turn the error e into −3e and dU "
        "and dW stay as they are, so they are gradients in no sense. dV adds e s_tᵀ over all steps, not the last one.",
        wrong={"U": 109.5521, "V": 4.8574, "W": 239.4695},
        at="example(0): 3 records, 6 steps, 4 units, 2 outputs",
        point=example,
        as_written=bptt_as_written,
        corrected=bptt,
    ),
    Erratum(
        "The predictions that are plotted are made with unmasked inputs, U x at every step in place of U m_t, and of "
        "windows other than those the validation loss is taken of."
    ),
    Erratum(
        "Weights between 0 and 1 and 100 units make every state from step 2 on exactly 1.0: the true gradients of U "
        "and W are exactly 0 there, and a check of gradients at the source's own start shows nothing."
    ),
)
