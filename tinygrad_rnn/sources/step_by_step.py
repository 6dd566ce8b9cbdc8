"""Source 004, step by step: a tanh network with a softmax at every step, time last, states as columns.

    x (n_x, m, T)      y (n_y, m, T) one-hot      a_t (n_a, m)
    params   W_ax (n_a, n_x)   W_aa (n_a, n_a)   W_ya (n_y, n_a)   b_a (n_a, 1)   b_y (n_y, 1)   a0 (n_a, m)

    a_t = tanh(W_ax x_t + W_aa a_{t-1} + b_a)      q_t = W_ya a_t + b_y      ŷ_t = softmax over classes (q_t)
    L = −Σ_t Σ_batch Σ_classes y_t log ŷ_t

By hand. The backward pass takes any upstream da (n_a, m, T), which enters at every step, and hands something back:

    dz_t = (1 − a_t²) ∘ (da_t + W_aaᵀ dz_{t+1})
    ∂L/∂W_aa = Σ_t dz_t a_{t-1}ᵀ      ∂L/∂W_ax = Σ_t dz_t x_tᵀ      ∂L/∂b_a = Σ_t Σ_batch dz_t
    ∂L/∂x_t = W_axᵀ dz_t              ∂L/∂a_0 = W_aaᵀ dz_1

and the loss above gives it its da, with the two gradients of the output layer on the way:

    dq_t = ŷ_t − y_t      ∂L/∂W_ya = Σ_t dq_t a_tᵀ      ∂L/∂b_y = Σ_t Σ_batch dq_t      da_t = W_yaᵀ dq_t

(ŷ − y holds because each y_t sums to 1.) In the source the cell returns W_aa itself for dW_aa, and nobody derives
the output layer: the text takes da "from the previous epoch", where it belongs to the same pass. It has no data, no
start and no training: the word to be continued and the recipe are ours.

Knows the model, its derivation and its recipe. Refuses to know how the engine differentiates. Below it stand
the ops, `scan` and `gradients`.
"""

import numpy as np

from ..gradients import value_and_grad
from ..ops import log_softmax, moveaxis, tanh
from ..ops import sum as total
from ..scan import scan
from .record import Erratum, Progress, norms

WORD = "hello "
SYMBOLS = tuple(sorted(set(WORD)))
N_LETTERS, N_SYMBOLS = len(WORD), len(SYMBOLS)


def init(seed=0, n_x=N_SYMBOLS, n_a=16, n_y=N_SYMBOLS, m=N_LETTERS):
    """Normal matrices over √(columns), drawn in the order W_ax, W_aa, W_ya; biases and a0 zero.

    Example:
        >>> list(tg.sources.step_by_step.init())
        ['W_ax', 'W_aa', 'W_ya', 'b_a', 'b_y', 'a0']
    """
    draw = np.random.RandomState(seed).randn
    shapes = {"W_ax": (n_a, n_x), "W_aa": (n_a, n_a), "W_ya": (n_y, n_a)}
    matrices = {name: draw(*shape) / np.sqrt(shape[1]) for name, shape in shapes.items()}
    return {**matrices, "b_a": np.zeros((n_a, 1)), "b_y": np.zeros((n_y, 1)), "a0": np.zeros((n_a, m))}


def data(steps=18):
    """ "hello hello hello " from each of its letters on, one-hot; the target is the next letter.

    What follows an l depends on what came before it, so one step of memory is needed.

    Shapes: x (5, 6, steps), y (5, 6, steps).

    Example:
        >>> x, y = tg.sources.step_by_step.data()
        >>> bool((x[:, :, 1:] == y[:, :, :-1]).all())
        True
    """
    places = (np.arange(N_LETTERS)[:, None] + np.arange(steps + 1)) % N_LETTERS
    symbols = np.array([SYMBOLS.index(letter) for letter in WORD])[places]
    text = np.eye(N_SYMBOLS)[symbols].transpose(2, 0, 1)
    return text[:, :, :-1], text[:, :, 1:]


def example(seed=0):
    """A point for checking gradients: n_x 2, n_a 4, n_y 3, m 3, T 5, biases and a start that are not zero."""
    params = init(seed, 2, 4, 3, 3)
    draw = np.random.RandomState(seed + 1)
    extra = {"b_a": draw.randn(4, 1), "b_y": draw.randn(3, 1), "a0": draw.randn(4, 3)}
    return {**params, **extra}, (draw.randn(2, 3, 5), np.eye(3)[draw.randint(0, 3, (3, 5))].transpose(2, 0, 1))


# ── the model in ops ────────────────────────────────────────────────────────────────────────────────────


def forward(params, x):
    """The last state, and log ŷ of every step with time first.

    Shapes: x (n_x, m, T) -> a (n_a, m), log ŷ (T, n_y, m).
    """
    W_ax, W_aa, W_ya, b_a, b_y = (params[name] for name in ("W_ax", "W_aa", "W_ya", "b_a", "b_y"))

    def cell(a, x):
        a = tanh(W_ax @ x + W_aa @ a + b_a)
        q = W_ya @ a + b_y
        return a, log_softmax(q, axis=0)

    a0 = params["a0"] if "a0" in params else np.zeros((W_aa.shape[0], x.shape[1]), W_aa.dtype)
    return scan(cell, a0, moveaxis(x, 2, 0))


def loss(params, x, y):
    """Cross-entropy, summed over steps and batch.

    Shapes: x (n_x, m, T), y (n_y, m, T) one-hot; params as at the top of this page, a0 is zero if not given.
    """
    _, log_p = forward(params, x)
    return -total(moveaxis(y, 2, 0) * log_p)


# ── by hand ─────────────────────────────────────────────────────────────────────────────────────────────


def softmax(q):
    """Softmax over the classes, from which the maximum of each column is taken away first.

    Shapes: q (n_y, m) -> (n_y, m).

    Example:
        >>> tg.sources.step_by_step.softmax(np.array([[0.0, 1000.0], [1.0, 1000.0]]))
        array([[0.26894142, 0.5       ],
               [0.73105858, 0.5       ]])
    """
    e = np.exp(q - np.max(q, axis=0, keepdims=True))
    return e / e.sum(axis=0, keepdims=True)


def softmax_as_written(q):
    """The source's softmax takes away the maximum of the whole matrix: a column far below it becomes 0/0, NaN.

    Shapes: q (n_y, m) -> (n_y, m).

    Example:
        >>> tg.sources.step_by_step.softmax_as_written(np.array([[0.0, 1000.0], [1.0, 1000.0]]))
        array([[nan, 0.5],
               [nan, 0.5]])
    """
    e = np.exp(q - np.max(q))
    with np.errstate(invalid="ignore"):
        return e / e.sum(axis=0, keepdims=True)


def backward(params, x, da):
    """The gradients of W_ax, W_aa, b_a, x and a0 from any upstream gradient `da` of the states, derived by hand.

    Shapes: x (n_x, m, T), da (n_a, m, T).
    """
    a, grads = _states(params, x), _zeros(params, x)
    carried = np.zeros_like(a[0])
    for t in reversed(range(x.shape[2])):
        dz = (1 - a[t + 1] ** 2) * (da[:, :, t] + carried)
        grads["W_aa"] += dz @ a[t].T
        grads["W_ax"] += dz @ x[:, :, t].T
        grads["b_a"] += dz.sum(axis=1, keepdims=True)
        grads["x"][:, :, t] = params["W_ax"].T @ dz
        carried = params["W_aa"].T @ dz
    return grads | {"a0": carried}


def backward_as_written(params, x, da):
    """The source's sweep: its cell returns W_aa in place of dW_aa, so the sum over time is T · W_aa.

    Shapes: as in `backward`, whose other gradients it shares.
    """
    return backward(params, x, da) | {"W_aa": x.shape[2] * params["W_aa"]}


def bptt(params, x, y):
    """Loss and gradients, derived by hand.

    Shapes: the gradients are shaped as the parameters, x (n_x, m, T) and a0 (n_a, m).
    """
    value, da, head = _head(params, x, y)
    return value, head | backward(params, x, da)


def bptt_as_written(params, x, y):
    """The source's sweep below an output layer and a loss that it lacks: those are ours, and right."""
    value, da, head = _head(params, x, y)
    return value, head | backward_as_written(params, x, da)


def _head(params, x, y):
    """Loss, its gradient with respect to every state, and the gradients of the output layer."""
    a, T = _states(params, x), x.shape[2]
    dW_ya, db_y = np.zeros_like(params["W_ya"]), np.zeros_like(params["b_y"])
    da, value = np.zeros((*a[0].shape, T)), 0.0
    for t in range(T):
        q = params["W_ya"] @ a[t + 1] + params["b_y"]
        shifted = q - np.max(q, axis=0, keepdims=True)
        value -= np.sum(y[:, :, t] * (shifted - np.log(np.exp(shifted).sum(axis=0, keepdims=True))))
        dq = softmax(q) - y[:, :, t]
        dW_ya += dq @ a[t + 1].T
        db_y += dq.sum(axis=1, keepdims=True)
        da[:, :, t] = params["W_ya"].T @ dq
    return value, da, {"W_ya": dW_ya, "b_y": db_y}


def _zeros(params, x):
    return {name: np.zeros_like(params[name]) for name in ("W_ax", "W_aa", "b_a")} | {"x": np.zeros(x.shape)}


def _states(params, x):
    """a_0 … a_T: entry t is the state before step t, counted from 0."""
    W_ax, W_aa, b_a = params["W_ax"], params["W_aa"], params["b_a"]
    a = [params["a0"] if "a0" in params else np.zeros((len(W_aa), x.shape[1]))]
    for t in range(x.shape[2]):
        a.append(np.tanh(W_ax @ x[:, :, t] + W_aa @ a[t] + b_a))
    return a


# ── recipe ──────────────────────────────────────────────────────────────────────────────────────────────


def train(params=None, *, seed=0, hidden=16, epochs=200, rate=0.01, gradient=None):
    """Gradient descent on all rotations of the word at once; a0 stays where it is.

    Yields `Progress`; figures: accuracy, the share of next letters that are right, the first of each line left out
    (what comes after an l is not known there). `gradient(params, x, y) -> (loss, grads)` is the engine's unless given.
    """
    params, (x, y) = dict(params or init(seed, n_a=hidden)), data()
    gradient, trained = gradient or value_and_grad(loss), [name for name in params if name != "a0"]
    for epoch in range(epochs + 1):
        value, grads = gradient(params, x, y)
        guess = np.argmax([params["W_ya"] @ a + params["b_y"] for a in _states(params, x)[2:]], axis=1)
        figures = {"accuracy": float(np.mean(guess.T == np.argmax(y[:, :, 1:], axis=0)))}
        yield Progress(epoch, float(value), norms(grads, params), params, figures)
        params = params | {name: params[name] - rate * np.asarray(grads[name]) for name in trained}


ERRATA = (
    Erratum(
        "The cell returns W_aa itself where dW_aa belongs, so the sum over time is T · W_aa. The other gradients of "
        "the sweep are exact.",
        wrong={"W_aa": 2.1501},
        right=("W_ax", "b_a", "x", "a0"),
        at="example(0): n_x 2, n_a 4, n_y 3, m 3, T 5",
        point=example,
        as_written=bptt_as_written,
        corrected=bptt,
    ),
    Erratum("The output layer and the loss are never differentiated: there are no gradients of W_ya and b_y."),
    Erratum(
        "The prose takes da from the previous epoch. It is the direct gradient of the loss with respect to a_t, of the "
        "same pass."
    ),
    Erratum("The source has no data, no start and no training."),
    Erratum(
        "The softmax takes away the maximum of the whole matrix: [[0, 1000], [1, 1000]] gives a column of NaN where "
        "the maximum of each column gives .2689414214 and .7310585786."
    ),
)
